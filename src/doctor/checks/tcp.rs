//! TCP: memory of its buffers, its queues, ports and tables.

use crate::doctor::costs;
use crate::doctor::demand::Demand;
use crate::doctor::finding::{Finding, RemedyPlace};
use crate::doctor::host::Host;
use crate::doctor::profile::Profile;
use crate::doctor::words::{bytes, count};

/// Pages of buffers over the whole host. Idle connections hold none, one with an unread or
/// unacknowledged message at least one.
pub(super) fn memory(host: &Host, demand: &Demand) -> Finding {
    const NAME: &str = "tcp-memory";
    let [_, pressure, high] = match &host.tcp_mem {
        Ok(limits) => *limits,
        Err(unknown) => return Finding::unknown(NAME, unknown),
    };
    let need = demand.buffer_pages();
    let has = format!(
        "pressure from {}, full at {}",
        bytes(pressure * costs::PAGE),
        bytes(high * costs::PAGE)
    );
    if pressure >= need {
        return Finding::ok(NAME, has);
    }
    let (load, each) = (demand.load, bytes(demand.load.pages * costs::PAGE));
    let needed =
        format!("{}: {} % of connections with {each}", bytes(need * costs::PAGE), load.percent);
    // The kernel's own proportions: low 3/4 of pressure, high 3/2.
    let line = format!("{} {} {}", need / 4 * 3, need, need / 2 * 3);
    let finding = if high < need {
        Finding::short(NAME, has).because(
            "when it is full, what arrives is dropped and sends take nothing; mending lets \
             buffers take that much of the host's memory",
        )
    } else {
        Finding::better(NAME, has).because(
            "under pressure windows shrink and buffers stop growing; mending lets buffers take \
             that much of the host's memory",
        )
    };
    finding.needs(needed).sysctl("net.ipv4.tcp_mem", line)
}

/// Sizes below which one connection cannot do what the profile is for. Upper bounds are the
/// profile's settings.
pub(super) fn buffers(host: &Host, demand: &Demand) -> Finding {
    const NAME: &str = "tcp-buffers";
    let (receive, send) = match (&host.tcp_rmem, &host.tcp_wmem) {
        (Ok(receive), Ok(send)) => (*receive, *send),
        (Err(unknown), _) | (_, Err(unknown)) => return Finding::unknown(NAME, unknown),
    };
    let has = format!(
        "receive {} to {}, send {} to {}",
        bytes(receive[1]),
        bytes(receive[2]),
        bytes(send[1]),
        bytes(send[2])
    );
    if send[1] < SEND_AT_FIRST {
        return Finding::better(NAME, has)
            .needs(format!("{} to send at first", bytes(SEND_AT_FIRST)))
            .because("a message of that size takes more than one turn; the kernel's default")
            .sysctl(
                "net.ipv4.tcp_wmem",
                format!("{} {SEND_AT_FIRST} {}", send[0], send[2].max(SEND_AT_FIRST)),
            );
    }
    if demand.wish.profile != Profile::Throughput {
        return Finding::ok(NAME, has);
    }
    let because = "one connection moves at most half of it per round trip: 10 MB/s at 50 ms";
    if receive[2] < MOST {
        return Finding::better(NAME, has)
            .needs(format!("{} to receive at most", bytes(MOST)))
            .because(because)
            .sysctl("net.ipv4.tcp_rmem", format!("{} {} {MOST}", receive[0], receive[1]));
    }
    if send[2] < MOST {
        return Finding::better(NAME, has)
            .needs(format!("{} to send at most", bytes(MOST)))
            .because(because)
            .sysctl("net.ipv4.tcp_wmem", format!("{} {} {MOST}", send[0], send[1]));
    }
    Finding::ok(NAME, has)
}

/// Enough for everybody coming back at once, less what is accepted meanwhile. Each worker has a
/// queue.
pub(super) fn accept_queue(host: &Host, demand: &Demand) -> Finding {
    const NAME: &str = "accept-queue";
    let length = match &host.somaxconn {
        Ok(length) => *length,
        Err(unknown) => return Finding::unknown(NAME, unknown),
    };
    let accepted = costs::STORM_SECONDS * costs::ACCEPTS_PER_PROCESSOR * demand.processors as u64;
    let waiting = demand.connections().saturating_sub(accepted) / demand.workers().max(1);
    let needed = waiting.clamp(QUEUE_LEAST, QUEUE_MOST);
    let has = format!("{} per worker", count(length));
    if length >= needed {
        return Finding::ok(NAME, has);
    }
    Finding::better(NAME, has)
        .needs(format!(
            "{} per worker, when all come back within {} s",
            count(needed),
            costs::STORM_SECONDS
        ))
        .because("what does not fit is dropped, and tried again by the client a second later")
        .sysctl("net.core.somaxconn", needed)
}

