//! Attacks on time: little input that makes the server work much, on behalf of one client.

use serde_json::json;

use super::attack::{After, Attack};
use super::field::{Field, Foe, batch, command, text};
use super::witness::Habits;
use crate::support::gateway::{signed, token};
use jsonwebtoken::Algorithm;

const ROOM: &str = r#"
[client]
ping_interval = "600s"
channel_limit = 5000
[[channel.namespaces]]
name = "room"
presence = true
join_leave = true
allow_subscribe_for_client = true
allow_presence_for_client = true
allow_publish_for_client = true
allow_history_for_client = true
history_size = 30
history_ttl = "10m"
"#;

/// Messages that the attacker sends before the witnesses have to get on. Each holds 1,600 commands.
const MESSAGES: usize = 4;

/// Presence of a full room, as often as fits in a few messages.
pub(crate) const PIPELINED_PRESENCE: Attack = Attack {
    tables: ROOM,
    growth: 64,
    ..Attack::new(|field| {
        let crowd = field.crowd(100, "room:a");
        let line = command(1, "presence", &json!({"channel": "room:a"}));
        pipelined(field, &line);
        crowd.leave();
    })
};

/// History of publications of 30 KB, likewise.
pub(crate) const PIPELINED_HISTORY: Attack = Attack {
    tables: ROOM,
    growth: 64,
    ..Attack::new(|field| {
        let data = "x".repeat(30_000);
        for room in ["room:a", "room:b", "room:c"] {
            for _ in 0..30 {
                field.gateway.api("publish", json!({"channel": room, "data": data}));
            }
        }
        let line = |room: &str| command(1, "history", &json!({"channel": room, "limit": 30}));
        let lines: Vec<String> = ["room:a", "room:b", "room:c"].map(line).into();
        pipelined(field, &lines.join("\n"));
    })
};

/// Two attackers who read what they get send a few messages full of commands, and witnesses get
/// answers meanwhile.
fn pipelined(field: &Field<'_>, lines: &str) {
    let mut foes = field.gang(2, "asker");
    let (message, _) = batch(lines);
    for _ in field.rounds(MESSAGES) {
        for foe in &mut foes {
            foe.push(&message);
        }
        // However much was asked for: the attackers are still there while others are served.
        field.witnesses_get_on(5);
        foes.iter_mut().for_each(|foe| drop(foe.read()));
    }
}

/// Questions to another core's channels by clients that are gone before the answer.
pub(crate) const ASK_AND_GO: Attack = Attack {
    tables: ROOM,
    growth: 64,
    ..Attack::new(|field| {
        let crowd = field.crowd(40, "room:a");
        let line = |room: &str| command(1, "presence", &json!({"channel": room}));
        let (message, _) = batch(&["room:a", "room:b"].map(line).join("\n"));
        for _ in field.rounds(40) {
            let mut foe = field.member("goes");
            foe.push(&message);
            foe.reset();
        }
        crowd.leave();
    })
};

/// Presence statistics, unsubscribes, publications to nobody: the cheapest commands there are.
pub(crate) const CHEAP_COMMANDS: Attack = Attack {
    tables: ROOM,
    growth: 48,
    ..Attack::new(|field| {
        let lines = [
            command(1, "presence_stats", &json!({"channel": "room:a"})),
            command(2, "unsubscribe", &json!({"channel": "room:none"})),
            command(3, "publish", &json!({"channel": "room:a", "data": 1})),
            command(4, "history", &json!({"channel": "room:a"})),
        ];
        pipelined(field, &lines.join("\n"));
    })
};

const RPC: &str = r#"
[client]
ping_interval = "600s"
[rpc.without_namespace]
proxy_enabled = true
[rpc.proxy]
endpoint = "{backend}/slow"
timeout = "10s"
concurrency = 8
"#;

/// Calls to the backend as fast as they go, beside witnesses that call it now and then.
pub(crate) const RPC_FLOOD: Attack = Attack {
    tables: RPC,
    growth: 48,
    habits: Habits { calls: true, ..Habits::ORDINARY },
    ..Attack::new(|field| {
        let mut foes = field.gang(1, "caller");
        let line = command(2, "rpc", &json!({"method": "x", "data": {}}));
        let (message, _) = batch(&line);
        // More than may wait; sent in one go, so that nobody else gets a turn meanwhile.
        for _ in field.rounds(8) {
            foes[0].send(&message);
        }
        field.witnesses_get_on(5);
    })
};

/// Somebody who subscribes and unsubscribes in a room where everybody is told who comes and goes.
pub(crate) const JOIN_LEAVE_LOOP: Attack = Attack {
    tables: r#"
[client]
ping_interval = "600s"
[websocket]
write_timeout = "600s"
[[channel.namespaces]]
name = "chat"
presence = true
join_leave = true
force_push_join_leave = true
allow_subscribe_for_client = true
"#,
    growth: 96,
    ..Attack::new(|field| {
        let crowd = field.crowd(60, "chat:lobby");
        let mut foes = field.gang(2, "attacker");
        let parameters = json!({"channel": "chat:lobby"});
        let lines = [command(1, "subscribe", &parameters), command(2, "unsubscribe", &parameters)];
        let (message, _) = batch(&lines.join("\n"));
        for _ in field.rounds(12) {
            for foe in &mut foes {
                foe.push(&message);
            }
            field.witnesses_get_on(2);
        }
        drop(foes);
        crowd.leave();
    })
};

/// Subscribes and unsubscribes where nobody is told.
pub(crate) const SUBSCRIBE_LOOP: Attack = Attack {
    tables: ROOM,
    growth: 48,
    ..Attack::new(|field| {
        let parameters = json!({"channel": "witness:elsewhere"});
        let lines = [command(1, "subscribe", &parameters), command(2, "unsubscribe", &parameters)];
        pipelined(field, &lines.join("\n"));
    })
};

