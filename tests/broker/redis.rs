//! Two nodes on one Redis: what is published on one is received on the other, in order and once,
//! whatever happens to Redis meanwhile.
//!
//! Method: two `ringhold serve` and a `redis-server` as child processes, clients of the protocol on
//! both nodes, numbered publications. Without `redis-server` the tests say so.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::support::gateway::{Gateway, Session, token_of};
use crate::support::redis::Redis;
use crate::support::until;

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
history_size = 1000
history_ttl = "600s"
force_recovery = true
allow_subscribe_for_client = true
allow_publish_for_subscriber = true
allow_history_for_subscriber = true
[[channel.namespaces]]
name = "plain"
allow_subscribe_for_client = true
[[channel.namespaces]]
name = "room"
presence = true
join_leave = true
force_push_join_leave = true
allow_subscribe_for_client = true
allow_presence_for_subscriber = true
"#;

fn node(redis: &Redis, keys: &str) -> Gateway {
    // A Redis that has to wait for its processor is none that is away.
    let address = format!("address = [\"127.0.0.1:{}\"]\nio_timeout = \"60s\"\n", redis.port());
    let tables = format!("{TABLES}[engine.redis]\n{address}connect_timeout = \"20s\"\n{keys}");
    let node = Gateway::start_listening("", "type = \"redis\"", &tables);
    node.healthy();
    node
}

fn nodes() -> Option<(Redis, Gateway, Gateway)> {
    let redis = Redis::start()?;
    let (one, two) = (node(&redis, ""), node(&redis, ""));
    Some((redis, one, two))
}

#[test]
fn what_is_published_on_one_node_is_received_on_the_other() {
    let Some((redis, one, two)) = nodes() else { return };
    for channel in ["kept:a", "plain:a"] {
        let mut here = one.connected("ann");
        let mut there = two.connected("bob");
        here.subscribe(channel);
        there.subscribe(channel);
        for n in 1..=100 {
            let node = if n % 3 == 0 { &two } else { &one };
            assert!(node.publish(channel, &json!(n)).get("error").is_none());
        }
        let expected: Vec<u64> = (1..=100).collect();
        assert_eq!(here.numbers(channel, 100), expected);
        assert_eq!(there.numbers(channel, 100), expected);
    }
    let history = two.api("history", json!({"channel": "kept:a", "limit": 3, "reverse": true}));
    let data: Vec<_> = history["publications"].as_array().unwrap().iter().collect();
    assert_eq!(data.iter().map(|it| &it["data"]).collect::<Vec<_>>(), [100, 99, 98]);
    assert_eq!(history["offset"], 100);
    one.api("history_remove", json!({"channel": "kept:a"}));
    assert_eq!(redis.cli(&["EXISTS", "centrifugo.stream.kept:a"]), "0");
    for node in [&one, &two] {
        until("an empty history", || {
            let history = node.api("history", json!({"channel": "kept:a", "limit": 10}));
            assert_eq!(history["offset"], 100);
            history["publications"].as_array().is_none_or(Vec::is_empty)
        });
    }
}

#[test]
fn a_client_recovers_on_the_other_node() {
    let Some((_redis, one, two)) = nodes() else { return };
    let mut session = one.connected("ann");
    let subscribed = session.subscribe("kept:a");
    one.publish("kept:a", &json!(1));
    let seen = session.publication("kept:a");
    drop(session);
    for n in 2..=5 {
        one.publish("kept:a", &json!(n));
    }
    let mut session = two.connected("ann");
    let since = json!({
        "channel": "kept:a",
        "recover": true,
        "epoch": subscribed["epoch"],
        "offset": seen["offset"],
    });
    let recovered = session.result("subscribe", since);
    assert_eq!(recovered["recovered"], true);
    let missed = recovered["publications"].as_array().expect("publications");
    assert_eq!(missed.iter().map(|it| &it["data"]).collect::<Vec<_>>(), [2, 3, 4, 5]);
    one.publish("kept:a", &json!(6));
    assert_eq!(session.numbers("kept:a", 1), [6]);
}

#[test]
fn a_key_publishes_once_over_all_nodes() {
    let Some((_redis, one, two)) = nodes() else { return };
    let mut session = two.connected("bob");
    session.subscribe("kept:a");
    let keyed = json!({"channel": "kept:a", "data": 1, "idempotency_key": "k"});
    let first = one.api("publish", keyed.clone());
    let second = two.api("publish", keyed);
    assert_eq!(first["offset"], second["offset"]);
    one.publish("kept:a", &json!(2));
    assert_eq!(session.numbers("kept:a", 2), [1, 2]);
}

