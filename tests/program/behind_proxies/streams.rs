//! Event streams through proxies: every kind of them, with commands posted beside where there are
//! any. Events come one by one, whole, and for as long as there are heartbeats; ends of all kinds
//! pass.

use std::io::ErrorKind::ConnectionReset;
use std::io::Read;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{Site, behind, behind_all, varied};
use crate::support::gateway::{token, token_of};
use crate::support::stream::{Stream, escaped, request, send};

/// Where nobody answers pings.
const UNANSWERED: &str = "[client]\nping_interval = \"600s\"\n";

const TABLES: &str = "[sse]\nenabled = true\n[http_stream]\nenabled = true\n\
    [uni_sse]\nenabled = true\n[uni_http_stream]\nenabled = true\n\
    [[channel.namespaces]]\nname = \"news\"\nhistory_size = 100\nhistory_ttl = \"300s\"\n\
    force_recovery = true\nallow_subscribe_for_client = true\nallow_publish_for_client = true\n\
    presence = true\n";

/// The kinds of streams, by the last part of their paths.
const KINDS: [&str; 4] = ["sse", "http_stream", "uni_sse", "uni_http_stream"];

/// A stream through the proxy that hears the channel `news:a`, and how its commands find it.
struct Listener {
    kind: &'static str,
    proxy: SocketAddr,
    stream: Stream,
    session: Value,
    node: Value,
}

impl Site {
    fn listen(&self, kind: &'static str) -> Listener {
        let uni = kind.starts_with("uni_");
        let connect = match uni {
            true => json!({"token": token(&json!({"sub": kind, "channels": ["news:a"]}))}),
            false => json!({"id": 1, "connect": {"token": token_of(kind)}}),
        };
        let mut stream = self.stream(kind, &connect, &[]);
        let mut reply = stream.heard().expect("a connect reply");
        let connect = &mut reply["connect"];
        assert!(connect["client"].is_string(), "{kind}: {reply}");
        let (session, node) = (connect["session"].take(), connect["node"].take());
        let proxy = self.front.address();
        let mut listener = Listener { kind, proxy, stream, session, node };
        if !uni {
            let reply = listener.ask("subscribe", json!({"channel": "news:a"}));
            assert!(reply["subscribe"].is_object(), "{kind}: {reply}");
        }
        listener
    }

    /// The answer to a request for a stream, which is one.
    fn stream(&self, kind: &str, connect: &Value, lines: &[&str]) -> Stream {
        let target = format!("/connection/{kind}");
        let connect = connect.to_string();
        let request = match kind.ends_with("sse") {
            true => {
                let target = format!("{target}?cf_connect={}", escaped(&connect));
                request("GET", &target, lines, b"")
            }
            false => request("POST", &target, lines, connect.as_bytes()),
        };
        let stream = Stream::open(self.front.address(), &request);
        assert_eq!(stream.status, 200, "{kind}");
        stream
    }

    fn publish(&self, data: &Value) {
        self.api("publish", &json!({"channel": "news:a", "data": data}));
    }
}

impl Listener {
    /// Posts commands.
    fn post(&self, commands: &str) {
        let body = json!({"session": self.session, "node": self.node, "data": commands});
        let lines = ["Content-Type: application/json"];
        let request = request("POST", "/emulation", &lines, body.to_string().as_bytes());
        assert_eq!(Stream::open(self.proxy, &request).status, 204, "{}", self.kind);
    }

    /// Posts a command and returns its reply, the next thing but pings on the stream.
    fn ask(&mut self, method: &str, parameters: Value) -> Value {
        self.post(&json!({"id": 2, method: parameters}).to_string());
        let reply = self.stream.heard().expect("a reply");
        assert_eq!(reply["id"], 2, "{}: {reply}", self.kind);
        reply
    }

    /// The next thing but pings, which is a push.
    fn push(&mut self) -> Value {
        let heard = self.stream.heard().unwrap_or_else(|| panic!("{}: it ended", self.kind));
        if self.is_uni() { heard } else { heard["push"].clone() }
    }

