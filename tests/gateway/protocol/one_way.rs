//! One-way transports: the connect push first, bare pushes, pings that nobody answers, the
//! disconnect push last; and recovery by `Last-Event-ID`.

use serde_json::{Value, json};

use crate::support::PATIENCE;
use crate::support::gateway::{Gateway, Heard, objects, token, token_of};
use crate::support::stream::{Stream, escaped, request, send};
use crate::support::wire::{FIN, PING, PONG, TEXT};

const UNI_SSE: &str = "/connection/uni_sse";
const UNI_STREAM: &str = "/connection/uni_http_stream";
const UNI_WEBSOCKET: &str = "/connection/uni_websocket";

const TABLES: &str = "[uni_sse]\nenabled = true\n[uni_http_stream]\nenabled = true\n\
    [uni_websocket]\nenabled = true\n[[channel.namespaces]]\nname = \"news\"\n\
    history_size = 100\nhistory_ttl = \"300s\"\nforce_recovery = true\n\
    [[channel.namespaces]]\nname = \"plain\"\njoin_leave = true\nforce_push_join_leave = true\n";

fn start(more: &str) -> Gateway {
    Gateway::start(&format!("{TABLES}{more}"))
}

fn uni_sse(gateway: &Gateway, connect: &Value, last_id: &str) -> Stream {
    let target = format!("{UNI_SSE}?cf_connect={}", escaped(&connect.to_string()));
    let line = format!("Last-Event-ID: {last_id}");
    let lines = if last_id.is_empty() { vec![] } else { vec![line.as_str()] };
    let stream = Stream::open(gateway.address(), &request("GET", &target, &lines, b""));
    assert_eq!(stream.status, 200);
    stream
}

fn uni_stream(gateway: &Gateway, connect: &Value) -> Stream {
    let body = connect.to_string();
    let stream =
        Stream::open(gateway.address(), &request("POST", UNI_STREAM, &[], body.as_bytes()));
    assert_eq!(stream.status, 200);
    stream
}

fn user(channels: &[&str]) -> Value {
    json!({"token": token(&json!({"sub": "42", "channels": channels}))})
}

#[test]
fn pushes_are_bare_from_the_first_to_the_last() {
    let gateway = start("");
    for events in [true, false] {
        let mut stream = match events {
            true => uni_sse(&gateway, &user(&["plain:a"]), ""),
            false => uni_stream(&gateway, &user(&["plain:a"])),
        };
        let connect = stream.heard().expect("a connect push");
        let connect = connect["connect"].as_object().expect("first of all");
        assert!(connect["client"].is_string() && connect["subs"]["plain:a"].is_object());
        assert_eq!((&connect["ping"], connect.get("pong")), (&json!(25), None));
        let push = stream.heard().expect("its own join");
        assert_eq!(
            (&push["channel"], push["join"].is_object()),
            (&json!("plain:a"), true),
            "{push}"
        );
        gateway.api("publish", json!({"channel": "plain:a", "data": {"n": 1}}));
        let push = stream.heard().expect("a publication");
        assert_eq!(push, json!({"channel": "plain:a", "pub": {"data": {"n": 1}}}));
        gateway.api("subscribe", json!({"user": "42", "channel": "plain:b"}));
        let push = stream.heard().expect("a subscribe push");
        assert_eq!(push, json!({"channel": "plain:b", "subscribe": {}}));
        gateway.api("unsubscribe", json!({"user": "42", "channel": "plain:b"}));
        let mut push = stream.heard().expect("more");
        while push["unsubscribe"].is_null() {
            push = stream.heard().expect("an unsubscribe push");
        }
        assert_eq!(push["unsubscribe"]["code"], json!(2000), "{push}");
        gateway.api("disconnect", json!({"user": "42"}));
        let mut last = stream.heard().expect("more");
        while last["disconnect"].is_null() {
            last = stream.heard().expect("a disconnect push");
        }
        assert_eq!(last["disconnect"]["code"], json!(3503), "{last}");
        stream.expect_end();
    }
    gateway.stop();
}

