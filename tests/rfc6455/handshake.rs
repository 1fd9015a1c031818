//! The opening handshake as RFC 6455 section 4.2 demands it of a server, one test per rule.
//!
//! Method: raw sockets send requests that are right, wrong in one place, or no HTTP at all; the
//! answer's status and headers are checked, and that a refused connection ends by FIN, not by a
//! reset that could take the answer with it. After each test the server still has to echo.

use std::io::{ErrorKind, Read};
use std::time::{Duration, Instant};

use crate::support::PATIENCE;
use crate::support::client::{Client, Head};
use crate::support::server::{Server, serve};
use crate::support::unbroken::unbroken;
use crate::support::wire::{BINARY, CLOSE, FIN, PING, TEXT, UPGRADE};
use crate::support::wire::{close_payload, frame, request, upgrade};

const GET: &str = "GET / HTTP/1.1";

/// The lines of a valid upgrade, with those of one header replaced.
fn with(name: &str, lines: &[&str]) -> Vec<String> {
    let others = UPGRADE.iter().filter(|line| line.split(':').next() != Some(name));
    others.chain(lines).map(|line| (*line).to_owned()).collect()
}

/// The lines of a valid upgrade and some more.
fn and(lines: &[&str]) -> Vec<String> {
    with("", lines)
}

/// Sends a request that must be accepted and has a message echoed.
#[track_caller]
fn accepted(server: &Server, bytes: &[u8]) -> Head {
    let mut client = Client::connect(server);
    client.send(bytes);
    let head = client.read_head();
    assert_eq!(head.status, 101, "{:?}: {head:?}", String::from_utf8_lossy(bytes));
    client.send_frame(FIN | TEXT, b"open");
    client.expect_frame(FIN | TEXT, b"open");
    client.close(1000);
    head
}

/// Sends a request that must be refused with one of these statuses.
#[track_caller]
fn refused(server: &Server, bytes: &[u8], statuses: &[u16]) -> Head {
    eprintln!("must be refused: {:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(300)]));
    let mut client = Client::connect(server);
    client.try_send(bytes);
    client.expect_refusal(statuses)
}

/// Sections 1.3 and 4.2.2: the accept value of the example key.
#[test]
fn section_1_3_accept_value_of_the_example_key() {
    serve(&[], |server| {
        let head = accepted(server, &upgrade());
        assert_eq!(head.values("sec-websocket-accept"), ["s3pPLMBiTxaQ9kYGzzhZRbK+xOo="]);
    });
}

/// Section 4.2.2: the accept value comes from the key as sent, without blanks around it.
#[test]
fn section_4_2_2_accept_value_of_other_keys() {
    use tungstenite::handshake::derive_accept_key;
    serve(&[], |server| {
        for key in
            ["AAAAAAAAAAAAAAAAAAAAAA==", "/////////////////////w==", "x3JJHMbDL1EzLkh9GBhXDw=="]
        {
            let line = format!("Sec-WebSocket-Key: \t {key} ");
            let head = accepted(server, &request(GET, &with("Sec-WebSocket-Key", &[&line])));
            let expected = derive_accept_key(key.as_bytes());
            assert_eq!(head.values("sec-websocket-accept"), [expected], "{key}");
        }
    });
}

/// Section 4.2.2: 101 with Upgrade and Connection, and nothing that was not offered.
#[test]
fn section_4_2_2_head_of_the_answer() {
    serve(&[], |server| {
        let head = accepted(server, &upgrade());
        let upgrade = head.values("upgrade");
        assert!(upgrade.len() == 1 && upgrade[0].eq_ignore_ascii_case("websocket"), "{head:?}");
        let connection = head.values("connection");
        assert!(connection.len() == 1 && connection[0].eq_ignore_ascii_case("upgrade"), "{head:?}");
        assert!(head.values("sec-websocket-protocol").is_empty(), "{head:?}");
        assert!(head.values("sec-websocket-extensions").is_empty(), "{head:?}");
        // RFC 9112 section 6.3: a 1xx answer has no body, so it must not announce one.
        assert!(head.values("content-length").is_empty(), "{head:?}");
        assert!(head.values("transfer-encoding").is_empty(), "{head:?}");
    });
}

/// Section 4.2.1, item 1: the method is GET. RFC 9110 section 15.5.6: 405 names what is allowed.
#[test]
fn section_4_2_1_method_is_get() {
    serve(&[], |server| {
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "GETS", "get"] {
            let head = refused(server, &request(&format!("{method} / HTTP/1.1"), &UPGRADE), &[405]);
            assert_eq!(head.values("allow"), ["GET"], "{method}: {head:?}");
        }
        let post = request("POST / HTTP/1.1", &["Host: ringhold.test", "Content-Length: 5"]);
        refused(server, &[&post[..], b"hello"].concat(), &[405]);
    });
}

