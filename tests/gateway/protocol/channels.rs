//! Subscribing: names, subscription tokens, user-limited channels, what comes with a subscription.

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use crate::support::gateway::{Gateway, SECRET, Session, signed, token, unix};

const OPEN: &str = "[channel.without_namespace]\nallow_subscribe_for_client = true\n";

/// What becomes of a subscribe command.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    In,
    Error(u32),
    Close(u16),
}

fn subscribes(session: &mut Session, request: &Value, outcome: Outcome) {
    match outcome {
        Outcome::In => _ = session.result("subscribe", request.clone()),
        Outcome::Error(code) => session.fails("subscribe", request.clone(), code),
        Outcome::Close(code) => {
            session.command("subscribe", request);
            session.closed(code);
        }
    }
}

#[test]
fn names_follow_the_rules() {
    use Outcome::{Close, Error, In};
    let gateway = Gateway::start(&format!(
        "{OPEN}[[channel.namespaces]]\nname = \"numbered\"\nallow_subscribe_for_client = true\n\
         channel_regex = \"^[0-9]+$\"\n"
    ));
    let cases = [
        ("", Close(3501)),
        ("a", In),
        ("with space", In),
        ("a/b*c&d", In),
        (&"x".repeat(255), In),
        (&"x".repeat(256), Error(107)),
        ("žluť", Error(107)),
        ("unknown:a", Error(102)),
        (":a", In), // a namespace without a name is none
        ("numbered:42", In),
        ("numbered:forty-two", Error(107)),
        ("numbered:", Error(107)),
        ("numbered:4:2", Error(107)),
    ];
    for (channel, outcome) in cases {
        let mut session = gateway.connected("42");
        subscribes(&mut session, &json!({"channel": channel}), outcome);
    }
    gateway.stop();
}

#[test]
fn markers_of_names_are_configurable() {
    let gateway = Gateway::start(&format!(
        "[channel]\nprivate_prefix = \"!\"\nnamespace_boundary = \"/\"\nmax_length = 10\n{OPEN}\
         [[channel.namespaces]]\nname = \"ns\"\n"
    ));
    let mut session = gateway.connected("42");
    session.subscribe("$a");
    session.subscribe("ns:a");
    session.fails("subscribe", json!({"channel": "!a"}), 103);
    session.fails("subscribe", json!({"channel": "ns/a"}), 103);
    session.fails("subscribe", json!({"channel": "no/a"}), 102);
    session.fails("subscribe", json!({"channel": "12345678901"}), 107);
    gateway.stop();
}

#[test]
fn a_subscription_is_made_once_and_up_to_the_limit() {
    let gateway = Gateway::start(&format!("[client]\nchannel_limit = 3\n{OPEN}"));
    let mut session = gateway.connected("42");
    for channel in ["a", "b", "c"] {
        session.subscribe(channel);
    }
    session.fails("subscribe", json!({"channel": "d"}), 106);
    session.fails("subscribe", json!({"channel": "a"}), 105);
    session.result("unsubscribe", json!({"channel": "a"}));
    session.subscribe("d");
    session.fails("subscribe", json!({"channel": "a"}), 106);
    gateway.stop();
}

#[test]
fn both_of_two_equal_commands_in_one_message_are_answered() {
    let gateway = Gateway::start(OPEN);
    let mut session = gateway.connected("42");
    let command = |id: u64| json!({"id": id, "subscribe": {"channel": "a"}}).to_string();
    session.say(&format!("{}\n{}", command(91), command(92)));
    let codes = [session.reply(91), session.reply(92)].map(|r| r["error"]["code"].as_u64());
    assert_eq!(codes, [None, Some(105)]);
    gateway.stop();
}

