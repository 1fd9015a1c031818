//! The control plane's HTTP server on real connections: handed over by the engine with some bytes
//! read, or accepted on the internal port, on the control thread's runtime (tokio-uring).

use std::future::Future;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ringhold::control::counts::Counts;
use ringhold::control::http::{HandOver, HttpLimits, HttpServer, hand_over};
use ringhold::{AddressPlace, Detached, Via};

use crate::fake::{KEY, Site, config};

use crate::support::PATIENCE;

/// A time that is over soon, and not before the control thread has had its turn.
const SHORT: Duration = Duration::from_secs(6);

/// Nobody is hurried.
fn patient() -> HttpLimits {
    HttpLimits { anonymous_timeout: PATIENCE, head_timeout: PATIENCE, ..HttpLimits::default() }
}

/// A control thread with a server, which ends with the value.
struct Control {
    queue: Option<HandOver>,
    internal: SocketAddr,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Control {
    fn start(limits: HttpLimits) -> Self {
        let (queue, handed_over) = hand_over(64);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let internal = listener.local_addr().unwrap();
        let thread = on_control_thread(async move {
            let site = Site::new(&config());
            let server = HttpServer::new(site.routes.public, limits, Arc::new(Counts::default()));
            let beside = server.internal(site.routes.internal);
            let accepting = tokio::spawn(beside.accept(listener));
            server.serve_handed_over(handed_over).await;
            accepting.abort();
        });
        Self { queue: Some(queue), internal, thread: Some(thread) }
    }

    /// A connection, and the server's end of it.
    fn pair() -> (TcpStream, TcpStream, Via) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let (server, peer) = listener.accept().unwrap();
        (client, server, Via { peer, forwards: false })
    }

    /// A connection of which `head` was read already.
    fn hand_over(&self, head: &[u8]) -> TcpStream {
        let (client, server, via) = Self::pair();
        let queue = self.queue.as_ref().unwrap();
        let received = Bytes::copy_from_slice(head);
        queue.serve(Detached { received, ..passed(server, via) }).unwrap();
        client
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.queue = None;
        self.thread.take().unwrap().join().unwrap();
    }
}

fn on_control_thread(
    work: impl Future<Output = ()> + Send + 'static,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || tokio_uring::builder().entries(8).start(work))
}

fn publish(data: &str, more: &str) -> String {
    let body = format!(r#"{{"channel":"c","data":{data}}}"#);
    let length = body.len();
    format!(
        "POST /api/publish HTTP/1.1\r\nHost: h\r\nX-API-Key: {KEY}\r\n{more}\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

/// One answer: its status and body.
fn answer(stream: &mut TcpStream) -> (u16, String) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).unwrap();
    (status, String::from_utf8(body).unwrap())
}

fn ended(mut stream: TcpStream) -> bool {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).is_ok() && rest.is_empty()
}