#[test]
fn an_error_may_be_an_answer_of_http() {
    let gateway = start(
        "[uni_http_stream.connect_code_to_http_response]\nenabled = true\ntransforms = [\
         { code = 109, to = { status_code = 401, body = \"get a token\" } },\
         { code = 3500, to = { status_code = 403 } }]\n\
         [client]\nallowed_origins = [\"https://example.org\"]\n",
    );
    let answer = |connect: &Value| {
        let lines = ["Origin: https://example.org", "Connection: close"];
        let asked = request("POST", UNI_STREAM, &lines, connect.to_string().as_bytes());
        let mut answer = String::new();
        let mut stream = send(gateway.address(), &asked);
        std::io::Read::read_to_string(&mut stream, &mut answer).expect("an answer");
        answer
    };
    let expired = answer(&json!({"token": token(&json!({"sub": "42", "exp": 1000}))}));
    assert!(expired.starts_with("HTTP/1.1 401 "), "{expired}");
    assert!(expired.ends_with("\r\n\r\nget a token"), "{expired}");
    assert!(
        expired.contains("\r\nAccess-Control-Allow-Origin: https://example.org\r\n"),
        "{expired}"
    );
    let wrong = answer(&json!({"token": "x"}));
    assert!(wrong.starts_with("HTTP/1.1 403 ") && wrong.ends_with("invalid token"), "{wrong}");
    // Without a transform.
    let nobody = answer(&json!({}));
    assert!(nobody.starts_with("HTTP/1.1 500 "), "{nobody}");
    assert!(!nobody.contains("event-stream") && !nobody.contains("ndjson"), "{nobody}");
    // Who may connect has a stream.
    let mut stream = uni_stream(&gateway, &json!({"token": token_of("42")}));
    assert!(stream.heard().expect("a push")["connect"].is_object());
    gateway.stop();
}

#[test]
fn an_error_may_end_a_one_way_client_with_a_code_of_ones_own() {
    let gateway = start(
        "[client.connect_code_to_unidirectional_disconnect]\nenabled = true\ntransforms = [\
         { code = 109, to = { code = 4109, reason = \"token expired\" } },\
         { code = 109, to = { code = 4110 } }]\n",
    );
    let expired = json!({"token": token(&json!({"sub": "42", "exp": 1000}))});
    let mut stream = uni_stream(&gateway, &expired);
    let end = json!({"disconnect": {"code": 4109, "reason": "token expired", "reconnect": true}});
    assert_eq!(stream.heard(), Some(end));
    stream.expect_end();
    // Others hear of the error itself.
    let mut session = gateway.session();
    session.fails("connect", expired, 109);
    gateway.stop();
}

