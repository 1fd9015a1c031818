//! `/metrics`: everything that is counted, in the text format of OpenMetrics (Prometheus).
//!
//! `collect` is the one list of metrics; the exposition and the table in `docs/metrics.md` are
//! both made from it. Names are stable. All begin with `ringhold_`, but those that all programs
//! have in common, `process_`; a total ends in `_total`, as the format demands.

mod broker;
mod consumers;
mod json;
mod own;
mod state;
pub mod theirs;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::backend::{Backend, Snapshot};
use super::body::refusal;
use super::counts::{Counts, FEED_ENDS, Maps};
use super::process;
use super::room::Seat;
use crate::gateway::api::ApiRequest;
use crate::gateway::format::Transport;
use crate::gateway::hooks::{HookFailure, HookKind};
use crate::gateway::stats::{CommandKind, Durations, GatewayStats};
use crate::{CounterKind, Counters, Distribution};

pub(super) use self::json::{Helps, Values};

/// The route of the metrics.
pub fn router<B: Backend>(
    backend: Arc<B>,
    counts: Arc<Counts>,
    path: &str,
    names: Names,
) -> Router {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    Router::new().route(path, get(serve::<B>)).with_state((backend, counts, turns, names))
}

/// Which names metrics have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Names {
    /// Our own.
    #[default]
    Ours,
    /// And Centrifugo's, where it has the same figure.
    Both,
}

type Shared<B> = (Arc<B>, Arc<Counts>, Arc<Semaphore>, Names);

async fn serve<B: Backend>(
    State((backend, counts, turns, names)): State<Shared<B>>,
    request: Request,
) -> Response {
    let seat = request.extensions().get::<Seat>();
    if let Some(seat) = seat {
        // Whoever waits for a turn must not keep others from a place.
        seat.pause(Instant::now());
    }
    let _turn = turns.acquire().await;
    if let Some(seat) = seat {
        seat.work();
    }
    let snapshot = tokio::time::timeout(SNAPSHOT_TIMEOUT, backend.snapshot()).await;
    let Ok(text) = snapshot.map(|snapshot| exposition(&snapshot, &counts, names)) else {
        return refusal(StatusCode::SERVICE_UNAVAILABLE);
    };
    let content_type =
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    ([(header::CONTENT_TYPE, content_type)], text).into_response()
}

/// Pages that are made at once.
const AT_ONCE: usize = 4;

/// How long cores may take to say what they count.
pub(super) const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(5);

/// All metrics as text.
pub fn exposition(snapshot: &Snapshot, counts: &Counts, names: Names) -> String {
    let mut registry = Registry::default();
    let mut all = collect(snapshot, counts);
    if names == Names::Both {
        theirs::collect(&mut all);
    }
    registry.register_collector(Box::new(Metrics(all)));
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
    text
}

/// The table of all metrics for the documentation, in Markdown.
pub fn table() -> String {
    let mut table = String::from("| metric | type | labels | what |\n|---|---|---|---|\n");
    for metric in collect(&Snapshot::default(), &Counts::default()) {
        let (kind, suffix) = match metric.kind {
            Kind::Gauge => ("gauge", ""),
            Kind::Untold => ("unknown", ""),
            Kind::Total => ("counter", "_total"),
            Kind::Histogram => ("histogram", ""),
        };
        let labels = metric.labels.join("; ");
        let (name, help) = (&metric.name, &metric.help);
        table.push_str(&format!("| `{name}{suffix}` | {kind} | {labels} | {help} |\n"));
    }
    table
}

/// One metric with all its series.
#[derive(Debug)]
struct Metric {
    name: String,
    kind: Kind,
    help: String,
    /// For the table: each label and its values.
    labels: Vec<String>,
    series: Vec<Series>,
}

