//! The engine over TLS, end to end: clients of rustls with tungstenite, and what is no TLS.
//!
//! Method: an echo runs in this process on a free port. Messages of sizes around those of records
//! go both ways, in each version and suite; then ends, faults and half records.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use ringhold::protocol::frame::{self, Opcode};
use ringhold::protocol::request::Request;
use ringhold::protocol::{Deflater, response};
use ringhold::tls::RecordLayer;
use ringhold::tls::keys::ServerMaterials;
use ringhold::{
    Closed, Compression, Config, ConnId, Connection, Context, Counters, Frame, Handler, Message,
    Running, Server, UpgradeAction,
};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use socket2::{Domain, Socket, Type};
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message as Ws, WebSocket};

use crate::peer::{SHAPES, client_config, record_layer, server_keys, unbroken};
use crate::support::PATIENCE;
use crate::support::figures;

struct Echo;

impl Handler for Echo {
    type State = ();
    type Event = ();

    fn on_upgrade(
        &mut self,
        _: &mut Context<'_>,
        request: &Request<'_>,
        _: SocketAddr,
    ) -> UpgradeAction<()> {
        let _ = request;
        UpgradeAction::accept(())
    }

    fn on_open(&mut self, conn: &mut Connection<'_>, (): &mut ()) {
        conn.subscribe("/all");
    }

    fn on_message(&mut self, conn: &mut Connection<'_>, (): &mut (), message: Message<'_>) {
        if let Some(text) = message.payload().strip_prefix(b"everybody") {
            conn.publish("/all", &Frame::text(&"to all".repeat(1 + text.len())));
        } else {
            let _ = conn.reply(message);
        }
    }

    fn on_close(&mut self, _: &mut Context<'_>, _: ConnId, (): (), _: &Closed) {}
}

fn start() -> (Running<Echo>, SocketAddr) {
    start_with(|_| ())
}

fn start_with(change: impl FnOnce(&mut Config)) -> (Running<Echo>, SocketAddr) {
    let keys = ServerMaterials::load(&server_keys(), SystemTime::now()).unwrap();
    let running = Server::builder()
        .listen("127.0.0.1:0".parse().unwrap())
        .workers(1)
        .max_message(8 << 20)
        .configure(|config| {
            config.max_outbox = 32 << 20;
            config.handshake_timeout = PATIENCE;
        })
        .configure(change)
        .tls(keys)
        .start(|_| Echo)
        .unwrap();
    let address = running.address().unwrap();
    (running, address)
}

fn finish(running: Running<Echo>) -> Counters {
    running.handle().stop();
    running.join().unwrap().counters
}

type Client = WebSocket<StreamOwned<ClientConnection, TcpStream>>;

fn tcp(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn connect(address: SocketAddr, shape: usize) -> Client {
    open(tcp(address), shape)
}

fn open(socket: TcpStream, shape: usize) -> Client {
    let name = ServerName::try_from("localhost").unwrap();
    let tls = ClientConnection::new(Arc::new(client_config(SHAPES[shape])), name).unwrap();
    tungstenite::client("ws://localhost/echo", StreamOwned::new(tls, socket)).unwrap().0
}

/// Its receive buffer is so small that what is sent to it waits on the server's side.
fn narrow(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&address.into()).unwrap();
    let socket = TcpStream::from(socket);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn echoes(client: &mut Client, len: usize) {
    let data: Vec<u8> = (0..len).map(|n| (n ^ (n >> 8) ^ (n >> 16)) as u8).collect();
    client.send(Ws::binary(data.clone())).unwrap();
    let answer = client.read().unwrap();
    assert!(answer.into_data() == data, "{len} bytes");
}

#[test]
fn messages_of_any_size_in_each_shape() {
    let (running, address) = start();
    for shape in 0..SHAPES.len() {
        let mut client = connect(address, shape);
        for len in [0, 1, 125, 126, 4000, 16_383, 16_384, 16_385, 70_000, 1 << 20] {
            echoes(&mut client, len);
        }
        client.close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() })).unwrap();
        // The server's close frame, its close_notify, and the end.
        while client.read().is_ok() {}
        let mut rest = Vec::new();
        assert_eq!(client.get_mut().read_to_end(&mut rest).unwrap(), 0);
    }
    let counters = finish(running);
    assert_eq!((counters.tls_handshakes, counters.opened, counters.closed_clean), (4, 4, 4));
    assert_eq!((counters.tls_bad_records, counters.tls_handshake_failures), (0, 0));
    assert_eq!(counters.inbound_bytes_held, 0);
}

