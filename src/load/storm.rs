//! A part of the connections leaves at once and comes back at once.
//!
//! Owns who leaves, and what becomes of them; the driver closes and dials. Never touches a
//! connection that stays. The invariant: each connection that leaves is counted once as left, and
//! then once as back, failed or not tried.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use hdrhistogram::Histogram;

use super::amounts::{Reasons, histogram};
use super::mix::Share;

/// When, and who.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StormPlan {
    /// After the measured time began.
    pub(crate) after: Duration,
    /// Of the connections.
    pub(crate) share: Share,
    /// Who comes back goes on with a TLS session, as a browser does.
    pub(crate) resume: bool,
}

/// What became of those who left.
#[derive(Clone, Debug)]
pub(crate) struct StormTally {
    /// Closed by us: the close handshake was begun.
    pub(crate) left: u64,
    /// Open again.
    pub(crate) back: u64,
    /// TLS handshakes of theirs that went on with an earlier session.
    pub(crate) resumed: u64,
    /// Not let in again.
    pub(crate) failed: Reasons,
    /// From the storm's beginning to being open again, in nanoseconds.
    pub(crate) took: Histogram<u64>,
}

/// One thread's part of it. `I` names a connection.
pub(crate) struct Storm<I> {
    share: Share,
    /// Where in the sequence this thread begins.
    phase: u32,
    /// Open connections that will leave, or have come back.
    leavers: BTreeMap<u32, I>,
    /// To be closed; the engine tells at once that they are gone.
    leaving: BTreeSet<u32>,
    /// Gone, to be dialled.
    away: VecDeque<u32>,
    started_ns: Option<u64>,
    tally: StormTally,
}

impl Default for StormTally {
    fn default() -> Self {
        let (failed, took) = (Reasons::default(), histogram());
        Self { left: 0, back: 0, resumed: 0, failed, took }
    }
}

impl StormTally {
    /// Adds another thread's.
    pub(crate) fn add(&mut self, other: &Self) {
        self.left += other.left;
        self.back += other.back;
        self.resumed += other.resumed;
        self.failed.add(&other.failed);
        // The bounds are the same, so adding cannot fail.
        let _ = self.took.add(&other.took);
    }
}

impl<I: Copy> Storm<I> {
    pub(crate) fn new(plan: StormPlan, worker: usize) -> Self {
        Self {
            share: plan.share,
            phase: worker as u32,
            leavers: BTreeMap::new(),
            leaving: BTreeSet::new(),
            away: VecDeque::new(),
            started_ns: None,
            tally: StormTally::default(),
        }
    }

    /// Whether connections dialled from here on are those that left.
    pub(crate) fn has_begun(&self) -> bool {
        self.started_ns.is_some()
    }

    /// Connection `index` of this thread opened for the first time.
    pub(crate) fn on_open(&mut self, index: u32, id: I) {
        let place = self.phase.wrapping_add(index);
        if !self.has_begun() && self.share.has(0, place) {
            self.leavers.insert(index, id);
        }
    }

    /// It begins: these are to be closed.
    pub(crate) fn begin(&mut self, now_ns: u64) -> Vec<I> {
        self.started_ns = Some(now_ns);
        self.leaving = self.leavers.keys().copied().collect();
        self.leavers.values().copied().collect()
    }

    /// A connection ended. True if it was asked to; then it is to be dialled.
    pub(crate) fn on_close(&mut self, index: u32) -> bool {
        if !self.leaving.remove(&index) {
            if !self.has_begun() {
                self.leavers.remove(&index);
            }
            return false;
        }
        self.tally.left += 1;
        self.away.push_back(index);
        true
    }

    /// The next one to be dialled.
    pub(crate) fn next(&mut self) -> Option<u32> {
        self.away.pop_front()
    }

    pub(crate) fn on_back(&mut self, now_ns: u64) {
        self.tally.back += 1;
        let took = self.since_ns(now_ns);
        self.tally.took.saturating_record(took);
    }

    pub(crate) fn on_failed(&mut self, reason: &str) {
        self.tally.failed.count(reason);
    }

    /// How many take part.
    pub(crate) fn leavers(&self) -> u64 {
        self.leavers.len() as u64
    }

    /// How many of them are back or will not come.
    pub(crate) fn settled(&self) -> u64 {
        self.tally.back + self.tally.failed.total()
    }

    pub(crate) fn tally(&self) -> &StormTally {
        &self.tally
    }

    fn since_ns(&self, now_ns: u64) -> u64 {
        now_ns.saturating_sub(self.started_ns.unwrap_or(now_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storm(part: f64, connections: u32) -> Storm<u32> {
        let plan = StormPlan { after: Duration::ZERO, share: Share::of(part), resume: true };
        let mut storm = Storm::new(plan, 1);
        (0..connections).for_each(|index| storm.on_open(index, index + 100));
        storm
    }

    #[test]
    fn the_share_leaves_and_comes_back() {
        let mut storm = storm(0.25, 100);
        assert_eq!((storm.leavers(), storm.has_begun()), (25, false));
        let leaving = storm.begin(1000);
        assert_eq!(leaving.len(), 25);
        for id in &leaving {
            assert!(storm.on_close(id - 100));
            assert!(!storm.on_close(id - 100), "once");
        }
        let away: Vec<u32> = std::iter::from_fn(|| storm.next()).collect();
        assert!(away.iter().map(|index| index + 100).eq(leaving.iter().copied()));
        (0..24).for_each(|_| storm.on_back(2000));
        assert_eq!(storm.settled(), 24);
        storm.on_failed("refused");
        assert_eq!(storm.settled(), storm.leavers());
        let tally = storm.tally();
        assert_eq!((tally.left, tally.back, tally.failed.total()), (25, 24, 1));
        assert_eq!((tally.took.max(), tally.took.len()), (1000, 24));
    }

    #[test]
    fn who_is_lost_before_takes_no_part() {
        let mut storm = storm(1.0, 10);
        assert!(!storm.on_close(3));
        assert_eq!(storm.leavers(), 9);
        assert_eq!(storm.begin(10).len(), 9);
        // Who comes back is no leaver a second time, and may be lost as any other.
        assert!(storm.on_close(4));
        storm.on_open(4, 500);
        storm.on_back(30);
        assert!(!storm.on_close(4));
        assert_eq!((storm.leavers(), storm.tally().left), (9, 1));
    }

    #[test]
    fn tallies_of_threads_add_up() {
        let mut sum = StormTally::default();
        for took_ns in [5, 3] {
            let mut one = StormTally { left: 2, back: 1, ..StormTally::default() };
            one.took.saturating_record(took_ns);
            one.failed.count("refused");
            sum.add(&one);
        }
        assert_eq!((sum.left, sum.back, sum.failed.total()), (4, 2, 2));
        assert_eq!((sum.took.len(), sum.took.max()), (2, 5));
    }
}
