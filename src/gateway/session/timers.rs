//! Deadlines of sessions: the connect command that has to come, tokens that expire, commands that
//! have to wait.
//!
//! Owns at most one entry for each session and kind of deadline, in the order in which they are
//! due. A new time replaces the old one, and a session's entries go with it. The invariant: the two
//! tables hold the same entries, so both are bounded by the number of sessions.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use crate::gateway::hub_port::Link;

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum What {
    /// The connect command should be here.
    Stale,
    /// The connection expires, or had time to be refreshed.
    Connection,
    /// One of its subscriptions does.
    Subscription,
    /// Its commands may go on.
    Commands,
}

impl What {
    const ALL: [Self; 4] = [Self::Stale, Self::Connection, Self::Subscription, Self::Commands];
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Timers {
    /// Nanoseconds: a session's entry is as small as it can be.
    queue: BTreeSet<(u64, Link, What)>,
    due: HashMap<(Link, What), u64>,
}

impl Timers {
    /// Something is due at a monotonic time, and not when it was before.
    pub(super) fn set(&mut self, at: Duration, link: Link, what: What) {
        let at = nanos(at);
        match self.due.insert((link, what), at) {
            Some(before) if before == at => return,
            Some(before) => _ = self.queue.remove(&(before, link, what)),
            None => {}
        }
        self.queue.insert((at, link, what));
    }

    /// Something is not due any more.
    pub(super) fn clear(&mut self, link: Link, what: What) {
        if let Some(at) = self.due.remove(&(link, what)) {
            self.queue.remove(&(at, link, what));
            self.shrink();
        }
    }

    /// A session is gone.
    pub(super) fn forget(&mut self, link: Link) {
        What::ALL.into_iter().for_each(|what| self.clear(link, what));
    }

    /// The next thing that is due by now.
    pub(super) fn due(&mut self, now: Duration) -> Option<(Link, What)> {
        let (at, link, what) = *self.queue.first()?;
        if at > nanos(now) {
            return None;
        }
        self.clear(link, what);
        Some((link, what))
    }

    /// How many are to come.
    pub(super) fn len(&self) -> usize {
        self.due.len()
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Duration> {
        self.queue.first().map(|(at, ..)| Duration::from_nanos(*at))
    }

    /// Whether nobody waits for anything.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.due.is_empty()
    }

    /// A crowd that came at once leaves its memory behind only for a while.
    fn shrink(&mut self) {
        if self.due.len() * 4 < self.due.capacity() && self.due.capacity() > KEPT {
            self.due.shrink_to(self.due.len() * 2);
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
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
            timers.set(Duration::from_millis(n), Link(n), What::Stale);
        }
        assert_eq!(timers.next(), Some(Duration::ZERO));
        let mut due = 0;
        while let Some((link, What::Stale)) = timers.due(Duration::from_millis(9_998)) {
            assert_eq!(link, Link(due));
            due += 1;
        }
        assert_eq!((due, timers.queue.len(), timers.due.len()), (9_999, 1, 1));
        assert!(timers.due.capacity() <= 2 * KEPT, "{}", timers.due.capacity());
    }

    #[test]
    fn a_session_has_one_entry_of_a_kind_and_none_when_it_is_gone() {
        let mut timers = Timers::default();
        let at = Duration::from_secs;
        // As a client does that refreshes its token again and again.
        for n in 1..1000 {
            timers.set(at(86_400 + n), Link(7), What::Subscription);
            timers.set(at(86_400 + n), Link(7), What::Connection);
        }
        assert_eq!((timers.queue.len(), timers.due.len()), (2, 2));
        // An earlier time counts as well as a later one.
        timers.set(at(5), Link(7), What::Connection);
        timers.set(at(6), Link(8), What::Commands);
        assert_eq!(timers.next(), Some(at(5)));
        timers.forget(Link(7));
        assert_eq!((timers.next(), timers.due(at(5))), (Some(at(6)), None));
        assert_eq!(timers.due(at(6)), Some((Link(8), What::Commands)));
        assert!(timers.is_empty());
    }
}