#[test]
fn connect_requests_come_in_several_ways() {
    let gateway = start("[client]\nallow_anonymous_connect_without_token = true\n");
    let connects = |bytes: Vec<u8>| {
        let mut stream = Stream::open(gateway.address(), &bytes);
        assert_eq!(stream.status, 200);
        assert!(stream.heard().expect("a push")["connect"].is_object());
    };
    connects(request("GET", UNI_SSE, &[], b""));
    connects(request("GET", &format!("{UNI_SSE}?cf_connect=null"), &[], b""));
    for path in [UNI_SSE, UNI_STREAM] {
        for body in ["{}", "", "null", "{\"name\":\"x\"}"] {
            connects(request("POST", path, &[], body.as_bytes()));
        }
    }
    for (method, path, body, status) in [
        ("GET", UNI_SSE, "", 200),
        ("POST", UNI_SSE, "[]", 400),
        ("POST", UNI_STREAM, "{\"id\":", 400),
        ("GET", UNI_STREAM, "", 405),
        ("PUT", UNI_SSE, "", 405),
        ("OPTIONS", UNI_SSE, "", 204),
        ("OPTIONS", UNI_STREAM, "", 204),
    ] {
        let bytes = request(method, path, &[], body.as_bytes());
        assert_eq!(
            Stream::open(gateway.address(), &bytes).status,
            status,
            "{method} {path} {body}"
        );
    }
    let bytes = request("GET", &format!("{UNI_SSE}?cf_connect=%7B"), &[], b"");
    assert_eq!(Stream::open(gateway.address(), &bytes).status, 400);
    let bytes = request("POST", UNI_STREAM, &[], &vec![b' '; 65_537]);
    assert_eq!(Stream::open(gateway.address(), &bytes).status, 413);
    let bytes = request("GET", UNI_SSE, &["Origin: https://evil.test"], b"");
    assert_eq!(Stream::open(gateway.address(), &bytes).status, 403);
    gateway.stop();

    let none = Gateway::start("");
    for path in [UNI_SSE, UNI_STREAM] {
        assert_eq!(Stream::open(none.address(), &request("POST", path, &[], b"{}")).status, 404);
    }
    assert_eq!(none.upgrade(UNI_WEBSOCKET, &[]).0, 404);
    none.stop();
}

#[test]
fn errors_become_disconnects() {
    let gateway = start("");
    let expired = token(&json!({"sub": "42", "exp": 1000}));
    let unknown = token(&json!({"sub": "42", "channels": ["unknown:a"]}));
    for (connect, code) in [
        (json!({"token": expired}), 3005),
        (json!({"token": unknown}), 3004),
        (json!({"token": "nonsense"}), 3500),
        (json!({}), 3501),
    ] {
        for mut stream in [uni_sse(&gateway, &connect, ""), uni_stream(&gateway, &connect)] {
            let last = stream.heard().expect("last words");
            assert_eq!(last["disconnect"]["code"], json!(code), "{connect}: {last}");
            stream.expect_end();
        }
    }
    gateway.stop();
}

#[test]
fn pings_come_and_nobody_answers() {
    let gateway = start("[client]\nping_interval = \"1s\"\npong_timeout = \"500ms\"\n");
    let mut events = uni_sse(&gateway, &user(&[]), "");
    let mut lines = uni_stream(&gateway, &user(&[]));
    assert!(events.event().is_some_and(|push| push["connect"].is_object()));
    assert!(lines.line().is_some_and(|push| push["connect"].is_object()));
    for _ in 0..4 {
        assert_eq!((events.event(), lines.line()), (Some(json!({})), Some(json!({}))));
    }
    gateway.stop();
    for mut stream in [events, lines] {
        let last = stream.heard().expect("last words");
        assert_eq!(last["disconnect"]["code"], json!(3001), "{last}");
        stream.expect_end();
    }
}

