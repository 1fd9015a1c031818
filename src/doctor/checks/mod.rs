//! The checks: each looks at one thing a host has and says whether it is enough. Pure functions.

mod conntrack;
mod files;
mod interrupts;
mod kernel;
mod memory;
mod processors;
mod settings;
mod tcp;

use super::demand::Demand;
use super::finding::Finding;
use super::host::Host;

/// All of them, in the order of the report: what must be there first comes first.
pub(crate) fn all(host: &Host, demand: &Demand) -> Vec<Finding> {
    let mut findings = vec![
        kernel::version(host),
        kernel::io_uring(host),
        files::open_files(host, demand),
        files::nr_open(host, demand),
        files::file_max(host, demand),
        files::locked_memory(host, demand),
        memory::available(host, demand),
        memory::cgroup(host, demand),
        memory::cgroup_pids(host, demand),
        memory::huge_pages(host),
        tcp::memory(host, demand),
        tcp::buffers(host, demand),
        tcp::accept_queue(host, demand),
        tcp::syn_queue(host),
        tcp::ports(host, demand),
        tcp::hash_table(host, demand),
        conntrack::table(host, demand),
        processors::workers(demand, host),
        processors::quota(host, demand),
        processors::isolated(host),
        interrupts::spread(host, demand),
        interrupts::steering(host, demand),
        interrupts::backlog(host),
        interrupts::budget(host),
    ];
    findings.extend(settings::of_profile(host, demand));
    findings
}
