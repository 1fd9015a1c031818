//! The server under test: its metrics, its memory, its processor time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::tally::Tally;
use crate::support::gateway::Gateway;

/// All values of `/metrics`, by name and labels.
pub(crate) type Metrics = BTreeMap<String, f64>;

pub(crate) fn metrics(gateway: &Gateway) -> Metrics {
    let text = gateway.metrics();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let pairs = lines.filter_map(|line| line.rsplit_once(' '));
    let named = pairs.filter_map(|(name, value)| Some((name, value.parse().ok()?)));
    let ours = named.filter_map(|(name, value)| Some((name.strip_prefix("ringhold_")?, value)));
    ours.map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Waits until all gauges of what connections, sessions and channels take are 0. What is not is a
/// failure.
pub(crate) fn await_empty(gateway: &Gateway, tally: &Tally, limit: Duration) -> Metrics {
    let deadline = Instant::now() + limit;
    loop {
        let metrics = metrics(gateway);
        let value = |name: &&str| metrics.get(*name).copied();
        let left: Vec<_> = EMPTY.iter().filter(|name| value(name) != Some(0.0)).collect();
        if left.is_empty() {
            return metrics;
        }
        if Instant::now() > deadline {
            for name in left {
                tally.fail(&format!("{name} is {:?} after everybody has left", value(name)));
            }
            return metrics;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Counters of what must never happen here.
pub(crate) fn check_never(metrics: &Metrics, tally: &Tally) {
    for name in NEVER {
        match metrics.get(name) {
            Some(0.0) => {}
            other => tally.fail(&format!("{name} is {other:?}")),
        }
    }
}

/// Resident memory in bytes.
pub(crate) fn resident(gateway: &Gateway) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.id()));
    let status = status.expect("the server runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
    kib.expect("a number") * 1024
}

/// Processor time of a process so far, in seconds.
pub(crate) fn processor_time(process: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // Fields 14 and 15, counted behind the name, which may contain anything but a last `)`.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// 0 when nobody is there.
const EMPTY: [&str; 19] = [
    "open",
    "streams",
    "inbound_bytes_held",
    "outbox_bytes_held",
    "blocked",
    "topics",
    "subscriptions",
    "gateway_clients",
    "gateway_users",
    "gateway_channels",
    "gateway_subscriptions",
    "gateway_deadlines",
    "gateway_transport_connections{transport=\"websocket\"}",
    "gateway_transport_connections{transport=\"sse\"}",
    "gateway_transport_connections{transport=\"http_stream\"}",
    "gateway_transport_connections{transport=\"uni_sse\"}",
    "gateway_transport_connections{transport=\"uni_http_stream\"}",
    "gateway_transport_connections{transport=\"uni_websocket\"}",
    "hooks_in_flight",
];

/// 0 as long as nothing goes wrong here.
const NEVER: [&str; 19] = [
    "panics_total",
    "accept_errors_total",
    "accept_pauses_total",
    "mailbox_full_total",
    "dropped_full_total",
    "queue_overflows_total",
    "refusals_total{reason=\"full\"}",
    "refusals_total{reason=\"bad_request\"}",
    "refusals_total{reason=\"inbound_full\"}",
    "closes_total{cause=\"protocol\"}",
    "closes_total{cause=\"invalid_data\"}",
    "closes_total{cause=\"too_big\"}",
    "closes_total{cause=\"rate\"}",
    "closes_total{cause=\"inbound_full\"}",
    "closes_total{cause=\"panic\"}",
    "gateway_letters_refused_total",
    "gateway_positions_lost_total",
    "gateway_undecodable_total",
    "hooks_queue_full_total",
];
