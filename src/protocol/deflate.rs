//! Payloads of permessage-deflate (RFC 7692 section 7.2): one message in, one message out.
//!
//! Owns the compressor and the decompressor that all connections of a core share, what they cost
//! while they exist, and the bounds on what they write. Never knows a connection: each message
//! stands alone (no context takeover), so no state outlives a call. The invariant: what
//! [`Deflater`] writes, any inflater with the agreed window reads; what [`Inflater`] holds never
//! exceeds one message of the limit and one byte.

use zlib_rs::{Deflate, DeflateFlush, Inflate, InflateFlush, Status};

use super::extension::WINDOW_BITS_MAX;
use super::{Fault, Kind, utf8};

/// Compresses messages. One per core: made at the first message, freed by [`Deflater::release`].
pub struct Deflater {
    level: i32,
    /// A compressor for each window of 9 to 15 bits. Mostly only the last one is ever made.
    states: [Option<Box<Deflate>>; WINDOWS],
}

/// Why a message goes out as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It would not get shorter.
    Grew,
    /// It is longer than the peer's window, which is too small for any compressor.
    Window,
}

/// Decompresses messages. One per core: made at the first message, freed by [`Inflater::release`].
#[derive(Default)]
pub struct Inflater {
    state: Option<Box<Inflate>>,
    /// Where messages are inflated to. As long as the longest one so far needed.
    out: Vec<u8>,
}

impl Deflater {
    /// One that compresses at a level of 1 to 9, and has no memory yet.
    pub fn new(level: u8) -> Self {
        // Level 1 of this library uses fixed codes only: ratio 1.12 instead of 1.34 at 200 bytes.
        Self { level: level.clamp(LEVEL_MIN, 9).into(), states: [const { None }; WINDOWS] }
    }

    /// Appends the payload of a compressed message to `out` for a peer that agreed on a window of
    /// so many bits (8 to 15). Appends nothing if the message should go as it is.
    pub fn deflate(
        &mut self,
        message: &[u8],
        window_bits: u8,
        out: &mut Vec<u8>,
    ) -> Result<(), Kept> {
        let state = self.state(message.len(), window_bits)?;
        // The flush marker is cut off, so what fills this is as long as the message.
        let start = out.len();
        out.resize(start + message.len() + MARKER.len(), 0);
        let done = state.compress(message, &mut out[start..], DeflateFlush::SyncFlush);
        let used = state.total_out() as usize;
        let all = state.total_in() == message.len() as u64;
        let end = start + used;
        if end == out.len() {
            drain(state);
        }
        state.reset();
        // Full output: more was to come.
        if done == Ok(Status::Ok) && all && end < out.len() && out[start..end].ends_with(&MARKER) {
            out.truncate(end - MARKER.len());
            Ok(())
        } else {
            out.truncate(start);
            Err(Kept::Grew)
        }
    }

    /// Bytes of memory it holds, rounded up.
    pub fn memory(&self) -> usize {
        self.states.iter().flatten().count() * DEFLATE_BYTES
    }

    /// Frees its memory, until the next message.
    pub fn release(&mut self) {
        self.states.fill_with(|| None);
    }

    /// The compressor for a message of that length: the one with the whole window serves all
    /// messages that cannot refer further back than the peer's window is long.
    fn state(&mut self, len: usize, window_bits: u8) -> Result<&mut Deflate, Kept> {
        let window_bits = window_bits.min(WINDOW_BITS_MAX);
        let bits = if len <= 1 << window_bits { WINDOW_BITS_MAX } else { window_bits };
        let Some(index) = bits.checked_sub(WINDOW_BITS_MIN) else {
            return Err(Kept::Window);
        };
        let level = self.level;
        let state = &mut self.states[index as usize];
        Ok(state.get_or_insert_with(|| Box::new(Deflate::new(level, false, bits))))
    }
}

impl std::fmt::Debug for Deflater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deflater").field("level", &self.level).finish_non_exhaustive()
    }
}

impl Inflater {
    /// Inflates a message of at most `limit` bytes and checks its text. The payload is whole: that
    /// of a message in fragments is put together first.
    ///
    /// Fails with [`Fault::MessageTooBig`] as soon as one byte more than the limit is written,
    /// however much would follow; with [`Fault::BadDeflate`] or [`Fault::InvalidUtf8`].
    pub fn message(&mut self, kind: Kind, payload: &[u8], limit: usize) -> Result<&[u8], Fault> {
        let result = self.inflate(payload, limit);
        // Whatever it ended in: the next message knows nothing of this one.
        if let Some(state) = &mut self.state {
            state.reset(false);
        }
        let message = &self.out[..result?];
        match kind {
            Kind::Text if !utf8::is_valid(message) => Err(Fault::InvalidUtf8),
            _ => Ok(message),
        }
    }

