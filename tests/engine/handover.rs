//! Plain HTTP on the WebSocket port leaves the engine: connection and bytes go to whoever answers.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use ringhold::protocol::request::Request;
use ringhold::{
    CloseCode, Connection, Context, Handler, Heartbeat, HeartbeatAction, HttpAction, Message,
    Running, Server, UpgradeAction,
};

use crate::stories::{Frame, Peer};
use crate::support::PATIENCE;

/// Hands GETs over, answers WebSocket itself, beats its own heart.
struct Doorman {
    out: mpsc::Sender<(TcpStream, Vec<u8>, SocketAddr)>,
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
        request: &Request<'_>,
        _: Option<&[u8]>,
        _: SocketAddr,
    ) -> HttpAction<()> {
        if request.path() == "/plain" { HttpAction::Detach } else { HttpAction::Refuse }
    }

    fn on_detach(&mut self, _: &mut Context<'_>, passed: ringhold::Detached) {
        let ringhold::Detached { socket, received, via, .. } = passed;
        self.out.send((socket.into(), received.to_vec(), via.peer)).expect("the test listens");
    }

    fn on_message(&mut self, conn: &mut Connection<'_>, (): &mut (), message: Message<'_>) {
        let _ = conn.reply(message);
    }

    fn on_heartbeat(&mut self, conn: &mut Connection<'_>, (): &mut ()) -> HeartbeatAction {
        match conn.text("beat") {
            Ok(()) => HeartbeatAction::Sent,
            Err(_) => HeartbeatAction::Quiet,
        }
    }
}

type Passed = mpsc::Receiver<(TcpStream, Vec<u8>, SocketAddr)>;

fn start(heartbeat: Heartbeat) -> (Running<Doorman>, SocketAddr, Passed) {
    let (out, passed) = mpsc::channel();
    let builder = Server::builder().listen(SocketAddr::from(([127, 0, 0, 1], 0))).workers(1);
    let running = builder
        .configure(|config| config.heartbeat = heartbeat)
        .start(move |_| Doorman { out: out.clone() })
        .expect("the server starts");
    let address = running.address().expect("it listens");
    (running, address, passed)
}

fn stop(running: Running<Doorman>) -> ringhold::Counters {
    running.handle().stop();
    running.join().expect("it ends").counters
}

#[test]
fn a_plain_request_is_handed_over_with_its_bytes_and_its_socket() {
    let (running, address, passed) = start(Heartbeat::default());
    let mut client = TcpStream::connect(address).expect("connects");
    client.set_read_timeout(Some(PATIENCE)).expect("a socket");
    // In two pieces, the second with the beginning of a body.
    client.write_all(b"POST /plain HTTP/1.1\r\nHost: h\r\n").expect("takes");
    std::thread::sleep(Duration::from_millis(50));
    client.write_all(b"Content-Length: 8\r\n\r\nfour").expect("takes");
    let (mut socket, received, peer) = passed.recv_timeout(PATIENCE).expect("handed over");
    assert_eq!(peer, client.local_addr().expect("bound"));
    assert!(
        received.starts_with(b"POST /plain HTTP/1.1\r\n") && received.ends_with(b"\r\n\r\nfour")
    );
    // The rest of the body stayed in the socket, or comes now.
    client.write_all(b"more").expect("takes");
    let mut rest = [0; 4];
    socket.read_exact(&mut rest).expect("the rest");
    assert_eq!(&rest, b"more");
    socket.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").expect("answers");
    drop(socket);
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer, then the end");
    assert_eq!(answer, "HTTP/1.1 204 No Content\r\n\r\n");

    // Nobody's path is answered by the engine; WebSocket goes on.
    let mut other = TcpStream::connect(address).expect("connects");
    other.set_read_timeout(Some(PATIENCE)).expect("a socket");
    other.write_all(b"GET /other HTTP/1.1\r\nHost: h\r\n\r\n").expect("takes");
    let mut answer = String::new();
    other.read_to_string(&mut answer).expect("an answer, then the end");
    assert!(answer.starts_with("HTTP/1.1 426 "), "{answer}");

    let counters = stop(running);
    assert_eq!((counters.passed, counters.handshake_aborts, counters.opened), (1, 0, 0));
    assert_eq!(counters.connections, 0);
}

#[test]
fn the_applications_heartbeat_is_steady_and_a_dead_peer_is_told() {
    let ms = Duration::from_millis;
    let heartbeat = Heartbeat {
        steady: true,
        close: Some((CloseCode(3012), "no pong")),
        start: ms(400),
        floor: ms(400),
        ceiling: ms(400),
        suspect: ms(8000),
        probe: ms(8000),
        dead: ms(8000),
        ..Heartbeat::default()
    };
    let (running, address, _passed) = start(heartbeat);
    let mut client = Peer::open(address, "/");
    let beat = Frame::Text(b"beat".to_vec());
    for _ in 0..3 {
        assert_eq!(client.read().expect("a frame"), beat);
        // Any message is an answer.
        client.echo(b"here");
    }
    assert_eq!(client.read().expect("a frame"), beat);
    assert_eq!(client.read_close(), (3012, "no pong".to_owned()));
    drop(client);
    let counters = stop(running);
    assert_eq!((counters.heartbeats_sent, counters.heartbeats_answered), (4, 3));
    assert_eq!((counters.heartbeats_missed, counters.closed_heartbeat), (1, 1));
}
