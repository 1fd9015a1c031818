//! From outboxes to the kernel: one gathering send per connection and turn.

use std::io::{self, IoSlice};
use std::ops::Range;

use super::clock::since;
use super::core::Core;
use super::handler::Handler;
use super::links::SlowPeer;
use super::notices::Notice;
use super::outbox::{Offer, Policy};
use super::outgoing::{OFFER_MAX, Share};
use super::ring::{Ring, Send, Wait};
use super::secure::Portion;
use super::slots::{Flags, Phase};
use super::value::{Cause, ConnId};
use super::worker::Worker;

/// Lists of a flush, kept for their memory.
#[derive(Default)]
pub(super) struct Lists {
    pieces: Vec<IoSlice<'static>>,
    batch: Vec<Send>,
}

impl Lists {
    pub(super) fn shrink(&mut self) {
        self.pieces.shrink_to_fit();
        self.batch.shrink_to_fit();
    }
}

impl<R: Ring, H: Handler> Worker<R, H> {
    /// Sends what the turn queued, waits for completions if it `may_wait`, and settles what the
    /// kernel did not take. Who has more segments than one send gathers is offered them all, within
    /// reason: nobody is judged by what was not offered.
    ///
    /// A turn offers [`super::Config::turn_sends`] and no more: one large publication for many
    /// readers would keep everybody else waiting while it is copied. The others stand in line for
    /// the turns to come; answers do not. Where memory is short, and in the midst of a turn, all is
    /// offered at once.
    #[inline(always)]
    pub(super) fn flush(&mut self, may_wait: bool) -> io::Result<()> {
        self.core.settle_blocked(&self.arena.bytes);
        let wait = if may_wait { self.choose_wait() } else { Wait::No };
        let mut left = if may_wait { self.core.config.turn_sends } else { usize::MAX };
        self.flush_once(wait, &mut left)?;
        if self.core.outgoing.is_unoffered() {
            self.flush_on(left)?;
        }
        self.core.enforce_outboxes();
        self.core.notices.resume();
        Ok(())
    }

    /// Goes on with those who were not offered all there is.
    #[inline(never)]
    fn flush_on(&mut self, mut left: usize) -> io::Result<()> {
        for _ in 0..ROUNDS_MAX {
            if self.core.outgoing.ledger().total() > self.core.config.max_outboxes / 2 {
                left = usize::MAX;
            }
            if !self.core.outgoing.is_unoffered() || left == 0 {
                break;
            }
            self.core.settle_blocked(&self.arena.bytes);
            self.flush_once(Wait::No, &mut left)?;
        }
        self.core.counted.sends_late += u64::from(self.core.outgoing.is_unoffered());
        Ok(())
    }

    /// Sends what was queued so far if that is much, in the midst of a turn. A failure of the ring
    /// is kept for the turn's end.
    #[inline]
    pub(super) fn relieve(&mut self) {
        if self.core.turn_size() > self.core.limits.turn_soft {
            self.relieve_now();
        }
    }

    #[cold]
    fn relieve_now(&mut self) {
        self.core.counted.early_flushes += 1;
        if let Err(error) = self.flush(false) {
            self.failure.get_or_insert(error);
        }
    }

    /// One round of sends, which takes what it offers from `left`.
    fn flush_once(&mut self, wait: Wait, left: &mut usize) -> io::Result<()> {
        let core = &mut self.core;
        let mut share = core.outgoing.call_in_line(&mut core.slots, left);
        // Marks made from here on belong to the next flush.
        let flushed = core.outgoing.marked().len();
        self.offer_all(flushed, wait, &mut share)?;
        for at in 0..flushed {
            self.core.settle(self.core.outgoing.marked()[at], &self.arena.bytes);
        }
        self.core.outgoing.drop_marks(flushed);
        self.core.outgoing.end_turn();
        Ok(())
    }

