//! The connect command: tokens, who may connect, server-side subscriptions.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use crate::support::gateway::{Gateway, SECRET, assert_error, signed, token, token_of, unix};

/// What becomes of a connect command.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    In,
    Error(u32),
    Close(u16),
}

fn connects(gateway: &Gateway, parameters: &Value, outcome: Outcome) -> Value {
    let mut session = gateway.session();
    let id = session.command("connect", parameters);
    match outcome {
        Outcome::In => {
            let mut reply = session.reply(id);
            assert!(reply["connect"]["client"].is_string(), "{parameters}: {reply}");
            return reply["connect"].take();
        }
        Outcome::Error(code) => {
            assert_error(&session.reply(id), code, &parameters.to_string());
            // The connection is of no use any more.
            session.command("connect", parameters);
            session.closed(3501);
        }
        Outcome::Close(code) => session.closed(code),
    }
    Value::Null
}

fn unsigned(claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.", part(&json!({"alg": "none", "typ": "JWT"})), part(claims))
}

#[test]
fn tokens_are_verified() {
    use Outcome::{Close, Error, In};
    let gateway = Gateway::start("");
    let now = unix();
    let mut forged = token_of("42");
    forged.pop();
    let good = token_of("42");
    let (head, signature) = (good.find('.'), good.rfind('.'));
    let body = URL_SAFE_NO_PAD.encode(json!({"sub": "root"}).to_string());
    let (head, signature) = (&good[..=head.unwrap_or(0)], &good[signature.unwrap_or(0)..]);
    let tampered = format!("{head}{body}{signature}");
    let cases = [
        (token_of("42"), In),
        (signed(Algorithm::HS384, &json!({"sub": "42"}), SECRET), In),
        (signed(Algorithm::HS512, &json!({"sub": "42"}), SECRET), In),
        (token(&json!({"sub": ""})), In),
        (token(&json!({"sub": "42", "exp": now + 3600, "iat": now, "jti": "x"})), In),
        (token(&json!({"sub": "42", "nbf": now - 10})), In),
        (token(&json!({"sub": "42", "exp": now - 10})), Error(109)),
        (token(&json!({"sub": "42", "nbf": now + 3600})), Error(109)),
        (signed(Algorithm::HS256, &json!({"sub": "42"}), "another"), Close(3500)),
        (signed(Algorithm::HS256, &json!({"sub": "42", "exp": now - 10}), "other"), Close(3500)),
        (unsigned(&json!({"sub": "42"})), Close(3500)),
        (token(&json!({"sub": "42", "channel": "news"})), Close(3500)),
        (forged, Close(3500)),
        (tampered, Close(3500)),
        ("no token".to_owned(), Close(3500)),
        ("a.b.c".to_owned(), Close(3500)),
        (String::new(), Close(3501)),
    ];
    for (token, outcome) in cases {
        connects(&gateway, &json!({"token": token}), outcome);
    }
    connects(&gateway, &json!({}), Close(3501));
    gateway.stop();
}

#[test]
fn tokens_say_who_they_are_for() {
    use Outcome::{Close, In};
    let gateway = Gateway::start("audience = \"us\"\nissuer_regex = \"^https://issuer[0-9]$\"\n");
    for (aud, iss, outcome) in [
        (json!("us"), "https://issuer1", In),
        (json!(["others", "us"]), "https://issuer2", In),
        (json!("them"), "https://issuer1", Close(3500)),
        (json!([]), "https://issuer1", Close(3500)),
        (json!("us"), "https://issuer", Close(3500)),
    ] {
        let token = token(&json!({"sub": "42", "aud": aud, "iss": iss}));
        connects(&gateway, &json!({"token": token}), outcome);
    }
    connects(&gateway, &json!({"token": token_of("42")}), Close(3500));
    gateway.stop();

    let gateway = Gateway::start(
        "user_id_claim = \"user_id\"\n[channel.without_namespace]\n\
         presence = true\nallow_subscribe_for_client = true\nallow_presence_for_client = true\n",
    );
    let mut session = gateway.session();
    session.connect(&json!({"token": token(&json!({"user_id": "from the claim"}))}));
    session.subscribe("c");
    let presence = session.result("presence", json!({"channel": "c"}));
    let users: Vec<_> = presence["presence"].as_object().expect("a map").values().collect();
    assert_eq!(users[0]["user"], json!("from the claim"));
    gateway.stop();
}

