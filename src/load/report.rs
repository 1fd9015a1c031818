//! What a run found, for machines and for people.
//!
//! Owns the arithmetic and the wording. The invariant: every number in the text is one of the JSON
//! object, whose keys are stable: keys are added, never renamed. Times end in their unit; `null`
//! stands for what could not be read.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use ringhold::gateway::wire::Encoding;
use serde::Serialize;

use super::mix::Sizes;
use super::proc::{Cpu, Look, Looks, Slabs};
use super::storm::StormPlan;
use super::tally::{Opening, Tally, Traffic};

/// Everything about a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// `idle`, `echo` or `fanout`.
    pub(crate) workload: &'static str,
    pub(crate) url: String,
    /// `json` or `protobuf`, with `--gateway`.
    pub(crate) protocol: Option<Protocol>,
    /// Nothing failed, nothing was lost, and nothing was slower than asked for.
    pub(crate) ok: bool,
    /// Ended by a signal.
    pub(crate) interrupted: bool,
    /// Connections asked for.
    pub(crate) connections: u32,
    pub(crate) threads: usize,
    /// Source addresses bound to; 0: the kernel chose.
    pub(crate) sources: usize,
    /// The measured time.
    pub(crate) seconds: f64,
    pub(crate) opening: OpeningReport,
    /// Connections that ended before their time.
    pub(crate) lost: u64,
    /// Why, each with its number.
    pub(crate) lost_reasons: BTreeMap<String, u64>,
    /// Pings of the gateway that came and were answered; absent without `--gateway`.
    pub(crate) heartbeats: Option<u64>,
    /// Absent for `idle`.
    pub(crate) messages: Option<MessageReport>,
    /// Absent without `--storm-after`.
    pub(crate) storm: Option<StormReport>,
    /// The process of `--server-pid`; absent without.
    pub(crate) server: Option<ProcessReport>,
    /// This process.
    pub(crate) client: Option<ProcessReport>,
    /// Kernel memory of both ends; absent without `--server-pid` or if unreadable.
    pub(crate) kernel: Option<KernelReport>,
    /// The end.
    pub(crate) closing: ClosingReport,
}

/// How the gateway's protocol was spoken.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocol {
    Json,
    Protobuf,
}

impl Protocol {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Json => "JSON",
            Self::Protobuf => "Protobuf",
        }
    }
}

impl From<Encoding> for Protocol {
    fn from(encoding: Encoding) -> Self {
        match encoding {
            Encoding::Json => Self::Json,
            Encoding::Protobuf => Self::Protobuf,
        }
    }
}

/// How the connections opened.
#[derive(Debug, Serialize)]
pub(crate) struct OpeningReport {
    pub(crate) opened: u64,
    pub(crate) failed: u64,
    /// Why, each with its number.
    pub(crate) failed_reasons: BTreeMap<String, u64>,
    /// Not tried, because the run was interrupted or nothing succeeded.
    pub(crate) untried: u64,
    pub(crate) seconds: f64,
    pub(crate) per_second: f64,
    /// From dialling to open.
    pub(crate) time_us: Quantiles,
    /// Processor time of the server per connection opened; absent without `--server-pid`.
    pub(crate) server_cpu_us_each: Option<f64>,
}

/// What was sent and received.
#[derive(Debug, Serialize)]
pub(crate) struct MessageReport {
    pub(crate) payload_bytes: usize,
    /// Those among them that are larger; absent if there are none.
    pub(crate) large: Option<LargeReport>,
    /// Messages per second asked for; 0: closed loop.
    pub(crate) rate: u64,
    pub(crate) pipeline: u32,
    /// 0 for `echo`.
    pub(crate) publishers: u32,
    /// Messages that were sent at once.
    pub(crate) burst: u32,
    pub(crate) sent: u64,
    /// What had to come: for `fanout`, each message once for every connection.
    pub(crate) expected: u64,
    pub(crate) received: u64,
    pub(crate) lost: u64,
    pub(crate) duplicates: u64,
    /// Came after a later one.
    pub(crate) late: u64,
    /// Came other than sent, by how: `length`, `stamp`, `pattern`, `of_another_connection`,
    /// `out_of_order`.
    pub(crate) wrong: BTreeMap<&'static str, u64>,
    /// Refused by the gateway, by what it said.
    pub(crate) refused: BTreeMap<String, u64>,
    /// Due, but not sent, because the server did not take what was sent before.
    pub(crate) unsent: u64,
    /// Messages received within the measured time.
    pub(crate) measured: u64,
    pub(crate) per_second: f64,
    /// Payload, in 10^6 bytes.
    pub(crate) megabytes_per_second: f64,
    /// From when a message was due until it came. Neither large ones nor the time of a storm are
    /// part of it.
    pub(crate) latency_us: Quantiles,
    /// The longest p99 that was asked for (`--max-p99`).
    pub(crate) max_p99_us: Option<f64>,
    /// How late this program itself sent, at worst.
    pub(crate) send_lag_max_us: f64,
}

