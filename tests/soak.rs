//! The soak test: a server under connections that come, talk and go in every way there is.
//!
//! `cargo test` runs it for eight seconds. The run that means something is
//!
//! ```text
//! SOAK_SECONDS=3600 SOAK_CONNECTIONS=10000 SOAK_CHURN=500 \
//!     cargo test --release --test soak -- --nocapture
//! ```
//!
//! Every echo is compared with what was sent, every close with what it had to be. At the end the
//! server's memory must not have grown, its gauges must all be 0, and its counters must agree with
//! what the clients counted. `SOAK_SEED` chooses another course of events, `SOAK_PROGRAM` another
//! server than the one just built.

#[path = "soak/dice.rs"]
mod dice;
#[path = "soak/early.rs"]
mod early;
#[path = "soak/peer.rs"]
mod peer;
#[path = "soak/plan.rs"]
mod plan;
#[path = "soak/seat.rs"]
mod seat;
#[path = "soak/server.rs"]
mod server;
#[path = "soak/tally.rs"]
mod tally;

use std::sync::Arc;
use std::time::{Duration, Instant};

use plan::{ENDS, End, Plan};
use ringhold::internals::sys::raise_open_files_limit;
use seat::Place;
use server::{Program, Stats};
use tally::Tally;
use tokio::sync::watch;

