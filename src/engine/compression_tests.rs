//! Compression on a server of two cores, over loopback: who gets compressed messages, that many
//! share one, what faults end in, and that memory goes back.
//!
//! The clients are the protocol layer's other role, so what they are sent is inflated by it.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::{
    Compression, Config, Connection, Context, Frame, Handle, Handler, Message, Running, Server,
    UpgradeAction,
};
use crate::protocol::frame::{self, HEADER_MAX, Header, Opcode, RSV1};
use crate::protocol::request::Request;
use crate::protocol::{
    Arrival, CloseCode, Decoder, Deflater, Event, Inflater, Partial, Role, mask, response,
};

/// Echoes; what begins with `all` goes to everybody, with `secret` it is a secret.
struct Host;

impl Handler for Host {
    type State = ();
    type Event = ();

    fn on_upgrade(
        &mut self,
        _: &mut Context<'_>,
        _: &Request<'_>,
        _: SocketAddr,
    ) -> UpgradeAction<()> {
        UpgradeAction::accept(())
    }

    fn on_open(&mut self, conn: &mut Connection<'_>, _: &mut ()) {
        conn.subscribe("all");
    }

    fn on_message(&mut self, conn: &mut Connection<'_>, _: &mut (), message: Message<'_>) {
        let id = conn.id();
        if message.payload().starts_with(b"all") {
            conn.publish("all", &Frame::new(message.kind(), message.payload()));
        } else if message.payload().starts_with(b"secret") {
            conn.send_secret_to(id, message.kind(), message.payload()).unwrap();
        } else if message.payload().starts_with(b"keep") {
            let kind = message.kind();
            let kept = message.into_bytes();
            conn.send(kind, &kept).unwrap();
        } else {
            conn.reply(message).unwrap();
        }
    }
}

/// A message as it came: whether it was compressed, and its payload.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Message(bool, Vec<u8>),
    Pong(Vec<u8>),
    Close(u16),
}

struct Client {
    socket: TcpStream,
    received: Vec<u8>,
    partial: Option<Box<Partial>>,
    agreed: bool,
}

const LIMIT: usize = 64 << 10;
const MASK: [u8; 4] = [9, 8, 7, 6];
const DECODER: Decoder = Decoder { role: Role::Client, max_message: 1 << 20, max_fragments: 1 };