#[test]
fn presence_counts_all_nodes() {
    let Some((redis, one, two)) = nodes() else { return };
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
        let stats = node.api("presence_stats", json!({"channel": "room:a"}));
        assert_eq!((&stats["num_clients"], &stats["num_users"]), (&json!(2), &json!(2)));
    }
    let joins = |session: &mut Session| loop {
        let push = session.push();
        if push["join"]["info"]["user"] == "bob" {
            break;
        }
    };
    joins(&mut here);
    drop(there);
    until("only one member", || users(&one) == ["ann"]);
    loop {
        let push = here.push();
        if push["leave"]["info"]["user"] == "bob" {
            break;
        }
    }
    assert_eq!(redis.cli(&["HLEN", "centrifugo.presence.data.room:a"]), "1");
    one.stop();
    // A graceful end takes its members along.
    assert_eq!(redis.cli(&["EXISTS", "centrifugo.presence.data.room:a"]), "0");
}

#[test]
fn a_killed_redis_that_comes_back_empty_costs_no_client() {
    let Some((mut redis, one, two)) = nodes() else { return };
    let mut sessions = [one.connected("ann"), two.connected("bob")];
    for session in &mut sessions {
        session.subscribe("kept:a");
        session.subscribe("plain:a");
    }
    for n in 1..=3 {
        one.publish("kept:a", &json!(n));
    }
    for session in &mut sessions {
        assert_eq!(session.numbers("kept:a", 3), [1, 2, 3]);
    }
    redis.kill();
    until("error 100", || one.publish("kept:a", &json!(99))["error"]["code"] == 100);
    until("a sick node", || {
        let (code, body) = two.get("/health");
        code == 503 && body.contains("redis 127.0.0.1")
    });
    assert_eq!((two.get("/ready").0, two.get("/live").0), (503, 200));
    // Who is there may still subscribe to what is live here.
    redis.restart();
    for node in [&one, &two] {
        node.healthy();
    }
    // Whoever had a position is told once, and is not closed.
    for session in &mut sessions {
        let push = session.push();
        assert_eq!(
            (&push["channel"], &push["unsubscribe"]["code"]),
            (&json!("kept:a"), &json!(2500))
        );
        let since = json!({"channel": "kept:a", "recover": true, "epoch": "xxxx", "offset": 3});
        let subscribed = session.result("subscribe", since);
        assert_ne!(subscribed["recovered"], true);
    }
    for n in 10..=12 {
        two.publish("kept:a", &json!(n));
        two.publish("plain:a", &json!(n));
    }
    for session in &mut sessions {
        let mut seen = Vec::new();
        while seen.len() < 6 {
            let push = session.push();
            let channel = push["channel"].as_str().unwrap().to_owned();
            seen.push((channel, push["pub"]["data"].as_u64().expect("a number")));
        }
        for channel in ["kept:a", "plain:a"] {
            let of: Vec<_> = seen.iter().filter(|(name, _)| name == channel).collect();
            assert_eq!(of.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [10, 11, 12], "{seen:?}");
        }
        session.no_push();
    }
}

#[test]
fn subscriptions_that_are_killed_lose_and_double_nothing() {
    let Some((redis, one, two)) = nodes() else { return };
    let mut sessions = [one.connected("ann"), two.connected("bob")];
    for session in &mut sessions {
        session.subscribe("kept:a");
    }
    const COUNT: u64 = 300;
    for n in 1..=COUNT {
        let node = if n % 2 == 0 { &one } else { &two };
        assert!(node.publish("kept:a", &json!(n)).get("error").is_none());
        if n % 20 == 0 {
            redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        }
    }
    let expected: Vec<u64> = (1..=COUNT).collect();
    for session in &mut sessions {
        assert_eq!(session.numbers("kept:a", COUNT as usize), expected);
        session.no_push();
    }
}

#[test]
fn a_redis_that_stops_for_three_seconds_loses_nothing() {
    let Some((redis, one, two)) = nodes() else { return };
    let mut session = two.connected("bob");
    session.subscribe("kept:a");
    one.publish("kept:a", &json!(1));
    assert_eq!(session.numbers("kept:a", 1), [1]);
    redis.signal(Signal::STOP);
    let begun = Instant::now();
    let late = std::thread::spawn(move || {
        let answer = one.publish("kept:a", &json!(2));
        (answer, one)
    });
    // What a node holds itself is answered meanwhile.
    let history = session.result("history", json!({"channel": "kept:a", "limit": 10}));
    assert_eq!(history["publications"].as_array().map(Vec::len), Some(1), "{history}");
    assert!(!late.is_finished(), "Redis has answered");
    std::thread::sleep(Duration::from_secs(3).saturating_sub(begun.elapsed()));
    redis.signal(Signal::CONT);
    let (answer, one) = late.join().unwrap();
    assert!(answer.get("error").is_none(), "{answer}");
    one.publish("kept:a", &json!(3));
    assert_eq!(session.numbers("kept:a", 2), [2, 3]);
    session.no_push();
}

