//! What a connection owns while a message, a control frame or a header is unfinished.
//!
//! Owns the bytes that wait and how their memory grows. Never judges a header: [`Decoder`] does.
//!
//! [`Decoder`]: super::Decoder

use bytes::{Buf, Bytes};

use super::frame::{HEADER_MAX, Header, Opcode};
use super::utf8::Utf8;
use super::{CloseFrame, Event, Fault, Kind, Payload, mask};

/// A message, control frame or header in progress.
///
/// Memory follows what was received, not what was announced: at most twice the payload bytes that
/// are there, and 4 KiB.
#[derive(Debug)]
pub struct Partial {
    /// [`LEAD`] bytes of nothing and the payload of the data message so far, unmasked. Empty before
    /// the first byte.
    message: Vec<u8>,
    /// Payload of the control frame so far, unmasked.
    control: Vec<u8>,
    /// Payload bytes of the current frame that have not arrived.
    missing: usize,
    /// Frames begun of the message in progress; 0: there is none.
    fragments: u32,
    /// Mask of the current frame, rotated: its first byte meets the next payload byte.
    mask: [u8; 4],
    /// Of a text message.
    utf8: Utf8,
    /// Start of a header that is not complete.
    header: [u8; HEADER_MAX],
    /// How much of `header` has arrived; 0 while a payload is in progress.
    header_len: u8,
    /// Opcode of the current frame.
    opcode: Opcode,
    /// FIN of the current frame.
    fin: bool,
    /// Of the message in progress.
    kind: Kind,
    /// Whether the message in progress is compressed.
    deflated: bool,
    /// What the next byte belongs to.
    stage: Stage,
    /// For whoever keeps account of it: where. All ones: nowhere.
    pub(crate) place: u32,
}

/// A connection in the middle of a frame costs one such record, so it stays within 1.5 cache lines.
const _: () = assert!(size_of::<Partial>() <= 96);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// To a header.
    Header,
    /// To the payload of a data frame.
    Data,
    /// To the payload of a control frame.
    Control,
}

impl Partial {
    /// Payload bytes of the current data frame that have not arrived. 0 while a header or a control
    /// frame is in progress.
    pub fn missing(&self) -> usize {
        if self.stage == Stage::Data { self.missing } else { 0 }
    }

    /// Bytes of memory this message holds, for accounting.
    pub fn memory(&self) -> usize {
        size_of::<Self>() + self.message.capacity() + self.control.capacity()
    }

    /// Whether nothing at all is in progress.
    pub(super) fn is_idle(&self) -> bool {
        self.stage == Stage::Header && self.header_len == 0 && self.fragments == 0
    }

    /// Whether the next byte belongs to a payload.
    pub(super) fn in_payload(&self) -> bool {
        self.stage != Stage::Header
    }

    /// Whether the rest of a header or of a payload must come before anything else.
    pub(super) fn is_waiting(&self) -> bool {
        self.in_payload() || self.header_len > 0
    }

    /// Frames begun of the message in progress; 0: there is none.
    pub(super) fn fragments(&self) -> u32 {
        self.fragments
    }

    /// Payload bytes of the message in progress that have arrived.
    pub(crate) fn filled(&self) -> usize {
        self.message.len().saturating_sub(LEAD)
    }

    /// The start of a header, from the inputs before.
    pub(super) fn header(&self) -> &[u8] {
        &self.header[..self.header_len as usize]
    }

    /// Replaces the start of the header, none of it when it is complete.
    pub(super) fn set_header(&mut self, bytes: &[u8]) {
        self.header[..bytes.len()].copy_from_slice(bytes);
        self.header_len = bytes.len() as u8;
    }

    /// Whether the message in progress, or the one that is complete, is compressed.
    pub(super) fn is_deflated(&self) -> bool {
        self.deflated
    }

    /// Starts the payload behind `header`, which the decoder has found good at this place.
    /// `deflated`: it starts a compressed message.
    pub(super) fn begin(&mut self, header: &Header, deflated: bool) {
        debug_assert!(self.stage == Stage::Header && self.header_len == 0);
        self.missing = header.len as usize;
        self.mask = header.mask.unwrap_or_default();
        self.opcode = header.opcode;
        self.fin = header.fin;
        if header.opcode.is_control() {
            self.stage = Stage::Control;
            self.control.reserve_exact(self.missing);
            return;
        }
        self.stage = Stage::Data;
        self.fragments += 1;
        match header.opcode {
            Opcode::Text => (self.kind, self.deflated) = (Kind::Text, deflated),
            Opcode::Binary => (self.kind, self.deflated) = (Kind::Binary, deflated),
            _ => {}
        }
    }

    /// Takes what the current frame misses from the start of `input` and returns how much that was.
    pub(super) fn absorb(&mut self, input: &[u8]) -> Result<usize, Fault> {
        let bytes = &input[..self.missing.min(input.len())];
        if self.stage == Stage::Control {
            mask::append(&mut self.control, bytes, self.mask);
        } else if !bytes.is_empty() {
            self.reserve(bytes.len());
            let start = self.message.len();
            match self.mask {
                [0, 0, 0, 0] => self.message.extend_from_slice(bytes),
                mask => mask::append(&mut self.message, bytes, mask),
            }
            // Compressed text is checked when it is inflated.
            if self.kind == Kind::Text && !self.deflated {
                self.utf8.push(&self.message[start..])?;
            }
        }
        self.advance(bytes.len());
        Ok(bytes.len())
    }

