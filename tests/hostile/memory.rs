//! Attacks on memory: whatever a client can make the server hold.

use std::collections::VecDeque;
use std::io::Write;
use std::net::TcpStream;

use serde_json::{Value, json};

use super::attack::{After, Attack};
use super::field::{Field, Foe, batch, command, text};
use super::vitals::{self, Metrics};
use super::witness::Habits;
use crate::support::gateway::{token, token_of, unix};
use crate::support::stream::{Stream, request};
use crate::support::wire::{FIN, TEXT, frame};

/// A filter of so many nodes with nothing in them.
fn empty_nodes(count: usize) -> String {
    format!(r#"{{"op":"and","nodes":[{}]}}"#, vec!["{}"; count].join(","))
}

/// The bytes of a name or of data.
fn filler(bytes: usize) -> String {
    "x".repeat(bytes)
}

const CONNECT_HANGS: &str = r#"
[client.proxy.connect]
enabled = true
endpoint = "{backend}/hang"
timeout = "10s"
[[channel.namespaces]]
name = "filtered"
allow_subscribe_for_client = true
allow_tags_filter = true
"#;

/// While a hook thinks about the connect command, subscribes come whose filters are many times
/// their text when decoded.
pub(crate) const EARLY_FILTERS: Attack = Attack {
    tables: CONNECT_HANGS,
    growth: 48,
    ..Attack::new(|field| early(field, 4, 40, &filtered(21_000)))
};

/// Likewise, plain publications from many.
pub(crate) const EARLY_PUBLICATIONS: Attack = Attack {
    tables: CONNECT_HANGS,
    engine: "max_inbound = \"4MiB\"\nmax_outboxes = \"4MiB\"",
    growth: 32,
    ..Attack::new(|field| {
        let line = json!({"channel": "a", "data": filler(64_000)});
        early(field, 30, 40, &command(2, "publish", &line));
    })
};

/// Likewise, as many tiny commands as fit in messages.
pub(crate) const EARLY_TINY_COMMANDS: Attack = Attack {
    tables: CONNECT_HANGS,
    growth: 32,
    ..Attack::new(|field| {
        let lines = vec![command(2, "presence", &json!({"channel": "a"})); 1_400].join("\n");
        early(field, 10, 20, &lines);
    })
};

fn filtered(nodes: usize) -> String {
    let filter = empty_nodes(nodes);
    format!(r#"{{"id":2,"subscribe":{{"channel":"filtered:a","tf":{filter}}}}}"#)
}

/// Connections that ask to be connected and do not wait for the answer.
fn early(field: &Field<'_>, connections: usize, messages: usize, early: &str) {
    let mut foes: Vec<Foe> = (0..connections).map(|_| field.visitor()).collect();
    for foe in &mut foes {
        foe.send(&text(&command(1, "connect", &json!({}))));
    }
    field.wait_for("hooks_in_flight", 1);
    let message = text(early);
    for _ in field.rounds(messages) {
        for foe in &mut foes {
            foe.push(&message);
        }
    }
    field.witnesses_get_on(5);
}

/// Connections that bring 60 KiB of headers in their connect command and then do nothing.
pub(crate) const HEADERS_OF_IDLE_CONNECTIONS: Attack = Attack {
    tables: r#"
[client.proxy.connect]
enabled = true
endpoint = "{backend}/connect"
timeout = "10s"
"#,
    growth: 12,
    ..Attack::new(|field| {
        let headers: Value = (0..60)
            .map(|number| (format!("x-{number}"), json!(filler(1000))))
            .collect::<serde_json::Map<_, _>>()
            .into();
        let mut idle = Vec::new();
        for _ in 0..400 {
            let mut session = field.gateway.session();
            session.connect(&json!({"headers": headers}));
            idle.push(session);
        }
        field.witnesses_get_on(20);
    })
};

const FILTERS: &str = r#"
[[channel.namespaces]]
name = "filtered"
allow_subscribe_for_client = true
allow_publish_for_client = true
allow_tags_filter = true
"#;

/// Idle connections with filters of 60 KB in each of 120 subscriptions.
pub(crate) const FILTERS_OF_IDLE_CONNECTIONS: Attack = Attack {
    tables: FILTERS,
    growth: 24,
    ..Attack::new(|field| {
        let mut idle = Vec::new();
        for user in 0..6 {
            let mut session = field.gateway.connected(&format!("idle-{user}"));
            for number in 0..120 {
                let filter = json!({"key": "k", "cmp": "eq", "val": filler(60_000)});
                let channel = format!("filtered:{number}");
                session.ask("subscribe", json!({"channel": channel, "tf": filter}));
            }
            idle.push(session);
        }
        field.witnesses_get_on(20);
    })
};

/// Subscribes and unsubscribes with the largest filters there may be, while others publish.
pub(crate) const FILTER_CHURN: Attack = Attack {
    tables: FILTERS,
    growth: 40,
    ..Attack::new(|field| {
        let mut foes = field.gang(2, "filterer");
        let values: Vec<String> = (0..1_000).map(|number| format!("value-{number}")).collect();
        let filter = json!({"key": "k", "cmp": "in", "vals": values});
        let subscribe = command(1, "subscribe", &json!({"channel": "filtered:a", "tf": filter}));
        let unsubscribe = command(2, "unsubscribe", &json!({"channel": "filtered:a"}));
        let empty = filtered(20_000);
        for _ in field.rounds(40) {
            for foe in &mut foes {
                foe.send(&text(&format!("{subscribe}\n{unsubscribe}")));
                foe.send(&text(&empty));
            }
        }
    })
};

const SUBSCRIBE_HANGS: &str = r#"
[client]
channel_limit = 16
[channel.proxy.subscribe]
endpoint = "{backend}/hang"
timeout = "10s"
[[channel.namespaces]]
name = "asked"
allow_tags_filter = true
subscribe_proxy_enabled = true
"#;

/// While a hook thinks about subscribes, these are held with their filters.
pub(crate) const FILTERS_AT_A_HANGING_SUBSCRIBE_HOOK: Attack = Attack {
    tables: SUBSCRIBE_HANGS,
    growth: 32,
    ..Attack::new(|field| {
        let mut foes = field.gang(4, "asker");
        for round in field.rounds(60) {
            for foe in &mut foes {
                let filter = empty_nodes(20_000);
                let channel = format!("asked:{round}");
                foe.push(&text(&format!(
                    r#"{{"id":{},"subscribe":{{"channel":"{channel}","tf":{filter}}}}}"#,
                    round + 2
                )));
            }
        }
        field.witnesses_get_on(5);
    })
};

/// What waits for a hook counts towards the limit of channels.
pub(crate) const SUBSCRIBES_BEYOND_THE_LIMIT_AT_A_HOOK: Attack = Attack {
    tables: SUBSCRIBE_HANGS,
    ..Attack::new(|field| {
        let mut foe = field.member("asker");
        for round in field.rounds(10) {
            let line = |number: usize| {
                let number = round * 50 + number;
                command(
                    number as u64 + 2,
                    "subscribe",
                    &json!({"channel": format!("asked:{number}")}),
                )
            };
            foe.push(&text(&(0..50).map(line).collect::<Vec<_>>().join("\n")));
        }
        field.wait_for("hooks_in_flight", 1);
        field.witnesses_get_on(20);
        let waiting = field.metric("hooks_in_flight");
        assert!(waiting <= 16, "{waiting} subscribes wait at the hook: 16 channels are allowed");
    })
};

/// A token that is refreshed again and again: only its last deadline counts.
pub(crate) const REFRESH_LOOP: Attack = Attack {
    tables: "[[channel.namespaces]]\nname = \"room\"\nallow_subscribe_for_client = true\n",
    growth: 8,
    ..Attack::new(|field| {
        let mut foes = field.gang(1, "refresher");
        let claims = json!({"sub": "refresher", "channel": "$room:a", "exp": unix() + 86_400});
        let parameters = json!({"channel": "$room:a", "token": token(&claims)});
        foes[0].send(&text(&command(1, "subscribe", &parameters)));
        let (message, _) = batch(&command(2, "sub_refresh", &parameters));
        foes[0].wait_heard(1);
        let (heard, deadlines) = (foes[0].heard, field.metric("gateway_deadlines"));
        for _ in field.rounds(50) {
            foes[0].push(&message);
        }
        // Some hundred of them are answered; then its signatures make it wait.
        foes[0].wait_heard(heard + 20_000);
        let left = field.metric("gateway_deadlines");
        assert!(left <= deadlines + 16, "{left} deadlines, {deadlines} before");
    })
};

/// Connections with tokens of a day that come and go.
pub(crate) const DEADLINES_OF_THE_DEPARTED: Attack = Attack {
    growth: 8,
    ..Attack::new(|field| {
        let claims = json!({"sub": "visitor", "exp": unix() + 86_400});
        let connect = text(&command(1, "connect", &json!({"token": token(&claims)})));
        for _ in field.rounds(600) {
            let mut foe = field.visitor();
            foe.send(&connect);
            foe.wait_heard(1);
            foe.reset();
        }
    })
};

const ROOMS: &str = r#"
[sse]
enabled = true
[[channel.namespaces]]
name = "room"
presence = true
allow_subscribe_for_client = true
allow_presence_for_client = true
allow_publish_for_client = true
"#;

const BUSY_ROOMS: &str = r#"
[client]
ping_interval = "600s"
concurrency = 512
[websocket]
write_timeout = "600s"
[[channel.namespaces]]
name = "room"
presence = true
allow_subscribe_for_client = true
allow_publish_for_client = true
"#;

/// More publications under way than a mailbox has room for, into rooms that cost their home core
/// and the other much more than the publishers': questions wait in both mailboxes, and deliveries.
pub(crate) const MAILBOX_OF_A_BUSY_CORE: Attack = Attack {
    tables: BUSY_ROOMS,
    engine: "mailbox = 512",
    // Most of it waits for the crowds, which one thread reads for.
    growth: 128,
    after: &[
        After::Counted("gateway_commands_delayed_total", 1),
        // Attackers with many questions under way leave room for who has none.
        After::Never("gateway_letters_refused_total"),
    ],
    ..Attack::new(|field| {
        let rooms: Vec<_> = (0..4).map(|n| field.crowd(40, &format!("room:{n}"))).collect();
        let mut publishers = field.gang(4, "publisher");
        let publications: Vec<Vec<u8>> = (0..4)
            .map(|number| {
                let channel = format!("room:{number}");
                batch(&command(1, "publish", &json!({"channel": channel, "data": 1}))).0
            })
            .collect();
        let mut large: Vec<Foe> = (0..6).map(|n| field.member(&format!("large-{n}"))).collect();
        let publication = |number: usize| {
            let channel = format!("room:quiet-{number}");
            text(&command(1, "publish", &json!({"channel": channel, "data": filler(60_000)})))
        };
        let larges: Vec<Vec<u8>> = (0..6).map(publication).collect();
        let is_full = || field.metric("gateway_commands_delayed_total") > 0;
        for round in field.rounds_until(80, is_full) {
            for (foe, message) in publishers.iter_mut().zip(&publications) {
                foe.push(message);
            }
            for (foe, message) in large.iter_mut().zip(&larges) {
                foe.push(message);
            }
            if round % 40 == 0 {
                field.witnesses_get_on(2);
            }
        }
        drop((publishers, large));
        field.witnesses_get_on(5);
        rooms.into_iter().for_each(super::field::Crowd::leave);
    })
};

/// Bodies for a stream's session, fifty at a time.
pub(crate) const EMULATION_BODIES: Attack = Attack {
    tables: ROOMS,
    growth: 40,
    ..Attack::new(|field| {
        let connect = command(1, "connect", &json!({"token": token_of("streamer")}));
        let head = request("POST", "/connection/sse", &[], connect.as_bytes());
        let mut stream = Stream::open(field.address(), &head);
        let reply = stream.heard().expect("a reply to connect");
        let (session, node) = (&reply["connect"]["session"], &reply["connect"]["node"]);
        let data = command(2, "publish", &json!({"channel": "room:a", "data": filler(60_000)}));
        let body = json!({"session": session, "node": node, "data": data}).to_string();
        let post = request("POST", "/emulation", &[], body.as_bytes());
        let mut posts: VecDeque<Foe> = VecDeque::new();
        for _ in field.rounds(1_500) {
            let mut foe = field.stranger();
            foe.send(&post);
            posts.push_back(foe);
            // The oldest has its answer before the next comes: what is held is not what waits here.
            if posts.len() > 50
                && let Some(mut oldest) = posts.pop_front()
            {
                oldest.wait_heard(1);
            }
        }
    })
};

const OUTBOXES: &str = r#"
[websocket]
write_timeout = "30s"
[client]
queue_max_size = "1MiB"
[[channel.namespaces]]
name = "room"
allow_subscribe_for_client = true
allow_publish_for_client = true
"#;

/// Sixty that do not read, and publications of a KB for all of them.
pub(crate) const LARGE_PUBLICATIONS_NOBODY_READS: Attack = Attack {
    tables: OUTBOXES,
    engine: "max_outboxes = \"4MiB\"",
    growth: 24,
    ..Attack::new(|field| unread(field, &json!(filler(1_000)), 3_000))
};

/// Likewise, small ones. Twice 4 MiB, what one callback may queue besides, and what the allocator
/// keeps of the list of each connection: 5 to 25 MiB from run to run, as the two cores take turns.
pub(crate) const SMALL_PUBLICATIONS_NOBODY_READS: Attack = Attack {
    tables: OUTBOXES,
    engine: "max_outboxes = \"4MiB\"",
    ..Attack::new(|field| unread(field, &json!(1), 6_000))
};

fn unread(field: &Field<'_>, data: &Value, publications: usize) {
    let deaf: Vec<Foe> = (0..60).map(|n| field.narrow(&format!("deaf-{n}"), &["room:a"])).collect();
    let mut publisher = field.member("publisher");
    let publish = |data: &Value| command(1, "publish", &json!({"channel": "room:a", "data": data}));
    // First what the kernel takes for them.
    let large = text(&publish(&json!(filler(60_000))));
    for _ in 0..200 {
        if field.metric("outbox_bytes_held") > 0 {
            break;
        }
        publisher.send(&large);
    }
    let line = publish(data);
    let at_once = (60_000 / line.len()).max(1);
    let message = text(&vec![line; at_once].join("\n"));
    for _ in field.rounds(publications / at_once) {
        publisher.send(&message);
    }
    field.witnesses_get_on(5);
    drop(deaf);
}

/// Answers that nobody reads: as many of the smallest commands as fit, of whose each has a reply.
pub(crate) const REPLIES_NOBODY_READS: Attack = Attack {
    tables: OUTBOXES,
    engine: "max_outboxes = \"4MiB\"",
    growth: 24,
    ..Attack::new(|field| {
        let mut deaf: Vec<Foe> = (0..10).map(|n| field.narrow(&format!("deaf-{n}"), &[])).collect();
        let (message, _) = batch(&command(1, "unsubscribe", &json!({"channel": "a"})));
        for _ in field.rounds(40) {
            deaf.iter_mut().for_each(|foe| _ = foe.push(&message));
        }
        field.witnesses_get_on(5);
    })
};

/// Pongs that nobody reads.
pub(crate) const PONGS_NOBODY_READS: Attack = Attack {
    tables: OUTBOXES,
    engine: "max_outboxes = \"4MiB\"",
    growth: 24,
    ..Attack::new(|field| {
        let mut deaf: Vec<Foe> = (0..20).map(|n| field.narrow(&format!("deaf-{n}"), &[])).collect();
        let pings = frame(0x89, b"").repeat(8_000);
        for _ in field.rounds(100) {
            deaf.iter_mut().for_each(|foe| _ = foe.push(&pings));
        }
        field.witnesses_get_on(5);
    })
};

/// Publications of 8 MiB for forty that read as fast as they can.
pub(crate) const ONE_PUBLICATION_FOR_MANY_READERS: Attack = Attack {
    tables: r#"
[client]
queue_max_size = "32MiB"
ping_interval = "600s"
[websocket]
write_timeout = "600s"
[[channel.namespaces]]
name = "room"
allow_subscribe_for_client = true
"#,
    // A publication as large as a mailbox would leave no room there for the operator's questions.
    engine: "max_outboxes = \"64MiB\"\nmailbox_bytes = \"64MiB\"",
    growth: 160,
    after: &[After::Never("closes_total{cause=\"outbox_full\"}")],
    ..Attack::new(|field| {
        let crowd = field.crowd(40, "room:a");
        // A reader may fall behind by what a queue holds, and is closed beyond it, however fast it
        // reads: so three publications come at once, and the next when all have these.
        for number in field.rounds(3) {
            field.gateway.api("publish", json!({"channel": "room:a", "data": filler(8 << 20)}));
            if number % 3 == 2 {
                field.wait_for_readers();
            }
        }
        field.wait_for_readers();
        crowd.leave();
    })
};

/// Messages that are never finished, beside those of others that come in two reads.
pub(crate) const UNFINISHED_MESSAGES: Attack = Attack {
    engine: "max_inbound = \"2MiB\"",
    growth: 24,
    after: &[After::Counted("closes_total{cause=\"inbound_full\"}", 1)],
    habits: Habits { in_pieces: true, ..Habits::ORDINARY },
    ..Attack::new(|field| {
        // Ever smaller ones, so that in the end there is no room at all on either core.
        let sizes: Vec<usize> = [60_000; 80]
            .into_iter()
            .chain((4..16).rev().flat_map(|power| [1 << power; 8]))
            .chain([8; 40])
            .collect();
        let mut holders: Vec<Foe> = Vec::new();
        for number in field.rounds(sizes.len()) {
            let whole = frame(FIN | TEXT, filler(sizes[number % sizes.len()]).as_bytes());
            let mut foe = field.member("holder");
            foe.send(&whole[..whole.len() - 1]);
            holders.push(foe);
            if holders.len() > 2 * sizes.len() {
                holders.remove(0);
            }
        }
        field.witnesses_get_on(40);
    })
};

const HISTORY: &str = r#"
[[channel.namespaces]]
name = "kept"
history_size = 100
history_ttl = "10m"
allow_subscribe_for_client = true
allow_publish_for_client = true
"#;

/// Small publications in channels with long names: the account is what is really held.
pub(crate) const HISTORY_OF_MANY_CHANNELS: Attack = Attack {
    tables: HISTORY,
    growth: 200,
    ..Attack::new(|field| {
        let before = vitals::resident(field.gateway.id());
        let name = filler(200);
        for round in field.rounds(15) {
            let publish = |number: usize| {
                let channel = format!("kept:{name}{}", round * 2_000 + number);
                json!({"publish": {"channel": channel, "data": 1}})
            };
            let commands: Vec<Value> = (0..2_000).map(publish).collect();
            field.gateway.api_reply("batch", &json!({"commands": commands}));
        }
        let held = vitals::resident(field.gateway.id()).saturating_sub(before);
        let account = Metrics::of(field.gateway).get("gateway_history_bytes");
        // What a batch of the API takes meanwhile is not history.
        let bound = account + account / 4 + (16 << 20);
        assert!(held <= bound, "{} KiB held, {} KiB accounted", held >> 10, account >> 10);
    })
};

/// Fresh channels with the longest names, one after the other.
pub(crate) const CHANNEL_CHURN: Attack = Attack {
    tables: HISTORY,
    growth: 24,
    ..Attack::new(|field| {
        let mut foes = field.gang(2, "wanderer");
        for round in field.rounds(150) {
            for foe in &mut foes {
                let pair = |number: usize| {
                    let channel = format!("witness:{}{:08}", filler(230), round * 100 + number);
                    let parameters = json!({"channel": channel});
                    let subscribe = command(1, "subscribe", &parameters);
                    format!("{subscribe}\n{}", command(2, "unsubscribe", &parameters))
                };
                foe.send(&text(&(0..100).map(pair).collect::<Vec<_>>().join("\n")));
            }
        }
    })
};

/// Members whose information is large, and somebody who asks for them again and again.
pub(crate) const PRESENCE_OF_LARGE_MEMBERS: Attack = Attack {
    tables: ROOMS,
    growth: 64,
    ..Attack::new(|field| {
        let mut members = Vec::new();
        for number in 0..20 {
            let info = json!({"about": filler(20_000)});
            let claims = json!({"sub": format!("large-{number}"), "info": info});
            let mut session = field.gateway.session();
            session.connect(&json!({"token": token(&claims)}));
            session.subscribe("room:large");
            members.push(session);
        }
        let mut deaf = field.narrow("asker", &[]);
        let mut reader = field.member("reader");
        let (asks, _) = batch(&command(1, "presence", &json!({"channel": "room:large"})));
        for _ in field.rounds(4) {
            deaf.push(&asks);
            reader.push(&asks);
        }
        field.witnesses_get_on(5);
    })
};

/// Bodies of 16 MiB for the server API, from people without a key.
pub(crate) const BODIES_WITHOUT_A_KEY: Attack = Attack {
    growth: 32,
    ..Attack::new(|field| {
        let head = "POST /api/publish HTTP/1.1\r\nHost: test\r\nX-API-Key: guess\r\n\
                    Content-Length: 16777216\r\n\r\n";
        let piece = [b'x'; 1 << 18];
        let mut sockets: Vec<TcpStream> = Vec::new();
        for _ in field.rounds(40) {
            let foe = field.stranger();
            let mut socket = foe.socket().try_clone().expect("a socket can be shared");
            let mut whole = socket.write(head.as_bytes()).is_ok();
            for _ in 0..4 {
                whole = whole && socket.write(&piece).is_ok();
            }
            sockets.push(socket);
        }
        field.witnesses_get_on(5);
    })
};

/// Keys of idempotency as long as they may be, as many as there may be.
pub(crate) const IDEMPOTENCY_KEYS: Attack = Attack {
    tables: HISTORY,
    growth: 72,
    ..Attack::new(|field| {
        for round in field.rounds(40) {
            let publish = |number: usize| {
                let key = format!("{}{round}-{number}", filler(50_000));
                json!({"publish": {"channel": "kept:a", "data": 1, "idempotency_key": key}})
            };
            let commands: Vec<Value> = (0..40).map(publish).collect();
            field.gateway.api_reply("batch", &json!({"commands": commands}));
        }
    })
};
