//! Connections that break, servers that end, stop or forget: what was asked is answered once, and
//! what was published is there once.

use std::time::{Duration, Instant};

use ringhold::broker::scripts::Script;
use ringhold::gateway::broker::{Fault, Life, Message, Publish, Request};
use rustix::process::Signal;

use super::rig::{Rig, kept, offset, publish, request, said_in};
use crate::support::redis::Redis;

fn rig() -> Option<(Redis, Rig)> {
    let redis = Redis::start()?;
    // A server that has to wait for its processor is none that is away.
    let address = format!("address = [\"127.0.0.1:{}\"]\n", redis.port());
    let rig = Rig::connected(&format!("{address}io_timeout = \"60s\"\n"));
    Some((redis, rig))
}

/// Publishes 1 to `count` into one channel while something is done to the server; each is kept
/// once and in order, and answered with its offset.
fn publish_through(rig: &mut Rig, count: u64, mut harm: impl FnMut(&mut Rig, u64), redis: &Redis) {
    let mut tickets = Vec::new();
    for n in 1..=count {
        let stream = Some(kept(100_000));
        tickets.push(rig.ask(request(Publish { stream, ..publish("ch", &n.to_string(), n) })));
        harm(rig, n);
    }
    for (n, ticket) in (1..).zip(tickets) {
        assert_eq!(offset(rig.answer(ticket)), n);
    }
    let lines = redis.lines(&["XRANGE", "centrifugo.stream.ch", "-", "+"]);
    let data: Vec<_> = lines.chunks(5).map(|entry| said_in(&entry[2]).to_owned()).collect();
    let expected: Vec<_> = (1..=count).map(|n| n.to_string()).collect();
    assert_eq!(data, expected, "each once, in order");
}

#[test]
fn connections_that_are_killed_cost_no_publication() {
    let Some((redis, mut rig)) = rig() else { return };
    let lost = |rig: &Rig| rig.view.tally.maps().lost.values().sum::<u64>();
    let mut kills = 0;
    let kill = |rig: &mut Rig, n| {
        if n % 200 == 0 {
            // One that is killed while it is made counts as none to be had, which is told at once.
            // And nothing waits through one kill after the other until it is late.
            let is_up = |rig: &Rig| lost(rig) == kills && rig.view.conditions[0].is_up();
            rig.until("a connection", |rig| is_up(rig) && rig.answered() >= n - 200);
            redis.cli(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
            kills += 1;
        }
    };
    publish_through(&mut rig, 2000, kill, &redis);
    assert!(lost(&rig) > 0);
    assert!(rig.lives[1..].iter().all(|life| matches!(life, None | Some(Life::Same))));
    rig.finish();
}

#[test]
fn forgotten_scripts_cost_no_publication() {
    let Some((redis, mut rig)) = rig() else { return };
    let forget = |_: &mut Rig, n| {
        if n % 50 == 0 {
            redis.cli(&["SCRIPT", "FLUSH"]);
        }
    };
    publish_through(&mut rig, 500, forget, &redis);
    assert!(rig.view.tally.maps().lost.is_empty(), "that is no reason to part");
    rig.finish();
}

#[test]
fn a_server_that_stops_for_a_while_is_waited_for() {
    let Some((redis, mut rig)) = rig() else { return };
    redis.signal(Signal::STOP);
    let begun = Instant::now();
    let tickets: Vec<_> =
        (1..=100).map(|n| rig.ask(request(publish("ch", &n.to_string(), n)))).collect();
    std::thread::sleep(Duration::from_secs(2));
    redis.signal(Signal::CONT);
    for (n, ticket) in (1..).zip(tickets) {
        assert_eq!(offset(rig.answer(ticket)), n);
    }
    assert!(begun.elapsed() >= Duration::from_secs(2));
    assert_eq!(rig.lives, [Some(Life::Same)], "nobody was told anything");
    rig.finish();
}

#[test]
fn a_server_that_stops_for_good_is_given_up_in_time() {
    let Some(redis) = Redis::start() else { return };
    let address = format!("address = [\"127.0.0.1:{}\"]\n", redis.port());
    let mut rig = Rig::connected(&format!("{address}io_timeout = \"500ms\"\n"));
    redis.signal(Signal::STOP);
    let begun = Instant::now();
    let late = rig.ask(request(publish("ch", "x", 1)));
    assert_eq!(rig.answer(late), Err(Fault::Late));
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(500), "{took:?}");
    // New connections are not made either, and then nothing waits.
    rig.complains("no connection within");
    assert_eq!(rig.result(request(publish("ch", "y", 2))), Err(Fault::Away));
    redis.signal(Signal::CONT);
    let lives = rig.lives.len();
    rig.until("it to be back", |rig| rig.lives.len() > lives || rig.trouble().is_none());
    rig.finish();
}

#[test]
fn a_server_that_starts_again_empty_is_another_one() {
    let Some((mut redis, mut rig)) = rig() else { return };
    rig.listen(&["ch"]);
    assert_eq!(offset(rig.result(request(publish("ch", "one", 1)))), 1);
    redis.kill();
    rig.until("the loss to be told", |rig| rig.lives.contains(&None));
    rig.complains("cannot connect");
    for sequence in 2..5 {
        assert_eq!(rig.result(request(publish("ch", "x", sequence))), Err(Fault::Away));
    }
    redis.restart();
    rig.until("the return", |rig| rig.lives.last() == Some(&Some(Life::Other)));
    assert_eq!(rig.lives, [Some(Life::Same), None, Some(Life::Other)]);
    // Who listens is for the cores to say again.
    rig.messages.clear();
    rig.listen(&["ch"]);
    assert_eq!(offset(rig.result(request(publish("ch", "two", 9)))), 1);
    rig.until("the message", |rig| rig.messages.len() == 1);
    assert!(matches!(rig.messages[0].1, Message::Published { offset: 1, .. }));
    assert_eq!(rig.trouble(), None);
    rig.finish();
}

