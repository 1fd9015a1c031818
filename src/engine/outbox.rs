//! What is queued for one peer, and what happens when it is too much.
//!
//! An outbox exists only while there is something to send. Within a turn small frames lie in the
//! core's cork (one buffer for all connections) and received payloads where they were received;
//! both are valid until the turn's sends are done. What the kernel did not take by then is copied
//! into segments of its own ([`Outbox::settle`]).
//!
//! The invariant: `bytes` is the sum of all segments less what was sent of the first, and only the
//! first segment may be partly sent, so a message is dropped whole or not at all. A segment that
//! outlived a turn is booked, which the core's [`Ledger`] learns, until it is gone.

use std::collections::{HashMap, VecDeque};
use std::io::IoSlice;

use bytes::Bytes;

use super::ledger::{Ledger, UNRANKED, allocated, log2_16};
pub use super::value::{Data, Policy};

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
    /// Records of TLS; may not, and nothing overtakes them. Only others are before them.
    Sealed,
}

#[derive(Debug)]
struct Segment {
    data: Data,
    class: Class,
    /// Continues the message of the segment before it.
    glued: bool,
    /// Outlived a turn.
    booked: bool,
    key: u64,
}

const _: () = assert!(size_of::<Segment>() == SEGMENT);

impl Segment {
    fn new(data: Data, class: Class, key: u64) -> Self {
        Self { data, class, glued: false, booked: false, key }
    }
}

/// The queue of one peer.
#[derive(Debug)]
pub struct Outbox {
    queue: VecDeque<Segment>,
    /// Bytes of the first segment that were sent. `sent < queue[0].len()` unless empty.
    sent: usize,
    bytes: usize,
    /// Tick at which the kernel last took a byte, or at which the outbox began.
    pub progress: u32,
    /// The same in nanoseconds of the core's clock.
    pub(super) progress_ns: u64,
    /// Bytes taken lately of what had to wait; each second halves them.
    recent: u32,
    /// Segments that outlived a turn.
    booked: u32,
    /// Whether a turn has offered it to the kernel.
    pub(super) offer: Offer,
    /// Bytes of their own buffers, as allocated.
    own: usize,
    /// What the core's account holds for this outbox, shared buffers apart.
    pub(super) entered: usize,
    /// Where it stands among those who may have to pay; [`UNRANKED`] if it does not.
    pub(super) ranked: i64,
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            sent: 0,
            bytes: 0,
            progress: 0,
            progress_ns: 0,
            recent: 0,
            booked: 0,
            offer: Offer::Made,
            own: 0,
            entered: 0,
            ranked: UNRANKED,
        }
    }
}

/// Where an outbox stands in its core's sends: a turn offers so much and no more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Offer {
    /// Nobody waits.
    #[default]
    Made,
    /// It stands in line.
    Waits,
    /// Its place in the line was reached: this flush offers it.
    Due,
}

