//! The server API where the cores serve it: what is answered there, that it is what the control
//! plane answers, and what is left to that.

use serde_json::{Value, json};

use crate::support::answers::{Answer, Asker};
use crate::support::daemon::free_address;
use crate::support::gateway::{API_KEY, Gateway};
use crate::support::{PATIENCE, until};

const TABLES: &str = r#"
[prometheus]
enabled = true
[channel]
without_namespace.history_size = 10
without_namespace.history_ttl = "1h"
without_namespace.allow_subscribe_for_client = true
[[channel.namespaces]]
name = "plain"
allow_subscribe_for_client = true
"#;

/// Who serves a request: the cores do not look for a key in the query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Core,
    Control,
}

fn request(by: By, method: &str, body: &str, lines: &str) -> Vec<u8> {
    let (query, key) = match by {
        By::Core => (String::new(), format!("X-API-Key: {API_KEY}\r\n")),
        By::Control => (format!("?api_key={}", API_KEY.replace(' ', "%20")), String::new()),
    };
    let length = body.len();
    format!(
        "POST /api/{method}{query} HTTP/1.1\r\nHost: test\r\n{key}{lines}\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

fn published(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_str(&answer.body).expect("JSON")
}

/// Requests that cores have answered, other than by an error.
fn served(gateway: &Gateway) -> u64 {
    gateway.metric("answered_total")
}

/// An answer without what differs by its nature: when it was given, and which life a stream has.
fn comparable(answer: &Answer) -> (u16, Vec<Option<&str>>, String) {
    let names = ["content-type", "cache-control", "content-length", "connection", "retry-after"];
    let mut body = answer.body.clone();
    while let Some(at) = body.find("\"epoch\":\"") {
        let end = at + 9 + body[at + 9..].find('"').expect("the end of a text");
        body.replace_range(at..=end, "");
    }
    assert!(answer.header("date").is_some_and(|date| date.ends_with(" GMT")), "{answer:?}");
    let headers = names.map(|name| answer.header(name)).to_vec();
    (answer.status, headers, body)
}

#[test]
fn the_cores_answer_as_the_control_plane_does() {
    let gateway = Gateway::start(TABLES);
    let transport = "X-Centrifugo-Error-Mode: transport\r\n";
    let calls = [
        ("publish", r#"{"channel":"@C","data":{"a":[1,2]}}"#, "", true),
        ("publish", r#"{"channel":"@C","data":1,"tags":{"a":"b"},"delta":true}"#, "", true),
        ("publish", r#"{"channel":"plain:@C","data":"text"}"#, "", true),
        ("publish", r#"{"channel":"@C","b64data":"AAEC"}"#, "", true),
        ("publish", r#"{"channel":"@C","data":1,"idempotency_key":"k"}"#, "", true),
        ("publish", r#"{"channel":"@C","data":2,"idempotency_key":"k"}"#, "", true),
        ("publish", r#"{"channel":"@C","data":1,"skip_history":true}"#, "", true),
        ("publish", r#"{"channel":"@C","data":1,"version":5,"version_epoch":"e"}"#, "", true),
        ("publish", r#"{"channel":"unknown:@C","data":1}"#, "", true),
        ("publish", r#"{"channel":"unknown:@C","data":1}"#, transport, true),
        ("publish", r#"{"channel":"","data":1}"#, "", false),
        ("publish", r#"{"channel":"@C"}"#, "", false),
        ("publish", r#"{"channel":"@C"}"#, transport, false),
        ("publish", r#"{"channel":7,"data":1}"#, "", false),
        ("publish", "{", "", false),
        ("publish", "[]", "", false),
        ("publish", "", "", false),
        ("broadcast", r#"{"channels":["@C","plain:@C","unknown:a",""],"data":1}"#, "", true),
        ("broadcast", r#"{"channels":["@C"],"data":{"b":1}}"#, transport, true),
        ("broadcast", r#"{"channels":[],"data":1}"#, "", false),
        ("batch", r#"{"commands":[]}"#, "", true),
        (
            "batch",
            r#"{"commands":[{"publish":{"channel":"@C","data":1}},{},null,
                {"publish":{"channel":"unknown:c","data":1}},{"publish":{"channel":"@C"}},
                {"nothing":{}},{"publish":{"channel":"plain:@C","data":2}}],"parallel":true}"#,
            transport,
            true,
        ),
        ("batch", r#"{"commands":[{"presence_stats":{"channel":"@C"}}]}"#, "", false),
        ("batch", r#"{"commands":[{"publish":{"channel":7}}]}"#, "", false),
        ("batch", r#"{"commands":1}"#, "", false),
    ];
    for (count, (method, body, lines, by_core)) in calls.into_iter().enumerate() {
        // Channels of their own, so that offsets are the same.
        let ask = |by: By| {
            let body = body.replace("@C", &format!("{by:?}{count}"));
            let mut client = Asker::connect(gateway.address());
            let before = gateway.metric("passed_total");
            let answer = client.ask(&request(by, method, &body, lines));
            // The connection that asked for this was passed on, too.
            (answer, gateway.metric("passed_total") - before - 1)
        };
        let ((core, left), (control, passed)) = (ask(By::Core), ask(By::Control));
        let text = format!("{method} {body} {lines}");
        // Codes name no channel, so both have the same length.
        assert_eq!(comparable(&core), comparable(&control), "{text}");
        assert_eq!((left, passed), (u64::from(!by_core), 1), "{text}");
    }
    gateway.stop();
}

#[test]
fn one_connection_serves_all_and_is_passed_on_when_it_has_to_be() {
    let gateway = Gateway::start(TABLES);
    let mut subscriber = gateway.connected("u");
    subscriber.subscribe("room");
    let mut client = Asker::connect(gateway.address());
    // Each at once and behind the others; the order of a channel is that of its requests.
    let mut all = Vec::new();
    for n in 0..50 {
        let body = json!({"channel": "room", "data": n}).to_string();
        all.extend(request(By::Core, "publish", &body, ""));
    }
    client.send(&all);
    for n in 1..=50 {
        assert_eq!(published(&client.answer())["result"]["offset"], json!(n));
    }
    let broadcast: Vec<_> = (0..100).map(|n| format!("room{n}")).collect();
    let body = json!({"channels": broadcast, "data": 1}).to_string();
    let reply = published(&client.ask(&request(By::Core, "broadcast", &body, "")));
    let responses = reply["result"]["responses"].as_array().expect("a list");
    assert_eq!(responses.len(), 100);
    assert!(responses.iter().all(|it| it["result"]["offset"] == json!(1)), "{reply}");
    let commands: Vec<_> = (50..150)
        .map(|n| match n % 10 {
            0 => json!({"publish": {"channel": format!("room{n}"), "data": n}}),
            _ => json!({"publish": {"channel": "room", "data": n}}),
        })
        .collect();
    let body = json!({ "commands": commands }).to_string();
    let reply = published(&client.ask(&request(By::Core, "batch", &body, "")));
    let mut offset = 50;
    for (n, reply) in (50..150).zip(reply["replies"].as_array().expect("a list")) {
        if n % 10 > 0 {
            offset += 1;
            assert_eq!(reply["publish"]["offset"], json!(offset), "{reply}");
        }
    }
    let expected = (0..150).filter(|n| *n < 50 || n % 10 > 0);
    for n in expected {
        assert_eq!(subscriber.push()["pub"]["data"], json!(n));
    }
    assert_eq!((gateway.metric("answered_total"), gateway.metric("kept")), (52, 1));
    // What only the control plane has, behind a publication and before another one.
    let info = request(By::Core, "info", "{}", "");
    let publish = request(By::Core, "publish", r#"{"channel":"room","data":1}"#, "");
    client.send(&[&publish[..], &info, &publish].concat());
    assert_eq!(published(&client.answer())["result"]["offset"], json!(141));
    assert!(published(&client.answer())["result"]["nodes"].is_array());
    assert_eq!(published(&client.answer())["result"]["offset"], json!(142));
    assert_eq!((gateway.metric("answered_total"), gateway.metric("kept")), (53, 0));
    // Both count as calls.
    let count =
        |method: &str| gateway.metric(&format!("api_command_seconds_count{{method=\"{method}\"}}"));
    assert_eq!((count("publish"), count("broadcast")), (152, 1));
    gateway.stop();
}

#[test]
fn what_the_cores_leave_to_the_control_plane_is_answered_there() {
    let gateway = Gateway::start(TABLES);
    let body = r#"{"channel":"c","data":1}"#;
    let long = json!({"channel": "c", "data": "x".repeat(70_000)}).to_string();
    let channels: Vec<_> = (0..257).map(|n| n.to_string()).collect();
    let many = json!({"channels": channels, "data": 1}).to_string();
    let commands = vec![json!({"publish": {"channel": "c", "data": 1}}); 257];
    let commands = json!({ "commands": commands }).to_string();
    let key = format!("X-API-Key: {API_KEY}\r\n");
    let raw = |head: &str, body: &str| format!("{head}\r\n{body}").into_bytes();
    for (what, bytes, status) in [
        ("a long body", request(By::Core, "publish", &long, ""), 200),
        ("many channels", request(By::Core, "broadcast", &many, ""), 200),
        ("many commands", request(By::Core, "batch", &commands, ""), 200),
        ("another method", request(By::Core, "history", r#"{"channel":"c"}"#, ""), 200),
        ("no such method", request(By::Core, "nothing", body, ""), 404),
        (
            "pieces",
            raw(
                &format!(
                    "POST /api/publish HTTP/1.1\r\nHost: t\r\n{key}Transfer-Encoding: chunked\r\n"
                ),
                &format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()),
            ),
            200,
        ),
        (
            "the older form",
            raw(
                &format!("POST /api HTTP/1.1\r\nHost: t\r\n{key}Content-Length: 59\r\n"),
                r#"{"method":"publish","params":{"channel":"c","data":1}}     "#,
            ),
            200,
        ),
        (
            "no key",
            raw("POST /api/publish HTTP/1.1\r\nHost: t\r\nContent-Length: 24\r\n", body),
            401,
        ),
        (
            "another key",
            raw(
                "POST /api/publish HTTP/1.1\r\nHost: t\r\nX-API-Key: api key of the testX\r\n\
                 Content-Length: 24\r\n",
                body,
            ),
            401,
        ),
        ("no POST", raw(&format!("GET /api/publish HTTP/1.1\r\nHost: t\r\n{key}"), ""), 405),
    ] {
        let before = served(&gateway);
        let mut client = Asker::connect(gateway.address());
        // Behind a request that is served by the core, and that has to be answered first.
        client.send(&[&request(By::Core, "publish", body, ""), &bytes[..]].concat());
        assert_eq!(client.answer().status, 200, "{what}");
        assert_eq!(client.answer().status, status, "{what}");
        assert_eq!(served(&gateway) - before, 1, "{what}");
    }
    // The other way to bring the key, and a head and a body that come apart.
    let mut client = Asker::connect(gateway.address());
    let line = format!("Authorization: ApiKey  {API_KEY} \r\n");
    let head = format!("POST /api/publish HTTP/1.1\r\nHost: t\r\n{line}Content-Length: 24\r\n");
    for _ in 0..3 {
        client.send(head.as_bytes());
        assert!(client.hears_nothing());
        client.send(b"\r\n");
        assert!(client.hears_nothing());
        assert_eq!(client.ask(body.as_bytes()).status, 200);
    }
    let expected = format!("{head}Expect: 100-continue\r\n\r\n");
    assert_eq!(client.ask(expected.as_bytes()).status, 100);
    assert_eq!(client.ask(body.as_bytes()).status, 200);
    assert_eq!(gateway.metric("kept"), 1);
    gateway.stop();
}

#[test]
fn the_public_port_serves_calls_only_where_the_api_is() {
    let internal = free_address();
    let publish = request(By::Core, "publish", r#"{"channel":"c","data":1}"#, "");
    for (api, status) in [("", 404), ("external = true", 200)] {
        let gateway = Gateway::start_whole(&format!(
            "[http_server]\nport = 0\ninternal_port = {}\n\
             [http_api]\nkey = \"{API_KEY}\"\n{api}\n[engine]\nworkers = 2\n\
             [prometheus]\nenabled = true\n",
            internal.port()
        ));
        assert_eq!(Asker::connect(gateway.address()).ask(&publish).status, status, "{api}");
        // The internal port's connections are served by the cores, too.
        let mut inside = Asker::connect(internal);
        inside.send(&publish.repeat(3));
        for _ in 0..3 {
            assert_eq!(inside.answer().status, 200, "{api}");
        }
        let upgrade = b"GET /connection/websocket HTTP/1.1\r\nHost: t\r\nUpgrade: websocket\r\n\
            Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        assert_eq!(Asker::connect(internal).ask(upgrade).status, 404, "{api}");
        let missing = b"GET /connection/websocket HTTP/1.1\r\nHost: t\r\n\r\n";
        assert_eq!(Asker::connect(internal).ask(missing).status, 404, "{api}");
        let metrics = b"GET /metrics HTTP/1.1\r\nHost: t\r\n\r\n";
        let answer = inside.ask(metrics);
        let counted = 3 + u64::from(status == 200);
        for line in
            [format!("ringhold_answered_total {counted}"), "ringhold_adopted_total 3".into()]
        {
            assert!(answer.body.lines().any(|it| it == line), "no {line} in {}", answer.body);
        }
        // It has been handed over, and goes on.
        assert_eq!(inside.ask(&publish).status, 200, "{api}");
        gateway.stop();
    }
}

#[test]
fn without_a_key_whoever_reaches_the_port_is_served() {
    let gateway = Gateway::start_whole(
        "[http_server]\nport = 0\n[http_api]\ninsecure = true\n[engine]\nworkers = 1\n[prometheus]\nenabled = true\n",
    );
    let body = r#"{"channel":"c","data":1}"#;
    let head = "POST /api/publish HTTP/1.1\r\nHost: t\r\nContent-Length: 24\r\n\r\n";
    let mut client = Asker::connect(gateway.address());
    for _ in 0..3 {
        assert_eq!(client.ask(format!("{head}{body}").as_bytes()).status, 200);
    }
    assert_eq!(served(&gateway), 3);
    drop(client);
    gateway.wait_for_metric("kept", 0);
    gateway.stop();
}

#[test]
fn a_new_key_holds_for_connections_that_stay() {
    let mut gateway = Gateway::start(TABLES);
    let mut client = Asker::connect(gateway.address());
    let publish = request(By::Core, "publish", r#"{"channel":"c","data":1}"#, "");
    assert_eq!(client.ask(&publish).status, 200);
    let path = gateway.config().expect("a configuration").to_owned();
    let text = std::fs::read_to_string(&path).expect("it is there");
    let changed = text.replace(&format!("key = \"{API_KEY}\""), "key = \"another\"");
    assert_ne!(changed, text);
    std::fs::write(&path, changed).expect("it can be written");
    gateway.signal(rustix::process::Signal::HUP);
    let deadline = std::time::Instant::now() + PATIENCE;
    until("the key to be another", || {
        assert!(std::time::Instant::now() < deadline);
        Asker::connect(gateway.address()).ask(&publish).status == 401
    });
    until("the key to be another on this core", || client.ask(&publish).status == 401);
    gateway.signal(rustix::process::Signal::TERM);
    gateway.exited_well();
}