impl Client {
    /// With this value of `Sec-WebSocket-Extensions`, if any.
    fn connect(server: &Running<Host>, offer: &str) -> Self {
        let mut socket = TcpStream::connect(server.address().unwrap()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let line = ("Sec-WebSocket-Extensions".to_owned(), offer.to_owned());
        let headers = if offer.is_empty() { vec![] } else { vec![line] };
        let mut request = Vec::new();
        response::write_request(&mut request, "test", "/", [7; 16], &headers);
        socket.write_all(&request).unwrap();
        let (mut received, mut chunk) = (Vec::new(), [0; 4096]);
        loop {
            let count = read(&mut socket, &mut chunk);
            assert!(count > 0);
            received.extend_from_slice(&chunk[..count]);
            let answer = response::parse_offered(&received, [7; 16], 4096, true).unwrap();
            if let Some(answer) = answer {
                let agreed = answer.compression.is_some();
                received.drain(..answer.len);
                return Self { socket, received, partial: None, agreed };
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    fn text(&mut self, message: &[u8]) {
        let mut out = Vec::new();
        frame::append(&mut out, Opcode::Text, message, Some(MASK));
        self.send(&out);
    }

    fn deflated(&mut self, message: &[u8]) {
        let mut payload = Vec::new();
        Deflater::new(6).deflate(message, 15, &mut payload).unwrap();
        self.payload(&payload);
    }

    fn payload(&mut self, payload: &[u8]) {
        let mut out = Vec::new();
        frame::append_deflated(&mut out, Opcode::Text, payload, Some(MASK));
        self.send(&out);
    }

    fn next(&mut self) -> Seen {
        let mut chunk = [0; 4096];
        loop {
            let mut at = 0;
            let arrival =
                DECODER.decode_deflated(&mut self.partial, &mut self.received, &mut at).unwrap();
            let seen = arrival.map(|arrival| match arrival {
                Arrival::Deflated(kind, payload) => {
                    let payload = payload.bytes(&self.received);
                    let mut inflater = Inflater::default();
                    let message = inflater.message(kind, payload, 1 << 20).unwrap();
                    assert!(payload.len() < message.len(), "never longer");
                    Seen::Message(true, message.to_vec())
                }
                Arrival::Event(Event::Message(_, payload)) => {
                    Seen::Message(false, payload.bytes(&self.received).to_vec())
                }
                Arrival::Event(Event::Ping(payload) | Event::Pong(payload)) => {
                    Seen::Pong(payload.bytes(&self.received).to_vec())
                }
                Arrival::Event(Event::Close(frame)) => Seen::Close(frame.code.0),
            });
            self.received.drain(..at);
            if let Some(seen) = seen {
                return seen;
            }
            let count = read(&mut self.socket, &mut chunk);
            assert!(count > 0, "the connection is open");
            self.received.extend_from_slice(&chunk[..count]);
        }
    }

    fn is_subscribed(&mut self) {
        self.text(b"here?");
        self.echoes(b"here?", false);
    }

    fn echoes(&mut self, message: &[u8], compressed: bool) {
        assert_eq!(self.next(), Seen::Message(compressed, message.to_vec()));
    }
}

/// Reads what there is, also where a signal of the server's threads comes between.
fn read(socket: &mut TcpStream, chunk: &mut [u8]) -> usize {
    loop {
        match socket.read(chunk) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            outcome => return outcome.unwrap(),
        }
    }
}

fn serve(compression: Option<Compression>) -> Running<Host> {
    let config = Config {
        listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        workers: 2,
        max_connections: 100,
        max_message: LIMIT,
        compression,
        ..Config::default()
    };
    Server::builder().config(config).start(|_| Host).unwrap()
}

/// Of all cores: those that do not answer within a second are left out, and asked again.
fn counters(handle: &Handle<Host>) -> super::Counters {
    loop {
        let all = handle.stats_by_core();
        if all.len() == handle.workers() {
            let mut sum = super::Stats::default();
            all.iter().for_each(|(_, stats)| sum.add(stats));
            return sum.counters;
        }
    }
}

fn end(server: Running<Host>) -> super::Counters {
    let counters = counters(&server.handle());
    server.handle().stop();
    server.join().unwrap();
    counters
}

fn text(len: usize) -> Vec<u8> {
    (0..).flat_map(|n: u32| format!("{{\"n\":{n}}} ").into_bytes()).take(len).collect()
}

const OFFER: &str = "permessage-deflate; client_max_window_bits";

#[test]
fn messages_are_compressed_where_that_is_worth_it() {
    let server = serve(Some(Compression::default()));
    let mut client = Client::connect(&server, OFFER);
    assert!(client.agreed);
    for len in [256, 1000, 20_000, LIMIT] {
        client.deflated(&text(len));
        client.echoes(&text(len), true);
        client.text(&text(len));
        client.echoes(&text(len), true);
    }
    let kept = [b"keep", &text(1000)[..]].concat();
    client.deflated(&kept);
    client.echoes(&kept, true);
    // Short, of no use, and secret.
    client.deflated(&text(255));
    client.echoes(&text(255), false);
    let secret = [b"secret", &text(1000)[..]].concat();
    client.deflated(&secret);
    client.echoes(&secret, false);
    client.payload(b"\0");
    client.echoes(b"", false);
    let mut ping = Vec::new();
    frame::append(&mut ping, Opcode::Ping, b"?", Some(MASK));
    client.send(&ping);
    assert_eq!(client.next(), Seen::Pong(b"?".to_vec()));
    let mut state = 1_u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    let noise: Vec<u8> = (0..300).map(|_| noise()).collect();
    let mut out = Vec::new();
    frame::append(&mut out, Opcode::Binary, &noise, Some(MASK));
    client.send(&out);
    client.echoes(&noise, false);
    let counters = end(server);
    assert_eq!((counters.deflate_messages, counters.deflate_skipped_small), (9, 2));
    assert_eq!(counters.deflate_skipped_grew, 1);
    assert_eq!((counters.inflate_messages, counters.inflate_failed), (8, 0));
    assert!(counters.deflate_bytes_after < counters.deflate_bytes_before / 2);
}

#[test]
fn who_does_not_offer_or_is_not_offered_goes_without() {
    let server = serve(Some(Compression::default()));
    for offer in ["", "permessage-deflate; unknown", "x-webkit-deflate-frame"] {
        let mut client = Client::connect(&server, offer);
        assert!(!client.agreed);
        client.text(&text(1000));
        client.echoes(&text(1000), false);
        client.payload(b"\0");
        assert_eq!(client.next(), Seen::Close(1002));
    }
    let counters = end(server);
    assert_eq!((counters.deflate_messages, counters.deflate_bytes_held), (0, 0));
    let server = serve(None);
    assert!(!Client::connect(&server, OFFER).agreed);
    end(server);
}

#[test]
fn windows_are_kept() {
    let server = serve(Some(Compression::default()));
    for bits in 8..=15 {
        let mut client =
            Client::connect(&server, &format!("permessage-deflate; server_max_window_bits={bits}"));
        let short = text(256);
        client.text(&short);
        client.echoes(&short, true);
        let long = text(40_000);
        client.text(&long);
        // The window of 256 bytes has no compressor.
        client.echoes(&long, bits > 8);
    }
    assert_eq!(end(server).deflate_skipped_window, 1);
}

#[test]
fn a_publication_is_compressed_once_for_all_cores() {
    let server = serve(Some(Compression::default()));
    let mut clients: Vec<_> = (0..12).map(|_| Client::connect(&server, OFFER)).collect();
    let mut plain = Client::connect(&server, "");
    for client in clients.iter_mut().chain([&mut plain]) {
        client.is_subscribed();
    }
    let message = [b"all", &text(1000)[..]].concat();
    for _ in 0..3 {
        clients[0].text(&message);
        for client in &mut clients {
            client.echoes(&message, true);
        }
        plain.echoes(&message, false);
    }
    let counters = end(server);
    assert_eq!((counters.deflate_messages, counters.deflate_shared), (3, 3 * 11));
}

#[test]
fn small_windows_share_a_publication_too() {
    let server = serve(Some(Compression::default()));
    let small = |bits: u8| format!("permessage-deflate; server_max_window_bits={bits}");
    // As many as there are cores, and more, of each.
    let crowd = (0..6).flat_map(|_| 8..=15);
    let mut clients: Vec<_> =
        crowd.map(|bits| (bits, Client::connect(&server, &small(bits)))).collect();
    clients.iter_mut().for_each(|(_, client)| client.is_subscribed());
    let publish = |clients: &mut Vec<(u8, Client)>, len: usize| {
        let message = [b"all", &text(len - 3)[..]].concat();
        clients[0].1.text(&message);
        for (bits, client) in clients {
            client.echoes(&message, *bits > 8);
        }
        let counters = counters(&server.handle());
        (counters.deflate_messages, counters.deflate_shared, counters.deflate_skipped_window)
    };
    // Those of 9 to 11 bits have one form in common, all with a larger window another one.
    assert_eq!(publish(&mut clients, 4096), (2, 6 * 7 - 2, 6));
    // Those of 12 bits have a third one.
    assert_eq!(publish(&mut clients, 5000), (2 + 3, 2 * 6 * 7 - 5, 12));
    end(server);
}

#[test]
fn long_messages_go_as_they_are() {
    let server = serve(Some(Compression { max_size: 10_000, ..Compression::default() }));
    let mut client = Client::connect(&server, OFFER);
    client.is_subscribed();
    for (len, compressed) in [(10_000, true), (10_001, false), (LIMIT, false)] {
        client.deflated(&text(len));
        client.echoes(&text(len), compressed);
        let message = [b"all", &text(len - 3)[..]].concat();
        client.text(&message);
        client.echoes(&message, compressed);
    }
    let counters = end(server);
    assert_eq!((counters.deflate_messages, counters.deflate_skipped_large), (2, 4));
}

#[test]
fn what_cannot_be_compressed_comes_up_to_the_limit() {
    let server = serve(Some(Compression::default()));
    let mut client = Client::connect(&server, OFFER);
    // A poor encoder: stored blocks, and short ones.
    let stored = |message: &[u8]| {
        let block = |piece: &[u8]| {
            let len = piece.len() as u16;
            [&[0], &len.to_le_bytes()[..], &(!len).to_le_bytes(), piece].concat()
        };
        [message.chunks(256).flat_map(block).collect(), vec![0]].concat()
    };
    let message = text(LIMIT);
    assert!(stored(&message).len() > LIMIT + 1000);
    client.payload(&stored(&message));
    client.echoes(&message, true);
    client.payload(&stored(&text(LIMIT + 1)));
    assert_eq!(client.next(), Seen::Close(CloseCode::TOO_BIG.0));
    end(server);
}

#[test]
fn faults_end_in_their_codes() {
    let server = serve(Some(Compression::default()));
    let bomb = {
        let mut payload = Vec::new();
        Deflater::new(9).deflate(&vec![b' '; 8 << 20], 15, &mut payload).unwrap();
        payload
    };
    assert!(bomb.len() < LIMIT);
    let bad_text = {
        let mut payload = Vec::new();
        Deflater::new(9).deflate(&b"\xc3 ".repeat(100), 15, &mut payload).unwrap();
        payload
    };
    for (payload, code) in [
        (&bomb[..], CloseCode::TOO_BIG),
        (&bad_text, CloseCode::INVALID_DATA),
        (b"\x06", CloseCode::INVALID_DATA),
        (b"\xf2\x48", CloseCode::INVALID_DATA),
    ] {
        let mut client = Client::connect(&server, OFFER);
        client.payload(payload);
        assert_eq!(client.next(), Seen::Close(code.0));
    }
    for first in [0x89, 0x80, 0x88] {
        let mut client = Client::connect(&server, OFFER);
        client.send(&[first | RSV1, 0x80, 1, 2, 3, 4]);
        assert_eq!(client.next(), Seen::Close(1002), "{first:x}");
    }
    // Fragments cut it anywhere, and a ping comes between them.
    let mut client = Client::connect(&server, OFFER);
    let mut payload = Vec::new();
    Deflater::new(9).deflate(&text(5000), 15, &mut payload).unwrap();
    let (mut out, mut opcode) = (Vec::new(), Opcode::Text);
    for (index, piece) in payload.chunks(100).enumerate() {
        let fin = (index + 1) * 100 >= payload.len();
        let mut header = [0; HEADER_MAX];
        let len = piece.len() as u64;
        let used = Header { fin, opcode, mask: Some(MASK), len }.write(&mut header);
        header[0] |= if index == 0 { RSV1 } else { 0 };
        out.extend_from_slice(&header[..used]);
        mask::append(&mut out, piece, MASK);
        opcode = Opcode::Continuation;
        if index == 0 {
            frame::append(&mut out, Opcode::Ping, b"!", Some(MASK));
        }
    }
    client.send(&out);
    assert_eq!(client.next(), Seen::Pong(b"!".to_vec()));
    client.echoes(&text(5000), true);
    assert_eq!(end(server).inflate_failed, 4);
}

#[test]
fn memory_goes_back_when_nobody_is_left() {
    let server = serve(Some(Compression::default()));
    let stats = || counters(&server.handle());
    let mut client = Client::connect(&server, OFFER);
    assert_eq!((stats().deflate_connections, stats().deflate_bytes_held), (1, 0));
    client.deflated(&text(1000));
    client.echoes(&text(1000), true);
    let held = stats().deflate_bytes_held;
    assert!((400_000..600_000).contains(&held), "{held}");
    drop(client);
    let deadline = Instant::now() + Duration::from_secs(60);
    while stats().deflate_connections + stats().deflate_bytes_held > 0 {
        assert!(Instant::now() < deadline, "memory is still held");
        std::thread::sleep(Duration::from_millis(20));
    }
    end(server);
}
