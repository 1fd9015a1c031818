//! Two nodes on a Redis Cluster, whose slots move and whose nodes are killed: what was lost,
//! doubled and told, and how long it took. Each once with messages that pass through all nodes of
//! the cluster, and once with sharded ones.
//!
//! Method: two `ringhold serve` and three or four `redis-server` as child processes, numbered
//! publications through both nodes, subscribers on both that return as SDKs do. `--nocapture`
//! prints the figures. Without `redis-server` the tests say so.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use crate::support::cluster::Cluster;
use crate::support::gateway::Gateway;
use crate::support::numbered::{Pair, Published, publish};
use crate::support::until;

const CHANNEL: &str = "kept:a";

/// Of sharded messages. The channel is in one of them, and others are on each node.
const PARTITIONS: u16 = 16;

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
presence = true
allow_subscribe_for_client = true
[[channel.namespaces]]
name = "plain"
allow_subscribe_for_client = true
"#;

fn node(cluster: &Cluster) -> Gateway {
    // A server that has to wait for its processor is none that is away.
    let patience = "io_timeout = \"20s\"\nconnect_timeout = \"5s\"\n";
    let tables = format!("{TABLES}[engine.redis]\n{patience}{}", cluster.keys());
    let node = Gateway::start_listening("", "type = \"redis\"", &tables);
    is_up(&node, cluster);
    node
}

fn is_up(node: &Gateway, cluster: &Cluster) {
    until("the cluster to be there", || node.metrics().contains(&up(cluster)));
}

/// The line of metrics that says that all of it is there.
fn up(cluster: &Cluster) -> String {
    format!("ringhold_broker_up{{server=\"cluster {}\"}} 1", cluster.address())
}

struct World {
    cluster: Cluster,
    pair: Pair,
}

impl World {
    fn start(partitions: u16, replicas: usize) -> Option<Self> {
        let cluster = Cluster::start_for(partitions, replicas)?;
        let pair = Pair::new(CHANNEL, [node(&cluster), node(&cluster)]);
        Some(Self { cluster, pair })
    }

    /// The channel is at the first server, which has a replica, and has some publications.
    fn with_a_replica(partitions: u16) -> Option<Self> {
        let mut world = Self::start(partitions, 1)?;
        let (slot, owner) = (world.cluster.slot(CHANNEL), world.cluster.owner(CHANNEL));
        if owner != 0 {
            world.cluster.move_slot(slot, owner, 0);
        }
        world.pair.publish(20);
        Some(world)
    }

    fn publish_through(
        &mut self,
        harm: impl FnOnce(&mut Cluster, &[Gateway; 2]),
    ) -> [Published; 2] {
        let Self { cluster, pair } = self;
        pair.publish_through(|nodes| harm(cluster, nodes))
    }
}

/// Says it of both kinds of messages.
fn kind(partitions: u16, what: &str) -> String {
    format!("{what}, {}", if partitions > 0 { "sharded" } else { "not sharded" })
}

#[test]
fn channels_of_all_slots_are_served() {
    serve_all_slots(0);
}

#[test]
fn channels_of_all_slots_are_served_sharded() {
    serve_all_slots(PARTITIONS);
}

