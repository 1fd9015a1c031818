//! What is queued for one peer, and what happens when it is too much.
//!
//! An outbox exists only while there is something to send. Within a turn small frames lie in the
//! core's cork (one buffer for all connections) and received payloads where they were received;
//! both are valid until the turn's sends are done. What the kernel did not take by then is copied
//! into segments of its own ([`Outbox::settle`]).
//!
//! The invariant: `bytes` is the sum of all segments less what was sent of the first, and only the
//! first segment may be partly sent, so a message is dropped whole or not at all.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;

use bytes::Bytes;

/// What to do when a message would exceed the limit of an outbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// Close the connection with 1008: a peer that misses a message must know.
    #[default]
    CloseSlow,
    /// Drop the new message.
    DropNewest,
    /// Drop the oldest messages that are not partly sent until the new one fits.
    DropOldest,
    /// As drop-oldest; and a message with a key replaces a queued one with the same key at any
    /// fill, so that a slow reader gets the newest state of each key.
    Conflate,
}

/// Bytes of a segment, and who keeps them.
#[derive(Clone, Debug)]
pub enum Data {
    /// In the core's cork, this turn only.
    Cork(Range<usize>),
    /// In the core's receive arena, this turn only.
    Arena(Range<usize>),
    /// Reference-counted.
    Shared(Bytes),
}

/// What a segment is, as far as dropping goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The handshake, and what follows it in one piece; may not, and nothing overtakes it.
    Head,
    /// One data message; may be dropped.
    Message,
    /// Several messages of one turn in one piece, or the rest of one; may not.
    Run,
    /// A ping or pong; may not.
    Control,
    /// The close frame, or an HTTP answer; may not, and nothing follows it.
    Final,
}

#[derive(Debug)]
struct Segment {
    data: Data,
    class: Class,
    /// Continues the message of the segment before it.
    glued: bool,
    key: u64,
}

impl Segment {
    fn new(data: Data, class: Class, key: u64) -> Self {
        Self { data, class, glued: false, key }
    }
}

/// The queue of one peer.
#[derive(Debug, Default)]
pub struct Outbox {
    queue: VecDeque<Segment>,
    /// Bytes of the first segment that were sent. `sent < queue[0].len()` unless empty.
    sent: usize,
    bytes: usize,
    /// Tick at which the kernel last took a byte, or at which the outbox began.
    pub progress: u32,
    /// What the core's account holds for this outbox: bytes that outlived a turn.
    pub settled: usize,
}

/// The turn's buffers that segments may point into.
#[derive(Clone, Copy, Debug)]
pub struct Turn<'a> {
    /// Frames encoded in this turn.
    pub cork: &'a [u8],
    /// Bytes received in this turn.
    pub arena: &'a [u8],
}

/// What [`Outbox::make_room`] dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Messages.
    pub messages: u64,
    /// Bytes.
    pub bytes: usize,
}

impl Outbox {
    /// Bytes that are not sent.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether everything is sent.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Queues a data message. Frames that follow each other in one of the turn's buffers become one
    /// segment.
    pub fn push(&mut self, data: Data, key: u64) {
        self.bytes += data.len();
        if key == 0
            && let Some(last) = self.queue.back_mut()
            && last.class != Class::Final
            && last.data.extend(&data)
        {
            if last.class != Class::Head {
                last.class = Class::Run;
            }
            return;
        }
        self.queue.push_back(Segment::new(data, Class::Message, key));
    }

    /// Where what is queued last ends, if it lies in the receive arena.
    pub fn arena_end(&self) -> Option<usize> {
        match &self.queue.back()?.data {
            Data::Arena(range) => Some(range.end),
            _ => None,
        }
    }

    /// Queues one message in two pieces. It is never dropped.
    pub fn push_pair(&mut self, header: Data, payload: Data) {
        self.bytes += header.len() + payload.len();
        self.queue.push_back(Segment::new(header, Class::Run, 0));
        self.queue.push_back(Segment { glued: true, ..Segment::new(payload, Class::Run, 0) });
    }

    /// Queues a control frame in its turn. It is never dropped.
    pub fn push_run(&mut self, data: Data) {
        self.push(data, 0);
        if let Some(last) = self.queue.back_mut()
            && last.class == Class::Message
        {
            last.class = Class::Run;
        }
    }