/// The large messages of a run with two sizes. They are part of all counts beside this.
#[derive(Debug, Serialize)]
pub(crate) struct LargeReport {
    pub(crate) payload_bytes: usize,
    /// Part of all messages.
    pub(crate) share: f64,
    /// Received within the measured time.
    pub(crate) measured: u64,
    pub(crate) latency_us: Quantiles,
}

/// Connections that were closed together and opened again.
#[derive(Debug, Serialize)]
pub(crate) struct StormReport {
    /// Part of all connections.
    pub(crate) share: f64,
    /// Closed by this program, all at once.
    pub(crate) left: u64,
    /// Open again.
    pub(crate) back: u64,
    /// TLS handshakes of theirs that went on with an earlier session; absent in the clear.
    pub(crate) resumed: Option<u64>,
    pub(crate) failed: u64,
    /// Why, each with its number.
    pub(crate) failed_reasons: BTreeMap<String, u64>,
    /// From the beginning to being open again.
    pub(crate) back_us: Quantiles,
    /// Latency of messages that came meanwhile; absent for `idle`.
    pub(crate) latency_us: Option<Quantiles>,
}

/// A distribution, in microseconds.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Quantiles {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

/// A process over the measured time; memory from before the first connection to when all were open.
#[derive(Debug, Serialize)]
pub(crate) struct ProcessReport {
    /// All threads, in percent of one processor.
    pub(crate) cpu_percent: Option<f64>,
    pub(crate) cpu_us_per_message: Option<f64>,
    pub(crate) user_us_per_message: Option<f64>,
    pub(crate) system_us_per_message: Option<f64>,
    /// Messages received per second of processor time, all threads.
    pub(crate) messages_per_cpu_second: Option<f64>,
    pub(crate) rss_bytes: Option<u64>,
    pub(crate) rss_per_connection: Option<f64>,
    pub(crate) pss_per_connection: Option<f64>,
    pub(crate) anonymous_per_connection: Option<f64>,
}

/// Growth of the kernel's slabs.
#[derive(Debug, Serialize)]
pub(crate) struct KernelReport {
    /// Client's and server's end together.
    pub(crate) slab_per_connection_both_ends: f64,
    /// The caches that grew most.
    pub(crate) caches: BTreeMap<String, f64>,
}

/// How the connections that were left ended.
#[derive(Debug, Default, Serialize)]
pub(crate) struct ClosingReport {
    /// Close frames exchanged.
    pub(crate) clean: u64,
    /// Cut, because the server did not answer within `--linger`.
    pub(crate) cut: u64,
    /// From the first close frame to the end of the last connection.
    pub(crate) seconds: f64,
}

impl OpeningReport {
    pub(crate) fn new(opening: &Opening, started_ns: u64) -> Self {
        let seconds = opening.last_ns.saturating_sub(started_ns) as f64 / 1e9;
        Self {
            opened: opening.opened,
            failed: opening.failed.total(),
            failed_reasons: opening.failed.0.clone(),
            untried: opening.untried,
            seconds,
            per_second: ratio(opening.opened as f64, seconds),
            time_us: Quantiles::of(&opening.took),
            server_cpu_us_each: None,
        }
    }
}

