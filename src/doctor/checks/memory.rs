//! Memory: what is there, what the control group allows, and how it is handed out.

use crate::doctor::costs;
use crate::doctor::demand::Demand;
use crate::doctor::finding::{Finding, RemedyPlace};
use crate::doctor::host::Host;
use crate::doctor::words::{bytes, count};

pub(super) fn available(host: &Host, demand: &Demand) -> Finding {
    const NAME: &str = "memory";
    match &host.memory_available {
        Ok(available) if *available >= demand.memory_bytes() => {
            Finding::ok(NAME, format!("{} available", bytes(*available)))
        }
        Ok(available) => {
            let fit = fitting(*available, demand);
            Finding::short(NAME, format!("{} available", bytes(*available)))
                .needs(needed(demand))
                .because(format!("about {} connections fit; beyond, the OOM killer", count(fit)))
                .mend(RemedyPlace::Argument, format!("--max-connections {fit}"))
        }
        Err(unknown) => Finding::unknown(NAME, unknown),
    }
}

/// Sockets are charged in full since Linux 6.13, when they are accepted; requests of io_uring and
/// buffers are charged on every kernel.
pub(super) fn cgroup(host: &Host, demand: &Demand) -> Finding {
    const NAME: &str = "cgroup-memory";
    let need = demand.memory_bytes();
    match &host.cgroup.memory {
        Ok(None) => Finding::ok(NAME, "no limit"),
        Ok(Some(limit)) if *limit >= need => Finding::ok(NAME, bytes(*limit)),
        Ok(Some(limit)) => {
            let fit = fitting(*limit, demand);
            Finding::short(NAME, bytes(*limit))
                .needs(needed(demand))
                .because(format!("about {} connections fit; beyond, the OOM killer", count(fit)))
                .mend(RemedyPlace::Systemd, format!("MemoryMax={}M", need.div_ceil(1 << 20)))
                .mend(RemedyPlace::Argument, format!("--max-connections {fit}"))
        }
        Err(unknown) => Finding::unknown(NAME, unknown),
    }
}

pub(super) fn cgroup_pids(host: &Host, demand: &Demand) -> Finding {
    const NAME: &str = "cgroup-threads";
    let need = demand.workers() * costs::THREADS_PER_WORKER + costs::THREADS_BASE;
    match &host.cgroup.pids {
        Ok(None) => Finding::ok(NAME, "no limit"),
        Ok(Some(limit)) if *limit >= need => Finding::ok(NAME, count(*limit)),
        Ok(Some(limit)) => Finding::short(NAME, count(*limit))
            .needs(count(need))
            .because("a worker's thread cannot be started, or the kernel's own for its ring")
            .mend(RemedyPlace::Systemd, format!("TasksMax={need}")),
        Err(unknown) => Finding::unknown(NAME, unknown),
    }
}

/// Huge pages that stay half empty: 400 bytes per idle connection rather than 180 were measured
/// when the allocator asked for them. It asks no longer, but with `always` gets them unasked.
pub(super) fn huge_pages(host: &Host) -> Finding {
    const NAME: &str = "huge-pages";
    match (&host.huge_pages, &host.process.huge_pages) {
        (_, Ok(false)) => Finding::ok(NAME, "switched off for the process"),
        (Ok(mode), _) if mode != "always" => Finding::ok(NAME, mode.clone()),
        (Ok(mode), _) => Finding::better(NAME, mode.clone())
            .needs("madvise, or off for the process")
            .because("half-empty huge pages: some 200 bytes more per idle connection")
            .mend(RemedyPlace::Systemd, "Environment=MIMALLOC_ALLOW_THP=0")
            .mend(RemedyPlace::Shell, "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"),
        (Err(unknown), _) if unknown.is_absent() && host.kernel().is_ok() => {
            Finding::ok(NAME, "this kernel has none")
        }
        (Err(unknown), _) => Finding::unknown(NAME, unknown),
    }
}

fn needed(demand: &Demand) -> String {
    let each = demand.bytes_per_connection();
    format!(
        "{}: {} connections of {} bytes, {} of buffers, {} besides",
        bytes(demand.memory_bytes()),
        count(demand.connections()),
        count(each),
        bytes(demand.buffer_pages() * costs::PAGE),
        bytes(demand.base_bytes()),
    )
}

/// Connections for which this much memory is enough, at two digits.
fn fitting(memory: u64, demand: &Demand) -> u64 {
    let each = demand.bytes_per_connection()
        + demand.load.pages * costs::PAGE * u64::from(demand.load.percent) / 100;
    let fit = memory.saturating_sub(demand.base_bytes()) / each;
    let step = 10u64.pow(fit.checked_ilog10().unwrap_or(0).saturating_sub(1));
    (fit / step * step).max(1)
}