#[test]
fn a_one_way_websocket() {
    let gateway = start("[client]\nping_interval = \"8s\"\npong_timeout = \"7s\"\n");
    let claims = |user: &str| json!({"sub": user, "channels": [format!("plain:{user}")]});
    let connects = |user: &str| json!({"token": token(&claims(user))}).to_string();
    let talks = |user: &str, by_query: bool| {
        let (connect, channel) = (connects(user), format!("plain:{user}"));
        let mut session = match by_query {
            true => {
                let target = format!("{UNI_WEBSOCKET}?cf_connect={}", escaped(&connect));
                gateway.session_at(&target, &[])
            }
            false => gateway.session_at(UNI_WEBSOCKET, &[]),
        };
        if !by_query {
            session.say(&connect);
        }
        let heard = session.hear();
        let [Heard::Object(push)] = &heard[..] else { panic!("{heard:?}") };
        assert!(push["connect"]["subs"][&channel].is_object(), "{push}");
        // Whatever it says now, nobody listens.
        session.say(&json!({"id": 2, "publish": {"channel": channel, "data": 1}}).to_string());
        session.say("nonsense");
        gateway.api("publish", json!({"channel": channel, "data": 1}));
        let (mut published, mut pings, mut frames) = (0, 0, 0);
        while published < 1 || pings < 2 || frames < 2 {
            match session.client().read_frame() {
                (first, payload) if first == FIN | PING => {
                    session.client().send_frame(FIN | PONG, &payload);
                    frames += 1;
                }
                (first, payload) => {
                    let text = String::from_utf8_lossy(&payload).into_owned();
                    assert_eq!(first, FIN | TEXT, "{text}");
                    let object = objects(&text).remove(0);
                    pings += u32::from(object == json!({}));
                    published += u32::from(object["pub"]["data"] == json!(1));
                }
            }
        }
        assert_eq!(published, 1);
        gateway.api("disconnect", json!({"user": user}));
        // The push, and the close frame with the same.
        let mut told = false;
        loop {
            match session.hear().remove(0) {
                Heard::Object(push) => told |= push["disconnect"]["code"] == json!(3503),
                Heard::Ping(_) => {}
                Heard::Close(code, reason) => {
                    assert_eq!((code, reason.as_str(), told), (3503, "force disconnect", true));
                    break;
                }
            }
        }
    };
    // Who never answers is found.
    let silent = || {
        let mut silent = gateway.session_at(UNI_WEBSOCKET, &[]);
        silent.say(&connects("44"));
        silent.closed(3012);
    };
    std::thread::scope(|scope| {
        scope.spawn(silent);
        scope.spawn(|| talks("42", true));
        scope.spawn(|| talks("43", false));
    });
    let mut bad = gateway.session_at(UNI_WEBSOCKET, &[]);
    bad.say("nonsense");
    let heard = bad.hear();
    let [Heard::Object(push)] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!(push["disconnect"]["code"], json!(3501));
    bad.closed(3501);
    let target = format!("{UNI_WEBSOCKET}?cf_connect=nonsense");
    assert_eq!(gateway.upgrade(&target, &[]).0, 400);
    gateway.stop();
}

#[test]
fn a_browser_brings_back_where_it_was() {
    let gateway = start("");
    let both = user(&["news:a", "news:b", "plain:c"]);
    let publish = |channel: &str, n: u32| {
        gateway.api("publish", json!({"channel": channel, "data": n}));
    };
    let mut stream = uni_sse(&gateway, &both, "");
    let connect = stream.heard().expect("a connect push");
    assert_eq!(connect["connect"]["subs"].as_object().map(|subs| subs.len()), Some(3), "{connect}");
    let begun = stream.last_id.clone();
    assert_eq!(begun.split(',').count(), 2, "{begun}");
    assert!(stream.heard().is_some_and(|push| push["join"].is_object()));
    for (channel, n) in [("news:a", 1), ("plain:c", 2), ("news:b", 3), ("news:a", 4)] {
        publish(channel, n);
        let push = stream.heard().expect("a publication");
        assert_eq!((&push["channel"], &push["pub"]["data"]), (&json!(channel), &json!(n)));
    }
    let seen = stream.last_id.clone();
    assert_ne!(seen, begun);
    drop(stream);
    for (channel, n) in [("news:a", 5), ("news:b", 6), ("plain:c", 7), ("news:b", 8)] {
        publish(channel, n);
    }
    let missed = |id: &str| {
        let mut stream = uni_sse(&gateway, &both, id);
        let mut connect = stream.heard().expect("a connect push");
        let subs = connect["connect"]["subs"].take();
        let of = |channel: &str| {
            let sub = &subs[channel];
            let list = sub["publications"].as_array().cloned().unwrap_or_default();
            let numbers: Vec<_> = list.iter().map(|one| one["data"].as_u64().unwrap()).collect();
            let recovered = sub["recovered"] == json!(true);
            (sub["was_recovering"] == json!(true), recovered, numbers)
        };
        (of("news:a"), of("news:b"), of("plain:c").0, stream.last_id)
    };
    let (a, b, plain, now) = missed(&seen);
    assert_eq!((a, b), ((true, true, vec![5]), (true, true, vec![6, 8])));
    assert!(!plain);
    // Nothing was missed since; and from the beginning, everything.
    let (a, b, ..) = missed(&now);
    assert_eq!((a, b), ((true, true, vec![]), (true, true, vec![])));
    let (a, b, ..) = missed(&begun);
    assert_eq!((a, b), ((true, true, vec![1, 4, 5]), (true, true, vec![3, 6, 8])));
    // Without an id nothing is recovered, with one of another life it is said so.
    let (a, b, ..) = missed("");
    assert_eq!((a, b), ((false, false, vec![]), (false, false, vec![])));
    let other: Vec<_> = now.split(',').map(|entry| format!("{}zzzz.1", &entry[..8])).collect();
    let (a, b, ..) = missed(&other.join(","));
    assert_eq!((a, b), ((true, false, vec![]), (true, false, vec![])));
    let (a, b, ..) = missed("nonsense");
    assert_eq!((a.0, b.0), (false, false));
    gateway.stop();
}