    /// Queues what begins the stream: a handshake. Nothing overtakes it, nothing drops it. Only
    /// another one, an interim response, can be before it.
    pub fn push_head(&mut self, data: Data) {
        debug_assert!(self.queue.iter().all(|segment| segment.class == Class::Head));
        self.bytes += data.len();
        let glued = !self.queue.is_empty();
        self.queue.push_back(Segment { glued, ..Segment::new(data, Class::Head, 0) });
    }

    /// Whether at most one message is queued.
    pub fn is_single(&self) -> bool {
        self.queue.iter().skip(1).all(|segment| segment.glued)
    }

    /// Queues what ends the stream behind everything else.
    pub fn push_final(&mut self, data: Data) {
        self.bytes += data.len();
        self.queue.push_back(Segment::new(data, Class::Final, 0));
    }

    /// Queues a control frame ahead of all that is not partly sent, so that it gets through a full
    /// outbox (RFC 6455 section 5.5: control frames may come between messages). At most
    /// one of the same kind waits: a newer ping or pong replaces it, which section 5.5.3 allows.
    /// For a peer that reads as fast as it is sent to, use [`Self::push`]: it sees every answer.
    pub fn push_control(&mut self, data: Data, kind: u64) {
        let ahead = self.pinned();
        let waiting = self.queue.iter().skip(ahead).take(2);
        let same = waiting
            .enumerate()
            .find(|(_, s)| s.class == Class::Control && s.key == kind)
            .map(|(at, _)| at + ahead);
        self.bytes += data.len();
        let segment = Segment::new(data, Class::Control, kind);
        match same {
            Some(at) => {
                self.bytes -= self.queue[at].data.len();
                self.queue[at] = segment;
            }
            None => self.queue.insert(ahead.min(self.queue.len()), segment),
        }
    }

    /// Replaces the queued message of this key, if one is queued and not partly sent.
    pub fn conflate(&mut self, data: &Data, key: u64) -> bool {
        let ahead = self.pinned();
        let found =
            self.queue.iter_mut().skip(ahead).find(|s| s.class == Class::Message && s.key == key);
        let Some(segment) = found else { return false };
        self.bytes = self.bytes - segment.data.len() + data.len();
        segment.data = data.clone();
        true
    }

    /// Drops the oldest droppable messages until at most `target` bytes are queued.
    pub fn make_room(&mut self, target: usize) -> Dropped {
        let mut dropped = Dropped::default();
        let mut at = self.pinned();
        while self.bytes > target && at < self.queue.len() {
            if self.queue[at].class != Class::Message {
                at += 1;
                continue;
            }
            // Messages are dropped from the front, so what is moved is short.
            let Some(segment) = self.queue.remove(at) else { break };
            let len = segment.data.len();
            self.bytes -= len;
            dropped.messages += 1;
            dropped.bytes += len;
        }
        dropped
    }

    /// Drops everything that is not partly sent, so that a close frame can follow at once.
    pub fn cut(&mut self) -> Dropped {
        let mut dropped = Dropped::default();
        let pinned = self.pinned();
        while self.queue.len() > pinned {
            let Some(segment) = self.queue.pop_back() else { break };
            let len = segment.data.len();
            self.bytes -= len;
            dropped.messages += u64::from(segment.class == Class::Message);
            dropped.bytes += len;
        }
        dropped
    }

