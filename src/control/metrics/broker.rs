//! What the broker's thread counts. Without a broker the metrics are there and have no series, or
//! are 0.

use std::time::Instant;

use super::{Kind, Metric, Snapshot, Value, list, of_durations};
use crate::broker::View;
use crate::broker::answers::Why;
use crate::broker::bus::Unreached;
use crate::broker::link::Lost;
use crate::broker::tally::{Maps, Tally};

pub(super) fn collect(all: &mut Vec<Metric>, snapshot: &Snapshot) {
    let broker = snapshot.broker.as_ref();
    servers(all, broker);
    let nothing = Tally::default();
    let tally = broker.map_or(&nothing, |broker| &broker.tally);
    let queue = broker.map(|broker| &broker.queue);
    for (name, kind, help, value) in [
        (
            "broker_queue",
            Kind::Gauge,
            "Requests to the broker that are not answered",
            queue.map_or(0, |queue| queue.unanswered() as u64),
        ),
        (
            "broker_queue_bytes",
            Kind::Gauge,
            "Memory of such requests",
            queue.map_or(0, |queue| queue.bytes() as u64),
        ),
        (
            "broker_nodes",
            Kind::Gauge,
            "Nodes on the same broker, this one among them",
            1 + broker.map_or(0, |broker| broker.bus.nodes(Instant::now()).len() as u64),
        ),
    ] {
        all.push(Metric::new(name, kind, help).number(value));
    }
    for (name, kind, help, of) in COUNTED {
        all.push(Metric::new(name, kind, help).number(of(tally)));
    }
    let mut maps = tally.maps().clone();
    for outcome in OUTCOMES {
        // Who watches for the first of a kind sees it only where there was none before.
        maps.requests.entry(("publish", outcome)).or_default();
    }
    labelled(all, &maps);
    for (name, help, value) in snapshot.gateway.mirror.each() {
        all.push(Metric::new(format!("broker_{name}"), Kind::Total, help).number(value));
    }
}

type CountOf = fn(&Tally) -> u64;

/// What the broker's thread counts without labels.
const COUNTED: [(&str, Kind, &str, CountOf); 13] = [
    ("broker_messages", Kind::Total, "Messages from the broker", |t| t.messages.get()),
    (
        "broker_messages_malformed",
        Kind::Total,
        "Messages from the broker that could not be read",
        |t| t.messages_malformed.get(),
    ),
    (
        "broker_messages_refused",
        Kind::Total,
        "Messages from the broker that a core's full mailbox did not take; those of a history \
         are repaired",
        |t| t.messages_refused.get(),
    ),
    ("broker_listens", Kind::Total, "Channels whose messages the broker was asked for", |t| {
        t.listens.get()
    }),
    ("broker_repeated", Kind::Total, "Requests sent again after a connection broke", |t| {
        t.repeated.get()
    }),
    ("broker_control_received", Kind::Total, "Messages from other nodes", |t| {
        t.control_received.get()
    }),
    (
        "broker_control_sent",
        Kind::Total,
        "Messages to other nodes that the broker has taken",
        |t| t.control_sent.get(),
    ),
    (
        "broker_control_dropped",
        Kind::Total,
        "Messages from or to other nodes for which there was no room or no connection, or that \
         the broker refused",
        |t| t.control_dropped.get(),
    ),
    (
        "broker_control_malformed",
        Kind::Total,
        "Messages from other nodes that could not be read",
        |t| t.control_malformed.get(),
    ),
    (
        "broker_switches",
        Kind::Total,
        "Times that Sentinels named another primary than before",
        |t| t.switches.get(),
    ),
    (
        "broker_slots_moved",
        Kind::Total,
        "Slots of a cluster that have another node than before",
        |t| t.slots_moved.get(),
    ),
    (
        "broker_messages_moved",
        Kind::Total,
        "Messages dropped because their channel's slot has another node, which passes them on, \
         too",
        |t| t.messages_moved.get(),
    ),
    (
        "broker_slots_lost",
        Kind::Total,
        "Slots that a node has ended sharded subscriptions of, or refused: listened to anew",
        |t| t.slots_lost.get(),
    ),
];