#[test]
fn the_previous_secret_is_accepted_for_a_while() {
    use Outcome::{Close, In};
    let old = signed(Algorithm::HS256, &json!({"sub": "42"}), "the one before");
    for (until, outcome) in [(0, In), (unix() + 3600, In), (unix() - 10, Close(3500))] {
        let gateway = Gateway::start(&format!(
            "hmac_previous_secret_key = \"the one before\"\n\
             hmac_previous_secret_key_valid_until = {until}\n"
        ));
        connects(&gateway, &json!({"token": old}), outcome);
        connects(&gateway, &json!({"token": token_of("42")}), In);
        gateway.stop();
    }
}

#[test]
fn nobody_gets_in_where_that_is_allowed() {
    use Outcome::{Close, Error, In};
    let gateway = Gateway::start("[client]\nallow_anonymous_connect_without_token = true\n");
    connects(&gateway, &json!({}), In);
    // A token that is there is verified.
    connects(&gateway, &json!({"token": "junk"}), Close(3500));
    let expired = token(&json!({"sub": "42", "exp": unix() - 10}));
    connects(&gateway, &json!({"token": expired}), Error(109));
    gateway.stop();

    let gateway = Gateway::start("[client]\ndisallow_anonymous_connection_tokens = true\n");
    connects(&gateway, &json!({"token": token(&json!({"sub": ""}))}), Close(3507));
    connects(&gateway, &json!({"token": token_of("42")}), In);
    gateway.stop();

    let gateway = Gateway::start("[client]\ninsecure = true\n");
    connects(&gateway, &json!({}), In);
    connects(&gateway, &json!({"token": expired}), Error(109));
    let expiring = token(&json!({"sub": "42", "exp": unix() + 60}));
    let result = connects(&gateway, &json!({"token": expiring}), In);
    assert!(result.get("expires").is_none(), "{result}");
    gateway.stop();
}

#[test]
fn a_header_names_the_user_where_nobody_else_does() {
    let gateway = Gateway::start(
        "[channel.without_namespace]\npresence = true\nallow_subscribe_for_client = true\n\
         [client]\nuser_id_http_header = \"X-Remote-User\"\n",
    );
    let user_of = |lines: &[&str], connect: Value| {
        let mut session = gateway.session_at("/connection/websocket", lines);
        let client = session.connect(&connect)["client"].as_str().expect("an id").to_owned();
        session.subscribe("a");
        // One that was there before may be there still.
        let presence = gateway.api("presence", json!({"channel": "a"}));
        presence["presence"][client]["user"].as_str().expect("text").to_owned()
    };
    let named = ["x-remote-user: josé"];
    assert_eq!(user_of(&named, json!({})), "josé");
    assert_eq!(user_of(&named, json!({"token": token_of("42")})), "42", "a token is stronger");
    // Nobody, and an empty name.
    for lines in [&[][..], &["X-Remote-User:"]] {
        let mut session = gateway.session_at("/connection/websocket", lines);
        session.command("connect", &json!({}));
        session.closed(3501);
    }
    gateway.stop();
}

#[test]
fn the_reply_says_what_a_client_needs() {
    let gateway = Gateway::start("[client]\nconnect_include_server_time = true\n");
    let before = unix() * 1000;
    let connect =
        json!({"token": token_of("42"), "name": "n".repeat(16), "version": "v".repeat(64)});
    let one = connects(&gateway, &connect, Outcome::In);
    let two = connects(&gateway, &connect, Outcome::In);
    let id = one["client"].as_str().expect("an id");
    let dashes: Vec<_> = id.match_indices('-').map(|(at, _)| at).collect();
    assert_eq!((id.len(), dashes.as_slice(), &id[14..15]), (36, &[8, 13, 18, 23][..], "4"));
    assert_ne!(one["client"], two["client"]);
    assert!(one["version"].as_str().is_some_and(|version| !version.is_empty()));
    let time = one["time"].as_i64().expect("the time");
    assert!((before..before + 60_000).contains(&time), "{time} is not near {before}");
    for absent in ["expires", "ttl", "data", "subs", "session", "node"] {
        assert!(one.get(absent).is_none(), "{absent}: {one}");
    }
    for (field, length) in [("name", 17), ("version", 65)] {
        let connect = json!({"token": token_of("42"), field: "x".repeat(length)});
        connects(&gateway, &connect, Outcome::Close(3501));
    }
    gateway.stop();
}

