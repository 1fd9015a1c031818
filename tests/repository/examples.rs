//! The examples do what they say, over sockets, on two cores.
//!
//! Method: each example is compiled in here, started on a free port, and driven by a client nobody
//! here wrote. What comes by a core that the client is not on is waited for, never slept for.

#[path = "../../examples/chat.rs"]
#[allow(dead_code, unreachable_pub)]
mod chat;
#[path = "../../examples/client.rs"]
#[allow(dead_code, unreachable_pub)]
mod client;
#[path = "../../examples/echo.rs"]
#[allow(dead_code, unreachable_pub)]
mod echo;
#[path = "../../examples/http.rs"]
#[allow(dead_code, unreachable_pub)]
mod http;
#[path = "../../examples/push.rs"]
#[allow(dead_code, unreachable_pub)]
mod push;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use ringhold::{CloseCode, Drain, Handler, Running, Stats};
use tungstenite::client::IntoClientRequest;
use tungstenite::{Error, HandshakeError, Message, WebSocket};

use crate::support::PATIENCE;
use crate::support::unbroken::Unbroken;

type Socket = WebSocket<Unbroken<TcpStream>>;

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

fn open(
    address: SocketAddr,
    path: &str,
    headers: &[(&'static str, &str)],
) -> Result<Socket, Error> {
    let mut request = format!("ws://{address}{path}").into_client_request()?;
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().expect("a value"));
    }
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    match tungstenite::client(request, Unbroken(stream)) {
        Ok((socket, _)) => Ok(socket),
        Err(HandshakeError::Failure(error)) => Err(error),
        Err(HandshakeError::Interrupted(_)) => panic!("no answer"),
    }
}

/// The status with which a connection is refused, and one of the answer's headers.
fn refused(outcome: Result<Socket, Error>, header: &str) -> (u16, String) {
    match outcome {
        Err(Error::Http(response)) => {
            let value = response.headers().get(header);
            let value = value.map_or("", |value| value.to_str().expect("text"));
            (response.status().as_u16(), value.to_owned())
        }
        other => panic!("not refused: {other:?}"),
    }
}