/// Both nodes know of each other.
fn acquainted() -> Option<(Redis, Gateway, Gateway)> {
    let all = nodes()?;
    for node in [&all.1, &all.2] {
        until("two nodes", || node.api("info", json!({}))["nodes"].as_array().unwrap().len() == 2);
    }
    Some(all)
}

#[test]
fn an_order_reaches_a_users_connections_on_all_nodes() {
    let Some((_redis, one, two)) = acquainted() else { return };
    let nodes = [&one, &two];
    let mut ids = Vec::new();
    let mut sessions = nodes.map(|node| {
        let mut session = node.session();
        let connected = session.connect(&json!({"token": token_of("ann")}));
        ids.push(connected["client"].clone());
        session
    });
    let mut other = two.connected("bob");
    // Each of them from the node where it is not.
    one.api("subscribe", json!({"user": "ann", "channel": "room:a"}));
    for session in &mut sessions {
        assert_eq!(session.push()["channel"], "room:a");
    }
    let subscribed = |node: &Gateway, count: u64| {
        let stats = node.api("presence_stats", json!({"channel": "room:a"}));
        stats["num_clients"] == count
    };
    until("both to be present", || nodes.iter().all(|node| subscribed(node, 2)));
    two.api("unsubscribe", json!({"user": "ann", "channel": "room:a"}));
    for session in &mut sessions {
        loop {
            let push = session.push();
            if push["unsubscribe"]["code"] == 2000 {
                break;
            }
        }
    }
    // Whom somebody spares, others spare as well.
    one.api("disconnect", json!({"user": "ann", "whitelist": ids}));
    let why = json!({"code": 4500, "reason": "enough"});
    one.api("disconnect", json!({"user": "ann", "client": ids[1], "disconnect": why}));
    let [mut here, mut there] = sessions;
    assert_eq!(there.closed_with(), 4500);
    here.no_push();
    two.api("disconnect", json!({"user": "ann"}));
    here.closed(3503);
    one.api("refresh", json!({"user": "bob", "expired": true}));
    other.closed(3005);
    for op in ["subscribe", "unsubscribe", "disconnect", "refresh"] {
        let complete = format!("ringhold_broker_surveys_total{{op=\"{op}\",outcome=\"complete\"}}");
        let counted = nodes.iter().any(|node| node.metrics().contains(&complete));
        assert!(counted, "{op} is not counted");
    }
}

#[test]
fn channels_and_nodes_are_those_of_all() {
    let Some((redis, one, two)) = acquainted() else { return };
    let mut sessions = [one.connected("ann"), two.connected("bob")];
    for session in &mut sessions {
        session.subscribe("plain:a");
    }
    sessions[1].subscribe("kept:b");
    let counts = json!({"plain:a": {"num_clients": 2}, "kept:b": {"num_clients": 1}});
    for node in [&one, &two] {
        assert_eq!(node.api("channels", json!({}))["channels"], counts);
        let found = node.api("channels", json!({"pattern": "kept:*"}));
        assert_eq!(found["channels"], json!({"kept:b": {"num_clients": 1}}));
        let info = node.api("info", json!({}));
        let nodes = info["nodes"].as_array().unwrap();
        assert!(nodes[0]["process"].is_object() && nodes[1]["process"].is_null(), "{info}");
        assert_ne!(nodes[0]["uid"], nodes[1]["uid"]);
        assert_ne!(nodes[0]["name"], nodes[1]["name"]);
        assert_eq!(node.metric("broker_nodes"), 2);
    }
    assert_eq!(redis.lines(&["PUBSUB", "NUMSUB", "centrifugo.control"])[1], "2");
    two.stop();
    // It has said that it goes.
    until("one node", || one.api("info", json!({}))["nodes"].as_array().unwrap().len() == 1);
    let here = one.api("channels", json!({}));
    assert_eq!(here["channels"], json!({"plain:a": {"num_clients": 1}}));
}

