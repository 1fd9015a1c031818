//! The frame header, both ways (RFC 6455 section 5.2).
//!
//! Owns every rule that a header can break by itself. Never looks at a payload or at the frames
//! before: what depends on them is in [`message`](super::message). The invariant: the checks come
//! in the order of the bytes that decide them, so how a header is cut into reads never changes the
//! fault that is found.

use super::{Fault, Role, mask};

/// The longest header: 2 bytes, a 64-bit length, a mask.
pub const HEADER_MAX: usize = 2 + 8 + 4;

/// The longest payload of a control frame (section 5.5).
pub const CONTROL_MAX: usize = 125;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// Continues a fragmented message.
    Continuation = 0,
    /// UTF-8 text.
    Text = 1,
    /// Bytes.
    Binary = 2,
    /// Starts or answers the close handshake.
    Close = 8,
    /// Asks for a pong.
    Ping = 9,
    /// Answers a ping, or stands alone as a heartbeat.
    Pong = 10,
}

impl Opcode {
    /// Close, ping and pong, which may stand between the fragments of a message (section 5.5).
    #[inline]
    pub fn is_control(self) -> bool {
        self as u8 & CONTROL != 0
    }
}

/// A parsed frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Last frame of its message.
    pub fin: bool,
    /// What it carries.
    pub opcode: Opcode,
    /// The mask, from a client.
    pub mask: Option<[u8; 4]>,
    /// Payload length in bytes.
    pub len: u64,
}

impl Header {
    /// Parses a header at the start of `bytes`, as received by `role`. `None`: more bytes are
    /// needed; what is wrong in the bytes that are there is reported at once. Returns the header's
    /// own length beside it.
    pub fn parse(role: Role, bytes: &[u8]) -> Result<Option<(Self, usize)>, Fault> {
        let Some(&first) = bytes.first() else {
            return Ok(None);
        };
        let (fin, opcode) = parse_first(first, 0)?;
        let Some((len, mask_at)) = parse_len(role, opcode, bytes)? else {
            return Ok(None);
        };
        let Some((mask, header_len)) = parse_mask(role, bytes, mask_at) else {
            return Ok(None);
        };
        Ok(Some((Self { fin, opcode, mask, len }, header_len)))
    }

    /// Writes the header in its shortest form and returns its length.
    #[inline]
    pub fn write(&self, out: &mut [u8; HEADER_MAX]) -> usize {
        out[0] = (self.fin as u8) << 7 | self.opcode as u8;
        let masked = (self.mask.is_some() as u8) << 7;
        let mut at = match self.len {
            len @ 0..=125 => {
                out[1] = masked | len as u8;
                2
            }
            len @ 126..=0xffff => {
                out[1] = masked | LEN_16;
                out[2..4].copy_from_slice(&(len as u16).to_be_bytes());
                4
            }
            len => {
                debug_assert!(len >> 63 == 0, "section 5.2: the top bit of a length is 0");
                out[1] = masked | LEN_64;
                out[2..10].copy_from_slice(&len.to_be_bytes());
                10
            }
        };
        if let Some(mask) = self.mask {
            out[at..at + 4].copy_from_slice(&mask);
            at += 4;
        }
        at
    }
}

/// Writes the header of a whole frame without a mask to the end of `room`, in its shortest form.
/// False if it does not fit.
#[inline]
pub(crate) fn write_before(room: &mut [u8], opcode: Opcode, len: usize) -> bool {
    let first = 0x80 | opcode as u8;
    match len {
        0..=125 => room.last_chunk_mut().map(|end| *end = [first, len as u8]).is_some(),
        126..=0xffff => {
            let [high, low] = (len as u16).to_be_bytes();
            room.last_chunk_mut().map(|end| *end = [first, LEN_16, high, low]).is_some()
        }
        _ => room.last_chunk_mut::<10>().is_some_and(|end| {
            (end[0], end[1]) = (first, LEN_64);
            end[2..].copy_from_slice(&(len as u64).to_be_bytes());
            true
        }),
    }
}

/// The length of the header that [`Header::write`] produces, without writing it.
pub const fn header_len(payload: usize, masked: bool) -> usize {
    let mask = if masked { 4 } else { 0 };
    match payload {
        0..=125 => 2 + mask,
        126..=0xffff => 4 + mask,
        _ => 10 + mask,
    }
}

/// Appends one whole, final frame to `out`. With a `mask` the payload is masked while it is copied.
///
/// Control frames are the caller's to keep within [`CONTROL_MAX`] bytes.
#[inline]
pub fn append(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], mask: Option<[u8; 4]>) {
    debug_assert!(!opcode.is_control() || payload.len() <= CONTROL_MAX, "section 5.5");
    let header = Header { fin: true, opcode, mask, len: payload.len() as u64 };
    let mut bytes = [0; HEADER_MAX];
    let used = header.write(&mut bytes);
    out.reserve(used + payload.len());
    out.extend_from_slice(&bytes[..used]);
    match mask {
        Some(mask) => mask::append(out, payload, mask),
        None => out.extend_from_slice(payload),
    }
}