fn serve_all_slots(partitions: u16) {
    let Some(cluster) = Cluster::start_for(partitions, 0) else { return };
    let nodes = [node(&cluster), node(&cluster)];
    let kept = cluster.channels("kept:");
    let plain = cluster.channels("plain:");
    let mut sessions = [nodes[0].connected("ann"), nodes[1].connected("bob")];
    for session in &mut sessions {
        for channel in kept.iter().chain(&plain) {
            session.subscribe(channel);
        }
    }
    for (number, channel) in kept.iter().chain(&plain).enumerate() {
        let published = json!({"channel": channel, "data": number});
        nodes[number % 2].api("publish", published);
        for session in &mut sessions {
            assert_eq!(session.publication(channel)["data"], number);
        }
    }
    for (number, channel) in kept.iter().enumerate() {
        let key = cluster.stream(channel);
        assert_eq!(cluster.servers[number].cli(&["EXISTS", &key]), "1");
        let presence = nodes[number % 2].api("presence_stats", json!({"channel": channel}));
        assert_eq!(presence["num_clients"], 2);
        let once = json!({"channel": channel, "data": 1, "idempotency_key": "k"});
        let offsets = [0, 1].map(|n| nodes[n].api("publish", once.clone())["offset"].clone());
        assert_eq!(offsets, [json!(2), json!(2)]);
        for session in &mut sessions {
            assert_eq!(session.publication(channel)["offset"], 2);
        }
        nodes[0].api("history_remove", json!({"channel": channel}));
        assert_eq!(cluster.servers[number].cli(&["EXISTS", &key]), "0");
    }
    for (number, channel) in kept.iter().enumerate() {
        let name = cluster.messages(channel);
        let heard = ["SHARDNUMSUB", "NUMSUB"].map(|kind| {
            let lines = cluster.servers[number].lines(&["PUBSUB", kind, &name]);
            lines[1].parse::<u32>().expect("a number")
        });
        assert_eq!(heard, if partitions > 0 { [2, 0] } else { [0, 2] }, "{channel}");
    }
    // What nodes say to each other comes through one of the servers.
    for node in &nodes {
        until("two nodes", || node.api("info", json!({}))["nodes"].as_array().unwrap().len() == 2);
    }
    nodes[0].api("disconnect", json!({"user": "bob"}));
    sessions[1].closed(3503);
    let heard = |server: &crate::support::redis::Redis| {
        let counted = server.lines(&["PUBSUB", "NUMSUB", "centrifugo.control"]);
        counted[1].parse::<u32>().expect("a number")
    };
    assert_eq!(cluster.servers.iter().map(heard).sum::<u32>(), 2, "once for each node");
    for node in &nodes {
        assert_eq!(node.metric("broker_unrepaired_total"), 0);
    }
}

#[test]
fn slots_that_move_under_publications_cost_nobody_anything() {
    move_slots(0);
}

#[test]
fn slots_that_move_under_sharded_publications_cost_nobody_anything() {
    move_slots(PARTITIONS);
}

fn move_slots(partitions: u16) {
    let Some(mut world) = World::start(partitions, 0) else { return };
    let (slot, owner) = (world.cluster.slot(CHANNEL), world.cluster.owner(CHANNEL));
    let published = world.publish_through(|cluster, nodes| {
        let (mut from, others) = (owner, [(owner + 1) % 3, (owner + 2) % 3, owner]);
        for (times, to) in others.into_iter().enumerate() {
            cluster.move_slot(slot, from, to);
            for node in nodes {
                until("the move to be known", || {
                    node.metric("broker_slots_moved_total") > times as u64
                });
            }
            from = to;
        }
    });
    let what = kind(partitions, "three moves of the slot");
    assert_eq!(world.pair.end(&what, &published), [0; 4]);
    let refused: u64 = published.iter().map(|one| one.refused).sum();
    assert_eq!(refused, 0, "redirections are nobody's business");
}

/// Publications of one call go to their slot as one request, which is refused as a whole.
#[test]
fn batches_go_on_while_their_slot_moves() {
    let Some(cluster) = Cluster::start_for(0, 0) else { return };
    let nodes = [node(&cluster), node(&cluster)];
    let mut sessions = [nodes[0].connected("ann"), nodes[1].connected("bob")];
    sessions.iter_mut().for_each(|session| _ = session.subscribe(CHANNEL));
    let (slot, owner) = (cluster.slot(CHANNEL), cluster.owner(CHANNEL));
    let stop = AtomicBool::new(false);
    let published = std::thread::scope(|scope| {
        let batches = scope.spawn(|| {
            let mut next = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let numbers = next + 1..=next + 8;
                let publish = |n| json!({"publish": {"channel": CHANNEL, "data": n}});
                let commands: Vec<_> = numbers.clone().map(publish).collect();
                let answer =
                    nodes[next as usize / 8 % 2].api_reply("batch", &json!({"commands": commands}));
                let replies = answer["replies"].as_array().expect("replies");
                let offsets = replies.iter().map(|reply| reply["publish"]["offset"].as_u64());
                assert!(offsets.eq(numbers.map(Some)), "{answer}");
                next += 8;
            }
            next
        });
        for others in [[owner, (owner + 1) % 3], [(owner + 1) % 3, (owner + 2) % 3]] {
            cluster.move_slot(slot, others[0], others[1]);
        }
        stop.store(true, Ordering::Relaxed);
        batches.join().expect("every batch is answered")
    });
    for session in &mut sessions {
        let expected: Vec<_> = (1..=published).collect();
        assert_eq!(session.numbers(CHANNEL, expected.len()), expected);
    }
    let redirects = nodes.iter().map(|node| {
        let text = node.metrics();
        let lines = text.lines().filter_map(|line| line.strip_prefix("ringhold_broker_redirects_"));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum::<u64>()
    });
    let redirects: u64 = redirects.sum();
    println!(
        "{published} publications in batches, {redirects} redirected by two moves of their slot"
    );
}

