//! Who holds memory for input that is not complete: messages in progress, request heads and bodies,
//! what was received of connections on their way out.
//!
//! Owns the account, the order in which holders have to pay, and until when each has shown enough
//! progress. Never looks at a connection. The invariant: the total is the sum of all holders, each
//! of which is in the list of its size.
//!
//! Sizes are told apart by powers of two; within one, who grew into it first pays first. So all is
//! constant in the number of holders, and who asks for little never pays for who holds much.

use slab::Slab;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Inbound {
    total: usize,
    holders: Slab<Holder>,
    /// By size: the holder that is there longest, and the one that came last.
    lists: [(u32, u32); CLASSES],
    /// Which lists are not empty, as bits.
    used: u64,
}

#[derive(Debug)]
struct Holder {
    slot: u32,
    before: u32,
    after: u32,
    held: usize,
    /// Until when its progress suffices.
    paid_ns: u64,
}

/// Where a holder is found; by default it holds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Holding(pub(super) u32);

impl Default for Holding {
    fn default() -> Self {
        Self(NOWHERE)
    }
}

impl Holding {
    /// Whether nothing is held.
    pub(super) fn is_empty(self) -> bool {
        self.0 == NOWHERE
    }
}

impl Default for Inbound {
    fn default() -> Self {
        Self { total: 0, holders: Slab::new(), lists: [(NOWHERE, NOWHERE); CLASSES], used: 0 }
    }
}

impl Inbound {
    /// Bytes of memory.
    pub(super) fn total(&self) -> usize {
        self.total
    }

    /// Whether nothing is held.
    pub(super) fn is_empty(&self) -> bool {
        self.total == 0 && self.holders.is_empty() && self.used == 0
    }

    /// A connection holds so much now.
    pub(super) fn set(&mut self, place: &mut Holding, slot: u32, held: usize) {
        self.total += held;
        if place.is_empty() {
            let holder = Holder { slot, before: NOWHERE, after: NOWHERE, held, paid_ns: 0 };
            place.0 = self.holders.insert(holder) as u32;
            self.link(place.0);
            return;
        }
        let before = self.holders[place.0 as usize].held;
        self.total -= before;
        if class(before) == class(held) {
            self.holders[place.0 as usize].held = held;
        } else {
            self.unlink(place.0);
            self.holders[place.0 as usize].held = held;
            self.link(place.0);
        }
    }

    /// It holds nothing any more.
    pub(super) fn clear(&mut self, place: Holding) {
        if place.is_empty() {
            return;
        }
        self.unlink(place.0);
        self.total -= self.holders.remove(place.0 as usize).held;
        if self.holders.is_empty() && self.holders.capacity() > HOLDERS_KEPT {
            self.holders = Slab::new();
        }
    }

    /// Who pays: the largest, and of those that are as large the oldest.
    pub(super) fn worst(&self) -> Option<u32> {
        let class = self.used.checked_ilog2()?;
        Some(self.holders[self.lists[class as usize].0 as usize].slot)
    }

    /// Until when its progress suffices.
    pub(super) fn paid_ns(&self, place: Holding) -> u64 {
        self.holders.get(place.0 as usize).map_or(u64::MAX, |holder| holder.paid_ns)
    }

    /// Its progress suffices for so much longer, but never beyond `limit_ns`.
    pub(super) fn pay(&mut self, place: Holding, more_ns: u64, limit_ns: u64) {
        if let Some(holder) = self.holders.get_mut(place.0 as usize) {
            holder.paid_ns = holder.paid_ns.saturating_add(more_ns).min(limit_ns);
        }
    }

    /// What one holds.
    pub(super) fn held(&self, place: Holding) -> usize {
        self.holders.get(place.0 as usize).map_or(0, |holder| holder.held)
    }

    pub(super) fn shrink(&mut self) {
        self.holders.shrink_to_fit();
    }

    fn link(&mut self, key: u32) {
        let class = class(self.holders[key as usize].held);
        let (first, last) = self.lists[class];
        self.holders[key as usize].before = last;
        self.holders[key as usize].after = NOWHERE;
        match self.holders.get_mut(last as usize) {
            Some(last) => last.after = key,
            None => self.used |= 1 << class,
        }
        self.lists[class] = (if last == NOWHERE { key } else { first }, key);
    }

    fn unlink(&mut self, key: u32) {
        let Holder { before, after, held, .. } = self.holders[key as usize];
        let class = class(held);
        match self.holders.get_mut(before as usize) {
            Some(holder) => holder.after = after,
            None => self.lists[class].0 = after,
        }
        match self.holders.get_mut(after as usize) {
            Some(holder) => holder.before = before,
            None => self.lists[class].1 = before,
        }
        if self.lists[class].0 == NOWHERE {
            self.used &= !(1 << class);
        }
    }
}

fn class(held: usize) -> usize {
    (held.max(1).ilog2() as usize).min(CLASSES - 1)
}

/// No holder.
const NOWHERE: u32 = u32::MAX;

/// One for each power of two.
const CLASSES: usize = 64;

/// Holders whose memory is kept when the last one is gone.
const HOLDERS_KEPT: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::rng::Rng;

    #[test]
    fn the_largest_pays_first_and_then_the_oldest() {
        let mut inbound = Inbound::default();
        let mut places = [Holding::default(); 4];
        for (slot, held) in [(0, 100), (1, 5000), (2, 4200), (3, 90)] {
            inbound.set(&mut places[slot], slot as u32, held);
        }
        assert_eq!((inbound.worst(), inbound.total()), (Some(1), 9390));
        inbound.set(&mut places[3], 3, 10_000);
        assert_eq!(inbound.worst(), Some(3));
        inbound.clear(places[3]);
        inbound.clear(places[1]);
        assert_eq!(inbound.worst(), Some(2));
        inbound.clear(places[2]);
        inbound.clear(places[0]);
        assert!(inbound.is_empty() && inbound.worst().is_none());
    }

    #[test]
    fn agrees_with_a_sum_under_random_operations() {
        let mut inbound = Inbound::default();
        let mut places = [Holding::default(); 16];
        let mut sizes = [0_usize; 16];
        let mut rng = Rng::new(7);
        for _ in 0..20_000 {
            let slot = rng.below(16) as usize;
            if rng.one_in(3) {
                inbound.clear(std::mem::take(&mut places[slot]));
                sizes[slot] = 0;
            } else {
                sizes[slot] = 1 + (rng.below(u32::MAX) >> rng.below(31)) as usize;
                inbound.set(&mut places[slot], slot as u32, sizes[slot]);
            }
            assert_eq!(inbound.total(), sizes.iter().sum::<usize>());
            let most = sizes.iter().copied().max().filter(|most| *most > 0);
            assert_eq!(inbound.worst().is_some(), most.is_some());
            if let (Some(worst), Some(most)) = (inbound.worst(), most) {
                assert_eq!(class(sizes[worst as usize]), class(most));
            }
        }
    }

    #[test]
    fn progress_is_paid_for_up_to_a_limit() {
        let mut inbound = Inbound::default();
        let mut place = Holding::default();
        inbound.set(&mut place, 1, 10);
        inbound.pay(place, 500, 1000);
        inbound.pay(place, 300, 1000);
        assert_eq!(inbound.paid_ns(place), 800);
        inbound.pay(place, u64::MAX, 1000);
        assert_eq!(inbound.paid_ns(place), 1000);
    }
}