#[test]
fn the_reply_says_when_the_connection_expires() {
    let gateway = Gateway::start("");
    let now = unix();
    let expiry = |claims: Value| {
        let connect = json!({"token": token(&claims)});
        let result = connects(&gateway, &connect, Outcome::In);
        (result["expires"].as_bool().unwrap_or(false), result["ttl"].as_i64().unwrap_or(0))
    };
    let (expires, ttl) = expiry(json!({"sub": "42", "exp": now + 600}));
    assert!(expires && (500..=600).contains(&ttl), "{expires} {ttl}");
    let (expires, ttl) = expiry(json!({"sub": "42", "exp": now + 600, "expire_at": now + 6000}));
    assert!(expires && (5900..=6000).contains(&ttl), "{expires} {ttl}");
    assert_eq!(expiry(json!({"sub": "42", "exp": now + 600, "expire_at": 0})), (false, 0));
    assert_eq!(expiry(json!({"sub": "42"})), (false, 0));
    let over = json!({"token": token(&json!({"sub": "42", "expire_at": now - 10}))});
    connects(&gateway, &over, Outcome::Error(110));
    gateway.stop();
}

const CHANNELS: &str = "[[channel.namespaces]]\nname = \"chat\"\npresence = true\n\
    allow_presence_for_subscriber = true\nhistory_size = 10\nhistory_ttl = \"60s\"\n\
    force_recovery = true\n[[channel.namespaces]]\nname = \"plain\"\n";

#[test]
fn tokens_subscribe() {
    let gateway = Gateway::start(CHANNELS);
    gateway.api("publish", json!({"channel": "chat:b", "data": 1}));
    let claims = json!({"sub": "42", "info": {"name": "Ann"},
        "subs": {"chat:b": {"data": {"d": 1}, "info": {"i": 1}},
            "plain:b": {"override": {"presence": {"value": true}}}}});
    let mut session = gateway.session();
    let result = session.connect(&json!({"token": token(&claims)}));
    let subs = result["subs"].as_object().expect("subscriptions");
    assert_eq!(subs.keys().collect::<Vec<_>>(), ["chat:b", "plain:b"]);
    let sub = &subs["chat:b"];
    assert_eq!((&sub["recoverable"], &sub["positioned"]), (&json!(true), &json!(true)), "{sub}");
    assert_eq!((&sub["offset"], &sub["data"]), (&json!(1), &json!({"d": 1})), "{sub}");
    assert!(sub["epoch"].is_string(), "{sub}");
    assert_eq!(subs["plain:b"], json!({}), "{subs:?}");

    gateway.api("publish", json!({"channel": "chat:b", "data": 2}));
    let publication = session.publication("chat:b");
    assert_eq!(publication, json!({"data": 2, "offset": 2}));

    let present = session.result("presence", json!({"channel": "chat:b"}));
    let info = &present["presence"][result["client"].as_str().expect("an id")];
    let expected = json!({"user": "42", "client": result["client"],
        "conn_info": {"name": "Ann"}, "chan_info": {"i": 1}});
    assert_eq!(*info, expected);
    // The channel is taken, and the client may leave it.
    session.fails("subscribe", json!({"channel": "chat:b"}), 105);
    session.result("unsubscribe", json!({"channel": "chat:b"}));
    gateway.api("publish", json!({"channel": "chat:b", "data": 3}));
    session.no_push();
    gateway.stop();
}

#[test]
fn a_list_of_channels_subscribes() {
    let gateway = Gateway::start(CHANNELS);
    let claims = json!({"sub": "42", "channels": ["chat:a", "plain:a"]});
    let mut session = gateway.session();
    let result = session.connect(&json!({"token": token(&claims)}));
    let subs = result["subs"].as_object().expect("subscriptions");
    assert_eq!(subs.keys().collect::<Vec<_>>(), ["chat:a", "plain:a"]);
    gateway.stop();
}

