//! The gateway's hubs in a world made of a seed: some cores, joined by queues that deliver in any
//! order that mailboxes could, and clients that do everything clients may do, beside a model that
//! says what they must see.
//!
//! Method: a seed decides everything, so a failure is a number. `truth` knows each channel as one
//! list in the order of its home core; `client` checks what each connection sees against it, one
//! push at a time; `run` draws what happens. `rules` are plain tests in the same world.
//!
//! `cargo test` runs fixed seeds; `GATEWAY_SEEDS=100000 cargo test --release --test models
//! gateway_model::random` runs so many from a random one on, and `GATEWAY_SEED=… cargo test --test
//! models gateway_model::replay` replays one.

// Nothing is reachable from a test.
#![allow(unreachable_pub)]

mod client;
mod rules;
mod run;
mod truth;
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
                let command = "cargo test --test models gateway_model::replay";
                panic!("seed {seed} failed; replay: GATEWAY_SEED={seed} {command}");
            }
        }
    }
    covered
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect(name))
}

#[test]
fn fixed_seeds_agree_with_the_model() {
    let covered = simulate(0..150);
    println!("{covered:?}");
    covered.check();
}

#[test]
fn random_seeds_agree_with_the_model() {
    let Some(count) = variable("GATEWAY_SEEDS") else { return };
    let first = getrandom::u64().unwrap() >> 16;
    println!("{:?}", simulate(first..first + count));
}

#[test]
fn replay() {
    if let Some(seed) = variable("GATEWAY_SEED") {
        println!("{:?}", simulate(seed..=seed));
    }
}
