//! What messages say, so that a wrong one is found out.
//!
//! Every payload begins with who sent it, its number, when it was to be sent, and a check over
//! these; the rest is a pattern that follows from its number. Payloads are stamped in place into a
//! few prepared buffers: sending copies nothing but what the engine copies to mask it. Never
//! trusts a byte that came back. The invariant: two different messages of a run differ.

use std::ops::Range;

/// What a payload carries besides its pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// When it was to be sent, in nanoseconds of the run's clock.
    pub(crate) at_ns: u64,
    /// The connection or publisher that sent it.
    pub(crate) from: u32,
    /// Its number among those of the sender, from 1.
    pub(crate) number: u32,
}

/// How a message that came back is not one that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wrong {
    /// Not as long as every message of the run.
    Length,
    /// The stamp does not match its check.
    Stamp,
    /// The pattern differs.
    Pattern,
    /// A message of another connection.
    Stranger,
}

impl Wrong {
    /// For reports; stable.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Length => "length",
            Self::Stamp => "stamp",
            Self::Pattern => "pattern",
            Self::Stranger => "of_another_connection",
        }
    }
}

/// The payloads of one thread, all of one size.
pub(crate) struct Content {
    variants: Vec<Vec<u8>>,
    form: Form,
}

/// How a stamp is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// In bytes, at the beginning.
    Bytes,
    /// In hexadecimal digits, within a JSON object.
    Json,
}

impl Content {
    /// For payloads of `size` bytes, at least [`SIZE_MIN`].
    pub(crate) fn new(size: usize) -> Self {
        debug_assert!(size >= SIZE_MIN);
        let byte = |at: usize, variant: usize| (at.wrapping_mul(31) ^ (at >> 8)) + variant * 67;
        let variant = |v| (0..size).map(|at| byte(at, v) as u8).collect();
        Self { variants: (0..VARIANTS).map(variant).collect(), form: Form::Bytes }
    }

    /// For payloads of `size` bytes, at least [`JSON_SIZE_MIN`], that are JSON objects.
    pub(crate) fn json(size: usize) -> Self {
        debug_assert!(size >= JSON_SIZE_MIN);
        let letter = |at: usize, variant: usize| b'a' + ((at * 7 + variant * 5) % 26) as u8;
        let variant = |v| {
            let mut payload: Vec<u8> = (0..size).map(|at| letter(at, v)).collect();
            payload[..JSON_HEAD.len()].copy_from_slice(JSON_HEAD);
            payload[size - JSON_TAIL.len()..].copy_from_slice(JSON_TAIL);
            payload
        };
        Self { variants: (0..VARIANTS).map(variant).collect(), form: Form::Json }
    }

    /// The payload with this stamp, valid until the next call.
    pub(crate) fn write(&mut self, stamp: Stamp) -> &[u8] {
        let mut bytes = [0; SIZE_MIN];
        bytes[..8].copy_from_slice(&stamp.at_ns.to_le_bytes());
        bytes[8..12].copy_from_slice(&stamp.from.to_le_bytes());
        bytes[12..16].copy_from_slice(&stamp.number.to_le_bytes());
        bytes[16..].copy_from_slice(&check(stamp).to_le_bytes());
        let payload = &mut self.variants[stamp.number as usize % VARIANTS];
        let place = &mut payload[self.form.place()];
        match self.form {
            Form::Bytes => place.copy_from_slice(&bytes),
            Form::Json => {
                for (pair, byte) in place.chunks_exact_mut(2).zip(bytes) {
                    pair[0] = DIGITS[usize::from(byte >> 4)];
                    pair[1] = DIGITS[usize::from(byte & 15)];
                }
            }
        }
        payload
    }

