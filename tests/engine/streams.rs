//! Streams of the engine: responses that go on, as a library's user has them. Whatever ends one,
//! the application's farewell comes before the end of the body; bodies are read within limits.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::Duration;

use ringhold::protocol::request::Request;
use ringhold::{
    Cause, CloseCode, Closed, Config, ConnId, Connection, Context, Counters, Drain, Ending, Frame,
    Handler, Heartbeat, HeartbeatAction, HttpAction, HttpResponse, Kind, Message, Running,
    SendError, Server, UpgradeAction,
};

use crate::support::PATIENCE;
use crate::support::figures;
use crate::support::stream::{Stream, request, send};

/// `max_outboxes` where answers are too long, and more than a turn of a test queues besides.
const OUTBOXES: usize = 1 << 20;
const TURN: usize = 16 << 10;

/// What happens to a stream is in its path.
struct Host {
    opened: mpsc::Sender<ConnId>,
    closed: mpsc::Sender<Cause>,
}

impl Handler for Host {
    type State = String;
    /// Somebody spoke for this connection.
    type Event = ConnId;

    fn on_upgrade(
        &mut self,
        _: &mut Context<'_>,
        _: &Request<'_>,
        _: SocketAddr,
    ) -> UpgradeAction<String> {
        UpgradeAction::accept("/websocket".to_owned())
    }

    fn on_http(
        &mut self,
        _: &mut Context<'_>,
        request: &Request<'_>,
        body: Option<&[u8]>,
        _: SocketAddr,
    ) -> HttpAction<String> {
        match (request.path(), request.method, body) {
            ("/nothing", ..) => return HttpAction::Refuse,
            ("/answer", ..) => {
                let headers = vec![("X-Answer".to_owned(), "yes".to_owned())];
                return HttpAction::Respond(HttpResponse::new(204).headers(headers));
            }
            ("/ask", ..) => panic!("asked what it cannot answer"),
            (_, "POST", None) => return HttpAction::Body(1000),
            _ => {}
        }
        if request.path().starts_with("/later") {
            return HttpAction::Later { state: request.path().to_owned() };
        }
        let size = body.map_or(0, <[u8]>::len);
        let headers = vec![("X-Body".to_owned(), size.to_string())];
        HttpAction::Stream { state: request.path().to_owned(), headers }
    }

    fn on_open(&mut self, conn: &mut Connection<'_>, path: &mut String) {
        self.opened.send(conn.id()).expect("the test listens");
        assert_eq!(
            conn.ping(b""),
            if path == "/websocket" { Ok(()) } else { Err(SendError::Stream) }
        );
        match path.as_str() {
            "/panic" => panic!("at the wrong moment"),
            "/close" => {
                conn.text("{\"n\":1}\n").expect("it is open");
                conn.close(CloseCode(4321), "because").expect("it is open");
                assert_eq!(conn.text("late"), Err(SendError::Gone));
            }
            "/later/begin" => {
                assert_eq!(conn.text("early"), Err(SendError::Gone));
                let (id, headers) = (conn.id(), [("X-Later".to_owned(), "yes".to_owned())]);
                conn.begin(id, &headers).expect("it has no answer");
                assert_eq!(conn.begin(id, &headers), Err(SendError::Gone));
                assert_eq!(conn.respond(id, &HttpResponse::new(200)), Err(SendError::Gone));
                conn.text("{\"n\":1}\n").expect("it is open");
                conn.close(CloseCode(4321), "because").expect("it is open");
            }
            "/later/respond" => {
                let response = HttpResponse::new(402).body("text/plain", "pay");
                let id = conn.id();
                conn.respond(id, &response).expect("it has no answer");
                assert_eq!(conn.text("late"), Err(SendError::Gone));
            }
            "/later/large" | "/later/too-large" => {
                // About half of `max_outboxes`, a little less or more.
                let more = usize::from(path == "/later/too-large");
                let body = vec![b'x'; OUTBOXES / 2 - TURN + more * 2 * TURN];
                let response = HttpResponse::new(200).body("text/plain", body);
                let id = conn.id();
                conn.respond(id, &response).expect("it has no answer");
                assert_eq!(conn.respond(id, &response), Err(SendError::Gone));
            }
            "/later/close" => conn.close(CloseCode(4321), "because").expect("it is open"),
            "/many" => {
                for n in 0..100 {
                    let line = format!("{{\"n\":{n},\"x\":\"{}\"}}\n", "x".repeat(n * 50));
                    // Nothing is nothing, and not the end.
                    conn.text("").expect("it is open");
                    let sent = match n % 3 {
                        0 => conn.send(Kind::Binary, line.as_bytes()),
                        1 => conn.send_frame(&Frame::text(&line)),
                        _ => conn.send_frame(&Frame::chunk(line.as_bytes())),
                    };
                    sent.expect("there is room");
                }
                conn.close(CloseCode(1000), "all").expect("it is open");
            }
            _ => {}
        }
    }