    /// The slices to be sent next, appended to `slices`: at most [`SLICES_MAX`]. Returns their
    /// number and their bytes.
    pub fn gather<'a>(&'a self, turn: Turn<'a>, slices: &mut Vec<IoSlice<'a>>) -> (u32, usize) {
        let mut bytes = 0;
        let mut count = 0;
        let mut skip = self.sent;
        for segment in self.queue.iter().take(SLICES_MAX) {
            let slice = &segment.data.resolve(turn)[skip..];
            skip = 0;
            bytes += slice.len();
            count += 1;
            slices.push(IoSlice::new(slice));
        }
        (count, bytes)
    }

    /// Removes `taken` sent bytes from the front.
    pub fn advance(&mut self, mut taken: usize) {
        self.bytes -= taken;
        taken += self.sent;
        self.sent = 0;
        while let Some(first) = self.queue.front() {
            let len = first.data.len();
            if taken < len {
                self.sent = taken;
                return;
            }
            taken -= len;
            self.queue.pop_front();
        }
        debug_assert_eq!(taken, 0, "more was sent than queued");
    }

    /// Copies what lies in the turn's buffers into segments of its own.
    pub fn settle(&mut self, turn: Turn<'_>) {
        for (index, segment) in self.queue.iter_mut().enumerate() {
            if let Data::Shared(_) = segment.data {
                continue;
            }
            let skip = if index == 0 { self.sent } else { 0 };
            let rest = &segment.data.resolve(turn)[skip..];
            segment.data = Data::Shared(Bytes::copy_from_slice(rest));
            if skip > 0 {
                self.sent = 0;
                // Nothing may come between this rest and what was sent of it.
                segment.glued = true;
                if segment.class == Class::Message {
                    segment.class = Class::Run;
                }
            }
        }
    }

    /// Segments at the front that nothing may overtake: the handshake, or those of a message whose
    /// first byte is sent.
    fn pinned(&self) -> usize {
        let head = |s: &Segment| s.glued || s.class == Class::Head;
        let started = self.sent > 0 || self.queue.front().is_some_and(head);
        match started {
            true => 1 + self.queue.iter().skip(1).take_while(|s| s.glued).count(),
            false => 0,
        }
    }

    /// Checks the invariant; and that what lies in the turn's buffers is there, and only if the
    /// outbox is about to be flushed.
    pub(super) fn audit(&self, cork: usize, dirty: bool) -> Result<(), String> {
        let total: usize = self.queue.iter().map(|segment| segment.data.len()).sum();
        if self.bytes != total - self.sent {
            return Err(format!("{} bytes kept, {total} - {} found", self.bytes, self.sent));
        }
        if self.queue.front().is_some_and(|first| self.sent >= first.data.len()) {
            return Err("a sent segment is still queued".to_owned());
        }
        let lost = |segment: &&Segment| match &segment.data {
            Data::Cork(range) => !dirty || range.end > cork,
            Data::Arena(_) => !dirty,
            Data::Shared(_) => false,
        };
        match self.queue.iter().find(lost) {
            Some(segment) => Err(format!("a segment outlived its turn: {segment:?}")),
            None => Ok(()),
        }
    }

    /// Makes it new, keeping its memory for the next peer unless that is large.
    pub fn reset(&mut self) {
        self.queue.clear();
        if self.queue.capacity() > SEGMENTS_KEPT {
            self.queue.shrink_to(SEGMENTS_KEPT);
        }
        (self.sent, self.bytes, self.progress, self.settled) = (0, 0, 0, 0);
    }
}

impl Data {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        match self {
            Data::Cork(range) | Data::Arena(range) => range.len(),
            Data::Shared(bytes) => bytes.len(),
        }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Becomes both, if `next` lies directly behind this in the same buffer of the turn.
    fn extend(&mut self, next: &Self) -> bool {
        match (self, next) {
            (Data::Cork(last), Data::Cork(next)) | (Data::Arena(last), Data::Arena(next))
                if last.end == next.start =>
            {
                last.end = next.end;
                true
            }
            _ => false,
        }
    }

    fn resolve<'a>(&'a self, turn: Turn<'a>) -> &'a [u8] {
        match self {
            Data::Cork(range) => &turn.cork[range.clone()],
            Data::Arena(range) => &turn.arena[range.clone()],
            Data::Shared(bytes) => bytes,
        }
    }
}

/// Slices of one gathering send: enough that a burst leaves at once, far below the kernel's
/// UIO_MAXIOV of 1,024.
pub const SLICES_MAX: usize = 128;

