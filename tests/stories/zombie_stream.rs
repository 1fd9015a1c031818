//! The story of the zombie stream, told by 500 clients without WebSocket, some of which stall,
//! break or vanish, while publications of 2,000 characters and up to 64 KiB go to all of them.
//!
//! The method: `ringhold serve` as it is shipped, and clients that are sockets of this test, read
//! in turns by one thread, which checks every event of every client. A client breaks by reset, or
//! vanishes behind a filter that drops whatever comes to it, so that nothing at all is
//! acknowledged. What the server still has of the dead is read from its metrics.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socket2::{Domain, SockFilter, SockRef, Socket, Type};

use crate::support::gateway::{Gateway, token};
use crate::support::stream::{escaped, request};
use crate::support::unbroken::unbroken;
use crate::support::{PATIENCE, raise_open_files};

const CLIENTS: usize = 500;
/// Of these one in ten each; the others are healthy.
const STALLED: std::ops::Range<usize> = 0..50;
const RESET: std::ops::Range<usize> = 50..100;
const VANISHED: std::ops::Range<usize> = 100..150;

const CHANNEL: &str = "news:all";

/// What waits for an answer is asked this often, and given up so long after.
const PING: Duration = Duration::from_secs(10);
const PONG: Duration = Duration::from_secs(9);

const CONFIG: &str = r#"
[client]
queue_max_size = 200000
ping_interval = "10s"
pong_timeout = "9s"
[websocket]
write_timeout = "9s"
[sse]
enabled = true
[uni_sse]
enabled = true
[prometheus]
enabled = true
[[channel.namespaces]]
name = "news"
history_size = 1000
history_ttl = "300s"
force_recovery = true
allow_subscribe_for_client = true
"#;

/// How large the payload of a publication is.
fn size(n: usize) -> usize {
    match n % 20 {
        19 => 65_000,
        9 => 16_384,
        _ => 2_000,
    }
}

fn text(n: usize) -> String {
    let letter = char::from(b'a' + (n % 26) as u8);
    letter.to_string().repeat(size(n))
}

/// One client of an event stream.
struct Listener {
    user: usize,
    one_way: bool,
    socket: TcpStream,
    raw: Vec<u8>,
    body: Vec<u8>,
    begun: bool,
    session: Value,
    node: Value,
    epoch: Value,
    /// Publications it got, which are those from 0 on.
    got: usize,
    /// It reads.
    reads: bool,
    over: bool,
}

/// Drops whatever comes.
const DEAF: [SockFilter; 1] = [SockFilter::new(6, 0, 0, 0)];

impl Listener {
    /// A client that asks for a stream and for what it missed since `got`.
    fn connect(gateway: &Gateway, user: usize, got: usize, epoch: &Value) -> Self {
        let one_way = user % 5 == 4;
        let name = format!("user-{user}");
        let mut claims = json!({"sub": name});
        let mut connect = json!({});
        if one_way {
            claims["channels"] = json!([CHANNEL]);
            if !epoch.is_null() {
                let since = json!({"recover": true, "offset": got, "epoch": epoch});
                connect["subs"] = json!({CHANNEL: since});
            }
        }
        connect["token"] = json!(token(&claims));
        let path = if one_way { "/connection/uni_sse" } else { "/connection/sse" };
        let content = match one_way {
            true => connect.to_string(),
            false => {
                let mut subscribe = json!({"channel": CHANNEL});
                if !epoch.is_null() {
                    subscribe = json!({"channel": CHANNEL, "recover": true, "offset": got,
                        "epoch": epoch});
                }
                let first = json!({"id": 1, "connect": connect});
                format!("{first}\n{}", json!({"id": 2, "subscribe": subscribe}))
            }
        };
        let target = format!("{path}?cf_connect={}", escaped(&content));
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        // Its kernel takes little for a reader that stalls.
        socket.set_recv_buffer_size(64 * 1024).expect("set_recv_buffer_size");
        socket.connect(&gateway.address().into()).expect("the server accepts");
        let mut socket = TcpStream::from(socket);
        socket.write_all(&request("GET", &target, &[], b"")).expect("the request is taken");
        socket.set_nonblocking(true).expect("set_nonblocking");
        Self {
            user,
            one_way,
            socket,
            raw: Vec::new(),
            body: Vec::new(),
            begun: false,
            session: Value::Null,
            node: Value::Null,
            epoch: epoch.clone(),
            got,
            reads: true,
            over: false,
        }
    }

