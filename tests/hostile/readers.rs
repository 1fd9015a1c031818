//! Attacks by patience: connections that take nothing, or a byte now and then, or leave in the
//! middle of things.

use std::time::Duration;

use serde_json::json;

use super::attack::{After, Attack};
use super::field::{Foe, command, text, upgrade};
use crate::support::stream::request;
use crate::support::wire::{CONTINUATION, FIN, Length, MASK, TEXT, frame, header};

const ROOM: &str = r#"
[sse]
enabled = true
[websocket]
write_timeout = "500ms"
[client]
queue_max_size = "256KiB"
ping_interval = "600s"
[[channel.namespaces]]
name = "room"
presence = true
allow_subscribe_for_client = true
allow_publish_for_client = true
allow_history_for_client = true
history_size = 20
history_ttl = "10m"
allowed_delta_types = ["fossil"]
"#;

/// Bytes of the data that those get who never read.
const PUBLICATION: usize = 20_000;

/// One subscriber of many that never reads.
pub(crate) const NEVER_READS: Attack = Attack {
    tables: ROOM,
    growth: 48,
    ..Attack::new(|field| {
        let crowd = field.crowd(20, "room:a");
        let deaf: Vec<Foe> =
            (0..10).map(|n| field.narrow(&format!("deaf-{n}"), &["room:a"])).collect();
        let mut publisher = field.member("publisher");
        let data = "x".repeat(PUBLICATION);
        let message = text(&command(1, "publish", &json!({"channel": "room:a", "data": data})));
        let (slow, cut) = ("closes_total{cause=\"slow\"}", "closes_total{cause=\"write_timeout\"}");
        for round in field.rounds(250) {
            // However little its thread gets of the processors, the crowd is no slow reader.
            crowd.has_read((round.saturating_sub(2) * PUBLICATION) as u64);
            publisher.deliver(&message);
        }
        let deadline = std::time::Instant::now() + crate::support::PATIENCE;
        while field.metric(slow) + field.metric(cut) < deaf.len() as u64 {
            assert!(std::time::Instant::now() < deadline, "who never reads is still there");
            std::thread::sleep(Duration::from_millis(20));
        }
        crowd.leave();
    })
};

/// Subscribers with deltas that never read: the base they get is not theirs alone.
pub(crate) const DELTAS_NOBODY_READS: Attack = Attack {
    tables: ROOM,
    growth: 48,
    ..Attack::new(|field| {
        let mut deaf: Vec<Foe> = (0..20).map(|n| field.narrow(&format!("deaf-{n}"), &[])).collect();
        for foe in &mut deaf {
            foe.send(&text(&command(
                9,
                "subscribe",
                &json!({"channel": "room:a", "delta": "fossil"}),
            )));
        }
        let mut publisher = field.member("publisher");
        for round in field.rounds(100) {
            let data = format!("{}{round}", "x".repeat(20_000));
            publisher.send(&text(&command(
                1,
                "publish",
                &json!({"channel": "room:a", "data": data}),
            )));
        }
        field.witnesses_get_on(3);
    })
};

/// Readers of one byte at a time: what waits for them is bounded.
pub(crate) const READS_A_BYTE: Attack = Attack {
    tables: ROOM,
    growth: 48,
    ..Attack::new(|field| {
        let mut slow: Vec<Foe> =
            (0..20).map(|n| field.narrow(&format!("slow-{n}"), &["room:a"])).collect();
        let mut publisher = field.member("publisher");
        let data = "x".repeat(20_000);
        let message = text(&command(1, "publish", &json!({"channel": "room:a", "data": data})));
        for _ in field.rounds(200) {
            publisher.push(&message);
            slow.iter_mut().for_each(Foe::sip);
            std::thread::sleep(Duration::from_millis(2));
        }
        field.witnesses_get_on(3);
    })
};

/// Messages that come a byte at a time.
pub(crate) const SENDS_A_BYTE: Attack = Attack {
    tables: ROOM,
    engine: "max_inbound = \"4MiB\"",
    ..Attack::new(|field| {
        let mut slow: Vec<Foe> = (0..60).map(|n| field.member(&format!("slow-{n}"))).collect();
        let start = header(FIN | TEXT, Length::shortest(60_000), Some(MASK));
        slow.iter_mut().for_each(|foe| _ = foe.send(&start));
        for _ in field.rounds(100) {
            slow.iter_mut().for_each(|foe| _ = foe.push(b"x"));
            std::thread::sleep(Duration::from_millis(5));
        }
        field.witnesses_get_on(3);
    })
};

