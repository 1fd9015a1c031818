//! The firewall's table of connections.

use crate::doctor::costs;
use crate::doctor::demand::Demand;
use crate::doctor::finding::Finding;
use crate::doctor::host::Host;
use crate::doctor::words::{bytes, count};

/// A full table drops new connections whatever else is in order.
pub(super) fn table(host: &Host, demand: &Demand) -> Finding {
    const NAME: &str = "conntrack";
    const KEY: &str = "net.netfilter.nf_conntrack_max";
    let max = match &host.conntrack.max {
        Ok(max) => *max,
        Err(unknown) if unknown.is_absent() => return Finding::ok(NAME, "not loaded"),
        Err(unknown) => return Finding::unknown(NAME, unknown),
    };
    let (tracked, buckets) = match (&host.conntrack.count, &host.conntrack.buckets) {
        (Ok(tracked), Ok(buckets)) => (*tracked, (*buckets).max(1)),
        (Err(unknown), _) | (_, Err(unknown)) => return Finding::unknown(NAME, unknown),
    };
    let has = format!("{} of {} entries", count(tracked), count(max));
    let needed = demand.connections() + tracked;
    let cost = format!(
        "entries take {} besides; or do not track: nft rule `notrack` for the ports",
        bytes(demand.connections() * costs::CONNTRACK_ENTRY)
    );
    if max < needed {
        let (finding, because) = match tracked {
            // Loaded, but no rule tracks anything.
            0 => (Finding::better(NAME, has), "once a rule tracks connections, those beyond"),
            _ => (Finding::short(NAME, has), "connections beyond"),
        };
        return finding
            .needs(count(needed))
            .because(format!("{because} are dropped (table full); {cost}"))
            .sysctl(KEY, needed);
    }
    // Each connection is in the table twice, once for each direction.
    if tracked > 0 && needed * 2 / buckets > CHAIN_MOST {
        return Finding::better(NAME, format!("{has}, {} buckets", count(buckets)))
            .needs(format!("{} buckets", count(needed / 2)))
            .because(format!(
                "each packet walks past {} entries on average; buckets take {}",
                needed / buckets,
                bytes(needed / 2 * costs::BUCKET)
            ))
            .sysctl("net.netfilter.nf_conntrack_buckets", needed / 2);
    }
    Finding::ok(NAME, has)
}

/// As for the kernel's own table.
const CHAIN_MOST: u64 = 4;
