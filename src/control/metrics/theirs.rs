//! Metrics under Centrifugo's names, where ringhold has the same figure, so that dashboards and
//! alerts made for it go on. The invariant: each is one of ours, told once more; nothing is counted
//! for it.

use super::{Kind, Metric, Value};

/// One of Centrifugo's names, and which of our figures it tells.
struct Row {
    theirs: &'static str,
    ours: &'static str,
    kind: Kind,
    /// Our labels by their names; a label of ours that is not here is summed over.
    labels: &'static [(&'static str, &'static str)],
    /// Those that are always the same.
    fixed: &'static [(&'static str, &'static str)],
    /// What differs.
    note: &'static str,
}

/// Their counters are told without `_total`, as Prometheus gets them from Centrifugo.
const ROWS: &[Row] = &[
    row("node_num_clients", "ringhold_gateway_clients", Kind::Gauge),
    Row {
        note: "counted per core",
        ..row("node_num_users", "ringhold_gateway_users", Kind::Gauge)
    },
    row("node_num_subscriptions", "ringhold_gateway_subscriptions", Kind::Gauge),
    row("node_num_channels", "ringhold_gateway_channels", Kind::Gauge),
    Row {
        labels: &[("version", "version")],
        note: "the version is ringhold's",
        ..row("node_build", "ringhold_build", Kind::Gauge)
    },
    Row {
        labels: &[("transport", "transport")],
        note: "without client names; also before the connect command",
        ..row("client_connections_accepted", "ringhold_gateway_transport_opened", Kind::Untold)
    },
    Row {
        labels: &[("transport", "transport")],
        note: "as above",
        ..row("client_connections_inflight", "ringhold_gateway_transport_connections", Kind::Gauge)
    },
    Row {
        note: "without client names and namespaces",
        ..row("client_subscriptions_accepted", "ringhold_gateway_subscribes", Kind::Untold)
    },
    Row {
        note: "without client names and namespaces",
        ..row("client_subscriptions_inflight", "ringhold_gateway_subscriptions", Kind::Gauge)
    },
    Row {
        labels: &[("command", "method")],
        note: "without namespaces; bounds are ringhold's; the summary is left out",
        ..row(
            "client_command_duration_seconds_histogram",
            "ringhold_gateway_command_seconds",
            Kind::Histogram,
        )
    },
    Row {
        labels: &[("command", "method"), ("code", "code")],
        note: "codes of applications are 400",
        ..row("client_num_reply_errors", "ringhold_gateway_command_errors", Kind::Untold)
    },
    Row {
        labels: &[("code", "code")],
        note: "codes of applications are 4000",
        ..row("client_num_server_disconnects", "ringhold_gateway_disconnects", Kind::Untold)
    },
    Row {
        labels: &[("code", "code")],
        note: "without namespaces",
        ..row("client_num_server_unsubscribes", "ringhold_gateway_unsubscribes", Kind::Untold)
    },
    Row {
        fixed: &[("recovered", "yes")],
        note: "without namespaces, and without whether there were publications",
        ..row("client_recover", "ringhold_gateway_recoveries", Kind::Untold)
    },
    Row {
        fixed: &[("recovered", "no")],
        note: "as above",
        ..row("client_recover", "ringhold_gateway_recoveries_failed", Kind::Untold)
    },
    Row {
        note: "of all transports together",
        ..row("client_ping_pong_duration_seconds", "ringhold_rtt_seconds", Kind::Histogram)
    },
    Row {
        labels: &[("method", "method")],
        note: "without the protocol; the summary is left out",
        ..row(
            "api_command_duration_seconds_histogram",
            "ringhold_api_command_seconds",
            Kind::Histogram,
        )
    },
    Row {
        labels: &[("method", "method"), ("code", "error")],
        note: "errors by code, without the protocol",
        ..row("api_command_errors", "ringhold_api_command_errors", Kind::Total)
    },
    Row {
        labels: &[("hook", "type")],
        note: "without protocol and name; the summary is left out",
        ..row("proxy_duration_seconds_histogram", "ringhold_hook_seconds", Kind::Histogram)
    },
    Row {
        labels: &[("hook", "type")],
        note: "of all causes together",
        ..row("proxy_errors", "ringhold_hook_failures", Kind::Untold)
    },
    Row {
        note: "of all proxies together",
        ..row("proxy_inflight_requests", "ringhold_hooks_in_flight", Kind::Gauge)
    },
    Row {
        labels: &[("consumer", "consumer_name")],
        note: "without those that were passed over",
        ..row("consumers_messages_processed", "ringhold_consumed", Kind::Total)
    },
    Row {
        labels: &[("consumer", "consumer_name")],
        note: "of all causes together",
        ..row("consumers_errors", "ringhold_consumer_failures", Kind::Total)
    },
    row("node_num_nodes", "ringhold_broker_nodes", Kind::Gauge),
];

const fn row(theirs: &'static str, ours: &'static str, kind: Kind) -> Row {
    Row { theirs, ours, kind, labels: &[], fixed: &[], note: "" }
}

/// What Centrifugo's names begin with.
const PREFIX: &str = "centrifugo_";

/// Adds them to what was collected.
pub(super) fn collect(all: &mut Vec<Metric>) {
    let mut told: Vec<Metric> = Vec::new();
    for row in ROWS {
        let name = format!("{PREFIX}{}", row.theirs);
        let Some(ours) = all.iter().find(|metric| metric.name == row.ours) else { continue };
        let series = series(row, ours);
        match told.iter_mut().find(|metric| metric.name == name) {
            Some(metric) => metric.series.extend(series),
            None => {
                let mut metric = Metric::new(name, row.kind, &ours.help);
                metric.series = series;
                told.push(metric);
            }
        }
    }
    all.append(&mut told);
}

fn series(row: &Row, ours: &Metric) -> Vec<super::Series> {
    let mut series: Vec<super::Series> = Vec::new();
    for (labels, value) in &ours.series {
        let renamed = |(name, value): &(&str, String)| {
            let theirs = row.labels.iter().find(|(ours, _)| ours == name);
            theirs.map(|(_, theirs)| (*theirs, value.clone()))
        };
        let fixed = row.fixed.iter().map(|(name, value)| (*name, (*value).to_owned()));
        let labels: Vec<_> = labels.iter().filter_map(renamed).chain(fixed).collect();
        match series.iter_mut().find(|(known, _)| *known == labels) {
            Some((_, sum)) => {
                if let (Value::Number(sum), Value::Number(more)) = (sum, value) {
                    *sum += more;
                }
            }
            None => series.push((labels, value.clone())),
        }
    }
    series
}

/// The rows for the documentation, in Markdown.
pub fn table() -> String {
    let mut table = String::from("| Centrifugo's | is | but |\n|---|---|---|\n");
    for Row { theirs, ours, kind, fixed, note, .. } in ROWS {
        let total = |kind| if kind == Kind::Total { "_total" } else { "" };
        let fixed = fixed.iter().map(|(name, value)| format!("{{{name}=\"{value}\"}}"));
        let fixed: String = fixed.collect();
        let suffix = if matches!(kind, Kind::Untold | Kind::Total) { "_total" } else { "" };
        let theirs = format!("`{PREFIX}{theirs}{}{fixed}`", total(*kind));
        table += &format!("| {theirs} | `{ours}{suffix}` | {note} |\n");
    }
    table
}
