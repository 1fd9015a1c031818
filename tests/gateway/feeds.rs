//! Subscribe streams: what a backend made with PyPI's `grpcio` tells each subscriber, what goes
//! back, how either side ends them, and that one of them disturbs no other.

use serde_json::{Value, json};

use crate::support::backend::{Backend, Way, environment};
use crate::support::gateway::{Gateway, Session, token, unix};

/// Channels of both kinds; and one where nothing of the kind is asked.
const TABLES: &str = r#"
[http_server]
port = 0
[http_api]
key = "api key of the tests"
[prometheus]
enabled = true
[client]
ping_interval = "0s"
queue_max_size = "QUEUE"
[client.token]
hmac_secret_key = "secret of the tests"
[[channel.namespaces]]
name = "open"
allow_subscribe_for_client = true
[[channel.namespaces]]
name = "one"
subscribe_stream_proxy_enabled = true
presence = true
allow_presence_for_subscriber = true
history_size = 10
history_ttl = "600s"
force_recovery = true
allowed_delta_types = ["fossil"]
delta_publish = true
allow_tags_filter = true
[[channel.namespaces]]
name = "both"
subscribe_stream_proxy_enabled = true
subscribe_stream_proxy_bidirectional = true
subscribe_stream_proxy_name = "other"
[[channel.namespaces]]
name = "deaf"
subscribe_stream_proxy_enabled = true
subscribe_stream_proxy_bidirectional = true
[channel.proxy.subscribe_stream]
http_headers = ["X-Request"]
grpc.static_metadata = { x-static = "s" }
timeout = "60s"
"#;

/// All streams are of one backend, those of `both` by a proxy with a name.
fn fed_by(backend: &Backend) -> Gateway {
    bounded(backend, 4096, "1MiB")
}

/// Likewise with so many streams, and so much waiting for a client.
fn bounded(backend: &Backend, streams: u32, queue: &str) -> Gateway {
    let endpoint = backend.endpoint("");
    let tables = TABLES.replace("QUEUE", queue);
    Gateway::start_whole(&format!(
        "proxies = [{{ name = \"other\", endpoint = \"{endpoint}\", timeout = \"60s\" }}]\n\
         {tables}endpoint = \"{endpoint}\"\nmax_streams = {streams}\n\
         [websocket]\nwrite_timeout = \"600s\"\n[engine]\nclose_timeout = \"600s\"\n"
    ))
}

fn told(session: &mut Session, channel: &str) -> Value {
    let publication = session.publication(channel);
    assert!(publication.get("offset").is_none(), "{publication}");
    publication["data"].clone()
}

#[test]
fn each_subscriber_hears_what_it_is_told() {
    let Some(python) = environment() else { return };
    let mut backend = Backend::start(&python, Way::Grpc, 0);
    let gateway = fed_by(&backend);
    let mut session = gateway.connected_with("42", &["X-Request: r"]);
    let wishes = json!({"channel": "one:a", "data": {"d": 1}, "recoverable": true,
        "positioned": true, "delta": "fossil", "join_leave": true});
    let reply = session.result("subscribe", wishes);
    assert_eq!(reply, json!({"data": {"sub": 1}}), "nothing of it is recovered");
    let asked = backend.asked("SubscribeUnidirectional");
    let request = &asked["request"];
    assert_eq!((&request["user"], &request["channel"]), (&json!("42"), &json!("one:a")));
    assert_eq!(request["data"], json!("eyJkIjoxfQ=="), "bytes are Base64 in the backend's words");
    for (name, value) in [("x-request", "r"), ("x-static", "s")] {
        assert_eq!(asked["metadata"][name], json!(value), "{asked}");
    }
    // What the backend says of it others see.
    let presence = session.result("presence", json!({"channel": "one:a"}));
    let who = presence["presence"].as_object().and_then(|all| all.values().next());
    assert_eq!(who.map(|who| &who["chan_info"]), Some(&json!({"i": 1})), "{presence}");
    // It speaks to all who are in the channel by streams of their own, and in its order.
    let mut other = gateway.connected("43");
    other.subscribe("one:b");
    backend.tell(&json!({"channel": "one:a", "tell": {"n": "N"}, "times": 2000}));
    backend.tell(&json!({"channel": "one:b", "tell": {"b": 1}, "tags": {"t": "1"}}));
    for n in 1..=2000 {
        assert_eq!(told(&mut session, "one:a"), json!({"n": n}));
    }
    let tagged = other.publication("one:b");
    assert_eq!(tagged, json!({"data": {"b": 1}, "tags": {"t": "1"}}));
    // The channel is one like others, too.
    gateway.api("publish", json!({"channel": "one:a", "data": {"api": 1}}));
    assert_eq!(session.publication("one:a")["data"], json!({"api": 1}));
    other.no_push();
    session.fails("publish", json!({"channel": "one:a", "data": {}}), 108);
    session.fails("subscribe", json!({"channel": "one:a"}), 105);
    let filter = json!({"channel": "one:c", "tf": {"key": "k", "cmp": "ex"}});
    session.fails("subscribe", filter, 107);
    assert_eq!(gateway.metric("hook_stream_publications_total"), 2001);
    // Protobuf clients and those of other encodings hear the same; JSON ones only JSON.
    backend.tell(&json!({"channel": "one:b", "bytes": "no JSON"}));
    other.closed(3506);
    backend.asked("Cancelled");
    gateway.wait_for_metric("hook_streams", 1);
    gateway.stop();
}

