//! Connections that are not members of the gateway yet: connected, but not let in, or not
//! subscribed.
//!
//! Owns who is waiting for which reply, and since when. Members are not remembered, so a million of
//! them cost nothing here. The invariant: a connection is taken out once, by whoever says what
//! became of it.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// One thread's. `I` names a connection.
pub(crate) struct Joining<I> {
    timeout: Duration,
    waiting: HashMap<u32, Joiner<I>>,
    /// Given up by us and counted; their end is still to come.
    given_up: HashSet<u32>,
    /// When to look for those who wait for too long.
    look_ns: u64,
}

/// One who waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Joiner<I> {
    /// Known once it is open.
    pub(crate) id: Option<I>,
    /// When it was dialled, as in the dial's tag.
    pub(crate) dialled_us: u32,
    since_ns: u64,
}

impl<I: Copy> Joining<I> {
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { timeout, waiting: HashMap::new(), given_up: HashSet::new(), look_ns: 0 }
    }

    /// Connection `index` has its handshake.
    pub(crate) fn on_dialled(&mut self, index: u32, dialled_us: u32, now_ns: u64) {
        self.waiting.insert(index, Joiner { id: None, dialled_us, since_ns: now_ns });
    }

    pub(crate) fn on_open(&mut self, index: u32, id: I) {
        if let Some(joiner) = self.waiting.get_mut(&index) {
            joiner.id = Some(id);
        }
    }

    /// Takes one out: it is a member, or never will be.
    pub(crate) fn take(&mut self, index: u32) -> Option<Joiner<I>> {
        self.waiting.remove(&index)
    }

    /// What becomes of it is counted, and it is told to go.
    pub(crate) fn give_up(&mut self, index: u32) {
        self.given_up.insert(index);
    }

    /// Whether what comes from it is of no interest any more.
    pub(crate) fn is_given_up(&self, index: u32) -> bool {
        !self.given_up.is_empty() && self.given_up.contains(&index)
    }

    /// It ended. True if it was given up.
    pub(crate) fn on_close(&mut self, index: u32) -> bool {
        self.given_up.remove(&index)
    }

    /// Those who wait for too long, now and then.
    pub(crate) fn overdue(&mut self, now_ns: u64) -> Vec<u32> {
        if self.waiting.is_empty() || now_ns < self.look_ns {
            return Vec::new();
        }
        self.look_ns = now_ns + LOOK_EVERY.as_nanos() as u64;
        let timeout_ns = self.timeout.as_nanos();
        let late = |it: &Joiner<I>| u128::from(now_ns - it.since_ns.min(now_ns)) >= timeout_ns;
        self.waiting.iter().filter(|(_, it)| late(it)).map(|(index, _)| *index).collect()
    }

    /// How long nobody has to be looked for.
    pub(crate) fn wait(&self, now_ns: u64) -> Option<Duration> {
        let next = Duration::from_nanos(self.look_ns.saturating_sub(now_ns));
        (!self.waiting.is_empty()).then_some(next)
    }
}

const LOOK_EVERY: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_taken_out_once() {
        let mut joining = Joining::new(Duration::from_secs(1));
        joining.on_dialled(3, 77, 0);
        joining.on_open(3, 'a');
        joining.on_open(4, 'b');
        let joiner = joining.take(3).unwrap();
        assert_eq!((joiner.id, joiner.dialled_us), (Some('a'), 77));
        assert!(joining.take(3).is_none() && joining.take(4).is_none());
        joining.give_up(3);
        assert!(joining.is_given_up(3) && !joining.is_given_up(4));
        assert!(joining.on_close(3) && !joining.on_close(3) && !joining.is_given_up(3));
    }

    #[test]
    fn who_waits_for_too_long_is_found() {
        let mut joining = Joining::<()>::new(Duration::from_nanos(1000));
        assert_eq!(joining.wait(0), None);
        joining.on_dialled(1, 0, 0);
        joining.on_dialled(2, 0, 500);
        assert_eq!((joining.wait(0), joining.overdue(999)), (Some(Duration::ZERO), vec![]));
        assert_eq!(joining.wait(999), Some(LOOK_EVERY));
        let then = 999 + LOOK_EVERY.as_nanos() as u64;
        assert!(joining.overdue(then - 1).is_empty());
        let mut late = joining.overdue(then);
        late.sort_unstable();
        assert_eq!(late, [1, 2]);
    }
}
