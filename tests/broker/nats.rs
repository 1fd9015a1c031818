//! Two nodes on NATS: what is published on one is received on the other, in order and once, and
//! what is lost while a server is away costs nobody the connection.
//!
//! Method: two `ringhold serve` and `nats-server`s as child processes, clients of the protocol on
//! both nodes, numbered publications; a bare connection to NATS stands for nodes of Centrifugo and
//! for programs that know nothing of channels. `--nocapture` prints figures. Without `nats-server`
//! the tests say so.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::support::gateway::{Gateway, Session, assert_error, token_of};
use crate::support::nats::{Nats, Wire};
use crate::support::redis::Redis;
use crate::support::until;

const TABLES: &str = r#"
[client]
ping_interval = "600s"
[health]
enabled = true
[prometheus]
enabled = true
[channel.without_namespace]
allow_subscribe_for_client = true
allow_publish_for_subscriber = true
[[channel.namespaces]]
name = "room"
presence = true
join_leave = true
force_push_join_leave = true
allow_subscribe_for_client = true
allow_presence_for_subscriber = true
"#;

fn node_with(url: &str, engine: &str, keys: &str, more: &str) -> Gateway {
    // A server that has to wait for its processor is none that is away.
    let patience = match keys.contains("write_timeout") {
        true => "",
        false => "write_timeout = \"60s\"\ndial_timeout = \"20s\"\n",
    };
    let broker = format!(
        "[broker]\nenabled = true\ntype = \"nats\"\n[broker.nats]\nurl = \"{url}\"\n{patience}"
    );
    let node = Gateway::start_listening("", engine, &format!("{TABLES}{more}{broker}{keys}"));
    node.healthy();
    node
}

fn node(url: &str) -> Gateway {
    node_with(url, "", "", "")
}

fn nodes() -> Option<(Nats, Gateway, Gateway)> {
    let nats = Nats::start()?;
    let (one, two) = (node(&nats.url()), node(&nats.url()));
    Some((nats, one, two))
}

/// Both nodes know of each other.
fn acquainted() -> Option<(Nats, Gateway, Gateway)> {
    let all = nodes()?;
    for node in [&all.1, &all.2] {
        until("two nodes", || node.api("info", json!({}))["nodes"].as_array().unwrap().len() == 2);
    }
    Some(all)
}

/// Whether a publication on one node reaches a subscriber on the other: a connection to another
/// server of a cluster hears of channels a moment later.
fn meet(from: &Gateway, to: &mut Session, channel: &str) {
    // A number that no publication of a test has.
    until("the first publication", || {
        from.publish(channel, &json!(0));
        to.result("unsubscribe", json!({"channel": "nowhere"}));
        !to.pushed().is_empty()
    });
}

/// Numbers from here on say nothing but that a publication arrives.
const MARK: u64 = 1_000_000;

/// Waits until a publication on one node reaches a subscriber to `a`, of which some may have come
/// already: what comes meanwhile is kept.
fn heard_again(from: &Gateway, to: &mut Session, seen: &mut Vec<u64>) {
    static NEXT: AtomicU64 = AtomicU64::new(MARK);
    let first = NEXT.load(Ordering::Relaxed);
    until("a publication to arrive", || {
        from.publish("a", &json!(NEXT.fetch_add(1, Ordering::Relaxed) + 1));
        to.result("unsubscribe", json!({"channel": "nowhere"}));
        let new = to.pushed().into_iter().map(|push| push["pub"]["data"].as_u64());
        seen.extend(new.map(|number| number.expect("a number")));
        seen.iter().any(|number| *number > first)
    });
}

/// Takes publications in a channel until this number comes. The numbers before it, without 0.
fn up_to(session: &mut Session, end: u64) -> Vec<u64> {
    let mut seen = Vec::new();
    loop {
        match session.push()["pub"]["data"].as_u64().expect("a number") {
            number if number == end => return seen,
            0 => {}
            number => seen.push(number),
        }
    }
}