fn servers(all: &mut Vec<Metric>, broker: Option<&View>) {
    let help = "1: there are connections to the broker";
    let mut up = Metric::new("broker_up", Kind::Gauge, help).label("server", "its address");
    let help = "Sentinels that answered when they were asked last, of those that are configured";
    let mut sentinels =
        Metric::new("broker_sentinels", Kind::Gauge, help).label("server", "as above");
    let now = Instant::now();
    for condition in broker.iter().flat_map(|broker| broker.conditions.iter()) {
        let report = condition.report(now);
        if let Some(answered) = report.sentinels {
            let label = vec![("server", report.place.clone())];
            sentinels.add(label, Value::Number(answered as u64));
        }
        up.add(vec![("server", report.place)], Value::Number(report.up.into()));
    }
    all.push(up);
    all.push(sentinels);
}

fn labelled(all: &mut Vec<Metric>, maps: &Maps) {
    let help = "Connections to the broker made";
    let mut made = Metric::new("broker_connects", Kind::Total, help);
    for (purpose, number) in &maps.connects {
        made.add(vec![("purpose", (*purpose).to_owned())], Value::Number(*number));
    }
    all.push(made.label("purpose", "`commands`, `messages`; of NATS there is one for both"));
    let help = "Connections to the broker lost";
    let mut lost = Metric::new("broker_disconnects", Kind::Total, help);
    for (reason, number) in &maps.lost {
        lost.add(vec![("reason", (*reason).to_owned())], Value::Number(*number));
    }
    all.push(lost.label("reason", &list(&Lost::NAMES)));
    let help = "Attempts to connect to the broker that failed";
    let mut failed = Metric::new("broker_connects_failed", Kind::Total, help);
    for (reason, number) in &maps.failed {
        failed.add(vec![("reason", (*reason).to_owned())], Value::Number(*number));
    }
    let reasons = "`connect`, `tls`, `sentinel`, `timeout`, `unauthorised`, `database`, \
                   `not_primary`, `cluster`, `forbidden`, `lost`";
    all.push(failed.label("reason", reasons));
    let help = "Requests to the broker answered";
    let mut requests = Metric::new("broker_requests", Kind::Total, help);
    for ((op, outcome), number) in &maps.requests {
        let labels = vec![("op", (*op).to_owned()), ("outcome", (*outcome).to_owned())];
        requests.add(labels, Value::Number(*number));
    }
    all.push(requests.label("op", "what is asked").label("outcome", &list(&OUTCOMES)));
    let help = "Requests that a node of a cluster sent elsewhere or put off";
    let mut redirects = Metric::new("broker_redirects", Kind::Total, help);
    for how in Why::NAMES {
        let number = maps.redirects.get(how).copied().unwrap_or(0);
        redirects.add(vec![("how", how.to_owned())], Value::Number(number));
    }
    all.push(redirects.label("how", &list(&Why::NAMES)));
    let help = "Orders and questions to all other nodes";
    let mut surveys = Metric::new("broker_surveys", Kind::Total, help);
    for (op, outcome) in ASKED.iter().flat_map(|op| Unreached::NAMES.map(|name| (*op, name))) {
        // From 0 on, so that the first of a kind is an increase.
        let number = maps.surveys.get(&(op, outcome)).copied().unwrap_or(0);
        let labels = vec![("op", op.to_owned()), ("outcome", outcome.to_owned())];
        surveys.add(labels, Value::Number(number));
    }
    all.push(surveys.label("op", &list(&ASKED)).label("outcome", &list(&Unreached::NAMES)));
    let help = "From a request to the broker to its answer, of those that it answered";
    let mut seconds = Metric::new("broker_request_seconds", Kind::Histogram, help);
    for (op, durations) in &maps.durations {
        seconds.add(vec![("op", (*op).to_owned())], of_durations(durations));
    }
    all.push(seconds.label("op", "as above"));
}

/// Names of orders and questions.
const ASKED: [&str; 5] = ["subscribe", "unsubscribe", "disconnect", "refresh", "channels"];

/// What becomes of requests: their result, or the names of `gateway::broker::Fault`.
const OUTCOMES: [&str; 8] =
    ["ok", "away", "late", "unknown", "denied", "malformed", "bad_name", "oversized"];