    /// Bytes of memory it holds, rounded up.
    pub fn memory(&self) -> usize {
        self.out.capacity() + self.state.as_ref().map_or(0, |_| INFLATE_BYTES)
    }

    /// Frees its memory, until the next message.
    pub fn release(&mut self) {
        *self = Self::default();
    }

    /// Fills `out` and returns how far.
    fn inflate(&mut self, payload: &[u8], limit: usize) -> Result<usize, Fault> {
        // Section 7.2.3.6 wants a byte for an empty message, but zlib, flushed twice, writes none.
        if payload.is_empty() {
            return Ok(0);
        }
        let mut filled = 0;
        let mut ends = self.feed(payload, &mut filled, limit)?;
        // A final block that ends with the payload: nothing was cut off.
        if !ends {
            ends = self.feed(&END, &mut filled, limit)?;
        }
        // The stream must end where `END` does, not in the middle of a block.
        if ends { Ok(filled) } else { Err(Fault::BadDeflate) }
    }

    /// Inflates all of `input`. Whether a final block ends where it does.
    fn feed(&mut self, mut input: &[u8], filled: &mut usize, limit: usize) -> Result<bool, Fault> {
        let state =
            self.state.get_or_insert_with(|| Box::new(Inflate::new(false, WINDOW_BITS_MAX)));
        let most = limit.saturating_add(1);
        // Each turn but the last consumes input or fills the output, which is bounded.
        loop {
            if *filled == self.out.len() {
                // It is no longer than the limit, else more than that would be filled.
                let more = (2 * *filled).max(4 * input.len()).max(OUT_MIN);
                let more = more.min(most);
                self.out.reserve_exact(more - self.out.len());
                self.out.resize(more, 0);
            }
            let end = self.out.len().min(most);
            let (read, written) = (state.total_in(), state.total_out());
            let status = state
                .decompress(input, &mut self.out[*filled..end], InflateFlush::NoFlush)
                .map_err(|_| Fault::BadDeflate)?;
            let (read, written) = (state.total_in() - read, state.total_out() - written);
            input = &input[read as usize..];
            *filled += written as usize;
            if *filled > limit {
                return Err(Fault::MessageTooBig);
            }
            if status == Status::StreamEnd {
                // Section 7.2.3.4: a final block may stand anywhere; what follows starts anew.
                state.reset(false);
                if input.is_empty() {
                    return Ok(true);
                }
            } else if input.is_empty() && *filled < end {
                return Ok(false);
            } else if read == 0 && written == 0 {
                return Err(Fault::BadDeflate);
            }
        }
    }
}

impl std::fmt::Debug for Inflater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inflater").field("memory", &self.memory()).finish_non_exhaustive()
    }
}

/// Takes what a compressor still has to write. Version 0.6.8 of zlib-rs does not forget at a reset
/// where that begins in its buffer: after some messages that were not taken to their end, there
/// would be no room left, and a panic.
fn drain(state: &mut Deflate) {
    let mut rest = [0; 256];
    // Nothing is added, so this ends with its buffer of 64 KiB.
    loop {
        let before = state.total_out();
        let done = state.compress(&[], &mut rest, DeflateFlush::SyncFlush);
        if done != Ok(Status::Ok) || state.total_out() - before < rest.len() as u64 {
            return;
        }
    }
}

/// The longest payload that a compressed message of `max_message` bytes comes in: what cannot be
/// compressed gets headers of stored blocks.
pub const fn payload_max(max_message: usize) -> usize {
    max_message.saturating_add(max_message / 1000).saturating_add(64)
}

