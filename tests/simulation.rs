//! The engine in a world made of a seed: one to four workers in turns that the seed orders, a fake
//! kernel with a fake clock that fails wherever a kernel may fail, clients of every character, and
//! an application that does all it is allowed to.
//!
//! Method: a seed decides everything (see `plan` and `script`), so a failure is a number. Between
//! the turns the engine audits its own books (`engine::testing`), those of each worker and those
//! that workers share; clients check what they receive, the application checks what it is told, the
//! kernel checks how it is used. At the end the server is drained, and nothing may be left. A third
//! of the seeds runs over TLS: handshakes are scripted (`greeter`), records are not (`session`).
//!
//! `cargo test` runs fixed seeds. `SIM_SECONDS=3600 cargo test --release --test simulation random
//! -- --ignored --nocapture` runs random ones for an hour. A failing seed is replayed by
//! `SIM_SEED=… cargo test --release --test simulation replay -- --ignored --nocapture`, with its
//! last events.

// Nothing is reachable from a test.
#![allow(unreachable_pub)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

mod simulation {
    pub mod app;
    pub mod bytes;
    pub mod coverage;
    pub mod flaw;
    pub mod greeter;
    pub mod introduction;
    pub mod kernel;
    pub mod listener;
    pub mod packing;
    pub mod peer;
    pub mod plan;
    pub mod records;
    pub mod remote;
    pub mod run;
    pub mod script;
    pub mod session;
    pub mod streamer;
    pub mod traffic;
    pub mod wire;
    pub mod world;
}

use ringhold::internals::rng::Rng;
use simulation::coverage::Coverage;
use simulation::run::{Report, Run};

/// Runs one seed; a failure is told with the way to replay it.
fn simulate(seed: u64, verbose: bool) -> Result<Report, String> {
    let mut run = Run::new(seed, verbose);
    let outcome = catch_unwind(AssertUnwindSafe(|| run.run()));
    let what = match outcome {
        Ok(Ok(report)) => return Ok(report),
        Ok(Err(what)) => what,
        Err(panic) => match panic.downcast_ref::<String>() {
            Some(text) => text.clone(),
            None => panic.downcast_ref::<&str>().copied().unwrap_or("a panic").to_owned(),
        },
    };
    for line in run.log() {
        println!("{line}");
    }
    // What is broken need not survive its own end.
    std::mem::forget(run);
    let command = "cargo test --release --test simulation replay -- --ignored --nocapture";
    Err(format!("seed {seed}: {what}\nreplay: SIM_SEED={seed} {command}"))
}

/// Runs seeds up to the first failures, and shows what happened in them.
fn simulate_all(seeds: impl Iterator<Item = u64>) -> Coverage {
    let mut seen = Coverage::default();
    let mut failures = 0;
    for seed in seeds {
        seen.count("seeds");
        match simulate(seed, false) {
            Ok(report) => {
                seen.merge(&report.seen);
                seen.add("turns", report.turns);
                seen.add("events", report.events);
            }
            Err(what) => {
                println!("{what}");
                failures += 1;
            }
        }
        if failures == FAILURES_MAX {
            break;
        }
    }
    println!("{seen}");
    assert_eq!(failures, 0, "seeds failed; each was told above");
    seen
}

#[test]
fn fixed_seeds() {
    // A world is a thread's own, so several pass at once.
    let seen = std::thread::scope(|scope| {
        let part = |n| scope.spawn(move || simulate_all((n..SEEDS).step_by(PARTS as usize)));
        let parts: Vec<_> = (0..PARTS).map(part).collect();
        parts.into_iter().fold(Coverage::default(), |mut seen, part| {
            seen.merge(&part.join().expect("seeds that failed are told above"));
            seen
        })
    });
    let steps = seen.of("turns") + seen.of("events");
    assert!(steps >= 1_000_000, "only {steps} steps");
    for (name, least) in EXPECTED {
        let count = seen.of(name);
        assert!(count >= least, "{name}: {count} times, and at least {least} are expected");
    }
}

#[test]
#[ignore = "replays the seed that SIM_SEED names"]
fn replay() {
    let seed = number("SIM_SEED").expect("SIM_SEED names the seed");
    match simulate(seed, true) {
        Ok(report) => {
            println!("{} turns, {} events\n{}", report.turns, report.events, report.seen);
        }
        Err(what) => panic!("{what}"),
    }
}