/// The next text.
fn hear(socket: &mut Socket) -> String {
    loop {
        match socket.read().expect("a message") {
            Message::Text(text) => return text.as_str().to_owned(),
            Message::Ping(_) | Message::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

fn say(socket: &mut Socket, text: &str) {
    socket.send(Message::text(text)).expect("it is open");
}

/// How the server closed the connection.
fn end(socket: &mut Socket) -> (u16, String) {
    loop {
        match socket.read() {
            Ok(Message::Close(Some(frame))) => {
                return (frame.code.into(), frame.reason.as_str().to_owned());
            }
            Ok(_) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn finish<H: Handler>(running: Running<H>) -> Stats {
    running.drain(&Drain::default());
    let stats = running.join().expect("it ends well");
    assert_eq!(stats.counters.panics, 0);
    assert_eq!(stats.counters.opened, stats.counters.closed);
    stats
}

#[test]
fn chat() {
    let running = chat::start(ANY, 2).expect("it starts");
    let address = running.address().expect("it listens");
    assert_eq!(refused(open(address, "/den", &[]), "content-type"), (400, "text/plain".to_owned()));
    let mut ann = open(address, "/den?name=Ann", &[]).expect("a connection");
    assert_eq!(hear(&mut ann), "* Ann is here");
    // Enough of them that some are on the other core.
    let mut crowd: Vec<Socket> = (0..20)
        .map(|n| {
            let mut guest = open(address, &format!("/den?name=Guest{n}"), &[]).expect("a guest");
            assert_eq!(hear(&mut guest), format!("* Guest{n} is here"));
            assert_eq!(hear(&mut ann), format!("* Guest{n} is here"));
            guest
        })
        .collect();
    let by_core = running.handle().stats_by_core();
    assert!(by_core.iter().all(|(_, stats)| stats.counters.open > 0), "one core has them all");
    say(&mut ann, "hello");
    for (n, guest) in crowd.iter_mut().enumerate() {
        let mut line = hear(guest);
        while line.ends_with(" is here") {
            line = hear(guest);
        }
        assert_eq!(line, "Ann: hello", "guest {n}");
    }
    assert_eq!(hear(&mut ann), "Ann: hello");
    say(&mut ann, "/to Guest7 psst");
    say(&mut ann, "/to Nobody psst");
    assert_eq!(hear(&mut crowd[7]), "Ann to you: psst");
    assert_eq!(hear(&mut ann), "* Nobody is not here");
    say(&mut ann, "/who");
    assert_eq!(hear(&mut ann), "* 21 in /den");
    // A name is taken on whatever core, and free again when its owner has left.
    let mut double = open(address, "/other?name=Guest3", &[]).expect("a handshake");
    assert_eq!(end(&mut double), (4009, "the name is taken".to_owned()));
    let mut guest = crowd.remove(3);
    guest.close(None).expect("it is open");
    assert_eq!(hear(&mut ann), "* Guest3 has left");
    let mut again = open(address, "/other?name=Guest3", &[]).expect("a connection");
    assert_eq!(hear(&mut again), "* Guest3 is here");
    finish(running);
}

#[test]
fn push() {
    let running = push::start(ANY, 2).expect("it starts");
    let address = running.address().expect("it listens");
    assert_eq!(refused(open(address, "/", &[]), "connection"), (401, "close".to_owned()));
    let mut all: Vec<Socket> = (0..8)
        .map(|n| open(address, &format!("/?user={}", n % 2), &[]).expect("a connection"))
        .collect();
    let handle = running.handle();
    until("subscribing", || handle.subscribers("user:0") == 4 && handle.subscribers("user:1") == 4);
    let input: &[u8] = b"0 even\n1 odd\nnonsense\n2 nobody\n0 again\n";
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(push::push_lines(handle, input)).expect("it reads");
    for (n, socket) in all.iter_mut().enumerate() {
        match n % 2 {
            0 => assert_eq!([hear(socket), hear(socket)], ["even", "again"]),
            _ => assert_eq!(hear(socket), "odd"),
        }
    }
    finish(running);
}

#[test]
fn echo() {
    let running = echo::start(ANY, 2).expect("it starts");
    let address = running.address().expect("it listens");
    let asked = (401, "Bearer".to_owned());
    assert_eq!(refused(open(address, "/", &[]), "www-authenticate"), asked);
    let wrong = [("authorization", "Bearer secret-of-nobody")];
    assert_eq!(refused(open(address, "/", &wrong), "www-authenticate"), asked);
    let ann = [("authorization", "Bearer secret-of-ann")];
    let mut first = open(address, "/", &ann).expect("a connection");
    let mut second = open(address, "/", &ann).expect("a connection");
    assert_eq!(refused(open(address, "/", &ann), "retry-after"), (429, "10".to_owned()));
    let ben = [("authorization", "Bearer secret-of-ben")];
    let mut other = open(address, "/", &ben).expect("a connection");
    for socket in [&mut first, &mut second, &mut other] {
        say(socket, "hello");
        assert_eq!(hear(socket), "hello");
    }
    // A seat is free again when its connection is gone.
    first.close(None).expect("it is open");
    let mut third = None;
    until("a free seat", || {
        third = open(address, "/", &ann).ok();
        third.is_some()
    });
    // Beyond the limit of a message.
    say(&mut second, &"x".repeat(64 * 1024 + 1));
    assert_eq!(end(&mut second).0, CloseCode::TOO_BIG.0);
    // The graceful end, at once.
    let plan = Drain { reason: "come back".to_owned(), ..Drain::default() };
    running.drain(&plan);
    assert_eq!(end(&mut other), (CloseCode::GOING_AWAY.0, "come back".to_owned()));
    drop((second, third, other));
    let stats = running.join().expect("it ends well");
    assert_eq!((stats.counters.panics, stats.counters.closed_too_big), (0, 1));
    assert!(stats.counters.refused_application >= 3);
}

/// Sends a request and reads the whole answer.
fn ask(address: SocketAddr, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers and closes");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.to_owned(), body.to_owned())
}

#[test]
fn http() {
    let running = http::start(ANY, 2).expect("it starts");
    let address = running.address().expect("it listens");
    let get = |path: &str| ask(address, &format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    let (head, page) = get("/");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("Content-Type: text/html"), "{head}");
    assert!(page.contains("new WebSocket("), "{page}");
    let (head, body) = ask(address, "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(head.contains(&format!("Content-Length: {}", page.len())), "{head}");
    assert_eq!(body, "");
    let (head, health) = get("/health");
    assert!(head.contains("Content-Type: application/json"), "{head}");
    assert!(health.starts_with("{\"connections\":"), "{health}");
    let (head, _) = get("/index.html");
    assert!(head.starts_with("HTTP/1.1 308 Permanent Redirect\r\n"), "{head}");
    assert!(head.contains("\r\nLocation: /"), "{head}");
    assert!(get("/nothing").0.starts_with("HTTP/1.1 404 "));
    assert!(get("/live").0.starts_with("HTTP/1.1 426 "));
    assert_eq!(refused(open(address, "/dead", &[]), "connection").0, 404);

    let mut live: Vec<Socket> =
        (0..4).map(|_| open(address, "/live", &[]).expect("a connection")).collect();
    let handle = running.handle();
    until("subscribing", || handle.subscribers("news") == 4);
    let post = |body: &str| {
        let length = body.len();
        let head = format!("POST /publish HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        ask(address, &format!("{head}{body}"))
    };
    assert!(post("first").0.starts_with("HTTP/1.1 202 "));
    assert!(post(&"x".repeat(5000)).0.starts_with("HTTP/1.1 413 "));
    for socket in &mut live {
        assert_eq!(hear(socket), "first");
    }
    let stats = finish(running);
    assert_eq!(stats.counters.answered, 5);
}

#[test]
fn client() {
    let chat = chat::start(ANY, 1).expect("it starts");
    let address = chat.address().expect("it listens");
    let (running, lines) = client::start(address, "/den?name=Cid", "hi").expect("it starts");
    let next = || lines.recv_timeout(PATIENCE).expect("a line");
    assert_eq!([next(), next()], ["* Cid is here", "Cid: hi"]);
    finish(chat);
    assert!(next().starts_with("ended: Peer, 1001"), "told of the drain");
    running.join().expect("it ends by itself");

    // Nobody listens: it tries again, and gives up.
    let (running, lines) = client::start(address, "/", "hi").expect("it starts");
    for attempt in 1..=5 {
        let line = lines.recv_timeout(PATIENCE).expect("a line");
        assert!(line.starts_with(&format!("attempt {attempt}: ")), "{line}");
    }
    running.join().expect("it ends by itself");
}
