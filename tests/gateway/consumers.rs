//! Requests of the API from streams in Redis: at least once, in order, whatever happens to Redis
//! and whatever a message holds.
//!
//! Method: `ringhold serve` and a `redis-server` as child processes, messages added by `redis-cli`,
//! a client that hears what they publish. Without `redis-server` the tests say so.

use rustix::process::Signal;
use serde_json::json;

use crate::support::gateway::{Gateway, Session};
use crate::support::redis::Redis;
use crate::support::{own_path, until};

const TABLES: &str = "[client]\nping_interval = \"600s\"\n[prometheus]\nenabled = true\n\
    [[channel.namespaces]]\nname = \"kept\"\n\
    history_size = 1000\nhistory_ttl = \"300s\"\nallow_subscribe_for_client = true\n";

/// A server that reads a stream of commands and one of publications.
fn start(redis: &Redis) -> Gateway {
    let consumer = |name: &str, keys: &str| {
        format!(
            "[[consumers]]\nname = \"{name}\"\nenabled = true\ntype = \"redis_stream\"\n\
             [consumers.redis_stream]\naddress = [\"127.0.0.1:{}\"]\nstreams = [\"{name}\"]\n\
             consumer_group = \"group\"\nvisibility_timeout = \"600s\"\n\
             io_timeout = \"30s\"\n{keys}\n",
            redis.port()
        )
    };
    let gateway = Gateway::start(&format!(
        "{TABLES}{}{}",
        consumer("commands", ""),
        consumer("texts", "num_workers = 8\npublication_data_mode.enabled = true")
    ));
    joined(redis);
    gateway
}

/// Waits for both groups, and that each is read.
fn joined(redis: &Redis) {
    for stream in ["commands", "texts"] {
        until("a group", || redis.cli(&["XINFO", "GROUPS", stream]).contains("group"));
        until("a reader", || !redis.cli(&["XINFO", "CONSUMERS", stream, "group"]).is_empty());
    }
}

/// Adds messages, one after the other.
fn add(redis: &Redis, stream: &str, messages: impl Iterator<Item = Vec<String>>) {
    for message in messages {
        let mut command = vec!["XADD", stream, "*"];
        command.extend(message.iter().map(String::as_str));
        redis.cli(&command);
    }
}

fn publish(channel: &str, n: u64) -> Vec<String> {
    let request = json!({"channel": channel, "data": {"n": n}}).to_string();
    ["method", "publish", "payload", &request].map(str::to_owned).to_vec()
}

fn heard(session: &mut Session, channel: &str) -> u64 {
    session.publication(channel)["data"]["n"].as_u64().expect("a number")
}

fn unacknowledged(redis: &Redis, stream: &str) -> String {
    redis.lines(&["XPENDING", stream, "group"]).swap_remove(0)
}

fn settled(redis: &Redis, stream: &str) {
    until("acknowledgements", || unacknowledged(redis, stream) == "0");
}

#[test]
fn commands_and_publications_come_once_and_in_their_order() {
    let Some(redis) = Redis::start() else { return };
    let gateway = start(&redis);
    let mut session = gateway.connected("42");
    session.subscribe("kept:a");
    add(&redis, "commands", (0..100).map(|n| publish("kept:a", n)));
    for n in 0..100 {
        assert_eq!(heard(&mut session, "kept:a"), n);
    }
    // Method and request in one, as an object and as text.
    let whole = json!({"method": "publish", "payload": {"channel": "kept:a", "data": {"n": 100}}});
    let text = json!({"channel": "kept:a", "data": {"n": 101}}).to_string();
    let text = json!({"method": "publish", "payload": text});
    for whole in [whole, text] {
        add(&redis, "commands", std::iter::once(vec!["payload".to_owned(), whole.to_string()]));
    }
    assert_eq!((heard(&mut session, "kept:a"), heard(&mut session, "kept:a")), (100, 101));
    // What is published as it is, with tags, and once where its key is the same.
    let values = |key: &str| {
        [
            "payload",
            "{\"n\": 7}",
            "centrifugo-channels",
            "kept:a,kept:b",
            "centrifugo-idempotency-key",
            key,
            "centrifugo-tag-t",
            "1",
        ]
        .map(str::to_owned)
        .to_vec()
    };
    add(&redis, "texts", ["one", "one", "two"].into_iter().map(values));
    for _ in 0..2 {
        let publication = session.publication("kept:a");
        assert_eq!(
            (&publication["data"], &publication["tags"]),
            (&json!({"n": 7}), &json!({"t": "1"}))
        );
    }
    session.no_push();
    let kept = gateway.api("history", json!({"channel": "kept:b", "limit": -1}));
    assert_eq!(kept["publications"].as_array().map(Vec::len), Some(2));
    // Others than publications.
    let end = json!({"user": "42"}).to_string();
    let end = ["method", "disconnect", "payload", &end].map(str::to_owned).to_vec();
    add(&redis, "commands", std::iter::once(end));
    session.closed(3503);
    settled(&redis, "commands");
    settled(&redis, "texts");
    gateway.wait_for_metric("consumed_total{consumer=\"commands\"}", 103);
    gateway.wait_for_metric("consumed_total{consumer=\"texts\"}", 3);
    gateway.stop();
}

