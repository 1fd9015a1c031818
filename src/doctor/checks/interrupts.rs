//! Where packets arrive: interrupts of network cards, steering, and the queues behind them.

use crate::doctor::demand::Demand;
use crate::doctor::finding::{Finding, RemedyPlace};
use crate::doctor::host::Host;
use crate::doctor::nics::Nic;
use crate::doctor::profile::Profile;
use crate::doctor::words::{count, plural};

/// A card with several queues whose interrupts all go to one processor.
pub(super) fn spread(host: &Host, demand: &Demand) -> Finding {
    const NAME: &str = "interrupts";
    let nics = match &host.nics {
        Ok(nics) if nics.is_empty() => return Finding::ok(NAME, "no network card"),
        Ok(nics) => nics,
        Err(unknown) => return Finding::unknown(NAME, unknown),
    };
    let has = |nic: &Nic| {
        let queues = plural(nic.queues.len(), "receive queue", "receive queues");
        let takers = plural(nic.takers(), "processor", "processors");
        format!("{}: {queues}, interrupts on {takers}", nic.name)
    };
    let online = host.online.as_ref().map_or(demand.processors, Vec::len);
    let crowded = nics.iter().find(|nic| {
        let takers = nic.takers();
        takers > 0 && takers < nic.queues.len().min(online)
    });
    let all = nics.iter().map(has).collect::<Vec<_>>().join("; ");
    match crowded {
        Some(nic) if busy(demand) => Finding::better(NAME, has(nic))
            .needs(format!(
                "on {}",
                plural(nic.queues.len().min(online), "processor", "processors")
            ))
            .because("one processor handles the packets of all; irqbalance must be off to keep it")
            .mend(RemedyPlace::Shell, affinities(nic, online)),
        _ => Finding::ok(NAME, all),
    }
}

/// A card with fewer queues than there are processors can hand packets on in software.
pub(super) fn steering(host: &Host, demand: &Demand) -> Finding {
    const NAME: &str = "packet-steering";
    let nics = match &host.nics {
        Ok(nics) => nics,
        Err(unknown) => return Finding::unknown(NAME, unknown),
    };
    let online = host.online.as_ref().map_or(demand.processors, Vec::len);
    let narrow = nics.iter().find(|nic| !nic.steers && nic.queues.len() < online);
    match narrow {
        Some(nic) if busy(demand) => {
            let queues = plural(nic.queues.len(), "receive queue", "receive queues");
            Finding::better(NAME, format!("{}: {queues} and no steering", nic.name))
                .needs(format!("packets on {online} processors"))
                .because(
                    "processors without a queue handle no packets; steering costs an interrupt \
                     between processors per batch",
                )
                .mend(RemedyPlace::Shell, masks(nic, online))
        }
        Some(_) => Finding::ok(NAME, "none; heartbeats do not need it"),
        None if nics.iter().any(|nic| nic.steers) => Finding::ok(NAME, "in software (RPS)"),
        None => Finding::ok(NAME, "a queue for each processor"),
    }
}

/// The queue between a card, or loopback, and the processor that handles its packets. The count is
/// since boot, so a queue that was made longer is believed to be long enough.
pub(super) fn backlog(host: &Host) -> Finding {
    const NAME: &str = "packet-backlog";
    let (seen, length) = match (&host.softnet, &host.netdev_backlog) {
        (Ok(seen), Ok(length)) => (seen, *length),
        (Err(unknown), _) | (_, Err(unknown)) => return Finding::unknown(NAME, unknown),
    };
    let has = format!("{} packets, {} dropped since boot", count(length), count(seen.dropped));
    if length > BACKLOG || seen.dropped * DROPS_PER <= seen.processed {
        return Finding::ok(NAME, has);
    }
    Finding::better(NAME, has)
        .needs(format!("less than one dropped in {}", count(DROPS_PER)))
        .because("each is sent again, often after 200 ms only; a longer queue adds its own delay")
        .sysctl("net.core.netdev_max_backlog", length * 4)
}

/// How long a processor handles packets before others get their turn; likewise since boot.
pub(super) fn budget(host: &Host) -> Finding {
    const NAME: &str = "packet-budget";
    let (seen, budget) = match (&host.softnet, &host.netdev_budget) {
        (Ok(seen), Ok(budget)) => (seen, *budget),
        (Err(unknown), _) | (_, Err(unknown)) => return Finding::unknown(NAME, unknown),
    };
    let squeezed = count(seen.squeezed);
    let has = format!("{} packets, too few {squeezed} times since boot", count(budget));
    if budget > BUDGET || seen.squeezed * SQUEEZES_PER <= seen.processed {
        return Finding::ok(NAME, has);
    }
    Finding::better(NAME, has)
        .needs(format!("too few once in {} packets at most", count(SQUEEZES_PER)))
        .because("packets wait for the next round; a larger budget delays the workers")
        .sysctl("net.core.netdev_budget", budget * 2)
}

/// A million heartbeats every 25 s are 40,000 packets per second each way: one processor's leisure.
fn busy(demand: &Demand) -> bool {
    demand.wish.profile != Profile::Density
}

/// Interrupts that come, dealt out in turn.
fn affinities(nic: &Nic, online: usize) -> String {
    let lines = nic.live().enumerate().map(|(at, (number, _))| {
        format!("echo {} > /proc/irq/{number}/smp_affinity_list", at % online.max(1))
    });
    lines.collect::<Vec<_>>().join("; ")
}

/// All processors for every queue.
fn masks(nic: &Nic, online: usize) -> String {
    let mask = mask(online);
    let lines = nic
        .queues
        .iter()
        .map(|queue| format!("echo {mask} > /sys/class/net/{}/queues/{queue}/rps_cpus", nic.name));
    lines.collect::<Vec<_>>().join("; ")
}

/// The first `online` processors, in groups of 32 bits.
fn mask(online: usize) -> String {
    let full = online / 32;
    let rest = online % 32;
    let mut groups = Vec::with_capacity(full + 1);
    if rest > 0 {
        groups.push(format!("{:x}", (1u64 << rest) - 1));
    }
    groups.extend(std::iter::repeat_n("ffffffff".to_owned(), full));
    groups.join(",")
}

/// The kernel's defaults.
const BACKLOG: u64 = 1000;
const BUDGET: u64 = 300;

/// Rarer than this, a drop is below the 99.99th percentile even of ten packets to a message.
const DROPS_PER: u64 = 100_000;

/// Rarer than this, an early end cannot be felt.
const SQUEEZES_PER: u64 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_come_in_groups() {
        assert_eq!((mask(1), mask(2), mask(8)), ("1".into(), "3".into(), "ff".into()));
        assert_eq!((mask(32), mask(34)), ("ffffffff".into(), "3,ffffffff".into()));
    }
}