    fn on_message(&mut self, _: &mut Connection<'_>, path: &mut String, _: Message<'_>) {
        assert_eq!(path, "/websocket", "a message on a stream");
    }

    fn on_heartbeat(&mut self, conn: &mut Connection<'_>, path: &mut String) -> HeartbeatAction {
        match conn.text("{}\n") {
            Ok(()) if path == "/beat" => HeartbeatAction::Sent,
            _ => HeartbeatAction::Quiet,
        }
    }

    fn farewell(&self, path: &String, ending: &Ending<'_>, out: &mut Vec<u8>) {
        let of = if path == "/websocket" { "websocket" } else { "stream" };
        let Ending { code, reason, .. } = ending;
        out.extend_from_slice(format!("{{\"{of}\":[{},\"{reason}\"]}}\n", code.0).as_bytes());
    }

    fn on_close(&mut self, _: &mut Context<'_>, _: ConnId, _: String, closed: &Closed) {
        let _ = self.closed.send(closed.cause);
    }

    fn on_event(&mut self, cx: &mut Context<'_>, id: ConnId) {
        cx.heard(id, 2);
    }
}

struct Site {
    running: Running<Host>,
    address: SocketAddr,
    opened: mpsc::Receiver<ConnId>,
    closed: mpsc::Receiver<Cause>,
}

fn start(change: impl FnOnce(&mut Config)) -> Site {
    let (out, opened) = mpsc::channel();
    let (end, closed) = mpsc::channel();
    let second = Duration::from_secs(1);
    let builder = Server::builder().listen(SocketAddr::from(([127, 0, 0, 1], 0))).workers(1);
    let builder = builder.configure(|config| {
        config.tick = Duration::from_millis(10);
        config.heartbeat = Heartbeat { enabled: false, ..Heartbeat::default() };
        config.close_timeout = second;
        change(config);
    });
    let running = builder.start(move |_| Host { opened: out.clone(), closed: end.clone() });
    let running = running.expect("the server starts");
    let address = running.address().expect("it listens");
    Site { running, address, opened, closed }
}

impl Site {
    fn get(&self, path: &str) -> Stream {
        Stream::open(self.address, &request("GET", path, &[], b""))
    }

    fn cause(&self) -> Cause {
        self.closed.recv_timeout(PATIENCE).expect("an end")
    }

    fn id(&self) -> ConnId {
        self.opened.recv_timeout(PATIENCE).expect("it opens")
    }

    fn counters(&self) -> Counters {
        figures::counters(&self.running.handle())
    }

    fn end(self) {
        self.running.handle().stop();
        let stats = self.running.join().expect("it ends well");
        assert_eq!((stats.counters.streams, stats.counters.connections), (0, 0));
    }
}

/// The last element, and the end behind it.
fn ends(mut stream: Stream, code: u16, reason: &str) {
    let words = loop {
        let line = stream.line().expect("a farewell");
        if line.get("stream").is_some() {
            break line;
        }
    };
    assert_eq!(words, serde_json::json!({"stream": [code, reason]}));
    stream.expect_end();
}

