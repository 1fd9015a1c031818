//! The engine in a world made of a seed: a fake kernel with a fake clock that fails wherever a
//! kernel may fail, clients of every character, and an application that does all it is allowed to.
//!
//! Method: a seed decides everything (see `plan` and `script`), so a failure is a number. After the
//! turns the engine audits its own books (`engine::testing`), clients check what they receive,
//! the application checks what it is told, the kernel checks how it is used. At the end
//! the server is drained, and nothing may be left.
//!
//! `cargo test` runs fixed seeds. `SIM_SECONDS=3600 cargo test --release --test simulation random
//! -- --nocapture` runs random ones for an hour. A failing seed is replayed by `SIM_SEED=… cargo
//! test --release --test simulation replay -- --nocapture`, with its last events.

// Nothing is reachable from a test.
#![allow(unreachable_pub)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

mod simulation {
    pub mod app;
    pub mod bytes;
    pub mod coverage;
    pub mod introduction;
    pub mod kernel;
    pub mod listener;
    pub mod peer;
    pub mod plan;
    pub mod remote;
    pub mod run;
    pub mod script;
    pub mod streamer;
    pub mod traffic;
    pub mod wire;
    pub mod world;
}

use ringhold::engine::rng::Rng;
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
    let command = "cargo test --release --test simulation replay -- --nocapture";
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
    let seen = simulate_all(0..SEEDS);
    let steps = seen.of("turns") + seen.of("events");
    assert!(steps >= 1_000_000, "only {steps} steps");
    for name in EXPECTED {
        assert!(seen.of(name) > 0, "{name}: never happened");
    }
}

#[test]
fn replay() {
    let Some(seed) = number("SIM_SEED") else { return };
    match simulate(seed, true) {
        Ok(report) => {
            println!("{} turns, {} events\n{}", report.turns, report.events, report.seen);
        }
        Err(what) => panic!("{what}"),
    }
}

#[test]
fn random_seeds() {
    let Some(seconds) = number("SIM_SECONDS") else { return };
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
const SEEDS: u64 = 200;

/// So many failing seeds are enough to begin with.
const FAILURES_MAX: u32 = 5;

/// What must have happened in them, each kind of fault and each end of a connection.
const EXPECTED: [&str; 70] = [
    "accept error",
    "accept cancelled",
    "accepted despite cancel",
    "accept pauses",
    "poll ended",
    "poll failed",
    "poll spurious",
    "recv short",
    "recv too early",
    "recv transient",
    "send error",
    "send short",
    "send transient",
    "send buffer full",
    "slot free before Closed",
    "stale completions",
    "reset by close",
    "wait interrupted",
    "host stalled",
    "woken",
    "stopped",
    "stale identifier used",
    "writable",
    "outbox drops",
    "conflated",
    "read pauses",
    "panics",
    "refused 503",
    "refused 408",
    "opened through a proxy",
    "refused: PROXY header untrusted",
    "refused: PROXY header missing",
    "refused: PROXY header malformed",
    "installed",
    "install failed",
    "dialled",
    "dial failed",
    "socket error",
    "refused 411",
    "refused 413",
    "answered 204",
    "stream: message",
    "stream: topic message",
    "stream: prefix",
    "stream: heartbeat",
    "stream: told to go on",
    "stream: bytes without chunks",
    "stream: last words",
    "stream: end",
    "last words in a frame",
    "stream closed: Slow",
    "stream closed: Peer",
    "stream closed: Heartbeat",
    "closed: Peer",
    "closed: Abrupt",
    "closed: Broken",
    "closed: Unacknowledged",
    "closed: Protocol",
    "closed: InvalidData",
    "closed: TooBig",
    "closed: Rate",
    "closed: InboundFull",
    "closed: Slow",
    "closed: OutboxFull",
    "closed: WriteTimeout",
    "closed: Idle",
    "closed: Heartbeat",
    "closed: Panic",
    "closed: Application",
    "closed: Drain",
];
