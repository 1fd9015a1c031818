//! Two nodes on a Redis under Sentinels, whose primary is killed, demoted, stopped and torn off:
//! what was lost, doubled and told, and how long it took.
//!
//! Method: two `ringhold serve`, two `redis-server` and three Sentinels as child processes,
//! numbered publications through both nodes, subscribers on both that return as SDKs do.
//! `--nocapture` prints the figures. Without `redis-server` the tests say so.

use std::time::Duration;

use rustix::process::Signal;

use crate::support::gateway::Gateway;
use crate::support::numbered::{Pair, Published};
use crate::support::sentinel::{Group, NAME};
use crate::support::until;

const CHANNEL: &str = "kept:a";

const TABLES: &str = r#"
[client]
ping_interval = "600s"
channel_position_check_delay = "1s"
[health]
enabled = true
[prometheus]
enabled = true
[[channel.namespaces]]
name = "kept"
history_size = 100000
history_ttl = "600s"
force_recovery = true
allow_subscribe_for_client = true
"#;

struct World {
    group: Group,
    pair: Pair,
}

fn node(group: &Group) -> Gateway {
    let tables = format!("{TABLES}[engine.redis]\n{}", group.keys());
    let node = Gateway::start_listening("", "type = \"redis\"", &tables);
    until("the broker to be there", || node.metrics().contains(&up(group)));
    node
}

/// The line of metrics that says that the broker is there.
fn up(group: &Group) -> String {
    format!("ringhold_broker_up{{server=\"{NAME} by {}\"}} 1", group.address())
}

impl World {
    fn start() -> Option<Self> {
        let group = Group::start(3)?;
        let pair = Pair::new(CHANNEL, [node(&group), node(&group)]);
        Some(Self { group, pair })
    }

    fn publish_through(&mut self, harm: impl FnOnce(&mut Group, &[Gateway; 2])) -> [Published; 2] {
        let Self { group, pair } = self;
        pair.publish_through(|nodes| harm(group, nodes))
    }

    /// Until both nodes have their publications acknowledged again. How long it took.
    fn recovers(&mut self) -> Duration {
        self.pair.publish(2)
    }

    /// The same as of the pair; both nodes have followed one failover.
    fn end(mut self, what: &str, published: &[Published]) -> Vec<u64> {
        let told = self.pair.end(what, published);
        for node in &self.pair.nodes {
            assert_eq!(node.metric("broker_switches_total"), 1, "{what}");
        }
        told
    }
}

#[test]
fn a_primary_that_is_killed_in_step_costs_nobody_anything() {
    let Some(mut world) = World::start() else { return };
    world.pair.publish(50);
    world.group.in_step();
    world.group.primary().kill();
    let took = world.recovers();
    world.group.taken_over();
    println!("killed in step: both nodes publish again after {took:?}");
    world.pair.publish(50);
    assert_eq!(world.end("killed in step", &[]), [0; 4]);
}

#[test]
fn a_tail_that_the_replica_never_had_is_told() {
    let Some(mut world) = World::start() else { return };
    world.pair.publish(10);
    world.group.in_step();
    world.group.tear();
    world.pair.publish(5);
    let lost = world.pair.acked.split_off(10);
    world.group.primary().kill();
    let took = world.recovers();
    world.group.taken_over();
    println!("killed with {} publications not replicated: again after {took:?}", lost.len());
    // Until the fork is found, the new primary gives the old offsets again; nobody passes over it.
    world.pair.publish(20);
    let told = world.end("torn off, then killed", &[]);
    assert!(told.iter().all(|told| *told >= 1), "{told:?}");
}

#[test]
fn a_primary_that_is_killed_under_publications_loses_nothing_untold() {
    let Some(mut world) = World::start() else { return };
    let published = world.publish_through(|group, nodes| {
        group.primary().kill();
        group.taken_over();
        for node in nodes {
            node.wait_for_metric("broker_switches_total", 1);
            until("the new primary", || node.metrics().contains(&up(group)));
        }
    });
    world.end("killed under 200 publications a second", &published);
}

#[test]
fn a_failover_that_was_ordered_loses_nothing_untold() {
    ordered("ordered under 200 publications a second", "0");
}

/// Once its replica has left, the old primary takes nothing more that would be lost.
#[test]
fn a_primary_that_demands_replicas_takes_less_that_is_lost() {
    ordered("ordered with min-replicas-to-write 1", "1");
}

fn ordered(what: &str, replicas: &str) {
    let Some(mut world) = World::start() else { return };
    world.group.primary().cli(&["CONFIG", "SET", "min-replicas-to-write", replicas]);
    let published = world.publish_through(|group, _| {
        assert_eq!(group.sentinels[0].cli(&["SENTINEL", "FAILOVER", NAME]), "OK");
        group.taken_over();
        until("the old one to follow", || group.replica().info("role") == "slave");
    });
    left_behind(&world);
    world.end(what, &published);
}

/// It takes what was sent to it when it goes on, as if it were in charge still.
#[test]
fn a_primary_that_stops_and_comes_back_is_left_behind() {
    let Some(mut world) = World::start() else { return };
    let published = world.publish_through(|group, nodes| {
        group.primary().signal(Signal::STOP);
        group.taken_over();
        for node in nodes {
            node.wait_for_metric("broker_switches_total", 1);
        }
        group.replica().signal(Signal::CONT);
        until("the old one to follow", || group.replica().info("role") == "slave");
    });
    left_behind(&world);
    world.end("stopped under 200 publications a second, and back", &published);
}

/// No node is connected to who was the primary before.
fn left_behind(world: &World) {
    until("the old primary to be left", || {
        !world.group.replica().cli(&["CLIENT", "LIST"]).contains("name=ringhold")
    });
}

/// The Sentinel on the primary's host goes with it, as where each host has one of both.
#[test]
fn a_sentinel_that_goes_with_the_primary_delays_nothing() {
    let Some(mut world) = World::start() else { return };
    world.pair.publish(20);
    world.group.in_step();
    world.group.sentinels[0].kill();
    world.group.primary().kill();
    let took = world.recovers();
    world.group.taken_over();
    println!("killed with a Sentinel: both nodes publish again after {took:?}");
    let answering =
        format!("ringhold_broker_sentinels{{server=\"{NAME} by {}\"}} 2", world.group.address());
    for node in &world.pair.nodes {
        until("two of three to be counted", || node.metrics().contains(&answering));
    }
    assert_eq!(world.end("killed with a Sentinel", &[]), [0; 4]);
}
