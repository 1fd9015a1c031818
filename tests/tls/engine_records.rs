//! Records below messages, against the engine: what asks for an answer of the protocol, and what
//! breaks a rule at an awkward moment. The client's records are made one by one.

use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::time::{Instant, SystemTime};

use ringhold::protocol::request::Request;
use ringhold::tls::Fault;
use ringhold::tls::keys::ServerMaterials;
use ringhold::{
    Config, Connection, Context, Counters, Detached, Handler, HttpAction, Message, Running, Server,
    UpgradeAction,
};
use socket2::{Domain, Socket, Type};

use crate::peer::server_keys;
use crate::raw::Raw;
use crate::support::PATIENCE;
use crate::support::figures;

/// Echoes messages, and hands plain requests over.
struct Doorman {
    out: mpsc::Sender<Detached>,
}

impl Handler for Doorman {
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

    fn on_http(
        &mut self,
        _: &mut Context<'_>,
        _: &Request<'_>,
        _: Option<&[u8]>,
        _: SocketAddr,
    ) -> HttpAction<()> {
        HttpAction::Detach
    }

    fn on_detach(&mut self, _: &mut Context<'_>, passed: Detached) {
        let _ = self.out.send(passed);
    }

    fn on_message(&mut self, conn: &mut Connection<'_>, (): &mut (), message: Message<'_>) {
        let _ = conn.reply(message);
    }
}

fn start(
    change: impl FnOnce(&mut Config),
) -> (Running<Doorman>, SocketAddr, mpsc::Receiver<Detached>) {
    let keys = ServerMaterials::load(&server_keys(), SystemTime::now()).unwrap();
    let (out, passed) = mpsc::channel();
    let running = Server::builder()
        .listen("127.0.0.1:0".parse().unwrap())
        .workers(1)
        .configure(change)
        .tls(keys)
        .start(move |_| Doorman { out: out.clone() })
        .unwrap();
    let address = running.address().unwrap();
    (running, address, passed)
}

fn finish(running: Running<Doorman>) -> Counters {
    running.handle().stop();
    running.join().unwrap().counters
}

/// A receive buffer so small that what is sent to it soon waits on the server's side.
fn tcp(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&address.into()).unwrap();
    let socket = TcpStream::from(socket);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn wait_for(running: &Running<Doorman>, what: &str, holds: impl Fn(&Counters) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds(&figures::counters(&running.handle())) {
        assert!(Instant::now() < deadline, "{what}");
    }
}

/// One answer stands for many (RFC 8446 section 4.6.3), where nobody reads any.
#[test]
fn key_updates_that_nobody_reads_the_answers_of() {
    const FRAMES: usize = 120;
    const LEN: usize = 60_000;
    let (running, address, _passed) = start(|config| {
        config.pause_reads = false;
        config.max_outbox = 32 << 20;
    });
    let mut client = Raw::connect(tcp(address));
    client.upgrade("/");
    // More than a send buffer takes.
    let frame = [&[0x82, 0xfe][..], &(LEN as u16).to_be_bytes(), &[0; 4], &[7; LEN]].concat();
    (0..FRAMES).for_each(|_| client.send(&frame));
    let written = client.written;
    wait_for(&running, "the flood is not read", |it| it.bytes_in == written);
    wait_for(&running, "the client is not blocked", |it| it.blocked == 1);
    let others = client.others;
    for _ in 0..50 {
        assert!(client.ask());
        let written = client.written;
        wait_for(&running, "a KeyUpdate is not read", |it| it.bytes_in == written);
    }
    while client.heard.len() < FRAMES * (LEN + 4) {
        assert!(client.read().unwrap());
    }
    // One for all, and one for each time that the kernel took everything meanwhile.
    let answers = client.others - others;
    assert!((1..=3).contains(&answers), "{answers} answers");
    assert!(client.heard.chunks(LEN + 4).all(|frame| frame[4..] == [7; LEN]));
    assert_eq!(finish(running).tls_bad_records, 0);
}

/// The request is whole, and what comes behind it in the same receive breaks the rules.
#[test]
fn a_fault_behind_a_request_that_is_handed_over() {
    let (running, address, passed) = start(|_| ());
    let request = b"GET /plain HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut client = Raw::connect(tcp(address));
    let mut bytes = Vec::new();
    client.seal(request, &mut bytes);
    bytes.extend_from_slice(&[23, 3, 3, 0, 30]);
    bytes.extend_from_slice(&[7; 30]);
    assert!(client.write(&bytes));
    let end = loop {
        match client.read() {
            Ok(true) => {}
            end => break end,
        }
    };
    assert_eq!(end, Err(Fault::Alert(20)));

    // One without a fault is handed over, also with close_notify behind it.
    for ends in [false, true] {
        let mut client = Raw::connect(tcp(address));
        let mut bytes = Vec::new();
        client.seal(request, &mut bytes);
        if ends {
            client.record.close(&mut bytes);
        }
        assert!(client.write(&bytes));
        let passed = passed.recv_timeout(PATIENCE).unwrap();
        assert_eq!(&passed.received[..], request);
        assert_eq!(passed.tls.unwrap().record.is_ended(), ends);
    }
    let counters = finish(running);
    assert_eq!((counters.passed, counters.tls_bad_records), (2, 1));
    assert_eq!((counters.connections, counters.inbound_bytes_held), (0, 0));
}