/// Appends one whole, final frame of a message that was compressed (RFC 7692 section 6).
#[inline]
pub fn append_deflated(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], mask: Option<[u8; 4]>) {
    debug_assert!(!opcode.is_control(), "RFC 7692 section 5: control frames are never compressed");
    let start = out.len();
    append(out, opcode, payload, mask);
    out[start] |= RSV1;
}

/// What the first byte of a header says, as FIN and opcode. The reserved bits in `allowed`, which
/// an extension gave a meaning, may be set where a data message starts.
#[inline]
pub(super) fn parse_first(byte: u8, allowed: u8) -> Result<(bool, Opcode), Fault> {
    // Section 5.2: a bit that no agreed extension uses must be 0.
    if byte & RESERVED & !allowed != 0 {
        return Err(Fault::ReservedBits);
    }
    let fin = byte & 0x80 != 0;
    let opcode = match byte & 0x0f {
        0 => Opcode::Continuation,
        1 => Opcode::Text,
        2 => Opcode::Binary,
        8 => Opcode::Close,
        9 => Opcode::Ping,
        10 => Opcode::Pong,
        _ => return Err(Fault::ReservedOpcode),
    };
    // RFC 7692 section 6: neither on continuations nor on control frames.
    if allowed != 0 && byte & allowed != 0 && !matches!(opcode, Opcode::Text | Opcode::Binary) {
        return Err(Fault::ReservedBits);
    }
    // Section 5.5: control frames must not be fragmented.
    if opcode.is_control() && !fin {
        return Err(Fault::FragmentedControl);
    }
    Ok((fin, opcode))
}

/// The payload length and the position behind it, from the second byte on. `None`: not all of its
/// bytes are there yet.
#[inline]
pub(super) fn parse_len(
    role: Role,
    opcode: Opcode,
    bytes: &[u8],
) -> Result<Option<(u64, usize)>, Fault> {
    let Some(&second) = bytes.get(1) else {
        return Ok(None);
    };
    // Section 5.1: clients mask every frame, servers none.
    match (role, second & MASKED != 0) {
        (Role::Server, false) => return Err(Fault::Unmasked),
        (Role::Client, true) => return Err(Fault::Masked),
        _ => {}
    }
    let short = second & !MASKED;
    if opcode.is_control() {
        // Section 5.5: 125 bytes at most, so always the short form.
        if short as usize > CONTROL_MAX {
            return Err(Fault::ControlTooLong);
        }
        // Section 5.5.1: a close payload is empty or starts with a code of two bytes.
        if opcode == Opcode::Close && short == 1 {
            return Err(Fault::CloseLength);
        }
    }
    match short {
        LEN_16 => parse_len_16(bytes),
        LEN_64 => parse_len_64(bytes),
        _ => Ok(Some((short as u64, 2))),
    }
}

/// The mask at `at`, where the role expects one, and the position behind it. `None`: not all of
/// its bytes are there yet.
#[inline]
pub(super) fn parse_mask(role: Role, bytes: &[u8], at: usize) -> Option<(Option<[u8; 4]>, usize)> {
    match role {
        Role::Client => Some((None, at)),
        Role::Server => {
            let mask = bytes.get(at..)?.first_chunk::<4>()?;
            Some((Some(*mask), at + 4))
        }
    }
}

fn parse_len_16(bytes: &[u8]) -> Result<Option<(u64, usize)>, Fault> {
    let Some(len) = bytes[2..].first_chunk::<2>() else {
        return Ok(None);
    };
    let len = u16::from_be_bytes(*len);
    // Section 5.2: the minimal number of bytes must be used.
    if len <= 125 {
        return Err(Fault::LengthNotMinimal);
    }
    Ok(Some((len as u64, 4)))
}

fn parse_len_64(bytes: &[u8]) -> Result<Option<(u64, usize)>, Fault> {
    let len = &bytes[2..];
    // Section 5.2: the most significant bit must be 0.
    if len.first().is_some_and(|&byte| byte & 0x80 != 0) {
        return Err(Fault::LengthTopBit);
    }
    // Six zero bytes decide that 16 bits would have been enough, whatever the last two are.
    if len.first_chunk::<6>().is_some_and(|high| *high == [0; 6]) {
        return Err(Fault::LengthNotMinimal);
    }
    let Some(len) = len.first_chunk::<8>() else {
        return Ok(None);
    };
    Ok(Some((u64::from_be_bytes(*len), 10)))
}

