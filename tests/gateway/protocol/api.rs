//! The server API: what backends see, and what it does to connections.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::gateway::{API_KEY, Gateway, Session, token, unix};

const NS: &str = "[channel.without_namespace]\nhistory_size = 10\nhistory_ttl = \"60s\"\n\
    presence = true\nallow_subscribe_for_client = true\nforce_recovery = true\n\
    allow_presence_for_subscriber = true\n[[channel.namespaces]]\nname = \"plain\"\n\
    allow_subscribe_for_client = true\n";

fn identified(gateway: &Gateway, user: &str) -> (Session, String) {
    let mut session = gateway.session();
    let result = session.connect(&json!({"token": token(&json!({"sub": user}))}));
    (session, result["client"].as_str().expect("an id").to_owned())
}

#[test]
fn nobody_publishes_without_the_key() {
    let gateway = Gateway::start(NS);
    let body = r#"{"channel":"a","data":1}"#;
    for key in ["", "another", &API_KEY[1..], &format!("{API_KEY}x")] {
        assert_eq!(gateway.post("publish", body, key).0, 401, "{key}");
    }
    assert_eq!(gateway.post("publish", body, API_KEY).0, 200);
    assert_eq!(gateway.post("publish", "{oops", API_KEY).0, 400);
    gateway.stop();
    // Nor where there is none.
    let gateway = Gateway::start_whole("[http_server]\nport = 0\n");
    for key in ["", "another"] {
        assert_eq!(gateway.post("publish", body, key).0, 401, "{key}");
    }
    gateway.stop();
}

#[test]
fn errors_have_codes() {
    let gateway = Gateway::start(NS);
    for (method, parameters, code) in [
        ("publish", json!({"channel": "unknown:a", "data": 1}), 102),
        ("publish", json!({"channel": "", "data": 1}), 107),
        ("publish", json!({"channel": "a"}), 107),
        ("presence", json!({"channel": "plain:a"}), 108),
        ("presence_stats", json!({"channel": "plain:a"}), 108),
        ("history", json!({"channel": "plain:a"}), 108),
        ("history", json!({"channel": "unknown:a"}), 102),
        (
            "history",
            json!({"channel": "a", "limit": -1,
            "since": {"offset": 1, "epoch": "another"}}),
            112,
        ),
        ("subscribe", json!({"user": "42", "channel": "unknown:a"}), 102),
    ] {
        let reply = gateway.api_reply(method, &parameters);
        assert_eq!(reply["error"]["code"], json!(code), "{method} {parameters}: {reply}");
    }
    gateway.stop();
}

#[test]
fn a_broadcast_answers_for_each_channel() {
    let gateway = Gateway::start(NS);
    let mut session = gateway.connected("42");
    session.subscribe("a");
    session.subscribe("plain:a");
    let result =
        gateway.api("broadcast", json!({"channels": ["a", "unknown:a", "plain:a"], "data": [1]}));
    let responses = result["responses"].as_array().expect("a list");
    assert_eq!(responses[0]["result"]["offset"], json!(1), "{result}");
    assert_eq!(responses[1]["error"]["code"], json!(102), "{result}");
    assert!(responses[2].get("error").is_none(), "{result}");
    let mut channels = [session.push(), session.push()].map(|push| push["channel"].to_string());
    channels.sort();
    assert_eq!(channels, ["\"a\"", "\"plain:a\""]);
    gateway.stop();
}