#[test]
fn unknown_wishes_are_refused() {
    use Outcome::{Close, Error};
    let gateway = Gateway::start(OPEN);
    for (request, outcome) in [
        (json!({"channel": "a", "delta": "xdelta"}), Close(3501)),
        (json!({"channel": "a", "tf": {"cmp": "eq", "key": "k", "val": "v"}}), Error(107)),
        (json!({"channel": "a", "type": 1}), Error(103)),
        (json!({"channel": "a", "type": 4}), Error(103)),
    ] {
        subscribes(&mut gateway.connected("42"), &request, outcome);
    }
    // A delta that is known and not granted is no reason to refuse.
    let mut session = gateway.connected("42");
    let result = session.result("subscribe", json!({"channel": "a", "delta": "fossil"}));
    assert_eq!(result, json!({}));
    gateway.stop();
}

#[test]
fn subscription_tokens_are_verified() {
    use Outcome::{Close, Error, In};
    let gateway = Gateway::start("[[channel.namespaces]]\nname = \"ns\"\n");
    let now = unix();
    let good = json!({"sub": "42", "channel": "$a"});
    let with = |key: &str, value: Value| {
        let mut claims = good.clone();
        claims[key] = value;
        token(&claims)
    };
    let cases = [
        ("$a", String::new(), Error(103)),
        ("$a", token(&good), In),
        ("$a", signed(Algorithm::HS512, &good, SECRET), In),
        ("$a", signed(Algorithm::HS256, &good, "another"), Error(103)),
        ("$a", "junk".to_owned(), Error(103)),
        ("$a", with("exp", json!(now - 10)), Error(109)),
        ("$a", with("channel", json!("$b")), Close(3500)),
        ("$a", with("sub", json!("43")), Close(3500)),
        ("$a", with("client", json!("another")), Close(3500)),
        // No subscription token at all.
        ("$a", token(&json!({"sub": "42"})), Error(103)),
        // A token does for channels without a prefix, too.
        ("b", String::new(), Error(103)),
        ("b", with("channel", json!("b")), In),
        ("$ns:a", with("channel", json!("$ns:a")), In),
        ("$no:a", with("channel", json!("$no:a")), Error(102)),
    ];
    for (channel, token, outcome) in cases {
        let request = json!({"channel": channel, "token": token});
        subscribes(&mut gateway.connected("42"), &request, outcome);
    }
    let mut session = gateway.session();
    let me = session.connect(&json!({"token": token(&json!({"sub": "42"}))}))["client"].take();
    subscribes(&mut session, &json!({"channel": "$a", "token": with("client", me)}), In);
    gateway.stop();
}

#[test]
fn subscription_tokens_may_have_keys_of_their_own() {
    let gateway = Gateway::start(
        "[client.subscription_token]\nenabled = true\nhmac_secret_key = \"their own\"\n",
    );
    let claims = json!({"sub": "42", "channel": "$a"});
    let mut session = gateway.connected("42");
    session.fails("subscribe", json!({"channel": "$a", "token": token(&claims)}), 103);
    let own = signed(Algorithm::HS256, &claims, "their own");
    session.result("subscribe", json!({"channel": "$a", "token": own}));
    gateway.stop();
}

#[test]
fn subscription_tokens_say_more() {
    let gateway = Gateway::start(
        "[channel.without_namespace]\nhistory_size = 10\nhistory_ttl = \"60s\"\n\
         presence = true\nallow_presence_for_subscriber = true\n",
    );
    let mut session = gateway.connected("42");
    let claims = json!({"sub": "42", "channel": "a", "info": {"role": "admin"},
        "data": {"hello": [1]}, "exp": unix() + 600,
        "override": {"force_recovery": {"value": true}}});
    let result = session.result("subscribe", json!({"channel": "a", "token": token(&claims)}));
    assert_eq!(result["data"], json!({"hello": [1]}), "{result}");
    assert_eq!(result["recoverable"], json!(true), "{result}");
    assert_eq!(result["expires"], json!(true), "{result}");
    assert!((500..=600).contains(&result["ttl"].as_i64().unwrap_or(0)), "{result}");
    let present = session.result("presence", json!({"channel": "a"}));
    let infos: Vec<_> = present["presence"].as_object().expect("a map").values().collect();
    assert_eq!(infos[0]["chan_info"], json!({"role": "admin"}));
    let expired = json!({"sub": "42", "channel": "b", "expire_at": unix() - 10});
    session.fails("subscribe", json!({"channel": "b", "token": token(&expired)}), 110);
    let forever = json!({"sub": "42", "channel": "c", "exp": unix() + 600, "expire_at": 0});
    let result = session.result("subscribe", json!({"channel": "c", "token": token(&forever)}));
    assert!(result.get("expires").is_none(), "{result}");
    gateway.stop();
}

