//! What is queued for a connection, and whether it may be.
//!
//! Owns how a message becomes bytes of an outbox for each way of framing, and the limits at that
//! door. Never sends. The invariant: nothing enters an outbox but what was admitted, and control
//! frames, of which a blocked peer has at most one of a kind.
//!
//! A peer is judged by what the kernel did not take. What this turn has queued was not offered to
//! it yet, so only the turn's own bound holds for that.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::core::Core;
use super::outbox::{Policy, SEGMENT};
use super::slots::{Flags, Marks, Phase};
use super::value::{Cause, Data, Frame, Framing, SendError, opcode};
use crate::protocol::frame::{self, HEADER_MAX, Header, Opcode, header_len};
use crate::protocol::{Kind, stream};

impl Core {
    /// Copies a payload into a frame of this turn.
    pub(super) fn queue_message(
        &mut self,
        slot: u32,
        generation: u32,
        kind: Kind,
        payload: &[u8],
    ) -> Result<(), SendError> {
        let framing = self.admit(slot, generation, payload.len() + AROUND_MAX)?;
        self.put_message(slot, framing, kind, payload);
        Ok(())
    }

    /// The same for a payload that is never compressed: the length of what is would tell of secrets
    /// beside text that somebody else chooses.
    pub(super) fn queue_secret(
        &mut self,
        slot: u32,
        generation: u32,
        kind: Kind,
        payload: &[u8],
    ) -> Result<(), SendError> {
        let framing = self.admit(slot, generation, payload.len() + AROUND_MAX)?;
        self.put_plain(slot, framing, kind, payload);
        Ok(())
    }

    fn put_message(&mut self, slot: u32, framing: Framing, kind: Kind, payload: &[u8]) {
        match self.deflated(slot, framing, kind, payload) {
            Some(data) => self.enqueue(slot, data, 0),
            None => self.put_plain(slot, framing, kind, payload),
        }
    }

    fn put_plain(&mut self, slot: u32, framing: Framing, kind: Kind, payload: &[u8]) {
        if payload.is_empty() && matches!(framing, Framing::Chunks | Framing::Bare) {
            // Nothing is nothing there, and a chunk of it would be the end.
            return;
        }
        if payload.len() >= CORK_MAX && framing != Framing::Masked {
            let mut wire = BytesMut::with_capacity(payload.len() + AROUND_MAX);
            let (len, bytes) = before(framing, kind, payload.len());
            wire.extend_from_slice(&bytes[..len]);
            wire.extend_from_slice(payload);
            wire.extend_from_slice(after(framing));
            self.outgoing.note_own(wire.len());
            return self.enqueue(slot, Data::Own(wire.freeze()), 0);
        }
        let mask = (framing == Framing::Masked).then(|| self.mask());
        let data = self.outgoing.write(|cork| match framing {
            Framing::Chunks => stream::append_chunk(cork, payload),
            Framing::Bare => cork.extend_from_slice(payload),
            Framing::Frames | Framing::Masked => frame::append(cork, opcode(kind), payload, mask),
        });
        self.enqueue(slot, data, 0);
    }

    /// Queues a frame that others share.
    pub(super) fn queue_frame(
        &mut self,
        slot: u32,
        generation: u32,
        frame: &Frame,
    ) -> Result<(), SendError> {
        let Some(wire) = self.wire_of(slot, frame) else {
            return self.queue_message(slot, generation, frame.kind(), frame.payload());
        };
        let conflates = self.config.outbox_policy == Policy::Conflate && frame.key() != 0;
        if conflates && self.conflate(slot, generation, &wire, frame.key()) {
            return Ok(());
        }
        self.admit(slot, generation, wire.len())?;
        self.enqueue(slot, wire, if conflates { frame.key() } else { 0 });
        Ok(())
    }

    /// A shared frame's bytes for a connection; `None` if it needs a copy of its own.
    fn wire_of(&mut self, slot: u32, frame: &Frame) -> Option<Data> {
        let framing = self.framing(slot);
        if framing == Framing::Frames {
            let twin = self.deflated_frame(slot, frame);
            if twin.is_some() {
                return twin;
            }
        }
        frame.wire(framing)
    }

