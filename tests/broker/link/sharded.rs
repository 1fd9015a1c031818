//! Sharded messages on a scripted cluster: what its nodes end and refuse is listened to anew, at
//! the same node or another, and what is refused for long is not asked for in a storm.

use std::io::Write;
use std::time::Duration;

use ringhold::broker::layout::{Layout, Tags};
use ringhold::gateway::broker::Request;

use super::cluster::{Cluster, Says};
use super::rig::{Rig, offset, publish, request};
use crate::support::PATIENCE;

/// Their slots are 13907 and 9842, in the upper half, and 5649.
const PARTITIONS: &str = "sharded_pub_sub_partitions = 3\n";

fn layout() -> Layout {
    Layout::new("centrifugo", Tags::Partitions(3))
}

/// Channels in one of the slots.
fn channels(slot: u16, count: usize) -> Vec<String> {
    let all = (0..10_000).map(|n| format!("ch{n}"));
    all.filter(|name| layout().slot(name) == slot).take(count).collect()
}

fn listen(rig: &mut Rig, names: &[String]) {
    let names: Vec<_> = names.iter().map(|name| name.as_str().into()).collect();
    rig.ask(|_| Request::Listen(names));
}

/// The names that a node passes on messages of.
fn passed_on(cluster: &Cluster, node: usize) -> Vec<String> {
    let world = cluster.world.lock().unwrap();
    let mut names: Vec<_> = world.passed_on[node].iter().map(|(name, _)| name.clone()).collect();
    names.sort();
    names
}

fn names(channels: &[String]) -> Vec<String> {
    let name = |name: &String| String::from_utf8(layout().messages(name).concat()).unwrap();
    let mut names: Vec<_> = channels.iter().map(name).collect();
    names.sort();
    names
}

/// The first node ends all that it passes on of a slot, as it does when it gives it away.
fn end_all(cluster: &Cluster, channels: &[String]) {
    let names = names(channels);
    cluster.change(|world| {
        let (ended, rest) = std::mem::take(&mut world.passed_on[0])
            .into_iter()
            .partition(|(name, _)| names.contains(name));
        world.passed_on[0] = rest;
        let ended: Vec<(String, std::net::TcpStream)> = ended;
        for (name, mut stream) in ended {
            let text = format!(">3\r\n+sunsubscribe\r\n${}\r\n{name}\r\n:1\r\n", name.len());
            stream.write_all(text.as_bytes()).unwrap();
        }
    });
}

/// All of the upper and the lower half, listened to at the first node.
fn begun() -> (Cluster, Rig, [Vec<String>; 2]) {
    let cluster = Cluster::start();
    let mut rig = cluster.rig(PARTITIONS);
    let both = [channels(13_907, 20), channels(5649, 20)];
    for half in &both {
        listen(&mut rig, half);
    }
    rig.until("all to be listened to", |rig| rig.listening.len() == 40);
    assert_eq!(passed_on(&cluster, 0), names(&both.concat()));
    rig.lives.clear();
    (cluster, rig, both)
}

#[test]
fn a_slot_that_a_node_ends_and_keeps_is_listened_to_anew() {
    let (cluster, mut rig, [upper, lower]) = begun();
    end_all(&cluster, &upper);
    rig.until("the slot to be lost and found", |rig| rig.lives.len() == 2 && rig.deaf.is_empty());
    assert!(rig.lives[0].is_none() && rig.lives[1].is_some());
    assert_eq!(passed_on(&cluster, 0), names(&lower), "the others go on");
    rig.listening.clear();
    listen(&mut rig, &upper);
    rig.until("all to be listened to", |rig| rig.listening.len() == 20);
    assert_eq!(rig.view.tally.slots_lost.get(), 1);
    assert_eq!(rig.view.tally.slots_moved.get(), 0);
    rig.finish();
}

#[test]
fn a_slot_that_has_gone_is_listened_to_where_it_is() {
    let (cluster, mut rig, [upper, lower]) = begun();
    // Its old owner refuses it before the new one claims it.
    cluster.change(|world| world.says = Says::Moved);
    end_all(&cluster, &upper);
    rig.until("a first attempt", |rig| rig.lives.len() >= 2 && rig.deaf.is_empty());
    listen(&mut rig, &upper);
    rig.until("a refusal", |_| cluster.said() > 0);
    cluster.change(|world| world.claims = 1);
    rig.until("another owner", |rig| rig.view.tally.slots_moved.get() == 8192);
    rig.until("it to be heard of", |rig| rig.deaf.is_empty());
    rig.listening.clear();
    listen(&mut rig, &upper);
    rig.until("all to be listened to", |rig| rig.listening.len() == 20);
    assert_eq!(passed_on(&cluster, 0), names(&lower));
    assert_eq!(passed_on(&cluster, 1), names(&upper));
    assert_eq!(offset(rig.result(request(publish("kept", "1", 1)))), 1);
    rig.finish();
}

/// Who asks again at once is told again, and paced: not more than twice a second.
#[test]
fn a_slot_that_is_refused_for_long_is_not_stormed() {
    let (cluster, mut rig, [upper, _]) = begun();
    cluster.change(|world| world.says = Says::Later);
    end_all(&cluster, &upper);
    let begun = std::time::Instant::now();
    let mut seen = 0;
    while begun.elapsed() < Duration::from_secs(3) || cluster.said() < 3 {
        assert!(begun.elapsed() < PATIENCE, "it is not asked again");
        rig.collect(Duration::from_millis(20));
        if rig.lives.len() > seen && rig.deaf.is_empty() {
            seen = rig.lives.len();
            listen(&mut rig, &upper);
        }
    }
    let (said, lost) = (cluster.said() as u64, rig.view.tally.slots_lost.get());
    let most = 2 * begun.elapsed().as_secs() + 4;
    assert!(said <= most, "{said} refusals of {most}");
    assert!(lost <= said + 1, "{lost} of {said}");
    assert_eq!(rig.view.tally.maps().lost.values().sum::<u64>(), 0, "no connection is lost");
    cluster.change(|world| world.says = Says::Done);
    rig.listening.clear();
    rig.until("it to be heard of", |rig| rig.deaf.is_empty());
    listen(&mut rig, &upper);
    rig.until("all to be listened to", |rig| rig.listening.len() >= 20);
    rig.finish();
}
