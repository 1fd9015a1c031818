//! The close handshake and the end of connections as RFC 6455 sections 5.5.1 and 7 demand them of
//! a server, one test per rule, and clients that leave in every other way.
//!
//! Method: raw sockets close properly, wrongly, twice, half, or by vanishing in each state a
//! connection can be in. The answer's code is checked, that the server is the one that ends the TCP
//! connection, and that the place of a client that is gone can be taken by the next.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::PATIENCE;
use crate::support::client::Client;
use crate::support::server::{Server, serve};
use crate::support::unbroken::unbroken;
use crate::support::wire::{BINARY, CLOSE, CONTINUATION, FIN, Length, MASK, PING, TEXT};
use crate::support::wire::{close_payload, frame, header, masked, upgrade};

/// Sends a close frame with this payload; the server's code and reason, then the end of TCP.
#[track_caller]
fn closed_by(server: &Server, payload: &[u8]) -> (Option<u16>, String) {
    eprintln!("close frame: {payload:02x?}");
    let mut client = Client::open(server);
    client.send_frame(FIN | CLOSE, payload);
    let answer = client.read_close();
    client.expect_end();
    answer
}

/// Sections 5.5.1 and 7.4: codes that may be sent come back.
#[test]
fn section_7_4_legal_codes_are_echoed() {
    serve(&[], |server| {
        let codes = (1000..=1003).chain(1007..=1014).chain([3000, 3001, 3999, 4000, 4001, 4999]);
        for code in codes {
            assert_eq!(closed_by(server, &close_payload(code, b"")).0, Some(code));
            assert_eq!(closed_by(server, &close_payload(code, b"why")).0, Some(code));
        }
    });
}

/// Section 7.4: codes that must not be on the wire, or that nobody has defined.
#[test]
fn section_7_4_illegal_codes() {
    serve(&[], |server| {
        let reserved = [0, 1, 999, 1004, 1005, 1006, 1015];
        let undefined = [1016, 1100, 2000, 2999, 5000, 10_000, 65_535];
        for code in reserved.into_iter().chain(undefined) {
            assert_eq!(closed_by(server, &close_payload(code, b"")).0, Some(1002), "{code}");
            assert_eq!(closed_by(server, &close_payload(code, b"why")).0, Some(1002), "{code}");
        }
    });
}

/// Section 5.5.1: a close frame may be empty; so is its answer, or it says 1000.
#[test]
fn section_5_5_1_empty_close() {
    serve(&[], |server| {
        let answer = closed_by(server, b"");
        assert!(matches!(answer.0, None | Some(1000)), "{answer:?}");
    });
}

/// Section 5.5.1: a payload starts with a code of two bytes.
#[test]
fn section_5_5_1_close_payload_of_one_byte() {
    serve(&[], |server| {
        assert_eq!(closed_by(server, &[3]).0, Some(1002));
        assert_eq!(closed_by(server, &[0]).0, Some(1002));
    });
}

/// Section 5.5.1: the reason is UTF-8, up to 123 bytes.
#[test]
fn section_5_5_1_reason() {
    serve(&[], |server| {
        let longest = "€".repeat(41);
        for reason in ["x", "žluťoučký kůň", "😀", &longest, &"r".repeat(123)] {
            let answer = closed_by(server, &close_payload(1000, reason.as_bytes()));
            assert_eq!(answer.0, Some(1000), "{reason}");
        }
        let cut = &longest.as_bytes()[..122];
        for reason in [b"\xff", &b"ok \xc0\xaf"[..], b"\xed\xa0\x80", b"\xf0\x9f\x98", cut] {
            assert_eq!(closed_by(server, &close_payload(1000, reason)).0, Some(1007));
        }
    });
}