#[test]
fn what_a_subscriber_publishes_goes_to_its_stream() {
    let Some(python) = environment() else { return };
    let mut backend = Backend::start(&python, Way::Grpc, 0);
    let gateway = fed_by(&backend);
    let (mut session, mut other) = (gateway.connected("42"), gateway.connected("43"));
    session.fails("publish", json!({"channel": "both:a", "data": {}}), 108);
    for who in [&mut session, &mut other] {
        assert_eq!(who.subscribe("both:a")["data"], json!({"sub": 1}));
        backend.asked("SubscribeBidirectional");
    }
    for n in 0..200 {
        assert_eq!(session.result("publish", json!({"channel": "both:a", "data": [n]})), json!({}));
    }
    for n in 0..200 {
        let said = backend.asked("Publication");
        assert_eq!((&said["data"], &said["first"]), (&json!(format!("[{n}]")), &json!(false)));
    }
    assert_eq!(gateway.metric("hook_stream_messages_total"), 200);
    // It went nowhere else.
    other.no_push();
    session.no_push();
    session.result("unsubscribe", json!({"channel": "both:a"}));
    assert_eq!(backend.asked("Cancelled")["channel"], json!("both:a"));
    session.fails("publish", json!({"channel": "both:a", "data": {}}), 108);
    // Again, with a stream of its own.
    session.subscribe("both:a");
    backend.tell(&json!({"channel": "both:a", "tell": 1}));
    assert_eq!(told(&mut session, "both:a"), json!(1));
    assert_eq!(told(&mut other, "both:a"), json!(1));
    // One whose backend does not listen has its bound, and the others do not mind.
    session.subscribe("deaf:a");
    let large = json!({"channel": "deaf:a", "data": "x".repeat(40_000)});
    let refused =
        (0..200).find_map(|_| session.ask("publish", large.clone()).get("error").cloned());
    assert_eq!(refused.expect("there is a bound")["code"], json!(111));
    other.result("publish", json!({"channel": "both:a", "data": "small"}));
    assert_eq!(backend.asked("Publication")["data"], json!("\"small\""));
    session.result("unsubscribe", json!({"channel": "deaf:a"}));
    gateway.wait_for_metric("hook_streams", 2);
    gateway.stop();
}

