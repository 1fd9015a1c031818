//! Limits that count descriptors, and the one that counts locked memory.

use crate::doctor::costs;
use crate::doctor::demand::Demand;
use crate::doctor::finding::{Finding, RemedyPlace};
use crate::doctor::host::Host;
use crate::doctor::words::{bytes, count, limit, plural};

/// One ring's table of direct descriptors may not exceed the limit of open files, so the limit
/// decides how many rings there must be.
pub(super) fn open_files(host: &Host, demand: &Demand) -> Finding {
    const NAME: &str = "open-files";
    let (soft, hard) = match &host.process.open_files {
        Ok(limits) => *limits,
        Err(unknown) => return Finding::unknown(NAME, unknown),
    };
    let own = demand.workers() * costs::FILES_PER_WORKER + costs::FILES_BASE;
    let wanted = u64::from(demand.unlimited.table).max(own);
    let has = format!("limit {} (soft {})", limit(hard), limit(soft));
    let mended = |finding: Finding| {
        finding
            .mend(RemedyPlace::Systemd, format!("LimitNOFILE={wanted}"))
            .mend(RemedyPlace::Shell, format!("ulimit -n {wanted}"))
    };
    if demand.too_few_workers {
        let workers = demand.unlimited.workers;
        return Finding::short(NAME, has)
            .needs(format!("{workers} workers: a ring has at most 1,048,576 slots"))
            .because("ringhold refuses this number of connections")
            .mend(RemedyPlace::Argument, format!("--workers {workers}"));
    }
    if let Some(refused) = &demand.refused {
        return mended(Finding::short(NAME, has).needs(count(wanted)).because(refused.clone()));
    }
    if own > hard {
        let finding = Finding::short(NAME, has).needs(count(own));
        return mended(finding.because("each worker has a listener, a ring and a doorbell"));
    }
    let workers = plural(demand.layout.workers, "worker", "workers");
    let table = count(u64::from(demand.layout.table));
    let has = format!("{has}: {workers} with {table} slots each");
    if demand.layout.workers > demand.unlimited.workers {
        let surplus = (demand.layout.workers - demand.unlimited.workers) as u64;
        let fewest = plural(demand.unlimited.workers, "worker", "workers");
        return mended(
            Finding::better(NAME, has).needs(format!("{} for {fewest}", count(wanted))).because(
                format!(
                    "the surplus workers take {} and wake up for fewer connections each",
                    bytes(surplus * costs::USER_PER_WORKER)
                ),
            ),
        );
    }
    Finding::ok(NAME, has)
}

/// The most a limit of open files can be raised to.
pub(super) fn nr_open(host: &Host, demand: &Demand) -> Finding {
    const NAME: &str = "nr-open";
    let table = u64::from(demand.unlimited.table);
    match &host.nr_open {
        Ok(most) if *most >= table => Finding::ok(NAME, limit(*most)),
        Ok(most) if demand.refused.is_none() => Finding::better(NAME, limit(*most))
            .needs(count(table))
            .because("the limit of open files cannot be raised far enough for fewer workers")
            .sysctl("fs.nr_open", table),
        Ok(most) => Finding::short(NAME, limit(*most))
            .needs(count(table))
            .because("the limit of open files cannot be raised far enough")
            .sysctl("fs.nr_open", table),
        Err(unknown) => Finding::unknown(NAME, unknown),
    }
}

/// The whole host's limit. Direct descriptors count, though in no process's table.
pub(super) fn file_max(host: &Host, demand: &Demand) -> Finding {
    const NAME: &str = "file-max";
    let (most, open) = match (&host.file_max, &host.files_open) {
        (Ok(most), Ok(open)) => (*most, *open),
        (Err(unknown), _) | (_, Err(unknown)) => return Finding::unknown(NAME, unknown),
    };
    let own = demand.workers() * costs::FILES_PER_WORKER + costs::FILES_BASE;
    let needed = demand.connections() + own + open;
    if most >= needed {
        return Finding::ok(NAME, format!("{}, of which {} are open", limit(most), count(open)));
    }
    Finding::short(NAME, format!("{}, of which {} are open", count(most), count(open)))
        .needs(count(needed))
        .because("accepts fail with ENFILE, here and in every program of the host")
        .sysctl("fs.file-max", i64::MAX)
}

/// Linux 6.14 counts the queues of a ring again, after 5.12 had stopped.
pub(super) fn locked_memory(host: &Host, demand: &Demand) -> Finding {
    const NAME: &str = "locked-memory";
    if host.kernel().is_ok_and(|version| version < COUNTED_AGAIN) {
        return Finding::ok(NAME, "this kernel does not count rings");
    }
    let soft = match &host.process.locked_memory {
        Ok((soft, _)) => *soft,
        Err(unknown) => return Finding::unknown(NAME, unknown),
    };
    let needed = demand.locked_bytes();
    if soft >= needed {
        let has = if soft == u64::MAX { "unlimited".to_owned() } else { bytes(soft) };
        return Finding::ok(NAME, has);
    }
    match &host.process.ipc_lock {
        Ok(true) => return Finding::ok(NAME, "not limited: CAP_IPC_LOCK"),
        Ok(false) => {}
        Err(unknown) => return Finding::unknown(NAME, unknown),
    }
    Finding::short(NAME, bytes(soft))
        .needs(format!("{} for {}", bytes(needed), plural(demand.layout.workers, "ring", "rings")))
        .because("a ring cannot be made: no memory; all processes of the user share the limit")
        .mend(RemedyPlace::Systemd, "LimitMEMLOCK=infinity")
        .mend(RemedyPlace::Shell, format!("ulimit -l {}", needed.div_ceil(1024)))
}

const COUNTED_AGAIN: (u32, u32) = (6, 14);