    /// Queues a prefix of a stream's own and a frame that others share, as one message: both arrive
    /// or none.
    pub(super) fn queue_prefixed(
        &mut self,
        slot: u32,
        generation: u32,
        prefix: &[u8],
        frame: &Frame,
    ) -> Result<(), SendError> {
        let framing = self.framing(slot);
        let streams = matches!(framing, Framing::Chunks | Framing::Bare);
        let Some(wire) = frame.wire(framing).filter(|_| streams && !prefix.is_empty()) else {
            return self.queue_frame(slot, generation, frame);
        };
        self.admit(slot, generation, prefix.len() + AROUND_MAX + wire.len())?;
        let prefix = self.outgoing.write(|cork| match framing {
            Framing::Chunks => stream::append_chunk(cork, prefix),
            _ => cork.extend_from_slice(prefix),
        });
        self.counted.messages_out += 1;
        self.with_outbox(slot, |outbox| outbox.push_pair(prefix, wire));
        Ok(())
    }

    /// Queues a payload that is owned already: its header goes to the cork.
    pub(super) fn queue_owned(
        &mut self,
        slot: u32,
        generation: u32,
        kind: Kind,
        payload: Bytes,
    ) -> Result<(), SendError> {
        let framed = self.framing(slot) == Framing::Frames && !self.compresses(slot);
        if payload.len() < CORK_MAX || !framed {
            return self.queue_message(slot, generation, kind, &payload);
        }
        self.admit(slot, generation, payload.len() + HEADER_MAX)?;
        let (len, bytes) = before(Framing::Frames, kind, payload.len());
        let header = self.outgoing.write(|cork| cork.extend_from_slice(&bytes[..len]));
        self.counted.messages_out += 1;
        self.outgoing.note_own(payload.len());
        self.with_outbox(slot, |outbox| outbox.push_pair(header, Data::Own(payload)));
        Ok(())
    }

    /// Queues a payload that was just received, from where it lies: the header goes before it,
    /// where the client's was. From the second of a turn on, small ones move up to the one before,
    /// since sending one piece costs less than gathering many.
    #[inline]
    pub(super) fn queue_reply(
        &mut self,
        slot: u32,
        generation: u32,
        kind: Kind,
        arena: &mut [u8],
        payload: Range<usize>,
    ) -> Result<(), SendError> {
        let framing = self.admit(slot, generation, payload.len() + AROUND_MAX)?;
        let len = header_len(payload.len(), false);
        // The client's header held a mask besides, so there is room; a copy is the answer where
        // that does not hold.
        let start = match payload.start.checked_sub(len) {
            Some(start) if framing == Framing::Frames && !self.compresses(slot) => start,
            _ => {
                self.put_message(slot, framing, kind, &arena[payload]);
                return Ok(());
            }
        };
        self.counted.messages_out += 1;
        self.with_outbox(slot, |outbox| {
            // A connection is received from once a turn, so what lies between its last reply and
            // this one is its own input, and decoded.
            let payload_len = payload.len();
            let near = outbox.arena_end().filter(|end| *end < start && payload_len <= MOVED_MAX);
            let start = near.unwrap_or(start);
            let end = start + len + payload_len;
            if near.is_some() {
                arena.copy_within(payload, start + len);
            }
            let fits = frame::write_before(&mut arena[..start + len], opcode(kind), payload_len);
            debug_assert!(fits, "so long is its header");
            outbox.push(Data::Arena(start..end), 0);
        });
        Ok(())
    }

    /// Queues a ping or pong; ahead of waiting messages if the peer reads slowly. Streams have
    /// none.
    pub(super) fn queue_control(
        &mut self,
        slot: u32,
        generation: u32,
        opcode: Opcode,
        payload: &[u8],
    ) -> Result<(), SendError> {
        if payload.len() > 125 {
            return Err(SendError::TooLong);
        }
        let Some(hot) = self.slots.lookup(slot, generation) else { return Err(SendError::Gone) };
        if hot.phase() != Phase::Open || hot.has(Flags::CLOSE_SENT) {
            return Err(SendError::Gone);
        }
        if hot.has(Flags::STREAM) {
            return Err(SendError::Stream);
        }
        let (client, blocked) = (hot.has(Flags::CLIENT), hot.has(Flags::BLOCKED));
        let mask = client.then(|| self.mask());
        let data = self.outgoing.write(|cork| frame::append(cork, opcode, payload, mask));
        self.with_outbox(slot, |outbox| match blocked {
            true => outbox.push_control(data, opcode as u64),
            false => outbox.push_run(data),
        });
        Ok(())
    }

    fn enqueue(&mut self, slot: u32, data: Data, key: u64) {
        self.counted.messages_out += 1;
        self.with_outbox(slot, |outbox| outbox.push(data, key));
    }