/// What a sync flush ends in: an empty stored block, less its first byte. It is not sent (section
/// 7.2.1).
const MARKER: [u8; 4] = [0, 0, 0xff, 0xff];
/// The marker, and an empty final block, by which the inflater shows that no block was open.
const END: [u8; 9] = [0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff];
/// The lowest level of zlib-rs with codes of its own.
const LEVEL_MIN: u8 = 2;
/// The smallest window of a compressor: zlib does not write for 8 bits.
const WINDOW_BITS_MIN: u8 = 9;
/// How many compressors there may be: one for each window that zlib writes for.
pub const WINDOWS: usize = (WINDOW_BITS_MAX - WINDOW_BITS_MIN) as usize + 1;
/// The least room for a message: small ones do not grow it step by step.
const OUT_MIN: usize = 1 << 10;
/// What a compressor of zlib-rs with the whole window allocates, measured. The others are smaller.
pub const DEFLATE_BYTES: usize = 384 << 10;
/// What its decompressor allocates, measured.
pub const INFLATE_BYTES: usize = 48 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 64 << 10;

    fn inflate(payload: &[u8]) -> Result<Vec<u8>, Fault> {
        Inflater::default().message(Kind::Binary, payload, LIMIT).map(<[u8]>::to_vec)
    }

    fn deflate(message: &[u8], window_bits: u8) -> Result<Vec<u8>, Kept> {
        let mut out = b"before".to_vec();
        let result = Deflater::new(6).deflate(message, window_bits, &mut out);
        let appended = out.strip_prefix(b"before").unwrap().to_vec();
        assert!(result.is_ok() || appended.is_empty());
        result.map(|()| appended)
    }

    /// Text that gets shorter, and refers back as far as it can.
    fn text(len: usize) -> Vec<u8> {
        (0..).flat_map(|n: u32| format!("{{\"n\":{n}}} ").into_bytes()).take(len).collect()
    }

    /// Bytes that nothing can compress.
    fn noise(len: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    #[test]
    fn the_examples_of_the_rfc() {
        // RFC 7692 sections 7.2.3.1 and 7.2.3.3 to 7.2.3.6.
        for payload in [
            &b"\xf2\x48\xcd\xc9\xc9\x07\x00"[..],
            b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00",
            b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00",
            b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00",
        ] {
            assert_eq!(inflate(payload).as_deref(), Ok(&b"Hello"[..]), "{payload:x?}");
        }
        assert_eq!(inflate(b"\x00").as_deref(), Ok(&b""[..]));
        // What a zlib that was flushed before writes for an empty message.
        assert_eq!(inflate(b"").as_deref(), Ok(&b""[..]));
    }

    #[test]
    fn final_blocks_stand_anywhere() {
        let hello = b"\xf3\x48\xcd\xc9\xc9\x07\x00";
        let open = b"\xf2\x48\xcd\xc9\xc9\x07\x00";
        assert_eq!(inflate(hello).as_deref(), Ok(&b"Hello"[..]), "without a padding byte");
        assert_eq!(inflate(&[&hello[..], hello].concat()).as_deref(), Ok(&b"HelloHello"[..]));
        assert_eq!(inflate(&[&hello[..], open].concat()).as_deref(), Ok(&b"HelloHello"[..]));
        // The stored block's length comes from the marker that was cut off.
        assert_eq!(inflate(&[&hello[..], b"\x01"].concat()).as_deref(), Ok(&b"Hello"[..]));
        let many = hello.repeat(LIMIT / 5);
        assert_eq!(inflate(&many).unwrap().len(), LIMIT / 5 * 5);
        // Blocks without content are bounded by the payload alone.
        assert_eq!(inflate(&b"\x03\x00".repeat(LIMIT)).as_deref(), Ok(&b""[..]));
        let empty = b"\x00\x00\x00\xff\xff".repeat(LIMIT / 5);
        assert_eq!(inflate(&[&empty[..], b"\x00"].concat()).as_deref(), Ok(&b""[..]));
    }

    #[test]
    fn what_is_no_stream() {
        for payload in [
            // A reserved kind of block, lengths that do not match, a distance before the start.
            &b"\x06"[..],
            b"\x00\x05\x00\xfb\xff\x48",
            b"\x02\x0c\x02\x00",
            // The end is missing: in a block with codes, in a stored one.
            b"\xf2\x48\xcd",
            b"\x00\xff\x00\x00\xff\x48",
            // Bytes behind the last block that begin none.
            b"\xf3\x48\xcd\xc9\xc9\x07\x00\xff",
        ] {
            assert_eq!(inflate(payload), Err(Fault::BadDeflate), "{payload:x?}");
        }
    }

    #[test]
    fn text_is_checked_when_inflated() {
        let mut inflater = Inflater::default();
        let bad = deflate(&b"\xc3 ".repeat(20), 15).unwrap();
        let cut = deflate(&[&text(100)[..], b"\xc3"].concat(), 15).unwrap();
        for payload in [bad, cut] {
            let as_text = inflater.message(Kind::Text, &payload, LIMIT).map(<[u8]>::len);
            assert_eq!(as_text, Err(Fault::InvalidUtf8));
            assert!(inflater.message(Kind::Binary, &payload, LIMIT).is_ok());
        }
        // A fault leaves nothing behind.
        assert_eq!(inflater.message(Kind::Text, b"\xf2\x48", LIMIT), Err(Fault::BadDeflate));
        let hello = b"\xf2\x48\xcd\xc9\xc9\x07\x00";
        assert_eq!(inflater.message(Kind::Text, hello, LIMIT), Ok(&b"Hello"[..]));
    }

    #[test]
    fn bombs_end_at_the_limit() {
        let bomb = deflate(&vec![0; 4 << 20], 15).unwrap();
        assert!(bomb.len() < 8 << 10);
        for limit in [0, 1, 1000, LIMIT] {
            let mut inflater = Inflater::default();
            let result = inflater.message(Kind::Binary, &bomb, limit).map(<[u8]>::len);
            assert_eq!(result, Err(Fault::MessageTooBig));
            // The least that a vector allocates is 8 bytes.
            let most = (limit + 1).max(8) + INFLATE_BYTES;
            assert!(inflater.memory() <= most, "{}", inflater.memory());
            let state = inflater.state.as_ref().unwrap();
            assert_eq!(state.total_out(), 0, "it is ready for the next message");
        }
        for len in [1, 1000, LIMIT] {
            let exact = deflate(&[vec![7; len], text(100)].concat(), 15).unwrap();
            let mut inflater = Inflater::default();
            let mut len_at = |limit| inflater.message(Kind::Binary, &exact, limit).map(<[u8]>::len);
            assert_eq!(len_at(len + 100), Ok(len + 100));
            assert_eq!(len_at(len + 99), Err(Fault::MessageTooBig));
            assert_eq!(len_at(usize::MAX), Ok(len + 100));
            assert_eq!(len_at(len + 99), Err(Fault::MessageTooBig));
        }
    }

    #[test]
    fn what_would_not_get_shorter_is_kept() {
        assert_eq!(deflate(b"", 15), Err(Kept::Grew));
        assert_eq!(deflate(b"ab", 15), Err(Kept::Grew));
        for len in [10, 1000, 100_000] {
            assert_eq!(deflate(&noise(len), 15), Err(Kept::Grew));
        }
        for len in [100, 1000, 100_000] {
            let out = deflate(&text(len), 15).unwrap();
            assert!(out.len() < len);
            assert_eq!(Inflater::default().message(Kind::Text, &out, len), Ok(&text(len)[..]));
        }
    }

    #[test]
    fn what_was_kept_leaves_nothing_behind() {
        let (mut deflater, mut out) = (Deflater::new(3), Vec::new());
        for len in [1024, 10, 90_000] {
            for _ in 0..100 {
                assert_eq!(deflater.deflate(&noise(len), 15, &mut out), Err(Kept::Grew));
                assert!(out.is_empty());
            }
        }
        assert_eq!(deflater.deflate(&text(1000), 15, &mut out), Ok(()));
        assert_eq!(Inflater::default().message(Kind::Text, &out, 1000), Ok(&text(1000)[..]));
    }

    #[test]
    fn small_windows_have_small_messages_or_compressors_of_their_own() {
        let mut deflater = Deflater::new(1);
        let mut out = Vec::new();
        for bits in 8..=15 {
            assert_eq!(deflater.deflate(&text(1 << bits), bits, &mut out), Ok(()));
        }
        assert_eq!(deflater.memory(), DEFLATE_BYTES, "one served them all");
        assert_eq!(deflater.deflate(&text(257), 8, &mut out), Err(Kept::Window));
        for bits in 9..=14 {
            assert_eq!(deflater.deflate(&text((1 << bits) + 1), bits, &mut out), Ok(()));
        }
        assert_eq!(deflater.memory(), 7 * DEFLATE_BYTES);
        deflater.release();
        assert_eq!(deflater.memory(), 0);
        assert_eq!(deflater.deflate(&text(100), 15, &mut out), Ok(()));
    }

    #[test]
    fn every_level_has_codes_of_its_own() {
        let len = |level| {
            let mut out = Vec::new();
            Deflater::new(level).deflate(&text(1000), 15, &mut out).unwrap();
            out.len()
        };
        assert_eq!((len(0), len(1)), (len(2), len(2)));
        assert_eq!(len(200), len(9));
        for level in 1..=9 {
            // Codes that are fixed leave more than 400.
            assert!(len(level) < 300, "{level}: {}", len(level));
        }
    }
}
