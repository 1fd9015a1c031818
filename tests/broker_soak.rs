//! The soak test of several nodes on one broker: three nodes on real servers, to which everything
//! happens that can, drawn from a seed.
//!
//! `cargo test` runs it for some twenty seconds on each kind of servers. The run that means
//! something is
//!
//! ```text
//! BROKER_SOAK_SECONDS=3600 BROKER_SOAK_SEED=7 \
//!     cargo test --release --test broker_soak soak -- --nocapture
//! ```
//!
//! Method: three `ringhold serve` on a Redis Cluster (three primaries, each with a replica), and
//! three others on a Redis under Sentinels, each with a proxy of the test's own between it and the
//! servers. A publisher for each channel gives the next number when the last one is acknowledged,
//! through any node, with idempotency keys. Clients come, move and recover, as SDKs do; nodes and
//! servers are killed, stopped, cut off, slowed down and replaced.
//!
//! What must hold: within a stretch, from one time that a subscriber is told to the next, it sees
//! each offset once, in order, and numbers only grow; it is told only where servers may have lost
//! something, or a history is short. No node sends a client away, but one that ends. At the end
//! every subscriber is where the servers are, has seen what they have, and nothing acknowledged is
//! missing but what servers have lost with everybody told; then everybody leaves, all tables are
//! empty, and the node that lived all the time has the memory that it had after the warm-up.
//!
//! `SERVER_UNDER_TEST` is another build of the program; `BROKER_SOAK_CLIENTS` and
//! `BROKER_SOAK_RATE` change how much there is to do.

mod support;

#[path = "broker_soak/audit.rs"]
mod audit;
#[path = "soak/dice.rs"]
#[allow(dead_code, reason = "the engine's soak uses the rest")]
mod dice;
#[path = "gateway_soak/element.rs"]
#[allow(dead_code, reason = "the gateway's soak uses the rest")]
mod element;
#[path = "broker_soak/faults.rs"]
mod faults;
#[path = "gateway_soak/link.rs"]
#[allow(dead_code, reason = "the gateway's soak uses the rest")]
mod link;
#[path = "broker_soak/memory.rs"]
mod memory;
#[path = "broker_soak/plan.rs"]
mod plan;
#[path = "broker_soak/publisher.rs"]
mod publisher;
#[path = "broker_soak/servers.rs"]
mod servers;
#[path = "broker_soak/shared.rs"]
mod shared;
#[path = "broker_soak/strait.rs"]
mod strait;
#[path = "broker_soak/subscriber.rs"]
mod subscriber;
#[path = "broker_soak/tally.rs"]
mod tally;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use faults::{Director, WITNESS};
use memory::Memory;
use plan::{KEYS, NODES, Plan, TABLES, channels};
use servers::{Servers, until};
use shared::{Phase, Shared};
use strait::Strait;
use support::gateway::Gateway;
use tally::Tally;
use tokio::task::{LocalSet, spawn_local};

#[test]
fn soak_on_a_cluster() {
    if let Some(servers) = Servers::cluster() {
        soak(servers, "cluster");
    }
}

#[test]
fn soak_under_sentinels() {
    if let Some(servers) = Servers::group() {
        soak(servers, "sentinel");
    }
}

fn soak(servers: Servers, name: &'static str) {
    let plan = Plan::from_environment();
    let tally = Tally::new(name);
    tally.say(&format!("{plan:?}"));
    if plan.time >= Duration::from_secs(120) {
        servers.be_patient();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.worker_threads(1).enable_all().build().expect("a runtime");
    let ports = servers.ports();
    // Two kinds of servers run beside each other.
    let first = if servers.is_cluster() { 0 } else { NODES as u8 };
    let straits: Vec<_> =
        (0..NODES as u8).map(|node| Strait::open(runtime.handle(), first + node, &ports)).collect();
    let nodes: Vec<_> = straits.iter().map(|strait| node(&servers, strait)).collect();
    let addresses = nodes.iter().map(Gateway::address).collect();
    let shared = Arc::new(Shared::new(plan, tally, channels(), addresses));
    let people = people(&shared);
    let mut director = Director::new(&shared, servers, straits, nodes);
    let _ends = Ends(shared.clone());
    director.all_are_well();

    let start = Instant::now();
    let (plan, tally) = (&shared.plan, &shared.tally);
    let mut memory = Memory::new(plan.time);
    let mut next_report = Duration::ZERO;
    while start.elapsed() < plan.time && !tally.has_failed_often() {
        director.act();
        memory.look(start.elapsed(), director.nodes[WITNESS].id());
        if start.elapsed() >= next_report {
            next_report = start.elapsed() + plan.report;
            tally.say(&format!("{}; {}", memory.text(&director.nodes), tally.counts.text()));
        }
    }
    director.all_are_well();
    shared.keep_still(true);
    // Time without faults, in which everything is found out that is to be.
    std::thread::sleep(Duration::from_secs(2));
    shared.enter(Phase::Settle);
    let compared = finish(&shared, &director);
    memory.look(start.elapsed(), director.nodes[WITNESS].id());
    memory.check(tally);
    shared.enter(Phase::Leave);
    let left = people.join().map_err(|_| tally.fail("the clients' thread panicked"));
    if left.is_ok() {
        empty(&shared, &director);
    }
    tally.say(&format!("{} faults\n{}", director.drawn(), director.table()));
    tally.say(&format!("{}; {}", memory.text(&director.nodes), tally.counts.text()));
    tally.say(&format!("{compared:?}"));
    let Director { nodes, servers, .. } = director;
    nodes.into_iter().for_each(Gateway::stop);
    drop(servers);
    let failures = tally.failures();
    assert!(
        failures.is_empty(),
        "{} failures with BROKER_SOAK_SEED={}:\n{}",
        failures.len(),
        plan.seed,
        failures.join("\n")
    );
}

/// Sends everybody away, also where the run panics.
struct Ends(Arc<Shared>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.enter(Phase::Leave);
    }
}