#[test]
fn whatever_ends_a_stream_its_farewell_is_said() {
    let site = start(|config| config.message_rate = 2);
    ends(site.get("/close"), 4321, "because");
    assert_eq!(site.cause(), Cause::Application);
    ends(site.get("/panic"), 1011, "internal error");
    assert_eq!(site.cause(), Cause::Panic);
    // Another thread closes it, and it talks too much by its other way.
    let _ = (site.id(), site.id());
    let stream = site.get("/");
    site.running.handle().close(site.id(), CloseCode(4000), "by handle").expect("it is there");
    ends(stream, 4000, "by handle");
    assert_eq!(site.cause(), Cause::Application);
    let stream = site.get("/");
    let id = site.id();
    for _ in 0..20 {
        site.running.handle().post(id.core(), id).expect("there is room");
    }
    ends(stream, 1008, "too many messages");
    assert_eq!(site.cause(), Cause::Rate);
    let stream = site.get("/");
    let _ = site.id();
    let drain = Drain { code: CloseCode(3001), reason: "going".to_owned(), ..Drain::default() };
    site.running.handle().drain(&drain);
    ends(stream, 3001, "going");
    assert_eq!(site.cause(), Cause::Drain);
    site.end();
}

#[test]
fn heartbeats_want_an_answer_only_where_one_is_awaited() {
    let site = start(|config| {
        config.heartbeat = Heartbeat {
            start: Duration::from_millis(300),
            floor: Duration::from_millis(300),
            ceiling: Duration::from_millis(300),
            // Longer than this test may have to wait for its processor.
            suspect: Duration::from_secs(8),
            probe: Duration::from_secs(8),
            dead: Duration::from_secs(8),
            steady: true,
            close: Some((CloseCode(3012), "no pong")),
            enabled: true,
        };
    });
    let mut one_way = site.get("/");
    let _ = site.id();
    for _ in 0..4 {
        assert_eq!(one_way.line(), Some(serde_json::json!({})));
    }
    let mut answered = site.get("/beat");
    let id = site.id();
    for _ in 0..4 {
        assert_eq!(answered.line(), Some(serde_json::json!({})));
        site.running.handle().post(id.core(), id).expect("there is room");
    }
    ends(answered, 3012, "no pong");
    assert_eq!(site.cause(), Cause::Heartbeat);
    let counters = site.counters();
    assert!(counters.heartbeats_answered >= 4 && counters.closed_heartbeat == 1);
    assert_eq!((counters.open, counters.streams), (1, 1));
    site.end();
}

#[test]
fn each_message_is_a_chunk_however_it_was_made() {
    let site = start(|_| {});
    let mut stream = site.get("/many");
    for n in 0..100 {
        let chunk = String::from_utf8(stream.chunk().expect("a chunk")).expect("text");
        let line: serde_json::Value = serde_json::from_str(&chunk).expect("a whole line");
        assert_eq!((&line["n"], chunk.ends_with("}\n")), (&serde_json::json!(n), true));
    }
    ends(stream, 1000, "all");
    let mut old = Stream::open(site.address, b"GET /many HTTP/1.0\r\n\r\n");
    for n in 0..100 {
        assert_eq!(old.line().expect("a line")["n"], serde_json::json!(n));
    }
    ends(old, 1000, "all");
    site.end();
}

