//! Requests, answers of backends and tokens field by field: absent, empty, null, zero, negative,
//! huge, named twice. One row each.

use serde_json::{Value, json};

use super::hooks::Backend;
use crate::support::gateway::{API_KEY, Gateway, Heard, token, token_of, unix};

/// What comes of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comes {
    /// The result.
    Well,
    /// An error reply.
    Error(u64),
    /// The end of the connection; of an API call the HTTP status.
    End(u16),
}

use Comes::{End, Error, Well};

const TABLES: &str = "[channel.without_namespace]\nhistory_size = 10\nhistory_ttl = \"60s\"\n\
    presence = true\nallow_subscribe_for_client = true\nallow_recovery = true\n\
    allow_publish_for_client = true\nallow_presence_for_client = true\n\
    allow_history_for_client = true\nallow_tags_filter = true\n";

/// What the client of a session is told to this, which has the number 9 if any.
fn said(gateway: &Gateway, text: &str) -> Comes {
    let mut session = gateway.connected("42");
    session.subscribe("a");
    session.say(text);
    loop {
        for heard in session.hear() {
            match heard {
                Heard::Close(code, _) => return End(code),
                Heard::Object(it) if it["error"].is_object() => {
                    return Error(it["error"]["code"].as_u64().unwrap_or(0));
                }
                Heard::Object(it) if it["id"].is_u64() => return Well,
                _ => {}
            }
        }
    }
}

