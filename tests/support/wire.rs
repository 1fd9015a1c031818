//! Requests and frames as bytes, right or wrong: every bit of a header can be chosen.

/// Bits and opcodes of a frame's first byte (section 5.2).
pub(crate) const FIN: u8 = 0x80;
pub(crate) const RSV1: u8 = 0x40;
pub(crate) const RSV2: u8 = 0x20;
pub(crate) const RSV3: u8 = 0x10;
pub(crate) const CONTINUATION: u8 = 0x0;
pub(crate) const TEXT: u8 = 0x1;
pub(crate) const BINARY: u8 = 0x2;
pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xa;

/// The masking key of the examples in section 5.7.
pub(crate) const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// The five lines an upgrade needs, with the key of section 1.3.
pub(crate) const UPGRADE: [&str; 5] = [
    "Host: ringhold.test",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
];

/// The three ways to write a length (section 5.2).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Length {
    Bits7(u8),
    Bits16(u16),
    Bits64(u64),
}

impl Length {
    /// The form the section demands: the shortest.
    pub(crate) fn shortest(len: usize) -> Self {
        match len {
            0..=125 => Self::Bits7(len as u8),
            126..=0xffff => Self::Bits16(len as u16),
            _ => Self::Bits64(len as u64),
        }
    }
}

/// A frame header, masked if there is a mask.
pub(crate) fn header(first: u8, length: Length, mask: Option<[u8; 4]>) -> Vec<u8> {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match length {
        Length::Bits7(len) => bytes.push(masked | len),
        Length::Bits16(len) => {
            bytes.push(masked | 126);
            bytes.extend(len.to_be_bytes());
        }
        Length::Bits64(len) => {
            bytes.push(masked | 127);
            bytes.extend(len.to_be_bytes());
        }
    }
    bytes.extend(mask.into_iter().flatten());
    bytes
}

/// `payload` under the mask.
pub(crate) fn masked(payload: &[u8], mask: [u8; 4]) -> impl Iterator<Item = u8> + '_ {
    payload.iter().zip(mask.into_iter().cycle()).map(|(byte, key)| byte ^ key)
}

/// A masked frame with this first byte and the shortest length.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(first, Length::shortest(payload.len()), Some(MASK));
    bytes.extend(masked(payload, MASK));
    bytes
}

/// The payload of a close frame (section 5.5.1).
pub(crate) fn close_payload(code: u16, reason: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes(), reason].concat()
}

/// A request head: request line, header lines, the empty line.
pub(crate) fn request<L: AsRef<str>>(first: &str, lines: &[L]) -> Vec<u8> {
    let mut bytes = format!("{first}\r\n").into_bytes();
    for line in lines {
        bytes.extend_from_slice(line.as_ref().as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// A valid upgrade request.
pub(crate) fn upgrade() -> Vec<u8> {
    request("GET / HTTP/1.1", &UPGRADE)
}
