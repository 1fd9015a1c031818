//! A message encoded once for many receivers, and the ways in which connections frame what is sent.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::Data;
use crate::protocol::Kind;
use crate::protocol::deflate::{WINDOWS, Window};
use crate::protocol::frame::{self, HEADER_MAX, Header, Opcode};
use crate::protocol::stream::{self, CHUNK_HEAD_MAX, CHUNK_TAIL};

/// How what is sent on a connection is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// WebSocket, from a server.
    Frames,
    /// WebSocket, from a client: masked anew for each receiver.
    Masked,
    /// A chunked HTTP response.
    Chunks,
    /// An HTTP response that ends with the connection.
    Bare,
}

/// A message encoded once, to be shared by any number of receivers. Cloning counts a reference.
/// Receivers whose connections frame it in another way than it was made for get a copy.
#[derive(Clone, Debug)]
pub struct Frame {
    wire: Bytes,
    header: u8,
    /// A chunk of a stream and not a frame.
    chunk: bool,
    kind: Kind,
    key: u64,
    /// The same message compressed, for all who share it, on whatever core. Made when somebody
    /// wants one, so that nobody pays for it where nothing is compressed.
    twins: OnceLock<Arc<Twins>>,
}

/// A compressed message for each window; `None` in it if that is not shorter.
type Twins = [OnceLock<Option<Bytes>>; WINDOWS];

impl Frame {
    /// A text message.
    pub fn text(text: &str) -> Self {
        Self::new(Kind::Text, text.as_bytes())
    }

    /// A binary message.
    pub fn binary(payload: &[u8]) -> Self {
        Self::new(Kind::Binary, payload)
    }

    /// A message of either kind. The caller answers for the UTF-8 of text.
    pub fn new(kind: Kind, payload: &[u8]) -> Self {
        let mut wire = Vec::with_capacity(payload.len() + HEADER_MAX);
        frame::append(&mut wire, opcode(kind), payload, None);
        let header = (wire.len() - payload.len()) as u8;
        Self { wire: wire.into(), header, chunk: false, kind, key: 0, twins: OnceLock::new() }
    }

    /// A message that lies in `buffer` behind [`Self::ROOM`] bytes, which become its header. From
    /// 4 KiB on it is not copied, unless the buffer has an eighth of it to spare. The caller
    /// answers for the UTF-8 of text.
    ///
    /// # Panics
    ///
    /// If the buffer is shorter than [`Self::ROOM`].
    pub fn in_place(kind: Kind, mut buffer: Vec<u8>) -> Self {
        let payload = buffer.len() - Self::ROOM;
        // What the buffer has too much would be held and not counted.
        if payload < COPIED || buffer.capacity() - buffer.len() > payload / 8 {
            return Self::new(kind, &buffer[Self::ROOM..]);
        }
        let mut bytes = [0; HEADER_MAX];
        let header = Header { fin: true, opcode: opcode(kind), mask: None, len: payload as u64 };
        let used = header.write(&mut bytes);
        let start = Self::ROOM - used;
        buffer[start..Self::ROOM].copy_from_slice(&bytes[..used]);
        let wire = Bytes::from(buffer).slice(start..);
        Self { wire, header: used as u8, chunk: false, kind, key: 0, twins: OnceLock::new() }
    }

    /// Bytes for a header in front of a payload: see [`Self::in_place`].
    pub const ROOM: usize = frame::header_len(usize::MAX, false);

    /// A piece for streams.
    pub fn chunk(payload: &[u8]) -> Self {
        let around = CHUNK_HEAD_MAX + CHUNK_TAIL.len();
        let mut wire = Vec::with_capacity(payload.len() + around);
        stream::append_chunk(&mut wire, payload);
        let header = wire.len().saturating_sub(payload.len() + CHUNK_TAIL.len()) as u8;
        Self {
            wire: wire.into(),
            header,
            chunk: true,
            kind: Kind::Binary,
            key: 0,
            twins: OnceLock::new(),
        }
    }

    /// With a key, other than 0, for [`crate::Policy::Conflate`]: in a full outbox it replaces an
    /// older frame with the same key.
    #[must_use]
    pub fn keyed(self, key: u64) -> Self {
        Self { key, ..self }
    }

    /// With a place for its compressed twins that its clones share: so it is compressed once for
    /// all receivers that have agreed on that, or, where some have agreed on smaller windows and it
    /// is longer, once for each of three sizes of windows. Without it a clone that was made before
    /// the first compressed one is compressed again.
    #[must_use]
    pub fn compressible(self) -> Self {
        if !self.chunk {
            self.twins.get_or_init(Arc::default);
        }
        self
    }

    /// The payload.
    pub fn payload(&self) -> &[u8] {
        &self.wire[self.range()]
    }

    fn range(&self) -> Range<usize> {
        let tail = if self.chunk && !self.wire.is_empty() { CHUNK_TAIL.len() } else { 0 };
        usize::from(self.header)..self.wire.len() - tail
    }