/// The reserved bit by which permessage-deflate marks a message that was compressed, on its first
/// frame (RFC 7692 section 6).
pub const RSV1: u8 = 0x40;
/// All three reserved bits.
const RESERVED: u8 = 0x70;
/// The bit of the opcode that control frames share (section 5.5).
const CONTROL: u8 = 0x08;
/// The bit of the second byte that announces a mask.
const MASKED: u8 = 0x80;
/// The short length that announces 16 bits of length.
const LEN_16: u8 = 126;
/// The short length that announces 64 bits of length.
const LEN_64: u8 = 127;

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [u8; 4] = [1, 2, 3, 4];

    /// The fault, and how many bytes it took to see it.
    fn fault(role: Role, bytes: &[u8]) -> Option<(Fault, usize)> {
        (0..=bytes.len()).find_map(|n| Some((Header::parse(role, &bytes[..n]).err()?, n)))
    }

    #[test]
    fn write_then_parse() {
        let opcodes = [Opcode::Continuation, Opcode::Text, Opcode::Binary];
        for len in [0, 1, 125, 126, 127, 0xffff, 0x1_0000, u64::MAX >> 1] {
            for opcode in opcodes {
                for (role, mask) in [(Role::Server, Some(MASK)), (Role::Client, None)] {
                    for fin in [true, false] {
                        let header = Header { fin, opcode, mask, len };
                        let mut out = [0; HEADER_MAX];
                        let used = header.write(&mut out);
                        assert_eq!(used, header_len(len as usize, mask.is_some()));
                        assert_eq!(Header::parse(role, &out), Ok(Some((header, used))));
                        for short in 0..used {
                            assert_eq!(Header::parse(role, &out[..short]), Ok(None));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_header_before_a_payload_is_the_same() {
        for len in [0, 1, 125, 126, 0xffff, 0x1_0000, usize::MAX >> 1] {
            let header = Header { fin: true, opcode: Opcode::Text, mask: None, len: len as u64 };
            let mut out = [0; HEADER_MAX];
            let used = header.write(&mut out);
            let mut room = [9; 20];
            assert!(write_before(&mut room[..12], Opcode::Text, len));
            assert_eq!((&room[12 - used..12], room[11 - used], room[12]), (&out[..used], 9, 9));
            assert!(!write_before(&mut room[..used - 1], Opcode::Text, len));
        }
    }

    #[test]
    fn first_byte_faults() {
        for bit in [0x40, 0x20, 0x10] {
            assert_eq!(fault(Role::Server, &[0x81 | bit]), Some((Fault::ReservedBits, 1)));
        }
        for opcode in (3..=7).chain(11..=15) {
            assert_eq!(fault(Role::Server, &[0x80 | opcode]), Some((Fault::ReservedOpcode, 1)));
        }
        for opcode in 8..=10 {
            assert_eq!(fault(Role::Client, &[opcode]), Some((Fault::FragmentedControl, 1)));
        }
    }

    #[test]
    fn second_byte_faults() {
        assert_eq!(fault(Role::Server, &[0x81, 0x05]), Some((Fault::Unmasked, 2)));
        assert_eq!(fault(Role::Client, &[0x81, 0x85]), Some((Fault::Masked, 2)));
        assert_eq!(fault(Role::Server, &[0x89, 0xfe]), Some((Fault::ControlTooLong, 2)));
        assert_eq!(fault(Role::Client, &[0x8a, 0x7f]), Some((Fault::ControlTooLong, 2)));
        assert_eq!(fault(Role::Client, &[0x88, 0x01]), Some((Fault::CloseLength, 2)));
        assert_eq!(fault(Role::Client, &[0x89, 0x7d]), None);
    }

    #[test]
    fn length_faults() {
        assert_eq!(fault(Role::Server, &[0x82, 0xfe, 0, 125]), Some((Fault::LengthNotMinimal, 4)));
        assert_eq!(fault(Role::Server, &[0x82, 0xfe, 0, 126]), None);
        assert_eq!(fault(Role::Server, &[0x82, 0xff, 0x80]), Some((Fault::LengthTopBit, 3)));
        let small = [0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
        assert_eq!(fault(Role::Server, &small), Some((Fault::LengthNotMinimal, 8)));
        let large = [0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0];
        assert_eq!(fault(Role::Server, &large), None);
    }

    #[test]
    fn append_is_header_and_payload() {
        let mut out = vec![9];
        append(&mut out, Opcode::Text, b"hey", None);
        assert_eq!(out, b"\x09\x81\x03hey");
        out.clear();
        append(&mut out, Opcode::Binary, &[0; 6], Some(MASK));
        assert_eq!(out, [0x82, 0x86, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2]);
    }
}