/// Section 4.2.1, item 1: HTTP/1.1 or higher.
#[test]
fn section_4_2_1_http_version() {
    serve(&[], |server| {
        refused(server, &request("GET / HTTP/1.0", &UPGRADE), &[505]);
        for version in ["HTTP/0.9", "HTTP/2.0", "HTTP/1.", "HTTP/11", "http/1.1", "HTTPS/1.1", ""] {
            refused(server, &request(&format!("GET / {version}"), &UPGRADE), &[400, 505]);
        }
    });
}

/// Section 4.2.1, item 1 and 4.1, item 3: a path with its query, or an absolute http URI.
#[test]
fn section_4_2_1_request_target() {
    serve(&[], |server| {
        let long = format!("/{}", "a/".repeat(500));
        let targets =
            ["/chat", "/chat?room=1&x=%20y?z", "/?", "//", "http://ringhold.test/x", &long];
        for target in targets {
            accepted(server, &request(&format!("GET {target} HTTP/1.1"), &UPGRADE));
        }
        for line in
            ["GET HTTP/1.1", "GET  / HTTP/1.1", "GET / / HTTP/1.1", "GET /\t HTTP/1.1", "GET"]
        {
            refused(server, &request(line, &UPGRADE), &[400, 505]);
        }
    });
}

/// Section 4.2.1, item 2: Host must be there. RFC 9112 section 3.2: once.
#[test]
fn section_4_2_1_host() {
    serve(&[], |server| {
        accepted(server, &request(GET, &with("Host", &["hOST: [::1]:8080"])));
        refused(server, &request(GET, &with("Host", &[])), &[400]);
        refused(server, &request(GET, &with("Host", &["Host: a", "Host: b"])), &[400]);
        refused(server, &request(GET, &with("Host", &["Host: a", "host: a"])), &[400]);
    });
}

/// Section 4.2.1, item 3: Upgrade has the token `websocket`, in any case, on any of its lines.
#[test]
fn section_4_2_1_upgrade() {
    serve(&[], |server| {
        let good: [&[&str]; 5] = [
            &["Upgrade: WebSocket"],
            &["uPGRADE:WEBSOCKET"],
            &["Upgrade: h2c ,\twebsocket"],
            &["Upgrade: ,, websocket,,"],
            &["Upgrade: h2c", "Upgrade: websocket"],
        ];
        for lines in good {
            accepted(server, &request(GET, &with("Upgrade", lines)));
        }
        let bad: [&[&str]; 5] = [
            &[],
            &["Upgrade:"],
            &["Upgrade: websockets"],
            &["Upgrade: web socket"],
            &["Upgrade: h2c", "X-Upgrade: websocket"],
        ];
        for lines in bad {
            let head = refused(server, &request(GET, &with("Upgrade", lines)), &[426]);
            assert_eq!(head.values("sec-websocket-version"), ["13"], "{head:?}");
        }
    });
}

/// Section 4.2.1, item 4: Connection has the token `Upgrade`, in any case, on any of its lines.
#[test]
fn section_4_2_1_connection() {
    serve(&[], |server| {
        let good: [&[&str]; 5] = [
            &["Connection: upgrade"],
            &["CONNECTION:UPGRADE"],
            &["Connection: keep-alive, Upgrade"],
            &["Connection: Upgrade ,keep-alive"],
            &["Connection: keep-alive", "Connection: foo,\t uPgRaDe"],
        ];
        for lines in good {
            accepted(server, &request(GET, &with("Connection", lines)));
        }
        let bad: [&[&str]; 5] = [
            &[],
            &["Connection:"],
            &["Connection: keep-alive"],
            &["Connection: upgraded, x-upgrade"],
            &["Connection: keep-alive upgrade"],
        ];
        for lines in bad {
            refused(server, &request(GET, &with("Connection", lines)), &[400, 426]);
        }
    });
}