/// Section 5.5.1: what comes after a close frame is not processed, be it legal or not.
#[test]
fn section_5_5_1_nothing_after_close() {
    serve(&[], |server| {
        let late = [
            frame(FIN | TEXT, b"late"),
            frame(FIN | PING, b"late"),
            frame(FIN | CLOSE, &close_payload(3000, b"")),
            frame(FIN | 0x3, b"reserved"),
            vec![0xff; 100],
            frame(FIN | BINARY, &[0; 70_000]),
        ];
        for bytes in late {
            let mut client = Client::open(server);
            client.try_send(&[frame(FIN | CLOSE, &close_payload(1000, b"")), bytes].concat());
            assert_eq!(client.read_close().0, Some(1000));
            client.expect_end();
        }
    });
}

/// Section 5.5.1: messages before the close frame get their echo before its answer.
#[test]
fn section_5_5_1_messages_before_close() {
    serve(&[], |server| {
        let mut client = Client::open(server);
        let big = vec![7; 1 << 20];
        let frames = [
            frame(FIN | TEXT, b"one"),
            frame(FIN | BINARY, &big),
            frame(FIN | PING, b"two"),
            frame(FIN | CLOSE, &close_payload(4000, b"three")),
        ];
        client.send(&frames.concat());
        let messages: [(u8, &[u8]); 2] = [(FIN | TEXT, b"one"), (FIN | BINARY, &big)];
        client.expect_messages_and_pongs(&messages, &[b"two"]);
        assert_eq!(client.read_close().0, Some(4000));
        client.expect_end();
    });
}

/// Section 5.5: a close frame that comes in pieces.
#[test]
fn section_5_5_1_close_byte_by_byte() {
    serve(&[], |server| {
        let mut client = Client::open(server);
        client.send_bytewise(&frame(FIN | CLOSE, &close_payload(1001, "ü".as_bytes())));
        assert_eq!(client.read_close().0, Some(1001));
        client.expect_end();
    });
}

/// Section 7.1.1: after the close handshake the server ends the TCP connection first, and at once:
/// it has ten minutes here to be late, and the client never ends its own direction.
#[test]
fn section_7_1_1_server_ends_tcp_first() {
    serve(&["--close-timeout", "600s"], |server| {
        let client = Client::open(server);
        let start = Instant::now();
        client.close(1000);
        assert!(start.elapsed() < PATIENCE);
    });
}

/// Section 7.1.1: a client that already ended its direction after its close frame.
#[test]
fn section_7_1_1_half_closed_after_close_frame() {
    serve(&[], |server| {
        let mut client = Client::open(server);
        client.send_frame(FIN | CLOSE, &close_payload(1000, b""));
        client.half_close();
        assert_eq!(client.read_close().0, Some(1000));
        client.expect_end();
    });
}

/// Section 7.1.4: a client that ends its direction without a close frame: what it sent is still
/// echoed, and the server ends the connection too.
#[test]
fn section_7_1_4_half_closed_without_close_frame() {
    serve(&[], |server| {
        let mut client = Client::open(server);
        client.half_close();
        client.expect_end();

        let mut client = Client::open(server);
        client.send_frame(FIN | TEXT, b"last words");
        client.half_close();
        client.expect_frame(FIN | TEXT, b"last words");
        client.expect_end();

        // Inside a frame, inside a message.
        for bytes in [frame(FIN | TEXT, b"cut")[..7].to_vec(), frame(TEXT, b"fragment")] {
            let mut client = Client::open(server);
            client.send(&bytes);
            client.half_close();
            client.expect_end();
        }
    });
}

/// Section 4.2: a client that ends its direction inside its request gets 400 or nothing.
#[test]
fn section_4_2_half_closed_in_the_handshake() {
    serve(&["--handshake-timeout", "600s"], |server| {
        for bytes in [&b""[..], b"GET", &upgrade()[..60]] {
            let mut client = Client::connect(server);
            client.send(bytes);
            client.half_close();
            if unbroken(|| client.socket().peek(&mut [0])).expect("answer or end") > 0 {
                client.expect_refusal(&[400, 408]);
            } else {
                client.expect_end();
            }
        }
    });
}

