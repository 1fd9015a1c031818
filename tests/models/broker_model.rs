//! Several nodes on one broker, in a world made of a seed: hubs of one to three cores each, a
//! server that orders the channels, and connections that lose, double and delay messages and break
//! between sending and answering; the server fails over with a lost tail, trims, expires and comes
//! back empty, and channels move to another one, as slots of a cluster do. Without sockets, on a
//! virtual clock.
//!
//! What must hold: within an epoch every positioned subscriber gets each offset once and in order,
//! until it is told; every question is answered once; at the end all agree with the server, and
//! when everybody has gone no table has anything in it. In gentle worlds, where everything can be
//! repaired, nobody is told at all.
//!
//! `cargo test` runs fixed seeds; `BROKER_SEEDS=100000 cargo test --release --test models
//! broker_model::random` runs so many from a random one on, and `BROKER_SEED=… cargo test --test
//! models broker_model::replay` replays one.

// Nothing is reachable from a test.
#![allow(unreachable_pub)]

mod audit;
mod client;
mod link;
mod moves;
mod rules;
mod run;
mod server;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use run::{Covered, Run};

fn simulate(seeds: impl Iterator<Item = u64>) -> Covered {
    let mut covered = Covered::default();
    for seed in seeds {
        let run = catch_unwind(AssertUnwindSafe(|| Run::new(seed).run()));
        match run {
            Ok(report) => covered.add(&report),
            Err(_) => {
                let command = "cargo test --test models broker_model::replay";
                panic!("seed {seed} failed; replay: BROKER_SEED={seed} {command}");
            }
        }
    }
    covered
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect(name))
}

#[test]
fn fixed_seeds_agree_with_the_server() {
    let covered = simulate(0..500);
    println!("{covered:?}");
    covered.check();
}

#[test]
fn random_seeds_agree_with_the_server() {
    let Some(count) = variable("BROKER_SEEDS") else { return };
    let first = getrandom::u64().unwrap() >> 16;
    println!("{:?}", simulate(first..first + count));
}

#[test]
fn replay() {
    if let Some(seed) = variable("BROKER_SEED") {
        println!("{:?}", simulate(seed..=seed));
    }
}