#[test]
fn commands() {
    let gateway = Gateway::start(TABLES);
    gateway.api("publish", json!({"channel": "a", "data": 0}));
    let long = "x".repeat(256);
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    let rows: &[(&str, String, Comes)] = &[
        ("subscribe", "{}".into(), End(3501)),
        ("subscribe", "null".into(), End(3501)),
        ("subscribe", r#"{"channel":""}"#.into(), End(3501)),
        ("subscribe", r#"{"channel":null}"#.into(), End(3501)),
        ("subscribe", r#"{"channel":1}"#.into(), End(3501)),
        ("subscribe", format!(r#"{{"channel":"{long}"}}"#), Error(107)),
        ("subscribe", r#"{"channel":"é"}"#.into(), Error(107)),
        ("subscribe", r#"{"channel":"a"}"#.into(), Error(105)),
        ("subscribe", r#"{"channel":"a","channel":"b"}"#.into(), Well),
        ("subscribe", r#"{"channel":"b","channel":"a"}"#.into(), Error(105)),
        ("subscribe", r#"{"channel":"b","unknown":{"x":1}}"#.into(), Well),
        (
            "subscribe",
            r#"{"channel":"b","token":null,"epoch":null,"offset":null,"data":null}"#.into(),
            Well,
        ),
        (
            "subscribe",
            r#"{"channel":"b","recover":null,"flag":null,"delta":null,"tf":null,"type":null}"#
                .into(),
            Well,
        ),
        ("subscribe", r#"{"channel":"b","token":"","epoch":"","delta":""}"#.into(), Well),
        (
            "subscribe",
            r#"{"channel":"b","recover":true,"offset":18446744073709551615}"#.into(),
            Well,
        ),
        ("subscribe", r#"{"channel":"b","offset":18446744073709551616}"#.into(), End(3501)),
        ("subscribe", r#"{"channel":"b","offset":-1}"#.into(), End(3501)),
        ("subscribe", r#"{"channel":"b","flag":-1}"#.into(), Well),
        ("subscribe", r#"{"channel":"b","recover":true,"flag":0,"offset":9}"#.into(), Well),
        ("subscribe", r#"{"channel":"b","delta":"x"}"#.into(), End(3501)),
        ("subscribe", r#"{"channel":"b","type":1}"#.into(), Error(103)),
        ("subscribe", r#"{"channel":"b","token":"x"}"#.into(), Error(103)),
        ("unsubscribe", "{}".into(), End(3501)),
        ("unsubscribe", r#"{"channel":"nowhere"}"#.into(), Well),
        ("publish", r#"{"channel":"a"}"#.into(), Error(107)),
        ("publish", r#"{"data":1}"#.into(), End(3501)),
        ("publish", r#"{"channel":"a","data":null}"#.into(), Well),
        ("publish", r#"{"channel":"a","data":""}"#.into(), Well),
        ("publish", r#"{"channel":"a","data":1,"data":2}"#.into(), Well),
        ("publish", r#"{"channel":"a","data":{"x":1,"x":2},"type":1}"#.into(), Error(108)),
        ("publish", format!(r#"{{"channel":"deep","data":{deep}}}"#), Well),
        ("presence", "{}".into(), End(3501)),
        ("presence", r#"{"channel":"b"}"#.into(), Well),
        ("presence_stats", "{}".into(), End(3501)),
        ("presence_stats", r#"{"channel":"b"}"#.into(), Well),
        ("history", "{}".into(), End(3501)),
        ("history", r#"{"channel":"a","limit":null,"since":null,"reverse":null}"#.into(), Well),
        ("history", r#"{"channel":"a","limit":-1}"#.into(), Well),
        ("history", r#"{"channel":"a","limit":2147483647}"#.into(), Well),
        ("history", r#"{"channel":"a","limit":2147483648}"#.into(), End(3501)),
        ("history", r#"{"channel":"a","since":{},"limit":1}"#.into(), Well),
        ("history", r#"{"channel":"a","since":{"offset":0},"reverse":true}"#.into(), Error(107)),
        ("history", r#"{"channel":"a","since":{"offset":1,"epoch":"no"}}"#.into(), Error(112)),
        ("rpc", "{}".into(), Error(108)),
        ("send", "{}".into(), End(3508)),
        ("refresh", "{}".into(), End(3501)),
        ("refresh", r#"{"token":null}"#.into(), End(3501)),
        ("refresh", r#"{"token":"x"}"#.into(), End(3500)),
        ("sub_refresh", "{}".into(), End(3501)),
        ("sub_refresh", r#"{"channel":"a"}"#.into(), End(3500)),
        ("sub_refresh", r#"{"channel":"b","token":"x"}"#.into(), Error(103)),
        ("sub_refresh", r#"{"channel":"a","token":"x","type":1}"#.into(), Error(108)),
        ("ping", "{}".into(), End(3501)),
    ];
    let mut wrong = Vec::new();
    for (method, parameters, expected) in rows {
        let text = format!(r#"{{"id":9,"{method}":{parameters}}}"#);
        let found = said(&gateway, &text);
        if found != *expected {
            let row: String = text.chars().take(120).collect();
            wrong.push(format!("{row}: {found:?}, not {expected:?}"));
        }
    }
    for (text, expected) in [
        (r#"{"id":4294967295,"presence":{"channel":"a"}}"#, Well),
        (r#"{"id":4294967296,"presence":{"channel":"a"}}"#, End(3501)),
        (r#"{"id":0,"presence":{"channel":"a"}}"#, End(3501)),
        (r#"{"id":-1,"presence":{"channel":"a"}}"#, End(3501)),
        (r#"{"id":null,"presence":{"channel":"a"}}"#, End(3501)),
        (r#"{"id":"1","presence":{"channel":"a"}}"#, End(3501)),
        (r#"{"id":0,"id":7,"presence":{"channel":"a"}}"#, Well),
        (r#"{"id":7}"#, End(3501)),
        ("[]", End(3501)),
        ("null", End(3501)),
        ("", End(3501)),
    ] {
        let found = said(&gateway, text);
        if found != expected {
            wrong.push(format!("{text}: {found:?}, not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    gateway.stop();
}

#[test]
fn requests_of_the_server_api() {
    let gateway = Gateway::start(TABLES);
    gateway.api("publish", json!({"channel": "a", "data": 0}));
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let rows: &[(&str, String, Comes)] = &[
        ("publish", "{}".into(), Error(107)),
        ("publish", r#"{"channel":null,"data":1}"#.into(), Error(107)),
        ("publish", r#"{"channel":"a","data":null}"#.into(), Well),
        ("publish", r#"{"channel":"a","b64data":""}"#.into(), Error(107)),
        ("publish", r#"{"channel":"a","data":1,"b64data":"?"}"#.into(), Error(107)),
        ("publish", format!(r#"{{"channel":"deep","data":{deep}}}"#), Well),
        (
            "publish",
            r#"{"channel":"nope:a","channel":"a","data":1,"data":{"x":1,"x":2}}"#.into(),
            Well,
        ),
        (
            "publish",
            concat!(
                r#"{"channel":"a","data":1,"tags":null,"version":null,"delta":null,"#,
                r#""skip_history":null,"idempotency_key":null,"version_epoch":null}"#,
            )
            .into(),
            Well,
        ),
        ("publish", r#"{"channel":"a","data":1,"version":-1}"#.into(), End(400)),
        ("publish", r#"{"channel":"a","data":1,"version":18446744073709551615}"#.into(), Well),
        ("publish", r#"{"channel":"nope:a","data":1}"#.into(), Error(102)),
        ("broadcast", r#"{"data":1}"#.into(), Error(107)),
        ("broadcast", r#"{"channels":null,"data":1}"#.into(), Error(107)),
        ("broadcast", r#"{"channels":["a",""],"data":1}"#.into(), Well),
        ("subscribe", "{}".into(), Error(107)),
        ("subscribe", r#"{"channel":"a"}"#.into(), Well),
        ("subscribe", r#"{"user":"42","channel":"nope:a"}"#.into(), Error(102)),
        (
            "subscribe",
            r#"{"user":"42","channel":"b","expire_at":9223372036854775807}"#.into(),
            Well,
        ),
        (
            "subscribe",
            r#"{"user":"42","channel":"b","expire_at":-9223372036854775808}"#.into(),
            Well,
        ),
        (
            "subscribe",
            r#"{"user":"42","channel":"b","expire_at":9223372036854775808}"#.into(),
            End(400),
        ),
        (
            "subscribe",
            concat!(
                r#"{"user":"42","channel":"b","info":null,"data":null,"override":null,"#,
                r#""recover_since":null}"#,
            )
            .into(),
            Well,
        ),
        ("unsubscribe", "{}".into(), Well),
        ("unsubscribe", r#"{"user":"42","channel":"nope:1"}"#.into(), Error(102)),
        ("unsubscribe", r#"{"user":"42","channel":"","client":"no id"}"#.into(), Well),
        ("disconnect", r#"{"user":"nobody","whitelist":null,"disconnect":null}"#.into(), Well),
        ("disconnect", r#"{"user":"nobody","disconnect":{}}"#.into(), Error(107)),
        (
            "refresh",
            r#"{"user":"nobody","expired":null,"expire_at":null,"info":null}"#.into(),
            Well,
        ),
        ("presence", "{}".into(), Error(107)),
        ("presence", r#"{"channel":"nope:1"}"#.into(), Error(102)),
        ("presence_stats", r#"{"channel":"é"}"#.into(), Well),
        (
            "history",
            r#"{"channel":"a","limit":-1,"since":{"offset":9},"reverse":true}"#.into(),
            Well,
        ),
        ("history", r#"{"channel":"a","since":{"offset":0},"reverse":true}"#.into(), Error(107)),
        ("history", r#"{"channel":"a","limit":2147483648}"#.into(), End(400)),
        ("history_remove", "{}".into(), Error(107)),
        ("channels", r#"{"pattern":null}"#.into(), Well),
        ("channels", r#"{"pattern":"["}"#.into(), Error(107)),
        ("info", "{}".into(), Well),
        ("rpc", "{}".into(), Error(107)),
        ("rpc", r#"{"method":"m"}"#.into(), Error(104)),
        ("nothing", "{}".into(), End(404)),
        ("info", "[]".into(), End(400)),
    ];
    let mut wrong = Vec::new();
    for (method, body, expected) in rows {
        let found = match gateway.post(method, body, API_KEY) {
            (200, text) => match serde_json::from_str::<Value>(&text).expect("JSON") {
                reply if reply["error"].is_object() => {
                    Error(reply["error"]["code"].as_u64().unwrap_or(0))
                }
                _ => Well,
            },
            (status, _) => End(status),
        };
        if found != *expected {
            wrong.push(format!("{method} {body}: {found:?}, not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Beyond the top there is nothing to go back from.
    let back = |offset: u64| {
        let read =
            json!({"channel": "a", "limit": -1, "since": {"offset": offset}, "reverse": true});
        let result = gateway.api("history", read);
        (result["publications"].as_array().map(Vec::len), result["offset"].as_u64())
    };
    let top = back(1).1.expect("a top");
    assert_eq!(back(top + 1).0, Some(top as usize));
    assert_eq!(back(top + 2).0, Some(0));
    gateway.stop();
}

#[test]
fn answers_of_the_backend() {
    let backend = Backend::start(&[("/connect", json!({})), ("/subscribe", json!({}))]);
    let gateway = backend.configures(
        "[client.proxy.connect]\nenabled = true\nendpoint = \"{}/connect\"\n\
         [channel.proxy.subscribe]\nendpoint = \"{}/subscribe\"\n\
         [channel.without_namespace]\nsubscribe_proxy_enabled = true\n",
    );
    let now = unix();
    for (answer, expected) in [
        (json!({}), End(3501)),
        (json!({"result": null}), End(3501)),
        (json!({"result": {}}), Well),
        (
            json!({"result": {"user": null, "expire_at": null, "info": null, "data": null,
            "channels": null, "subs": null, "meta": null}}),
            Well,
        ),
        (json!({"result": {"user": "u", "b64info": "", "b64data": ""}}), Well),
        (json!({"result": {"user": 1}}), Error(100)),
        (json!({"result": {"user": "u", "expire_at": -1}}), Well),
        (json!({"result": {"user": "u", "expire_at": now - 5}}), Error(110)),
        (json!({"result": {"user": "u", "expire_at": i64::MAX}}), Well),
        (json!({"result": {"user": "u", "expire_at": u64::MAX}}), Error(100)),
        (json!({"result": {"channels": [""]}}), Well),
        (json!({"result": {"channels": ["nope:1"]}}), Error(102)),
        (json!({"result": {"subs": {"a": {"expire_at": i64::MAX, "override": null}}}}), Well),
        (json!({"error": null, "disconnect": null, "result": {}}), Well),
        (json!({"error": {"code": 0}}), Error(100)),
        (json!({"error": {"code": 4242, "message": null}}), Error(4242)),
        (json!({"disconnect": {"code": 4242}}), End(4242)),
        (json!({"disconnect": {"code": 1000}}), Error(100)),
    ] {
        backend.set("/connect", answer.clone());
        let mut session = gateway.session();
        session.say(r#"{"id":1,"connect":{}}"#);
        let found = match session.hear().pop() {
            Some(Heard::Close(code, _)) => End(code),
            Some(Heard::Object(it)) if it["connect"].is_object() => Well,
            Some(Heard::Object(it)) => Error(it["error"]["code"].as_u64().unwrap_or(0)),
            heard => panic!("{heard:?}"),
        };
        assert_eq!(found, expected, "{answer}");
    }
    let mut session = gateway.connected("42");
    for (n, (answer, expected)) in [
        (json!({"result": null}), Ok(None)),
        (json!({"result": {"expire_at": null, "info": null, "data": null}}), Ok(None)),
        (json!({"result": {"expire_at": -1}}), Ok(None)),
        (json!({"result": {"expire_at": 0}}), Ok(None)),
        (json!({"result": {"expire_at": i64::MAX}}), Ok(Some(u64::from(u32::MAX)))),
        (json!({"result": {"expire_at": now - 5}}), Err(110)),
        (json!({"result": {"expire_at": "soon"}}), Err(100)),
    ]
    .into_iter()
    .enumerate()
    {
        backend.set("/subscribe", answer.clone());
        let reply = session.ask("subscribe", json!({"channel": format!("c{n}")}));
        let found = match reply["subscribe"].as_object() {
            Some(result) => Ok(result.get("ttl").and_then(Value::as_u64)),
            None => Err(reply["error"]["code"].as_u64().unwrap_or(0)),
        };
        assert_eq!(found, expected, "{answer}");
    }
    session.no_push();
    gateway.stop();
}

#[test]
fn seconds_beyond_32_bits_are_kept_or_capped() {
    let gateway = Gateway::start(
        "[client]\nexpired_close_delay = \"0s\"\nexpired_sub_close_delay = \"1s\"\n\
         [channel.without_namespace]\nallow_subscribe_for_client = true\n",
    );
    let now = unix();
    let far = u64::from(u32::MAX);
    for at in [now + 5_000_000_000, 1_000_000_000_000_000, i64::MAX] {
        let ttl = u64::try_from(at - now).expect("to come").min(far);
        let near = |found: &Value| {
            let found = found["ttl"].as_u64().expect("a time");
            assert!(found <= ttl && found + 60 >= ttl, "{found} is not near {ttl}");
        };
        for claims in [json!({"exp": at}), json!({"expire_at": at})] {
            let claims = |more: Value| {
                let mut all = claims.as_object().expect("a map").clone();
                all.extend(more.as_object().expect("a map").clone());
                token(&Value::Object(all))
            };
            let mut session = gateway.session();
            near(&session.connect(&json!({"token": claims(json!({"sub": "42"}))})));
            let sub = claims(json!({"sub": "42", "channel": "a"}));
            near(&session.result("subscribe", json!({"channel": "a", "token": sub})));
            near(&session.result("sub_refresh", json!({"channel": "a", "token": sub})));
            near(&session.result("refresh", json!({"token": claims(json!({"sub": "42"}))})));
            gateway.api("refresh", json!({"user": "42", "expire_at": at}));
            near(&session.push()["refresh"]);
            gateway.api("subscribe", json!({"user": "42", "channel": "b", "expire_at": at}));
            assert!(session.push()["subscribe"].is_object());
            session.no_push();
        }
    }
    // What is over is no time to come.
    let mut session = gateway.session();
    session.connect(&json!({"token": token_of("43")}));
    gateway.api("refresh", json!({"user": "43", "expire_at": now - 100}));
    session.closed(3005);
    gateway.stop();
}