/// Labels, and the value that they have.
type Series = (Vec<(&'static str, String)>, Value);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Gauge,
    Total,
    /// A total whose name does not end as one's has to.
    Untold,
    Histogram,
}

#[derive(Clone, Debug)]
enum Value {
    Number(u64),
    Real(f64),
    /// Sum in seconds, and how many are at most each bound and above the one before.
    Distribution(f64, Vec<(f64, u64)>),
}

impl Metric {
    fn new(name: impl Into<String>, kind: Kind, help: &str) -> Self {
        let name = name.into();
        let help = help.trim().trim_end_matches('.').to_owned();
        Self { name, kind, help, labels: Vec::new(), series: Vec::new() }
    }

    fn label(mut self, name: &str, values: &str) -> Self {
        self.labels.push(format!("`{name}`: {values}"));
        self
    }

    fn add(&mut self, labels: Vec<(&'static str, String)>, value: Value) {
        self.series.push((labels, value));
    }

    fn value(mut self, value: Value) -> Self {
        self.add(Vec::new(), value);
        self
    }

    fn number(self, value: u64) -> Self {
        self.value(Value::Number(value))
    }
}

fn collect(snapshot: &Snapshot, counts: &Counts) -> Vec<Metric> {
    let mut all = Vec::new();
    engine(&mut all, snapshot);
    gateway(&mut all, snapshot);
    control(&mut all, counts, &snapshot.gateway);
    broker::collect(&mut all, snapshot);
    state::collect(&mut all, counts);
    memory(&mut all, snapshot);
    all.iter_mut().for_each(|metric| metric.name.insert_str(0, "ringhold_"));
    own::collect(&mut all, &process::Taken::now().unwrap_or_default());
    all
}

fn engine(all: &mut Vec<Metric>, snapshot: &Snapshot) {
    let mut refusals = Metric::new("refusals", Kind::Total, "Upgrade requests refused, by reason");
    let mut closes =
        Metric::new("closes", Kind::Total, "Connections that were open and ended, by cause");
    let (mut reasons, mut causes) = (Vec::new(), Vec::new());
    snapshot.engine.counters.each(|name, kind, help, value| {
        if let Some(reason) = name.strip_prefix("refused_") {
            reasons.push(reason);
            refusals.add(vec![("reason", reason.to_owned())], Value::Number(value));
        } else if let Some(cause) = name.strip_prefix("closed_") {
            causes.push(cause);
            closes.add(vec![("cause", cause.to_owned())], Value::Number(value));
        } else {
            all.push(Metric::new(name, kind_of(kind), help).number(value));
        }
    });
    all.push(refusals.label("reason", &list(&reasons)));
    all.push(closes.label("cause", &list(&causes)));
    let rtt = Metric::new("rtt_seconds", Kind::Histogram, "Round-trip times of heartbeats");
    all.push(rtt.value(of_histogram(&snapshot.engine.rtt_us)));
    let drift = Metric::new(
        "timer_drift_seconds",
        Kind::Histogram,
        "How late timers fired, after their tick",
    );
    all.push(drift.value(of_histogram(&snapshot.engine.drift_us)));
    each_core(all, snapshot);
}

/// What shows whether cores carry alike.
fn each_core(all: &mut Vec<Metric>, snapshot: &Snapshot) {
    type Of = fn(&Counters) -> u64;
    let told: [(&str, Kind, &str, Of); 6] = [
        ("core_open", Kind::Gauge, "Connections that are open, by core", |c| c.open),
        ("core_messages_in", Kind::Total, "Messages received, by core", |c| c.messages_in),
        ("core_messages_out", Kind::Total, "Messages queued for peers, by core", |c| {
            c.messages_out
        }),
        ("core_bytes_in", Kind::Total, "Bytes received, by core", |c| c.bytes_in),
        ("core_bytes_out", Kind::Total, "Bytes taken by the kernel for peers, by core", |c| {
            c.bytes_out
        }),
        ("core_turns", Kind::Total, "Turns of the loop, by core", |c| c.turns),
    ];
    for (name, kind, help, of) in told {
        let mut metric = Metric::new(name, kind, help).label("core", "its number, from 0");
        for (core, counters) in &snapshot.cores {
            let labels = vec![("core", core.to_string())];
            metric.add(labels, Value::Number(of(counters)));
        }
        all.push(metric);
    }
}

fn gateway(all: &mut Vec<Metric>, snapshot: &Snapshot) {
    let stats = &snapshot.gateway;
    stats.counters.each(|name, kind, help, value| {
        all.push(Metric::new(format!("gateway_{name}"), kind_of(kind), help).number(value));
    });
    let transports: Vec<_> = Transport::ALL.iter().map(|transport| transport.name()).collect();
    let help = "Connections, by the transport they came in by";
    let mut connections = Metric::new("gateway_transport_connections", Kind::Gauge, help);
    let help = "Connections opened, by the transport they came in by";
    let mut opened = Metric::new("gateway_transport_opened", Kind::Total, help);
    for (transport, now, ever) in stats.transports() {
        let labels = || vec![("transport", transport.name().to_owned())];
        connections.add(labels(), Value::Number(now));
        opened.add(labels(), Value::Number(ever));
    }
    all.push(connections.label("transport", &list(&transports)));
    all.push(opened.label("transport", "as above"));
    let kinds: Vec<_> = CommandKind::ALL.iter().map(|kind| kind.name()).collect();
    let mut commands = Metric::new(
        "gateway_command_seconds",
        Kind::Histogram,
        "From the arrival of a client's command to its reply",
    );
    for (kind, durations) in stats.commands() {
        commands.add(vec![("command", kind.name().to_owned())], of_durations(durations));
    }
    all.push(commands.label("command", &list(&kinds)));
    let mut errors = Metric::new("gateway_command_errors", Kind::Total, "Error replies to clients");
    for (kind, code, number) in stats.errors() {
        let labels = vec![("command", kind.name().to_owned()), ("code", code.to_string())];
        errors.add(labels, Value::Number(number));
    }
    let codes = "error codes; those of applications are counted as `400`";
    all.push(errors.label("command", "as above").label("code", codes));
    let mut disconnects =
        Metric::new("gateway_disconnects", Kind::Total, "Connections closed by the gateway");
    for (code, number) in stats.disconnects() {
        disconnects.add(vec![("code", code.to_string())], Value::Number(number));
    }
    let codes = "disconnect codes; those of applications are counted as `4000`";
    all.push(disconnects.label("code", codes));
    let mut unsubscribes =
        Metric::new("gateway_unsubscribes", Kind::Total, "Subscriptions ended by the gateway");
    for (code, number) in stats.unsubscribes() {
        unsubscribes.add(vec![("code", code.to_string())], Value::Number(number));
    }
    all.push(unsubscribes.label("code", "unsubscribe codes"));
}

fn control(all: &mut Vec<Metric>, counts: &Counts, stats: &GatewayStats) {
    let maps = counts.maps();
    api(all, &maps, stats);
    hooks(all, &maps);
    consumers::collect(all, &maps);
    drop(maps);
    for (name, kind, help, of) in COUNTED {
        all.push(Metric::new(name, kind, help).number(of(counts)));
    }
}

/// Calls of the server API, on cores and in the control plane.
fn api(all: &mut Vec<Metric>, maps: &Maps, stats: &GatewayStats) {
    let (mut api_calls, mut api_errors) = (maps.api_calls.clone(), maps.api_errors.clone());
    for (method, durations) in stats.api_calls() {
        api_calls.entry(method).or_default().add(durations);
    }
    for (which, number) in stats.api_errors() {
        *api_errors.entry(*which).or_default() += number;
    }
    let mut calls = Metric::new("api_command_seconds", Kind::Histogram, "Calls of the server API");
    for (method, durations) in &api_calls {
        calls.add(vec![("method", (*method).to_owned())], of_durations(durations));
    }
    all.push(calls.label("method", &list(ApiRequest::METHODS)));
    let mut errors = Metric::new(
        "api_command_errors",
        Kind::Total,
        "Calls of the server API answered with an error",
    );
    for ((method, code), number) in &api_errors {
        let labels = vec![("method", (*method).to_owned()), ("code", code.to_string())];
        errors.add(labels, Value::Number(*number));
    }
    all.push(errors.label("method", "as above").label("code", "error codes"));
    let mut refused = Metric::new(
        "api_refused",
        Kind::Total,
        "Requests to the server API refused before they were a call",
    );
    for (status, number) in &maps.api_refused {
        refused.add(vec![("status", status.to_string())], Value::Number(*number));
    }
    all.push(refused.label("status", "`400`, `401`, `408`, `413`, `503`"));
}

/// Questions to the application's backend.
fn hooks(all: &mut Vec<Metric>, maps: &Maps) {
    let kinds: Vec<_> = HookKind::ALL.iter().map(|kind| kind.name()).collect();
    let failures: Vec<_> = HookFailure::ALL.iter().map(|failure| failure.name()).collect();
    let mut calls =
        Metric::new("hook_seconds", Kind::Histogram, "Questions to the application's backend");
    for (kind, durations) in &maps.hook_calls {
        calls.add(vec![("hook", kind.name().to_owned())], of_durations(durations));
    }
    all.push(calls.label("hook", &list(&kinds)));
    let mut failed = Metric::new(
        "hook_failures",
        Kind::Total,
        "Questions to the application's backend without a usable answer",
    );
    for ((kind, failure), number) in &maps.hook_failures {
        let labels = vec![("hook", kind.name().to_owned()), ("why", failure.name().to_owned())];
        failed.add(labels, Value::Number(*number));
    }
    all.push(failed.label("hook", "as above").label("why", &list(&failures)));
    let mut ended = Metric::new(
        "hook_streams_ended",
        Kind::Total,
        "Streams of subscriptions that ended, by who ended them",
    );
    for who in FEED_ENDS {
        let number = maps.feeds_ended.get(who).copied().unwrap_or_default();
        ended.add(vec![("by", who.to_owned())], Value::Number(number));
    }
    all.push(ended.label("by", &list(&FEED_ENDS)));
}

type CountOf = fn(&Counts) -> u64;

/// What the control plane counts without labels.
const COUNTED: [(&str, Kind, &str, CountOf); 25] = [
    ("hooks_in_flight", Kind::Gauge, "Questions to the backend that wait", |c| {
        c.hooks_in_flight.get()
    }),
    (
        "hooks_queue_full",
        Kind::Total,
        "Questions to the backend refused at once: too many or too large ones were under way",
        |c| c.hooks_queue_full.get(),
    ),
    ("hook_streams", Kind::Gauge, "Streams of subscriptions that are open", |c| c.feeds.get()),
    (
        "hook_stream_publications",
        Kind::Total,
        "Publications for one subscriber that came on such streams",
        |c| c.feed_messages_in.get(),
    ),
    (
        "hook_stream_messages",
        Kind::Total,
        "Publications of subscribers handed to such streams",
        |c| c.feed_messages_out.get(),
    ),
    (
        "hook_streams_full",
        Kind::Total,
        "Such streams, and publications to them, refused because there was no room",
        |c| c.feeds_full.get(),
    ),
    ("http_connections", Kind::Gauge, "HTTP connections that are served", |c| {
        c.http_connections.get()
    }),
    ("http_accepted", Kind::Total, "HTTP connections taken, refused ones included", |c| {
        c.http_accepted.get()
    }),
    (
        "http_refused",
        Kind::Total,
        "HTTP connections refused with 503: all places are at work",
        |c| c.http_refused.get(),
    ),
    (
        "http_evicted",
        Kind::Total,
        "HTTP connections ended because another needed their place",
        |c| c.http_evicted.get(),
    ),
    (
        "http_late",
        Kind::Total,
        "HTTP connections ended because they kept the server waiting",
        |c| c.http_late.get(),
    ),
    (
        "http_bodies_bytes",
        Kind::Gauge,
        "Bytes that the bodies of requests hold, without small ones",
        |c| c.http_bodies.held() as u64,
    ),
    (
        "http_bodies_refused",
        Kind::Total,
        "Requests refused with 503: no room for their bodies",
        |c| c.http_bodies.refused.get(),
    ),
    ("log_dropped", Kind::Total, "Lines of the log that could not be written", |_| {
        super::logging::dropped()
    }),
    ("http_failed", Kind::Total, "HTTP connections that ended with an error or a deadline", |c| {
        c.http_failed.get()
    }),
    ("tls_reloads", Kind::Total, "Times certificates were loaded while the server ran", |c| {
        c.tls_reloads.get()
    }),
    ("tls_reloads_failed", Kind::Total, "Times that failed, and the certificates stayed", |c| {
        c.tls_reloads_failed.get()
    }),
    ("tls_orders", Kind::Total, "Certificates that an authority has issued", |c| {
        c.tls_orders.get()
    }),
    ("tls_orders_failed", Kind::Total, "Orders for a certificate that failed", |c| {
        c.tls_orders_failed.get()
    }),
    (
        "tls_certificate_not_after_seconds",
        Kind::Gauge,
        "When the certificate that ends first ends, in seconds since 1970; 0 without TLS",
        |c| c.tls_not_after.get(),
    ),
    ("jwks_fetched", Kind::Total, "Key sets fetched", |c| c.jwks_fetched.get()),
    ("jwks_failed", Kind::Total, "Fetches of key sets that failed", |c| c.jwks_failed.get()),
    ("admin_logins", Kind::Total, "Logins to the admin page that succeeded", |c| {
        c.admin_logins.get()
    }),
    ("admin_logins_failed", Kind::Total, "Logins to the admin page with a wrong password", |c| {
        c.admin_logins_failed.get()
    }),
    (
        "admin_logins_limited",
        Kind::Total,
        "Logins to the admin page refused with 429: too many failed before",
        |c| c.admin_logins_limited.get(),
    ),
];

fn memory(all: &mut Vec<Metric>, snapshot: &Snapshot) {
    let resident = process::resident_bytes().unwrap_or_default();
    let help = "Resident memory of the process";
    all.push(Metric::new("resident_bytes", Kind::Gauge, help).number(resident));
    let mut each = Metric::new(
        "resident_bytes_per_connection",
        Kind::Gauge,
        "Resident memory of the process, all included, per connection; absent without any",
    );
    if let Some(bytes) = resident.checked_div(snapshot.engine.counters.connections) {
        each.add(Vec::new(), Value::Number(bytes));
    }
    all.push(each);
    let build = Metric::new("build", Kind::Gauge, "Always 1").label("version", "of the program");
    let mut build = build;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    build.add(vec![("version", version)], Value::Real(1.0));
    all.push(build);
}

fn kind_of(kind: CounterKind) -> Kind {
    match kind {
        CounterKind::Total => Kind::Total,
        CounterKind::Gauge => Kind::Gauge,
    }
}

fn list(values: &[&str]) -> String {
    values.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ")
}

fn of_durations(durations: &Durations) -> Value {
    let seconds = |us: u64| us as f64 / 1e6;
    let buckets = durations
        .buckets()
        .map(|(bound, number)| (bound.map_or(f64::INFINITY, seconds), number))
        .collect();
    Value::Distribution(seconds(durations.sum_us()), buckets)
}

/// The engine's distributions are finer; they are told in the same buckets, which add up over
/// servers as quantiles would not.
fn of_histogram(histogram: &Distribution) -> Value {
    let mut durations = [0; Durations::BOUNDS_US.len() + 1];
    let mut sum_us = 0.0;
    for (us, count) in histogram.steps() {
        durations[Durations::BOUNDS_US.partition_point(|bound| *bound < us)] += count;
        sum_us += us as f64 * count as f64;
    }
    let bounds = Durations::BOUNDS_US.iter().map(|us| *us as f64 / 1e6).chain([f64::INFINITY]);
    Value::Distribution(sum_us / 1e6, bounds.zip(durations).collect())
}

#[derive(Debug)]
struct Metrics(Vec<Metric>);

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for metric in &self.0 {
            let kind = match metric.kind {
                Kind::Gauge => MetricType::Gauge,
                Kind::Untold => MetricType::Unknown,
                Kind::Total => MetricType::Counter,
                Kind::Histogram => MetricType::Histogram,
            };
            let mut family = encoder.encode_descriptor(&metric.name, &metric.help, None, kind)?;
            for (labels, value) in &metric.series {
                if labels.is_empty() {
                    encode(&mut family, metric.kind, value)?;
                } else {
                    encode(&mut family.encode_family(labels)?, metric.kind, value)?;
                }
            }
        }
        Ok(())
    }
}

fn encode(
    encoder: &mut MetricEncoder<'_>,
    kind: Kind,
    value: &Value,
) -> Result<(), std::fmt::Error> {
    match (value, kind) {
        (Value::Number(number), Kind::Total) => {
            encoder.encode_counter::<NoLabelSet, _, u64>(number, None)
        }
        (Value::Number(number), _) => encoder.encode_gauge(number),
        (Value::Real(real), Kind::Total) => {
            encoder.encode_counter::<NoLabelSet, _, f64>(real, None)
        }
        (Value::Real(real), _) => encoder.encode_gauge(real),
        (Value::Distribution(sum, buckets), _) => {
            let count = buckets.iter().map(|(_, number)| number).sum();
            encoder.encode_histogram::<NoLabelSet>(*sum, count, buckets, None)
        }
    }
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
