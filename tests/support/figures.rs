//! What an engine in the test's process counts, whole: asked for its figures it leaves out those
//! of a core that does not answer within a second, as one that waits for a processor.

use std::time::Instant;

use ringhold::{Counters, Handle, Handler, SlowPeer, Stats};

use super::PATIENCE;

/// Of all cores, while the server runs.
pub(crate) fn stats<H: Handler>(handle: &Handle<H>) -> Stats {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let all = handle.stats_by_core();
        if all.len() == handle.workers() {
            let mut sum = Stats::default();
            all.iter().for_each(|(_, stats)| sum.add(stats));
            return sum;
        }
        assert!(Instant::now() < deadline, "only {} cores answer", all.len());
    }
}

/// Likewise, the counters.
pub(crate) fn counters<H: Handler>(handle: &Handle<H>) -> Counters {
    stats(handle).counters
}

/// So many slow peers, which are there already.
pub(crate) fn slow_peers<H: Handler>(handle: &Handle<H>, count: usize) -> Vec<SlowPeer> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let slow = handle.slow_peers();
        if slow.len() == count {
            return slow;
        }
        assert!(Instant::now() < deadline, "{slow:?}");
    }
}