/// Segments whose memory an outbox keeps between two uses.
const SEGMENTS_KEPT: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: Turn<'static> = Turn { cork: &[], arena: &[] };

    fn shared(text: &str) -> Data {
        Data::Shared(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn content(outbox: &Outbox, turn: Turn<'_>) -> String {
        let mut slices = Vec::new();
        let (_, bytes) = outbox.gather(turn, &mut slices);
        let all: Vec<u8> = slices.iter().flat_map(|s| s.iter().copied()).collect();
        assert_eq!(all.len(), bytes);
        assert_eq!(bytes, outbox.bytes());
        String::from_utf8(all).unwrap()
    }

    #[test]
    fn neighbours_in_the_cork_leave_as_one_slice() {
        let turn = Turn { cork: b"onetwothree", arena: &[] };
        let mut outbox = Outbox::default();
        outbox.push(Data::Cork(0..3), 0);
        outbox.push(Data::Cork(3..6), 0);
        outbox.push(shared("!"), 0);
        outbox.push(Data::Cork(6..11), 0);
        let mut slices = Vec::new();
        assert_eq!(outbox.gather(turn, &mut slices), (3, 12));
        assert_eq!(content(&outbox, turn), "onetwo!three");
    }

    #[test]
    fn neighbours_in_the_arena_leave_as_one_slice_and_others_do_not() {
        let turn = Turn { cork: b"?", arena: b"onetwo..three" };
        let mut outbox = Outbox::default();
        assert_eq!(outbox.arena_end(), None);
        outbox.push(Data::Arena(0..3), 0);
        outbox.push(Data::Arena(3..6), 0);
        assert_eq!(outbox.arena_end(), Some(6));
        outbox.push(Data::Arena(8..13), 0);
        outbox.push(Data::Cork(0..1), 0);
        assert_eq!(outbox.arena_end(), None);
        let mut slices = Vec::new();
        assert_eq!(outbox.gather(turn, &mut slices), (3, 12));
        assert_eq!(content(&outbox, turn), "onetwothree?");
    }

    #[test]
    fn what_is_left_after_a_turn_is_kept_without_the_turn() {
        let turn = Turn { cork: b"hello", arena: b"xxworld" };
        let mut outbox = Outbox::default();
        outbox.push(Data::Cork(0..5), 0);
        outbox.push(Data::Arena(2..7), 0);
        outbox.advance(2);
        outbox.settle(turn);
        assert_eq!(content(&outbox, EMPTY), "lloworld");
        outbox.advance(4);
        assert_eq!(content(&outbox, EMPTY), "orld");
        outbox.advance(4);
        assert!(outbox.is_empty());
    }

    #[test]
    fn a_partly_sent_message_is_never_dropped() {
        let mut outbox = Outbox::default();
        for text in ["aaaa", "bbbb", "cccc"] {
            outbox.push(shared(text), 0);
        }
        outbox.advance(1);
        let dropped = outbox.make_room(4);
        assert_eq!(dropped, Dropped { messages: 2, bytes: 8 });
        assert_eq!(content(&outbox, EMPTY), "aaa");
        assert_eq!(outbox.cut(), Dropped::default());
    }

    #[test]
    fn control_frames_overtake_but_never_split_a_message() {
        let mut outbox = Outbox::default();
        outbox.push(shared("first"), 0);
        outbox.push(shared("second"), 0);
        outbox.push_control(shared("<1>"), 9);
        assert_eq!(content(&outbox, EMPTY), "<1>firstsecond");
        outbox.advance(4);
        outbox.push_control(shared("<2>"), 9);
        outbox.push_control(shared("<3>"), 9);
        outbox.push_control(shared("(4)"), 10);
        assert_eq!(content(&outbox, EMPTY), "irst(4)<3>second");
    }

    #[test]
    fn a_message_in_two_pieces_is_one() {
        let mut outbox = Outbox::default();
        outbox.push_pair(shared("head"), shared("body"));
        outbox.push(shared("next"), 0);
        outbox.advance(4);
        outbox.push_control(shared("<1>"), 9);
        assert_eq!(content(&outbox, EMPTY), "body<1>next");
        outbox.cut();
        assert_eq!(content(&outbox, EMPTY), "body");
    }

    #[test]
    fn the_newest_of_a_key_wins() {
        let mut outbox = Outbox::default();
        outbox.push(shared("a1"), 1);
        outbox.push(shared("b1"), 2);
        assert!(outbox.conflate(&shared("a2!"), 1));
        assert!(!outbox.conflate(&shared("c1"), 3));
        assert_eq!(content(&outbox, EMPTY), "a2!b1");
    }
}