/// With 60,000 bytes each, more than the largest send buffer a kernel gives by default.
const COUNT: usize = 120;

/// Many messages at once, more than a send buffer takes, from a client that does not read yet.
#[test]
fn a_slow_reader_gets_all_of_it_in_order() {
    let (running, address) = start();
    for shape in 0..SHAPES.len() {
        let mut client = open(narrow(address), shape);
        for n in 0..COUNT {
            client.write(Ws::binary(vec![n as u8; 60_000])).unwrap();
        }
        client.flush().unwrap();
        for n in 0..COUNT {
            let answer = client.read().unwrap().into_data();
            assert!(answer.len() == 60_000 && answer.iter().all(|byte| *byte == n as u8), "{n}");
        }
    }
    let counters = finish(running);
    assert!(counters.sends_short > 0, "the test blocks nobody");
    assert_eq!(counters.tls_bad_records, 0);
}

/// Who sends much at once is received from a little at a time; but a record is opened whole, so
/// what is missing of it is received in one piece.
#[test]
fn a_record_of_many_frames_takes_few_receives() {
    const BURSTS: u64 = 20;
    let (running, address) = start();
    let mut client = connect(address, 0);
    for _ in 0..BURSTS {
        // One record of some 4 KiB.
        (0..200).for_each(|n| client.write(Ws::text(format!("message {n}"))).unwrap());
        client.flush().unwrap();
        (0..200).for_each(|_| assert!(client.read().unwrap().is_text()));
    }
    let stats = figures::counters(&running.handle());
    let receives = stats.receives - stats.receives_empty;
    assert!(receives < 5 * BURSTS, "{receives} receives of {BURSTS} records");
    drop(client);
    finish(running);
}

#[test]
fn records_come_in_single_bytes() {
    let (running, address) = start();
    let name = ServerName::try_from("localhost").unwrap();
    let mut tls = ClientConnection::new(Arc::new(client_config(SHAPES[0])), name).unwrap();
    let mut socket = tcp(address);
    socket.set_nodelay(true).unwrap();
    tls.writer()
        .write_all(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n\
              \x82\x83\0\0\0\0abc",
        )
        .unwrap();
    let mut heard = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while !heard.ends_with(b"\x82\x03abc") {
        assert!(Instant::now() < deadline, "{heard:?}");
        let mut out = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut out).unwrap();
        }
        for byte in out {
            socket.write_all(&[byte]).unwrap();
        }
        let more = heard.is_empty() || !heard.ends_with(b"abc");
        if more && !tls.wants_write() {
            match tls.read_tls(&mut socket) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                read => _ = read.unwrap(),
            }
            tls.process_new_packets().unwrap();
            let _ = tls.reader().read_to_end(&mut heard);
        }
    }
    finish(running);
}

/// RFC 8446 section 4.6.3 wants an answer before the next data, and here there is none.
#[test]
fn a_key_update_is_answered_where_nobody_speaks() {
    if record_layer() == RecordLayer::Rustls {
        // The library answers with its next data.
        return;
    }
    // Header, message, type, tag.
    const ANSWER: usize = 5 + 5 + 1 + 16;
    let (running, address) = start();
    for shape in 0..2 {
        let mut client = connect(address, shape);
        for _ in 0..3 {
            let StreamOwned { conn, sock } = client.get_mut();
            conn.refresh_traffic_keys().unwrap();
            conn.complete_io(sock).unwrap();
            let mut heard = 0;
            while heard < ANSWER {
                match conn.read_tls(sock) {
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    read => heard += read.unwrap(),
                }
            }
            assert_eq!(heard, ANSWER);
            assert_eq!(conn.process_new_packets().unwrap().plaintext_bytes_to_read(), 0);
        }
        echoes(&mut client, 100);
    }
    assert_eq!(finish(running).tls_bad_records, 0);
}

