//! What a connection owns while a message, a control frame or a header is unfinished.
//!
//! Owns the bytes that wait and how their memory grows. Never judges a header: [`Decoder`] does.
//! The invariant, counting from behind the lead: `filled <= message.len() <= filled + missing`
//! unless the buffer is lent; bytes of `message` before `filled` are unmasked payload, those behind
//! it are zeroes to receive into.
//!
//! [`Decoder`]: super::Decoder

use bytes::{Buf, Bytes};

use super::frame::{HEADER_MAX, Header, Opcode};
use super::utf8::Utf8;
use super::{CloseFrame, Event, Fault, Kind, Payload, mask};

/// A message, control frame or header in progress.
///
/// Memory follows what was received, not what was announced: at most twice the payload bytes that
/// are there, and 128 KiB.
#[derive(Debug)]
pub struct Partial {
    /// [`LEAD`] bytes of nothing, the payload of the data message so far, and room behind it. Empty
    /// before the first byte.
    message: Vec<u8>,
    /// How many payload bytes of `message` have arrived.
    filled: usize,
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
    /// What the next byte belongs to.
    stage: Stage,
    /// Whether `message` is with a receiver.
    lent: bool,
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
    /// Payload bytes of the current data frame that have not arrived: how much may be received
    /// directly into the message. 0 while a header or a control frame is in progress.
    pub fn missing(&self) -> usize {
        if self.stage == Stage::Data { self.missing } else { 0 }
    }

    /// Bytes of memory this message holds, for accounting. The buffer is not counted while it is
    /// lent ([`Self::take_buffer`]).
    pub fn memory(&self) -> usize {
        size_of::<Self>() + self.message.capacity() + self.control.capacity()
    }

    /// Lends the message buffer for a direct receive, zero-extended beyond what has arrived by
    /// room for at least one and at most [`Self::missing`] bytes. Capacity grows by doubling from
    /// 64 KiB, so that memory follows the bytes received, not the length announced.
    /// Returns the buffer and its `end`; the received bytes go to `buffer[end..]`.
    ///
    /// Every loan ends with [`Decoder::fill`](super::Decoder::fill), also when nothing was
    /// received; nothing may be decoded before. There is no room when nothing is missing. A byte is
    /// zeroed at most once: room that a receive left unused is lent again.
    ///
    /// # Panics
    ///
    /// If the buffer is lent already.
    pub fn take_buffer(&mut self) -> (Vec<u8>, usize) {
        assert!(!self.lent, "the buffer is lent already");
        let missing = self.missing();
        let end = self.end();
        let room = self.message.len().saturating_sub(end);
        if room < missing.min(ROOM_MIN) {
            if self.message.capacity().saturating_sub(end) < missing.min(ROOM_MIN) {
                let doubled = self.message.capacity().saturating_mul(2).max(DIRECT_MIN);
                self.grow(doubled.min(end + missing));
            }
            let spare = self.message.capacity() - end;
            self.message.resize(end + missing.min(spare).min(ROOM_MAX), 0);
        }
        self.lent = true;
        (std::mem::take(&mut self.message), end)
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
        self.filled
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

    /// Starts the payload behind `header`, which the decoder has found good at this place.
    pub(super) fn begin(&mut self, header: &Header) {
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
            Opcode::Text => self.kind = Kind::Text,
            Opcode::Binary => self.kind = Kind::Binary,
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
            let start = self.end();
            match self.mask {
                [0, 0, 0, 0] => self.message.extend_from_slice(bytes),
                mask => mask::append(&mut self.message, bytes, mask),
            }
            self.arrived(start, bytes.len())?;
        }
        self.advance(bytes.len());
        Ok(bytes.len())
    }

