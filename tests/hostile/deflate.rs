//! Attacks with compression: little input that is inflated to much or takes long to inflate, what
//! is no stream, crowds for whom everything would have to be compressed again, and negotiations.

use serde_json::json;

use super::attack::{After, Attack};
use super::field::{Field, Foe, command, text, upgrade};
use super::witness::Habits;
use crate::support::deflate::{Bits, OFFER, deflate, deflated, offer_of};
use crate::support::gateway::PATH;
use crate::support::wire::{CLOSE, CONTINUATION, FIN, PING, PONG, RSV1, TEXT, frame};

const PROTOCOL: &str = "closes_total{cause=\"protocol\"}";
const TOO_BIG: &str = "closes_total{cause=\"too_big\"}";
const INVALID: &str = "closes_total{cause=\"invalid_data\"}";
const FAILED: &str = "inflate_failed_total";

const COMPRESSION: &str = r#"
[client]
ping_interval = "600s"
[websocket]
compression = true
[[channel.namespaces]]
name = "room"
allow_subscribe_for_client = true
allow_publish_for_client = true
allow_history_for_client = true
history_size = 30
history_ttl = "10m"
"#;

/// `websocket.message_size_limit`.
const LIMIT: usize = 64 << 10;

/// Frames that come at once.
const PIECES: usize = 400;

/// Nobody's rate ends what is tried here.
const NO_RATES: &str = "message_rate = 0\nbyte_rate = 0";