/// Section 7.1.7: a failed connection ends even if the client never answers the close frame and
/// never ends its own direction.
#[test]
fn section_7_1_7_client_that_never_answers() {
    serve(&["--close-timeout", "1s"], |server| {
        for (bytes, code) in [(frame(FIN | 0x3, b""), 1002), (frame(FIN | TEXT, b"\xff"), 1007)] {
            let mut client = Client::open(server);
            client.send(&bytes);
            assert_eq!(client.read_close().0, Some(code));
            client.expect_end();
        }
    });
}

/// Section 5.5.1: while the server waits for the answer to its own close frame, it sends no data,
/// and the answer ends the connection at once.
#[test]
fn section_5_5_1_answer_to_the_servers_close() {
    serve(&["--close-timeout", "600s"], |server| {
        let mut client = Client::open(server);
        client.send_frame(FIN | TEXT, b"\xff");
        assert_eq!(client.read_close().0, Some(1007));
        client.try_send(&frame(FIN | TEXT, b"not to be echoed"));
        client.try_send(&frame(FIN | CLOSE, &close_payload(1007, b"")));
        client.expect_end();
    });
}

/// The states of a connection in which a client may vanish: the bytes that lead there.
fn states() -> Vec<(&'static str, Vec<u8>)> {
    let open = |bytes: &[u8]| [&upgrade(), bytes].concat();
    let mut half = header(FIN | BINARY, Length::Bits64(1 << 20), Some(MASK));
    half.extend(masked(&[9; 5000], MASK));
    vec![
        ("connected", Vec::new()),
        ("inside the request", upgrade()[..50].to_vec()),
        ("answer not read", upgrade()),
        ("refused", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("no HTTP", vec![0x16, 3, 1, 2]),
        ("inside a frame header", open(&[FIN | BINARY, 0xff, 0])),
        ("inside a payload", open(&half)),
        ("between fragments", open(&frame(TEXT, b"fragment"))),
        ("inside a sequence", open(&frame(TEXT, b"\xe2\x82"))),
        ("pong not read", open(&frame(FIN | PING, b"ping").repeat(100))),
        ("echo not read", open(&frame(FIN | BINARY, &[9; 10_000]).repeat(20))),
        ("close not read", open(&frame(FIN | CLOSE, &close_payload(1000, b"")))),
        ("failure not read", open(&frame(FIN | 0x3, b""))),
        ("bad text not read", open(&frame(FIN | TEXT, b"\xff"))),
        ("continued after close", open(&frame(FIN | CLOSE, b"").repeat(3))),
        ("lone continuation", open(&frame(FIN | CONTINUATION, b""))),
    ]
}

/// One worker with eight places, so that a place that is not given back is missed.
const PLACES_8: [&str; 4] = ["--workers", "1", "--max-connections", "8"];

/// Opens a connection as soon as there is a place.
fn open_soon(server: &Server) -> Client {
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "no place is free");
        if let Some(client) = Client::try_open(server) {
            return client;
        }
    }
}

/// Opens as many connections as there are places, to be open all at once.
fn assert_places(server: &Server, places: usize) {
    let mut open: Vec<Client> = (0..places).map(|_| open_soon(server)).collect();
    for client in &mut open {
        client.send_frame(FIN | TEXT, b"here");
        client.expect_frame(FIN | TEXT, b"here");
    }
    open.into_iter().for_each(|client| client.close(1000));
}

/// Section 7.1.4: clients that vanish by FIN, in every state; their places are free again.
#[test]
fn section_7_1_4_clients_that_hang_up() {
    let options = [&PLACES_8[..], &["--close-timeout", "1s", "--handshake-timeout", "2s"]].concat();
    serve(&options, |server| {
        for (state, bytes) in states() {
            eprintln!("hanging up: {state}");
            for _ in 0..10 {
                let client = Client::connect(server);
                client.try_send(&bytes);
                drop(client);
            }
            server.assert_alive_within(PATIENCE);
        }
        assert_places(server, 8);
    });
}

