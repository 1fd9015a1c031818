//! What one thread counted, and the sum over threads.
//!
//! Owns the numbers of a run while it lasts. Never formats and never divides. The invariant: adding
//! two tallies gives the tally one thread would have made of both.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::amounts::{Reasons, histogram};
use super::content::Wrong;
use super::storm::StormTally;

/// Everything one thread knows at the end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) opening: Opening,
    pub(crate) traffic: Traffic,
    pub(crate) storm: StormTally,
}

/// How connections came and went.
#[derive(Clone, Debug)]
pub(crate) struct Opening {
    pub(crate) opened: u64,
    pub(crate) failed: Reasons,
    /// Not even tried, because none of the first succeeded.
    pub(crate) untried: u64,
    pub(crate) lost: Reasons,
    /// Of these, closed by the server with a close frame.
    pub(crate) lost_clean: u64,
    /// From the call to the open connection, in nanoseconds.
    pub(crate) took: Histogram<u64>,
    /// When the last one opened, on the run's clock.
    pub(crate) last_ns: u64,
}

/// What was sent and what came.
#[derive(Clone, Debug)]
pub(crate) struct Traffic {
    /// Messages queued for the server.
    pub(crate) sent: u64,
    /// Messages received that were asked for, once each.
    pub(crate) seen: u64,
    /// Of these, within the measured time.
    pub(crate) measured: u64,
    /// Messages that are wrong, by how.
    pub(crate) wrong: BTreeMap<Wrong, u64>,
    /// Due, but not sent, because the server takes too slowly what was sent before.
    pub(crate) unsent: u64,
    /// Will not come: their connection is gone.
    pub(crate) forfeited: u64,
    /// Came again.
    pub(crate) duplicates: u64,
    /// Came after a later one of the same sender.
    pub(crate) late: u64,
    /// From when it was due to when it came, in nanoseconds; large ones and what came while others
    /// stormed not included.
    pub(crate) latency: Histogram<u64>,
    /// Of the large ones.
    pub(crate) latency_large: Histogram<u64>,
    /// Of the small ones that came while others stormed.
    pub(crate) latency_storm: Histogram<u64>,
    /// Large ones within the measured time.
    pub(crate) measured_large: u64,
    /// Pings of the gateway that were answered.
    pub(crate) heartbeats: u64,
    /// Messages that the server refused, by what it said.
    pub(crate) refused: Reasons,
    /// Others leave and come back.
    pub(crate) storming: bool,
    /// How late a message was sent at worst, in nanoseconds.
    pub(crate) lag_ns: u64,
    measuring: bool,
}

impl Default for Opening {
    fn default() -> Self {
        Self {
            opened: 0,
            failed: Reasons::default(),
            untried: 0,
            lost: Reasons::default(),
            lost_clean: 0,
            took: histogram(),
            last_ns: 0,
        }
    }
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            sent: 0,
            seen: 0,
            measured: 0,
            wrong: BTreeMap::new(),
            unsent: 0,
            forfeited: 0,
            duplicates: 0,
            late: 0,
            latency: histogram(),
            latency_large: histogram(),
            latency_storm: histogram(),
            measured_large: 0,
            heartbeats: 0,
            refused: Reasons::default(),
            storming: false,
            lag_ns: 0,
            measuring: false,
        }
    }
}

impl Tally {
    /// Adds another thread's.
    pub(crate) fn add(&mut self, other: &Self) {
        self.opening.add(&other.opening);
        self.traffic.add(&other.traffic);
        self.storm.add(&other.storm);
    }
}

impl Opening {
    fn add(&mut self, other: &Self) {
        self.opened += other.opened;
        self.failed.add(&other.failed);
        self.untried += other.untried;
        self.lost.add(&other.lost);
        self.lost_clean += other.lost_clean;
        // The bounds are the same, so adding cannot fail.
        let _ = self.took.add(&other.took);
        self.last_ns = self.last_ns.max(other.last_ns);
    }
}