/// A reader that is cut anywhere and comes back with its last id gets everything once.
#[test]
fn nothing_is_lost_or_doubled_over_many_cuts() {
    let gateway = start("[websocket]\nwrite_timeout = \"600s\"\n");
    let connect = user(&["news:a", "news:b"]);
    let total = 60;
    let mut got = std::collections::BTreeMap::<String, Vec<u64>>::new();
    let mut id = String::new();
    let mut published = 0;
    let begun = std::time::Instant::now();
    while got.values().map(Vec::len).sum::<usize>() < total {
        assert!(begun.elapsed() < 4 * PATIENCE, "{got:?}");
        let mut stream = uni_sse(&gateway, &connect, &id);
        let push = stream.heard().expect("a connect push");
        for (channel, sub) in push["connect"]["subs"].as_object().expect("subscriptions") {
            for one in sub["publications"].as_array().into_iter().flatten() {
                got.entry(channel.clone()).or_default().push(one["data"]["n"].as_u64().unwrap());
            }
        }
        // Of some it reads a few, and leaves the rest.
        let pad = "x".repeat(published * 100);
        for n in published..total.min(published + 5) {
            let channel = if n % 3 == 0 { "news:a" } else { "news:b" };
            gateway.api("publish", json!({"channel": channel, "data": {"n": n, "pad": pad}}));
        }
        let new = total.min(published + 5) - published;
        published += new;
        for _ in 0..new * 2 / 3 {
            let push = stream.heard().expect("a publication");
            let channel = push["channel"].as_str().expect("a name").to_owned();
            got.entry(channel).or_default().push(push["pub"]["data"]["n"].as_u64().unwrap());
        }
        id = stream.last_id.clone();
    }
    let of =
        |rest: &dyn Fn(u64) -> bool| (0..total as u64).filter(|n| rest(*n)).collect::<Vec<_>>();
    assert_eq!(got["news:a"], of(&|n| n % 3 == 0));
    assert_eq!(got["news:b"], of(&|n| n % 3 != 0));
    gateway.stop();
}

#[test]
fn a_user_is_known_by_its_token() {
    let gateway = start("");
    let mut stream = uni_sse(&gateway, &json!({"token": token_of("42")}), "");
    assert!(stream.heard().is_some_and(|push| push["connect"].is_object()));
    assert!(stream.last_id.is_empty(), "no channel, no id");
    gateway.api("subscribe", json!({"user": "42", "channel": "news:a"}));
    assert!(stream.heard().is_some_and(|push| push["subscribe"].is_object()));
    gateway.api("publish", json!({"channel": "news:a", "data": 1}));
    assert!(stream.heard().is_some_and(|push| push["pub"]["data"] == json!(1)));
    assert!(!stream.last_id.is_empty());
    gateway.stop();
}