#[test]
fn what_is_published_on_one_node_is_received_on_the_other() {
    let Some((_nats, one, two)) = nodes() else { return };
    const CHANNELS: u64 = 8;
    const COUNT: u64 = 100;
    let names: Vec<String> = (0..CHANNELS).map(|n| format!("numbers.{n}")).collect();
    let mut sessions = Vec::new();
    for name in &names {
        for node in [&one, &two] {
            let mut session = node.connected("ann");
            session.subscribe(name);
            sessions.push((name, session));
        }
    }
    for n in 1..=COUNT {
        for (number, name) in names.iter().enumerate() {
            let node = if (n + number as u64).is_multiple_of(3) { &two } else { &one };
            assert!(node.publish(name, &json!(n)).get("error").is_none());
        }
    }
    let expected: Vec<u64> = (1..=COUNT).collect();
    for (name, session) in &mut sessions {
        assert_eq!(session.numbers(name, COUNT as usize), expected, "{name}");
        session.no_push();
    }
    // What a client publishes comes back to it, too.
    let (name, session) = &mut sessions[0];
    session.result("publish", json!({"channel": name, "data": 7}));
    let publication = session.publication(name);
    assert_eq!((&publication["data"], &publication["info"]["user"]), (&json!(7), &json!("ann")));
    assert!(publication.get("offset").is_none(), "{publication}");
}

#[test]
fn nothing_is_kept() {
    let Some((_nats, one, two)) = nodes() else { return };
    let mut here = one.connected("ann");
    here.subscribe("room:a");
    let mut there = two.connected("bob");
    there.subscribe("room:a");
    // Who comes and goes is told to all; who is there each node knows of its own.
    let told = |session: &mut Session, what: &str| loop {
        let push = session.push();
        if push[what]["info"]["user"] == "bob" {
            break;
        }
    };
    told(&mut here, "join");
    for (node, user) in [(&one, "ann"), (&two, "bob")] {
        let presence = node.api("presence", json!({"channel": "room:a"}));
        let members = presence["presence"].as_object().expect("members").values();
        assert_eq!(members.map(|it| it["user"].clone()).collect::<Vec<_>>(), [user]);
        let stats = node.api("presence_stats", json!({"channel": "room:a"}));
        assert_eq!((&stats["num_clients"], &stats["num_users"]), (&json!(1), &json!(1)));
    }
    let members = here.result("presence", json!({"channel": "room:a"}));
    assert_eq!(members["presence"].as_object().expect("members").len(), 1);
    drop(there);
    told(&mut here, "leave");
    let history = one.api_reply("history", &json!({"channel": "room:a", "limit": 1}));
    assert_error(&history, 108, "a history");
}

#[test]
fn presence_is_that_of_all_nodes_where_there_is_a_redis() {
    let Some(nats) = Nats::start() else { return };
    let Some(redis) = Redis::start() else { return };
    let address = format!("[engine.redis]\naddress = [\"127.0.0.1:{}\"]\n", redis.port());
    let start = || node_with(&nats.url(), "type = \"redis\"", "", &address);
    let (one, two) = (start(), start());
    let mut here = one.connected("ann");
    here.subscribe("room:a");
    let mut there = two.connected("bob");
    there.subscribe("room:a");
    let users = |node: &Gateway| {
        let presence = node.api("presence", json!({"channel": "room:a"}));
        let members = presence["presence"].as_object().expect("members").values();
        let mut users: Vec<_> =
            members.map(|member| member["user"].as_str().unwrap().to_owned()).collect();
        users.sort();
        users
    };
    for node in [&one, &two] {
        until("both members", || users(node) == ["ann", "bob"]);
    }
    drop(there);
    until("only one member", || users(&one) == ["ann"]);
    // Redis has members, and nothing that was published.
    one.publish("room:a", &json!(1));
    assert_eq!(redis.lines(&["KEYS", "*stream*"]), Vec::<String>::new());
    assert_eq!(
        redis.cli(&["PUBSUB", "NUMSUB", "centrifugo.client.room:a"]).lines().last(),
        Some("0")
    );
    drop(redis);
    until("the reason", || {
        let (code, body) = one.get("/health");
        code == 503 && body.contains("redis 127.0.0.1")
    });
    // Publications go on.
    assert!(two.publish("room:a", &json!(2)).get("error").is_none());
    let trouble = one.api_reply("presence", &json!({"channel": "room:a"}));
    assert_eq!(trouble["error"]["code"], 100, "presence without Redis");
}