    /// The stamp of a payload that is whole and unchanged.
    pub(crate) fn read(&self, payload: &[u8]) -> Result<Stamp, Wrong> {
        if payload.len() != self.variants[0].len() {
            return Err(Wrong::Length);
        }
        let place = self.form.place();
        let mut bytes = [0; SIZE_MIN];
        match self.form {
            Form::Bytes => bytes.copy_from_slice(&payload[place.clone()]),
            Form::Json => {
                for (byte, pair) in bytes.iter_mut().zip(payload[place.clone()].chunks_exact(2)) {
                    let digits = digit(pair[0]).zip(digit(pair[1])).ok_or(Wrong::Stamp)?;
                    *byte = digits.0 << 4 | digits.1;
                }
            }
        }
        let stamp =
            Stamp { at_ns: u64_at(&bytes, 0), from: u32_at(&bytes, 8), number: u32_at(&bytes, 12) };
        if u32_at(&bytes, 16) != check(stamp) {
            return Err(Wrong::Stamp);
        }
        let written = &self.variants[stamp.number as usize % VARIANTS];
        if payload[..place.start] != written[..place.start]
            || payload[place.end..] != written[place.end..]
        {
            return Err(Wrong::Pattern);
        }
        Ok(stamp)
    }
}

impl Form {
    /// Of the stamp.
    fn place(self) -> Range<usize> {
        match self {
            Self::Bytes => 0..SIZE_MIN,
            Self::Json => JSON_HEAD.len()..JSON_HEAD.len() + 2 * SIZE_MIN,
        }
    }
}

/// The value of a digit as they are written here: lower case only.
fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// Mixes the stamp (the finaliser of SplitMix64): a changed bit changes half of the check.
fn check(stamp: Stamp) -> u32 {
    let name = u64::from(stamp.from) << 32 | u64::from(stamp.number);
    let mut mixed = stamp.at_ns ^ name.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ mixed >> 31) as u32
}

/// The smallest payload: a stamp (8 + 4 + 4 bytes) and its check.
pub(crate) const SIZE_MIN: usize = 20;

/// The smallest payload that is a JSON object.
pub(crate) const JSON_SIZE_MIN: usize = JSON_HEAD.len() + 2 * SIZE_MIN + JSON_TAIL.len();

const JSON_HEAD: &[u8] = br#"{"stamp":""#;
const JSON_TAIL: &[u8] = br#""}"#;
const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Patterns in turn, so that a message cannot stand for its neighbours.
const VARIANTS: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { at_ns: 0x0123_4567_89ab_cdef, from: 77, number: 5 };

    #[test]
    fn what_is_written_is_read() {
        for size in [SIZE_MIN, 21, 32, 4096] {
            let mut content = Content::new(size);
            let payload = content.write(STAMP).to_vec();
            assert_eq!(payload.len(), size);
            assert_eq!(content.read(&payload), Ok(STAMP));
        }
    }

    #[test]
    fn every_changed_bit_is_found() {
        let mut content = Content::new(40);
        let payload = content.write(STAMP).to_vec();
        for bit in 0..8 * payload.len() {
            let mut changed = payload.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let found = content.read(&changed);
            assert!(matches!(found, Err(Wrong::Stamp | Wrong::Pattern)), "bit {bit}: {found:?}");
        }
        assert_eq!(content.read(&payload[..39]), Err(Wrong::Length));
    }

    #[test]
    fn json_objects_carry_the_same() {
        for size in [JSON_SIZE_MIN, JSON_SIZE_MIN + 1, 100, 4096] {
            let mut content = Content::json(size);
            let payload = content.write(STAMP).to_vec();
            assert_eq!((payload.len(), content.read(&payload)), (size, Ok(STAMP)));
            let value: serde_json::Value = serde_json::from_slice(&payload).unwrap();
            assert_eq!(value["stamp"].as_str().unwrap().len(), size - 12);
        }
        let mut content = Content::json(60);
        let payload = content.write(STAMP).to_vec();
        for bit in 0..8 * payload.len() {
            let mut changed = payload.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let found = content.read(&changed);
            assert!(matches!(found, Err(Wrong::Stamp | Wrong::Pattern)), "bit {bit}: {found:?}");
        }
    }

    #[test]
    fn neighbours_have_different_patterns() {
        let mut content = Content::new(64);
        let one = content.write(STAMP).to_vec();
        let two = content.write(Stamp { number: 6, ..STAMP }).to_vec();
        assert_ne!(one[SIZE_MIN..], two[SIZE_MIN..]);
        let mixed = [&one[..SIZE_MIN], &two[SIZE_MIN..]].concat();
        assert_eq!(content.read(&mixed), Err(Wrong::Pattern));
    }
}