    /// Offers the kernel what the first `flushed` marks have to send: at once, or where that has to
    /// be sealed, in portions that stay in the cache until they are sent.
    fn offer_all(&mut self, flushed: usize, wait: Wait, share: &mut Share<'_>) -> io::Result<()> {
        if !self.core.secure.is_on() {
            return self.offer(0..flushed, wait, share).map(drop);
        }
        let (mut from, mut wait) = (0, wait);
        loop {
            let Portion { to, hurry } = self.core.seal(&self.arena.bytes, from..flushed, share);
            let last = to == flushed;
            if hurry {
                wait = Wait::No;
            }
            if self.offer(from..to, if last { wait } else { Wait::No }, share)? {
                wait = Wait::No;
            }
            if last {
                self.core.end_worn_out();
                return Ok(());
            }
            from = to;
        }
    }

    /// Offers the kernel what these marks have to send. Returns whether somebody waits for what
    /// comes of it.
    fn offer(
        &mut self,
        marks: Range<usize>,
        wait: Wait,
        share: &mut Share<'_>,
    ) -> io::Result<bool> {
        let Self { ring, core, arena, lists, done, .. } = self;
        let Lists { pieces: memory, batch } = lists;
        let mut pieces = emptied(std::mem::take(memory));
        let mut hurry = false;
        let mut sealed = core.secure.sealed().iter().peekable();
        let turn = core.outgoing.turn(&arena.bytes);
        for slot in &core.outgoing.marked()[marks] {
            let Some(hot) = core.slots.get(*slot) else { continue };
            debug_assert!(!hot.has(Flags::BLOCKED), "settled before");
            if hot.phase() == Phase::Closed {
                continue;
            }
            let awaited = matches!(hot.phase(), Phase::Flushing | Phase::Passing);
            if awaited || hot.has(Flags::HIGH_WATER | Flags::PAUSED) {
                // Sends that succeed are silent, so whoever waits for one must not sleep on it.
                hurry = true;
            }
            let Some(outbox) = &hot.outbox else { continue };
            if hot.has(Flags::TLS) {
                // Decided when it was sealed.
                let Some(sealed) = sealed.next_if(|sealed| sealed.slot == *slot) else { continue };
                let (count, len) = if sealed.older {
                    // Then, in another round, what is not sealed.
                    hurry = true;
                    outbox.gather_sealed(turn, &mut pieces)
                } else {
                    let staged = core.secure.staged(sealed);
                    hurry |= sealed.plain < outbox.bytes();
                    pieces.push(IoSlice::new(staged));
                    (1, staged.len())
                };
                batch.push(Send { slot: *slot, pieces: count, len, result: Ok(0) });
                continue;
            }
            if !share.offers(outbox, OFFER_MAX, &mut hurry) {
                continue;
            }
            let (count, len) = outbox.gather(turn, share.most(), &mut pieces);
            hurry |= len < outbox.bytes();
            if len > 0 {
                batch.push(Send { slot: *slot, pieces: count, len, result: Ok(0) });
            }
        }
        ring.enter(batch, &pieces, if hurry { Wait::No } else { wait }, done)?;
        *memory = emptied(pieces);
        let mut next = 0;
        let secure = core.secure.is_on();
        for sent in batch.iter() {
            if secure && core.slots.get(sent.slot).is_some_and(|hot| hot.has(Flags::TLS)) {
                core.on_sealed_sent(sent, &mut next);
            } else {
                core.on_sent(sent);
            }
        }
        batch.clear();
        Ok(hurry)
    }
}

/// The memory of a list, for elements that borrow something else: collecting in place, as std does
/// for elements of the same layout, takes no other.
pub(super) fn emptied<A, B>(mut list: Vec<A>) -> Vec<B> {
    const { assert!(size_of::<A>() == size_of::<B>() && align_of::<A>() == align_of::<B>()) }
    list.clear();
    list.into_iter().map(|_| unreachable!("it is empty")).collect()
}