/// It is away and back before anybody asks.
#[test]
fn a_slot_that_moves_to_and_fro_costs_nobody_anything() {
    move_to_and_fro(0);
}

#[test]
fn a_slot_that_moves_to_and_fro_sharded_costs_nobody_anything() {
    move_to_and_fro(PARTITIONS);
}

fn move_to_and_fro(partitions: u16) {
    let Some(mut world) = World::start(partitions, 0) else { return };
    let (slot, owner) = (world.cluster.slot(CHANNEL), world.cluster.owner(CHANNEL));
    let published = world.publish_through(|cluster, _| {
        let other = (owner + 1) % 3;
        for _ in 0..5 {
            cluster.move_slot(slot, owner, other);
            cluster.move_slot(slot, other, owner);
        }
    });
    let what = kind(partitions, "five moves to and fro");
    assert_eq!(world.pair.end(&what, &published), [0; 4]);
    if partitions > 0 {
        for node in &world.pair.nodes {
            assert!(node.metric("broker_slots_lost_total") > 0);
        }
    }
}

/// Nothing is lost by it, and the old one goes on as a replica.
#[test]
fn a_node_that_hands_over_to_its_replica_costs_nobody_anything() {
    hand_over(0);
}

#[test]
fn a_node_that_hands_over_sharded_messages_costs_nobody_anything() {
    hand_over(PARTITIONS);
}

fn hand_over(partitions: u16) {
    let Some(mut world) = World::with_a_replica(partitions) else { return };
    let published = world.publish_through(|cluster, nodes| {
        for (from, to) in [(0, 3), (3, 0)] {
            let mut times = 0;
            until("the replica to take over", || {
                // An election that nobody has won is tried again.
                if times % 300 == 0 {
                    cluster.servers[to].cli(&["CLUSTER", "FAILOVER"]);
                }
                times += 1;
                let roles = [from, to].map(|server: usize| cluster.servers[server].info("role"));
                roles == ["slave", "master"]
            });
            until("the old one to follow", || {
                cluster.servers[from].info("master_link_status") == "up"
            });
            for node in nodes {
                is_up(node, cluster);
            }
        }
    });
    let what = kind(partitions, "a node that hands over to its replica, and back");
    assert_eq!(world.pair.end(&what, &published), [0; 4]);
}

#[test]
fn a_node_that_is_killed_has_its_replica_take_over() {
    kill_a_node(0);
}

#[test]
fn a_node_with_sharded_messages_that_is_killed_has_its_replica_take_over() {
    kill_a_node(PARTITIONS);
}

fn kill_a_node(partitions: u16) {
    let Some(mut world) = World::with_a_replica(partitions) else { return };
    let published = world.publish_through(|cluster, nodes| {
        cluster.servers[0].kill();
        until("the replica to take over", || cluster.servers[3].info("role") == "master");
        for node in nodes {
            is_up(node, cluster);
        }
    });
    let what = "a node killed under 200 publications a second, with a replica";
    world.pair.end(&kind(partitions, what), &published);
}

#[test]
fn a_node_that_is_lost_takes_no_other_slots_along() {
    lose_a_node(0);
}

#[test]
fn a_node_with_sharded_messages_that_is_lost_takes_no_other_slots_along() {
    lose_a_node(PARTITIONS);
}

fn lose_a_node(partitions: u16) {
    let Some(mut world) = World::start(partitions, 0) else { return };
    let channels = world.cluster.channels("kept:");
    let owner = world.cluster.owner(CHANNEL);
    let lost = (owner + 1) % 3;
    let mut session = world.pair.nodes[1].connected("ann");
    session.subscribe(&channels[lost]);
    let published = world.publish_through(|cluster, nodes| {
        cluster.servers[lost].kill();
        until("error 100 for its slots", || publish(&nodes[0], &channels[lost], 1).is_none());
        for node in nodes {
            let down = up(cluster).replace("} 1", "} 0");
            until("a sick node", || node.metrics().contains(&down));
        }
        cluster.servers[lost].restart();
        for node in nodes {
            is_up(node, cluster);
        }
    });
    let refused: u64 = published.iter().map(|one| one.refused).sum();
    assert_eq!(refused, 0, "the other slots are served all the time");
    until("the lost slots to be served", || {
        publish(&world.pair.nodes[0], &channels[lost], 2).is_some()
    });
    let what = kind(partitions, "another node killed, and back empty");
    assert_eq!(world.pair.end(&what, &published), [0; 4]);
}