#[test]
fn the_option_renew_lets_nothing_of_another_run_count() {
    let Some(mut redis) = Redis::start() else { return };
    let address = format!("address = [\"127.0.0.1:{}\"]\n", redis.port());
    let mut rig = Rig::connected(&format!("{address}failover = \"renew\"\n"));
    redis.restart();
    rig.until("the return", |rig| rig.lives.last() == Some(&Some(Life::Lost)));
    // Only the connections are new.
    redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    redis.cli(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    rig.until("the return", |rig| rig.lives.last() == Some(&Some(Life::Same)));
    rig.finish();
}

#[test]
fn a_demoted_server_is_left_and_found_again() {
    let Some((redis, mut rig)) = rig() else { return };
    assert_eq!(offset(rig.result(request(publish("ch", "one", 1)))), 1);
    redis.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    let fault = rig.result(request(publish("ch", "two", 2)));
    assert!(matches!(fault, Err(Fault::Away | Fault::Late)), "{fault:?}");
    rig.complains("its role is slave");
    redis.cli(&["REPLICAOF", "NO", "ONE"]);
    rig.until("the return", |rig| rig.trouble().is_none());
    assert_eq!(offset(rig.result(request(publish("ch", "three", 3)))), 2);
    rig.finish();
}

#[test]
fn a_subscription_that_is_killed_is_told_at_once() {
    let Some((redis, mut rig)) = rig() else { return };
    let names: Vec<String> = (0..2000).map(|n| format!("c{n}")).collect();
    let texts: Vec<&str> = names.iter().map(String::as_str).collect();
    for round in 0..3 {
        for piece in texts.chunks(500) {
            rig.listen(piece);
        }
        assert_eq!(
            redis.cli(&["PUBSUB", "NUMSUB", "centrifugo.client.c7"]).lines().last(),
            Some("1")
        );
        let lives = rig.lives.len();
        redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        rig.until("the loss and the return", |rig| rig.lives.len() == lives + 2);
        assert_eq!(rig.lives[lives..], [None, Some(Life::Same)], "in round {round}");
        assert_eq!(offset(rig.result(request(publish("ch", "x", round)))), round + 1);
    }
    rig.listen(&["c1"]);
    rig.ask(|_| Request::Ignore(vec!["c1".into()]));
    // In order with what follows it.
    rig.listen(&["c2"]);
    assert_eq!(redis.cli(&["PUBSUB", "NUMSUB", "centrifugo.client.c1"]).lines().last(), Some("0"));
    rig.finish();
}

#[test]
fn a_full_server_refuses_and_stays() {
    let Some((redis, mut rig)) = rig() else { return };
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    assert_eq!(rig.result(request(publish("ch", "x", 1))), Err(Fault::Denied));
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(offset(rig.result(request(publish("ch", "x", 2)))), 1);
    redis.cli(&["SET", "centrifugo.presence.data.ch", "no hash"]);
    let presence = rig.result(|ticket| Request::Presence(ticket, "ch".into()));
    assert_eq!(presence, Err(Fault::Denied));
    assert_eq!(rig.lives, [Some(Life::Same)]);
    rig.finish();
}

/// An answer is lost with its connection, and the same is asked again: it is found by its mark.
/// Where the history has been trimmed since, nobody can tell, and so nothing is published twice.
#[test]
fn what_may_be_there_already_is_looked_for() {
    let Some(redis) = Redis::start() else { return };
    let publish = |mark: &str, size: &str, again: &str| {
        let lines = redis.lines(&[
            "EVAL",
            Script::Publish.text(),
            "2",
            "s",
            "m",
            "data",
            size,
            "60000",
            "0",
            "0",
            "epoch",
            "PUBLISH",
            "c",
            mark,
            again,
            "0",
            "0",
            "",
            "1",
        ]);
        assert_eq!(lines[1], "epoch");
        // What is empty at the end makes no line.
        (lines[0].parse::<u64>().unwrap(), lines.get(2).cloned().unwrap_or_default())
    };
    let done = |offset| (offset, String::new());
    assert_eq!(publish("a.0.1", "3", "1"), done(1), "there is nothing yet");
    assert_eq!(publish("a.0.1", "3", "1"), done(1), "found");
    assert_eq!(publish("a.0.2", "3", "1"), done(2), "everything is there, and it is not");
    assert_eq!(publish("b.0.9", "3", "0"), done(3));
    assert_eq!(publish("a.0.3", "3", "1"), done(4), "an older one of ours is there");
    assert_eq!(publish("a.0.2", "3", "1"), done(2), "found behind others");
    assert_eq!(publish("b.0.10", "3", "0"), done(5));
    assert_eq!(publish("b.0.11", "3", "0"), done(6));
    assert_eq!(publish("b.0.12", "3", "0"), done(7));
    assert_eq!(publish("a.0.4", "3", "1"), (7, "unsure".to_owned()));
    assert_eq!(redis.cli(&["XLEN", "s"]), "3");
}