/// Publications of one request are under way together; offsets and deliveries say in which order
/// they were published. What stands between them is done in its turn.
#[test]
fn publications_of_a_batch_keep_their_order() {
    const MANY: usize = 700;
    let gateway = Gateway::start(NS);
    let mut session = gateway.connected("42");
    for channel in ["a", "b", "c"] {
        session.subscribe(channel);
    }
    for parallel in [false, true] {
        let name = |n: usize| ["a", "b", "c"][n % 3];
        let publish = |n: usize| json!({"publish": {"channel": name(n), "data": n}});
        let mut commands: Vec<Value> = (0..MANY).map(publish).collect();
        commands.insert(MANY / 2, json!({"history": {"channel": "a", "limit": 0}}));
        let body = json!({"commands": commands, "parallel": parallel}).to_string();
        let (status, text) = gateway.post("batch", &body, API_KEY);
        let answer: Value = serde_json::from_str(&text).expect("JSON");
        let mut replies = answer["replies"].as_array().expect("replies").clone();
        assert_eq!((status, replies.len()), (200, MANY + 1));
        let history = replies.remove(MANY / 2);
        let base = if parallel { MANY } else { 0 };
        if !parallel {
            let before = (0..MANY / 2).filter(|n| n % 3 == 0).count();
            assert_eq!(history["history"]["offset"], json!(before), "{history}");
        }
        for (n, reply) in replies.iter().enumerate() {
            let before = (0..base).filter(|other| other % 3 == n % 3).count();
            let offset = before + n / 3 + 1;
            assert_eq!(reply["publish"]["offset"], json!(offset), "{n}: {reply}");
        }
        let mut next = [0, 1, 2];
        for _ in 0..MANY {
            let push = session.push();
            let of = ["a", "b", "c"].iter().position(|name| push["channel"] == json!(name));
            let of = of.unwrap_or_else(|| panic!("{push}"));
            assert_eq!(push["pub"]["data"], json!(next[of]), "{push}");
            next[of] += 3;
        }
    }
    let channels: Vec<String> = (0..1000).map(|n| format!("of:{n}")).collect();
    let answer = gateway.api_reply("broadcast", &json!({"channels": channels, "data": 1}));
    let responses = answer["result"]["responses"].as_array().expect("responses");
    assert!(responses.len() == 1000 && responses.iter().all(|it| it["error"]["code"] == 102));
    let channels: Vec<String> = (0..1000).map(|n| format!("of{}", n / 2)).collect();
    let answer = gateway.api("broadcast", json!({"channels": channels, "data": 1}));
    for (n, response) in answer["responses"].as_array().expect("responses").iter().enumerate() {
        assert_eq!(response["result"]["offset"], json!(1 + n % 2), "{n}: {response}");
    }
    gateway.stop();
}

#[test]
fn users_are_subscribed_and_unsubscribed() {
    let gateway = Gateway::start(NS);
    let (mut one, _) = identified(&gateway, "42");
    let (mut two, id) = identified(&gateway, "42");
    let (mut other, _) = identified(&gateway, "43");
    gateway.api("publish", json!({"channel": "a", "data": 0}));
    gateway.api(
        "subscribe",
        json!({"user": "42", "channel": "a", "data": {"d": 1},
        "info": {"i": 1}}),
    );
    for session in [&mut one, &mut two] {
        let push = session.push();
        assert_eq!(push["channel"], json!("a"), "{push}");
        let begun = &push["subscribe"];
        assert_eq!((&begun["offset"], &begun["data"]), (&json!(1), &json!({"d": 1})), "{push}");
        assert_eq!(begun["recoverable"], json!(true), "{push}");
        assert!(begun["epoch"].is_string(), "{push}");
    }
    let present = one.result("presence", json!({"channel": "a"}));
    let infos = present["presence"].as_object().expect("a map");
    assert_eq!(infos[&id]["chan_info"], json!({"i": 1}), "{present}");
    gateway.api("publish", json!({"channel": "a", "data": 1}));
    assert_eq!(one.publication("a")["data"], json!(1));
    assert_eq!(two.publication("a")["data"], json!(1));

    // One connection of them, then all.
    let end =
        json!({"channel": "a", "unsubscribe": {"code": 2000, "reason": "server unsubscribe"}});
    gateway.api("unsubscribe", json!({"user": "42", "channel": "a", "client": id}));
    assert_eq!(two.push(), end);
    one.no_push();
    gateway.api("unsubscribe", json!({"user": "42", "channel": "a"}));
    assert_eq!(one.push(), end);
    two.no_push();
    // Also from what they subscribed to themselves, and from everything.
    one.subscribe("a");
    one.subscribe("plain:a");
    gateway.api("unsubscribe", json!({"user": "42", "channel": ""}));
    let mut ends = [one.push(), one.push()].map(|push| push["channel"].to_string());
    ends.sort();
    assert_eq!(ends, ["\"a\"", "\"plain:a\""]);
    other.no_push();
    gateway.stop();
}

#[test]
fn users_are_subscribed_from_a_position() {
    let gateway = Gateway::start(NS);
    let epoch = gateway.api("publish", json!({"channel": "a", "data": 1}))["epoch"].take();
    gateway.api("publish", json!({"channel": "a", "data": 2}));
    let mut session = gateway.connected("42");
    let since = json!({"offset": 1, "epoch": epoch});
    gateway.api("subscribe", json!({"user": "42", "channel": "a", "recover_since": since}));
    assert!(session.push()["subscribe"].is_object());
    assert_eq!(session.publication("a")["offset"], json!(2));
    gateway.api("publish", json!({"channel": "a", "data": 3}));
    assert_eq!(session.publication("a")["offset"], json!(3));
    gateway.stop();
}