/// Section 4.2.1, item 5: the key is base64 of 16 bytes. Section 11.3.1: once.
#[test]
fn section_4_2_1_key() {
    serve(&[], |server| {
        let bad = [
            "",
            "AAAAAAAAAAAAAAAAAAAA",     // 15 bytes
            "AAAAAAAAAAAAAAAAAAAAAAA=", // 17 bytes
            "AAAAAAAAAAAAAAAAAAAAAA",   // no padding
            "AAAAAAAAAAAAAAAAAAAAAA=",  // half of the padding
            "AAAAAAAAAAAAAAAAAAAAAAAAAAA=====",
            "AAAAAAAAAAAAAAAAAAAAA*==",
            "AAAAAAAAAA AAAAAAAAAAAA==",
            "AAAAAAAAAAAAAAAAAAAA-_==", // the alphabet for URLs
            "dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ==",
        ];
        for key in bad {
            let line = format!("Sec-WebSocket-Key: {key}");
            refused(server, &request(GET, &with("Sec-WebSocket-Key", &[&line])), &[400]);
        }
        refused(server, &request(GET, &with("Sec-WebSocket-Key", &[])), &[400]);
        refused(
            server,
            &request(GET, &and(&["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="])),
            &[400],
        );
        refused(server, &request(GET, &and(&[UPGRADE[3]])), &[400]);
    });
}

/// Section 4.2.1, item 6 and 4.4: any version but 13 is answered by 426 that names 13. RFC 9110
/// section 15.5.22: 426 names the protocol to upgrade to.
#[test]
fn section_4_4_version() {
    serve(&[], |server| {
        for version in ["0", "7", "8", "12", "14", "25", "255"] {
            let line = format!("Sec-WebSocket-Version: {version}");
            let head =
                refused(server, &request(GET, &with("Sec-WebSocket-Version", &[&line])), &[426]);
            assert_eq!(head.values("sec-websocket-version"), ["13"], "{head:?}");
            assert_eq!(head.values("upgrade"), ["websocket"], "{head:?}");
        }
        for version in ["", "x", "013", "1 3", "13;", "-13", "13, 8", "1313"] {
            let line = format!("Sec-WebSocket-Version: {version}");
            refused(server, &request(GET, &with("Sec-WebSocket-Version", &[&line])), &[400, 426]);
        }
        refused(server, &request(GET, &with("Sec-WebSocket-Version", &[])), &[400, 426]);
    });
}

/// Section 11.3.5: the version must not appear more than once.
#[test]
fn section_11_3_5_version_only_once() {
    serve(&[], |server| {
        refused(server, &request(GET, &and(&["Sec-WebSocket-Version: 13"])), &[400, 426]);
        refused(server, &request(GET, &and(&["sec-websocket-version: 8"])), &[400, 426]);
    });
}

/// Section 4.2.2, item 5: subprotocols and extensions that the server does not speak are not in
/// the answer; an empty offer is no offer. Whether the connection is then wanted is the client's
/// decision.
#[test]
fn section_4_2_2_offers_not_taken() {
    let offers: [&[&str]; 5] = [
        &["Sec-WebSocket-Protocol: chat, superchat"],
        &["Sec-WebSocket-Protocol: chat", "Sec-WebSocket-Protocol: superchat"],
        &["Sec-WebSocket-Protocol:"],
        &["Sec-WebSocket-Protocol: ,"],
        &["Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, x-unknown"],
    ];
    serve(&[], |server| {
        for lines in offers {
            let head = accepted(server, &request(GET, &and(lines)));
            assert!(head.values("sec-websocket-protocol").is_empty(), "{head:?}");
            assert!(head.values("sec-websocket-extensions").is_empty(), "{head:?}");
        }
    });
}

/// Section 4.2.1, items 7 to 10: other headers, known or not, do not matter.
#[test]
fn section_4_2_1_other_headers() {
    serve(&[], |server| {
        let lines = and(&[
            "Origin: http://example.com",
            "Cookie: a=b; c=\"d\"",
            "User-Agent: caf\u{e9}/1.0",
            "X-Empty:",
            "X-Long: ------------------------------------------------------------------------",
        ]);
        accepted(server, &request(GET, &lines));
    });
}

/// RFC 9112 sections 2.2 and 5: what could be read in two ways is refused.
#[test]
fn section_4_2_1_malformed_header_lines() {
    serve(&[], |server| {
        for line in ["Host : a", " X: folded", "no colon", ": no name", "X\0: y", "X: \0", "X y: z"]
        {
            refused(server, &request(GET, &and(&[line])), &[400]);
        }
        refused(server, &request(GET, &and(&["X: a\rY: b"])), &[400]);
    });
}