/// Rows: what the backend does, and what the subscriber hears then.
#[test]
fn a_stream_that_ends_takes_its_subscription_along() {
    let Some(python) = environment() else { return };
    let mut backend = Backend::start(&python, Way::Grpc, 0);
    let gateway = fed_by(&backend);
    let mut session = gateway.connected("42");
    let mut steady = gateway.connected("43");
    steady.subscribe("one:steady");
    let server = json!({"code": 2000, "reason": "server unsubscribe"});
    let lost = json!({"code": 2500, "reason": "insufficient state"});
    for (does, expected) in [("end", &server), ("fail", &lost), ("junk", &lost)] {
        for channel in ["one:a", "both:a"] {
            session.subscribe(channel);
            backend.tell(&json!({"channel": channel, "tell": {"last": does}}));
            backend.tell(&json!({"channel": channel, does: true}));
            assert_eq!(told(&mut session, channel), json!({"last": does}), "nothing is lost");
            let push = session.push();
            assert_eq!(push, json!({"channel": channel, "unsubscribe": expected}), "{does}");
            session.fails("presence", json!({"channel": "one:a"}), 103);
        }
    }
    gateway.wait_for_metric("hook_streams", 1);
    backend.set("empty");
    session.fails("subscribe", json!({"channel": "one:a"}), 100);
    backend.set("disconnect");
    session.command("subscribe", &json!({"channel": "one:a"}));
    assert_eq!(session.closed_with(), 4500);
    backend.asked("Cancelled");
    backend.set("right");
    let mut session = gateway.connected("42");
    // What ends on this side is cancelled on the other.
    type Ends = fn(&Gateway, &mut Session);
    let ends: [(&str, Ends); 3] = [
        ("unsubscribed by itself", |_, session| {
            session.result("unsubscribe", json!({"channel": "one:a"}));
        }),
        ("unsubscribed by the API", |gateway, session| {
            gateway.api("unsubscribe", json!({"user": "42", "channel": "one:a"}));
            assert!(session.push()["unsubscribe"].is_object());
        }),
        ("disconnected", |gateway, session| {
            gateway.api("disconnect", json!({"user": "42"}));
            session.closed(3503);
        }),
    ];
    for (what, end) in ends {
        session.subscribe("one:a");
        end(&gateway, &mut session);
        assert_eq!(backend.asked("Cancelled")["channel"], json!("one:a"), "{what}");
        gateway.wait_for_metric("hook_streams", 1);
    }
    for (by, count) in [("backend", 2), ("failure", 4), ("client", 3)] {
        assert_eq!(
            gateway.metric(&format!("hook_streams_ended_total{{by=\"{by}\"}}")),
            count,
            "{by}"
        );
    }
    backend.tell(&json!({"channel": "one:steady", "tell": 1}));
    assert_eq!(told(&mut steady, "one:steady"), json!(1), "nobody else noticed");
    // A backend that dies ends them all; back again, it is asked again.
    let port = backend.address().port();
    drop(backend);
    assert_eq!(steady.push()["unsubscribe"], lost);
    steady.fails("subscribe", json!({"channel": "one:steady"}), 100);
    let mut backend = Backend::start(&python, Way::Grpc, port);
    steady.subscribe("one:steady");
    backend.tell(&json!({"channel": "one:steady", "tell": 2}));
    assert_eq!(told(&mut steady, "one:steady"), json!(2));
    gateway.stop();
}

#[test]
fn streams_are_bounded_and_who_does_not_read_loses_only_its_own() {
    let Some(python) = environment() else { return };
    let mut backend = Backend::start(&python, Way::Grpc, 0);
    let gateway = bounded(&backend, 2, "128KiB");
    let mut session = gateway.connected("42");
    let mut lazy = gateway.connected("43");
    session.subscribe("one:a");
    lazy.subscribe("one:b");
    for _ in 0..2 {
        session.fails("subscribe", json!({"channel": "one:c"}), 100);
    }
    assert_eq!(gateway.metric("hook_streams_full_total"), 2);
    // Those of another proxy have their own.
    session.subscribe("both:a");
    // What it is told is more than sockets and its queue hold.
    let text = "x".repeat(60_000);
    backend.tell(&json!({"channel": "one:b", "tell": text, "times": 2000}));
    backend.asked("Cancelled");
    gateway.wait_for_metric("hook_streams", 2);
    session.subscribe("one:c");
    for channel in ["one:a", "both:a", "one:c"] {
        backend.tell(&json!({"channel": channel, "tell": channel}));
        assert_eq!(told(&mut session, channel), json!(channel));
    }
    lazy.closed(3008);
    gateway.stop();
}

#[test]
fn a_token_decides_before_the_backend_and_leaves_no_stream() {
    let Some(python) = environment() else { return };
    let backend = Backend::start(&python, Way::Grpc, 0);
    let gateway = fed_by(&backend);
    let mut session = gateway.connected("42");
    let claims = json!({"sub": "42", "channel": "both:a", "exp": unix() + 600});
    session.result("subscribe", json!({"channel": "both:a", "token": token(&claims)}));
    session.fails("publish", json!({"channel": "both:a", "data": {}}), 108);
    assert_eq!(gateway.metric("hook_streams"), 0);
    gateway.stop();
}