#[test]
#[ignore = "runs random seeds for SIM_SECONDS"]
fn random_seeds() {
    let seconds = number("SIM_SECONDS").expect("SIM_SECONDS says for how long");
    let end = Instant::now() + Duration::from_secs(seconds);
    let entropy = || Rng::from_entropy().draw() >> 16;
    let start = number("SIM_START").unwrap_or_else(entropy);
    println!("seeds from {start}");
    simulate_all((start..).take_while(|_| Instant::now() < end));
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

/// How many seeds every test run tries.
const SEEDS: u64 = 400;

/// How many of them at once.
const PARTS: u64 = 4;

/// So many failing seeds are enough to begin with.
const FAILURES_MAX: u32 = 5;

/// What must have happened in them, and how often at least, so that a plan that has gone thin is
/// seen: about a quarter of what happens, less of what is rare.
const EXPECTED: [(&str, u64); 142] = [
    ("accept error", 100),
    ("accept cancelled", 400),
    ("accepted despite cancel", 1),
    ("accept pauses", 100),
    ("poll ended", 1000),
    ("poll failed", 800),
    ("poll spurious", 1000),
    ("recv short", 2000),
    ("recv too early", 2000),
    ("recv transient", 3000),
    ("send error", 200),
    ("send short", 200),
    ("send transient", 200),
    ("send buffer full", 10_000),
    ("slot free before Closed", 1000),
    ("stale completions", 100),
    ("reset by close", 100),
    ("wait interrupted", 3000),
    ("host stalled", 100),
    ("woken", 10_000),
    ("looks", 1000),
    ("look failed", 5),
    ("place handed over", 1),
    ("stopped", 3),
    ("stale identifier used", 1000),
    ("writable", 200),
    ("outbox drops", 100),
    ("conflated", 40),
    ("read pauses", 100),
    ("costly input", 20),
    ("compression agreed on", 180),
    ("input left for a later turn", 50),
    ("messages compressed", 800),
    ("compressed messages shared", 100),
    ("messages too long to be compressed", 250),
    ("messages inflated", 900),
    ("messages that cannot be inflated", 5),
    ("letters left for the next turn", 100),
    ("panics", 100),
    ("refused 503", 200),
    ("refused 408", 100),
    ("opened through a proxy", 300),
    ("refused: PROXY header untrusted", 30),
    ("refused: PROXY header missing", 100),
    ("refused: PROXY header malformed", 50),
    ("installed", 3),
    ("install failed", 1),
    ("dialled", 100),
    ("socket error", 20),
    ("refused 411", 3),
    ("refused 413", 3),
    ("answered 204", 3),
    ("stream: message", 200),
    ("stream: topic message", 1000),
    ("stream: prefix", 1),
    ("stream: heartbeat", 60),
    ("stream: told to go on", 3),
    ("stream: answer before it", 300),
    ("answered later", 50),
    ("stream: bytes without chunks", 50_000),
    ("stream: a farewell", 30),
    ("stream: end", 40),
    ("a farewell in a frame", 200),
    ("stream closed: Slow", 1),
    ("stream closed: Peer", 3),
    ("stream closed: Heartbeat", 1),
    ("closed: Peer", 300),
    ("closed: Abrupt", 30),
    ("closed: Broken", 100),
    ("closed: Unacknowledged", 50),
    ("closed: Protocol", 20),
    ("closed: InvalidData", 1),
    ("closed: TooBig", 1),
    ("closed: Rate", 3),
    ("closed: InboundFull", 50),
    ("closed: SlowUpload", 1),
    ("closed: Slow", 3),
    ("closed: OutboxFull", 20),
    ("closed: WriteTimeout", 3),
    ("closed: Trickle", 1),
    ("closed: Idle", 70),
    ("closed: Heartbeat", 3),
    ("closed: Panic", 20),
    ("closed: Application", 70),
    ("closed: Drain", 100),
    ("several workers", 40),
    ("core stalled", 100),
    ("core stopped by its application", 1),
    ("completion queue overflow", 2000),
    ("poll ended by overflow", 900),
    ("connect ignored", 60),
    ("after burst", 50),
    ("sent to another core", 2000),
    ("sent to a core that has ended", 40),
    ("mailbox full", 40),
    ("sends left for the next turn", 600),
    ("mailbox found full by a core", 100),
    ("letter", 1000),
    ("timer", 500),
    ("letter from outside", 1000),
    ("question", 1000),
    ("direct message", 700),
    ("topic message", 2000),
    ("echo", 4000),
    ("accept rate pauses", 1000),
    ("refused 403", 40),
    ("refused 431", 3),
    ("refused: full", 300),
    ("refused: per address", 30),
    ("refused: no memory", 3),
    ("table taken by dials", 1),
    ("dial failed: broken", 20),
    ("dial failed: closed", 1),
    ("dial failed: drain", 20),
    ("dial failed: no answer", 20),
    ("dial failed: no connection", 30),
    ("dial failed: no socket", 40),
    ("dial failed: refused", 40),
    ("dial failed: wrong answer", 30),
    ("heartbeats answered", 60),
    ("handshake timeouts", 200),
    ("close timeouts", 60),
    ("half close", 50),
    ("peer vanished", 60),
    ("TLS: FIN inside a record", 6),
    ("TLS: KeyUpdates", 9000),
    ("TLS: KeyUpdates of the engine", 2500),
    ("TLS: alerts", 90),
    ("TLS: bad records", 90),
    ("TLS: clients in the clear", 60),
    ("TLS: cut inside a record", 90),
    ("TLS: empty records", 2400),
    ("TLS: ends that are said", 450),
    ("TLS: ends that were not said", 20),
    ("TLS: half close", 10),
    ("TLS: handshakes", 900),
    ("TLS: handshakes evicted", 90),
    ("TLS: handshakes failed", 5),
    ("TLS: records to the engine", 100_000),
    ("TLS: rules broken", 100),
    ("TLS: seeds", 100),
    ("TLS: tickets", 60),
];
