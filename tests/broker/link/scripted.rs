//! A server that answers as it is told: in pieces, late, wrongly, or not at all.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ringhold::broker::bus::Node;
use ringhold::broker::resp::{Bounds, Reply, Scanner};
use ringhold::gateway::broker::{Fault, Outcome, Publish, Request};

use super::rig::{Rig, publish, request, words};
use crate::support::PATIENCE;
use crate::support::unbroken::unbroken;

/// The answer to a command: bytes, or nothing any more.
type Answer = Arc<dyn Fn(&[String]) -> Option<Vec<u8>> + Send + Sync>;

/// A server on a free port. It greets as Redis does, and leaves the rest to `answer`.
struct Server {
    address: String,
    /// Connections so far.
    connections: Arc<AtomicU64>,
    _thread: JoinHandle<()>,
}

impl Server {
    fn start(pieces: usize, answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("address = [\"{}\"]\n", listener.local_addr().unwrap());
        let connections = Arc::new(AtomicU64::new(0));
        let count = connections.clone();
        let _thread = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                count.fetch_add(1, Ordering::SeqCst);
                let answer = answer.clone();
                std::thread::spawn(move || {
                    each_command(&stream, pieces, |it| greeting(it).or_else(|| answer(it)));
                });
            }
        });
        Self { address, connections, _thread }
    }
}