impl MessageReport {
    /// `receivers` is how many times each message has to come.
    pub(crate) fn new(
        traffic: &Traffic,
        sizes: Sizes,
        (rate, pipeline, publishers): (u64, u32, u32),
        receivers: u64,
        seconds: f64,
    ) -> Self {
        let expected = traffic.sent * receivers;
        let per_second = ratio(traffic.measured as f64, seconds);
        let large_bytes = sizes.large().map_or(0, |(size, _)| size as u64 * traffic.measured_large);
        let small_bytes = sizes.small() as u64 * (traffic.measured - traffic.measured_large);
        Self {
            payload_bytes: sizes.small(),
            large: sizes.large().map(|(size, share)| LargeReport {
                payload_bytes: size,
                share: share.part(),
                measured: traffic.measured_large,
                latency_us: Quantiles::of(&traffic.latency_large),
            }),
            rate,
            pipeline: if rate == 0 { pipeline } else { 0 },
            publishers,
            burst: 1,
            sent: traffic.sent,
            expected,
            received: traffic.seen,
            lost: expected.saturating_sub(traffic.seen),
            duplicates: traffic.duplicates,
            late: traffic.late,
            wrong: traffic.wrong.iter().map(|(how, count)| (how.name(), *count)).collect(),
            refused: traffic.refused.0.clone(),
            unsent: traffic.unsent,
            measured: traffic.measured,
            per_second,
            megabytes_per_second: ratio((small_bytes + large_bytes) as f64 / 1e6, seconds),
            latency_us: Quantiles::of(&traffic.latency),
            max_p99_us: None,
            send_lag_max_us: traffic.lag_ns as f64 / 1000.0,
        }
    }

    /// Everything came, once, in order, as it was sent.
    pub(crate) fn is_whole(&self) -> bool {
        let faults = self.lost + self.duplicates + self.late + self.unsent;
        faults == 0 && self.wrong.is_empty() && self.refused.is_empty()
    }

    /// More than one in a hundred took longer than `--max-p99`.
    pub(crate) fn is_slow(&self) -> bool {
        self.max_p99_us.is_some_and(|limit| self.latency_us.p99 > limit)
    }
}

impl StormReport {
    pub(crate) fn new(plan: StormPlan, tls: bool, tally: &Tally) -> Self {
        let (storm, others) = (&tally.storm, &tally.traffic.latency_storm);
        Self {
            share: plan.share.part(),
            left: storm.left,
            back: storm.back,
            resumed: tls.then_some(storm.resumed),
            failed: storm.failed.total(),
            failed_reasons: storm.failed.0.clone(),
            back_us: Quantiles::of(&storm.took),
            latency_us: (!others.is_empty()).then(|| Quantiles::of(others)),
        }
    }

    /// There was a storm, and it is over.
    pub(crate) fn all_came_back(&self) -> bool {
        self.left > 0 && self.back == self.left
    }
}

impl Quantiles {
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        let max = histogram.max() as f64 / 1000.0;
        // A quantile is the upper end of its bucket, which may lie above the largest value.
        let [p50, p90, p99, p999] = [0.5, 0.9, 0.99, 0.999].map(|q| at(q).min(max));
        Self { p50, p90, p99, p999, max }
    }
}

impl ProcessReport {
    pub(crate) fn new(looks: &Looks, connections: u64, messages: u64, seconds: f64) -> Self {
        let cpu: Option<Cpu> = looks.begin.zip(looks.end).and_then(|(a, b)| b.cpu_since(&a));
        let each = |us: fn(Cpu) -> f64| {
            let cpu = cpu.filter(|_| messages > 0)?;
            Some(us(cpu) / messages as f64)
        };
        let growth = |bytes: fn(Look) -> Option<u64>| {
            let (before, open) = (bytes(looks.before?)?, bytes(looks.open?)?);
            (connections > 0).then(|| (open as f64 - before as f64) / connections as f64)
        };
        Self {
            cpu_percent: cpu.map(|cpu| ratio(cpu.total_us() / 1e4, seconds)),
            cpu_us_per_message: each(Cpu::total_us),
            user_us_per_message: each(|cpu| cpu.user_us),
            system_us_per_message: each(|cpu| cpu.system_us),
            messages_per_cpu_second: each(Cpu::total_us).map(|us| ratio(1e6, us)),
            rss_bytes: looks.open.and_then(|look| look.rss),
            rss_per_connection: growth(|look| look.rss),
            pss_per_connection: growth(|look| look.pss),
            anonymous_per_connection: growth(|look| look.anonymous),
        }
    }
}

impl KernelReport {
    pub(crate) fn new(before: &Slabs, after: &Slabs, connections: u64) -> Option<Self> {
        let (total, grown) = after.growth_since(before)?;
        let each = |bytes: f64| ratio(bytes, connections as f64);
        let caches = grown.into_iter().take(CACHES_SHOWN);
        Some(Self {
            slab_per_connection_both_ends: each(total as f64),
            caches: caches.map(|(name, bytes)| (name, each(bytes as f64))).collect(),
        })
    }
}

fn ratio(amount: f64, of: f64) -> f64 {
    if of > 0.0 { amount / of } else { 0.0 }
}