#[test]
fn a_killed_server_that_comes_back_costs_no_client() {
    let Some(mut nats) = Nats::start() else { return };
    // Who asks while it is away waits as long as this.
    let start =
        || node_with(&nats.url(), "", "write_timeout = \"3s\"\ndial_timeout = \"20s\"\n", "");
    let (one, two) = (start(), start());
    let mut sessions = [one.connected("ann"), two.connected("bob")];
    for session in &mut sessions {
        session.subscribe("a");
        session.subscribe("b");
    }
    for n in 1..=3 {
        one.publish("a", &json!(n));
    }
    for session in &mut sessions {
        assert_eq!(session.numbers("a", 3), [1, 2, 3]);
    }
    nats.kill();
    until("error 100", || one.publish("a", &json!(99))["error"]["code"] == 100);
    let mut late = one.connected("cat");
    late.fails("subscribe", json!({"channel": "new"}), 100);
    late.fails("subscribe", json!({"channel": "a"}), 100);
    assert_eq!(two.publish("b", &json!(98))["error"]["code"], 100, "no server");
    until("a sick node", || {
        let (code, body) = two.get("/health");
        code == 503 && body.contains("nats 127.0.0.1") && body.contains("cannot connect")
    });
    assert_eq!((two.get("/ready").0, two.get("/live").0), (503, 200));
    nats.restart();
    let begun = Instant::now();
    for node in [&one, &two] {
        node.healthy();
    }
    println!("healthy {:?} after the server's return", begun.elapsed());
    for (node, session) in [&one, &two].into_iter().zip(&mut sessions) {
        meet(node, session, "a");
        meet(node, session, "b");
    }
    late.subscribe("new");
    for n in 10..=12 {
        two.publish("a", &json!(n));
        one.publish("b", &json!(n));
        two.publish("new", &json!(n));
    }
    assert_eq!(late.numbers("new", 3), [10, 11, 12]);
    for session in &mut sessions {
        let mut seen = Vec::new();
        while seen.len() < 6 {
            let push = session.push();
            let channel = push["channel"].as_str().unwrap().to_owned();
            match push["pub"]["data"].as_u64().expect("a number") {
                0 => {}
                number => seen.push((channel, number)),
            }
        }
        for channel in ["a", "b"] {
            let of: Vec<_> = seen.iter().filter(|(name, _)| name == channel).collect();
            assert_eq!(of.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [10, 11, 12], "{seen:?}");
        }
        session.no_push();
    }
    for node in [&one, &two] {
        let lost = "ringhold_broker_disconnects_total{reason=\"closed\"} 1";
        let io = "ringhold_broker_disconnects_total{reason=\"io\"} 1";
        let metrics = node.metrics();
        assert!(metrics.contains(lost) || metrics.contains(io));
    }
}

#[test]
fn a_server_that_stops_for_three_seconds_is_left_and_found_again() {
    let Some(nats) = Nats::start() else { return };
    let start = || node_with(&nats.url(), "", "write_timeout = \"1s\"\n", "");
    let (one, two) = (start(), start());
    let mut session = two.connected("bob");
    session.subscribe("a");
    until("a first publication", || one.publish("a", &json!(1)).get("error").is_none());
    up_to(&mut session, 1);
    nats.signal(Signal::STOP);
    let begun = Instant::now();
    assert_eq!(one.publish("a", &json!(2))["error"]["code"], 100, "no answer");
    let answered = begun.elapsed();
    // By its own time, and not by that of a call.
    let lost = "ringhold_broker_disconnects_total{reason=\"silent\"}";
    until("it to be left", || one.metrics().contains(lost));
    std::thread::sleep(Duration::from_secs(3).saturating_sub(begun.elapsed()));
    nats.signal(Signal::CONT);
    for node in [&one, &two] {
        node.healthy();
        until("an acknowledgement", || node.publish("b", &json!(0)).get("error").is_none());
    }
    meet(&one, &mut session, "a");
    // One that is refused may be done all the same: nobody can say.
    for n in 3..=5 {
        until("an acknowledgement", || one.publish("a", &json!(n)).get("error").is_none());
    }
    until("an acknowledgement", || two.publish("a", &json!(9)).get("error").is_none());
    let mut seen = up_to(&mut session, 9);
    seen.retain(|number| ![1, 2].contains(number));
    seen.dedup();
    assert_eq!(seen, [3, 4, 5]);
    println!("a publication to a server that has stopped is answered after {answered:?}");
}