    /// Text or binary.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub(in crate::engine) fn key(&self) -> u64 {
        self.key
    }

    /// The bytes for a connection, if it can have them without a copy. Never none of a chunk, since
    /// an empty segment is never sent.
    pub(in crate::engine) fn wire(&self, framing: Framing) -> Option<Data> {
        match framing {
            Framing::Frames if !self.chunk => Some(Data::Shared(self.wire.clone(), 0)),
            _ if self.range().is_empty() => None,
            Framing::Chunks if self.chunk => Some(Data::Shared(self.wire.clone(), 0)),
            Framing::Bare => Some(Data::Shared(self.wire.slice(self.range()), self.header)),
            _ => None,
        }
    }

    /// Whether those who frame so share its bytes, or must have a copy of their own anyway.
    pub(in crate::engine) fn suits(&self, framing: Framing) -> bool {
        match framing {
            Framing::Frames => !self.chunk,
            Framing::Chunks => self.chunk,
            Framing::Masked | Framing::Bare => true,
        }
    }

    /// The same message in the other shape, as a chunk or as a frame, for those who can share that.
    pub(in crate::engine) fn reshaped(&self) -> Self {
        let other = match self.chunk {
            true => Self::new(self.kind, self.payload()),
            false => Self::chunk(self.payload()),
        };
        Self { kind: self.kind, key: self.key, ..other }
    }

    /// Whether its clones share a place for its compressed twins.
    pub(in crate::engine) fn is_compressible(&self) -> bool {
        self.chunk || self.twins.get().is_some()
    }

    /// The wire of its compressed twin for a window, which the first core that asks makes; `None`
    /// if it has none.
    pub(in crate::engine) fn twin(
        &self,
        window: Window,
        make: impl FnOnce() -> Option<Vec<u8>>,
    ) -> Option<Bytes> {
        let twins = self.twins.get_or_init(Arc::default);
        twins[window.index()].get_or_init(|| make().map(Bytes::from)).clone()
    }

    /// Bytes of memory that it takes, shared by all its clones.
    pub fn size(&self) -> usize {
        self.wire.len() + HEADER_MAX + self.twins.get().map_or(0, |twins| self.size_of(twins))
    }

    fn size_of(&self, twins: &Twins) -> usize {
        let made = |twin: &Option<Bytes>| twin.as_ref().map_or(0, Bytes::len);
        let known = twins.iter().filter_map(OnceLock::get);
        let sizes = known.clone().map(made).sum::<usize>();
        // Others may be made while the frame is held.
        let others = Window::count(self.payload().len()).saturating_sub(known.count());
        size_of::<Twins>() + sizes + others * self.wire.len()
    }
}

/// Payloads of less are copied, so that none of their memory is room that nobody needs.
const COPIED: usize = 4 << 10;

pub(in crate::engine) fn opcode(kind: Kind) -> Opcode {
    match kind {
        Kind::Text => Opcode::Text,
        Kind::Binary => Opcode::Binary,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_in_place_is_as_one_that_was_copied() {
        for len in [0, 1, 125, 126, COPIED - 1, COPIED, 65_535, 65_536, 200_000] {
            for spare in [0, 100, len] {
                let payload = vec![b'x'; len];
                let mut buffer = Vec::with_capacity(Frame::ROOM + len + spare);
                buffer.resize(Frame::ROOM, 0);
                buffer.extend_from_slice(&payload);
                let at = buffer[Frame::ROOM..].as_ptr();
                let (placed, copied) =
                    (Frame::in_place(Kind::Text, buffer), Frame::new(Kind::Text, &payload));
                assert_eq!(placed.wire, copied.wire, "{len} bytes");
                assert_eq!(placed.payload(), payload, "{len} bytes");
                let stayed = len >= COPIED && spare <= len / 8;
                assert_eq!(
                    placed.payload().as_ptr() == at,
                    stayed,
                    "{len} bytes, {spare} to spare"
                );
            }
        }
    }

    #[test]
    fn what_it_takes_is_what_there_is() {
        let plain = Frame::text(&"x".repeat(5000));
        let size = plain.size();
        assert_eq!(size, 5000 + 4 + HEADER_MAX, "nothing for twins that nobody wants");
        // All clones have one place: the twins that there are, and those that may come.
        let frame = plain.compressible();
        let clone = frame.clone();
        let window = |bits| Window::of(5000, bits).unwrap();
        assert_eq!(frame.size(), size + size_of::<Twins>() + 3 * 5004);
        assert_eq!(frame.twin(window(15), || Some(vec![0; 100])).unwrap().len(), 100);
        assert_eq!(clone.size(), size + size_of::<Twins>() + 100 + 2 * 5004);
        assert_eq!(clone.twin(window(12), || None), None);
        assert_eq!(frame.size(), size + size_of::<Twins>() + 100 + 5004);
        let twin = clone.twin(window(13), || unreachable!("it is there"));
        assert_eq!(twin.unwrap().len(), 100, "the message fits in that window");
        // Shorter ones have fewer.
        let short = Frame::text(&"x".repeat(300)).compressible();
        assert_eq!(short.size(), 304 + HEADER_MAX + size_of::<Twins>() + 304);
    }
}