/// Section 4.2.2, after item 5: the connection is open at once, so bytes right behind the request
/// are the first frames.
#[test]
fn section_4_2_2_frames_right_behind_the_request() {
    serve(&[], |server| {
        let mut client = Client::connect(server);
        let big = vec![7; 50_000];
        let frames = [
            upgrade(),
            frame(FIN | TEXT, b"one"),
            frame(TEXT, b"t"),
            frame(FIN | PING, b"two"),
            frame(FIN, b"hree"),
            frame(FIN | BINARY, &big),
            frame(FIN | CLOSE, &close_payload(1000, b"")),
        ];
        client.send(&frames.concat());
        assert_eq!(client.read_head().status, 101);
        let messages: [(u8, &[u8]); 3] =
            [(FIN | TEXT, b"one"), (FIN | TEXT, b"three"), (FIN | BINARY, &big)];
        client.expect_messages_and_pongs(&messages, &[b"two"]);
        assert_eq!(client.read_close().0, Some(1000));
        client.expect_end();
    });
}

/// Section 4.2.2: the first bytes of a frame may come with the request and the rest later.
#[test]
fn section_4_2_2_part_of_a_frame_behind_the_request() {
    serve(&[], |server| {
        let hello = frame(FIN | TEXT, b"hello");
        for cut in 1..hello.len() {
            let mut client = Client::connect(server);
            client.send(&[&upgrade(), &hello[..cut]].concat());
            assert_eq!(client.read_head().status, 101);
            client.send(&hello[cut..]);
            client.expect_frame(FIN | TEXT, b"hello");
            client.close(1000);
        }
    });
}

/// Section 4.2.2: junk behind an accepted request is judged as frames.
#[test]
fn section_4_2_2_junk_behind_an_accepted_request() {
    serve(&[], |server| {
        for junk in [&upgrade()[..], b"\r\n\r\n", &[0xff; 5000]] {
            let mut client = Client::connect(server);
            client.send(&[&upgrade(), junk].concat());
            assert_eq!(client.read_head().status, 101);
            client.expect_failure(1002);
        }
    });
}

/// Section 4.2: a request may come in any number of pieces.
#[test]
fn section_4_2_request_byte_by_byte() {
    serve(&[], |server| {
        let mut client = Client::connect(server);
        client.send_bytewise(&upgrade());
        assert_eq!(client.read_head().status, 101);
        client.close(1000);

        let mut client = Client::connect(server);
        client.send_bytewise(&request(GET, &["Host: ringhold.test"]));
        client.expect_refusal(&[426]);
    });
}

/// Section 4.2.1: a plain GET is no upgrade; 426 says what would be.
#[test]
fn section_4_2_1_plain_get() {
    serve(&[], |server| {
        let plain = request(GET, &["Host: ringhold.test", "Accept: */*"]);
        let head = refused(server, &plain, &[426]);
        assert_eq!(head.values("upgrade"), ["websocket"], "{head:?}");
        assert_eq!(head.values("sec-websocket-version"), ["13"], "{head:?}");
        // What is behind a refused request is no second request, and does not hurt its answer.
        refused(server, &[plain.clone(), plain.clone(), upgrade()].concat(), &[426]);
        refused(server, &[&plain[..], &[0xa5; 30_000]].concat(), &[426]);
    });
}

/// RFC 9110 section 9.3.2: the answer to HEAD is its head alone.
#[test]
fn section_4_2_1_head_gets_no_body() {
    use std::io::{Read, Write};
    serve(&[], |server| {
        for lines in [&["Host: ringhold.test"][..], &[]] {
            let mut stream = std::net::TcpStream::connect(server.address()).unwrap();
            stream.write_all(&request("HEAD / HTTP/1.1", lines)).unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            let text = String::from_utf8(answer).unwrap();
            assert!(text.starts_with("HTTP/1.1 4") && text.ends_with("\r\n\r\n"), "{text}");
            assert_eq!(text.matches("\r\n\r\n").count(), 1, "{text}");
        }
    });
}

