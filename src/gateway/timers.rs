//! Deadlines of sessions: the connect command that has to come, tokens that expire.
//!
//! Owns a heap of (time, connection, what). Nothing is ever taken out before its time: whoever is
//! due looks whether it still matters. The invariant: no entry outlives its time, so the heap is
//! bounded by what sessions add in one period.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::outside::Link;

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    /// The connect command should be here.
    Stale,
    /// The connection expires, or had time to be refreshed.
    Connection,
    /// One of its subscriptions does.
    Subscription,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Duration, Link, What)>>,
}

impl Timers {
    /// Something is due at a monotonic time.
    pub(super) fn add(&mut self, at: Duration, link: Link, what: What) {
        self.heap.push(Reverse((at, link, what)));
    }

    /// The next thing that is due by now.
    pub(super) fn due(&mut self, now: Duration) -> Option<(Link, What)> {
        let Reverse((at, ..)) = self.heap.peek()?;
        if *at > now {
            return None;
        }
        let Reverse((_, link, what)) = self.heap.pop()?;
        // A crowd that came at once leaves its memory behind only for a while.
        if self.heap.len() * 4 < self.heap.capacity() && self.heap.capacity() > KEPT {
            self.heap.shrink_to(self.heap.len() * 2);
        }
        Some((link, what))
    }

    /// How many are to come.
    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Duration> {
        self.heap.peek().map(|Reverse((at, ..))| *at)
    }
}

/// Entries that there is always room for.
const KEPT: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_at_their_time_and_memory_goes() {
        let mut timers = Timers::default();
        for n in (0..10_000_u64).rev() {
            timers.add(Duration::from_millis(n), Link(n), What::Stale);
        }
        assert_eq!(timers.next(), Some(Duration::ZERO));
        let mut due = 0;
        while let Some((link, What::Stale)) = timers.due(Duration::from_millis(9_998)) {
            assert_eq!(link, Link(due));
            due += 1;
        }
        assert_eq!((due, timers.heap.len()), (9_999, 1));
        assert!(timers.heap.capacity() <= 2 * KEPT, "{}", timers.heap.capacity());
    }
}