/// A public key, and tokens that anybody can make up: their signatures are verified in vain.
const RSA: &str = r#"
[client.subscription_token]
enabled = true
rsa_public_key = """
-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAteRzPcvtBAKwwh72I/De
yyQhJoSgktNkKavIK/D87yh3dSNpxedWHCt2NKgWITulsgbKnKNRjvaPCJwt4kXl
hhaOz2WEZdGUQPH+yoFTTlEJgiEylCW1m0tbHxYpYxuKlEo1V2Ij15DGmn92sgpp
MvLlaBO6DEo5vT27nU44fBWBa3ywMvY46h1FlV/0uuaB4v3kEZ6kdLFV2vGpa8g/
TlgC0w9nJnjYPU+lYbtNODT1d1er5ZJR31jjnit7zilvOrhAInFTwvjOXcef2NL/
xf+jn29JCWaz5UhH2ZhaTmgJztDc9eit/+AerHIXsvTEFGKyzUCbRpOLxfczhIsa
hwIDAQAB
-----END PUBLIC KEY-----
"""
[[channel.namespaces]]
name = "room"
"#;

/// Subscription tokens with signatures of RSA that are none.
pub(crate) const BAD_SUBSCRIPTION_TOKENS: Attack = Attack {
    tables: RSA,
    after: &[After::Counted("gateway_tokens_refused_total", 1)],
    ..Attack::new(|field| {
        let mut foe = field.member("forger");
        let claims = json!({"sub": "forger", "channel": "$room:a"});
        let forged = signed(Algorithm::HS256, &claims, "guess");
        let parts: Vec<&str> = forged.split('.').collect();
        // {"alg":"RS256","typ":"JWT"}, and 256 bytes of signature.
        let token =
            format!("eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.{}.{}", parts[1], "A".repeat(342));
        let (message, count) =
            batch(&command(2, "subscribe", &json!({"channel": "$room:a", "token": token})));
        for _ in field.rounds(4) {
            foe.push(&message);
            field.witnesses_get_on(3);
        }
        foe.wait_closed();
        let refused = field.metric("gateway_tokens_refused_total");
        assert!(refused < count, "{refused} bad tokens of one connection were looked at");
    })
};

/// Connect commands with bad tokens, each on a connection of its own.
pub(crate) const BAD_CONNECTION_TOKENS: Attack = Attack {
    after: &[After::Counted("gateway_tokens_refused_total", 100)],
    ..Attack::new(|field| {
        let forged = signed(Algorithm::HS256, &json!({"sub": "admin"}), "guess");
        let connect = text(&command(1, "connect", &json!({"token": forged})));
        for _ in field.rounds(150) {
            let mut foe = field.visitor();
            foe.send(&connect);
            foe.wait_closed();
        }
    })
};

/// A token as long as a message, of dots and of letters.
pub(crate) const ENORMOUS_TOKENS: Attack = Attack {
    after: &[After::Counted("gateway_tokens_refused_total", 40)],
    ..Attack::new(|field| {
        let good = token(&json!({"sub": "x", "padding": "x".repeat(40_000)}));
        for round in field.rounds(60) {
            let mut foe = field.visitor();
            let token = match round % 3 {
                0 => ".".repeat(60_000),
                1 => format!("{}.{}", good, "A".repeat(4_000)),
                _ => "A".repeat(60_000),
            };
            foe.send(&text(&command(1, "connect", &json!({"token": token}))));
            foe.wait_closed();
        }
    })
};

/// One publisher, as fast as it can, into a room of readers.
pub(crate) const PUBLICATIONS_FOR_A_CROWD: Attack = Attack {
    tables: ROOM,
    growth: 128,
    ..Attack::new(|field| {
        let crowd = field.crowd(30, "room:a");
        let mut foes = field.gang(1, "publisher");
        let line = command(1, "publish", &json!({"channel": "room:a", "data": "x".repeat(200)}));
        let lines = vec![line; 20].join("\n");
        for _ in field.rounds(30) {
            foes[0].push(&text(&lines));
            field.witnesses_get_on(1);
        }
        crowd.leave();
    })
};

/// Pings and pongs by the ten thousand.
pub(crate) const PINGS_AND_PONGS: Attack = Attack {
    after: &[After::Counted("pings_in_total", 1_000)],
    ..Attack::new(|field| {
        use crate::support::wire::{FIN, PING, PONG, frame};
        let mut foes = field.gang(4, "pinger");
        let floods = [
            frame(FIN | PING, b"ping").repeat(6_000),
            frame(FIN | PONG, b"").repeat(8_000),
            frame(FIN | PING, &[0; 125]).repeat(500),
            text("{}").repeat(5_000),
        ];
        for _ in field.rounds(40) {
            for (foe, flood) in foes.iter_mut().zip(&floods) {
                foe.push(flood);
            }
        }
        field.witnesses_get_on(3);
    })
};

/// A crowd of connections that each send a little, all the time.
pub(crate) const MANY_LITTLE_FLOODS: Attack = Attack {
    tables: ROOM,
    growth: 64,
    ..Attack::new(|field| {
        let mut foes: Vec<Foe> = (0..100).map(|n| field.member(&format!("little-{n}"))).collect();
        let line = command(1, "publish", &json!({"channel": "room:a", "data": 1}));
        let message = text(&vec![line; 20].join("\n"));
        for _ in field.rounds(30) {
            for foe in &mut foes {
                foe.push(&message);
            }
        }
        field.witnesses_get_on(3);
    })
};
