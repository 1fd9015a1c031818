//! Attacks with bytes that are no WebSocket, no command, or only nearly: each ends its own
//! connection with the code that names the fault.

use serde_json::json;

use super::attack::{After, Attack};
use super::field::{Field, command, text, upgrade};
use crate::support::stream::request;
use crate::support::wire::{BINARY, CONTINUATION, FIN, Length, MASK, PING, RSV1, RSV2, RSV3, TEXT};
use crate::support::wire::{frame, header};

const PROTOCOL: &str = "closes_total{cause=\"protocol\"}";
const TOO_BIG: &str = "closes_total{cause=\"too_big\"}";
const INVALID: &str = "closes_total{cause=\"invalid_data\"}";
const BAD_REQUEST: &str = "gateway_disconnects_total{code=\"3501\"}";

/// Each of these byte sequences, once per round, by a member that must be ended for it.
fn each_ends(field: &Field<'_>, rounds: usize, sequences: &[Vec<u8>]) {
    for _ in field.rounds(rounds) {
        for bytes in sequences {
            let mut foe = field.member("breaker");
            foe.send(bytes);
            foe.wait_gone();
        }
    }
}

/// Lengths that nobody means.
pub(crate) const ENORMOUS_LENGTHS: Attack = Attack {
    after: &[After::Counted(PROTOCOL, 5), After::Counted(TOO_BIG, 10)],
    ..Attack::new(|field| {
        let lengths = [1 << 63, u64::MAX, (1 << 63) - 1, 1 << 40, 1 << 31];
        let heads: Vec<Vec<u8>> =
            lengths.map(|len| header(FIN | TEXT, Length::Bits64(len), Some(MASK))).into();
        each_ends(field, 5, &heads);
    })
};

/// Lengths in a longer form than they need, and control frames that are long or cut.
pub(crate) const FORMS_OF_FRAMES: Attack = Attack {
    after: &[After::Counted(PROTOCOL, 35)],
    ..Attack::new(|field| {
        let head = |first, length| header(first, length, Some(MASK));
        each_ends(
            field,
            5,
            &[
                head(FIN | TEXT, Length::Bits16(5)),
                head(FIN | TEXT, Length::Bits64(5)),
                head(FIN | PING, Length::Bits16(126)),
                head(PING, Length::Bits7(0)),
                frame(FIN | CONTINUATION, b"x"),
                [frame(TEXT, b"x"), frame(FIN | TEXT, b"x")].concat(),
                header(FIN | TEXT, Length::Bits7(2), None),
            ],
        );
    })
};

/// Bits and opcodes that mean nothing here.
pub(crate) const RESERVED: Attack = Attack {
    after: &[After::Counted(PROTOCOL, 70)],
    ..Attack::new(|field| {
        let firsts: Vec<u8> = [RSV1, RSV2, RSV3, RSV1 | RSV2 | RSV3]
            .map(|bits| FIN | TEXT | bits)
            .into_iter()
            .chain((0x3..=0x7).chain(0xb..=0xf).map(|opcode| FIN | opcode))
            .collect();
        let frames: Vec<Vec<u8>> = firsts.iter().map(|first| frame(*first, b"{}")).collect();
        each_ends(field, 5, &frames);
    })
};

/// Text that is not UTF-8, in one frame and over the seams of fragments; closes likewise.
pub(crate) const INVALID_UTF8: Attack = Attack {
    after: &[After::Counted(INVALID, 20)],
    ..Attack::new(|field| {
        each_ends(
            field,
            5,
            &[
                frame(FIN | TEXT, b"\xff"),
                frame(FIN | TEXT, b"\xed\xa0\x80"),
                [frame(TEXT, b"\xf0\x9f"), frame(FIN | CONTINUATION, b"x")].concat(),
                [frame(TEXT, b"{\"id\":\"\xc3"), frame(FIN | CONTINUATION, b"\"}")].concat(),
                frame(FIN | 0x8, b"\x03\xe8\xff\xfe"),
            ],
        );
    })
};

