//! The server as tokio-tungstenite's client meets it, a client nobody here wrote.
//!
//! Method: each test opens real client connections to `ringhold echo` and compares what comes back
//! with what was sent; the client itself fails on frames that break RFC 6455. A deadline bounds
//! every test as a whole.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::{Bytes, Message};

use crate::support::raise_open_files;
use crate::support::server::Server;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// How long a whole test may take.
const LIMIT: Duration = Duration::from_secs(600);

/// Message lengths around the borders of the three forms, up to the server's default limit.
const SIZES: [usize; 12] =
    [0, 1, 2, 125, 126, 127, 65_535, 65_536, 65_537, 1 << 20, (16 << 20) - 1, 16 << 20];

/// Runs a test against a fresh server under the deadline, then asserts that the server ends well.
fn with_server<F: Future<Output = ()>>(options: &[&str], test: impl FnOnce(String) -> F) {
    let server = Server::start(options);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let url = server.url();
    runtime.block_on(async { tokio::time::timeout(LIMIT, test(url)).await.expect("in time") });
    server.assert_alive();
    server.stop();
}

async fn open(url: &str) -> Socket {
    let (socket, response) = connect_async(url).await.expect("the handshake succeeds");
    assert_eq!(response.status(), 101);
    socket
}

async fn next(socket: &mut Socket) -> Message {
    socket.next().await.expect("the connection is open").expect("a frame without fault")
}

/// Sends a message and expects the same.
async fn echo(socket: &mut Socket, message: Message) {
    socket.send(message.clone()).await.expect("the message is taken");
    let answer = next(socket).await;
    assert!(answer == message, "{} bytes back for {} sent", answer.len(), message.len());
}

/// Starts the close handshake and follows it to the end of the TCP connection.
async fn close(mut socket: Socket, code: u16, reason: &str) -> Option<CloseFrame> {
    let frame = CloseFrame { code: code.into(), reason: reason.to_owned().into() };
    socket.send(Message::Close(Some(frame))).await.expect("the close frame is taken");
    let answer = match next(&mut socket).await {
        Message::Close(answer) => answer,
        other => panic!("expected a close frame, got {} bytes", other.len()),
    };
    assert!(socket.next().await.is_none(), "something behind the close frame");
    answer
}

fn bytes(len: usize) -> Bytes {
    (0..len).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect()
}

#[test]
fn text_messages() {
    with_server(&[], async |url| {
        let mut socket = open(&url).await;
        for text in ["", "hello", "κόσμε", "😀\u{10ffff}\0"] {
            echo(&mut socket, Message::text(text)).await;
        }
        for size in SIZES {
            echo(&mut socket, Message::text("€".repeat(size / 3) + &"x".repeat(size % 3))).await;
        }
        assert_eq!(close(socket, 1000, "").await.map(|frame| frame.code.into()), Some(1000_u16));
    });
}

#[test]
fn binary_messages() {
    with_server(&[], async |url| {
        let mut socket = open(&url).await;
        for size in SIZES {
            echo(&mut socket, Message::Binary(bytes(size))).await;
        }
        close(socket, 1000, "done").await;
    });
}

#[test]
fn many_messages_under_way_keep_their_order() {
    with_server(&[], async |url| {
        let (mut sink, mut stream) = open(&url).await.split();
        let sizes = || (0..5000_usize).map(|number| number * 7919 % 3000);
        let sender = tokio::spawn(async move {
            for size in sizes() {
                sink.send(Message::Binary(bytes(size))).await.expect("the message is taken");
            }
            sink
        });
        for size in sizes() {
            let answer = stream.next().await.expect("open").expect("a frame without fault");
            assert!(answer == Message::Binary(bytes(size)), "{} for {size}", answer.len());
        }
        let sink = sender.await.expect("the sender ends");
        close(sink.reunite(stream).expect("two halves of one"), 1000, "").await;
    });
}

#[test]
fn fragments() {
    with_server(&[], async |url| {
        let mut socket = open(&url).await;
        let whole = bytes(200_000);
        for size in [1_000, 65_536, 199_999] {
            let mut opcode = Data::Binary;
            for piece in whole.chunks(size) {
                let frame = Frame::message(piece.to_vec(), OpCode::Data(opcode), false);
                socket.send(Message::Frame(frame)).await.expect("the fragment is taken");
                opcode = Data::Continue;
            }
            // A ping between the fragments is answered before the message.
            socket.send(Message::Ping("now".into())).await.expect("the ping is taken");
            assert_eq!(next(&mut socket).await, Message::Pong("now".into()));
            let last = Frame::message(Bytes::new(), OpCode::Data(Data::Continue), true);
            socket.send(Message::Frame(last)).await.expect("the fragment is taken");
            assert!(next(&mut socket).await == Message::Binary(whole.clone()));
        }
        let euro = "€".as_bytes();
        for (piece, opcode, fin) in
            [(&euro[..1], Data::Text, false), (&euro[1..], Data::Continue, true)]
        {
            let frame = Frame::message(piece.to_vec(), OpCode::Data(opcode), fin);
            socket.send(Message::Frame(frame)).await.expect("the fragment is taken");
        }
        assert_eq!(next(&mut socket).await, Message::text("€"));
        close(socket, 1000, "").await;
    });
}