impl Traffic {
    /// A message came that was due at `due_ns`.
    pub(crate) fn on_message(&mut self, due_ns: u64, now_ns: u64) {
        self.seen += 1;
        self.measured += u64::from(self.measuring);
        let latency = if self.storming { &mut self.latency_storm } else { &mut self.latency };
        latency.saturating_record(now_ns.saturating_sub(due_ns));
    }

    /// A large message came that was due at `due_ns`.
    pub(crate) fn on_large_message(&mut self, due_ns: u64, now_ns: u64) {
        self.seen += 1;
        self.measured += u64::from(self.measuring);
        self.measured_large += u64::from(self.measuring);
        self.latency_large.saturating_record(now_ns.saturating_sub(due_ns));
    }

    /// Messages that were sent and are not to be waited for: their connection was closed by us.
    pub(crate) fn withdraw(&mut self, messages: u32) {
        self.sent -= u64::from(messages);
    }

    /// A message came that is not as it was sent.
    pub(crate) fn on_wrong(&mut self, how: Wrong) {
        *self.wrong.entry(how).or_default() += 1;
    }

    /// What came before was to warm up.
    pub(crate) fn begin_measuring(&mut self) {
        self.measured = 0;
        self.measured_large = 0;
        self.lag_ns = 0;
        self.latency.reset();
        self.latency_large.reset();
        self.measuring = true;
    }

    /// What comes from here on is late: its latency counts, it does not.
    pub(crate) fn end_measuring(&mut self) {
        self.measuring = false;
    }

    fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.seen += other.seen;
        self.measured += other.measured;
        self.measured_large += other.measured_large;
        for (how, count) in &other.wrong {
            *self.wrong.entry(*how).or_default() += count;
        }
        self.heartbeats += other.heartbeats;
        self.refused.add(&other.refused);
        self.unsent += other.unsent;
        self.forfeited += other.forfeited;
        self.duplicates += other.duplicates;
        self.late += other.late;
        let _ = self.latency.add(&other.latency);
        let _ = self.latency_large.add(&other.latency_large);
        let _ = self.latency_storm.add(&other.latency_storm);
        self.lag_ns = self.lag_ns.max(other.lag_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_measured_time_is_counted() {
        let mut traffic = Traffic::default();
        traffic.on_message(0, 1_000_000);
        traffic.begin_measuring();
        traffic.on_message(0, 10);
        traffic.end_measuring();
        traffic.on_message(0, 20);
        assert_eq!((traffic.seen, traffic.measured), (3, 1));
        assert_eq!((traffic.latency.len(), traffic.latency.max()), (2, 20));
    }

    #[test]
    fn large_ones_and_storms_have_latencies_of_their_own() {
        let mut traffic = Traffic::default();
        traffic.begin_measuring();
        traffic.sent = 5;
        traffic.on_message(0, 10);
        traffic.on_large_message(0, 1000);
        traffic.storming = true;
        traffic.on_message(0, 100);
        traffic.on_large_message(0, 2000);
        traffic.withdraw(1);
        assert_eq!((traffic.sent, traffic.seen, traffic.measured), (4, 4, 4));
        assert_eq!((traffic.latency.len(), traffic.latency.max()), (1, 10));
        assert_eq!((traffic.latency_storm.len(), traffic.latency_storm.max()), (1, 100));
        assert_eq!((traffic.latency_large.len(), traffic.measured_large), (2, 2));
    }

    #[test]
    fn tallies_add_up() {
        let mut one = Tally::default();
        one.opening.opened = 3;
        one.opening.lost.count("x");
        one.traffic.on_wrong(Wrong::Pattern);
        let mut sum = one.clone();
        sum.add(&one);
        assert_eq!(sum.opening.opened, 6);
        assert_eq!(sum.opening.lost.total(), 2);
        assert_eq!(sum.traffic.wrong[&Wrong::Pattern], 2);
    }
}
