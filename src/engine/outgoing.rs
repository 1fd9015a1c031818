//! What a turn has to send, and what outlived turns before it.
//!
//! Owns the cork, in which frames of the turn are encoded, the marks of those with something to
//! send or to settle, and the account of all outboxes. Never sends. The invariant: a connection
//! with [`Flags::DIRTY`] is marked once, and one with [`Flags::BLOCKED`] is counted once; what an
//! outbox holds beyond a turn is in the ledger.

use std::collections::VecDeque;

use bytes::Bytes;

use super::clock::Clock;
use super::ledger::Ledger;
use super::outbox::{Offer, Outbox, SEGMENT, TurnBuffers};
use super::secure::SEALED_MAX;
use super::slots::{Flags, Hot, Slots};
use super::value::Data;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// Frames encoded in this turn.
    cork: Vec<u8>,
    /// Memory of what this turn has queued and not offered to the kernel, apart from the cork.
    own: usize,
    /// Who was not offered all there is, in line, each with its generation: whose slot has got
    /// another owner since is no longer meant.
    line: VecDeque<(u32, u32)>,
    /// Slots with something to send or to settle.
    dirty: Vec<u32>,
    /// Memory of outboxes that outlived a turn.
    ledger: Ledger,
    /// Connections whose send buffer is full.
    blocked: u64,
    /// Boxed as the slots hold them, so that reuse moves a pointer.
    #[allow(clippy::vec_box)]
    spare: Vec<Box<Outbox>>,
}

impl Outgoing {
    /// Encodes something into the cork.
    #[inline]
    pub(super) fn write(&mut self, encode: impl FnOnce(&mut Vec<u8>)) -> Data {
        let start = self.cork.len();
        encode(&mut self.cork);
        Data::Cork(start..self.cork.len())
    }

    /// The turn has queued so many bytes elsewhere than in the cork.
    pub(super) fn note_own(&mut self, bytes: usize) {
        self.own += bytes;
    }

    /// Memory of what this turn has queued and not offered to the kernel.
    #[inline]
    pub(super) fn turn_size(&self) -> usize {
        self.cork.len() + self.own
    }

    /// Bytes in the cork.
    pub(super) fn corked(&self) -> usize {
        self.cork.len()
    }

    /// The turn's buffers, where segments lie.
    #[inline]
    pub(super) fn turn<'a>(&'a self, arena: &'a [u8]) -> TurnBuffers<'a> {
        TurnBuffers { cork: &self.cork, arena }
    }

    /// What was corked is sent, or kept elsewhere.
    pub(super) fn end_turn(&mut self) {
        self.cork.clear();
        self.own = 0;
        if self.cork.capacity() > CORK_KEPT {
            self.cork.shrink_to(CORK_KEPT);
        }
    }

    /// Marks a connection for the flush at the end of the turn.
    #[inline]
    pub(super) fn mark(&mut self, slot: u32, hot: &mut Hot) {
        if !hot.set(Flags::DIRTY) {
            self.dirty.push(slot);
        }
    }

    /// Those that are marked, in their order.
    #[inline]
    pub(super) fn marked(&self) -> &[u32] {
        &self.dirty
    }

    /// Puts a mark further to the front, to where one is that was settled.
    pub(super) fn move_mark(&mut self, at: usize, slot: u32) {
        self.dirty[at] = slot;
    }

    /// Forgets the marks from here on.
    pub(super) fn truncate_marks(&mut self, count: usize) {
        self.dirty.truncate(count);
    }

    /// Forgets the first marks, whose connections are settled.
    pub(super) fn drop_marks(&mut self, count: usize) {
        match count == self.dirty.len() {
            true => self.dirty.clear(),
            false => drop(self.dirty.drain(..count)),
        }
    }