/// Reads commands, and writes an answer to each in pieces of so many bytes, until the connection or
/// the answers end.
pub(crate) fn each_command(
    stream: &TcpStream,
    pieces: usize,
    mut answer: impl FnMut(&[String]) -> Option<Vec<u8>>,
) {
    stream.set_nodelay(true).unwrap();
    let (mut reader, mut writer) = (stream, stream);
    let (mut buffer, mut chunk) = (Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = unbroken(|| reader.read(&mut chunk)) {
        buffer.extend_from_slice(&chunk[..count]);
        while let Ok(Some(len)) = Scanner::new(Bounds::default()).scan(&buffer) {
            let command: Vec<u8> = buffer.drain(..len).collect();
            let command = words(&Reply::parse(&command).unwrap());
            let Some(reply) = answer(&command) else { return };
            for piece in reply.chunks(pieces) {
                if writer.write_all(piece).is_err() {
                    return;
                }
            }
        }
    }
}

/// Pieces for answers that come whole.
pub(crate) const WHOLE: usize = usize::MAX;

pub(crate) fn greeting(command: &[String]) -> Option<Vec<u8>> {
    if command[0] == "SUBSCRIBE" {
        let acknowledged = b">3\r\n+subscribe\r\n$1\r\nx\r\n:1\r\n";
        return Some(acknowledged.repeat(command.len() - 1));
    }
    let words: Vec<&str> = command.iter().map(String::as_str).take(2).collect();
    Some(match words[..] {
        ["HELLO", _] => b"%1\r\n+proto\r\n:3\r\n".to_vec(),
        ["CLIENT" | "SELECT", _] => b"+OK\r\n".to_vec(),
        ["ROLE"] => b"*1\r\n+master\r\n".to_vec(),
        ["INFO"] => b"$17\r\nredis_version:7.0\r\n".to_vec(),
        ["SCRIPT", _] => b"$1\r\nx\r\n".to_vec(),
        ["PING"] => b"+PONG\r\n".to_vec(),
        _ => return None,
    })
}

fn plain(sequence: u64) -> Publish {
    Publish { stream: None, ..publish("ch", "x", sequence) }
}

#[test]
fn answers_in_single_bytes() {
    let server =
        Server::start(1, Arc::new(|_| Some(b">1\r\n+noise\r\n|1\r\n+a\r\n+b\r\n:7\r\n".to_vec())));
    let mut rig = Rig::connected(&server.address);
    let published = Ok(Outcome::Published { position: None, suppressed: false });
    for n in 0..10 {
        assert_eq!(rig.result(request(plain(n))), published);
    }
    rig.finish();
}

#[test]
fn a_server_that_does_not_answer_is_late() {
    let server = Server::start(WHOLE, Arc::new(|_| Some(Vec::new())));
    let mut rig = Rig::connected(&format!("{}io_timeout = \"3s\"\n", server.address));
    let tickets: Vec<_> = (0..5).map(|n| rig.ask(request(plain(n)))).collect();
    for ticket in tickets {
        let answer = rig.answer(ticket);
        assert!(matches!(answer, Err(Fault::Late | Fault::Unknown)), "{answer:?}");
    }
    let is_lost = |rig: &Rig| rig.view.tally.maps().lost.get("silent") == Some(&1);
    rig.until("the connection to be given up", is_lost);
    rig.finish();
}

#[test]
fn answers_that_fit_no_question_are_malformed() {
    let server = Server::start(WHOLE, Arc::new(|_| Some(b"*2\r\n_\r\n$1\r\nx\r\n".to_vec())));
    let mut rig = Rig::connected(&server.address);
    assert_eq!(rig.result(request(publish("ch", "x", 1))), Err(Fault::Malformed));
    assert_eq!(rig.result(request(plain(2))), Err(Fault::Malformed));
    let presence = rig.result(|ticket| Request::Presence(ticket, "ch".into()));
    assert_eq!(presence, Err(Fault::Malformed));
    assert_eq!(server.connections.load(Ordering::SeqCst), 2, "it is still the same connection");
    rig.finish();
}

#[test]
fn garbage_and_more_than_was_asked_for_end_the_connection() {
    for reply in [&b"garbage\r\n"[..], b":1\r\n:1\r\n", b"*99999999\r\n", b"$999999999999\r\n"] {
        let reply = reply.to_vec();
        let server = Server::start(WHOLE, Arc::new(move |_| Some(reply.clone())));
        let mut rig = Rig::connected(&server.address);
        let answer = rig.result(request(plain(1)));
        assert!(matches!(answer, Err(Fault::Unknown) | Ok(_)), "{answer:?}");
        rig.until("another connection", |_| server.connections.load(Ordering::SeqCst) > 2);
        rig.finish();
    }
}

/// Reconnecting to a server that always hangs up is paced: 50 ms, 100 ms and so on.
#[test]
fn a_server_that_hangs_up_is_not_stormed() {
    let server = Server::start(WHOLE, Arc::new(|_| None));
    let mut rig = Rig::connected(&server.address);
    let begun = Instant::now();
    let connections = || server.connections.load(Ordering::SeqCst);
    let mut n = 0;
    while begun.elapsed() < Duration::from_secs(2) || connections() < 3 {
        assert!(begun.elapsed() < PATIENCE, "it is not dialled again");
        n += 1;
        rig.ask(request(plain(n)));
        rig.collect(Duration::from_millis(20));
    }
    let (connections, most) = (connections(), 30 * (begun.elapsed().as_secs() + 1));
    assert!(connections <= most, "{connections} of {most}");
    rig.finish();
}

/// Nodes cannot speak to each other, and all else goes on.
#[test]
fn a_server_that_forbids_control_messages_is_served_otherwise() {
    let server = Server::start(
        4096,
        Arc::new(|command| {
            let forbidden = command[1] == "centrifugo.control";
            let refusal = &b"-NOPERM this user has no permissions to access the channel\r\n"[..];
            Some(if forbidden { refusal } else { b":1\r\n" }.to_vec())
        }),
    );
    let mut rig = Rig::connected(&server.address);
    let bus = rig.view.bus.clone();
    for n in 1..=10 {
        bus.announce(Node { name: "one".to_owned(), ..Node::default() });
        let published = Ok(Outcome::Published { position: None, suppressed: false });
        assert_eq!(rig.result(request(plain(n))), published);
    }
    let tally = rig.view.tally.clone();
    rig.until("ten refusals", |_| tally.control_dropped.get() == 10);
    assert_eq!((tally.control_sent.get(), server.connections.load(Ordering::SeqCst)), (0, 2));
    rig.finish();
    // The farewell has been tried.
    assert_eq!(tally.control_dropped.get(), 11);
}