#[test]
fn pings() {
    with_server(&[], async |url| {
        let mut socket = open(&url).await;
        for len in 0..=125 {
            socket.send(Message::Ping(bytes(len))).await.expect("the ping is taken");
            assert_eq!(next(&mut socket).await, Message::Pong(bytes(len)));
        }
        socket.send(Message::Pong("unsolicited".into())).await.expect("the pong is taken");
        echo(&mut socket, Message::text("no answer to a pong")).await;
        close(socket, 1000, "").await;
    });
}

#[test]
fn close_codes() {
    with_server(&[], async |url| {
        for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 3000, 4000, 4999] {
            let answer = close(open(&url).await, code, "the reason, žluťoučký").await;
            assert_eq!(answer.map(|frame| frame.code.into()), Some(code));
        }
        let mut socket = open(&url).await;
        socket.close(None).await.expect("an empty close frame is taken");
        assert!(matches!(next(&mut socket).await, Message::Close(_)));
        assert!(socket.next().await.is_none());
    });
}

/// The server's own close frames, as the client reports them.
#[test]
fn faults_of_the_client() {
    with_server(&["--max-message", "100000"], async |url| {
        let bad_text = Frame::message(&b"\xff"[..], OpCode::Data(Data::Text), true);
        let too_big = Frame::message(bytes(100_001), OpCode::Data(Data::Binary), true);
        let lone = Frame::message(bytes(1), OpCode::Data(Data::Continue), true);
        let long_ping = Frame::ping(bytes(126));
        let faults = [
            (bad_text, CloseCode::Invalid),
            (too_big, CloseCode::Size),
            (lone, CloseCode::Protocol),
            (long_ping, CloseCode::Protocol),
        ];
        for (frame, code) in faults {
            let mut socket = open(&url).await;
            socket.send(Message::Frame(frame)).await.expect("the frame is taken");
            match next(&mut socket).await {
                Message::Close(Some(answer)) => assert_eq!(answer.code, code),
                other => panic!("expected {code}, got {} bytes", other.len()),
            }
            assert!(socket.next().await.is_none());
        }
    });
}

/// 1,000 clients connect at once; when all are open, each has a message echoed.
#[test]
fn a_thousand_connects_at_once() {
    const CLIENTS: usize = 1000;
    let files = raise_open_files();
    assert!(files.is_none_or(|n| n >= 2 * CLIENTS as u64), "too few open files: {files:?}");
    with_server(&["--max-connections", "2048"], async |url| {
        let all_open = Arc::new(Barrier::new(CLIENTS));
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let (url, all_open) = (url.clone(), Arc::clone(&all_open));
            clients.spawn(async move {
                let mut socket = open(&url).await;
                all_open.wait().await;
                echo(&mut socket, Message::text(number.to_string())).await;
                close(socket, 1000, "").await.expect("a close code").code
            });
        }
        while let Some(code) = clients.join_next().await {
            assert_eq!(code.expect("the client does not panic"), CloseCode::Normal);
        }
    });
}

/// Clients that are connected when the server is told to end see 1001, then it ends.
#[test]
fn going_away() {
    let server = Server::start(&[]);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let sockets = runtime.block_on(async {
        let mut sockets = Vec::new();
        for number in 0..50 {
            let mut socket = open(&server.url()).await;
            echo(&mut socket, Message::text(number.to_string())).await;
            sockets.push(socket);
        }
        sockets
    });
    server.signal(Signal::TERM);
    runtime.block_on(async {
        let ends = async {
            for mut socket in sockets {
                match next(&mut socket).await {
                    Message::Close(Some(frame)) => assert_eq!(frame.code, CloseCode::Away),
                    other => panic!("expected 1001, got {} bytes", other.len()),
                }
                assert!(socket.next().await.is_none());
            }
        };
        tokio::time::timeout(LIMIT, ends).await.expect("in time");
    });
    server.ended();
}