/// JSON as deep, as long, as double and as numeric as it gets.
pub(crate) const JSON: Attack = Attack {
    after: &[After::Counted(BAD_REQUEST, 10)],
    growth: 48,
    ..Attack::new(|field| {
        let deep =
            |open: &str, close: &str, n: usize| format!("{}{}", open.repeat(n), close.repeat(n));
        let publish =
            |data: &str| format!(r#"{{"id":2,"publish":{{"channel":"witness:x","data":{data}}}}}"#);
        let doubles: Vec<String> = (0..4_000).map(|_| r#""id":2"#.to_owned()).collect();
        let commands = [
            publish(&deep("[", "]", 30_000)),
            publish(&deep("{\"a\":", "}", 9_000).replace("}}", "}")),
            publish(&"9".repeat(60_000)),
            publish("1e999999999"),
            publish("-"),
            publish(&format!("[{}]", vec!["1"; 30_000].join(","))),
            format!("{{{}}}", doubles.join(",")),
            r#"{"id":18446744073709551616,"presence":{"channel":"a"}}"#.to_owned(),
            r#"{"id":-1,"presence":{"channel":"a"}}"#.to_owned(),
            r#"{"id":1,"id":2,"subscribe":{"channel":"a"},"subscribe":{"channel":"b"}}"#.to_owned(),
            "\n".repeat(60_000),
            "{}".repeat(30_000),
            "null\n".repeat(10_000),
            r#"{"id":2,"subscribe":{"channel":"\ud800"}}"#.to_owned(),
            format!(r#"{{"id":2,"connect":{{"token":{}}}}}"#, deep("[", "]", 200)),
        ];
        for round in field.rounds(5) {
            for line in &commands {
                let mut foe = field.member("nester");
                foe.send(&text(line));
                if round % 2 == 0 {
                    foe.send(&text(&command(9, "presence", &json!({"channel": "a"}))));
                }
                foe.wait_heard(1);
            }
        }
    })
};

/// Protobuf that lies about lengths, nests, repeats, and never ends its numbers.
pub(crate) const PROTOBUF: Attack = Attack {
    after: &[After::Counted(BAD_REQUEST, 10)],
    growth: 48,
    ..Attack::new(|field| {
        let lengthy = |field: u8, bytes: &[u8]| {
            let mut out = vec![field << 3 | 2];
            let mut len = bytes.len();
            while len > 127 {
                out.push(len as u8 | 0x80);
                len >>= 7;
            }
            out.push(len as u8);
            out.extend_from_slice(bytes);
            out
        };
        let mut nested = Vec::new();
        for _ in 0..2_000 {
            nested = lengthy(4, &nested);
        }
        let commands: Vec<Vec<u8>> = vec![
            vec![0xff; 100],
            vec![0x80; 60_000],
            vec![5, 8, 1],
            [vec![0xff, 0xff, 0xff, 0xff, 0x0f], vec![0; 50]].concat(),
            lengthy(0, &nested)[1..].to_vec(),
            vec![0; 60_000],
            lengthy(0, &[8, 1].repeat(20_000))[1..].to_vec(),
            lengthy(0, &lengthy(5, &lengthy(1, &[0xff; 300])))[1..].to_vec(),
            lengthy(
                0,
                &[8, 2]
                    .into_iter()
                    .chain(lengthy(5, &lengthy(7, &[0x0b; 5_000])))
                    .collect::<Vec<_>>(),
            )[1..]
                .to_vec(),
        ];
        let lines = ["Sec-WebSocket-Protocol: centrifuge-protobuf"];
        for _ in field.rounds(5) {
            for bytes in &commands {
                let session = field.gateway.session_at(crate::support::gateway::PATH, &lines);
                let mut foe = field.foe(session.into_client());
                foe.send(&frame(FIN | BINARY, bytes));
                foe.wait_closed();
            }
        }
    })
};

/// Commands before connect, connect twice, and the wrong kind of message.
pub(crate) const OUT_OF_ORDER: Attack = Attack {
    after: &[After::Counted("closed_total", 15)],
    ..Attack::new(|field| {
        let connect = text(&command(1, "connect", &json!({})));
        for _ in field.rounds(5) {
            let early = text(&command(1, "subscribe", &json!({"channel": "witness:a"})));
            for (member, bytes) in
                [(false, early), (true, connect.clone()), (true, frame(FIN | BINARY, b"\x01\x02"))]
            {
                let mut foe = if member { field.member("muddler") } else { field.visitor() };
                foe.send(&bytes);
                foe.wait_closed();
            }
        }
    })
};

/// Requests behind an upgrade, bodies with one, and heads that are none.
pub(crate) const HANDSHAKES: Attack = Attack {
    after: &[After::Counted("refusals_total{reason=\"head_too_large\"}", 5)],
    ..Attack::new(|field| {
        let with = |lines: &[&str], body: &[u8]| {
            let mut head = upgrade();
            head.truncate(head.len() - 2);
            lines.iter().for_each(|line| head.extend(format!("{line}\r\n").bytes()));
            [&head, &b"\r\n"[..], body].concat()
        };
        let sequences = [
            [upgrade(), upgrade(), upgrade()].concat(),
            with(&["Content-Length: 5"], b"hello"),
            with(&["Content-Length: 99999999999"], b"hello"),
            with(&["Transfer-Encoding: chunked"], b"5\r\nhello\r\n0\r\n\r\n"),
            [upgrade(), request("GET", "/health", &[], b"").repeat(200)].concat(),
            with(&["Sec-WebSocket-Key: AAAA"], b""),
            with(&["A: b"; 200], b""),
            with(&[&format!("A: {}", "b".repeat(20_000))], b""),
            b"GET / HTTP/1.1\r\nA: \0\r\n\r\n".to_vec(),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(50),
            b"\r\n".repeat(5_000),
            vec![b'A'; 30_000],
            b"GET /connection/websocket HTTP/9.9\r\n\r\n".to_vec(),
        ];
        for _ in field.rounds(5) {
            for bytes in &sequences {
                let mut foe = field.stranger();
                foe.send(bytes);
                foe.half_close();
                foe.wait_gone();
            }
        }
    })
};

/// Plain requests, hundreds on one connection and without waiting for answers.
pub(crate) const PIPELINED_REQUESTS: Attack = Attack {
    growth: 48,
    ..Attack::new(|field| {
        let requests = [
            request("GET", "/health", &[], b"").repeat(300),
            request("GET", "/nothing", &[], b"").repeat(300),
            request("POST", "/api/info", &["X-API-Key: guess"], b"{}").repeat(300),
            request("GET", "/metrics", &[], b"").repeat(50),
        ];
        for _ in field.rounds(4) {
            for bytes in &requests {
                let mut foe = field.stranger();
                foe.push(bytes);
                foe.push(b"");
                let mut deaf = field.stranger().deaf();
                deaf.push(bytes);
                field.witnesses_get_on(1);
                foe.read();
            }
        }
    })
};
