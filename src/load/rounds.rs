//! A closed loop over all threads: the next burst is sent when everybody has those before.
//!
//! Owns what is still to come to all subscribers together. Never waits; who publishes looks. The
//! invariant: of `most` messages that may be on their way, a publisher takes its part before it
//! sends, so that publishers on several threads keep to it together.

use std::sync::atomic::{AtomicU64, Ordering};

/// Shared by all threads.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    subscribers: AtomicU64,
    /// Deliveries that all that was sent makes.
    wanted: AtomicU64,
    /// Those that came.
    seen: AtomicU64,
}

impl Rounds {
    pub(crate) fn on_open(&self) {
        self.subscribers.fetch_add(1, Ordering::Relaxed);
    }

    /// What it was to get does not come any more, so a run that loses connections may come to a
    /// stand; it has failed anyway.
    pub(crate) fn on_lost(&self) {
        self.subscribers.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn on_seen(&self, deliveries: u64) {
        self.seen.fetch_add(deliveries, Ordering::Relaxed);
    }

    /// Whether so many messages may be sent now, if `most` may be on their way. Then they must be.
    pub(crate) fn take(&self, messages: u64, most: u64) -> bool {
        let each = self.subscribers.load(Ordering::Relaxed);
        let take = |wanted: u64| {
            let coming = wanted.saturating_sub(self.seen.load(Ordering::Relaxed));
            (coming + messages * each <= most * each).then_some(wanted + messages * each)
        };
        self.wanted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_round_waits_for_the_last_subscriber() {
        let rounds = Rounds::default();
        (0..4).for_each(|_| rounds.on_open());
        rounds.on_lost();
        assert!(rounds.take(16, 16) && !rounds.take(16, 16));
        rounds.on_seen(16 * 3 - 1);
        assert!(!rounds.take(16, 16) && rounds.take(16, 32));
        rounds.on_seen(17);
        assert!(rounds.take(16, 32) && !rounds.take(16, 32));
    }
}