/// Caches named in the report.
const CACHES_SHOWN: usize = 8;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::mix::Share;
    use super::*;

    fn report_of(traffic: &Traffic) -> MessageReport {
        MessageReport::new(traffic, Sizes::same(50), (0, 1, 1), 3, 2.0)
    }

    #[test]
    fn messages_that_did_not_come_are_lost() {
        let mut traffic = Traffic::default();
        traffic.sent = 10;
        traffic.begin_measuring();
        (0..29).for_each(|_| traffic.on_message(0, 2_000_000));
        let report = MessageReport::new(&traffic, Sizes::same(50), (0, 1, 1), 3, 2.0);
        assert_eq!((report.expected, report.received, report.lost), (30, 29, 1));
        assert_eq!((report.per_second, report.megabytes_per_second), (14.5, 0.000_725));
        assert_eq!(report.latency_us.max, report.latency_us.p50);
        let limited = |limit| MessageReport { max_p99_us: limit, ..report_of(&traffic) };
        assert!(!limited(None).is_slow() && !limited(Some(2100.0)).is_slow());
        assert!(limited(Some(1900.0)).is_slow());
        assert!(!report.is_whole());
        traffic.on_message(0, 5);
        assert!(MessageReport::new(&traffic, Sizes::same(50), (0, 1, 1), 3, 2.0).is_whole());
    }

    #[test]
    fn large_messages_are_reported_beside_the_small() {
        let mut traffic = Traffic::default();
        traffic.begin_measuring();
        traffic.sent = 4;
        (0..3).for_each(|_| traffic.on_message(0, 1000));
        traffic.on_large_message(0, 2000);
        let sizes = Sizes::mixed(100, 1_000_000, Share::of(0.25));
        let report = MessageReport::new(&traffic, sizes, (10, 1, 0), 1, 1.0);
        assert_eq!((report.received, report.per_second), (4, 4.0));
        assert_eq!(report.megabytes_per_second, 1.0003);
        assert_eq!((report.payload_bytes, report.latency_us.max), (100, 1.0));
        let large = report.large.unwrap();
        assert_eq!((large.payload_bytes, large.share, large.measured), (1_000_000, 0.25, 1));
        assert_eq!(large.latency_us.max, 2.0);
    }

    #[test]
    fn a_storm_is_over_when_all_are_back() {
        let plan = StormPlan { after: Duration::ZERO, share: Share::of(0.5), resume: true };
        let mut tally = Tally::default();
        assert!(!StormReport::new(plan, false, &tally).all_came_back(), "there was none");
        (tally.storm.left, tally.storm.back) = (3, 2);
        tally.storm.took.record(2000).unwrap();
        let report = StormReport::new(plan, false, &tally);
        assert!(!report.all_came_back() && report.latency_us.is_none());
        assert_eq!(report.back_us.max, 2.0);
        tally.storm.back = 3;
        tally.traffic.storming = true;
        tally.traffic.on_message(0, 1500);
        let report = StormReport::new(plan, false, &tally);
        assert!(report.all_came_back());
        assert_eq!((report.latency_us.unwrap().max, report.resumed), (1.5, None));
        tally.storm.resumed = 2;
        assert_eq!(StormReport::new(plan, true, &tally).resumed, Some(2));
    }

    #[test]
    fn nothing_divided_by_nothing_is_nothing() {
        let traffic = Traffic::default();
        let report = MessageReport::new(&traffic, Sizes::same(50), (0, 1, 0), 1, 0.0);
        assert_eq!((report.per_second, report.latency_us.p99), (0.0, 0.0));
        let process = ProcessReport::new(&Looks::default(), 0, 0, 0.0);
        assert!(process.cpu_percent.is_none() && process.rss_per_connection.is_none());
    }

    #[test]
    fn growth_is_per_connection() {
        let look = |rss| {
            let mut look = Look::default();
            look.rss = Some(rss);
            Some(look)
        };
        let looks = Looks { before: look(1000), open: look(3000), ..Looks::default() };
        let report = ProcessReport::new(&looks, 10, 0, 1.0);
        assert_eq!((report.rss_bytes, report.rss_per_connection), (Some(3000), Some(200.0)));
        assert_eq!(report.pss_per_connection, None);
    }

    #[test]
    fn the_keys_are_stable() {
        let report = Quantiles { p50: 1.0, p90: 2.0, p99: 3.0, p999: 4.0, max: 5.0 };
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(text, r#"{"p50":1.0,"p90":2.0,"p99":3.0,"p999":4.0,"max":5.0}"#);
    }
}