/// With cookies the backlog of half-open connections is not asked (net/ipv4/tcp_input.c,
/// `tcp_conn_request`); the listener's own length counts.
pub(super) fn syn_queue(host: &Host) -> Finding {
    const NAME: &str = "syn-queue";
    const KEY: &str = "net.ipv4.tcp_syncookies";
    match (&host.syncookies, &host.syn_backlog) {
        (Ok(1), _) => Finding::ok(NAME, "cookies when it is full"),
        (Ok(2), _) => Finding::better(NAME, "cookies for every connection")
            .needs(format!("{KEY} = 1"))
            .because("cookies cost a hash each, and clients without timestamps lose TCP options")
            .sysctl(KEY, 1),
        (Ok(_), Ok(length)) => Finding::better(NAME, format!("{} and no cookies", count(*length)))
            .needs(format!("{KEY} = 1"))
            .because("a flood of SYNs, or a storm beyond that number, shuts everybody out")
            .sysctl(KEY, 1),
        (Err(unknown), _) | (_, Err(unknown)) => Finding::unknown(NAME, unknown),
    }
}

/// A port from which outgoing connections are made can be taken when the server starts again.
pub(super) fn ports(host: &Host, demand: &Demand) -> Finding {
    const NAME: &str = "ports";
    let (first, last) = match &host.port_range {
        Ok(range) => *range,
        Err(unknown) => return Finding::unknown(NAME, unknown),
    };
    let reserved = match &host.reserved_ports {
        Ok(reserved) => reserved,
        Err(unknown) => return Finding::unknown(NAME, unknown),
    };
    let within =
        |port: u32, ranges: &[(u32, u32)]| ranges.iter().any(|r| r.0 <= port && port <= r.1);
    let at_risk: Vec<u32> = demand
        .wish
        .ports
        .iter()
        .map(|port| u32::from(*port))
        .filter(|port| within(*port, &[(first, last)]) && !within(*port, reserved))
        .collect();
    let has = format!("outgoing connections use {first} to {last}");
    if at_risk.is_empty() {
        return Finding::ok(NAME, has);
    }
    let join = |ports: &[u32]| ports.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let mut line: Vec<String> = reserved
        .iter()
        .map(|(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") })
        .collect();
    line.push(join(&at_risk));
    Finding::short(NAME, has)
        .needs(format!("{} reserved", join(&at_risk)))
        .because("an outgoing connection can hold the port when ringhold starts: address in use")
        .sysctl("net.ipv4.ip_local_reserved_ports", line.join(","))
}

/// Connections that share a bucket are walked for every packet.
pub(super) fn hash_table(host: &Host, demand: &Demand) -> Finding {
    const NAME: &str = "hash-table";
    let buckets = match &host.hash_buckets {
        Ok(buckets) => buckets.unsigned_abs(),
        // tcp_ehash_entries is there since Linux 6.2.
        Err(unknown) => return Finding::unknown(NAME, unknown),
    };
    let has = format!("{} buckets", count(buckets));
    let needed = (demand.connections() / CHAIN_MOST).max(1).next_power_of_two();
    if buckets >= needed {
        return Finding::ok(NAME, has);
    }
    Finding::better(NAME, has)
        .needs(count(needed))
        .because(format!(
            "each packet walks past {} connections on average, a cache miss each; the table \
             takes {}",
            demand.connections() / buckets.max(1) / 2,
            bytes(needed * costs::BUCKET)
        ))
        .mend(RemedyPlace::Boot, format!("thash_entries={needed}"))
}

/// The kernel's default.
const SEND_AT_FIRST: u64 = 16_384;

/// Half of it is window: 512 KiB, 10 MB/s at 50 ms.
const MOST: u64 = 1 << 20;

/// The kernel's default since 5.4 is 4,096; fewer than this is not a server's.
const QUEUE_LEAST: u64 = 1024;

/// What ringhold asks for (`--backlog`).
const QUEUE_MOST: u64 = 65_535;

/// Two cache misses on average per packet.
const CHAIN_MOST: u64 = 4;