    /// Reads what there is. Whether there was anything.
    fn read(&mut self, posts: &mut Posts, gateway: &Gateway) -> bool {
        if !self.reads || self.over {
            return false;
        }
        let mut bytes = [0; 65_536];
        let count = match unbroken(|| self.socket.read(&mut bytes)) {
            Ok(0) => {
                self.over = true;
                return true;
            }
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) => panic!("client {}: {error}", self.user),
        };
        self.raw.extend_from_slice(&bytes[..count]);
        self.unchunk();
        while let Some(at) = self.body.windows(2).position(|window| window == b"\n\n") {
            let rest = self.body.split_off(at + 2);
            let event = std::mem::replace(&mut self.body, rest);
            let event = String::from_utf8(event).expect("text is UTF-8");
            let data = event.lines().find_map(|line| line.strip_prefix("data: "));
            let data = data.unwrap_or_else(|| panic!("an event of nothing: {event:?}"));
            let object: Value = serde_json::from_str(data).expect("a whole object");
            self.hear(object, posts, gateway);
        }
        true
    }

    fn unchunk(&mut self) {
        if !self.begun {
            let Some(at) = self.raw.windows(4).position(|w| w == b"\r\n\r\n") else { return };
            assert!(self.raw.starts_with(b"HTTP/1.1 200 "), "{}", self.raw.escape_ascii());
            self.raw.drain(..at + 4);
            self.begun = true;
        }
        while let Some(line) = self.raw.windows(2).position(|window| window == b"\r\n") {
            let digits = std::str::from_utf8(&self.raw[..line]).expect("digits");
            let len = usize::from_str_radix(digits, 16).expect("a length");
            let end = line + 2 + len + 2;
            if self.raw.len() < end {
                return;
            }
            self.body.extend_from_slice(&self.raw[line + 2..end - 2]);
            self.raw.drain(..end);
        }
    }

    fn hear(&mut self, mut object: Value, posts: &mut Posts, gateway: &Gateway) {
        if object == json!({}) {
            if !self.one_way {
                posts.send(gateway, &self.session, &self.node);
            }
            return;
        }
        if let Some(push) = object.get_mut("push") {
            object = push.take();
        }
        let sub = match &object {
            Value::Object(it) if it.contains_key("connect") => {
                let connect = &object["connect"];
                (self.session, self.node) = (connect["session"].clone(), connect["node"].clone());
                object["connect"]["subs"][CHANNEL].clone()
            }
            _ => object["subscribe"].clone(),
        };
        if sub.is_object() {
            let recovers = !self.epoch.is_null();
            assert!(!recovers || sub["recovered"] == json!(true), "{}: {sub}", self.user);
            self.epoch = sub["epoch"].clone();
            for one in sub["publications"].as_array().into_iter().flatten() {
                self.publication(one);
            }
        }
        if object["pub"].is_object() {
            self.publication(&object["pub"]);
        }
        if object["disconnect"].is_object() {
            panic!("client {} is told {object}", self.user);
        }
    }

    fn publication(&mut self, publication: &Value) {
        let n = self.got;
        assert_eq!(publication["data"]["n"], json!(n), "client {}", self.user);
        assert_eq!(publication["data"]["text"], json!(text(n)), "client {}", self.user);
        self.got += 1;
    }

    fn is_ready(&self) -> bool {
        !self.epoch.is_null()
    }
}

/// Pongs under way.
#[derive(Default)]
struct Posts {
    sockets: Vec<TcpStream>,
    sent: u64,
}

impl Posts {
    fn send(&mut self, gateway: &Gateway, session: &Value, node: &Value) {
        let body = json!({"session": session, "node": node, "data": "{}"}).to_string();
        let mut socket = TcpStream::connect(gateway.address()).expect("the server accepts");
        let request = request("POST", "/emulation", &[], body.as_bytes());
        socket.write_all(&request).expect("the request is taken");
        socket.set_nonblocking(true).expect("set_nonblocking");
        self.sockets.push(socket);
        self.sent += 1;
    }

    fn collect(&mut self) {
        self.sockets.retain_mut(|socket| {
            let mut bytes = [0; 1024];
            match unbroken(|| socket.read(&mut bytes)) {
                Ok(count) => {
                    assert!(bytes[..count].starts_with(b"HTTP/1.1 204 "));
                    false
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    true
                }
            }
        });
    }
}

/// All clients, and what they do at once.
struct Crowd<'g> {
    gateway: &'g Gateway,
    clients: Vec<Listener>,
    posts: Posts,
}

