//! The engine's own data structures: what a heartbeat, a subscription, a queued frame costs.
//!
//! `cargo bench --bench engine`.

use std::collections::BTreeMap;
use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ringhold::internals::ledger::Ledger;
use ringhold::internals::outbox::{Data, Outbox, TurnBuffers};
use ringhold::internals::rng::Rng;
use ringhold::internals::slots::{NO_SUBSCRIPTION, Phase, Slots};
use ringhold::internals::topics::Topics;
use ringhold::internals::wheel::Wheel;

const CONNECTIONS: u32 = 100_000;

/// Arming and firing a heartbeat, against a sorted map of deadlines.
fn wheel(c: &mut Criterion) {
    let mut group = c.benchmark_group("timer");
    group.throughput(Throughput::Elements(u64::from(CONNECTIONS)));
    group.sample_size(20);
    group.bench_function("wheel: arm and fire 100,000", |b| {
        b.iter_batched(
            || (slots(), Wheel::default(), Rng::new(1)),
            |(mut slots, mut wheel, mut rng)| {
                for slot in 0..CONNECTIONS {
                    wheel.schedule(&mut slots, slot, 1 + rng.below(600));
                }
                let mut fired = Vec::with_capacity(CONNECTIONS as usize);
                for tick in 1..=601 {
                    wheel.advance(&mut slots, tick, &mut fired);
                }
                assert_eq!(fired.len(), CONNECTIONS as usize);
                (slots, fired)
            },
            BatchSize::LargeInput,
        );
    });
    group.bench_function("BTreeMap: arm and fire 100,000", |b| {
        b.iter_batched(
            || Rng::new(1),
            |mut rng| {
                let mut map = BTreeMap::new();
                for slot in 0..CONNECTIONS {
                    map.insert((1 + rng.below(600), slot), ());
                }
                let mut fired = 0;
                while map.pop_first().is_some() {
                    fired += 1;
                }
                assert_eq!(fired, CONNECTIONS);
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

/// Queueing one shared frame and taking it as sent, and a slow peer's burst.
fn outbox(c: &mut Criterion) {
    let mut group = c.benchmark_group("outbox");
    let frame = Bytes::from(vec![7; 128]);
    let turn = TurnBuffers { cork: &[], arena: &[] };
    let (mut outbox, mut ledger) = (Outbox::default(), Ledger::default());
    group.bench_function("queue, gather, advance one frame", |b| {
        b.iter(|| {
            let mut slices = Vec::with_capacity(1);
            outbox.push(Data::Shared(frame.clone(), 0), 0);
            let (_, bytes) = outbox.gather(turn, usize::MAX, &mut slices);
            black_box(&slices);
            drop(slices);
            outbox.advance(bytes, &mut ledger);
        });
    });
    group.bench_function("queue 64 frames, gather once, advance", |b| {
        b.iter(|| {
            for _ in 0..64 {
                outbox.push(Data::Shared(frame.clone(), 0), 0);
            }
            let mut slices = Vec::with_capacity(64);
            let (_, bytes) = outbox.gather(turn, usize::MAX, &mut slices);
            black_box(&slices);
            drop(slices);
            outbox.advance(bytes, &mut ledger);
        });
    });
    group.finish();
}

/// Joining and leaving a topic of 100,000, and walking it.
fn topics(c: &mut Criterion) {
    let mut group = c.benchmark_group("topics");
    let mut topics = Topics::default();
    let mut heads = vec![NO_SUBSCRIPTION; CONNECTIONS as usize];
    for (slot, head) in heads.iter_mut().enumerate() {
        topics.subscribe(slot as u32, head, "news");
    }
    let mut rng = Rng::new(2);
    group.bench_function("leave and join among 100,000", |b| {
        b.iter(|| {
            let slot = rng.below(CONNECTIONS);
            let head = &mut heads[slot as usize];
            topics.unsubscribe(head, "news");
            topics.subscribe(slot, head, "news")
        });
    });
    group.throughput(Throughput::Elements(u64::from(CONNECTIONS)));
    group.bench_function("walk 100,000 subscribers", |b| {
        b.iter(|| topics.subscribers("news").map(u64::from).sum::<u64>());
    });
    group.finish();
}

fn slots() -> Slots {
    let mut slots = Slots::default();
    for slot in 0..CONNECTIONS {
        slots.open(slot, Phase::Open);
    }
    slots
}

criterion_group!(benches, wheel, outbox, topics);
criterion_main!(benches);