    /// What the next push publishes.
    fn published(&mut self) -> Value {
        let mut push = self.push();
        assert_eq!(push["channel"], "news:a", "{}: {push}", self.kind);
        push["pub"]["data"].take()
    }

    /// The next element, which may be a ping.
    fn element(&mut self) -> Option<Value> {
        if self.kind.ends_with("sse") { self.stream.event() } else { self.stream.line() }
    }

    fn is_uni(&self) -> bool {
        self.kind.starts_with("uni_")
    }
}

/// No event waits for the next one, nor for a buffer to be full: the next one is not published
/// before this one is here.
#[test]
fn each_event_arrives_by_itself() {
    behind(&format!("{TABLES}{UNANSWERED}"), |kind, site| {
        for mut listener in KINDS.map(|kind| site.listen(kind)) {
            for n in 0..5 {
                site.publish(&json!(n));
                assert_eq!(listener.published(), json!(n), "{kind:?} {}", listener.kind);
            }
        }
    });
}

#[test]
fn large_events_arrive_intact() {
    let tables = format!("{TABLES}{UNANSWERED}[emulation]\nmax_request_body_size = \"256KiB\"\n");
    behind(&tables, |kind, site| {
        let mut listeners = KINDS.map(|kind| site.listen(kind));
        for size in [2_000, 64 << 10] {
            for round in 0..4 {
                let text = varied(size, round);
                site.publish(&json!({"text": text}));
                for listener in &mut listeners {
                    let whole = listener.published()["text"] == json!(text);
                    assert!(whole, "{kind:?} {}: {size} bytes", listener.kind);
                }
            }
            // A command as large as that.
            let text = varied(size, 7);
            let command =
                json!({"id": 3, "publish": {"channel": "news:a", "data": text}}).to_string();
            listeners[0].post(&command);
            for listener in &mut listeners {
                let mut heard = listener.stream.heard().expect("an event");
                if heard["id"] == 3 {
                    heard = listener.stream.heard().expect("an event");
                }
                let push = if listener.is_uni() { &heard } else { &heard["push"] };
                assert!(push["pub"]["data"] == json!(text), "{kind:?} {}", listener.kind);
            }
            // The reply may also be behind.
            listeners[0] = site.listen(KINDS[0]);
        }
    });
}

/// Pings pass, and for streams with commands the answers to them: nothing is ever silent for as
/// long as the proxy's patience, here shorter than the stream.
#[test]
fn heartbeats_keep_a_stream() {
    let beats = format!("{TABLES}[client]\nping_interval = \"8s\"\npong_timeout = \"7s\"\n");
    behind_all(&beats, "16s", |kind, site| {
        std::thread::scope(|scope| {
            // A first ping may have come before all listen.
            let start = Instant::now();
            for mut listener in KINDS.map(|kind| site.listen(kind)) {
                scope.spawn(move || {
                    let stream = listener.kind;
                    for n in 0..3 {
                        assert_eq!(listener.element(), Some(json!({})), "{kind:?} {stream} {n}");
                        if !listener.is_uni() {
                            listener.post("{}");
                        }
                    }
                    assert!(start.elapsed() > Duration::from_millis(19_500), "{kind:?} {stream}");
                });
            }
        });
    });
    // And that the patience is what would have ended it otherwise.
    let silent = format!("{TABLES}[client]\nping_interval = \"0s\"\n");
    behind_all(&silent, "6s", |kind, site| {
        let start = Instant::now();
        let mut listeners = KINDS.map(|kind| site.listen(kind));
        for listener in &mut listeners {
            let mut socket = listener.stream.socket();
            // Cut, with or without the end of the last chunk.
            let mut rest = Vec::new();
            let end = socket.read_to_end(&mut rest);
            assert!(end.is_ok() && rest.len() <= 5, "{kind:?} {}: {end:?}", listener.kind);
            assert!(start.elapsed() >= Duration::from_millis(5900), "{kind:?} {}", listener.kind);
        }
        site.wait_clients(0);
    });
}

