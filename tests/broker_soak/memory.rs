//! Memory of nodes over the time of a run.

use std::time::Duration;

use super::tally::Tally;
use crate::support::gateway::Gateway;

/// Resident memory of one node, over the time.
pub(crate) struct Memory {
    time: Duration,
    looks: Vec<(Duration, u64)>,
}

/// Bytes by which it may grow, beside a tenth: what an allocator keeps after a crowd.
const SLACK: u64 = 6 << 20;

impl Memory {
    pub(crate) fn new(time: Duration) -> Self {
        Self { time, looks: Vec::new() }
    }

    pub(crate) fn look(&mut self, now: Duration, process: u32) {
        self.looks.push((now, resident(process)));
    }

    /// What nodes have now.
    pub(crate) fn text(&self, nodes: &[Gateway]) -> String {
        let all = nodes.iter().map(|node| format!("{:.1}", mib(resident(node.id()))));
        format!("RSS {} MiB", all.collect::<Vec<_>>().join(", "))
    }

    /// The last sixth of the time needs no more than what came after the warm-up did.
    pub(crate) fn check(&self, tally: &Tally) {
        let within = |from: u32, to: u32| {
            let (from, to) = (self.time / 6 * from, self.time / 6 * to);
            let some = self.looks.iter().filter(|(at, _)| *at >= from && *at < to);
            let mut some: Vec<_> = some.map(|(_, bytes)| *bytes).collect();
            some.sort_unstable();
            some.get(some.len() / 2).copied()
        };
        // The last look is beyond the time.
        let (Some(first), Some(last)) = (within(1, 2), within(5, 60)) else { return };
        let shown: Vec<_> = (0..6).filter_map(|it| within(it, it + 1)).map(mib).collect();
        tally.say(&format!("resident memory by sixths of the time, MiB: {shown:.1?}"));
        if last > first + first / 10 + SLACK {
            let (first, last) = (mib(first), mib(last));
            tally.fail(&format!("resident memory grew from {first:.1} to {last:.1} MiB"));
        }
    }
}

/// In bytes.
fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"));
    let status = status.expect("the node runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
    kib.expect("a number") * 1024
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
