//! Attacks below HTTP on a gateway that speaks TLS, each beside clients that behave.
//!
//! Method: `ringhold serve` with one core and little memory. The clients publish and hear each
//! other all the time; an attack has a bounded number of steps. Nobody who behaves is closed or
//! misses anything, what the attack held is given back, and the process stays below the ceiling
//! that `config show` prints.

#[path = "tls/peer.rs"]
#[allow(dead_code)]
mod peer;
#[path = "tls/site.rs"]
#[allow(dead_code)]
mod site;
mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use peer::{SHAPES, client_config, path};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use site::{Stream, ask, connected, dial, metric, secure, tcp};
use tungstenite::{Message, WebSocket};

use crate::support::PATIENCE;
use crate::support::gateway::Gateway;

/// Handshakes that may be under way.
const HANDSHAKES: u64 = 64;

struct Field {
    gateway: Gateway,
    clients: Vec<WebSocket<Stream>>,
    http: Stream,
    said: u64,
}

impl Field {
    fn new() -> Self {
        let (cert, key) = (path("localhost.pem"), path("localhost.key"));
        let http_server = format!(
            "tls.enabled = true\ntls.cert_pem = \"{cert}\"\ntls.key_pem = \"{key}\"\n\
             http_connections = 16\nhttp_anonymous = 16\nhttp_bodies = \"32MiB\"\n"
        );
        // The first two stand for those of all tests.
        let config = format!(
            "[http_server]\nport = 0\n{http_server}\n[http_api]\nkey = \"{}\"\n\
             [client.token]\nhmac_secret_key = \"{}\"\n\
             [client]\nmax_session_memory = \"16MiB\"\n\
             [channel.without_namespace]\nallow_subscribe_for_client = true\n\
             [prometheus]\nenabled = true\n\
             [engine]\nworkers = 1\nmax_connections = 1000\ntick = \"10ms\"\n\
             max_tls_handshakes = {HANDSHAKES}\nupload_grace = \"300ms\"\n\
             max_inbound = \"4MiB\"\nmax_outboxes = \"8MiB\"\nmailbox_bytes = \"4MiB\"\n\
             max_history = \"4MiB\"\nmax_filters = \"1MiB\"\n",
            support::gateway::API_KEY,
            support::gateway::SECRET
        );
        let gateway = Gateway::start_whole(&config);
        let address = gateway.address();
        let clients = (0..8).map(|_| connected(address)).collect();
        Self { clients, http: secure(address), gateway, said: 0 }
    }

    fn address(&self) -> SocketAddr {
        self.gateway.address()
    }

    /// A publication reaches everybody, in order.
    fn get_on(&mut self) {
        self.said += 1;
        let publish = json!({"channel": "news", "data": self.said}).to_string();
        assert_eq!(ask(&mut self.http, "POST /api/publish", &publish).0, 200);
        for client in &mut self.clients {
            let heard = loop {
                match client.read().unwrap() {
                    Message::Text(text) if text.as_str() == "{}" => {
                        client.send(Message::text("{}")).unwrap();
                    }
                    Message::Text(text) => break serde_json::from_str::<Value>(&text).unwrap(),
                    other => panic!("{other:?}"),
                }
            };
            assert_eq!(heard["push"]["pub"]["data"], self.said);
        }
    }

    fn metric(&mut self, name: &str) -> u64 {
        metric(&mut self.http, name)
    }

    fn wait_for(&mut self, name: &str, holds: impl Fn(u64) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self.metric(name)) {
            assert!(Instant::now() < deadline, "{name} is {}", self.metric(name));
        }
    }

    /// Everybody is still there, nothing is held for anybody else, and memory was bounded.
    fn finish(mut self) {
        self.get_on();
        self.wait_for("tls_handshakes_waiting", |waiting| waiting == 0);
        self.wait_for("inbound_bytes_held", |held| held == 0);
        self.wait_for("open", |open| open == 8);
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.gateway.id()));
        let status = status.unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(peak < CEILING_KB, "{peak} kB");
        self.gateway.stop();
    }
}

/// Of that configuration: what `config show` adds up is more.
const CEILING_KB: u64 = 128 << 10;

fn client(shape: usize) -> ClientConnection {
    let name = ServerName::try_from("localhost").unwrap();
    ClientConnection::new(Arc::new(client_config(SHAPES[shape])), name).unwrap()
}

/// Whatever the server does with it.
fn push(mut socket: &TcpStream, bytes: &[u8]) {
    let _ = socket.write_all(bytes);
}