    fn conflate(&mut self, slot: u32, generation: u32, wire: &Data, key: u64) -> bool {
        let Some(hot) = self.slots.lookup(slot, generation) else { return false };
        let replaced = hot.phase() == Phase::Open && self.outgoing.conflate(hot, wire, key);
        if replaced {
            self.counted.conflated += 1;
            self.outgoing.note_own(SEGMENT);
            self.outgoing.enter(slot, hot);
            // What is new has to be settled.
            self.outgoing.mark(slot, hot);
        }
        replaced
    }

    /// Whether `len` more bytes may be queued; applies the policy if not. Returns how the
    /// connection's messages are framed.
    #[inline]
    fn admit(&mut self, slot: u32, generation: u32, len: usize) -> Result<Framing, SendError> {
        let Some(hot) = self.slots.lookup(slot, generation) else {
            self.counted.dropped_gone += 1;
            return Err(SendError::Gone);
        };
        if hot.phase() != Phase::Open || hot.has(Flags::CLOSE_SENT) || hot.is(Marks::UNANSWERED) {
            self.counted.dropped_gone += 1;
            return Err(SendError::Gone);
        }
        let framing = hot.framing();
        let blocked = hot.has(Flags::BLOCKED);
        if self.turn_size() > self.limits.turn_hard {
            // More than one callback's worth: there is no memory to hold it until it is offered.
            self.give_up(slot, Cause::OutboxFull);
            return Err(SendError::Slow);
        }
        if blocked { self.admit_waiting(slot, framing, len) } else { Ok(framing) }
    }

    /// The same for a peer whose send buffer is full.
    #[inline(never)]
    fn admit_waiting(
        &mut self,
        slot: u32,
        framing: Framing,
        len: usize,
    ) -> Result<Framing, SendError> {
        let limit = self.config.max_outbox;
        let Some(hot) = self.slots.get_mut(slot) else { return Ok(framing) };
        let Some(outbox) = hot.outbox.as_ref() else { return Ok(framing) };
        let more = len + SEGMENT;
        if outbox.is_empty() || outbox.weight() + more <= limit {
            return Ok(framing);
        }
        match self.config.outbox_policy {
            Policy::CloseSlow => {
                self.give_up(slot, Cause::Slow);
                Err(SendError::Slow)
            }
            Policy::DropNewest => {
                self.counted.dropped_full += 1;
                Err(SendError::Dropped)
            }
            Policy::DropOldest | Policy::Conflate => {
                let dropped = self.outgoing.make_room(hot, limit.saturating_sub(more));
                let full = hot
                    .outbox
                    .as_ref()
                    .is_some_and(|outbox| !outbox.is_empty() && outbox.weight() + more > limit);
                self.counted.dropped_full += dropped + u64::from(full);
                self.outgoing.enter(slot, hot);
                if full { Err(SendError::Dropped) } else { Ok(framing) }
            }
        }
    }
}

/// What comes before a payload that is not masked.
fn before(framing: Framing, kind: Kind, len: usize) -> (usize, [u8; BEFORE_MAX]) {
    let mut bytes = [0; BEFORE_MAX];
    let used = match framing {
        Framing::Bare => 0,
        Framing::Chunks => {
            let (head, used) = stream::chunk_head(len);
            bytes[..used].copy_from_slice(&head[..used]);
            used
        }
        Framing::Frames | Framing::Masked => {
            let header = Header { fin: true, opcode: opcode(kind), mask: None, len: len as u64 };
            bytes.first_chunk_mut().map_or(0, |head| header.write(head))
        }
    };
    (used, bytes)
}

/// What comes after a payload.
fn after(framing: Framing) -> &'static [u8] {
    if framing == Framing::Chunks { stream::CHUNK_TAIL } else { b"" }
}

/// Most bytes before a payload: those of a chunk.
const BEFORE_MAX: usize = stream::CHUNK_HEAD_MAX;
const _: () = assert!(HEADER_MAX <= BEFORE_MAX);

/// Most bytes before and after a payload.
const AROUND_MAX: usize = BEFORE_MAX + stream::CHUNK_TAIL.len();

/// Payloads up to this size are copied into the cork; larger ones get a buffer of their own.
pub(super) const CORK_MAX: usize = 16 * 1024;

/// Longest payload, in bytes, of a reply that is moved beside the others of its turn.
const MOVED_MAX: usize = 256;

#[cfg(test)]
#[path = "queueing_tests.rs"]
mod tests;