#[test]
fn server_side_subscriptions_recover() {
    let gateway = Gateway::start(CHANNELS);
    let epoch = gateway.api("publish", json!({"channel": "chat:a", "data": 1}))["epoch"].take();
    for data in 2..=4 {
        gateway.api("publish", json!({"channel": "chat:a", "data": data}));
    }
    let token = token(&json!({"sub": "42", "channels": ["chat:a"]}));
    let recover = |since: Value| {
        let mut session = gateway.session();
        let mut result = session.connect(&json!({"token": token, "subs": {"chat:a": since}}));
        result["subs"]["chat:a"].take()
    };
    let sub = recover(json!({"recover": true, "epoch": epoch, "offset": 2}));
    assert_eq!((&sub["recovered"], &sub["was_recovering"]), (&json!(true), &json!(true)), "{sub}");
    let expected = json!([{"data": 3, "offset": 3}, {"data": 4, "offset": 4}]);
    assert_eq!((&sub["publications"], &sub["offset"]), (&expected, &json!(2)), "{sub}");
    let sub = recover(json!({"recover": true, "epoch": "another", "offset": 2}));
    assert!(sub.get("recovered").is_none() && sub["was_recovering"] == json!(true), "{sub}");
    assert_eq!(sub["offset"], json!(4));
    gateway.stop();
}

#[test]
fn server_side_subscriptions_have_limits() {
    let gateway = Gateway::start(&format!("[client]\nchannel_limit = 2\n{CHANNELS}"));
    let connect =
        |channels: Value| json!({"token": token(&json!({"sub": "42", "channels": channels}))});
    connects(&gateway, &connect(json!(["plain:a", "plain:b"])), Outcome::In);
    let three = connect(json!(["plain:a", "plain:b", "plain:c"]));
    connects(&gateway, &three, Outcome::Close(3505));
    connects(&gateway, &connect(json!(["unknown:a"])), Outcome::Error(102));
    gateway.stop();
}

#[test]
fn users_have_a_channel_of_their_own() {
    let gateway = Gateway::start(&format!(
        "[client.subscribe_to_user_personal_channel]\nenabled = true\n\
         personal_channel_namespace = \"chat\"\n{CHANNELS}"
    ));
    let mut session = gateway.session();
    let result = session.connect(&json!({"token": token_of("42")}));
    assert!(result["subs"]["chat:#42"].is_object(), "{result}");
    gateway.api("publish", json!({"channel": "chat:#42", "data": "hi"}));
    assert_eq!(session.publication("chat:#42")["data"], json!("hi"));
    // Nobody in particular has none.
    let result = connects(&gateway, &json!({"token": token(&json!({"sub": ""}))}), Outcome::In);
    assert!(result.get("subs").is_none(), "{result}");
    gateway.stop();
}

#[test]
fn users_may_have_one_connection_only() {
    let gateway = Gateway::start(&format!(
        "[client.subscribe_to_user_personal_channel]\nenabled = true\nsingle_connection = true\n\
         personal_channel_namespace = \"chat\"\n{CHANNELS}"
    ));
    let mut first = gateway.connected("42");
    let mut other = gateway.connected("43");
    let mut second = gateway.connected("42");
    first.closed(3504);
    second.result("unsubscribe", json!({"channel": "c"}));
    other.result("unsubscribe", json!({"channel": "c"}));
    gateway.stop();
}

#[test]
fn users_may_have_so_many_connections() {
    let gateway = Gateway::start("[client]\nuser_connection_limit = 2\n");
    let mut kept = [gateway.connected("42"), gateway.connected("42"), gateway.connected("43")];
    connects(&gateway, &json!({"token": token_of("42")}), Outcome::Close(3504));
    for session in &mut kept {
        session.result("unsubscribe", json!({"channel": "c"}));
    }
    // A place is free again.
    let [first, ..] = kept;
    drop(first);
    let free = || {
        let mut session = gateway.session();
        session.command("connect", &json!({"token": token_of("42")}));
        matches!(session.hear()[..], [crate::support::gateway::Heard::Object(_)])
    };
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    while !free() {
        assert!(std::time::Instant::now() < deadline, "the place stays taken");
    }
    gateway.stop();
}
