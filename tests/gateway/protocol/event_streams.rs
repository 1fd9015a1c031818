//! Streams with commands by `/emulation`: what is answered to which request, what is in chunks and
//! events, pings and pongs, and how streams end.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::PATIENCE;
use crate::support::gateway::{Gateway, token_of};
use crate::support::stream::{Stream, escaped, request, send};

const SSE: &str = "/connection/sse";
const HTTP_STREAM: &str = "/connection/http_stream";
const EMULATION: &str = "/emulation";

const TABLES: &str = "[client]\ninsecure = true\nallowed_origins = [\"https://a.test\"]\n\
    [sse]\nenabled = true\nmax_request_body_size = 1000\n\
    [http_stream]\nenabled = true\nmax_request_body_size = 1000\n[prometheus]\nenabled = true\n";

const CONNECT: &str = "{\"id\":1,\"connect\":{}}";

/// A page elsewhere can make a browser ask without saying who it is, by `<img>`; a page with a
/// strange origin, or a name that is no text, is no page on the list.
#[test]
fn a_page_elsewhere_opens_no_stream() {
    let gateway = Gateway::start(TABLES);
    let target = format!("{SSE}?cf_connect={}", escaped(CONNECT));
    let status = |headers: &str| {
        let head = format!("GET {target} HTTP/1.1\r\nHost: h\r\n{headers}\r\n");
        Stream::open(gateway.address(), head.as_bytes()).status
    };
    for headers in [
        "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: image\r\n",
        "Origin: https://b.test\r\n",
        "Origin: https://a.test/\r\n",
        "Origin: https://a.test\u{e9}\r\n",
        "Origin:\r\n",
    ] {
        assert_eq!(status(headers), 403, "{headers}");
    }
    let head = format!("GET {target} HTTP/1.1\r\nHost: h\r\nOrigin: https://");
    let latin = [head.as_bytes(), b"\xe9\r\n\r\n"].concat();
    assert_eq!(Stream::open(gateway.address(), &latin).status, 403);
    for headers in [
        "",
        "Origin: https://a.test\r\n",
        "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\n",
        "Origin: https://a.test\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: cors\r\n",
    ] {
        assert_eq!(status(headers), 200, "{headers}");
    }
    assert_eq!(status("Content-Length: 5\r\n"), 400);
}

fn sse(gateway: &Gateway, connect: &str) -> Stream {
    let target = format!("{SSE}?cf_connect={}", escaped(connect));
    let stream = Stream::open(gateway.address(), &request("GET", &target, &[], b""));
    assert_eq!(stream.status, 200);
    stream
}

fn http_stream(gateway: &Gateway, connect: &str) -> Stream {
    let body = request("POST", HTTP_STREAM, &[], connect.as_bytes());
    let stream = Stream::open(gateway.address(), &body);
    assert_eq!(stream.status, 200);
    stream
}

/// A connected session: its stream, and how its commands find it.
struct Session {
    stream: Stream,
    session: Value,
    node: Value,
}

impl Session {
    fn new(mut stream: Stream) -> Self {
        let mut reply = stream.heard().expect("a connect reply");
        assert_eq!(reply["id"], json!(1), "{reply}");
        let connect = &mut reply["connect"];
        assert!(connect["client"].is_string(), "{connect}");
        let (session, node) = (connect["session"].take(), connect["node"].take());
        assert!(session.as_str().is_some_and(|session| session.len() > 40), "{session}");
        Self { stream, session, node }
    }

    fn post(&self, gateway: &Gateway, commands: &str) {
        let body = json!({"session": self.session, "node": self.node, "data": commands});
        assert_eq!(post(gateway, &body.to_string()), 204);
    }
}

fn post(gateway: &Gateway, body: &str) -> u16 {
    let request = request("POST", EMULATION, &["Content-Type: application/json"], body.as_bytes());
    Stream::open(gateway.address(), &request).status
}

