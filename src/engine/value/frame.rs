//! A message encoded once for many receivers, and the ways in which connections frame what is sent.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::Data;
use crate::protocol::Kind;
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
    /// The same message compressed, for all who share it, on whatever core; `None` in it if that is
    /// not shorter.
    twin: Option<Arc<OnceLock<Option<Bytes>>>>,
}

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
        Self { wire: wire.into(), header, chunk: false, kind, key: 0, twin: None }
    }

    /// A message that lies in `buffer` behind [`Self::ROOM`] bytes, which become its header. A
    /// large one is not copied.
    pub(crate) fn in_place(kind: Kind, mut buffer: Vec<u8>) -> Self {
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
        Self { wire, header: used as u8, chunk: false, kind, key: 0, twin: None }
    }

    /// Room for a header in front of a payload: see [`Self::in_place`].
    pub(crate) const ROOM: usize = frame::header_len(usize::MAX, false);

    /// A piece for streams.
    pub fn chunk(payload: &[u8]) -> Self {
        let around = CHUNK_HEAD_MAX + CHUNK_TAIL.len();
        let mut wire = Vec::with_capacity(payload.len() + around);
        stream::append_chunk(&mut wire, payload);
        let header = wire.len().saturating_sub(payload.len() + CHUNK_TAIL.len()) as u8;
        Self { wire: wire.into(), header, chunk: true, kind: Kind::Binary, key: 0, twin: None }
    }

    /// With a key, other than 0, for [`crate::Policy::Conflate`]: in a full outbox it replaces an
    /// older frame with the same key.
    #[must_use]
    pub fn keyed(self, key: u64) -> Self {
        Self { key, ..self }
    }

    /// With a place for its compressed twin, so that it is compressed once for all receivers that
    /// have agreed on that. Without it each has a copy compressed of its own.
    #[must_use]
    pub fn compressible(mut self) -> Self {
        if !self.chunk && self.twin.is_none() {
            self.twin = Some(Arc::default());
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

    pub(crate) fn key(&self) -> u64 {
        self.key
    }

    /// The bytes for a connection, if it can have them without a copy. Never none of a chunk, since
    /// an empty segment is never sent.
    pub(crate) fn wire(&self, framing: Framing) -> Option<Data> {
        match framing {
            Framing::Frames if !self.chunk => Some(Data::Shared(self.wire.clone(), 0)),
            _ if self.range().is_empty() => None,
            Framing::Chunks if self.chunk => Some(Data::Shared(self.wire.clone(), 0)),
            Framing::Bare => Some(Data::Shared(self.wire.slice(self.range()), self.header)),
            _ => None,
        }
    }

    /// Whether those who frame so share its bytes, or must have a copy of their own anyway.
    pub(crate) fn suits(&self, framing: Framing) -> bool {
        match framing {
            Framing::Frames => !self.chunk,
            Framing::Chunks => self.chunk,
            Framing::Masked | Framing::Bare => true,
        }
    }

    /// The same message in the other shape, as a chunk or as a frame, for those who can share that.
    pub(crate) fn reshaped(&self) -> Self {
        let other = match self.chunk {
            true => Self::new(self.kind, self.payload()),
            false => Self::chunk(self.payload()),
        };
        let other = Self { kind: self.kind, key: self.key, ..other };
        if self.chunk { other.compressible() } else { other }
    }

    /// Whether there is a place for its compressed twin.
    #[inline]
    pub(crate) fn can_be_shared_compressed(&self) -> bool {
        self.twin.is_some()
    }

    /// The wire of its compressed twin, which the first core that asks makes; `None` if it has
    /// none.
    pub(crate) fn twin(&self, make: impl FnOnce() -> Option<Vec<u8>>) -> Option<Bytes> {
        self.twin.as_ref()?.get_or_init(|| make().map(Bytes::from)).clone()
    }

    /// Bytes of memory that it takes, shared by all its clones.
    pub fn size(&self) -> usize {
        let twin = self.twin.as_ref().map_or(0, |twin| {
            TWIN + match twin.get() {
                // It may be made while the frame is held.
                None => self.wire.len(),
                Some(None) => 0,
                Some(Some(wire)) => wire.len(),
            }
        });
        self.wire.len() + HEADER_MAX + twin
    }
}

/// Payloads of less are copied, so that none of their memory is room that nobody needs.
const COPIED: usize = 4 << 10;

/// The place for a compressed twin.
const TWIN: usize = 64;

pub(crate) fn opcode(kind: Kind) -> Opcode {
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
}
