//! Attacks below HTTP on a gateway that speaks TLS, each beside clients that behave.
//!
//! Method: `ringhold serve` with one core and little memory. The clients publish and hear each
//! other all the time; an attack has a bounded number of steps. Nobody who behaves is closed or
//! misses anything, what the attack held is given back, and the process stays below the ceiling
//! that `config show` prints.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ConnectionTrafficSecrets};
use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use crate::peer::{SHAPES, client_config, path};
use crate::raw::Raw;
use crate::site::{Stream, ask, connected, dial, metric, secure, tcp};
use crate::support::PATIENCE;
use crate::support::gateway::{Gateway, PATH};

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
            crate::support::gateway::API_KEY,
            crate::support::gateway::SECRET
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

/// Seals handshake messages of TLS 1.2 behind what a client of rustls has sent.
struct Renegotiator {
    socket: TcpStream,
    key: LessSafeKey,
    salt: [u8; 4],
    next: u64,
}

impl Renegotiator {
    fn new(field: &Field) -> Self {
        let mut config = client_config(SHAPES[2]);
        config.enable_secret_extraction = true;
        let stream = dial(field.address(), &Arc::new(config), "localhost").unwrap();
        let secrets = stream.conn.dangerous_extract_secrets().unwrap();
        let (next, ConnectionTrafficSecrets::Aes128Gcm { key, iv }) = secrets.tx else {
            panic!("another suite");
        };
        let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key.as_ref()).unwrap());
        Self { socket: stream.sock, key, salt: *iv.as_ref().first_chunk().unwrap(), next }
    }

    /// Appends a record of this type.
    fn seal(&mut self, kind: u8, content: &[u8], out: &mut Vec<u8>) {
        let number = self.next.to_be_bytes();
        self.next += 1;
        let nonce: Vec<u8> = [&self.salt[..], &number].concat();
        let len = |len: usize| (len as u16).to_be_bytes();
        let aad = [&number[..], &[kind, 3, 3], &len(content.len())].concat();
        let mut sealed = content.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(&nonce).unwrap();
        self.key.seal_in_place_append_tag(nonce, Aad::from(aad), &mut sealed).unwrap();
        out.extend_from_slice(&[kind, 3, 3]);
        out.extend_from_slice(&len(8 + sealed.len()));
        out.extend_from_slice(&number);
        out.extend_from_slice(&sealed);
    }

    /// Types of the records that come up to the end.
    fn hear(mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let _ = self.socket.read_to_end(&mut bytes);
        let (mut kinds, mut rest) = (Vec::new(), &bytes[..]);
        while let Some((head, body)) = rest.split_first_chunk::<5>() {
            kinds.push(head[0]);
            let len = usize::from(u16::from_be_bytes([head[3], head[4]]));
            rest = body.get(len..).unwrap_or_default();
        }
        kinds
    }
}

/// A hello on a connection of TLS 1.2 is refused once, and ends the connection when it comes again.
#[test]
fn floods_of_renegotiation() {
    const HELLO: &[u8] = &[1, 0, 0, 0];
    let mut field = Field::new();
    let mut silent = Vec::new();
    for round in 0..20 {
        // Two hundred at once; one at a time among requests; and one, from many that read nothing.
        let mut flood = Renegotiator::new(&field);
        let mut bytes = Vec::new();
        (0..200).for_each(|_| flood.seal(22, HELLO, &mut bytes));
        push(&flood.socket, &bytes);
        // no_renegotiation, unless more of them came with the first; then the fatal one.
        let heard = flood.hear();
        assert!((1..=2).contains(&heard.len()) && heard.iter().all(|kind| *kind == 21));
        let mut mixed = Renegotiator::new(&field);
        for number in 0..200 {
            let mut bytes = Vec::new();
            let kind = if number % 2 == 0 { 22 } else { 23 };
            mixed.seal(kind, if kind == 22 { HELLO } else { b"G" }, &mut bytes);
            push(&mixed.socket, &bytes);
        }
        if round % 2 == 0 {
            drop(mixed);
        } else {
            let heard = mixed.hear();
            assert!(heard.is_empty() || heard.starts_with(&[21]), "{heard:?}");
        }
        for _ in 0..10 {
            let mut one = Renegotiator::new(&field);
            let mut bytes = Vec::new();
            one.seal(22, HELLO, &mut bytes);
            push(&one.socket, &bytes);
            silent.push(one);
        }
        field.get_on();
    }
    assert!(field.metric("tls_bad_records_total") >= 20);
    assert!(field.metric("inbound_bytes_held") <= 4 << 20);
    drop(silent);
    field.finish();
}

/// KeyUpdates that ask for ours, each with data behind it, from clients that read nothing.
#[test]
fn floods_of_key_updates() {
    let mut field = Field::new();
    let mut crowd: Vec<Raw> = (0..20)
        .map(|_| {
            let mut client = Raw::connect(tcp(field.address()));
            client.upgrade(PATH);
            client
        })
        .collect();
    for _ in 0..50 {
        // Who is closed for it is closed.
        crowd.retain_mut(|client| (0..20).all(|_| client.ask()));
        field.get_on();
        assert!(field.metric("outbox_bytes_held") < 1 << 20);
    }
    drop(crowd);
    field.finish();
}