#[test]
fn a_request_is_whole_wherever_the_engine_stopped_reading() {
    let control = Control::start(patient());
    let request = publish(r#"{"text":"hello"}"#, "");
    for read in 0..=request.len() {
        let (head, rest) = request.as_bytes().split_at(read);
        let mut client = control.hand_over(head);
        client.write_all(rest).unwrap();
        let expected = r#"{"result":{"offset":1,"epoch":"c"}}"#.to_owned();
        assert_eq!(answer(&mut client), (200, expected), "after {read} bytes");
    }
}

#[test]
fn a_connection_is_kept_and_requests_may_come_at_once() {
    let control = Control::start(patient());
    let both = format!("{}GET /health HTTP/1.1\r\nHost: h\r\n\r\n", publish("1", ""));
    let mut client = control.hand_over(both.as_bytes());
    assert_eq!(answer(&mut client).0, 200);
    assert_eq!(answer(&mut client), (200, "{}".to_owned()));
    client.write_all(publish("2", "Connection: close\r\n").as_bytes()).unwrap();
    assert_eq!(answer(&mut client).0, 200);
    assert!(ended(client));
}

#[test]
fn the_internal_port_serves_too() {
    let control = Control::start(patient());
    let mut client = TcpStream::connect(control.internal).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(publish("1", "").as_bytes()).unwrap();
    assert_eq!(answer(&mut client).0, 200);
}

const HEALTH: &[u8] = b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n";

/// Whatever strangers hold, one more finds a place: theirs, not that of anybody with a key.
#[test]
fn strangers_make_room_for_each_other_and_keep_nobody_out() {
    let limits = HttpLimits { anonymous: 4, ..patient() };
    let control = Control::start(limits);
    let mut backend = control.hand_over(publish("1", "").as_bytes());
    assert_eq!(answer(&mut backend).0, 200);
    let holds: [&[u8]; 3] = [
        // Kept open behind an answer, before a head is whole, before a body.
        HEALTH,
        b"GET /health HTTP/1.1\r\n",
        b"POST /admin/auth HTTP/1.1\r\nHost: h\r\n\
          Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\n",
    ];
    let mut held = Vec::new();
    for data in holds.into_iter().cycle().take(30) {
        held.push(control.hand_over(data));
        let mut client = control.hand_over(HEALTH);
        assert_eq!(answer(&mut client), (200, "{}".to_owned()));
    }
    let mut new = control.hand_over(publish("2", "").as_bytes());
    assert_eq!(answer(&mut new).0, 200);
    // Who has a key is still there.
    backend.write_all(publish("3", "").as_bytes()).unwrap();
    assert_eq!(answer(&mut backend).0, 200);
    // And the first strangers are not.
    let mut first = held.swap_remove(1);
    assert_eq!(first.read(&mut [0]).map_or(0, |read| read), 0);
}

/// The internal port has places of its own.
#[test]
fn a_full_public_port_leaves_the_internal_one_alone() {
    let limits = HttpLimits { anonymous: 1, ..patient() };
    let control = Control::start(limits);
    let connect = || {
        let client = TcpStream::connect(control.internal).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client
    };
    let mut inside: Vec<_> = (0..10).map(|_| connect()).collect();
    let held: Vec<_> = (0..10).map(|_| control.hand_over(HEALTH)).collect();
    for client in &mut inside {
        client.write_all(HEALTH).unwrap();
        assert_eq!(answer(client).0, 200);
    }
    drop(held);
}

#[test]
fn a_stranger_is_waited_for_less_than_a_backend() {
    let anonymous_timeout = SHORT;
    let limits = HttpLimits { anonymous_timeout, ..patient() };
    let control = Control::start(limits);
    let mut backend = control.hand_over(publish("1", "").as_bytes());
    assert_eq!(answer(&mut backend).0, 200);
    let cut = control.hand_over(b"GET /health HTTP/1.1\r\nHost:");
    let mut idle = control.hand_over(HEALTH);
    assert_eq!(answer(&mut idle).0, 200);
    assert!(ended(cut) && ended(idle));
    backend.write_all(publish("2", "").as_bytes()).unwrap();
    assert_eq!(answer(&mut backend).0, 200);
}

#[test]
fn a_head_that_does_not_end_is_given_up() {
    let control = Control::start(HttpLimits { head_timeout: SHORT, ..patient() });
    let cut = control.hand_over(b"GET /health HTTP/1.1\r\nHost:");
    // So is a connection that is kept and says nothing more.
    let mut idle = control.hand_over(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(answer(&mut idle).0, 200);
    assert!(ended(cut) && ended(idle));
}

#[test]
fn a_head_that_is_too_large_is_refused() {
    let control = Control::start(patient());
    let head = format!("GET /health HTTP/1.1\r\nHost: h\r\nX: {}", "x".repeat(17 << 10));
    let mut client = control.hand_over(head.as_bytes());
    // What follows is never read, so it may also see the connection break.
    let _ = client.write_all(b"\r\n\r\n");
    assert_eq!(answer(&mut client).0, 431);
}

#[test]
fn junk_is_refused() {
    let control = Control::start(patient());
    let mut client =
        control.hand_over(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 no HTTP\r\n\r\n");
    assert_eq!(answer(&mut client).0, 400);
}

#[test]
fn a_full_queue_gives_the_connection_back() {
    let (queue, handed_over) = hand_over(1);
    let (_first, server, via) = Control::pair();
    queue.serve(passed(server, via)).unwrap();
    let (mut client, server, via) = Control::pair();
    let mut back = TcpStream::from(queue.serve(passed(server, via)).unwrap_err().socket);
    back.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    drop(handed_over);
    let (_third, server, via) = Control::pair();
    assert!(queue.serve(passed(server, via)).is_err());
}

fn passed(socket: TcpStream, via: Via) -> Detached {
    let place = AddressPlace::default();
    Detached { socket: socket.into(), received: Bytes::new(), via, place, tls: None }
}