/// Frames whose every byte is a segment, and messages of one-byte and of empty fragments.
pub(crate) const FRAGMENTS: Attack = Attack {
    engine: "max_fragments = 64",
    after: &[After::Counted("closes_total{cause=\"too_big\"}", 10)],
    ..Attack::new(|field| {
        for round in field.rounds(20) {
            let mut foe = field.member("splitter");
            let piece: &[u8] = if round % 2 == 0 { b"" } else { b"x" };
            foe.send(&frame(TEXT, b"{"));
            foe.send(&frame(CONTINUATION, piece).repeat(200));
            foe.wait_gone();
        }
        let mut foe = field.member("splitter");
        let pings = [frame(FIN | 0x9, b"x"), frame(CONTINUATION, b" ")].concat();
        foe.send(&[frame(TEXT, b"{"), pings.repeat(60)].concat());
        for byte in frame(FIN | CONTINUATION, br#""id":2,"presence":{"channel":"a"}}"#) {
            foe.push(&[byte]);
            std::thread::sleep(Duration::from_micros(200));
        }
        assert!(foe.wait_heard(1), "pings between fragments are allowed");
    })
};

/// Resets in the middle of a head, a frame, a message, an answer, a subscription.
pub(crate) const RESETS: Attack = Attack {
    tables: ROOM,
    ..Attack::new(|field| {
        let connect = text(&command(1, "connect", &json!({})));
        for round in field.rounds(200) {
            let mut foe = match round % 5 {
                0 => field.stranger(),
                1 | 2 => field.visitor(),
                _ => field.member("resetter"),
            };
            match round % 10 {
                0 => _ = foe.push(&upgrade()[..20 + round % 60]),
                5 => _ = foe.push(&[upgrade(), connect.clone()].concat()),
                1 => _ = foe.push(&header(FIN | TEXT, Length::Bits16(60_000), Some(MASK))),
                6 => _ = foe.push(&frame(TEXT, b"{\"id\"")),
                2 | 7 => _ = foe.push(&connect),
                3 => _ = foe.push(&text(&command(1, "subscribe", &json!({"channel": "room:a"})))),
                4 => _ = foe.push(&frame(FIN | 0x8, b"\x03\xe8")),
                _ => _ = foe.push(&text(&command(1, "history", &json!({"channel": "room:a"})))),
            }
            foe.reset();
        }
    })
};

/// Connections that end their own direction in the same places, and stay.
pub(crate) const HALF_CLOSED: Attack = Attack {
    tables: ROOM,
    ..Attack::new(|field| {
        let mut half: Vec<Foe> = Vec::new();
        for round in field.rounds(100) {
            let mut foe = match round % 3 {
                0 => field.stranger(),
                1 => field.visitor(),
                _ => field.member("half"),
            };
            match round % 6 {
                0 => _ = foe.push(&upgrade()[..40]),
                3 => {}
                1 => _ = foe.push(&text(&command(1, "connect", &json!({})))),
                2 => _ = foe.push(&frame(TEXT, b"{")),
                4 => _ = foe.push(&header(FIN | TEXT, Length::Bits16(60_000), Some(MASK))),
                _ => _ = foe.push(&text(&command(1, "subscribe", &json!({"channel": "room:a"})))),
            }
            foe.half_close();
            half.push(foe);
        }
        half.iter_mut().for_each(Foe::wait_gone);
    })
};

/// Close frames without reading the answer, after asking for much.
pub(crate) const CLOSES_WITHOUT_READING: Attack = Attack {
    tables: ROOM,
    growth: 48,
    ..Attack::new(|field| {
        let data = "x".repeat(30_000);
        for _ in 0..20 {
            field.gateway.api("publish", json!({"channel": "room:a", "data": data}));
        }
        let ask = text(&command(2, "history", &json!({"channel": "room:a", "limit": 20})));
        let mut deaf = Vec::new();
        for round in field.rounds(60) {
            let mut foe = field.narrow("deaf", &[]);
            foe.push(&[ask.repeat(4), frame(FIN | 0x8, b"\x03\xe8")].concat());
            if round % 2 == 0 {
                foe.half_close();
            }
            deaf.push(foe);
        }
        field.witnesses_get_on(3);
    })
};

/// Streams that nobody reads, and streams that are dropped at once.
pub(crate) const STREAMS_NOBODY_READS: Attack = Attack {
    tables: ROOM,
    growth: 48,
    ..Attack::new(|field| {
        let token = crate::support::gateway::token_of("streamer");
        let connect = [
            command(1, "connect", &json!({"token": token})),
            command(2, "subscribe", &json!({"channel": "room:a"})),
        ];
        let head = request("POST", "/connection/sse", &[], connect.join("\n").as_bytes());
        let mut streams: Vec<Foe> = Vec::new();
        for round in field.rounds(80) {
            let mut foe = field.stranger().deaf();
            foe.push(&head);
            if round % 2 == 0 {
                streams.push(foe);
            } else {
                foe.reset();
            }
            if streams.len() > 400 {
                streams.remove(0);
            }
        }
        let mut publisher = field.member("publisher");
        let data = "x".repeat(20_000);
        let message = text(&command(1, "publish", &json!({"channel": "room:a", "data": data})));
        for _ in field.rounds(40) {
            publisher.send(&message);
        }
        field.witnesses_get_on(3);
    })
};