#[test]
fn soak() {
    let plan = Plan::from_environment();
    // The server inherits the limit.
    let (files, need) = (raise_open_files_limit(), plan.connections as u64 + 200);
    assert!(files >= need, "{need} open files are needed and {files} allowed: ulimit -Hn");
    let mut program = Program::start(&plan);
    let (stop, stopped) = watch::channel(false);
    let place =
        Arc::new(Place { plan, address: program.address, tally: Tally::new(), stop: stopped });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let seats: Vec<_> = (0..place.plan.connections)
        .map(|number| {
            let place = place.clone();
            runtime.spawn(async move { seat::sit(&place, number).await })
        })
        .collect();
    println!("{:?}", place.plan);

    let out_of_memory = kernel_resets();
    let memory = observe(&place, &mut program);
    let tally = &place.tally;
    let _ = stop.send(true);
    let deadline = tokio::time::Instant::now() + 3 * peer::PATIENCE;
    runtime.block_on(async {
        for seat in seats {
            match tokio::time::timeout_at(deadline, seat).await {
                Ok(Ok(())) => {}
                Ok(Err(panic)) => tally.fail(format!("a client: {panic}")),
                Err(_) => return tally.fail("clients that do not leave".to_owned()),
            }
        }
    });
    // Clients that were given up leave with the runtime.
    drop(runtime);

    let stats =
        program.await_stats(peer::PATIENCE, |stats| GAUGES.iter().all(|it| stats.get(it) == 0));
    report(tally, &stats, &memory);
    println!(
        "connections that the kernel reset for want of TCP memory, of all programs: {}",
        kernel_resets().saturating_sub(out_of_memory)
    );
    check_counters(tally, &stats, place.plan.is_long);
    check_memory(tally, &memory, place.plan.memory_slack);
    match program.terminate(peer::PATIENCE) {
        Some(status) if status.success() => {}
        Some(status) => tally.fail(format!("the server ended with {status}")),
        None => tally.fail("the server does not end".to_owned()),
    }
    for line in program.suspicious() {
        tally.fail(format!("the server says: {line}"));
    }
    let failures = tally.failures();
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

/// Memory of the server over time, from its own lines: both numbers are of the same moment.
struct Memory {
    samples: Vec<Sample>,
    time: Duration,
}

#[derive(Clone, Copy)]
struct Sample {
    at: Duration,
    resident: u64,
    /// Of it, what waits for clients that do not read, or is half received.
    held: u64,
}

impl Sample {
    fn of(at: Duration, stats: &Stats) -> Self {
        Self {
            at,
            resident: stats.get("resident_per_connection") * stats.get("connections"),
            held: stats.get("outbox_bytes_held") + stats.get("inbound_bytes_held"),
        }
    }

    fn resident(&self) -> u64 {
        self.resident
    }

    fn rest(&self) -> u64 {
        self.resident.saturating_sub(self.held)
    }
}

impl Memory {
    /// Sorted samples from this part of the run to that, in percent of its time.
    fn part(&self, from: u32, to: u32, of: fn(&Sample) -> u64) -> Vec<u64> {
        let (from, to) = (self.time * from / 100, self.time * to / 100);
        let within = self.samples.iter().filter(|sample| (from..=to).contains(&sample.at));
        let mut part: Vec<u64> = within.map(of).collect();
        part.sort_unstable();
        part
    }
}

/// Samples and reports until the time is over, the server ends, or too much has failed.
fn observe(place: &Place, program: &mut Program) -> Memory {
    let Place { plan, tally, .. } = place;
    let start = Instant::now();
    let mut memory = Memory { samples: Vec::new(), time: plan.time };
    let (mut next_report, mut reported, mut previous) = (plan.report, 0, [0; 4]);
    let (mut ticks, mut line) = (1.., 0);
    println!(
        "{:>6} {:>6} {:>6} {:>6} {:>8} {:>8}  {:>20}  {:>5}  ended",
        "s", "held", "opened", "ended", "messages", "MB", "RSS MiB min/med/max", "CPU %"
    );
    loop {
        let next = plan.sample * ticks.next().unwrap_or(u32::MAX);
        std::thread::sleep(next.saturating_sub(start.elapsed()));
        let now = start.elapsed();
        if program.has_ended().is_some() {
            tally.fail("the server has ended".to_owned());
            return memory;
        }
        let stats = program.stats();
        if stats.number != line && stats.get("connections") > 0 {
            line = stats.number;
            memory.samples.push(Sample::of(now, &stats));
        }
        let last = now + plan.sample / 2 >= plan.time || tally.has_failed_often();
        if now + plan.sample / 2 >= next_report || last {
            let mut recent: Vec<u64> =
                memory.samples[reported..].iter().map(Sample::resident).collect();
            recent.sort_unstable();
            reported = memory.samples.len();
            next_report += plan.report;
            let cpu = program.processor_time().unwrap_or_default().as_secs_f64();
            let [opened, echoed, bytes] =
                [&tally.opened, &tally.echoed, &tally.echoed_bytes].map(tally::Count::get);
            let ended = opened - tally.held.get();
            println!(
                "{:>6} {:>6} {:>6} {:>6} {:>8} {:>8.1}  {:>20}  {:>5.1}  {}",
                now.as_secs(),
                tally.held.get(),
                opened - previous[0],
                ended - previous[3],
                echoed - previous[1],
                (bytes - previous[2]) as f64 / 1e6,
                low_middle_high(&recent),
                100.0 * cpu / now.as_secs_f64(),
                tally.ends_text()
            );
            previous = [opened, echoed, bytes, ended];
        }
        if last {
            return memory;
        }
    }
}

fn low_middle_high(sorted: &[u64]) -> String {
    let mib = |at: usize| sorted.get(at).map_or(0.0, |bytes| *bytes as f64 / f64::from(1 << 20));
    let last = sorted.len().saturating_sub(1);
    format!("{:.1}/{:.1}/{:.1}", mib(0), mib(last / 2), mib(last))
}

fn report(tally: &Tally, stats: &Stats, memory: &Memory) {
    println!("\nclients: connected={} opened={}", tally.connected.get(), tally.opened.get());
    println!("ended:   {}", tally.ends_text());
    println!(
        "echoes:  sent={} verified={} MB={:.1} pongs={}",
        tally.sent.get(),
        tally.echoed.get(),
        tally.echoed_bytes.get() as f64 / 1e6,
        tally.pongs.get()
    );
    for prefix in ["", "closed", "refused", "handshake", "heartbeats"] {
        let counters = stats.with_prefix(prefix);
        let text: Vec<_> = counters.iter().map(|(name, value)| format!("{name}={value}")).collect();
        println!("server {prefix:<10} {}", text.join(" "));
    }
    for (name, from, to) in
        [("10-25", 10, 25), ("25-50", 25, 50), ("50-75", 50, 75), ("75-100", 75, 100)]
    {
        let [all, rest] =
            [Sample::resident, Sample::rest].map(|of| low_middle_high(&memory.part(from, to, of)));
        println!(
            "MiB min/med/max, {name:>6} %: resident {all}, less what is held for clients {rest}"
        );
    }
}

/// `TCPAbortOnMemory` of the host: each of them may look as if the server had reset a client.
fn kernel_resets() -> u64 {
    let text = std::fs::read_to_string("/proc/net/netstat").unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("TcpExt:")).collect();
    let [names, values] = lines[..] else { return 0 };
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    let found = pairs.find(|(name, _)| *name == "TCPAbortOnMemory");
    found.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
}

