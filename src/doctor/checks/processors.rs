//! Processors: how many, how much of them, and which.

use crate::doctor::demand::Demand;
use crate::doctor::finding::{Finding, RemedyPlace};
use crate::doctor::host::Host;
use crate::doctor::profile::Profile;
use crate::doctor::words::plural;

/// More workers than processors take turns; fewer leave processors idle.
pub(super) fn workers(demand: &Demand, host: &Host) -> Finding {
    const NAME: &str = "processors";
    // Where it is not said which may be used, all that run are counted; that is a guess.
    let (online, processors) = match (&host.online, &host.process.allowed) {
        (Ok(online), Ok(_)) => (online.len(), demand.processors),
        (Err(unknown), _) | (_, Err(unknown)) => return Finding::unknown(NAME, unknown),
    };
    let workers = demand.layout.workers;
    let has = format!(
        "{} for {} ({online} online)",
        plural(processors, "processor", "processors"),
        plural(workers, "worker", "workers"),
    );
    if demand.wish.profile == Profile::Latency && workers > processors {
        return Finding::better(NAME, has)
            .needs("one worker per processor")
            .because("a worker waits while another one runs, up to a time slice of milliseconds")
            .mend(RemedyPlace::Argument, format!("--workers {processors}"));
    }
    Finding::ok(NAME, has)
}

/// A quota stops all threads for the rest of a period of usually 100 ms.
pub(super) fn quota(host: &Host, demand: &Demand) -> Finding {
    const NAME: &str = "cgroup-processors";
    match &host.cgroup.cpu {
        Ok(None) => Finding::ok(NAME, "no quota"),
        Ok(Some(quota)) => {
            let has = format!("a quota of {quota:.2} processors");
            let least = if demand.wish.profile == Profile::Latency { f64::INFINITY } else { 1.0 };
            if *quota >= least {
                return Finding::ok(NAME, has);
            }
            Finding::better(NAME, has)
                .needs(if least.is_finite() { "one processor" } else { "no quota" })
                .because("when it is spent, every connection waits for the next period (100 ms)")
                .mend(RemedyPlace::Systemd, "CPUQuota=")
        }
        Err(unknown) => Finding::unknown(NAME, unknown),
    }
}

/// Isolated processors run only what is put there by name.
pub(super) fn isolated(host: &Host) -> Finding {
    const NAME: &str = "isolated-processors";
    let isolated = match &host.isolated {
        Ok(isolated) => isolated,
        Err(unknown) => return Finding::unknown(NAME, unknown),
    };
    if isolated.is_empty() {
        return Finding::ok(NAME, "none");
    }
    let list = isolated.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    match &host.process.allowed {
        Ok(allowed) if isolated.iter().all(|one| !allowed.contains(one)) => {
            Finding::better(NAME, format!("{list}: not used"))
                .needs("the workers on them, or no isolation")
                .because("ringhold neither counts nor uses them")
                .mend(RemedyPlace::Systemd, format!("CPUAffinity={list}"))
        }
        Ok(_) => Finding::ok(NAME, format!("{list}: in use")),
        Err(unknown) => Finding::unknown(NAME, unknown),
    }
}
