//! Whole sessions over several cores, in worlds made of seeds: clients that say anything at any
//! moment, a backend that answers late, in any order, with errors or never, a server API that
//! subscribes, unsubscribes, refreshes and closes meanwhile, tokens that expire, and cores that
//! take their turns in any order. Without sockets, on a virtual clock.
//!
//! What must hold: what a client sees, in its order, is what some sequential execution would show.
//! `hear`, `told` and `watch` judge each reply and push by what was asked, by what others did and
//! by the configuration that was drawn (`plan`); `rest` demands, whenever all has happened that
//! could, that nothing is owed, and that the server's tables say what clients believe. Calm worlds
//! do one thing after the other, so that everything can be foretold; in the others all meets.
//!
//! `cargo test` runs fixed seeds; `SESSION_SEEDS=100000 cargo test --release --test session_model
//! random -- --ignored` runs so many from a random one on, and `SESSION_SEED=… cargo test --test
//! session_model replay -- --ignored` replays one; `SESSION_TRACE=1` prints what happens.

// Nothing is reachable from a test.
#![allow(unreachable_pub)]

mod support;

#[allow(dead_code, reason = "each test file uses its part")]
#[path = "models/gateway_session/site.rs"]
mod site;

mod session_model {
    pub mod acts;
    pub mod backend;
    pub mod conn;
    pub mod hear;
    pub mod helm;
    pub mod plan;
    pub mod rest;
    pub mod run;
    pub mod told;
    pub mod truth;
    pub mod watch;
}

use std::panic::{AssertUnwindSafe, catch_unwind};

use session_model::run::{Covered, Run};

fn simulate(seeds: impl Iterator<Item = u64>) -> Covered {
    let mut covered = Covered::default();
    let trace = std::env::var("SESSION_TRACE").is_ok();
    for seed in seeds {
        let run = catch_unwind(AssertUnwindSafe(|| Run::new(seed, trace).run()));
        match run {
            Ok(report) => covered.add(&report),
            Err(_) => {
                let command = "cargo test --test session_model replay -- --ignored";
                panic!("seed {seed} failed; replay: SESSION_SEED={seed} {command}");
            }
        }
    }
    covered
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect(name))
}

/// How often the fixed seeds must meet each event.
const FLOORS: &[(&str, u64)] = &[
    ("answer about a time that is no more", 8),
    ("backend answered the gone", 4000),
    ("backend asked about a command", 12000),
    ("backend asked about a connection", 1000),
    ("backend asked about a subscription", 1000),
    ("called", 2000),
    ("closed: bad request", 3000),
    ("closed: by API", 300),
    ("closed: by the backend", 700),
    ("closed: expired", 3000),
    ("closed: it is the backend's to say", 100),
    // Once in thousands of worlds.
    ("closed: no room", 0),
    ("closed: no seat", 200),
    ("closed: not available", 400),
    ("closed: other channels", 200),
    ("closed: shutdown", 600),
    ("closed: stale", 600),
    ("closed: subscription expired", 300),
    ("closed: token", 1000),
    ("closed: too many channels", 70),
    ("connect failed", 1000),
    ("connected as nobody", 1000),
    ("connected by the backend", 600),
    ("connected by token", 11000),
    ("cut", 50),
    ("drained", 200),
    ("empty", 900),
    ("history read", 700),
    ("history removed", 900),
    ("join", 7000),
    ("leave", 1000),
    ("left", 3000),
    ("not recovered", 1000),
    ("order", 21000),
    ("ordered while it connects", 20),
    ("ordered while asked", 100),
    ("orders compared", 2000),
    ("patch", 100),
    ("ping", 3000),
    ("positions compared", 71000),
    ("presence compared", 52000),
    ("publication", 18000),
    ("publication refused", 6000),
    ("published", 6000),
    ("published by API", 19000),
    ("recovered", 800),
    ("recovered publications", 400),
    ("recovery rejected", 100),
    ("refreshed", 3000),
    ("refreshed by API", 1000),
    ("revoked", 400),
    ("stops or starts to read", 900),
    ("subscribed", 5000),
    ("subscribed by API", 2000),
    ("subscribed by the backend", 1000),
    ("subscribed by token", 5000),
    ("subscribed with connect", 16000),
    ("subscription ended by the backend", 40),
    ("subscription expired", 500),
    ("subscription not refreshed", 1000),
    ("subscription refreshed", 900),
    ("subscription refused", 16000),
    ("time", 28000),
    ("unsubscribed", 11000),
    ("unsubscribed by API", 2000),
];

#[test]
fn fixed_seeds_agree_with_the_model() {
    let covered = simulate(0..2500);
    println!("{covered:?}");
    covered.check(FLOORS);
}

#[test]
#[ignore = "runs SESSION_SEEDS random seeds, 1,000 unless it is set"]
fn random_seeds_agree_with_the_model() {
    let first = getrandom::u64().unwrap() >> 16;
    let count = variable("SESSION_SEEDS").unwrap_or(1000);
    println!("{:?}", simulate(first..first + count));
}

#[test]
#[ignore = "replays the seed that SESSION_SEED names"]
fn replay() {
    let seed = variable("SESSION_SEED").expect("SESSION_SEED names the seed");
    println!("{:?}", simulate(seed..=seed));
}

/// Lists the seeds that fail, each with its panic.
#[test]
#[ignore = "lists which of SESSION_SURVEY seeds fail, for work on the model"]
fn survey() {
    let count = variable("SESSION_SURVEY").expect("SESSION_SURVEY says how many");
    let said = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let to = said.clone();
    std::panic::set_hook(Box::new(move |panic| {
        *to.lock().expect("no panic") = panic.to_string().replace('\n', " ");
    }));
    let mut covered = Covered::default();
    let mut failed = 0;
    let first = variable("SESSION_SEED").unwrap_or(0);
    for seed in first..first + count {
        match catch_unwind(|| Run::new(seed, false).run()) {
            Ok(report) => covered.add(&report),
            Err(_) => {
                failed += 1;
                let said = said.lock().expect("no panic");
                println!("seed {seed}: {}", said.chars().take(700).collect::<String>());
            }
        }
    }
    println!("{failed} of {count} failed: {covered:?}");
}
