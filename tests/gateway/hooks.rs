//! Hooks of every kind, over HTTP and over gRPC, with a backend that is right, late, slow, wrong in
//! each way, gone, and back.
//!
//! Method: each row puts the backend into one state and has a client ask in each of the ways there
//! are, all at once. What they hear and what is counted is compared with the row; then the backend
//! is right again, and the same clients ask once more. Meanwhile a witness, whose questions go to
//! another backend, is answered, and a listener hears each publication that was promised, and no
//! other. Where the row is about time, it is the backend that waits and not the test; where it is
//! not, proxies are patient.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};

use crate::support::backend::{Backend, Way, environment};
use crate::support::gateway::{Gateway, Session, assert_error, token};
use crate::support::moments::{connect_for, subscribe_for};
use crate::support::until;

/// The backend's methods, with the names of their hooks. The last is of gRPC alone.
const KINDS: [(&str, &str); 7] = [
    ("Connect", "connect"),
    ("Refresh", "refresh"),
    ("Subscribe", "subscribe"),
    ("Publish", "publish"),
    ("RPC", "rpc"),
    ("SubRefresh", "sub_refresh"),
    ("SubscribeUnidirectional", "subscribe_stream"),
];

fn kinds(way: Way) -> impl Iterator<Item = (&'static str, &'static str)> {
    KINDS.into_iter().filter(move |(_, hook)| way == Way::Grpc || *hook != "subscribe_stream")
}

/// A state of the backend, and why there is no answer then.
struct Row {
    state: &'static str,
    why: Option<&'static str>,
}

const ROWS: [Row; 10] = [
    Row { state: "right", why: None },
    Row { state: "late", why: None },
    Row { state: "slow", why: Some("timeout") },
    Row { state: "garbage", why: Some("bad_reply") },
    Row { state: "wrong", why: Some("bad_reply") },
    Row { state: "large", why: Some("bad_reply") },
    Row { state: "status", why: Some("status") },
    Row { state: "cut", why: Some("unreachable") },
    Row { state: "gone", why: Some("unreachable") },
    Row { state: "right", why: None },
];

const TABLES: &str = r#"
[http_server]
port = 0
[http_api]
key = "api key of the tests"
[prometheus]
enabled = true
[client]
ping_interval = "0s"
# Who connects, and what expires, waits for its backend however long that takes.
stale_close_delay = "1h"
expired_close_delay = "1h"
expired_sub_close_delay = "1h"
[client.token]
hmac_secret_key = "secret of the tests"
[rpc]
namespaces = [{ name = "steady", proxy_enabled = true, proxy_name = "steady" }]
without_namespace = { proxy_enabled = true }
[channel.without_namespace]
subscribe_proxy_enabled = true
publish_proxy_enabled = true
sub_refresh_proxy_enabled = true
[[channel.namespaces]]
name = "steady"
subscribe_proxy_enabled = true
subscribe_proxy_name = "steady"
publish_proxy_enabled = true
publish_proxy_name = "steady"
"#;

const FED: &str = "[[channel.namespaces]]\nname = \"fed\"\nsubscribe_stream_proxy_enabled = true\n";

/// A gateway, and those who are not to be disturbed.
struct Scene {
    gateway: Gateway,
    /// Asks the other backend.
    witness: Session,
    /// Hears `room`, where clients publish as the backend allows.
    listener: Session,
    count: u64,
}

impl Scene {
    /// All questions go to the first backend, those of `steady` to the other.
    fn new(way: Way, backend: &Backend, steady: &Backend, timeout: &str) -> Self {
        let proxy = |table: &str, method: &str, more: &str| {
            let endpoint = backend.endpoint(method);
            format!("[{table}]\nendpoint = \"{endpoint}\"\ntimeout = \"{timeout}\"\n{more}")
        };
        let any = steady.endpoint("any");
        let mut tables = vec![
            format!(
                "proxies = [{{ name = \"steady\", endpoint = \"{any}\", timeout = \"60s\" }}]\n"
            ),
            TABLES.to_owned(),
            proxy("client.proxy.connect", "Connect", "enabled = true\n"),
            proxy("client.proxy.refresh", "Refresh", "enabled = true\n"),
            proxy("channel.proxy.subscribe", "Subscribe", ""),
            proxy("channel.proxy.publish", "Publish", ""),
            proxy("channel.proxy.sub_refresh", "SubRefresh", ""),
            proxy("rpc.proxy", "RPC", ""),
        ];
        if way == Way::Grpc {
            tables.push(proxy("channel.proxy.subscribe_stream", "", ""));
            tables.push(FED.to_owned());
        }
        let gateway = Gateway::start_whole(&tables.concat());
        let mut witness = gateway.connected("witness");
        witness.subscribe("steady:room");
        let mut listener = gateway.session();
        let claims = json!({"sub": "listener", "channels": ["room"]});
        listener.connect(&json!({"token": token(&claims)}));
        Self { gateway, witness, listener, count: 0 }
    }

