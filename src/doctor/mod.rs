//! Whether a host carries N connections, and what to change if it does not.
//!
//! ```text
//! files below a root ──► Host ─┐
//! a trial ring ────────────────┼──► checks ──► findings ──► report (text, JSON)
//! what is asked ──────► Demand ┘
//! ```
//!
//! [`host`] only reads, [`checks`] only compute, [`report`] only words. The invariant: what cannot
//! be read becomes a finding that says so; nothing is assumed to be well.

mod broker;
mod cgroup;
mod checks;
mod costs;
mod demand;
mod finding;
mod host;
mod nics;
mod probe;
mod profile;
mod report;
mod tree;
mod words;

pub(crate) use costs::USER_PER_CONNECTION;
pub(crate) use demand::Wish;
pub(crate) use profile::Profile;
pub(crate) use report::Report;

use std::path::Path;

use ringhold::broker::inspect::Remark;

use demand::Demand;
use host::Host;
use probe::Probe;
use tree::Tree;

/// Examines the host whose files lie below `root`, with the limits of `process` (`self`, or a
/// number). `trial`: make a ring, to see whether the kernel lets this process. `remarks`: on the
/// servers that a configuration names.
pub(crate) fn examine(
    root: &Path,
    process: &str,
    wish: Wish,
    trial: bool,
    remarks: Vec<Remark>,
) -> Report {
    let mut host = Host::read(&Tree::new(root), process);
    let demand = Demand::new(wish, &host);
    if trial {
        host.ring = Probe::run(demand.layout.table);
    }
    let mut findings = checks::all(&host, &demand);
    findings.extend(remarks.into_iter().map(broker::finding));
    Report::new(&demand, findings)
}