/// 200 publications a second through both nodes; one of two servers is killed on the way.
#[test]
fn a_server_of_two_that_is_killed_is_left_for_the_other() {
    let Some((mut first, second)) = Nats::pair() else { return };
    let url = format!("{},{}", first.url(), second.url());
    let (one, two) = (node(&url), node(&url));
    let mut sessions = [one.connected("ann"), two.connected("bob")];
    for session in &mut sessions {
        session.subscribe("a");
        meet(&one, session, "a");
        meet(&two, session, "a");
    }
    const COUNT: u64 = 600;
    let mut acked = Vec::new();
    let (mut gap, mut last) = (Duration::ZERO, Instant::now());
    let mut publish = |numbers: std::ops::RangeInclusive<u64>| {
        for n in numbers {
            let node = if n.is_multiple_of(2) { &one } else { &two };
            if node.publish("a", &json!(n)).get("error").is_none() {
                gap = gap.max(last.elapsed());
                last = Instant::now();
                acked.push(n);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let mut early = [Vec::new(), Vec::new()];
    let mut all_hear = || {
        for (session, early) in sessions.iter_mut().zip(&mut early) {
            for node in [&one, &two] {
                heard_again(node, session, early);
            }
        }
    };
    publish(1..=COUNT / 3);
    // What a server has not passed on yet would be lost with it.
    all_hear();
    first.kill();
    publish(COUNT / 3 + 1..=COUNT * 2 / 3);
    // Both are at the other server by now, and hear of the channel what either says.
    all_hear();
    publish(COUNT * 2 / 3 + 1..=COUNT);
    for ((node, session), mut seen) in [&two, &one].into_iter().zip(&mut sessions).zip(early) {
        // Nobody was closed, and all of it arrives by now.
        let end = COUNT + 1;
        until("the end to be published", || node.publish("a", &json!(end)).get("error").is_none());
        seen.extend(up_to(session, end));
        seen.retain(|number| (1..MARK).contains(number));
        // Those of one node. Servers of a cluster pass on what comes to them when they get to it.
        for node in 0..2 {
            let own = seen.iter().filter(|number| *number % 2 == node);
            assert!(own.is_sorted_by(|one, other| one < other), "twice or out of order: {seen:?}");
        }
        let missing: Vec<_> = acked.iter().filter(|number| !seen.contains(number)).collect();
        println!("{} of {COUNT} refused, {} missing", COUNT - acked.len() as u64, missing.len());
        let left = COUNT / 3..=COUNT * 2 / 3;
        let only = missing.iter().all(|number| left.contains(number));
        assert!(only, "not only while the server was left: {missing:?}");
    }
    println!("longest time without an acknowledgement: {gap:?}");
}

#[test]
fn names_and_sizes_that_nats_does_not_have_are_told() {
    let Some(nats) = Nats::start_with("max_payload: 2000") else { return };
    let node = node(&nats.url());
    let mut session = node.connected("ann");
    session.subscribe("fine");
    for channel in ["a b", "a..b", "a.", "a.*", ">", "a\tb", "a\r\nPUB x 0"] {
        session.fails("subscribe", json!({"channel": channel}), 107);
        assert_error(&node.publish(channel, &json!(1)), 107, channel);
    }
    let large = json!("x".repeat(2000));
    assert_error(&node.publish("fine", &large), 106, "too large");
    session.fails("publish", json!({"channel": "fine", "data": large}), 106);
    assert!(node.publish("fine", &json!(1)).get("error").is_none());
    assert_eq!(session.numbers("fine", 1), [1]);
    session.no_push();
    let metrics = node.metrics();
    let count = |outcome: &str, number: &str| {
        metrics
            .contains(&format!("requests_total{{op=\"publish\",outcome=\"{outcome}\"}} {number}"))
    };
    assert!(count("oversized", "2\n") && count("ok", "1\n"), "{metrics}");
    assert!(count("bad_name", "") && !count("bad_name", "0\n"), "{metrics}");
    let connects = "ringhold_broker_connects_total{purpose=\"messages\"} 1\n";
    assert!(metrics.contains(connects), "it is still the same connection");
}

#[test]
fn patterns_hear_several_channels() {
    let Some(nats) = Nats::start() else { return };
    let start = || node_with(&nats.url(), "", "allow_wildcards = true\n", "");
    let (one, two) = (start(), start());
    let mut pattern = one.connected("ann");
    pattern.subscribe("news.*");
    let mut all = two.connected("bob");
    all.subscribe("news.>");
    let mut exact = two.connected("cat");
    exact.subscribe("news.a");
    assert!(two.publish("news.a", &json!(1)).get("error").is_none());
    let publication = pattern.publication("news.*");
    assert_eq!((&publication["data"], &publication["channel"]), (&json!(1), &json!("news.a")));
    assert_eq!(all.publication("news.>")["channel"], "news.a");
    let publication = exact.publication("news.a");
    assert!(publication.get("channel").is_none(), "{publication}");
    one.publish("news.a.b", &json!(2));
    assert_eq!(all.publication("news.>")["channel"], "news.a.b");
    for session in [&mut pattern, &mut all, &mut exact] {
        session.no_push();
    }
    // Nobody publishes to several at once.
    assert_error(&one.publish("news.*", &json!(3)), 107, "a pattern");
    pattern.fails("subscribe", json!({"channel": "news.>.a"}), 107);
    pattern.result("unsubscribe", json!({"channel": "news.*"}));
}

#[test]
fn programs_that_know_nothing_of_channels_are_heard_in_raw_mode() {
    let Some(nats) = Nats::start() else { return };
    let keys = "raw_mode.enabled = true\nraw_mode.prefix = \"app.\"\n\
                raw_mode.channel_replacements = { \":\" = \".\" }\n";
    let node = node_with(&nats.url(), "", keys, "");
    let mut wire = Wire::open(nats.port()).unwrap();
    wire.subscribe("app.>");
    let mut session = node.connected("ann");
    session.subscribe("room:a");
    // A line of JSON is one command of the protocol.
    wire.publish("app.room.a", b"{\"n\":\n 1}");
    wire.publish("app.room.a", b"{\"n\": 2}");
    assert_eq!(session.publication("room:a")["data"], json!({"n": 1}));
    assert_eq!(session.publication("room:a")["data"], json!({"n": 2}));
    node.publish("room:a", &json!({"n": 3}));
    assert_eq!(wire.message(), ("app.room.a".to_owned(), b"{\"n\":3}".to_vec()));
    assert_eq!(session.publication("room:a")["data"], json!({"n": 3}));
    session.no_push();
    // What is no JSON is for clients of the other protocol.
    let mut other = node.connected("bob");
    other.subscribe("room:b");
    wire.publish("app.room.b", b"no json");
    other.closed(3506);
    session.no_push();
}

#[test]
fn an_order_reaches_a_users_connections_on_all_nodes() {
    let Some((_nats, one, two)) = acquainted() else { return };
    let mut sessions = [&one, &two].map(|node| {
        let mut session = node.session();
        session.connect(&json!({"token": token_of("ann")}));
        session
    });
    one.api("subscribe", json!({"user": "ann", "channel": "a"}));
    for session in &mut sessions {
        assert_eq!(session.push()["channel"], "a");
    }
    for node in [&one, &two] {
        let counts = json!({"a": {"num_clients": 2}});
        assert_eq!(node.api("channels", json!({}))["channels"], counts);
        assert_eq!(node.metric("broker_nodes"), 2);
    }
    two.api("unsubscribe", json!({"user": "ann", "channel": "a"}));
    for session in &mut sessions {
        assert_eq!(session.push()["unsubscribe"]["code"], 2000);
    }
    two.api("disconnect", json!({"user": "ann"}));
    for session in &mut sessions {
        session.closed(3503);
    }
    two.stop();
    // It has said that it goes.
    until("one node", || one.api("info", json!({}))["nodes"].as_array().unwrap().len() == 1);
}

/// Its messages, as they are in Protobuf: a publication, a node, and an order.
#[test]
fn a_node_of_centrifugo_is_understood() {
    let Some(nats) = Nats::start() else { return };
    let node = node(&nats.url());
    let mut wire = Wire::open(nats.port()).unwrap();
    let mut session = node.connected("ann");
    session.subscribe("a");
    // Push{channel: "a", pub: {data: "{}", info: {user: "u", client: "c"}, tags: {"k": "t"},
    // time: 1}}
    wire.publish(
        "centrifugo.client.a",
        b"\x12\x01a\x22\x16\x22\x02{}\x2a\x06\x0a\x01u\x12\x01c\x3a\x06\x0a\x01k\x12\x01t\x48\x01",
    );
    let publication = session.publication("a");
    assert_eq!(publication["data"], json!({}));
    let expected = (json!("u"), json!("t"));
    assert_eq!(
        (&publication["info"]["user"], &publication["tags"]["k"]),
        (&expected.0, &expected.1)
    );
    // Command{uid: "c", node: {uid: "c", name: "theirs", num_clients: 5}}
    until("their node", || {
        wire.publish("centrifugo.control", b"\x0a\x01c\x22\x0d\x0a\x01c\x12\x06theirs\x20\x05");
        let info = node.api("info", json!({}));
        info["nodes"][1]["name"] == "theirs" && info["nodes"][1]["num_clients"] == 5
    });
    // Command{uid: "c", disconnect: {user: "ann", code: 4000, reason: "theirs"}}
    wire.publish("centrifugo.control", b"\x0a\x01c\x32\x10\x0a\x03ann\x18\xa0\x1f\x22\x06theirs");
    assert_eq!(session.closed_with(), 4000);
}
