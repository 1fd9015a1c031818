//! Frames as the bare loop sees them: it finds their lengths and masks, and turns them round in the
//! buffer they came in. Checks nothing.

use std::ops::Range;

use ringhold::protocol::mask;

use crate::bare;

/// How far into a frame a connection is.
#[derive(Default)]
pub(crate) struct Stream {
    mask: [u8; 4],
    /// Payload bytes of the frame so far, and those to come.
    seen: usize,
    left: usize,
    /// The start of a header whose rest has not come.
    head: [u8; HEADER_MAX],
    pub(crate) spilled: usize,
    /// A close frame came.
    pub(crate) closing: bool,
}

impl Stream {
    /// Turns `count` bytes received at [`HEADER_MAX`] into what is sent back: the same frames
    /// without masks. Returns where it lies.
    pub(crate) fn turn_round(&mut self, buffer: &mut [u8], count: usize) -> Range<usize> {
        let mut at = HEADER_MAX - self.spilled;
        buffer[at..HEADER_MAX].copy_from_slice(&self.head[..self.spilled]);
        self.spilled = 0;
        let end = HEADER_MAX + count;
        let (mut start, mut out) = (at, at);
        while at < end {
            if self.left == 0 {
                let Some((header, len)) = bare::parse(&buffer[at..end]) else {
                    self.spilled = end - at;
                    self.head[..self.spilled].copy_from_slice(&buffer[at..end]);
                    break;
                };
                self.mask.copy_from_slice(&buffer[at + header - 4..at + header]);
                self.closing |= buffer[at] & 0x0f == 8;
                (self.seen, self.left) = (0, len);
                // The first header moves up to its payload, which saves moving that one down.
                if out == start && out == at {
                    (start, out) = (at + 4, at + 4);
                }
                buffer.copy_within(at..at + header - 4, out);
                buffer[out + 1] &= 0x7f;
                (at, out) = (at + header, out + header - 4);
            }
            let piece = self.left.min(end - at);
            mask::apply(&mut buffer[at..at + piece], self.mask, self.seen);
            if out != at {
                buffer.copy_within(at..at + piece, out);
            }
            (at, out) = (at + piece, out + piece);
            (self.seen, self.left) = (self.seen + piece, self.left - piece);
        }
        start..out
    }
}

/// The longest header of a frame (RFC 6455 section 5.2).
pub(crate) const HEADER_MAX: usize = 14;