/// Its messages, as they are in Protobuf: a node, an order, and a question.
#[test]
fn a_node_of_centrifugo_is_understood() {
    let Some(redis) = Redis::start() else { return };
    let node = node(&redis, "");
    let mut session = node.connected("ann");
    let publish = |message: &str| {
        let script = format!("return redis.call('PUBLISH','centrifugo.control',\"{message}\")");
        redis.cli(&["EVAL", &script, "0"])
    };
    // Command{uid: "c", node: {uid: "c", name: "theirs", num_clients: 5}}
    until("their node", || {
        publish("\\10\\1c\\34\\13\\10\\1c\\18\\6theirs\\32\\5");
        let info = node.api("info", json!({}));
        info["nodes"][1]["name"] == "theirs" && info["nodes"][1]["num_clients"] == 5
    });
    // Command{uid: "c", disconnect: {user: "ann", code: 4000, reason: "theirs"}}
    publish("\\10\\1c\\50\\16\\10\\3ann\\24\\160\\31\\34\\6theirs");
    assert_eq!(session.closed_with(), 4000);
}

/// A node that Redis does not reach cannot be told: the caller hears so.
/// It deletes the stream, and tells nobody.
#[test]
fn what_a_node_of_centrifugo_removed_is_not_in_memory_for_long() {
    let Some((redis, one, two)) = nodes() else { return };
    let channel = "kept:gone";
    let mut sessions = [&one, &two].map(|node| node.connected("ann"));
    sessions.iter_mut().for_each(|session| _ = session.subscribe(channel));
    (1..=5).for_each(|n| _ = one.publish(channel, &json!(n)));
    sessions.iter_mut().for_each(|session| _ = session.numbers(channel, 5));
    redis.cli(&["DEL", "centrifugo.stream.kept:gone"]);
    (6..=7).for_each(|n| _ = two.publish(channel, &json!(n)));
    for node in [&one, &two] {
        until("a history of two", || {
            let history = node.api("history", json!({"channel": channel, "limit": 10}));
            assert_eq!(history["offset"], 7);
            let offsets = history["publications"].as_array().into_iter().flatten();
            offsets.map(|it| it["offset"].clone()).collect::<Vec<_>>() == [6, 7]
        });
    }
}

#[test]
fn an_order_without_redis_is_temporary_trouble() {
    let Some(mut redis) = Redis::start() else { return };
    let node = node(&redis, "");
    let mut session = node.connected("ann");
    redis.kill();
    until("error 100", || {
        let answer = node.api_reply("disconnect", &json!({"user": "nobody"}));
        answer["error"]["code"] == 100
    });
    assert_eq!(node.api_reply("disconnect", &json!({"user": "ann"}))["error"]["code"], 100);
    // It is done here all the same.
    session.closed(3503);
}

/// A message that comes late has the position compared: what is in the history already comes
/// without waiting for its own message.
#[test]
fn what_lags_behind_is_read_from_the_history() {
    let Some(redis) = Redis::start() else { return };
    let address = format!("[engine.redis]\naddress = [\"127.0.0.1:{}\"]\n", redis.port());
    let delay = "channel_position_check_delay = \"1s\"";
    let lag = "channel_position_check_delay = \"1h\"\nchannel_position_max_time_lag = \"2s\"";
    assert!(TABLES.contains(delay));
    let tables = format!("{}{address}", TABLES.replace(delay, lag));
    let node = Gateway::start_listening("", "type = \"redis\"", &tables);
    node.healthy();
    let mut session = node.connected("42");
    session.subscribe("kept:a");
    node.publish("kept:a", &json!(1));
    assert_eq!(session.numbers("kept:a", 1), [1]);
    assert_eq!(node.metric("broker_lagging_total"), 0);
    // Publications of 1970, of which a message tells of the first one only.
    let script = "local epoch = redis.call('HGET', 'centrifugo.stream.meta.kept:a', 'e') \
        redis.call('HSET', 'centrifugo.stream.meta.kept:a', 's', 4) \
        for n = 2, 4 do \
            local data = '\\34\\1' .. n .. '\\72\\232\\7' \
            redis.call('XADD', 'centrifugo.stream.kept:a', n .. '-0', 'd', data) \
            if n == 2 then \
                redis.call('PUBLISH', 'centrifugo.client.kept:a', \
                    '__p1:2:' .. epoch .. '__' .. data) \
            end \
        end";
    redis.cli(&["EVAL", script, "0"]);
    assert_eq!(session.numbers("kept:a", 3), [2, 3, 4]);
    assert_eq!(node.metric("broker_lagging_total"), 1);
    node.stop();
}