#[test]
fn both_kinds_of_stream_connect_command_and_hear() {
    let gateway = Gateway::start(TABLES);
    for stream in [sse(&gateway, CONNECT), http_stream(&gateway, CONNECT)] {
        let mut session = Session::new(stream);
        session.post(&gateway, r#"{"id":2,"subscribe":{"channel":"c"}}"#);
        let reply = session.stream.heard().expect("a reply");
        assert_eq!(reply, json!({"id": 2, "subscribe": {}}));
        // Several at once, with a line break between them.
        let both = "{\"id\":3,\"publish\":{\"channel\":\"c\",\"data\":1}}\n\
             {\"id\":4,\"presence\":{\"channel\":\"c\"}}";
        session.post(&gateway, both);
        let mut heard: Vec<_> = (0..3).map(|_| session.stream.heard().expect("three")).collect();
        heard.sort_by_key(|object| object["id"].as_u64());
        assert_eq!(heard[0]["push"]["pub"]["data"], json!(1), "{heard:?}");
        assert_eq!(heard[1], json!({"id": 3, "publish": {}}));
        assert_eq!(heard[2]["error"]["code"], json!(108), "{heard:?}");
        gateway.api("publish", json!({"channel": "c", "data": {"from": "backend"}}));
        let push = session.stream.heard().expect("a push");
        assert_eq!(push["push"]["pub"]["data"], json!({"from": "backend"}));
    }
    gateway.stop();
}

#[test]
fn heads_say_what_browsers_and_proxies_need() {
    let gateway = Gateway::start(TABLES);
    for (kind, expected) in [
        ("GET", "text/event-stream; charset=utf-8"),
        ("POST", "text/event-stream; charset=utf-8"),
        ("STREAM", "application/x-ndjson"),
    ] {
        let lines = ["Origin: https://a.test"];
        let request = match kind {
            "GET" => {
                let target = format!("{SSE}?x=1&cf_connect={}", escaped(CONNECT));
                request("GET", &target, &lines, b"")
            }
            "POST" => request("POST", SSE, &lines, CONNECT.as_bytes()),
            _ => request("POST", HTTP_STREAM, &lines, CONNECT.as_bytes()),
        };
        let mut stream = Stream::open(gateway.address(), &request);
        assert_eq!(stream.status, 200, "{kind}");
        for (name, value) in [
            ("content-type", expected),
            ("transfer-encoding", "chunked"),
            ("x-accel-buffering", "no"),
            ("access-control-allow-origin", "https://a.test"),
            ("access-control-allow-credentials", "true"),
            ("vary", "Origin"),
        ] {
            assert_eq!(stream.header(name), Some(value), "{kind} {name}");
        }
        assert!(stream.header("cache-control").is_some_and(|it| it.contains("no-store")));
        if kind != "STREAM" {
            assert_eq!(stream.chunk().as_deref(), Some(&b"\r\n"[..]), "the blank line at once");
        }
        // One element, one chunk.
        let chunk = String::from_utf8(stream.chunk().expect("the reply")).expect("text");
        let whole = match kind {
            "STREAM" => chunk.starts_with("{\"id\":1,") && chunk.ends_with("}\n"),
            _ => chunk.starts_with("data: {\"id\":1,") && chunk.ends_with("}\n\n"),
        };
        assert!(whole, "{chunk:?}");
    }
    gateway.stop();
}

#[test]
fn preflights_are_answered() {
    let gateway = Gateway::start(TABLES);
    for (path, methods) in
        [(SSE, "GET, POST, OPTIONS"), (HTTP_STREAM, "POST, OPTIONS"), (EMULATION, "POST, OPTIONS")]
    {
        let lines = [
            "Origin: https://a.test",
            "Access-Control-Request-Method: POST",
            "Access-Control-Request-Headers: content-type",
        ];
        let answer = Stream::open(gateway.address(), &request("OPTIONS", path, &lines, b""));
        assert_eq!(answer.status, 204, "{path}");
        for (name, value) in [
            ("access-control-allow-origin", "https://a.test"),
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-headers", "content-type"),
            ("access-control-allow-methods", methods),
            ("access-control-max-age", "300"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{path} {name}");
        }
        let lines = ["Origin: https://evil.test", "Access-Control-Request-Method: POST"];
        let answer = Stream::open(gateway.address(), &request("OPTIONS", path, &lines, b""));
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (403, None));
    }
    gateway.stop();
}

#[test]
fn every_refusal_has_its_status() {
    let gateway = Gateway::start(TABLES);
    let origin = "Origin: https://a.test";
    let status = |bytes: Vec<u8>| {
        let answer = Stream::open(gateway.address(), &bytes);
        if answer.status != 403 {
            let allowed = answer.header("access-control-allow-origin");
            assert_eq!(allowed, Some("https://a.test"), "a page can read {}", answer.status);
        }
        answer.status
    };
    let long = vec![b' '; 1001];
    for path in [SSE, HTTP_STREAM, EMULATION] {
        for method in ["PUT", "DELETE", "HEAD"] {
            assert_eq!(status(request(method, path, &[origin], b"")), 405, "{method} {path}");
        }
        assert_eq!(
            status(request("POST", path, &["Origin: https://b.test"], b"{}")),
            403,
            "{path}"
        );
        let chunked = format!("POST {path} HTTP/1.1\r\nHost: t\r\n{origin}\r\n");
        let chunked = format!("{chunked}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
        assert_eq!(status(chunked.into_bytes()), 411, "{path}");
        let bad =
            format!("POST {path} HTTP/1.1\r\nHost: t\r\n{origin}\r\nContent-Length: +1\r\n\r\n");
        assert_eq!(status(bad.into_bytes()), 400, "{path}");
    }
    for path in [SSE, HTTP_STREAM] {
        assert_eq!(status(request("POST", path, &[origin], &long)), 413, "{path}");
        assert_eq!(status(request("POST", path, &[origin], b"")), 400, "{path}");
    }
    let vast = vec![b' '; 65_537];
    assert_eq!(status(request("POST", EMULATION, &[origin], &vast)), 413);
    for method in ["HTTP_STREAM", "EMULATION"] {
        let path = if method == "EMULATION" { EMULATION } else { HTTP_STREAM };
        assert_eq!(status(request("GET", path, &[origin], b"")), 405, "{path}");
    }
    for query in ["", "?cf_connect", "?cf_connect=", "?connect=1"] {
        let target = format!("{SSE}{query}");
        assert_eq!(status(request("GET", &target, &[origin], b"")), 400, "{query}");
    }
    for (body, expected) in [
        ("", 400),
        ("{", 400),
        ("[]", 400),
        (r#"{"session":1}"#, 400),
        (r#"{"session":"s","node":"elsewhere","data":"{}"}"#, 404),
        (r#"{"session":"s","data":"{}"}"#, 404),
    ] {
        assert_eq!(
            status(request("POST", EMULATION, &[origin], body.as_bytes())),
            expected,
            "{body}"
        );
    }
    gateway.stop();

    // Not served unless it is switched on.
    let plain = Gateway::start("");
    for path in [SSE, HTTP_STREAM, EMULATION] {
        assert_eq!(Stream::open(plain.address(), &request("POST", path, &[], b"{}")).status, 404);
    }
    plain.stop();
}

#[test]
fn commands_for_nobody_are_taken_and_lost() {
    let gateway = Gateway::start(TABLES);
    let session = Session::new(sse(&gateway, CONNECT));
    let name = session.session.as_str().expect("a name").to_owned();
    let forged = [name.replace('A', "B") + "A", "nobody".to_owned(), String::new()];
    for session_name in forged {
        let body = json!({"session": session_name, "node": session.node, "data": "{}"});
        assert_eq!(post(&gateway, &body.to_string()), 204);
    }
    // A session that is gone.
    let body = json!({"session": name, "node": session.node, "data": "{}"}).to_string();
    drop(session);
    gateway.wait_for_metric("gateway_transport_connections{transport=\"sse\"}", 0);
    assert_eq!(post(&gateway, &body), 204);
    gateway.wait_for_metric("gateway_emulation_lost_total", 4);
    gateway.stop();
}

#[test]
fn bodies_may_come_in_pieces_and_wait_to_be_asked_for() {
    let gateway = Gateway::start(TABLES);
    let whole = request("POST", SSE, &["Expect: 100-continue"], CONNECT.as_bytes());
    let head = whole.len() - CONNECT.len();
    let mut socket = send(gateway.address(), &whole[..head]);
    let mut told = [0; 25];
    socket.read_exact(&mut told).expect("a word to go on");
    assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
    for byte in &whole[head..] {
        socket.write_all(&[*byte]).expect("a byte is taken");
    }
    // What follows the request means nothing, not even if it looks like one.
    socket.write_all(&request("GET", "/health", &[], b"")).expect("more is taken");
    let mut session = Session::new(Stream::on(socket));
    session.post(&gateway, r#"{"id":2,"publish":{"channel":"c","data":1}}"#);
    assert_eq!(session.stream.heard(), Some(json!({"id": 2, "publish": {}})));
    gateway.stop();

    // A body that does not come.
    let gateway = Gateway::start(TABLES);
    let socket = send(gateway.address(), &whole[..head + 3]);
    drop(socket);
    gateway.wait_for_metric("handshake_aborts_total", 1);
    gateway.wait_for_metric("inbound_bytes_held", 0);
    gateway.stop();
}

#[test]
fn old_http_has_no_chunks() {
    let gateway = Gateway::start(TABLES);
    let target = format!("{SSE}?cf_connect={}", escaped(CONNECT));
    let old = format!("GET {target} HTTP/1.0\r\n\r\n");
    let mut session = Session::new(Stream::open(gateway.address(), old.as_bytes()));
    assert_eq!(session.stream.header("transfer-encoding"), None);
    session.post(&gateway, r#"{"id":2,"subscribe":{"channel":"c"}}"#);
    assert!(session.stream.heard().is_some());
    let large = "x".repeat(60_000);
    gateway.api("publish", json!({"channel": "c", "data": large}));
    let push = session.stream.heard().expect("a push");
    assert_eq!(push["push"]["pub"]["data"], json!(large));
    gateway.stop();
    let end = session.stream.heard().expect("last words");
    assert_eq!(end["push"]["disconnect"]["code"], json!(3001), "{end}");
    session.stream.expect_end();
}

#[test]
fn large_publications_are_single_events() {
    let gateway = Gateway::start(&format!("{TABLES}[websocket]\nwrite_timeout = \"600s\"\n"));
    let mut sessions = [sse(&gateway, CONNECT), http_stream(&gateway, CONNECT)].map(Session::new);
    for session in &mut sessions {
        session.post(&gateway, r#"{"id":2,"subscribe":{"channel":"c"}}"#);
        assert!(session.stream.heard().is_some());
    }
    let sizes = [1, 2_000, 16_383, 16_384, 65_536, 300_000, 900_000];
    let data =
        |n: usize| ["é", "x", "日本"][n % 3].repeat(sizes[n] / ["é", "x", "日本"][n % 3].len());
    for n in 0..sizes.len() {
        gateway.api("publish", json!({"channel": "c", "data": {"n": n, "text": data(n)}}));
    }
    for session in &mut sessions {
        for n in 0..sizes.len() {
            // Not more at once than a slow network gives: the kernel takes it in pieces.
            let push = session.stream.heard().expect("an event");
            assert_eq!(push["push"]["pub"]["data"], json!({"n": n, "text": data(n)}), "{n}");
        }
    }
    gateway.stop();
}

const FAST: &str = "[client]\ninsecure = true\nping_interval = \"8s\"\npong_timeout = \"7s\"\n\
    [sse]\nenabled = true\n[http_stream]\nenabled = true\n[prometheus]\nenabled = true\n";

#[test]
fn pongs_come_by_requests_and_their_absence_is_found() {
    let gateway = Gateway::start(FAST);
    let talks = |events: bool| {
        let stream = match events {
            true => sse(&gateway, CONNECT),
            false => http_stream(&gateway, CONNECT),
        };
        let mut session = Session::new(stream);
        let next = |session: &mut Session| match events {
            true => session.stream.event(),
            false => session.stream.line(),
        };
        for _ in 0..2 {
            assert_eq!(next(&mut session), Some(json!({})));
            session.post(&gateway, "{}");
        }
        assert_eq!(next(&mut session), Some(json!({})));
        // Bytes on the stream's own connection are no answer.
        let _ = session.stream.socket().write(b"{}");
        let end = next(&mut session).expect("last words");
        assert_eq!(end["push"]["disconnect"]["code"], json!(3012), "{end}");
        assert_eq!(next(&mut session), None);
        session.stream.expect_end();
    };
    std::thread::scope(|scope| {
        scope.spawn(|| talks(true));
        scope.spawn(|| talks(false));
    });
    assert_eq!(gateway.metric("closes_total{cause=\"heartbeat\"}"), 2);
    assert!(gateway.metric("heartbeats_answered_total") >= 4);
    gateway.stop();
}

#[test]
fn mistakes_and_errors_are_told_in_the_stream() {
    let gateway = Gateway::start(&TABLES.replace("insecure = true\n", ""));
    let closes = |mut stream: Stream, code: u16| {
        let end = stream.heard().expect("last words");
        assert_eq!(end["push"]["disconnect"]["code"], json!(code), "{end}");
        stream.expect_end();
    };
    closes(sse(&gateway, "nonsense"), 3501);
    closes(http_stream(&gateway, "{\"id\":1,\"subscribe\":{\"channel\":\"c\"}}"), 3501);
    closes(sse(&gateway, CONNECT), 3501);
    closes(sse(&gateway, "{\"id\":1,\"connect\":{\"token\":\"x\"}}"), 3500);
    let token = token_of("42");
    let mut stream =
        http_stream(&gateway, &json!({"id": 1, "connect": {"token": token}}).to_string());
    assert!(stream.heard().expect("a reply")["connect"].is_object());
    gateway.api("disconnect", json!({"user": "42", "disconnect": {"code": 4321, "reason": "so"}}));
    let end = stream.heard().expect("last words");
    let expected = json!({"code": 4321, "reason": "so", "reconnect": true});
    assert_eq!(end["push"]["disconnect"], expected);
    stream.expect_end();
    gateway.stop();
}

#[test]
fn commands_can_follow_the_connect_command_at_once() {
    let gateway = Gateway::start(TABLES);
    let commands = format!("{CONNECT}\n{{\"id\":2,\"subscribe\":{{\"channel\":\"c\"}}}}");
    for mut stream in [sse(&gateway, &commands), http_stream(&gateway, &commands)] {
        assert_eq!(stream.heard().expect("a reply")["id"], json!(1));
        assert_eq!(stream.heard(), Some(json!({"id": 2, "subscribe": {}})));
    }
    gateway.stop();
}

#[test]
fn slow_readers_are_closed_and_gone() {
    let gateway = super::patient(
        "[client]\ninsecure = true\nqueue_max_size = 100000\n\
         [websocket]\nwrite_timeout = \"600s\"\n[sse]\nenabled = true\n\
         [http_stream]\nenabled = true\n[prometheus]\nenabled = true\n",
    );
    let mut slow = Session::new(sse(&gateway, CONNECT));
    let mut quick = Session::new(http_stream(&gateway, CONNECT));
    for session in [&mut slow, &mut quick] {
        session.post(&gateway, r#"{"id":2,"subscribe":{"channel":"c"}}"#);
        assert!(session.stream.heard().is_some());
    }
    let text = "x".repeat(60_000);
    let mut sent = 0;
    let deadline = Instant::now() + PATIENCE;
    while gateway.metric("closes_total{cause=\"slow\"}") == 0 {
        assert!(Instant::now() < deadline, "never too slow");
        for _ in 0..20 {
            gateway.api("publish", json!({"channel": "c", "data": {"n": sent, "text": text}}));
            sent += 1;
            let push = quick.stream.heard().expect("a push");
            assert_eq!(push["push"]["pub"]["data"]["n"], json!(sent - 1));
        }
    }
    // At once it is in no table but that of connections that are being ended.
    for (name, left) in [
        ("open", 1),
        ("streams", 1),
        ("gateway_clients", 1),
        ("gateway_subscriptions", 1),
        ("gateway_transport_connections{transport=\"sse\"}", 0),
        ("gateway_transport_connections{transport=\"http_stream\"}", 1),
    ] {
        gateway.wait_for_metric(name, left);
    }
    // What it had begun to get comes whole, then the last words, then the end.
    let mut got = 0;
    let end = loop {
        let object = slow.stream.heard().expect("last words");
        if object["push"]["disconnect"].is_object() {
            break object;
        }
        assert_eq!(object["push"]["pub"]["data"]["n"], json!(got));
        assert_eq!(object["push"]["pub"]["data"]["text"], json!(text));
        got += 1;
    };
    assert_eq!(end["push"]["disconnect"]["code"], json!(3008), "{end}");
    assert!(got < sent, "{got} of {sent}");
    slow.stream.expect_end();
    gateway.wait_for_metric("outbox_bytes_held", 0);
    gateway.stop();
}

#[test]
fn leaving_ends_a_session_at_once() {
    let gateway = Gateway::start(TABLES);
    let gone = |gateway: &Gateway| {
        for name in ["streams", "gateway_clients", "gateway_subscriptions"] {
            gateway.wait_for_metric(name, 0);
        }
    };
    let subscribed = || {
        let mut session = Session::new(sse(&gateway, CONNECT));
        session.post(&gateway, r#"{"id":2,"subscribe":{"channel":"c"}}"#);
        assert!(session.stream.heard().is_some());
        session
    };
    drop(subscribed());
    gone(&gateway);
    let half = subscribed();
    half.stream.socket().shutdown(std::net::Shutdown::Write).expect("half-close");
    gone(&gateway);
    let reset = subscribed();
    let socket = socket2::SockRef::from(reset.stream.socket());
    socket.set_linger(Some(Duration::ZERO)).expect("set_linger");
    drop(reset);
    gone(&gateway);
    gateway.stop();
}

#[test]
fn a_stream_in_protobuf() {
    let gateway = Gateway::start(TABLES);
    // {id: 1, connect: {}}, behind its length.
    let connect = [4, 0x08, 1, 0x22, 0];
    let lines = ["Content-Type: application/octet-stream"];
    let bytes = request("POST", HTTP_STREAM, &lines, &connect);
    let mut stream = Stream::open(gateway.address(), &bytes);
    assert_eq!(stream.header("content-type"), Some("application/octet-stream"));
    let reply = stream.chunk().expect("a reply");
    // Reply: its length in two bytes, id 1, then `connect`.
    let length = usize::from(reply[0] & 0x7f) | usize::from(reply[1]) << 7;
    assert_eq!((length, &reply[2..5]), (reply.len() - 2, &[0x08, 1, 0x2a][..]));
    gateway.stop();
}
