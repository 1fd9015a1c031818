//! Compressed messages as C zlib has them, each by itself (RFC 7692 section 7.2), and payloads that
//! nobody means well with.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::wire::{FIN, RSV1, frame};

/// What a browser offers, as a header line.
pub(crate) const OFFER: &str =
    "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits";

/// The offer of somebody with a window of so many bits.
pub(crate) fn offer_of(window_bits: u8) -> String {
    format!("{OFFER}; server_max_window_bits={window_bits}")
}

/// The payload of a message.
pub(crate) fn deflate(message: &[u8]) -> Vec<u8> {
    let mut stream = Compress::new(Compression::new(6), false);
    let mut out = Vec::with_capacity(message.len() + message.len() / 8 + 64);
    let status = stream.compress_vec(message, &mut out, FlushCompress::Sync).expect("compressed");
    assert!(status == Status::Ok && stream.total_in() == message.len() as u64);
    let end = out.len() - 4;
    assert_eq!(out[end..], [0, 0, 0xff, 0xff]);
    out.truncate(end);
    out
}

/// The message that a payload is of.
pub(crate) fn inflate(payload: &[u8]) -> Vec<u8> {
    let input = [payload, &[0, 0, 0xff, 0xff]].concat();
    let mut stream = Decompress::new(false);
    let mut out = Vec::new();
    while stream.total_in() < input.len() as u64 {
        out.reserve(4 * input.len().max(64));
        let rest = &input[stream.total_in() as usize..];
        let before = (stream.total_in(), stream.total_out());
        stream.decompress_vec(rest, &mut out, FlushDecompress::Sync).expect("a deflate stream");
        assert_ne!(before, (stream.total_in(), stream.total_out()), "it goes on");
    }
    out
}

/// A masked frame with a message, compressed.
pub(crate) fn deflated(opcode: u8, message: &[u8]) -> Vec<u8> {
    frame(FIN | RSV1 | opcode, &deflate(message))
}

/// A deflate stream, bit by bit.
#[derive(Default)]
pub(crate) struct Bits {
    bytes: Vec<u8>,
    used: u32,
}

impl Bits {
    /// Appends a number of so many bits, the lowest first.
    fn put(&mut self, value: u32, count: u32) {
        for bit in 0..count {
            if self.used.is_multiple_of(8) {
                self.bytes.push(0);
            }
            let last = self.bytes.last_mut().expect("a byte");
            *last |= ((value >> bit & 1) << (self.used % 8)) as u8;
            self.used += 1;
        }
    }

    /// A block with codes of its own and nothing in it, in 90 bits: 257 lengths of literals, one of
    /// a distance, 18 of the codes for these; 138 and 118 literals without a code, the end of the
    /// block, a distance; that end.
    pub(crate) fn put_empty_block(&mut self) {
        for (value, count) in [(0b100, 3), (0, 5), (0, 5), (14, 4)] {
            self.put(value, count);
        }
        (0..18).for_each(|place| self.put(u32::from(place == 2 || place == 17), 3));
        for (value, count) in [(1, 1), (127, 7), (1, 1), (107, 7), (0, 1), (0, 1), (0, 1)] {
            self.put(value, count);
        }
    }

    /// The payload, which ends in the header of a stored block.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.put(0, 3);
        self.bytes
    }
}