impl Core {
    #[inline]
    fn on_sent(&mut self, sent: &Send) {
        let Send { slot, len, result, .. } = *sent;
        self.counted.sends += 1;
        let Some(hot) = self.slots.get_mut(slot) else { return };
        if hot.outbox.is_none() {
            return;
        }
        let taken = result.unwrap_or(0);
        if taken > 0 {
            self.counted.bytes_out += taken as u64;
            self.watches.note_taken(slot, hot, taken);
            self.outgoing.note_sent(slot, hot, taken, &self.clock);
        }
        if taken < len {
            self.on_short(sent);
        }
    }

    /// A send did not take all.
    #[inline(never)]
    fn on_short(&mut self, sent: &Send) {
        let slot = sent.slot;
        match sent.result {
            Err(error) if !error.is_transient() => {
                self.drop_connection(slot, Cause::of_error(error));
            }
            _ => {
                let Some(hot) = self.slots.get_mut(slot) else { return };
                self.counted.sends_short += 1;
                self.outgoing.block(hot);
                self.work.arm_poll_out(slot, hot);
            }
        }
    }

    /// Settles those whose kernel is not asked, before it is decided whether to wait: sends and the
    /// wait are one call, so what follows from settling (an end, input to be read again, a
    /// deadline, too much memory) would wait for the next event.
    #[inline]
    fn settle_blocked(&mut self, arena: &[u8]) {
        if self.outgoing.blocked() > 0 {
            self.settle_those_blocked(arena);
        }
    }

    #[inline(never)]
    fn settle_those_blocked(&mut self, arena: &[u8]) {
        let (mut at, mut kept) = (0, 0);
        // Who is closed here is marked once more, and settled in the same pass.
        while let Some(slot) = self.outgoing.marked().get(at).copied() {
            at += 1;
            if self.slots.get(slot).is_some_and(|hot| hot.has(Flags::BLOCKED)) {
                self.settle(slot, arena);
            } else {
                self.outgoing.move_mark(kept, slot);
                kept += 1;
            }
        }
        self.outgoing.truncate_marks(kept);
    }

    /// Whether something is left to do that no completion announces.
    pub(super) fn has_work(&self) -> bool {
        !self.inbox.is_empty()
            || !self.notices.is_empty()
            || self.notices.has_postponed()
            || self.dials.are_asked()
            || self.outgoing.is_unoffered()
            || self.has_ring_work()
            || self.outgoing.ledger().total() > self.config.max_outboxes
    }

    /// Ends the turn for one connection: what is left leaves the turn's buffers, limits are
    /// applied, marks are set.
    #[inline]
    fn settle(&mut self, slot: u32, arena: &[u8]) {
        let Some(hot) = self.slots.get_mut(slot) else { return };
        hot.clear(Flags::DIRTY);
        let empty = hot.outbox.as_ref().is_some_and(|outbox| outbox.is_empty());
        if empty && hot.phase() == Phase::Open && !hot.has(Flags::HIGH_WATER | Flags::PAUSED) {
            // Mostly all is sent, and nobody waits for that.
            return self.outgoing.retire(slot, hot);
        }
        self.settle_rest(slot, arena);
    }