#[test]
fn a_flood_of_hellos() {
    let mut field = Field::new();
    let mut hello = Vec::new();
    client(0).write_tls(&mut hello).unwrap();
    let mut crowd = Vec::new();
    for round in 0..40 {
        for _ in 0..20 {
            let socket = tcp(field.address());
            push(&socket, &hello);
            crowd.push(socket);
        }
        field.get_on();
        assert!(field.metric("tls_handshakes_waiting") <= HANDSHAKES);
        if round % 10 == 9 {
            crowd.clear();
        }
    }
    assert!(field.metric("tls_handshakes_evicted_total") > 100);
    drop(crowd);
    field.finish();
}

#[test]
fn half_hellos_and_half_records() {
    let mut field = Field::new();
    let mut hello = Vec::new();
    client(1).write_tls(&mut hello).unwrap();
    // A record of 16 KiB, but for its last byte, of a handshake and of one that is done.
    let long = |kind: u8| [&[kind, 3, 3, 0x40, 0][..], &[1; 16_383]].concat();
    let mut crowd = Vec::new();
    for round in 0..10 {
        for _ in 0..20 {
            let socket = tcp(field.address());
            push(&socket, if round % 2 == 0 { &hello[..hello.len() - 1] } else { &[22, 3] });
            crowd.push(socket);
            let socket = tcp(field.address());
            push(&socket, &long(22));
            crowd.push(socket);
        }
        field.get_on();
        // The same of a handshake that is done: it is closed when it has had its time.
        let mut half = connected(field.address());
        push(&half.get_mut().sock, &long(23));
        while half.read().is_ok_and(|message| !message.is_close()) {}
        assert!(field.metric("inbound_bytes_held") <= 4 << 20);
    }
    drop(crowd);
    assert!(field.metric("closes_total{cause=\"slow_upload\"}") >= 1);
    field.finish();
}

#[test]
fn what_costs_only_the_server() {
    let mut field = Field::new();
    let config = Arc::new(client_config(SHAPES[0]));
    for _ in 0..10 {
        // KeyUpdates without data between them.
        let mut stream = dial(field.address(), &config, "localhost").unwrap();
        for _ in 0..200 {
            stream.conn.refresh_traffic_keys().unwrap();
            while stream.conn.wants_write() {
                if stream.conn.write_tls(&mut stream.sock).is_err() {
                    break;
                }
            }
        }
        assert!(stream.read_to_end(&mut Vec::new()).is_err(), "no alert");
        // Records that no key opens.
        let stream = dial(field.address(), &config, "localhost").unwrap();
        for _ in 0..50 {
            push(&stream.sock, &[&[23, 3, 3, 0, 40][..], &[9; 40]].concat());
        }
        // A second hello, another protocol, and lengths that no record has.
        for bytes in [&b"\x16\x03\x03\x00\x04\x01\x00\x00\x00"[..], b"\x17\x03\x03\xff\xff", b"GET"]
        {
            let stream = dial(field.address(), &config, "localhost").unwrap();
            push(&stream.sock, bytes);
        }
        for bytes in [&b"\x16\x03\x01\xff\xff"[..], b"\x80\x2e\x01\x00\x02", b"SSH-2.0-x\r\n"] {
            push(&tcp(field.address()), bytes);
        }
        field.get_on();
    }
    // Of others the end may come before the server has looked.
    assert!(field.metric("tls_bad_records_total") >= 10);
    assert!(field.metric("tls_not_tls_total") >= 20);
    field.finish();
}

/// Records in single bytes, as slowly as is allowed, from many.
#[test]
fn records_in_single_bytes() {
    let mut field = Field::new();
    let mut crowd: Vec<(ClientConnection, TcpStream, Vec<u8>)> = (0..100)
        .map(|n| {
            let mut tls = client(n % 4);
            let mut hello = Vec::new();
            tls.write_tls(&mut hello).unwrap();
            (tls, tcp(field.address()), hello)
        })
        .collect();
    for at in 0..200 {
        for (_, socket, hello) in &mut crowd {
            push(socket, hello.get(at..=at).unwrap_or_default());
        }
        if at % 20 == 0 {
            field.get_on();
        }
    }
    // Some of the hellos are whole by now.
    assert!(field.metric("inbound_bytes_held") <= HANDSHAKES * (8 << 10) + 100 * 1024);
    drop(crowd);
    field.finish();
}