    /// The witness is answered, and hears what it published itself.
    fn witness(&mut self, what: &str) {
        self.count += 1;
        let sum = self.witness.ask("rpc", json!({"method": "steady:sum", "data": {}}));
        assert_eq!(sum["rpc"]["data"], json!({"answer": 42}), "{what}: {sum}");
        let said = json!({"n": self.count});
        let mine = self.witness.ask("publish", json!({"channel": "steady:room", "data": said}));
        assert!(mine["publish"].is_object(), "{what}: {mine}");
        assert_eq!(self.witness.publication("steady:room")["data"], said, "{what}");
    }

    /// The listener has heard what was published, in `room`, and what now follows.
    fn heard(&mut self, published: bool, what: &str) {
        if published {
            assert_eq!(self.listener.publication("room")["data"], json!({"changed": true}));
        }
        self.count += 1;
        let said = json!({"n": self.count});
        self.gateway.api("publish", json!({"channel": "room", "data": said}));
        assert_eq!(self.listener.publication("room")["data"], said, "{what}");
    }

    /// Questions without an answer so far, by hook and reason.
    fn failures(&self) -> BTreeMap<(String, String), u64> {
        let metrics = self.gateway.metrics();
        let lines = metrics.lines().filter_map(|line| {
            let rest = line.strip_prefix("ringhold_hook_failures_total{hook=\"")?;
            let (hook, rest) = rest.split_once("\",why=\"")?;
            let (why, count) = rest.split_once("\"} ")?;
            Some(((hook.to_owned(), why.to_owned()), count.parse().expect("a count")))
        });
        lines.filter(|(_, count)| *count > 0).collect()
    }

    /// Has a client ask in this way.
    fn ask(&self, kind: &'static str) -> Asked {
        let mut session = match kind {
            "Connect" => self.gateway.session(),
            "Refresh" => {
                let claims = json!({"sub": "42", "channels": ["kept"]});
                connect_for(&self.gateway, 2, &claims).0
            }
            _ => self.gateway.connected("42"),
        };
        if kind == "SubRefresh" {
            subscribe_for(&mut session, "42", "kept", 2);
        }
        let id = say(kind, &mut session);
        Asked { kind, session, id }
    }

    /// What expired was kept, whatever the backend said.
    fn kept<'a>(&mut self, expired: impl Iterator<Item = &'a mut Asked>, what: &str) {
        self.count += 1;
        let said = json!({"n": self.count});
        self.gateway.api("publish", json!({"channel": "kept", "data": said}));
        for asked in expired {
            assert_eq!(asked.session.publication("kept")["data"], said, "{what}: {}", asked.kind);
            asked.session.no_push();
        }
    }
}

/// A client that waits for the backend.
struct Asked {
    kind: &'static str,
    session: Session,
    /// Of its command; `None`: it is the server that asks.
    id: Option<u64>,
}

fn say(kind: &str, session: &mut Session) -> Option<u64> {
    Some(match kind {
        "Connect" => session.command("connect", &json!({})),
        "Subscribe" => session.command("subscribe", &json!({"channel": "room"})),
        "SubscribeUnidirectional" => session.command("subscribe", &json!({"channel": "fed:room"})),
        "Publish" => session.command("publish", &json!({"channel": "room", "data": {"mine": 1}})),
        "RPC" => session.command("rpc", &json!({"method": "sum", "data": {}})),
        _ => return None,
    })
}

/// What a client hears of a backend that is right.
fn is_right(kind: &str, reply: &Value, what: &str) {
    let (method, data) = match kind {
        "Connect" => ("connect", json!({"hello": 1})),
        "Subscribe" | "SubscribeUnidirectional" => ("subscribe", json!({"sub": 1})),
        "RPC" => ("rpc", json!({"answer": 42})),
        _ => return assert_eq!(reply["publish"], json!({}), "{what}: {reply}"),
    };
    assert_eq!(reply[method]["data"], data, "{what}: {reply}");
}