#[test]
fn one_publication_reaches_all() {
    let (running, address) = start();
    let mut clients: Vec<_> = (0..40).map(|n| connect(address, n % 4)).collect();
    for client in &mut clients {
        echoes(client, 10);
    }
    clients[0].send(Ws::text("everybody")).unwrap();
    for client in &mut clients {
        assert_eq!(client.read().unwrap(), Ws::text("to all"));
    }
    finish(running);
}

/// More than is sealed at once: 60,000 bytes for each of 40.
#[test]
fn a_large_publication_leaves_in_portions() {
    let (running, address) = start();
    let mut clients: Vec<_> = (0..40).map(|n| connect(address, n % 4)).collect();
    clients.iter_mut().for_each(|client| echoes(client, 10));
    for round in 0..3 {
        clients[round].send(Ws::text(format!("everybody{}", "x".repeat(9_999)))).unwrap();
        for client in &mut clients {
            assert_eq!(client.read().unwrap(), Ws::text("to all".repeat(10_000)));
        }
    }
    finish(running);
}

#[test]
fn keys_change_on_the_way() {
    let (running, address) = start();
    let mut client = connect(address, 0);
    for round in 0..5 {
        client.get_mut().conn.refresh_traffic_keys().unwrap();
        echoes(&mut client, 1000 * round);
    }
    assert_eq!(finish(running).tls_bad_records, 0);
}

#[test]
fn plain_http_is_answered_in_the_clear() {
    let (running, address) = start();
    let mut socket = tcp(address);
    socket.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(finish(running).tls_not_tls, 1);
}

#[test]
fn a_damaged_record_ends_the_connection_with_an_alert() {
    let (running, address) = start();
    let mut client = connect(address, 0);
    echoes(&mut client, 10);
    client.get_mut().sock.write_all(&[23, 3, 3, 0, 30]).unwrap();
    client.get_mut().sock.write_all(&[7; 30]).unwrap();
    let error = client.read().unwrap_err().to_string();
    assert!(error.contains("BadRecordMac"), "{error}");
    let counters = finish(running);
    assert_eq!((counters.tls_bad_records, counters.closed_protocol), (1, 1));
}

#[test]
fn an_end_without_close_notify_is_counted() {
    let (running, address) = start();
    let mut client = connect(address, 0);
    echoes(&mut client, 10);
    client.get_mut().sock.shutdown(Shutdown::Write).unwrap();
    while client.read().is_ok() {}
    let mut client = connect(address, 1);
    echoes(&mut client, 10);
    client.get_mut().conn.send_close_notify();
    client.get_mut().flush().unwrap();
    while client.read().is_ok() {}
    let counters = finish(running);
    assert_eq!((counters.tls_truncated, counters.closed_abrupt), (1, 2));
}