#[test]
fn user_limited_channels_are_for_their_users() {
    use Outcome::{Error, In};
    let gateway = Gateway::start(
        "[channel.without_namespace]\nallow_user_limited_channels = true\n\
         [[channel.namespaces]]\nname = \"open\"\nallow_user_limited_channels = true\n\
         allow_subscribe_for_client = true\n\
         [[channel.namespaces]]\nname = \"off\"\nallow_subscribe_for_client = true\n",
    );
    for (user, channel, outcome) in [
        ("42", "dialog#42", In),
        ("42", "dialog#41,42,43", In),
        ("42", "#42", In),
        ("42", "a#b#42", In),
        ("42", "dialog#4", Error(103)),
        ("42", "dialog#421", Error(103)),
        ("42", "dialog#", Error(103)),
        ("42", "dialog", Error(103)),
        // Who is not listed is out, even where everybody may subscribe.
        ("42", "open:dialog#43", Error(103)),
        ("42", "open:dialog", In),
        // Not switched on, the sign has no meaning.
        ("42", "off:dialog#43", In),
    ] {
        let mut session = gateway.connected(user);
        subscribes(&mut session, &json!({"channel": channel}), outcome);
    }
    gateway.stop();
}

#[test]
fn publications_name_their_publisher() {
    let gateway = Gateway::start(&format!("{OPEN}allow_publish_for_subscriber = true\n"));
    let claims = json!({"sub": "42", "info": {"name": "Ann"}});
    let mut session = gateway.session();
    let me = session.connect(&json!({"token": token(&claims)}))["client"].take();
    let mut other = gateway.connected("43");
    other.subscribe("a");
    session.subscribe("a");
    session.result("publish", json!({"channel": "a", "data": {"text": "žluť \" \\ \u{1f600}"}}));
    let expected = json!({"data": {"text": "žluť \" \\ \u{1f600}"},
        "info": {"user": "42", "client": me, "conn_info": {"name": "Ann"}}});
    // The publisher hears itself.
    assert_eq!(session.publication("a"), expected);
    assert_eq!(other.publication("a"), expected);
    // The server has no name.
    gateway.api("publish", json!({"channel": "a", "data": 1, "tags": {"k": "v"}}));
    assert_eq!(other.publication("a"), json!({"data": 1, "tags": {"k": "v"}}));
    gateway.stop();
}

#[test]
fn joins_and_leaves_are_told_to_those_who_want_them() {
    let gateway = Gateway::start(
        "[[channel.namespaces]]\nname = \"ask\"\njoin_leave = true\npresence = true\n\
         allow_subscribe_for_client = true\nallow_presence_for_subscriber = true\n\
         [[channel.namespaces]]\nname = \"force\"\njoin_leave = true\n\
         force_push_join_leave = true\nallow_subscribe_for_client = true\n\
         [[channel.namespaces]]\nname = \"blind\"\njoin_leave = true\n\
         allow_subscribe_for_client = true\n",
    );
    let mut asks = gateway.session();
    let me = asks.connect(&json!({"token": token(&json!({"sub": "1"}))}))["client"].take();
    asks.result("subscribe", json!({"channel": "ask:a", "join_leave": true}));
    let join = asks.push();
    let expected = json!({"info": {"user": "1", "client": me}});
    assert_eq!((&join["channel"], &join["join"]), (&json!("ask:a"), &expected));

    let mut quiet = gateway.session();
    let you = quiet.connect(&json!({"token": token(&json!({"sub": "2", "info": {"n": 1}}))}));
    quiet.subscribe("ask:a");
    let expected = json!({"info": {"user": "2", "client": you["client"], "conn_info": {"n": 1}}});
    assert_eq!(asks.push(), json!({"channel": "ask:a", "join": expected}));
    quiet.result("unsubscribe", json!({"channel": "ask:a"}));
    assert_eq!(asks.push(), json!({"channel": "ask:a", "leave": expected}));
    quiet.no_push();
    // The end of a connection is a leave, too.
    quiet.subscribe("ask:a");
    assert_eq!(asks.push(), json!({"channel": "ask:a", "join": expected}));
    drop(quiet);
    assert_eq!(asks.push(), json!({"channel": "ask:a", "leave": expected}));

    asks.subscribe("force:a");
    assert!(asks.push()["join"].is_object());
    // Who may not see who is present is not told either.
    asks.result("subscribe", json!({"channel": "blind:a", "join_leave": true}));
    let mut third = gateway.connected("3");
    third.subscribe("blind:a");
    asks.no_push();
    gateway.stop();
}