    /// The outbox of a connection, which is made if there is none; the connection is marked, and
    /// one more segment counted.
    #[inline]
    pub(super) fn open<'a>(
        &mut self,
        slot: u32,
        hot: &'a mut Hot,
        clock: &Clock,
    ) -> &'a mut Outbox {
        self.own += SEGMENT;
        self.mark(slot, hot);
        hot.outbox.get_or_insert_with(|| {
            self.own += OUTBOX_NEW;
            let mut outbox = self.spare.pop().unwrap_or_default();
            (outbox.progress, outbox.progress_ns) = (clock.tick(), clock.now_ns());
            outbox
        })
    }

    /// Gives the outbox of a connection that needs none back to the pool: nothing waits for room in
    /// the send buffer any more.
    #[inline]
    pub(super) fn retire(&mut self, slot: u32, hot: &mut Hot) {
        let Some(mut outbox) = hot.outbox.take() else { return };
        self.unblock(hot);
        outbox.reset(&mut self.ledger);
        // Mostly it held nothing beyond its turn.
        if outbox.is_entered() {
            self.ledger.enter(slot, &mut outbox);
        }
        if self.spare.len() < SPARE_OUTBOXES {
            self.spare.push(outbox);
        }
    }

    /// Enters in the account what a connection's outbox holds now.
    pub(super) fn enter(&mut self, slot: u32, hot: &mut Hot) {
        if let Some(outbox) = hot.outbox.as_mut() {
            self.ledger.enter(slot, outbox);
        }
    }

    /// Drops all that is not partly sent. Returns how many messages that were.
    pub(super) fn cut(&mut self, hot: &mut Hot) -> u64 {
        hot.outbox.as_mut().map_or(0, |outbox| outbox.cut(&mut self.ledger).messages)
    }

    /// Drops the oldest messages until the rest weighs at most `target`. Returns how many.
    pub(super) fn make_room(&mut self, hot: &mut Hot, target: usize) -> u64 {
        hot.outbox.as_mut().map_or(0, |outbox| outbox.make_room(target, &mut self.ledger).messages)
    }

    /// Replaces the queued message of this key, if one is queued and not partly sent.
    pub(super) fn conflate(&mut self, hot: &mut Hot, wire: &Data, key: u64) -> bool {
        hot.outbox.as_mut().is_some_and(|outbox| outbox.conflate(wire, key, &mut self.ledger))
    }

    /// The kernel took bytes of a connection.
    #[inline]
    pub(super) fn note_sent(&mut self, slot: u32, hot: &mut Hot, taken: usize, clock: &Clock) {
        let Some(outbox) = hot.outbox.as_mut() else { return };
        outbox.note_progress(taken, clock.tick(), clock.now_ns());
        outbox.advance(taken, &mut self.ledger);
        if outbox.entered > 0 {
            self.ledger.enter(slot, outbox);
        }
    }

    /// Bytes of a connection are sealed, and none of it is taken.
    pub(super) fn consume(&mut self, slot: u32, hot: &mut Hot, plain: usize) {
        let Some(outbox) = hot.outbox.as_mut() else { return };
        outbox.advance(plain, &mut self.ledger);
        if outbox.entered > 0 {
            self.ledger.enter(slot, outbox);
        }
    }

    /// Drops all that is not sealed. Returns how many messages that were.
    pub(super) fn keep_sealed(&mut self, hot: &mut Hot) -> u64 {
        hot.outbox.as_mut().map_or(0, |outbox| outbox.keep_sealed(&mut self.ledger))
    }

    /// Queues records of TLS before all that is not sealed.
    pub(super) fn push_sealed(&mut self, slot: u32, hot: &mut Hot, bytes: Vec<u8>, clock: &Clock) {
        if !bytes.is_empty() {
            self.own += bytes.len();
            self.open(slot, hot, clock).push_sealed(Bytes::from(bytes), &mut self.ledger);
        }
    }

    /// Puts in front what is sealed and was not taken.
    pub(super) fn put_back(&mut self, hot: &mut Hot, rest: Bytes) {
        if let Some(outbox) = hot.outbox.as_mut() {
            outbox.push_sealed(rest, &mut self.ledger);
        }
    }

    /// Copies what is left out of the turn's buffers, and enters it in the account.
    pub(super) fn keep(&mut self, slot: u32, hot: &mut Hot, arena: &[u8]) {
        let Some(outbox) = hot.outbox.as_mut() else { return };
        outbox.settle(TurnBuffers { cork: &self.cork, arena }, &mut self.ledger);
        self.ledger.enter(slot, outbox);
    }

    /// A send buffer is full.
    pub(super) fn block(&mut self, hot: &mut Hot) {
        self.blocked += u64::from(!hot.set(Flags::BLOCKED));
    }

    /// There may be room in it.
    pub(super) fn unblock(&mut self, hot: &mut Hot) {
        self.blocked -= u64::from(hot.clear(Flags::BLOCKED));
    }

    /// Connections whose send buffer is full.
    #[inline]
    pub(super) fn blocked(&self) -> u64 {
        self.blocked
    }

    /// Whether the last flush left something that it did not offer.
    #[inline]
    pub(super) fn is_unoffered(&self) -> bool {
        !self.line.is_empty()
    }

    /// Puts a connection in line that was not offered all there is, unless it stands there.
    pub(super) fn put_in_line(&mut self, slot: u32, hot: &mut Hot) {
        let generation = hot.generation;
        if let Some(outbox) = hot.outbox.as_mut().filter(|it| it.offer != Offer::Waits) {
            outbox.offer = Offer::Waits;
            self.line.push_back((slot, generation));
        }
    }

    /// Marks those in line whose turn has come, and takes what they have from `left`. Returns what
    /// is left for others.
    #[inline]
    pub(super) fn call_in_line<'a>(&mut self, slots: &mut Slots, left: &'a mut usize) -> Share<'a> {
        let bounded = *left != usize::MAX;
        if !self.line.is_empty() {
            self.call_those(slots, left);
        }
        Share { bounded, left }
    }

    #[inline(never)]
    fn call_those(&mut self, slots: &mut Slots, left: &mut usize) {
        while *left > 0
            && let Some((slot, generation)) = self.line.pop_front()
        {
            let Some(hot) = slots.lookup(slot, generation) else { continue };
            let most = if hot.has(Flags::TLS) { SEALED_MAX } else { OFFER_MAX };
            let Some(outbox) = hot.outbox.as_mut() else { continue };
            if outbox.offer == Offer::Waits {
                outbox.offer = Offer::Due;
                *left = left.saturating_sub(cost(outbox.bytes(), most));
                self.mark(slot, hot);
            }
        }
    }

    /// Checks that who has to stand in line does.
    pub(super) fn audit_line(&self, slot: u32, hot: &Hot) -> Result<(), String> {
        let offer = hot.outbox.as_ref().map_or(Offer::Made, |outbox| outbox.offer);
        match offer {
            Offer::Waits if self.line.contains(&(slot, hot.generation)) => Ok(()),
            Offer::Waits => Err("waits for its offer, but not in line".to_owned()),
            Offer::Due if !hot.has(Flags::DIRTY) => {
                Err("its offer was due and not made".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// The account of outboxes.
    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(super) fn shrink(&mut self) {
        self.cork.shrink_to_fit();
        self.dirty.shrink_to_fit();
        self.line.shrink_to_fit();
        self.ledger.shrink();
        // A few of thousands that were made together: each would keep a page of the allocator's.
        self.spare = Vec::new();
    }
}

/// The rest of a turn's share of sends.
pub(super) struct Share<'a> {
    bounded: bool,
    /// More than 0 only once nobody stands in line.
    left: &'a mut usize,
}

impl Share<'_> {
    /// Whether an outbox is offered, of which one send takes `most` bytes. If it has to stand in
    /// line now, somebody is in a hurry.
    #[inline]
    pub(super) fn offers(&mut self, outbox: &Outbox, most: usize, hurry: &mut bool) -> bool {
        match outbox.offer {
            Offer::Waits => false,
            Offer::Made if outbox.can_wait() => {
                if *self.left == 0 {
                    *hurry = true;
                    return false;
                }
                *self.left = self.left.saturating_sub(cost(outbox.bytes(), most));
                true
            }
            _ => true,
        }
    }

    /// Bytes of one offer.
    #[inline]
    pub(super) fn most(&self) -> usize {
        if self.bounded { OFFER_MAX } else { usize::MAX }
    }
}

/// The part of a turn's share that an offer of so many bytes takes.
#[inline]
fn cost(bytes: usize, most: usize) -> usize {
    bytes.min(most) + OFFER
}

/// Bytes of one offer, where turns are bounded: a tenth of a millisecond of copying.
pub(super) const OFFER_MAX: usize = 512 << 10;

/// Bytes that each offer counts besides its own.
const OFFER: usize = 512;

/// Outboxes kept for reuse per core: one turn's worth, about 30 KiB.
const SPARE_OUTBOXES: usize = 256;

/// Memory of an outbox with its first segments.
const OUTBOX_NEW: usize = 96 + 3 * SEGMENT;

/// Cork memory kept between turns.
const CORK_KEPT: usize = 1024 * 1024;