/// Half a record, half a handshake, and nothing at all: no more than their bytes are held, and all
/// is back at the end.
/// Messages that take longer than a turn should are worked off before the close_notify behind them.
#[test]
fn an_end_comes_behind_compressed_messages() {
    let (running, address) = start_with(|config| config.compression = Some(Compression::default()));
    let name = ServerName::try_from("localhost").unwrap();
    let tls = ClientConnection::new(Arc::new(client_config(SHAPES[0])), name).unwrap();
    let mut stream = StreamOwned::new(tls, tcp(address));
    let (offer, mut request) = (response::compression_offer(), Vec::new());
    response::write_request(&mut request, "localhost", "/echo", [7; 16], &[offer]);
    stream.write_all(&request).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.windows(18).any(|it| it == b"permessage-deflate"));
    let (mut payload, mut wire) = (Vec::new(), Vec::new());
    Deflater::new(9).deflate(&vec![b' '; 200_000], 15, &mut payload).unwrap();
    frame::append_deflated(&mut wire, Opcode::Text, &payload, Some(*b"mask"));
    // Everything in as few records as there can be, and the end with it.
    let all = wire.repeat(50);
    assert!(all.len() < 16_384, "{}", all.len());
    stream.conn.writer().write_all(&all).unwrap();
    stream.conn.send_close_notify();
    let mut records = Vec::new();
    while stream.conn.wants_write() {
        stream.conn.write_tls(&mut records).unwrap();
    }
    stream.sock.write_all(&records).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let counters = loop {
        let counters = figures::counters(&running.handle());
        if counters.closed == 1 {
            break counters;
        }
        assert!(Instant::now() < deadline, "{counters:?}");
        thread::sleep(Duration::from_millis(5));
    };
    assert_eq!((counters.messages_in, counters.inflate_messages), (50, 50));
    assert!(counters.reads_left > 0);
    assert_eq!((counters.inbound_bytes_held, counters.tls_truncated), (0, 0));
    finish(running);
}

#[test]
fn who_is_silent_holds_what_it_sent() {
    let (running, address) = start();
    let mut halves = Vec::new();
    for bytes in [&b"\x16\x03\x01\x02\x00\x01\x00"[..], b"\x16", b""] {
        let mut socket = tcp(address);
        socket.write_all(bytes).unwrap();
        halves.push(socket);
    }
    let mut client = connect(address, 0);
    echoes(&mut client, 10);
    client.get_mut().sock.write_all(&[23, 3, 3, 0x40, 0, 1, 2, 3]).unwrap();
    let mut other = connect(address, 1);
    echoes(&mut other, 10);
    drop(halves);
    drop(client);
    thread::yield_now();
    echoes(&mut other, 10);
    let counters = finish(running);
    assert_eq!(counters.inbound_bytes_held, 0);
}

/// What a client says first.
fn hello(shape: usize) -> Vec<u8> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut tls = ClientConnection::new(Arc::new(client_config(SHAPES[shape])), name).unwrap();
    let mut out = Vec::new();
    tls.write_tls(&mut out).unwrap();
    out
}

/// Reads to the end, whatever comes.
fn drain(mut socket: &TcpStream) -> Vec<u8> {
    let (mut all, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        match unbroken(|| socket.read(&mut piece)) {
            Ok(0) => return all,
            Ok(count) => all.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return all,
            Err(error) => panic!("{error}"),
        }
    }
}

/// The handshake timeout covers TLS and HTTP together, wherever a client stops.
#[test]
fn a_handshake_that_stops_anywhere_ends_in_time() {
    let (running, address) = start_with(|config| {
        config.handshake_timeout = Duration::from_secs(6);
        config.tick = Duration::from_millis(10);
    });
    let whole = hello(0);
    let mut stopped = Vec::new();
    for bytes in [&whole[..0], &whole[..3], &whole[..whole.len() - 1], &whole[..]] {
        let mut socket = tcp(address);
        socket.write_all(bytes).unwrap();
        stopped.push(socket);
    }
    let name = ServerName::try_from("localhost").unwrap();
    let tls = ClientConnection::new(Arc::new(client_config(SHAPES[0])), name).unwrap();
    let mut silent = StreamOwned::new(tls, tcp(address));
    silent.conn.complete_io(&mut silent.sock).unwrap();
    let mut slow = {
        let name = ServerName::try_from("localhost").unwrap();
        let tls = ClientConnection::new(Arc::new(client_config(SHAPES[2])), name).unwrap();
        StreamOwned::new(tls, tcp(address))
    };
    slow.write_all(b"GET / HTTP/1.1\r\nHost:").unwrap();
    for socket in &stopped {
        drain(socket);
    }
    for stream in [&mut silent, &mut slow] {
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&answer));
    }
    let counters = finish(running);
    assert_eq!((counters.handshake_timeouts, counters.tls_handshakes), (6, 2));
    assert_eq!(counters.inbound_bytes_held, 0);
}