impl Crowd<'_> {
    /// Reads until it holds.
    fn until(&mut self, what: &str, mut holds: impl FnMut(&[Listener]) -> bool) {
        let deadline = Instant::now() + 4 * PATIENCE;
        while !holds(&self.clients) {
            assert!(Instant::now() < deadline, "waited in vain for {what}");
            let mut busy = false;
            for client in &mut self.clients {
                busy |= client.read(&mut self.posts, self.gateway);
            }
            self.posts.collect();
            if !busy {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Publishes, never further than half an outbox ahead of who reads.
    fn publish(&mut self, range: std::ops::Range<usize>) {
        for n in range {
            let data = json!({"n": n, "text": text(n)});
            self.gateway.api("publish", json!({"channel": CHANNEL, "data": data}));
            self.until("readers", |all| all.iter().all(|c| !c.reads || c.got + 4 > n));
        }
    }

    fn wait_for(&mut self, name: &str, value: u64) {
        let mut last = Instant::now();
        let gateway = self.gateway;
        let mut there = gateway.metric(name) == value;
        self.until(&format!("{name} to be {value}"), |_| {
            if !there && last.elapsed() > Duration::from_millis(100) {
                there = gateway.metric(name) == value;
                last = Instant::now();
            }
            there
        });
    }
}

/// A dashboard behind a proxy that breaks WebSockets falls back to event streams. Laptops are
/// closed, trains enter tunnels, one tab is stopped in its debugger; the server goes on writing to
/// all of them, keeps what they do not take, and counts them as present.
#[test]
fn five_hundred_streams_some_of_them_dead() {
    raise_open_files();
    let gateway = Gateway::start(CONFIG);
    let connect = |user| Listener::connect(&gateway, user, 0, &Value::Null);
    let clients = (0..CLIENTS).map(connect).collect();
    let mut crowd = Crowd { gateway: &gateway, clients, posts: Posts::default() };
    crowd.until("everybody to listen", |all| all.iter().all(Listener::is_ready));
    crowd.wait_for("streams", CLIENTS as u64);
    crowd.publish(0..20);
    crowd.until("all of it", |all| all.iter().all(|client| client.got == 20));

    // Some stall in the middle of it, some break, some vanish.
    let dead = STALLED.len() + RESET.len() + VANISHED.len();
    for client in &mut crowd.clients[..dead] {
        client.reads = false;
        let socket = SockRef::from(&client.socket);
        if RESET.contains(&client.user) {
            socket.set_linger(Some(Duration::ZERO)).expect("set_linger");
            let other = TcpStream::connect(gateway.address()).expect("the server accepts");
            // The old one is closed by this, which resets it.
            client.socket = other;
        } else if VANISHED.contains(&client.user) {
            socket.attach_filter(&DEAF).expect("a filter");
        }
    }
    let since = Instant::now();
    // Their users come back at once, and miss nothing.
    for user in 0..dead {
        let old = &crowd.clients[user];
        let again = Listener::connect(&gateway, user, old.got, &old.epoch);
        crowd.clients.push(again);
    }
    crowd.until("those who came back", |all| {
        all[CLIENTS..].iter().all(|c| !c.session.is_null() || c.one_way && c.begun)
    });
    crowd.publish(20..120);
    crowd.until("all of it", |all| {
        all.iter().filter(|client| client.reads).all(|client| client.got == 120)
    });
    // The dead are gone from every table.
    let living = CLIENTS as u64;
    for (name, left) in [
        ("streams", living),
        ("gateway_clients", living),
        ("gateway_subscriptions", living),
        ("gateway_users", living),
        ("gateway_transport_connections{transport=\"sse\"}", living * 4 / 5),
        ("gateway_transport_connections{transport=\"uni_sse\"}", living / 5),
        ("open", living),
        ("outbox_bytes_held", 0),
        ("blocked", 0),
    ] {
        crowd.wait_for(name, left);
    }
    let took = since.elapsed();
    println!("{dead} dead streams gone after {took:?}, {} pongs", crowd.posts.sent);
    let closes = |cause: &str| gateway.metric(&format!("closes_total{{cause=\"{cause}\"}}"));
    let causes =
        ["slow", "write_timeout", "heartbeat", "error", "unacknowledged", "clean", "abrupt"];
    let found = causes.map(closes);
    println!("{causes:?}: {found:?}");
    assert_eq!(found.iter().sum::<u64>(), dead as u64);
    // Who stalls is found by whichever is first: its queue, the write timeout, the missing pong, or
    // the kernel, whose buffers may take all that is sent in this time.
    assert!(found[3] >= RESET.len() as u64, "who breaks is found to be broken");
    // It is no more than a heartbeat and its answer, but for what this machine does meanwhile.
    assert!(took < PING + PONG + PATIENCE, "{took:?}");

    // The living are as they were.
    crowd.publish(120..140);
    crowd.until("the rest", |all| {
        all.iter().filter(|client| client.reads).all(|client| client.got == 140)
    });
    assert!(crowd.posts.sent > 0, "nobody was pinged");
    assert_eq!(gateway.metric("panics_total"), 0);
    drop(crowd);
    gateway.wait_for_metric("streams", 0);
    gateway.wait_for_metric("gateway_subscriptions", 0);
    gateway.stop();
}

/// Nobody sends, nobody answers: who listens one way and vanishes is found by the pings that are
/// not acknowledged.
#[test]
fn a_silent_reader_of_a_silent_stream_is_found() {
    let gateway = Gateway::start(CONFIG);
    // The fifth of each five listens one way.
    let clients = [4, 9].map(|user| Listener::connect(&gateway, user, 0, &Value::Null));
    let mut crowd = Crowd { gateway: &gateway, clients: clients.into(), posts: Posts::default() };
    crowd.until("both", |all| all.iter().all(Listener::is_ready));
    crowd.clients[0].reads = false;
    SockRef::from(&crowd.clients[0].socket).attach_filter(&DEAF).expect("a filter");
    crowd.wait_for("streams", 1);
    assert_eq!(
        gateway.metric("closes_total{cause=\"unacknowledged\"}"),
        1,
        "the kernel gave it up"
    );
    assert_eq!(gateway.metric("gateway_clients"), 1);
    crowd.publish(0..3);
    crowd.until("the living", |all| all[1].got == 3);
    drop(crowd);
    gateway.stop();
}
