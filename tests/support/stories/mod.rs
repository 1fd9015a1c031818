//! What the failure stories share: a server inside the test with exact counters, a raw client that
//! can misbehave, a crowd of dialling clients, and programs that run in a process of their own.
//!
//! Every wait is for a condition, with a deadline far beyond what a loaded machine needs. Nothing
//! leaves the loopback interface or a network namespace made by the test.

#![allow(dead_code, unused_imports, reason = "each test file uses its part")]

pub(crate) mod crowd;
pub(crate) mod peer;
pub(crate) mod process;
pub(crate) mod site;

use std::time::{Duration, Instant};

pub(crate) use crate::support::PATIENCE;
pub(crate) use crowd::{Crowd, CrowdPlan};
pub(crate) use peer::{Frame, Peer};
pub(crate) use process::{Child, child_port, is_child};
pub(crate) use site::{Ended, Journal, Site, Watcher};

/// Waits until `holds` says `None`; fails with what it said last.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> Option<String>) {
    let deadline = Instant::now() + PATIENCE;
    while let Some(state) = holds() {
        assert!(Instant::now() < deadline, "waited in vain for {what}: {state}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether this process may make network namespaces.
pub(crate) fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    ids.and_then(|ids| ids.split_whitespace().nth(1)) == Some("0")
}

/// Lets this thread, and what it starts from now on, run on one processor. Over loopback a packet
/// is worked off where it was sent: a request that overtakes, on another processor, the last step
/// of its connection's handshake may find no socket there, and the kernel answers with a reset
/// (seen on Linux 6.18) of which no server hears. A test that counts resets leaves no other
/// processor.
pub(crate) fn share_one_processor() {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let allowed = sched_getaffinity(None).expect("the processors of this thread");
    let first = (0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu)).expect("there is one");
    let mut one = CpuSet::new();
    one.set(first);
    sched_setaffinity(None, &one).expect("a part of what is allowed");
}

/// Resident memory of this process in bytes.
pub(crate) fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.expect("VmRSS is there") * 1024
}
