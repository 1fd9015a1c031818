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

pub(crate) use crowd::{Crowd, CrowdPlan};
pub(crate) use peer::{Frame, Peer};
pub(crate) use process::{Child, child_port, is_child};
pub(crate) use site::{Ended, Journal, Site, Watcher};

/// How long any single condition may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

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

/// Resident memory of this process in bytes.
pub(crate) fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.expect("VmRSS is there") * 1024
}