/// The turn's buffers that segments may point into.
#[derive(Clone, Copy, Debug)]
pub struct TurnBuffers<'a> {
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

    /// What limits compare: bytes that are not sent, and what keeps them in order.
    pub fn weight(&self) -> usize {
        self.bytes + self.queue.len() * SEGMENT
    }

    /// Memory of what outlived a turn, shared buffers apart.
    pub(super) fn held(&self) -> usize {
        match self.booked {
            0 => 0,
            _ => self.own + self.queue.capacity() * SEGMENT + OUTBOX,
        }
    }

    /// Whether the account knows of it.
    #[inline]
    pub(super) fn is_entered(&self) -> bool {
        self.entered > 0 || self.ranked != UNRANKED
    }

    /// How much it is to blame for what all hold: the time it would need at the speed at which it
    /// lately read, as a logarithm. Time passes for all alike, so it changes only when something is
    /// queued or taken.
    pub(super) fn rank(&self) -> i64 {
        let sixteenths = self.progress_ns / (HALF_LIFE_NS / 16);
        log2_16(self.weight() as u64) - log2_16(u64::from(self.recent) + 1) - sixteenths as i64
    }

    /// The kernel took bytes at this tick, which is that time.
    #[inline]
    pub(super) fn note_progress(&mut self, taken: usize, tick: u32, now_ns: u64) {
        if self.booked > 0 {
            let elapsed = now_ns.saturating_sub(self.progress_ns) / HALF_LIFE_NS;
            let rest = self.recent.checked_shr(u32::try_from(elapsed).unwrap_or(32)).unwrap_or(0);
            self.recent = rest.saturating_add(u32::try_from(taken).unwrap_or(u32::MAX));
        }
        (self.progress, self.progress_ns) = (tick, now_ns);
    }

    /// Bytes at the front that cannot be dropped: what is left of a message that is partly sent.
    pub(super) fn pinned_bytes(&self) -> usize {
        let pinned = self.queue.iter().take(self.pinned());
        pinned.map(|segment| segment.data.len()).sum::<usize>() - self.sent
    }

    /// Whether everything is sent.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Queues a data message. Frames that follow each other in one of the turn's buffers become one
    /// segment.
    #[inline]
    pub fn push(&mut self, data: Data, key: u64) {
        self.bytes += data.len();
        if key == 0
            && let Some(last) = self.queue.back_mut()
            && !matches!(last.class, Class::Final | Class::Sealed)
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
        debug_assert!(
            self.queue.iter().all(|segment| matches!(segment.class, Class::Head | Class::Sealed))
        );
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
                let old = std::mem::replace(&mut self.queue[at], segment);
                self.bytes -= old.data.len();
                if old.booked {
                    self.booked -= 1;
                    // A control frame is never shared.
                    self.own -= allocated(old.data.len());
                }
            }
            None => self.queue.insert(ahead.min(self.queue.len()), segment),
        }
    }

    /// Replaces the queued message of this key, if one is queued and not partly sent.
    pub fn conflate(&mut self, data: &Data, key: u64, ledger: &mut Ledger) -> bool {
        let ahead = self.pinned();
        let found =
            self.queue.iter_mut().skip(ahead).find(|s| s.class == Class::Message && s.key == key);
        let Some(segment) = found else { return false };
        self.bytes = self.bytes - segment.data.len() + data.len();
        let old = std::mem::replace(&mut segment.data, data.clone());
        if std::mem::take(&mut segment.booked) {
            self.booked -= 1;
            self.own -= old.leave(ledger);
        }
        true
    }

    /// Drops the oldest droppable messages until the queue weighs at most `target`.
    pub fn make_room(&mut self, target: usize, ledger: &mut Ledger) -> Dropped {
        let mut dropped = Dropped::default();
        let mut at = self.pinned();
        while self.weight() > target && at < self.queue.len() {
            if self.queue[at].class != Class::Message {
                at += 1;
                continue;
            }
            // Messages are dropped from the front, so what is moved is short.
            let Some(segment) = self.queue.remove(at) else { break };
            let len = segment.data.len();
            self.bytes -= len;
            self.unbook(&segment, ledger);
            dropped.messages += 1;
            dropped.bytes += len;
        }
        dropped
    }

    /// Drops everything that is not partly sent, so that a close frame can follow at once.
    pub fn cut(&mut self, ledger: &mut Ledger) -> Dropped {
        let mut dropped = Dropped::default();
        let pinned = self.pinned();
        while self.queue.len() > pinned {
            let Some(segment) = self.queue.pop_back() else { break };
            let len = segment.data.len();
            self.bytes -= len;
            self.unbook(&segment, ledger);
            dropped.messages += u64::from(segment.class == Class::Message);
            dropped.bytes += len;
        }
        dropped
    }

    /// The slices to be sent next, appended to `slices`: at most [`SLICES_MAX`] with at most `most`
    /// bytes. Returns their number and their bytes.
    #[inline]
    pub fn gather<'a>(
        &'a self,
        turn: TurnBuffers<'a>,
        most: usize,
        slices: &mut Vec<IoSlice<'a>>,
    ) -> (u32, usize) {
        if self.queue.len() == 1
            && let Some(only) = self.queue.front()
        {
            let slice = &only.data.resolve(turn)[self.sent..];
            let slice = &slice[..slice.len().min(most)];
            slices.push(IoSlice::new(slice));
            return (1, slice.len());
        }
        self.gather_many(turn, most, slices)
    }

    /// The same of several segments.
    fn gather_many<'a>(
        &'a self,
        turn: TurnBuffers<'a>,
        most: usize,
        slices: &mut Vec<IoSlice<'a>>,
    ) -> (u32, usize) {
        let mut bytes = 0;
        let mut count = 0;
        let mut skip = self.sent;
        for segment in self.queue.iter().take(SLICES_MAX) {
            let slice = &segment.data.resolve(turn)[skip..];
            let slice = &slice[..slice.len().min(most - bytes)];
            skip = 0;
            bytes += slice.len();
            count += 1;
            slices.push(IoSlice::new(slice));
            if bytes == most {
                break;
            }
        }
        (count, bytes)
    }

    /// Whether it may stand in line: what lies in the turn's buffers would have to be copied, and
    /// is an answer that its client waits for.
    #[inline]
    pub(super) fn can_wait(&self) -> bool {
        match self.queue.front().map(|first| &first.data) {
            Some(Data::Shared(..)) => true,
            Some(Data::Own(_)) => self.bytes > WAITS_FROM,
            _ => false,
        }
    }

    /// Removes `taken` sent bytes from the front.
    #[inline]
    pub fn advance(&mut self, taken: usize, ledger: &mut Ledger) {
        self.bytes -= taken;
        if self.bytes == 0 && self.booked == 0 {
            // Mostly all of it, and nothing of it is in the account.
            while self.queue.pop_front().is_some() {}
            self.sent = 0;
        } else {
            self.advance_in_part(taken, ledger);
        }
    }

    /// Segment by segment, since something stays or leaves the account.
    #[inline(never)]
    fn advance_in_part(&mut self, mut taken: usize, ledger: &mut Ledger) {
        taken += self.sent;
        self.sent = 0;
        while let Some(first) = self.queue.front() {
            let len = first.data.len();
            if taken < len {
                self.sent = taken;
                return;
            }
            taken -= len;
            if let Some(sent) = self.queue.pop_front() {
                self.unbook(&sent, ledger);
            }
        }
        debug_assert_eq!(taken, 0, "more was sent than queued");
    }

    /// Copies what lies in the turn's buffers into segments of its own, and books what is new.
    pub fn settle(&mut self, turn: TurnBuffers<'_>, ledger: &mut Ledger) {
        let len = self.queue.len();
        if self.queue.capacity() > SEGMENTS_KEPT.max(4 * len) {
            self.queue.shrink_to(2 * len);
        }
        // What is new is mostly at the end, or among the first: a control frame.
        let first = len.min(FRONT);
        for index in (0..first).chain((first..len).rev()) {
            if self.booked as usize == len {
                break;
            }
            self.settle_segment(index, turn, ledger);
        }
    }

    fn settle_segment(&mut self, index: usize, turn: TurnBuffers<'_>, ledger: &mut Ledger) {
        let segment = &mut self.queue[index];
        if segment.booked {
            return;
        }
        if let Data::Cork(_) | Data::Arena(_) = segment.data {
            let skip = if index == 0 { self.sent } else { 0 };
            let rest = &segment.data.resolve(turn)[skip..];
            segment.data = Data::Own(Bytes::copy_from_slice(rest));
            if skip > 0 {
                self.sent = 0;
                // Nothing may come between this rest and what was sent of it.
                segment.glued = true;
                if segment.class == Class::Message {
                    segment.class = Class::Run;
                }
            }
        }
        segment.booked = true;
        self.booked += 1;
        self.own += segment.data.enter(ledger);
    }

    /// Takes a segment that is gone out of the account.
    fn unbook(&mut self, segment: &Segment, ledger: &mut Ledger) {
        if segment.booked {
            self.booked -= 1;
            self.own -= segment.data.leave(ledger);
        }
    }

    /// Segments at the front that nothing may overtake: the handshake, or those of a message whose
    /// first byte is sent.
    fn pinned(&self) -> usize {
        let head = |s: &Segment| s.glued || matches!(s.class, Class::Head | Class::Sealed);
        let started = self.sent > 0 || self.queue.front().is_some_and(head);
        match started {
            true => 1 + self.queue.iter().skip(1).take_while(|s| s.glued).count(),
            false => 0,
        }
    }

    /// Checks the invariant; and that what lies in the turn's buffers is there, and only if the
    /// outbox is about to be flushed. Adds the buffers that it shares to `shared`.
    pub(super) fn audit(
        &self,
        cork: usize,
        dirty: bool,
        shared: &mut HashMap<usize, u32>,
    ) -> Result<(), String> {
        let total: usize = self.queue.iter().map(|segment| segment.data.len()).sum();
        if self.bytes != total - self.sent {
            return Err(format!("{} bytes kept, {total} - {} found", self.bytes, self.sent));
        }
        if self.queue.front().is_some_and(|first| self.sent >= first.data.len()) {
            return Err("a sent segment is still queued".to_owned());
        }
        let booked = || self.queue.iter().filter(|segment| segment.booked);
        let mut own = 0;
        for segment in booked() {
            match &segment.data {
                Data::Shared(bytes, lead) => {
                    *shared.entry(start_of(bytes, *lead)).or_default() += 1;
                }
                data => own += allocated(data.len()),
            }
        }
        let count = booked().count() as u32;
        if (self.own, self.booked) != (own, count) {
            let kept = (self.own, self.booked);
            return Err(format!("{kept:?} booked, ({own}, {count}) found"));
        }
        if !dirty && self.entered != self.held() {
            return Err(format!("entered with {}, holds {}", self.entered, self.held()));
        }
        let lost = |segment: &&Segment| match &segment.data {
            Data::Cork(range) => !dirty || range.end > cork,
            Data::Arena(_) => !dirty,
            Data::Own(_) | Data::Shared(..) => !dirty && !segment.booked,
        };
        match self.queue.iter().find(lost) {
            Some(segment) => Err(format!("a segment outlived its turn: {segment:?}")),
            None => Ok(()),
        }
    }

    /// Makes it new, keeping its memory for the next peer unless that is large. Its account must be
    /// brought up to date before it gets another owner.
    #[inline]
    pub fn reset(&mut self, ledger: &mut Ledger) {
        while let Some(segment) = self.queue.pop_front() {
            self.unbook(&segment, ledger);
        }
        if self.queue.capacity() > SEGMENTS_KEPT {
            self.queue.shrink_to(SEGMENTS_KEPT);
        }
        (self.sent, self.bytes, self.progress, self.recent) = (0, 0, 0, 0);
        self.progress_ns = 0;
        self.offer = Offer::Made;
    }
}