#[test]
fn bodies_and_answers_have_their_limits() {
    let site = start(|config| config.handshake_timeout = PATIENCE);
    let status = |bytes: &[u8]| Stream::open(site.address, bytes).status;
    for size in [0, 1, 999, 1000] {
        let bytes = request("POST", "/", &[], &vec![b'x'; size]);
        let stream = Stream::open(site.address, &bytes);
        let said = stream.header("x-body").map(str::to_owned);
        assert_eq!((stream.status, said), (200, Some(size.to_string())));
    }
    assert_eq!(status(&request("POST", "/", &[], &[b'x'; 1001])), 413);
    assert_eq!(status(b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"), 411);
    assert_eq!(status(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 1x\r\n\r\n"), 400);
    let twice = b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx";
    assert_eq!(status(twice), 400);
    let vast = b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 99999999999999999999999\r\n\r\n";
    assert_eq!(status(vast), 413);
    assert_eq!(status(b"GET / HTTP/1.1\r\n\r\n"), 400, "no Host");
    let answer = site.get("/answer");
    assert_eq!((answer.status, answer.header("x-answer")), (204, Some("yes")));
    assert_eq!(site.get("/nothing").status, 426);
    assert_eq!(site.get("/ask").status, 503);
    let counters = site.counters();
    assert_eq!((counters.answered, counters.panics, counters.inbound_bytes_held), (1, 1, 0));
    site.end();

    // A body that does not come.
    let site = start(|config| config.handshake_timeout = Duration::from_secs(6));
    let half = b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nabc";
    assert_eq!(Stream::open(site.address, half).status, 408);
    site.end();

    // Where there is no memory for it.
    let site = start(|config| config.max_inbound = 500);
    let bytes = b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 900\r\n\r\nabc";
    assert_eq!(Stream::open(site.address, bytes).status, 503);
    assert_eq!(site.counters().refused_inbound_full, 1);
    site.end();
}

#[test]
fn a_websocket_has_a_farewell_too() {
    let site = start(|_| {});
    let (mut client, _) =
        tungstenite::connect(format!("ws://{}/", site.address)).expect("it opens");
    let id = site.id();
    site.running.handle().close(id, CloseCode(4000), "so").expect("it is there");
    let next = |client: &mut tungstenite::WebSocket<_>| loop {
        match client.read().expect("a message") {
            tungstenite::Message::Ping(_) => {}
            other => return other,
        }
    };
    assert_eq!(next(&mut client), tungstenite::Message::text("{\"websocket\":[4000,\"so\"]}\n"));
    let tungstenite::Message::Close(Some(frame)) = next(&mut client) else { panic!("no close") };
    assert_eq!((u16::from(frame.code), frame.reason.as_str()), (4000, "so"));
    drop(client);
    site.end();
}

#[test]
fn a_request_may_be_answered_later() {
    let site = start(|_| {});
    let raw = |path: &str| {
        let mut answer = String::new();
        let mut socket = send(site.address, &request("GET", path, &[], b""));
        std::io::Read::read_to_string(&mut socket, &mut answer).expect("an answer");
        assert_eq!(site.cause(), Cause::Application, "{path}");
        answer
    };
    let begun = raw("/later/begin");
    assert!(
        begun.starts_with("HTTP/1.1 200 ") && begun.contains("\r\nX-Later: yes\r\n"),
        "{begun}"
    );
    assert!(begun.contains("{\"n\":1}\n") && begun.contains("[4321,\"because\"]"), "{begun}");
    let responded = raw("/later/respond");
    assert!(responded.starts_with("HTTP/1.1 402 ") && responded.ends_with("\r\n\r\npay"));
    let closed = raw("/later/close");
    assert!(closed.starts_with("HTTP/1.1 503 ") && !closed.contains("4321"), "{closed}");
    site.end();
}

#[test]
fn an_answer_that_comes_later_has_a_bound() {
    let site = start(|config| {
        config.max_outboxes = OUTBOXES;
    });
    let raw = |path: &str| {
        let mut answer = String::new();
        let mut socket = send(site.address, &request("GET", path, &[], b""));
        std::io::Read::read_to_string(&mut socket, &mut answer).expect("an answer");
        assert_eq!(site.cause(), Cause::Application, "{path}");
        answer
    };
    let before = site.counters().refused_application;
    let large = raw("/later/large");
    assert!(large.starts_with("HTTP/1.1 200 ") && large.ends_with('x'), "{}", large.len());
    assert!(large.len() > OUTBOXES / 2 - TURN);
    let refused = raw("/later/too-large");
    assert!(refused.starts_with("HTTP/1.1 503 ") && !refused.contains("xxx"), "{refused}");
    let after = site.counters().refused_application;
    assert_eq!(after - before, 1);
    site.end();
}