    /// Ends the current frame if all of it is there. A non-final fragment is no event.
    pub(super) fn complete(&mut self) -> Result<Option<Event>, Fault> {
        if self.missing > 0 {
            return Ok(None);
        }
        let stage = std::mem::replace(&mut self.stage, Stage::Header);
        if stage == Stage::Control {
            let payload = Bytes::from(std::mem::take(&mut self.control));
            return match self.opcode {
                Opcode::Ping => Ok(Some(Event::Ping(Payload::Assembled(payload)))),
                Opcode::Pong => Ok(Some(Event::Pong(Payload::Assembled(payload)))),
                _ => Ok(Some(Event::Close(CloseFrame::parse(&payload)?))),
            };
        }
        if !self.fin {
            return Ok(None);
        }
        // Section 8.1: a message may not end inside a character; its fragments may.
        self.utf8.finish()?;
        self.fragments = 0;
        // Whoever keeps it keeps what was reserved for fragments that did not come.
        if self.message.capacity() - self.message.len() > self.message.len() / 4 {
            self.message.shrink_to_fit();
        }
        let mut message = Bytes::from(std::mem::take(&mut self.message));
        message.advance(message.len().min(LEAD));
        Ok(Some(Event::Message(self.kind, Payload::Assembled(message))))
    }

    /// Makes room for `more` bytes of the current frame.
    fn reserve(&mut self, more: usize) {
        let end = self.message.len().max(LEAD);
        let needed = end + more;
        if needed > self.message.capacity() {
            // More fragments may follow a non-final one: growing to the end of each would copy
            // the message once per fragment.
            let whole = if self.fin { end + self.missing } else { usize::MAX };
            let capacity = needed.saturating_mul(2).max(COPIED_MIN).min(whole);
            self.message.reserve_exact(capacity - self.message.len());
        }
        self.message.resize(end, 0);
    }

    fn advance(&mut self, bytes: usize) {
        self.missing -= bytes;
        self.mask.rotate_left(bytes % 4);
    }
}

impl Default for Partial {
    fn default() -> Self {
        Self {
            message: Vec::new(),
            control: Vec::new(),
            missing: 0,
            fragments: 0,
            mask: [0; 4],
            utf8: Utf8::default(),
            header: [0; HEADER_MAX],
            header_len: 0,
            opcode: Opcode::Continuation,
            fin: false,
            kind: Kind::Binary,
            deflated: false,
            stage: Stage::Header,
            place: u32::MAX,
        }
    }
}

/// Bytes before a message's payload: a cache line, more than the longest header. Large buffers
/// begin with a page, and so do the kernel's. Without a lead a payload would lie a header's length
/// lower in its page than where the kernel copies it to, and `rep movsb` copies that at a twentieth
/// of its speed on some processors (AMD Zen: 3 instead of 55 GB/s where the target is 1 to 15 bytes
/// above the source modulo 4,096).
const LEAD: usize = 64;
const _: () = assert!(LEAD >= HEADER_MAX + 32);
/// Least capacity for a message, unless all of it needs less: a page.
const COPIED_MIN: usize = 4 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Decoder, Role, frame};

    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    fn decoder() -> Decoder {
        Decoder { role: Role::Server, max_message: 64 << 20, max_fragments: 1 << 20 }
    }

    fn frame_of(opcode: Opcode, fin: bool, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        frame::append(&mut out, opcode, payload, Some(MASK));
        out[0] = (fin as u8) << 7 | opcode as u8;
        out
    }

    #[test]
    #[cfg_attr(miri, ignore = "too slow there")]
    fn memory_follows_the_bytes() {
        let bytes = frame_of(Opcode::Binary, true, &vec![0; 10 << 20]);
        let (mut partial, mut at) = (None, 0);
        decoder().decode(&mut partial, &mut bytes[..14].to_vec(), &mut at).unwrap();
        assert_eq!(partial.as_deref().unwrap().memory(), size_of::<Partial>());
        for n in (15..bytes.len()).step_by(9_999) {
            let from = n - if n == 15 { 1 } else { 9_999 };
            at = 0;
            decoder().decode(&mut partial, &mut bytes[from..n].to_vec(), &mut at).unwrap();
            let memory = partial.as_deref().unwrap().memory();
            let most = (2 * (LEAD + n)).max(COPIED_MIN) + size_of::<Partial>();
            assert!(memory <= most, "{memory} at {n}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "too slow there")]
    fn many_fragments_grow_by_doubling() {
        let (mut partial, mut at) = (None, 0);
        let mut first = frame_of(Opcode::Binary, false, b"0");
        decoder().decode(&mut partial, &mut first, &mut at).unwrap();
        let fragment = frame_of(Opcode::Continuation, false, &[1; 10]);
        let mut capacities = std::collections::BTreeSet::new();
        for _ in 0..10_000 {
            at = 0;
            decoder().decode(&mut partial, &mut fragment.clone(), &mut at).unwrap();
            capacities.insert(partial.as_deref().unwrap().memory());
        }
        assert!(capacities.len() < 10, "{capacities:?}");
    }
}