/// Section 4.2.1: "if the server finds that any of these are missing or malformed, it must stop
/// processing the handshake". A head without an end is stopped at a limit.
#[test]
fn section_4_2_1_header_flood() {
    serve(&[], |server| {
        for count in [100, 2000] {
            let lines: Vec<String> = (0..count).map(|number| format!("X-{number}: y")).collect();
            refused(server, &request(GET, &lines), &[431]);
        }
        refused(server, &request(GET, &[format!("X: {}", "y".repeat(60_000))]), &[431]);
        refused(server, &request(GET, &[format!("X: {}", "y".repeat(500_000))]), &[431]);
        let target = format!("GET /{} HTTP/1.1", "a".repeat(60_000));
        refused(server, &request(&target, &UPGRADE), &[414, 431]);
    });
}

/// Section 4.2.1: what is no HTTP is refused without waiting for the end of a head that cannot
/// come; what looks like words of a request, at the time limit at the latest.
#[test]
fn section_4_2_1_other_protocols() {
    serve(&["--handshake-timeout", "6s"], |server| {
        let tls = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\x01\x02\x03\x04\x05\x06\x07";
        refused(server, tls, &[400]);
        refused(server, &[0; 100], &[400]);
        refused(server, &frame(FIN | TEXT, b"hello"), &[400]);
        refused(server, b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", &[400, 405, 408, 505]);
        refused(server, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[400, 405, 505]);
        refused(server, b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n", &[400, 405, 408, 505]);
    });
}

/// What follows on a connection whose handshake does not end: 408 or nothing, then the end.
fn expect_timeout(client: &mut Client) {
    let mut answer = Vec::new();
    let mut socket = client.socket();
    match socket.read_to_end(&mut answer) {
        Ok(_) if answer.is_empty() => {}
        Ok(_) => assert!(answer.starts_with(b"HTTP/1.1 408 "), "{answer:?}"),
        Err(error) => panic!("expected 408 or the end, got: {error}"),
    }
}

/// Section 10 (and RFC 9110 section 15.5.9): a request that does not come to its end in time.
#[test]
fn section_10_stalled_handshake() {
    serve(&["--handshake-timeout", "1s"], |server| {
        let mut silent = Client::connect(server);
        let mut stalled = Client::connect(server);
        stalled.send(&upgrade()[..40]);
        expect_timeout(&mut stalled);
        expect_timeout(&mut silent);
    });
}

/// Section 10: the time is for the whole request; a byte now and then does not prolong it.
#[test]
fn section_10_trickled_handshake() {
    serve(&["--handshake-timeout", "1s"], |server| {
        let mut client = Client::connect(server);
        client.send(b"GET / HTTP/1.1\r\nHost: ringhold.test\r\nX-Slow: ");
        let deadline = Instant::now() + PATIENCE;
        client.socket().set_read_timeout(Some(Duration::from_millis(50))).expect("timeout");
        // Each round waits for the server to speak or hang up; if it did not, it gets a byte more.
        loop {
            assert!(Instant::now() < deadline, "the server waits as long as bytes trickle in");
            match unbroken(|| client.socket().peek(&mut [0])) {
                Ok(_) => break,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    client.try_send(b"y");
                }
                // A byte that crossed the server's FIN is answered by a reset.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
                Err(error) => panic!("{error}"),
            }
        }
        client.socket().set_read_timeout(Some(PATIENCE)).expect("timeout");
        expect_timeout(&mut client);
    });
}

/// Section 4.2: the time limit of the handshake is over with the handshake.
#[test]
fn section_4_2_an_open_connection_outlives_the_handshake_limit() {
    serve(&["--handshake-timeout", "6s"], |server| {
        let mut open = Client::open(server);
        // A second connection, stalled, shows when the limit has passed for both.
        let mut stalled = Client::connect(server);
        stalled.send(b"GET / HT");
        expect_timeout(&mut stalled);
        open.send_frame(FIN | TEXT, b"still open");
        open.expect_frame(FIN | TEXT, b"still open");
        open.close(1000);
    });
}

/// Section 10.2: a server may verify the Origin header, and answers 403 to a page it does not know.
#[test]
fn section_10_2_foreign_origins_are_refused() {
    let options = ["--allow-origin", "https://a.example", "--allow-origin", "https://b.example"];
    serve(&options, |server| {
        accepted(server, &upgrade());
        accepted(server, &request(GET, &and(&["Origin: https://B.example"])));
        for origin in ["https://c.example", "http://a.example", "null", "https://a.example.org"] {
            let line = format!("Origin: {origin}");
            refused(server, &request(GET, &and(&[&line])), &[403]);
        }
    });
    serve(&[], |server| {
        accepted(server, &request(GET, &and(&["Origin: https://anybody.example"])));
    });
}