/// Its end passes the proxy, though nothing is said on the stream meanwhile.
#[test]
fn a_killed_listener_is_gone() {
    let slow = format!("{TABLES}[client]\nping_interval = \"600s\"\n");
    behind(&slow, |kind, site| {
        for stream in KINDS {
            let (reset, cut) = (site.listen(stream), site.listen(stream));
            let mut stays = site.listen(stream);
            site.wait_clients(3);
            let socket = socket2::SockRef::from(reset.stream.socket());
            socket.set_linger(Some(Duration::ZERO)).expect("set_linger");
            drop(reset);
            drop(cut);
            site.wait_clients(1);
            let present = site.api("presence_stats", &json!({"channel": "news:a"}));
            assert_eq!(present["num_clients"], 1, "{kind:?} {stream}: {present}");
            site.publish(&json!("still there?"));
            assert_eq!(stays.published(), json!("still there?"), "{kind:?} {stream}");
            drop(stays);
            site.wait_clients(0);
        }
    });
}

#[test]
fn a_drain_reaches_streams_as_their_farewell() {
    behind(&format!("{TABLES}{UNANSWERED}"), |kind, mut site| {
        let mut listeners = KINDS.map(|kind| site.listen(kind));
        site.gateway.signal(Signal::TERM);
        for listener in &mut listeners {
            let push = listener.push();
            let disconnect = &push["disconnect"];
            let said = (&disconnect["code"], &disconnect["reason"]);
            assert_eq!(said, (&json!(3001), &json!("shutdown")), "{kind:?} {}", listener.kind);
            assert_eq!(listener.stream.heard(), None, "{kind:?} {}", listener.kind);
        }
        site.gateway.exited_well();
    });
}

/// Whether the client's connection ends or the proxy itself: who comes back with the last id it
/// saw has missed nothing.
#[test]
fn the_last_id_recovers_what_was_missed() {
    behind(&format!("{TABLES}{UNANSWERED}"), |kind, mut site| {
        let connect = json!({"token": token(&json!({"sub": "42", "channels": ["news:a"]}))});
        let mut stream = site.stream("uni_sse", &connect, &[]);
        stream.heard().expect("a connect push");
        let mut last = 0;
        for cut in ["client", "proxy", "client"] {
            last += 1;
            site.publish(&json!(last));
            let push = stream.heard().expect("a push");
            assert_eq!(push["pub"]["data"], json!(last), "{kind:?} {cut}");
            let line = format!("Last-Event-ID: {}", stream.last_id);
            if cut == "proxy" {
                site.front.restart();
                let mut rest = Vec::new();
                let _ = stream.socket().read_to_end(&mut rest);
            }
            drop(stream);
            site.wait_clients(0);
            let missed = [last + 1, last + 2, last + 3];
            for data in missed {
                site.publish(&json!(data));
            }
            last += 3;
            stream = site.stream("uni_sse", &connect, &[&line]);
            let push = stream.heard().expect("a connect push");
            let sub = &push["connect"]["subs"]["news:a"];
            assert_eq!(sub["recovered"], true, "{kind:?} {cut}: {push}");
            let publications = sub["publications"].as_array().expect("what was missed");
            let data: Vec<_> = publications.iter().map(|one| one["data"].clone()).collect();
            assert_eq!(data, missed.map(|data| json!(data)), "{kind:?} {cut}");
        }
    });
}

/// While the server restarts the proxy answers nothing rather than an error: a browser's
/// `EventSource` gives up for ever at a status, and tries again after a lost connection.
#[test]
fn a_server_that_is_away_is_no_answer() {
    behind(&format!("{TABLES}{UNANSWERED}"), |kind, mut site| {
        let ask = request("GET", "/connection/uni_sse", &[], b"");
        site.gateway.signal(Signal::TERM);
        site.gateway.exited_well();
        for _ in 0..3 {
            let mut answer = Vec::new();
            let mut socket = send(site.front.address(), &ask);
            let end = socket.read_to_end(&mut answer);
            // A connection that is reset is no answer either; one that stays open would be.
            let ended = end.as_ref().err().is_none_or(|error| error.kind() == ConnectionReset);
            assert!(ended && answer.is_empty(), "{kind:?}: {end:?} {}", answer.escape_ascii());
        }
    });
}