/// A record has to come in time once it has begun, whatever its sender answers besides.
#[test]
fn a_record_that_stops_closes_as_a_message_does() {
    let (running, address) = start_with(|config| {
        config.upload_grace = Duration::from_millis(300);
        config.tick = Duration::from_millis(10);
    });
    let mut patient = connect(address, 1);
    let mut client = connect(address, 0);
    echoes(&mut client, 10);
    client.get_mut().sock.write_all(&[23, 3, 3, 0x20, 0, 1, 2, 3]).unwrap();
    let closed = client.read().unwrap();
    assert!(closed.is_close(), "{closed:?}");
    let Ws::Close(Some(frame)) = closed else { panic!("{closed:?}") };
    assert_eq!(frame.code, CloseCode::Policy);
    echoes(&mut patient, 10);
    let counters = finish(running);
    assert_eq!((counters.closed_slow_upload, counters.inbound_bytes_held), (1, 0));
}

/// Handshakes are bounded in number: who begins one more ends the oldest, and who goes on with his
/// gets in.
#[test]
fn too_many_handshakes_end_the_oldest() {
    let (running, address) = start_with(|config| config.max_tls_handshakes = 8);
    let hello = hello(0);
    let begin = || {
        let mut socket = tcp(address);
        socket.write_all(&hello).unwrap();
        // The server's part has come, so the handshake is under way.
        socket.read_exact(&mut [0; 100]).unwrap();
        socket
    };
    let crowd: Vec<_> = (0..20).map(|_| begin()).collect();
    crowd[..12].iter().for_each(|socket| drop(drain(socket)));
    let waiting = figures::counters(&running.handle());
    assert_eq!((waiting.tls_handshakes_waiting, waiting.tls_handshakes_evicted), (8, 12));
    assert!(waiting.inbound_bytes_held > 8 * 4096, "{}", waiting.inbound_bytes_held);
    let mut client = connect(address, 0);
    echoes(&mut client, 10);
    let waiting = figures::counters(&running.handle());
    assert_eq!((waiting.tls_handshakes_waiting, waiting.tls_handshakes_evicted), (7, 13));
    assert_eq!((waiting.tls_connections, waiting.open), (1, 1));
    let counters = finish(running);
    assert_eq!((counters.tls_handshakes_waiting, counters.inbound_bytes_held), (0, 0));
}

/// What handshakes hold is part of the memory for input, and pays as other input does.
#[test]
fn handshakes_pay_with_the_memory_for_input() {
    let (running, address) = start_with(|config| config.max_inbound = 64 << 10);
    let hello = hello(0);
    let mut crowd = Vec::new();
    for _ in 0..40 {
        let mut socket = tcp(address);
        socket.write_all(&hello).unwrap();
        crowd.push(socket);
    }
    for _ in 0..5 {
        let mut client = connect(address, 0);
        echoes(&mut client, 1000);
    }
    let held = figures::counters(&running.handle());
    assert!(held.refused_inbound_full >= 20, "{}", held.refused_inbound_full);
    assert!(held.inbound_bytes_held <= 64 << 10, "{}", held.inbound_bytes_held);
    assert_eq!(finish(running).inbound_bytes_held, 0);
}

/// The memory ceiling has lines for it.
#[test]
fn the_ceiling_counts_record_layers() {
    let keys = ServerMaterials::load(&server_keys(), SystemTime::now()).unwrap();
    let plain = Config { max_connections: 1000, workers: 1, ..Config::default() };
    let secure = Config { tls: Some(Arc::new(keys)), ..plain.clone() };
    let layout = plain.layout(100_000, 1).unwrap();
    let total = |config: &Config| config.ceiling(&layout, 0, |name| name).total();
    let more = total(&secure) - total(&plain);
    assert!(more > u64::from(layout.table) * 176 + (512 << 10), "{more}");
    assert!(secure.ceiling(&layout, 0, |name| name).to_string().contains("record layers of TLS"));
}