    /// Takes the lent buffer back, with `received` masked bytes behind the filled ones.
    pub(super) fn give_back(&mut self, buffer: Vec<u8>, received: usize) -> Result<(), Fault> {
        let start = self.end();
        assert!(self.lent, "no buffer was lent");
        if received == 0 {
            (self.message, self.lent) = (buffer, false);
            return Ok(());
        }
        assert!(start + received <= buffer.len(), "more received than there was room for");
        self.message = buffer;
        self.lent = false;
        if self.mask != [0; 4] {
            mask::apply(&mut self.message[start..start + received], self.mask, 0);
        }
        self.arrived(start, received)?;
        self.advance(received);
        Ok(())
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
        debug_assert!(self.message.len() <= self.end(), "room is at most what is missing");
        if !self.fin {
            return Ok(None);
        }
        // Section 8.1: a message may not end inside a character; its fragments may.
        self.utf8.finish()?;
        self.fragments = 0;
        self.filled = 0;
        let mut message = Bytes::from(std::mem::take(&mut self.message));
        message.advance(message.len().min(LEAD));
        Ok(Some(Event::Message(self.kind, Payload::Assembled(message))))
    }

    /// Makes `message` end at `filled`, with capacity for `more`.
    fn reserve(&mut self, more: usize) {
        assert!(!self.lent, "bytes decoded while the buffer was lent");
        self.message.truncate(self.end());
        let needed = self.end() + more;
        if needed > self.message.capacity() {
            let doubled = self.message.capacity().saturating_mul(2).max(COPIED_MIN);
            // More fragments may follow a non-final one: growing to the end of each would copy
            // the message once per fragment.
            let end = if self.fin { self.end() + self.missing } else { usize::MAX };
            self.grow(needed.max(doubled.min(end)));
        }
    }

    fn grow(&mut self, capacity: usize) {
        self.message.reserve_exact(capacity - self.message.len());
        if self.message.is_empty() {
            self.message.resize(LEAD, 0);
        }
    }

    /// Where in `message` the next payload byte goes.
    fn end(&self) -> usize {
        LEAD + self.filled
    }