impl Data {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        match self {
            Data::Cork(range) | Data::Arena(range) => range.len(),
            Data::Own(bytes) | Data::Shared(bytes, _) => bytes.len(),
        }
    }

    /// Outlives its turn. Returns the memory that it takes for itself.
    fn enter(&self, ledger: &mut Ledger) -> usize {
        match self {
            Data::Shared(bytes, lead) => {
                ledger.share(start_of(bytes, *lead), allocated(usize::from(*lead) + bytes.len()));
                0
            }
            data => allocated(data.len()),
        }
    }

    /// Undoes [`Self::enter`].
    fn leave(&self, ledger: &mut Ledger) -> usize {
        match self {
            Data::Shared(bytes, lead) => {
                ledger.unshare(start_of(bytes, *lead));
                0
            }
            data => allocated(data.len()),
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

    fn resolve<'a>(&'a self, turn: TurnBuffers<'a>) -> &'a [u8] {
        match self {
            Data::Cork(range) => &turn.cork[range.clone()],
            Data::Arena(range) => &turn.arena[range.clone()],
            Data::Own(bytes) | Data::Shared(bytes, _) => bytes,
        }
    }
}

/// What names a shared buffer: where it begins. All wire forms of a frame lie in the same one.
fn start_of(bytes: &Bytes, lead: u8) -> usize {
    bytes.as_ptr() as usize - usize::from(lead)
}

/// Slices of one gathering send: enough that a burst leaves at once, far below the kernel's
/// UIO_MAXIOV of 1,024.
pub const SLICES_MAX: usize = 128;

/// Bytes of a connection's own from which they may stand in line.
const WAITS_FROM: usize = 16 << 10;

/// Segments whose memory an outbox keeps between two uses.
const SEGMENTS_KEPT: usize = 8;

/// Segments at the front among which a control frame is put.
const FRONT: usize = 4;

/// Bytes of a segment in its queue.
pub const SEGMENT: usize = 56;

/// What an outbox takes besides its queue: itself (96), and its place among those who may have to
/// pay (48).
const OUTBOX: usize = 144;

const _: () = assert!(size_of::<Outbox>() <= 96);

/// How fast it is forgotten that a peer has read.
const HALF_LIFE_NS: u64 = 1_000_000_000;

#[path = "outbox_sealed.rs"]
mod sealed;

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