#[test]
fn messages_that_are_none_stop_nobody() {
    let Some(redis) = Redis::start() else { return };
    let gateway = start(&redis);
    let mut session = gateway.connected("42");
    session.subscribe("kept:a");
    let own = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
    let bad: [Vec<String>; 7] = [
        own(&["other", "1"]),
        own(&["payload", "{"]),
        own(&["payload", "{\"method\": \"publish\"}"]),
        own(&["method", "presence", "payload", "{\"channel\": \"kept:a\"}"]),
        own(&["method", "publish", "payload", "{}"]),
        own(&["method", "publish", "payload", "{\"channel\": \"none:a\", \"data\": 1}"]),
        own(&["method", "broadcast", "payload", "[]"]),
    ];
    let bad = bad.into_iter().enumerate();
    add(&redis, "commands", bad.flat_map(|(n, bad)| [bad, publish("kept:a", n as u64)]));
    for n in 0..7 {
        assert_eq!(heard(&mut session, "kept:a"), n);
    }
    settled(&redis, "commands");
    for (why, number) in [("empty", 1), ("malformed", 3), ("method", 1), ("refused", 2)] {
        let name = format!("consumer_failures_total{{consumer=\"commands\",why=\"{why}\"}}");
        assert_eq!(gateway.metric(&name), number, "{why}");
    }
    gateway.stop();
}