    /// The same where something is left, or somebody waits for the end.
    #[inline(never)]
    fn settle_rest(&mut self, slot: u32, arena: &[u8]) {
        let Some(hot) = self.slots.get_mut(slot) else { return };
        if hot.phase() == Phase::Closed {
            return;
        }
        let generation = hot.generation;
        let blocked = hot.has(Flags::BLOCKED);
        let Some(outbox) = hot.outbox.as_mut() else {
            self.flushed(slot);
            return;
        };
        if outbox.offer == Offer::Due {
            outbox.offer = Offer::Made;
        }
        if outbox.is_empty() {
            let waited = hot.has(Flags::HIGH_WATER | Flags::PAUSED);
            let leaves = hot.phase() == Phase::Flushing;
            let passes = hot.phase() == Phase::Passing;
            if hot.phase() == Phase::Closing {
                // The close timeout begins.
                hot.pulse.pinged = self.clock.tick();
            }
            self.outgoing.retire(slot, hot);
            if waited {
                self.drained(slot, generation);
            }
            if leaves {
                self.flushed(slot);
            }
            if passes {
                self.notices.push(Notice::Sent { slot, generation });
            }
            return;
        }
        // Nobody is slow whose kernel was not offered all there is.
        let over = blocked && outbox.weight() > self.config.max_outbox;
        let closes = self.config.outbox_policy == Policy::CloseSlow;
        if over && !closes {
            self.counted.dropped_full += self.outgoing.make_room(hot, self.config.max_outbox);
        }
        let Some(outbox) = hot.outbox.as_ref() else { return };
        let (weight, single) = (outbox.weight(), outbox.is_single());
        // One message of any size is taken; what exceeds the limit besides is too much.
        if over && closes && hot.phase() == Phase::Open && !single {
            self.give_up(slot, Cause::Slow);
            // The close frame, too, must not outlive the cork in it.
            if let Some(hot) = self.slots.get_mut(slot) {
                self.outgoing.keep(slot, hot, arena);
            }
            return;
        }
        self.outgoing.keep(slot, hot, arena);
        self.after_settling(slot, generation, weight);
    }

    /// Frees memory if more than there is for outboxes outlived the turn: who holds most and reads
    /// least pays first.
    #[inline]
    fn enforce_outboxes(&mut self) {
        if self.outgoing.ledger().total() > self.config.max_outboxes {
            self.free_outboxes();
        }
    }

    #[cold]
    fn free_outboxes(&mut self) {
        while self.outgoing.ledger().total() > self.config.max_outboxes {
            let Some(slot) = self.outgoing.ledger().worst() else { return };
            let Some(hot) = self.slots.get(slot) else { return };
            if hot.phase() == Phase::Closed {
                // It holds nothing any more. An error of the account must not become a stall.
                debug_assert!(false, "a closed connection is to pay for memory");
                return;
            }
            let pinned = hot.outbox.as_ref().map_or(0, |outbox| outbox.pinned_bytes());
            if hot.phase() == Phase::Open && pinned <= PINNED_MAX {
                self.give_up(slot, Cause::OutboxFull);
            } else {
                // A close frame would have to wait for what takes the memory.
                self.drop_connection(slot, Cause::OutboxFull);
            }
        }
    }

    fn after_settling(&mut self, slot: u32, generation: u32, weight: usize) {
        let limits = self.limits;
        let pause = self.config.pause_reads;
        let Some(hot) = self.slots.get_mut(slot) else { return };
        if weight > limits.high_water {
            hot.set(Flags::HIGH_WATER);
            // What comes on a stream is discarded, and may be its end; what comes before may open
            // one.
            let pauses = pause && hot.phase() == Phase::Open && !hot.has(Flags::STREAM);
            if pauses && !hot.set(Flags::PAUSED) {
                self.counted.read_pauses += 1;
            }
        } else if weight <= limits.low_water {
            self.drained(slot, generation);
        }
        let Some(hot) = self.slots.get_mut(slot) else { return };
        if hot.has(Flags::BLOCKED) {
            self.arm(slot);
        } else {
            // More than one send gathers, or than is left of this turn's share.
            self.outgoing.put_in_line(slot, hot);
        }
    }

    /// The outbox is low again.
    fn drained(&mut self, slot: u32, generation: u32) {
        let Some(hot) = self.slots.get_mut(slot) else { return };
        if hot.clear(Flags::HIGH_WATER) && hot.phase() == Phase::Open {
            self.notices.push(Notice::Writable { slot, generation });
        }
        if self.slots.get_mut(slot).is_some_and(|hot| hot.clear(Flags::PAUSED)) {
            self.forgive_upload(slot);
            self.mark_ready(slot);
        }
    }