/// After everyone has left, the server has nothing left, and counted what the clients did.
fn check_counters(tally: &Tally, stats: &Stats, long: bool) {
    for name in GAUGES.iter().chain(&NEVER) {
        if stats.get(name) != 0 {
            tally.fail(format!("{name} is {} at the end", stats.get(name)));
        }
    }
    let ended = |ends: &[End]| ends.iter().map(|end| tally.ends(*end)).sum::<u64>();
    let closed_protocol = stats.get("closed_protocol")
        + stats.get("closed_invalid_data")
        + stats.get("closed_too_big");
    let causes: u64 = CAUSES.iter().map(|name| stats.get(name)).sum();
    let equal = [
        ("opened", stats.get("opened"), tally.opened.get()),
        ("closed", stats.get("closed"), stats.get("opened")),
        (
            "closed without another cause",
            stats.get("closed").saturating_sub(causes),
            ended(&[End::Close]),
        ),
        ("closed for violations", closed_protocol, ended(&[End::Violation])),
        ("accepted", stats.get("accepted"), tally.connected.get()),
    ];
    for (name, server, clients) in equal {
        if server != clients {
            tally.fail(format!("{name}: {server} for the server, {clients} for the clients"));
        }
    }
    // A client may be told to leave before it sees how the server ended it.
    let (cut, idle) = (tally.cut.get(), ended(&[End::Idle, End::IdleMute]));
    let (refused, refused_cut) = (ended(&[End::Refused]), ended(&[End::Refused]) + cut);
    let at_least = [
        ("closed_idle", stats.get("closed_idle"), idle),
        ("closed_idle", idle + cut, stats.get("closed_idle")),
        ("refused", stats.get("refused_not_websocket"), refused),
        ("refused", refused_cut, stats.get("refused_not_websocket")),
        ("handshake_timeouts", stats.get("handshake_timeouts"), ended(&[End::Stall])),
        ("closed_heartbeat", stats.get("closed_heartbeat"), ended(&[End::Mute])),
        ("close_timeouts", stats.get("close_timeouts"), ended(&[End::IdleMute])),
        ("messages_in", stats.get("messages_in"), tally.echoed.get()),
        ("messages_in", tally.sent.get(), stats.get("messages_in")),
    ];
    for (name, high, low) in at_least {
        if high < low {
            tally.fail(format!("{name}: {high} is less than {low}"));
        }
    }
    for (end, _) in ENDS {
        // In a short run on a busy machine some may not come to their end.
        if tally.ends(end) == 0 && (long || !end.takes_time()) {
            tally.fail(format!("no connection ended by {end:?}"));
        }
    }
}

/// After the warm-up memory stays where it is: what the server has for itself, that is. A client
/// that does not read has most of a megabyte waiting, and their number varies by chance (3 to 14 in
/// a run of five minutes), so that one in seventy such runs missed the line for nothing. That what
/// waits goes with its clients is checked by the gauges.
fn check_memory(tally: &Tally, memory: &Memory, slack: u64) {
    let middle = |part: Vec<u64>| part.get(part.len() / 2).copied();
    let early = middle(memory.part(25, 50, Sample::rest));
    let late = middle(memory.part(75, 100, Sample::rest));
    match (early, late) {
        (Some(early), Some(late)) if late <= early + early / 20 + slack => {}
        (Some(early), Some(late)) => {
            tally.fail(format!(
                "resident memory less what is held for clients grew from {early} to {late} bytes"
            ));
        }
        _ => tally.fail("too few samples of resident memory".to_owned()),
    }
}

/// 0 when no one is there.
const GAUGES: [&str; 8] = [
    "connections",
    "open",
    "timers",
    "blocked",
    "outbox_bytes_held",
    "inbound_bytes_held",
    "topics",
    "subscriptions",
];

/// 0 as long as nothing goes wrong here.
const NEVER: [&str; 14] = [
    "panics",
    "accept_errors",
    "accept_pauses",
    "refused_full",
    "refused_bad_request",
    "mailbox_full",
    "dropped_full",
    "closed_rate",
    "closed_inbound_full",
    "closed_slow",
    "closed_outbox_full",
    "closed_application",
    "closed_drain",
    "queue_overflows",
];

/// What the server counts for ends that are not the client's close frame.
const CAUSES: [&str; 16] = [
    "closed_abrupt",
    "closed_error",
    "closed_unacknowledged",
    "closed_protocol",
    "closed_invalid_data",
    "closed_too_big",
    "closed_rate",
    "closed_inbound_full",
    "closed_slow",
    "closed_outbox_full",
    "closed_write_timeout",
    "closed_idle",
    "closed_heartbeat",
    "closed_panic",
    "closed_application",
    "closed_drain",
];