#[test]
fn nothing_is_lost_by_connections_that_break() {
    let Some(redis) = Redis::start() else { return };
    let gateway = start(&redis);
    let mut session = gateway.connected("42");
    session.subscribe("kept:a");
    let mut missing: Vec<u64> = (0..60).collect();
    for chunk in missing.clone().chunks(10) {
        add(&redis, "commands", chunk.iter().map(|n| publish("kept:a", *n)));
        redis.cli(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    }
    // One that comes again comes after one that was there before.
    while !missing.is_empty() {
        let n = heard(&mut session, "kept:a");
        missing.retain(|known| *known != n);
    }
    settled(&redis, "commands");
    let name = "consumer_failures_total{consumer=\"commands\",why=\"lost\"}";
    until("a broken connection", || gateway.metrics().contains(name));
    gateway.stop();
}

#[test]
fn what_a_dead_node_has_left_is_taken_over() {
    let Some(redis) = Redis::start() else { return };
    redis.cli(&["XGROUP", "CREATE", "commands", "group", "$", "MKSTREAM"]);
    add(&redis, "commands", (0..3).map(|n| publish("kept:a", n)));
    let read = ["XREADGROUP", "GROUP", "group", "dead", "STREAMS", "commands", ">"];
    assert!(redis.cli(&read).contains("kept:a"));
    let ids: Vec<_> = redis.lines(&["XPENDING", "commands", "group", "-", "+", "9"]);
    let ids: Vec<_> = ids.iter().filter(|line| line.contains('-')).map(String::as_str).collect();
    assert_eq!(ids.len(), 3, "{ids:?}");
    // As if an hour had passed.
    let claim = ["XCLAIM", "commands", "group", "dead", "0"];
    let idle = ["IDLE", "3600000", "JUSTID"];
    redis.cli(&[&claim[..], &ids, &idle].concat());
    let gateway = start(&redis);
    settled(&redis, "commands");
    let kept = gateway.api("history", json!({"channel": "kept:a", "limit": -1}));
    let numbers: Vec<_> = kept["publications"].as_array().into_iter().flatten().collect();
    let numbers: Vec<_> = numbers.iter().filter_map(|it| it["data"]["n"].as_u64()).collect();
    assert_eq!(numbers, [0, 1, 2]);
    gateway.stop();
}

#[test]
fn a_redis_that_is_gone_is_waited_for() {
    let Some(mut redis) = Redis::start() else { return };
    let gateway = start(&redis);
    let mut session = gateway.connected("42");
    session.subscribe("kept:a");
    redis.kill();
    let name = "consumer_failures_total{consumer=\"commands\",why=\"connect\"}";
    until("a failure", || gateway.metrics().contains(name));
    // Whoever does not come by a stream does not mind.
    gateway.api("publish", json!({"channel": "kept:a", "data": {"n": 1}}));
    assert_eq!(heard(&mut session, "kept:a"), 1);
    redis.restart();
    joined(&redis);
    add(&redis, "commands", std::iter::once(publish("kept:a", 2)));
    assert_eq!(heard(&mut session, "kept:a"), 2);
    gateway.stop();
}

#[test]
fn a_message_that_no_reply_can_hold_is_passed_over() {
    let Some(redis) = Redis::start() else { return };
    let gateway = start(&redis);
    let mut session = gateway.connected("42");
    session.subscribe("kept:a");
    let script = "redis.call('XADD', 'commands', '*', 'payload', string.rep('x', 68 * 1024 * 1024))\
                  redis.call('XADD', 'commands', '*', 'method', 'publish', 'payload', ARGV[1])";
    let after = json!({"channel": "kept:a", "data": {"n": 1}}).to_string();
    redis.cli(&["EVAL", script, "0", &after]);
    assert_eq!(heard(&mut session, "kept:a"), 1);
    settled(&redis, "commands");
    let name = "consumer_failures_total{consumer=\"commands\",why=\"too_large\"}";
    assert_eq!(gateway.metric(name), 1);
    gateway.stop();
}

#[test]
fn what_dead_nodes_have_left_is_found_behind_what_is_held() {
    let Some(redis) = Redis::start() else { return };
    redis.cli(&["XGROUP", "CREATE", "commands", "group", "$", "MKSTREAM"]);
    // As many as a question for it looks at, and then some: a living node has the first of them.
    add(&redis, "commands", (0..1).map(|n| publish("kept:a", n)));
    let script = "for n = 1, 1999 do redis.call('XADD', 'commands', '*', 'method', 'publish', \
                  'payload', ARGV[1]) end";
    let held = json!({"channel": "kept:held", "data": {}}).to_string();
    redis.cli(&["EVAL", script, "0", &held]);
    let read = ["XREADGROUP", "GROUP", "group", "living", "STREAMS", "commands", ">"];
    assert!(redis.cli(&read).contains("kept:a"));
    add(&redis, "commands", (0..3).map(|n| publish("kept:b", n)));
    let read = ["XREADGROUP", "GROUP", "group", "dead", "STREAMS", "commands", ">"];
    redis.cli(&read);
    let ids = redis.lines(&["XPENDING", "commands", "group", "-", "+", "9", "dead"]);
    let ids: Vec<_> = ids.iter().filter(|line| line.contains('-')).map(String::as_str).collect();
    assert_eq!(ids.len(), 3, "{ids:?}");
    let claim = ["XCLAIM", "commands", "group", "dead", "0"];
    redis.cli(&[&claim[..], &ids, &["IDLE", "3600000", "JUSTID"]].concat());
    let gateway = start(&redis);
    until("what is left", || unacknowledged(&redis, "commands") == "2000");
    let kept = gateway.api("history", json!({"channel": "kept:b", "limit": -1}));
    let numbers: Vec<_> = kept["publications"].as_array().into_iter().flatten().collect();
    let numbers: Vec<_> = numbers.iter().filter_map(|it| it["data"]["n"].as_u64()).collect();
    assert_eq!(numbers, [0, 1, 2]);
    gateway.stop();
}

#[test]
fn without_the_broker_messages_wait_in_their_order() {
    let Some(redis) = Redis::start() else { return };
    let Some(mut broker) = Redis::start() else { return };
    let tables = format!(
        "{TABLES}[[consumers]]\nname = \"commands\"\nenabled = true\ntype = \"redis_stream\"\n\
         [consumers.redis_stream]\naddress = [\"127.0.0.1:{}\"]\nstreams = [\"commands\"]\n\
         consumer_group = \"group\"\nvisibility_timeout = \"2s\"\n\
         [engine.redis]\naddress = [\"127.0.0.1:{}\"]\n",
        redis.port(),
        broker.port()
    );
    let gateway = Gateway::start_listening("", "type = \"redis\"", &tables);
    until("a group", || redis.cli(&["XINFO", "GROUPS", "commands"]).contains("group"));
    add(&redis, "commands", (0..1).map(|n| publish("kept:a", n)));
    gateway.wait_for_metric("consumed_total{consumer=\"commands\"}", 1);
    broker.kill();
    add(&redis, "commands", (1..100).map(|n| publish("kept:a", n)));
    let failed = |why: &str| {
        let name = format!("consumer_failures_total{{consumer=\"commands\",why=\"{why}\"}}");
        gateway.metrics().contains(&name)
    };
    until("tries", || failed("retried"));
    // Longer than a message that is to blame would be tried, and than others leave it alone.
    let away = std::time::Instant::now();
    while away.elapsed() < std::time::Duration::from_secs(8) {
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert_eq!(gateway.metric("consumed_total{consumer=\"commands\"}"), 1);
    }
    broker.restart();
    settled(&redis, "commands");
    gateway.wait_for_metric("consumed_total{consumer=\"commands\"}", 100);
    let kept = gateway.api("history", json!({"channel": "kept:a", "limit": -1}));
    let numbers = kept["publications"].as_array().into_iter().flatten();
    let numbers: Vec<_> = numbers.filter_map(|it| it["data"]["n"].as_u64()).collect();
    assert_eq!(numbers, (1..100).collect::<Vec<_>>());
    assert!(!failed("put_off"));
    gateway.stop();
}

#[test]
fn what_a_consumer_may_not_do_is_told_by_its_own_keys() {
    let password = ["--requirepass", "right"];
    let Some(redis) = Redis::start_with(&password, &["-a", "right"]) else { return };
    let log = own_path("consumers.log");
    let gateway = Gateway::start(&format!(
        "{TABLES}[[consumers]]\nname = \"other\"\n\
         [[consumers]]\nname = \"commands\"\nenabled = true\ntype = \"redis_stream\"\n\
         [consumers.redis_stream]\naddress = [\"127.0.0.1:{}\"]\nstreams = [\"commands\"]\n\
         consumer_group = \"group\"\npassword = \"hush-hush\"\n[log]\nfile = \"{}\"\n",
        redis.port(),
        log.display()
    ));
    let said = || std::fs::read_to_string(&log).unwrap_or_default();
    until("a refusal", || said().contains("consumers[1].redis_stream.user"));
    assert!(!said().contains("engine.redis") && !said().contains("hush"), "{}", said());
    gateway.stop();
}

#[test]
fn a_redis_that_is_slow_delays_its_messages_and_nobody_else() {
    let Some(redis) = Redis::start() else { return };
    let gateway = Gateway::start(&format!(
        "{TABLES}[[consumers]]\nname = \"commands\"\nenabled = true\ntype = \"redis_stream\"\n\
         [consumers.redis_stream]\naddress = [\"127.0.0.1:{}\"]\nstreams = [\"commands\"]\n\
         consumer_group = \"group\"\nio_timeout = \"2s\"\n",
        redis.port()
    ));
    until("a group", || redis.cli(&["XINFO", "GROUPS", "commands"]).contains("group"));
    let mut session = gateway.connected("42");
    session.subscribe("kept:a");
    add(&redis, "commands", (0..2).map(|n| publish("kept:a", n)));
    // An answer that was late has been asked for again: what was there may come once more.
    let mut seen = 0;
    let mut reaches = |session: &mut Session, n: u64| {
        while seen < n + 1 {
            let next = heard(session, "kept:a");
            assert!(next <= seen, "{next} before {seen}");
            seen = seen.max(next + 1);
        }
    };
    reaches(&mut session, 1);
    settled(&redis, "commands");
    redis.signal(Signal::STOP);
    // Until it is given up, and dialled in vain.
    for why in ["lost", "connect"] {
        let name = format!("consumer_failures_total{{consumer=\"commands\",why=\"{why}\"}}");
        until("a failure", || gateway.metrics().contains(&name));
    }
    gateway.api("publish", json!({"channel": "kept:a", "data": {"n": 2}}));
    reaches(&mut session, 2);
    redis.signal(Signal::CONT);
    add(&redis, "commands", (3..6).map(|n| publish("kept:a", n)));
    reaches(&mut session, 5);
    settled(&redis, "commands");
    gateway.stop();
}