#[test]
fn users_are_disconnected() {
    let gateway = Gateway::start(NS);
    let (mut one, _) = identified(&gateway, "42");
    let (mut two, id) = identified(&gateway, "42");
    let (mut other, _) = identified(&gateway, "43");
    gateway.api("disconnect", json!({"user": "42", "whitelist": [id]}));
    one.closed(3503);
    two.no_push();
    gateway.api("disconnect", json!({"user": "42", "client": id}));
    two.closed(3503);
    let (mut three, _) = identified(&gateway, "42");
    let why = json!({"code": 4242, "reason": "go away"});
    gateway.api("disconnect", json!({"user": "42", "disconnect": why}));
    loop {
        match three.hear().pop() {
            Some(crate::support::gateway::Heard::Close(code, reason)) => {
                assert_eq!((code, reason.as_str()), (4242, "go away"));
                break;
            }
            heard => assert!(heard.is_some(), "nothing heard"),
        }
    }
    other.no_push();
    // Nobody there is no error.
    gateway.api("disconnect", json!({"user": "nobody"}));
    gateway.stop();
}

#[test]
fn connections_are_refreshed() {
    let gateway = Gateway::start(&format!("[client]\nexpired_close_delay = \"1s\"\n{NS}"));
    let (mut kept, _) = identified(&gateway, "42");
    let (mut other, _) = identified(&gateway, "43");
    let (mut expired, _) = identified(&gateway, "44");
    gateway.api("refresh", json!({"user": "44", "expired": true}));
    expired.closed(3005);
    gateway.api("refresh", json!({"user": "43", "expire_at": unix() + 1}));
    gateway.api("refresh", json!({"user": "42", "expire_at": unix() + 600}));
    other.closed(3005);
    kept.subscribe("a");
    gateway.stop();
}

#[test]
fn channels_and_nodes_are_listed() {
    let gateway = Gateway::start(NS);
    let mut one = gateway.connected("42");
    let mut two = gateway.connected("42");
    for channel in ["a", "b", "plain:a"] {
        one.subscribe(channel);
    }
    two.subscribe("a");
    let list =
        |pattern: &str| gateway.api("channels", json!({"pattern": pattern}))["channels"].take();
    assert_eq!(
        list(""),
        json!({"a": {"num_clients": 2}, "b": {"num_clients": 1},
        "plain:a": {"num_clients": 1}})
    );
    assert_eq!(list("plain:*"), json!({"plain:a": {"num_clients": 1}}));
    let info = gateway.api("info", json!({}));
    let node = &info["nodes"][0];
    for (key, expected) in
        [("num_clients", 2), ("num_users", 1), ("num_subs", 4), ("num_channels", 3)]
    {
        assert_eq!(node[key], json!(expected), "{key}: {info}");
    }
    assert!(node["uid"].is_string() && node["version"].is_string(), "{info}");
    gateway.stop();
}

#[test]
fn a_batch_answers_for_each_command() {
    let gateway = Gateway::start(NS);
    for parallel in [false, true] {
        let body = json!({"parallel": parallel, "commands": [
            {"publish": {"channel": "a", "data": 1}},
            {"publish": {"channel": "unknown:a", "data": 1}},
            {"presence_stats": {"channel": "a"}},
        ]});
        let reply = gateway.api_reply("batch", &body);
        let replies = reply["replies"].as_array().expect("replies");
        assert!(replies[0]["publish"]["offset"].is_u64(), "{reply}");
        assert_eq!(replies[1]["error"]["code"], json!(102), "{reply}");
        let empty: Value = json!({"num_clients": 0, "num_users": 0});
        assert_eq!(replies[2]["presence_stats"], empty, "{reply}");
    }
    gateway.stop();
}

#[test]
fn health_readiness_and_metrics_are_told_if_wanted() {
    let wanted = "[health]\nenabled = true\n[prometheus]\nenabled = true\n";
    let gateway = Gateway::start(&format!("{wanted}{NS}"));
    let _session = gateway.connected("42");
    let get = |gateway: &Gateway, path: &str| {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(gateway.address()).expect("it accepts");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("set_read_timeout");
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("a request is taken");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer in text");
        answer
    };
    for path in ["/health", "/ready"] {
        let answer = get(&gateway, path);
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("{}"), "{path}: {answer}");
    }
    let metrics = get(&gateway, "/metrics");
    assert!(metrics.starts_with("HTTP/1.1 200 ") && metrics.contains("# EOF"), "{metrics}");
    gateway.stop();
    let gateway = Gateway::start(NS);
    for path in ["/health", "/ready", "/metrics", "/"] {
        let answer = get(&gateway, path);
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
    }
    gateway.stop();
}