fn node(servers: &Servers, strait: &Strait) -> Gateway {
    let keys = servers.keys(&strait.host().to_string());
    let tables = format!("{TABLES}[engine.redis]\n{keys}{KEYS}");
    Gateway::start_listening("", "type = \"redis\"", &tables)
}

/// Publishers and clients, on a thread of their own, until everybody has left.
fn people(shared: &Arc<Shared>) -> JoinHandle<()> {
    let shared = shared.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        LocalSet::new().block_on(&runtime, async {
            let clients: Vec<_> = (0..shared.plan.clients)
                .map(|number| spawn_local(subscriber::live(shared.clone(), number)))
                .collect();
            let publishers: Vec<_> = (0..shared.channels.len())
                .map(|channel| spawn_local(publisher::publish(shared.clone(), channel)))
                .collect();
            for task in publishers {
                if let Err(panic) = task.await {
                    shared.tally.fail(&format!("a publisher: {panic}"));
                }
            }
            shared.publishers_are_done();
            for task in clients {
                if let Err(panic) = task.await {
                    shared.tally.fail(&format!("a client: {panic}"));
                }
            }
        });
    })
}

/// Waits for the last publications, and compares what everybody has seen.
fn finish(shared: &Shared, director: &Director<'_>) -> audit::Compared {
    let deadline = Instant::now() + 5 * support::PATIENCE;
    while !shared.has_published() {
        assert!(Instant::now() < deadline, "publishers do not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    audit::settles(shared, &director.servers, 2 * support::PATIENCE);
    audit::compare(shared, &director.servers)
}

/// Everybody has left: nothing is kept of them, neither on nodes nor by servers.
fn empty(shared: &Shared, director: &Director<'_>) {
    let Director { servers, nodes, .. } = director;
    for (number, node) in nodes.iter().enumerate() {
        for name in EMPTY {
            let begun = Instant::now();
            while node.metric(name) != 0 && begun.elapsed() < support::PATIENCE {
                std::thread::sleep(Duration::from_millis(50));
            }
            if node.metric(name) != 0 {
                shared.tally.fail(&format!("node {number}: {name} is {}", node.metric(name)));
            }
        }
        for name in NEVER {
            if node.metric(name) != 0 {
                shared.tally.fail(&format!("node {number}: {name} is {}", node.metric(name)));
            }
        }
    }
    for server in servers.all() {
        until("nobody to listen", || {
            server.cli(&["PUBSUB", "CHANNELS", "centrifugo.client.*"]).is_empty()
        });
    }
    for (name, _) in shared.channels.iter().filter(|(_, kind)| *kind == plan::Kind::Room) {
        let key = servers.key("presence.data", name);
        // Members of nodes that were killed have their time.
        until("nobody to be present", || {
            servers.ask("return {redis.call('EXISTS', KEYS[1])}", std::slice::from_ref(&key))
                == ["0"]
        });
    }
}

/// 0 when everybody has left.
const EMPTY: [&str; 10] = [
    "gateway_clients",
    "gateway_users",
    "gateway_channels",
    "gateway_subscriptions",
    "gateway_channels_known",
    "gateway_deadlines",
    "topics",
    "subscriptions",
    "broker_queue",
    "broker_queue_bytes",
];

/// 0 whatever happens.
const NEVER: [&str; 6] = [
    "panics_total",
    "gateway_undecodable_total",
    "broker_undecodable_total",
    "broker_messages_malformed_total",
    "broker_control_malformed_total",
    "broker_messages_refused_total",
];