fn rounds(way: Way) {
    let Some(python) = environment() else { return };
    let mut backend = Backend::start(&python, way, 0);
    let steady = Backend::start(&python, way, 0);
    let mut patient = Scene::new(way, &backend, &steady, "1h");
    let mut hurried = Scene::new(way, &backend, &steady, "12s");
    for Row { state, why } in ROWS {
        let what = format!("{way:?} {state}");
        let scene = if state == "slow" { &mut hurried } else { &mut patient };
        let before = scene.failures();
        backend = round(way, &python, backend, scene, state, why);
        // Each kind failed once, and for this reason.
        let mut expected = before;
        for (why, (_, hook)) in why.iter().flat_map(|why| kinds(way).map(move |kind| (why, kind))) {
            *expected.entry((hook.to_owned(), (*why).to_owned())).or_default() += 1;
        }
        assert_eq!(scene.failures(), expected, "{what}");
    }
    for scene in [patient, hurried] {
        scene.gateway.wait_for_metric("hooks_in_flight", 0);
        scene.gateway.wait_for_metric("hook_streams", 0);
        assert_eq!(scene.gateway.metric("hooks_queue_full_total"), 0);
        // Nobody was sent away, nor out of a channel.
        let metrics = scene.gateway.metrics();
        for code in ["3005", "3006", "2501"] {
            assert!(!metrics.contains(&format!("code=\"{code}\"}}")), "{code}: {metrics}");
        }
        scene.gateway.stop();
    }
}

/// One row, and the time after it. Returns the backend, which may be another process then.
fn round(
    way: Way,
    python: &Path,
    mut backend: Backend,
    scene: &mut Scene,
    state: &str,
    why: Option<&str>,
) -> Backend {
    let what = format!("{way:?} {state}");
    let port = backend.address().port();
    let mut there = match state {
        "gone" => {
            drop(backend);
            None
        }
        _ => {
            backend.set(state);
            Some(backend)
        }
    };
    let failures = |scene: &Scene| scene.failures().values().sum::<u64>();
    let failed = failures(scene);
    let mut all: Vec<_> = kinds(way).map(|(kind, _)| scene.ask(kind)).collect();
    if let Some(backend) = &there {
        let mut missing: BTreeSet<_> = kinds(way).map(|(method, _)| method).collect();
        while !missing.is_empty() {
            let asked = backend.next();
            // Streams of earlier rows may be cancelled just now.
            let method = asked["method"].as_str().expect("a question");
            if method == "Cancelled" {
                continue;
            }
            assert!(missing.remove(method), "{what}: {method} is asked again");
        }
    }
    // Here all questions wait, at least where the backend does.
    scene.witness(&what);
    if let Some(backend) = there.as_mut().filter(|_| state == "late") {
        backend.set("right");
    }
    for asked in &mut all {
        let Some(reply) = asked.id.map(|id| asked.session.reply(id)) else { continue };
        match why {
            None => is_right(asked.kind, &reply, &what),
            Some(_) => assert_error(&reply, 100, &format!("{what}: {}", asked.kind)),
        }
    }
    if why.is_some() {
        let count = failed + kinds(way).count() as u64;
        until("all failures", || failures(scene) == count);
    }
    scene.heard(why.is_none(), &what);
    scene.kept(all.iter_mut().filter(|asked| asked.id.is_none()), &what);
    let Some(_) = why else { return there.expect("it is right") };
    let backend = match there {
        Some(mut backend) => {
            backend.set("right");
            backend
        }
        None => Backend::start(python, way, port),
    };
    let what = format!("{what}, then right");
    for asked in &mut all {
        if asked.kind == "Connect" {
            // It was the client's last command.
            asked.session = scene.gateway.session();
        }
        let Some(id) = say(asked.kind, &mut asked.session) else { continue };
        let reply = asked.session.reply(id);
        is_right(asked.kind, &reply, &what);
    }
    scene.heard(true, &what);
    scene.witness(&what);
    backend
}

#[test]
fn http_backends_are_right_late_slow_wrong_gone_and_back() {
    rounds(Way::Http);
}

#[test]
fn grpc_backends_are_right_late_slow_wrong_gone_and_back() {
    rounds(Way::Grpc);
}