    /// Connections whose outboxes hold what the kernel did not take.
    pub(super) fn slow_peers(&mut self) -> Vec<SlowPeer> {
        let slow: Vec<_> = self
            .slots
            .iter()
            .filter_map(|(slot, hot)| {
                let outbox = hot.outbox.as_ref().filter(|_| hot.has(Flags::BLOCKED))?;
                Some((slot, hot.generation, outbox.bytes(), outbox.progress))
            })
            // Mostly none: then no record is looked at.
            .take(self.outgoing.blocked() as usize)
            .collect();
        let tick = std::time::Duration::from_nanos(self.limits.tick_ns);
        let (core, now) = (self.number, self.clock.tick());
        slow.into_iter()
            .filter_map(|(slot, generation, queued, progress)| {
                let peer = self.slots.cold(slot)?.peer();
                let id = ConnId { core, slot, generation };
                let stalled = tick * since(now, progress);
                Some(SlowPeer { id, peer, queued, stalled })
            })
            .collect()
    }
}

/// Bytes of a message begun that may go before the close frame of one that is closed for the
/// memory it holds.
const PINNED_MAX: usize = 16 << 10;

/// Sends of one flush for one connection, after the first: then it waits for the next turn.
const ROUNDS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::super::config::Config;
    use super::super::links::Network;
    use super::super::outbox::Data;
    use super::*;
    use crate::common::rng::Rng;

    /// A core with an open connection in slot 0 whose send buffer is full.
    fn blocked() -> Core {
        let network: Arc<Network<()>> = Arc::new(Network { posts: Vec::new() });
        let config = Arc::new(Config::default());
        let mut core = Core::new(config, 0, network, Arc::default(), Arc::default(), Rng::new(1));
        core.begin_time(0);
        let hot = core.slots.open(0, Phase::Open);
        hot.set(Flags::HIGH_WATER | Flags::PAUSED);
        core.census.enter(hot);
        core.outgoing.block(hot);
        let data = Data::Own(Bytes::from(vec![0; core.limits.high_water + 1]));
        core.with_outbox(0, |outbox| outbox.push(data, 0));
        core.settle_blocked(&[]);
        assert!(!core.has_work() && core.outgoing.marked().is_empty(), "a sleep is in order");
        core
    }

    #[test]
    fn what_settling_the_blocked_leaves_to_do_is_known_before_the_wait() {
        let mut low = blocked();
        let Core { slots, outgoing, .. } = &mut low;
        outgoing.make_room(slots.get_mut(0).unwrap(), 0);
        low.mark_dirty(0);
        low.settle_blocked(&[]);
        assert!(!low.notices.is_empty() && low.inbox.contains(0) && low.has_work());
        assert_eq!(low.outgoing.blocked(), 0, "nothing waits for room");
        let mut bare = blocked();
        let hot = bare.slots.get_mut(0).unwrap();
        bare.census.leave(hot);
        hot.set(Flags::STREAM | Flags::BARE);
        bare.census.enter(hot);
        bare.give_up(0, Cause::OutboxFull);
        bare.say_farewells(b"");
        while bare.notices.pop().is_some() {}
        bare.settle_blocked(&[]);
        let hot = bare.slots.get(0).unwrap();
        assert!(hot.phase() == Phase::Lingering && bare.work.shutdowns() == [0] && bare.has_work());
        assert!(bare.outgoing.marked().is_empty() && bare.outgoing.ledger().is_empty());
        assert_eq!(bare.outgoing.blocked(), 0);
    }

    #[test]
    fn an_emptied_list_keeps_its_memory() {
        let bytes = [1, 2, 3];
        let mut slices = Vec::with_capacity(100);
        slices.push(IoSlice::new(&bytes));
        let emptied: Vec<IoSlice<'static>> = emptied(slices);
        assert_eq!((emptied.len(), emptied.capacity()), (0, 100));
    }
}