/// A script beside witnesses of which half have compression.
const fn beside(script: fn(&Field<'_>)) -> Attack {
    let habits = Habits { compressed: true, ..Habits::ORDINARY };
    Attack { tables: COMPRESSION, habits, growth: 48, ..Attack::new(script) }
}

/// A command that is inflated to nearly as much as a message may have.
fn long_command() -> String {
    let data = "x".repeat(LIMIT - 200);
    command(1, "publish", &json!({"channel": "room:nobody", "data": data}))
}

/// Each of these once per round, by a member with compression that must be ended for it.
fn each_ends(field: &Field<'_>, rounds: usize, sequences: &[Vec<u8>]) {
    for _ in field.rounds(rounds) {
        for bytes in sequences {
            let mut foe = field.deflating("packer");
            foe.send(bytes);
            foe.wait_gone();
        }
    }
}

/// Messages that would be inflated to a thousand times what they are.
pub(crate) const BOMBS: Attack = Attack {
    after: &[After::Counted(TOO_BIG, 25), After::Counted(FAILED, 25)],
    ..beside(|field| {
        let bombs: Vec<Vec<u8>> = [LIMIT + 1, LIMIT + 100, 1 << 20, 16 << 20, 60 << 20]
            .map(|len| deflated(TEXT, &vec![b' '; len]))
            .into();
        assert!(bombs.iter().all(|bomb| bomb.len() < LIMIT + 14));
        each_ends(field, 5, &bombs);
    })
};

/// Hundreds of small frames in one receive, each a good message of nearly the limit.
pub(crate) const BOMBS_IN_PIECES: Attack = Attack {
    engine: NO_RATES,
    after: &[After::Counted("reads_left_total", 2), After::Counted("reads_costly_total", 2)],
    growth: 64,
    ..beside(|field| {
        let mut foes = field.gang_with(2, "packer", &[OFFER]);
        // So that the server receives as much as it ever does at once.
        let plain = text(&command(1, "publish", &json!({"channel": "room:nobody", "data": "x"})));
        let plain = plain.repeat(50_000 / plain.len());
        let piece = deflated(TEXT, long_command().as_bytes());
        let pieces = piece.repeat(PIECES);
        assert!(pieces.len() < 250_000, "{}", pieces.len());
        for _ in field.rounds(3) {
            for foe in &mut foes {
                assert!(foe.deliver(&plain), "they are still there");
                foe.push(&pieces);
            }
            // The attackers are still there while others are served.
            field.witnesses_get_on(5);
        }
        // All of it is done, in the end, and for them.
        if field.until.is_none() {
            foes.iter_mut().for_each(|foe| assert!(foe.deliver(b""), "they are still there"));
            field.wait_for("inflate_messages_total", 3 * 2 * PIECES as u64);
        }
    })
};

/// Likewise in as many fragments as there may be, and as there may not.
pub(crate) const BOMBS_IN_FRAGMENTS: Attack = Attack {
    engine: "message_rate = 0\nbyte_rate = 0\nmax_fragments = 64",
    after: &[After::Counted(TOO_BIG, 8)],
    ..beside(|field| {
        let good = in_fragments(&deflate(long_command().as_bytes()), 8);
        let bomb = in_fragments(&deflate(&vec![b' '; 1 << 20]), 32);
        let many = in_fragments(&deflate(long_command().as_bytes()), 1);
        for _ in field.rounds(4) {
            let mut foe = field.deflating("packer");
            foe.push(&good.repeat(100));
            field.witnesses_get_on(1);
            // It is read once what came before is done.
            foe.send(&bomb);
            foe.wait_gone();
            each_ends(field, 1, std::slice::from_ref(&many));
        }
    })
};

/// A message in fragments of so many bytes, with empty ones and pings in between.
fn in_fragments(payload: &[u8], bytes: usize) -> Vec<u8> {
    let mut wire = frame(RSV1 | TEXT, b"");
    for (index, piece) in payload.chunks(bytes).enumerate() {
        let last = (index + 1) * bytes >= payload.len();
        wire.extend(frame(if last { FIN } else { 0 } | CONTINUATION, piece));
        if index == 0 {
            wire.extend(frame(FIN | PING, b"still here"));
        }
    }
    wire
}

/// Blocks with nothing in them, as many as fit, of each kind.
pub(crate) const EMPTY_BLOCKS: Attack = Attack {
    engine: NO_RATES,
    after: &[After::Counted(TOO_BIG, 15)],
    ..beside(|field| {
        let own_codes = |count| {
            let mut bits = Bits::default();
            (0..count).for_each(|_| bits.put_empty_block());
            bits.end()
        };
        let stored = |count: usize| [&b"\0\0\0\xff\xff".repeat(count)[..], b"\0"].concat();
        let fixed = |count: usize| [&b"\x03\0".repeat(count)[..]].concat();
        let endless = [stored(13_000), fixed(32_000), own_codes(5_000)];
        let frames = endless.map(|payload| frame(FIN | RSV1 | TEXT, &payload));
        each_ends(field, 5, &frames);
    })
};

/// As many empty blocks as are allowed, in messages that are: pongs of the protocol.
pub(crate) const ALLOWED_BLOCKS: Attack = Attack {
    engine: NO_RATES,
    after: &[After::Counted("reads_left_total", 1)],
    ..beside(|field| {
        let mut foes = field.gang_with(2, "packer", &[OFFER]);
        let pong =
            |blocks: Vec<u8>| frame(FIN | RSV1 | TEXT, &[&blocks[..], &deflate(b"{}")].concat());
        let allowed = pong(b"\0\0\0\xff\xff".repeat(500)).repeat(40);
        for _ in field.rounds(4) {
            foes.iter_mut().for_each(|foe| _ = foe.push(&allowed));
            field.witnesses_get_on(2);
        }
    })
};

/// Final blocks one after the other: each begins a stream of its own.
pub(crate) const FINAL_BLOCKS: Attack = Attack {
    after: &[After::Counted(TOO_BIG, 10), After::Counted(INVALID, 5)],
    ..beside(|field| {
        let hello = b"\xf3\x48\xcd\xc9\xc9\x07\x00";
        let payloads = [
            hello.repeat(9_000),
            b"\x01\0\0\xff\xff".repeat(12_000),
            // What follows the last one is none.
            [&hello[..], b"\xff"].concat(),
        ];
        each_ends(field, 5, &payloads.map(|payload| frame(FIN | RSV1 | TEXT, &payload)));
    })
};

/// What is no deflate stream, or no text.
pub(crate) const BAD_STREAMS: Attack = Attack {
    after: &[After::Counted(INVALID, 40), After::Counted(FAILED, 40)],
    ..beside(|field| {
        let cut = deflate(long_command().as_bytes());
        let payloads = [
            // A reserved kind of block; lengths that do not match; a distance before the start.
            b"\x06".to_vec(),
            b"\x00\x05\x00\xfb\xff\x48".to_vec(),
            b"\x02\x0c\x02\x00".to_vec(),
            cut[..cut.len() / 2].to_vec(),
            b"\x00\xff\x00\x00\xff\x48".to_vec(),
            vec![0xff; 60_000],
            deflate(&b"\xc3 ".repeat(5_000)),
            deflate(&[&vec![b' '; 60_000][..], b"\xf0\x9f"].concat()),
        ];
        each_ends(field, 5, &payloads.map(|payload| frame(FIN | RSV1 | TEXT, &payload)));
    })
};

/// The bit where it means nothing: on control frames, on continuations, without an agreement.
pub(crate) const ELSEWHERE: Attack = Attack {
    after: &[After::Counted(PROTOCOL, 40)],
    ..beside(|field| {
        let ping = deflate(b"ping");
        let sequences: Vec<Vec<u8>> = [PING, PONG, CLOSE]
            .map(|opcode| frame(FIN | RSV1 | opcode, &ping))
            .into_iter()
            .chain([
                frame(RSV1 | PING, &ping),
                [frame(RSV1 | TEXT, &ping), frame(FIN | RSV1 | CONTINUATION, b"")].concat(),
                [frame(TEXT, b"{"), frame(FIN | RSV1 | CONTINUATION, b"}")].concat(),
                frame(FIN | RSV1 | 0x3, &ping),
            ])
            .collect();
        each_ends(field, 5, &sequences);
        for _ in field.rounds(5) {
            let mut foe = field.member("plain");
            foe.send(&frame(FIN | RSV1 | TEXT, &deflate(b"{}")));
            foe.wait_gone();
        }
    })
};

/// A crowd with all the windows there are, so that each would have to be compressed for alone.
pub(crate) const SMALL_WINDOWS: Attack = Attack {
    engine: NO_RATES,
    growth: 96,
    after: &[After::Counted("deflate_shared_total", 1_000)],
    ..beside(|field| {
        let crowd =
            field.crowd_with(80, "room:small", |number| vec![offer_of(8 + number as u8 % 8)]);
        let mut foes = field.gang_with(1, "publisher", &[OFFER]);
        let words: String = (0..4_000).map(|n| format!("{n} words ")).collect();
        let data = &words[..30_000];
        let line = command(1, "publish", &json!({"channel": "room:small", "data": data}));
        let publication = deflated(TEXT, line.as_bytes());
        let before = field.metric("deflate_bytes_before_total");
        let mut published = 0;
        for _ in field.rounds(40) {
            published += u64::from(foes[0].push(&publication));
            field.witnesses_get_on(1);
        }
        // Once for each of three windows, whoever comes; the witnesses' are short.
        let compressed = field.metric("deflate_bytes_before_total") - before;
        let all = (published + 1) * 3 * 31_000 + (8 << 20);
        assert!(compressed <= all, "{compressed} bytes compressed for {published} publications");
        crowd.leave();
    })
};

/// Histories as long as a reply gets, compressed for one client at a time.
pub(crate) const LARGE_REPLIES: Attack = Attack {
    engine: NO_RATES,
    growth: 96,
    after: &[After::Counted("deflate_messages_total", 20)],
    ..beside(|field| {
        let words: String = (0..1_000).map(|n| format!("{n} words ")).collect();
        for room in ["room:a", "room:b"] {
            for _ in 0..30 {
                field.gateway.api("publish", json!({"channel": room, "data": &words[..7_000]}));
            }
        }
        let mut foes = field.gang_with(2, "asker", &[OFFER]);
        let line = |room: &str| command(1, "history", &json!({"channel": room, "limit": 30}));
        let lines: Vec<String> = ["room:a", "room:b"].map(line).into();
        let message = deflated(TEXT, vec![lines.join("\n"); 300].join("\n").as_bytes());
        for _ in field.rounds(4) {
            foes.iter_mut().for_each(|foe| _ = foe.push(&message));
            field.witnesses_get_on(4);
            foes.iter_mut().for_each(|foe| drop(foe.read()));
        }
    })
};

/// Thousands of requests whose offers are as long, as many and as malformed as a head has room for.
pub(crate) const NEGOTIATIONS: Attack = Attack {
    after: &[After::Counted("accepted_total", 1_500), After::Never(PROTOCOL)],
    ..beside(|field| {
        let line = |value: &str| format!("Sec-WebSocket-Extensions: {value}");
        let fill = |element: &str, between: &str| {
            line(&vec![element; 7_500 / (element.len() + between.len())].join(between))
        };
        let offers: Vec<Vec<String>> = vec![
            vec![fill("permessage-deflate; unknown", ", ")],
            vec![fill("permessage-deflate", ", ")],
            vec![line(&format!(
                "permessage-deflate; {}",
                "server_max_window_bits=9; ".repeat(280)
            ))],
            vec![line(&format!("permessage-deflate; a=\"{}\"", "\\\"".repeat(3_600)))],
            vec![line(&format!("permessage-deflate; a=\"{}", "x".repeat(7_000)))],
            vec![line(&",".repeat(7_000))],
            vec![line(&";".repeat(7_000))],
            vec![line("permessage-deflate; server_max_window_bits=16"); 58],
            vec![line("\u{ff}, permessage-deflate")],
        ];
        let requests: Vec<Vec<u8>> = offers.iter().map(|lines| request_with(lines)).collect();
        for _ in field.rounds(170) {
            let mut foes: Vec<Foe> = requests.iter().map(|_| field.stranger()).collect();
            for (foe, request) in foes.iter_mut().zip(&requests) {
                foe.send(request);
            }
            for foe in &mut foes {
                assert!(foe.wait_heard(12), "no answer");
            }
        }
        // What is offered well after all that is agreed on.
        for bits in 8..=15 {
            let bad = line("permessage-deflate; client_max_window_bits=\"8\\");
            let lines = [bad.as_str(), &offer_of(bits)];
            let (head, _client) = field.gateway.upgrade_head(PATH, &lines);
            let answer = head.values("sec-websocket-extensions").concat();
            assert!(answer.ends_with(&format!("server_max_window_bits={bits}")), "{answer}");
        }
    })
};

/// A request to be upgraded with more lines.
fn request_with(lines: &[String]) -> Vec<u8> {
    let mut head = upgrade();
    head.truncate(head.len() - 2);
    lines.iter().for_each(|line| head.extend(format!("{line}\r\n").bytes()));
    head.extend(b"\r\n");
    assert!(head.len() <= 8 << 10, "{}", head.len());
    head
}