/// Section 7.1.4: clients that vanish by reset, in every state; their places are free again.
#[test]
fn section_7_1_4_clients_that_reset() {
    let options = [&PLACES_8[..], &["--close-timeout", "1s", "--handshake-timeout", "2s"]].concat();
    serve(&options, |server| {
        for (state, bytes) in states() {
            eprintln!("resetting: {state}");
            for _ in 0..10 {
                let client = Client::connect(server);
                client.try_send(&bytes);
                client.reset();
            }
            server.assert_alive_within(PATIENCE);
        }
        assert_places(server, 8);
    });
}

/// Section 7.1.4: what is still to be done for a client that failed and vanished is not done to the
/// client that gets its place.
#[test]
fn section_7_1_4_clients_that_take_over_a_place() {
    serve(&PLACES_8, |server| {
        for round in 0..1000 {
            let failed = open_soon(server);
            failed.send_frame(FIN | 0x3, b"");
            if round % 2 == 0 {
                failed.reset();
            } else {
                drop(failed);
            }
            server.assert_alive_within(PATIENCE);
        }
    });
}

/// Section 7.1.4: a client that vanishes while a large echo is on its way to it.
#[test]
fn section_7_1_4_clients_that_reset_a_large_echo() {
    serve(&PLACES_8, |server| {
        let message = frame(FIN | BINARY, &vec![1; 4 << 20]);
        for round in 0..8 {
            let client = Client::open(server);
            client.send(&message);
            if round % 2 == 0 {
                // The first bytes of the echo are here: it is under way.
                let here = unbroken(|| client.socket().peek(&mut [0]));
                assert_eq!(here.expect("echo"), 1);
            }
            if round % 4 < 2 {
                client.reset();
            } else {
                drop(client);
            }
        }
        assert_places(server, 8);
    });
}

/// Section 7.4.1: 1001 to all connections when the server goes away, also to one that is inside a
/// message; one that has not finished its handshake holds it up to the drain's deadline at most.
#[test]
fn section_7_4_1_going_away() {
    for signal in [Signal::TERM, Signal::INT] {
        let server = Server::start(&["--drain-deadline", "2s", "--handshake-timeout", "600s"]);
        let mut clients: Vec<Client> = (0..20).map(|_| Client::open(&server)).collect();
        clients[3].send_frame(TEXT, b"unfinished");
        clients[4].send(&[FIN | BINARY, 0xff, 0, 0]);
        clients[5].send_frame(FIN | TEXT, b"echoed");
        clients[5].expect_frame(FIN | TEXT, b"echoed");
        let waiting = Client::connect(&server);
        waiting.send(b"GET / HTTP/1.1\r\nHost:");

        server.signal(signal);
        for client in &mut clients {
            client.expect_failure(1001);
        }
        server.ended();
    }
}

/// Section 7.1.7: a client that never answers 1001 does not keep the server from ending.
#[test]
fn section_7_4_1_going_away_without_answers() {
    let server = Server::start(&["--close-timeout", "1s"]);
    let mut clients: Vec<Client> = (0..5).map(|_| Client::open(&server)).collect();
    // One of them does not even read: its echoes fill the buffers.
    let full = Client::open(&server);
    full.socket().set_nonblocking(true).expect("set_nonblocking");
    let message = frame(FIN | BINARY, &[0; 60_000]);
    (0..200).take_while(|_| full.fits(&message)).for_each(drop);
    server.stop();
    for client in &mut clients {
        assert_eq!(client.read_close().0, Some(1001));
        client.expect_end();
    }
}

/// A second signal ends the server at once, whatever its clients do.
#[test]
fn section_7_4_1_second_signal() {
    let mut server = Server::start(&["--close-timeout", "600s", "--drain-deadline", "600s"]);
    let mut client = Client::open(&server);
    server.signal(Signal::TERM);
    assert_eq!(client.read_close().0, Some(1001));
    assert_eq!(server.wait(Duration::ZERO), None, "it waits for the client's answer");
    // Signals that come together are one.
    let start = std::time::Instant::now();
    while server.wait(Duration::from_millis(100)).is_none() {
        assert!(start.elapsed() < PATIENCE, "the second signal ends it");
        server.signal(Signal::TERM);
    }
}
