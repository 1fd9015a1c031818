//! The upgrade, origins, subprotocols, sizes, and pings.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::gateway::{Gateway, Heard, PATH, Session, address, program};
use crate::support::server::Server;

fn statuses(gateway: &Gateway, origin: &str) -> u16 {
    gateway.upgrade(PATH, &[&format!("Origin: {origin}")]).0
}

#[test]
fn foreign_origins_are_refused() {
    let none = Gateway::start("");
    assert_eq!(none.upgrade(PATH, &[]).0, 101);
    for origin in ["https://example.org", "http://127.0.0.1", "null", "file://"] {
        assert_eq!(statuses(&none, origin), 403, "{origin}");
    }
    none.stop();

    let some = Gateway::start(
        "[client]\nallowed_origins = [\"https://example.org\", \"https://*.example.net\"]\n",
    );
    for (origin, status) in [
        ("https://example.org", 101),
        ("HTTPS://EXAMPLE.ORG", 101),
        ("https://a.example.net", 101),
        ("http://example.org", 403),
        ("https://example.org:8443", 403),
        ("https://example.org.evil.test", 403),
        ("https://example.net", 403),
        ("null", 403),
    ] {
        assert_eq!(statuses(&some, origin), status, "{origin}");
    }
    assert_eq!(some.upgrade(PATH, &[]).0, 101);
    some.stop();

    let any = Gateway::start("[client]\nallowed_origins = [\"*\"]\n");
    assert_eq!(statuses(&any, "https://example.org"), 101);
    any.stop();
}

#[test]
fn a_second_server_needs_to_say_that_it_takes_over() {
    let gateway = Gateway::start("");
    let port = gateway.address().port().to_string();
    let config = gateway.config().expect("it has a file").to_owned();
    let second = |more: &[&str]| {
        let mut command = program();
        command.arg("--config").arg(&config).args(["--port", &port]).args(more);
        command
    };
    let refused = second(&[]).output().expect("it runs");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("--takeover"), "{said}");
    let (mut successor, _) = Server::launch(&mut second(&["--takeover"]), address);
    gateway.stop();
    successor.signal(rustix::process::Signal::TERM);
    successor.exited_well();
}

#[test]
fn other_paths_are_not_found() {
    let gateway = Gateway::start("");
    for path in ["/", "/connection", "/connection/websockets", "/connection/websocket/more"] {
        assert_eq!(gateway.upgrade(path, &[]).0, 404, "{path}");
    }
    for path in ["/connection/websocket?a=b&cf_protocol_version=v2", "/connection/websocket?"] {
        assert_eq!(gateway.upgrade(path, &[]).0, 101, "{path}");
    }
    gateway.stop();

    let gateway = Gateway::start("[websocket]\nhandler_prefix = \"/ws\"\n");
    assert_eq!(gateway.upgrade("/ws", &[]).0, 101);
    assert_eq!(gateway.upgrade(PATH, &[]).0, 404);
    gateway.stop();
}

#[test]
fn the_subprotocol_offered_is_taken() {
    let gateway = Gateway::start("");
    for (offered, taken) in [
        ("", None),
        ("centrifuge-json", Some("centrifuge-json")),
        ("centrifuge-protobuf", Some("centrifuge-protobuf")),
        ("other", None),
        ("other, centrifuge-json", Some("centrifuge-json")),
    ] {
        let line = format!("Sec-WebSocket-Protocol: {offered}");
        let (head, _) = gateway.upgrade_head(PATH, &[&line]);
        assert_eq!(head.status, 101, "{offered:?}");
        assert_eq!(head.values("sec-websocket-protocol"), Vec::from_iter(taken), "{offered:?}");
    }
    let (head, _) = gateway.upgrade_head(PATH, &[]);
    assert!(head.values("sec-websocket-protocol").is_empty());
    assert!(head.values("sec-websocket-extensions").is_empty());
    gateway.stop();
}

#[test]
fn a_message_over_the_limit_closes() {
    let gateway = Gateway::start("[client]\ninsecure = true\n");
    let mut session = gateway.connected("");
    let message = |size: usize| {
        let frame = r#"{"id":9,"publish":{"channel":"c","data":""}}"#;
        frame.replace("\"\"}}", &format!("\"{}\"}}}}", "x".repeat(size - frame.len())))
    };
    assert_eq!(message(65_536).len(), 65_536);
    session.say(&message(65_536));
    assert_eq!(session.reply(9), json!({"id": 9, "publish": {}}));
    session.say(&message(65_537));
    let heard = session.hear();
    assert!(matches!(heard[..], [Heard::Close(1009, _)]), "{heard:?}");
    gateway.stop();
}

/// As short as it can be where a client that stands still for some seconds is no silent one.
const FAST: &str = "[client]\ninsecure = true\nping_interval = \"8s\"\npong_timeout = \"7s\"\n";

/// Waits for the next ping.
fn ping(session: &mut Session) {
    match session.hear().as_slice() {
        [Heard::Object(object)] if *object == json!({}) => {}
        other => panic!("expected a ping, got {other:?}"),
    }
}