    /// Counts `len` unmasked payload bytes at `start` of `message` as filled.
    fn arrived(&mut self, start: usize, len: usize) -> Result<(), Fault> {
        self.filled += len;
        match self.kind {
            Kind::Text => self.utf8.push(&self.message[start..start + len]),
            Kind::Binary => Ok(()),
        }
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
            filled: 0,
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
            stage: Stage::Header,
            lent: false,
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
/// Least capacity for a message whose bytes are copied from inputs: a page.
const COPIED_MIN: usize = 4 << 10;
/// Least capacity for a direct receive.
const DIRECT_MIN: usize = 64 << 10;
/// A direct receive into less than this, with more missing, is not worth its system call.
const ROOM_MIN: usize = 32 << 10;
/// Most room zeroed at a time: what the second-level cache of a core can hold beside other things.
const ROOM_MAX: usize = 256 << 10;

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

    /// Receives `bytes` into the message, at most `most` at a time, as an engine would.
    fn receive(
        partial: &mut Option<Box<Partial>>,
        mut bytes: &[u8],
        most: usize,
    ) -> Result<Option<Event>, Fault> {
        loop {
            let message = partial.as_deref_mut().expect("in progress");
            assert_eq!(message.missing(), bytes.len());
            let (mut buffer, end) = message.take_buffer();
            let room = buffer.len() - end;
            assert!(room > 0 && room <= bytes.len() && room <= ROOM_MAX);
            assert!(buffer.capacity() <= 2 * end + (128 << 10), "memory follows bytes");
            let n = most.min(room);
            buffer[end..end + n].copy_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            let event = decoder().fill(partial, buffer, n)?;
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "too slow there")]
    fn direct_receives_make_the_message() {
        let text = "grüße ".repeat(100_000);
        let bytes = frame_of(Opcode::Text, true, text.as_bytes());
        for (first, most) in [(14, usize::MAX), (15, 1000), (70_000, 65_537), (20, 300_000)] {
            let (mut partial, mut at) = (None, 0);
            let event = decoder().decode(&mut partial, &mut bytes[..first].to_vec(), &mut at);
            assert_eq!((event, at), (Ok(None), first));
            let event = receive(&mut partial, &bytes[first..], most).unwrap();
            let expected = Payload::Assembled(text.clone().into());
            assert_eq!(event, Some(Event::Message(Kind::Text, expected)));
            assert!(partial.is_none());
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "too slow there")]
    fn direct_receives_fail_with_the_first_bad_byte() {
        let mut text = vec![b'a'; 200_000];
        text[150_000] = 0xff;
        let bytes = frame_of(Opcode::Text, true, &text);
        let (mut partial, mut at) = (None, 0);
        decoder().decode(&mut partial, &mut bytes[..100].to_vec(), &mut at).unwrap();
        let mut filled = 100 - 14;
        while filled + 1000 <= 150_000 {
            let (mut buffer, end) = partial.as_deref_mut().unwrap().take_buffer();
            assert_eq!(end, LEAD + filled);
            buffer[end..end + 1000].copy_from_slice(&bytes[14 + filled..14 + filled + 1000]);
            assert_eq!(decoder().fill(&mut partial, buffer, 1000), Ok(None));
            filled += 1000;
        }
        assert_eq!(receive(&mut partial, &bytes[14 + filled..], 1000), Err(Fault::InvalidUtf8));
        assert!(partial.is_none());
    }

    #[test]
    #[cfg_attr(miri, ignore = "too slow there")]
    fn an_unused_loan_changes_nothing() {
        let bytes = frame_of(Opcode::Binary, false, &[5; 100_000]);
        let (mut partial, mut at) = (None, 0);
        decoder().decode(&mut partial, &mut bytes[..500].to_vec(), &mut at).unwrap();
        for _ in 0..3 {
            let (buffer, end) = partial.as_deref_mut().unwrap().take_buffer();
            assert_eq!((end, buffer.len()), (LEAD + 500 - 14, 64 << 10));
            assert_eq!(decoder().fill(&mut partial, buffer, 0), Ok(None));
        }
        // Bytes that come through decode after all find their place, too.
        let mut rest = bytes[500..].to_vec();
        rest.extend(frame_of(Opcode::Ping, true, b"now"));
        rest.extend(frame_of(Opcode::Continuation, true, &[6; 10]));
        at = 0;
        let ping = decoder().decode(&mut partial, &mut rest, &mut at).unwrap();
        assert!(matches!(ping, Some(Event::Ping(Payload::Inline(_)))));
        // Between fragments nothing is missing, and a loan without room is harmless.
        let (buffer, end) = partial.as_deref_mut().unwrap().take_buffer();
        assert_eq!((end, buffer.len()), (LEAD + 100_000, LEAD + 100_000));
        assert_eq!(decoder().fill(&mut partial, buffer, 0), Ok(None));
        let event = decoder().decode(&mut partial, &mut rest, &mut at).unwrap();
        let Some(Event::Message(Kind::Binary, Payload::Assembled(message))) = event else {
            panic!("{event:?}");
        };
        assert_eq!(message, [vec![5; 100_000], vec![6; 10]].concat());
    }

    #[test]
    fn a_loan_before_the_first_byte_changes_nothing() {
        let mut input = frame_of(Opcode::Binary, false, b"");
        let (mut partial, mut at) = (None, 0);
        assert_eq!(decoder().decode(&mut partial, &mut input, &mut at), Ok(None));
        let (buffer, _) = partial.as_deref_mut().unwrap().take_buffer();
        assert!(buffer.is_empty());
        assert_eq!(decoder().fill(&mut partial, buffer, 0), Ok(None));
        let mut rest = frame_of(Opcode::Continuation, true, b"");
        at = 0;
        let event = decoder().decode(&mut partial, &mut rest, &mut at);
        let empty = Payload::Assembled(Bytes::new());
        assert_eq!(event, Ok(Some(Event::Message(Kind::Binary, empty))));
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
