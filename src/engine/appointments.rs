//! Timers of the application.
//!
//! Owns when the application wants to be called, and with which tag. Never calls it. The
//! invariant: a timer rings once or is cancelled, in the order of due times, and those that are due
//! together in the order in which they were set.

use std::collections::BTreeMap;
use std::time::Duration;

/// A timer that was set with [`Context::set_timer`](crate::Context::set_timer); only its core knows
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimerId {
    due_ns: u64,
    /// In the order of setting.
    number: u64,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Appointments {
    tags: BTreeMap<TimerId, u64>,
    set: u64,
}

impl Appointments {
    pub(super) fn set(&mut self, now_ns: u64, after: Duration, tag: u64) -> TimerId {
        let after_ns = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        self.set += 1;
        let timer = TimerId { due_ns: now_ns.saturating_add(after_ns), number: self.set };
        self.tags.insert(timer, tag);
        timer
    }

    /// False if it has rung, or was cancelled.
    pub(super) fn cancel(&mut self, timer: TimerId) -> bool {
        self.tags.remove(&timer).is_some()
    }

    /// When the next one is due.
    pub(super) fn next_ns(&self) -> Option<u64> {
        self.tags.first_key_value().map(|(timer, _)| timer.due_ns)
    }

    /// The last one that was set so far.
    pub(super) fn last(&self) -> u64 {
        self.set
    }

    /// Takes out the next one that is due, of those up to the `last` that was set.
    pub(super) fn pop(&mut self, now_ns: u64, last: u64) -> Option<u64> {
        let mut due = self.tags.iter().take_while(|(timer, _)| timer.due_ns <= now_ns);
        let timer = *due.find(|(timer, _)| timer.number <= last)?.0;
        self.tags.remove(&timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rings_once_and_in_order() {
        let mut timers = Appointments::default();
        let second = Duration::from_secs(1);
        let set = |timers: &mut Appointments, after, tag| timers.set(10, after, tag);
        set(&mut timers, 2 * second, 1);
        let cancelled = set(&mut timers, second, 2);
        set(&mut timers, second, 3);
        set(&mut timers, second, 4);
        let never = set(&mut timers, Duration::MAX, 5);
        assert!(timers.cancel(cancelled) && !timers.cancel(cancelled));
        assert_eq!(timers.next_ns(), Some(1_000_000_010));
        let last = timers.last();
        assert_eq!(timers.pop(1_000_000_009, last), None);
        assert_eq!(timers.pop(1_000_000_010, last), Some(3));
        // Set while others ring: it waits for the next turn.
        timers.set(10, Duration::ZERO, 6);
        assert_eq!(timers.pop(1_000_000_010, last), Some(4));
        assert_eq!(timers.pop(1_000_000_010, last), None);
        assert_eq!(timers.pop(u64::MAX - 1, timers.last()), Some(6));
        assert_eq!(timers.pop(u64::MAX - 1, last), Some(1));
        assert_eq!(timers.pop(u64::MAX - 1, last), None);
        assert!(timers.cancel(never));
        assert_eq!(timers.next_ns(), None);
    }
}