#[test]
fn pings_are_announced_sent_and_awaited() {
    let gateway = Gateway::start(FAST);
    let begun = Instant::now();
    let mut session = gateway.session();
    let result = session.connect(&json!({}));
    assert_eq!((&result["ping"], &result["pong"]), (&json!(8), &json!(true)));
    // The first comes half an interval to one after the start, the others an interval after each
    // other. A loaded machine is late, but never early.
    let mut earliest = Duration::from_millis(3950);
    for n in 0..2 {
        ping(&mut session);
        assert!(begun.elapsed() >= earliest, "ping {n} after {:?}", begun.elapsed());
        earliest += Duration::from_secs(8);
        session.say("{}");
    }
    ping(&mut session);
    session.closed(3012);
    earliest += Duration::from_millis(6950);
    assert!(begun.elapsed() >= earliest, "{:?}", begun.elapsed());
    gateway.stop();
}

#[test]
fn a_ping_is_answered_once() {
    let gateway = Gateway::start(FAST);
    let mut session = gateway.connected("");
    ping(&mut session);
    let id = session.command("publish", &json!({"channel": "c", "data": 1}));
    let heard = session.hear();
    let reply = json!({"id": id, "publish": {}});
    assert!(matches!(&heard[..], [Heard::Object(object)] if *object == reply), "{heard:?}");
    session.say("{}");
    ping(&mut session);
    session.say("{}");
    // One pong for one ping.
    session.say("{}");
    session.closed(3501);
    gateway.stop();
}

/// A client that sends while it does not read is alive, so it is pinged again before it has seen
/// the first ping, and then answers both.
#[test]
fn two_pings_may_have_two_pongs() {
    let gateway = Gateway::start(FAST);
    let mut session = gateway.connected("");
    let publish = |session: &mut Session| {
        let id = session.command("publish", &json!({"channel": "c", "data": 1}));
        let heard = session.hear();
        let reply = json!({"id": id, "publish": {}});
        assert!(matches!(&heard[..], [Heard::Object(object)] if *object == reply), "{heard:?}");
    };
    ping(&mut session);
    publish(&mut session);
    ping(&mut session);
    session.say("{}");
    session.say("{}");
    publish(&mut session);
    session.say("{}");
    session.closed(3501);
    gateway.stop();
}

#[test]
fn pings_and_pongs_can_be_off() {
    let gateway = Gateway::start("[client]\ninsecure = true\nping_interval = \"0s\"\n");
    let result = gateway.session().connect(&json!({}));
    assert!(result.get("ping").is_none() && result.get("pong").is_none(), "{result}");
    gateway.stop();

    let gateway = Gateway::start(
        "[client]\ninsecure = true\nping_interval = \"1s\"\npong_timeout = \"0s\"\n",
    );
    let mut session = gateway.session();
    let result = session.connect(&json!({}));
    assert_eq!(result["ping"], json!(1));
    assert!(result.get("pong").is_none(), "{result}");
    for _ in 0..3 {
        ping(&mut session);
    }
    gateway.stop();
}

#[test]
fn pings_are_25_seconds_apart_if_nothing_is_said() {
    let gateway = Gateway::start("[client]\ninsecure = true\n");
    let result = gateway.session().connect(&json!({}));
    assert_eq!((&result["ping"], &result["pong"]), (&json!(25), &json!(true)));
    gateway.stop();
}

#[test]
fn a_client_may_want_pings_of_the_websocket() {
    let gateway = Gateway::start(FAST);
    let mut session = gateway.session_at(&format!("{PATH}?cf_ws_frame_ping_pong=true"), &[]);
    let result = session.connect(&json!({}));
    assert!(result.get("ping").is_none() && result.get("pong").is_none(), "{result}");
    for _ in 0..2 {
        let heard = session.hear();
        let [Heard::Ping(payload)] = heard.as_slice() else { panic!("{heard:?}") };
        session.client().send_frame(0x8a, payload);
    }
    let heard = session.hear();
    assert!(matches!(heard[..], [Heard::Ping(_)]), "{heard:?}");
    // Unanswered.
    let heard = session.hear();
    assert!(matches!(heard[..], [Heard::Close(3012, _)]), "{heard:?}");
    gateway.stop();
}

#[test]
fn a_connection_without_connect_is_stale() {
    let gateway = Gateway::start("[client]\ninsecure = true\nstale_close_delay = \"8s\"\n");
    let mut silent = gateway.session();
    let mut connected = gateway.connected("");
    silent.closed(3502);
    connected.result("publish", json!({"channel": "c", "data": 1}));
    gateway.stop();
}

#[test]
fn a_server_that_goes_says_so() {
    let gateway = Gateway::start("[client]\ninsecure = true\n");
    let mut session = gateway.connected("");
    let mut silent = gateway.session();
    let ending = std::thread::spawn(move || gateway.stop());
    session.closed(3001);
    silent.closed(3001);
    ending.join().expect("it ends well");
}