#[test]
fn filters_choose_publications() {
    let gateway = Gateway::start(&format!("{OPEN}allow_tags_filter = true\n"));
    let mut session = gateway.connected("42");
    let filter = json!({"op": "and", "nodes": [
        {"key": "ticker", "cmp": "in", "vals": ["A", "B"]},
        {"op": "not", "nodes": [{"key": "price", "cmp": "lt", "val": "10"}]},
    ]});
    session.result("subscribe", json!({"channel": "a", "tf": filter}));
    for (n, tags) in [
        json!({"ticker": "A", "price": "9.5"}),
        json!({"ticker": "A", "price": "10"}),
        json!({"ticker": "C", "price": "11"}),
        json!({"ticker": "B", "price": "100"}),
    ]
    .into_iter()
    .enumerate()
    {
        gateway.api("publish", json!({"channel": "a", "data": n, "tags": tags}));
    }
    assert_eq!(session.publication("a")["data"], json!(1));
    assert_eq!(session.publication("a")["data"], json!(3));
    for bad in [
        json!({"cmp": "like", "key": "k", "val": "v"}),
        json!({"op": "xor", "nodes": []}),
        json!({"op": "not", "nodes": []}),
        json!({"cmp": "eq", "val": "v"}),
    ] {
        session.fails("subscribe", json!({"channel": "b", "tf": bad}), 107);
    }
    gateway.stop();
}

#[test]
fn a_channel_may_have_a_number() {
    let gateway =
        Gateway::start(&format!("{OPEN}force_push_join_leave = true\njoin_leave = true\n"));
    let mut session = gateway.connected("42");
    let result = session.result("subscribe", json!({"channel": "a", "flag": 1}));
    let number = result["id"].as_i64().expect("a number");
    assert!(number > 0);
    let join = session.push();
    assert_eq!((&join["id"], &join["channel"]), (&json!(number), &Value::Null), "{join}");
    gateway.api("publish", json!({"channel": "a", "data": 1}));
    assert_eq!(session.push(), json!({"id": number, "pub": {"data": 1}}));
    let other = session.result("subscribe", json!({"channel": "b", "flag": 1}));
    assert_ne!(other["id"], json!(number));
    // Without the flag it has none.
    let plain = session.subscribe("c");
    assert!(plain.get("id").is_none(), "{plain}");
    gateway.stop();
}

#[test]
fn slow_readers_are_closed_without_a_word_more() {
    let gateway = super::patient(
        "[client]\ninsecure = true\nqueue_max_size = \"64KiB\"\n\
         [websocket]\nwrite_timeout = \"600s\"\n",
    );
    let mut reader = gateway.connected("");
    reader.subscribe("a");
    let mut healthy = gateway.connected("");
    healthy.subscribe("b");
    // Until socket buffers and the queue hold no more: a kernel may take 40 MB.
    let text = "x".repeat(50_000);
    let gone = |n: u32| {
        gateway.api("publish", json!({"channel": "a", "data": text}));
        gateway.api("publish", json!({"channel": "b", "data": n}));
        assert_eq!(healthy.publication("b")["data"], json!(n));
        gateway.api("channels", json!({}))["channels"]["a"].is_null()
    };
    assert!((0..4_000).any(gone), "200 MB were queued for a client that does not read");
    reader.closed(3008);
    gateway.stop();
}
