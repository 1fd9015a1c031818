//! What lies behind an SDK's happy path: what happens while a backend thinks or a client connects,
//! channels that the client asks for or the application names oddly, information that changes.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::hooks::Backend;
use crate::support::gateway::{Gateway, Heard, PATH, token, token_of, unix};
use crate::support::stream::{Stream, escaped, request};

const ASKED: &str = "[channel.proxy.subscribe]\nendpoint = \"{}/subscribe\"\n\
    [channel.without_namespace]\nsubscribe_proxy_enabled = true\n";

const END: &str = "server unsubscribe";

#[test]
fn an_unsubscribe_of_the_server_wins_over_a_subscription_under_way() {
    let backend = Backend::start(&[("/subscribe", json!({"result": {}}))]);
    let gateway = backend.configures(ASKED);
    for (round, named) in ["a", ""].into_iter().enumerate() {
        let mut session = gateway.connected("42");
        let gate = backend.gate.lock().expect("no panic");
        let id = session.command("subscribe", &json!({"channel": "a"}));
        backend.wait_for("/subscribe", round + 1);
        gateway.api("unsubscribe", json!({"user": "42", "channel": named}));
        drop(gate);
        assert!(session.reply(id)["subscribe"].is_object());
        let end = json!({"channel": "a", "unsubscribe": {"code": 2000, "reason": END}});
        assert_eq!(session.push(), end);
        gateway.api("publish", json!({"channel": "a", "data": 1}));
        session.no_push();
    }
    // One that is refused leaves nothing behind.
    backend.set("/subscribe", json!({"error": {"code": 103, "message": "permission denied"}}));
    let mut session = gateway.connected("42");
    let gate = backend.gate.lock().expect("no panic");
    let id = session.command("subscribe", &json!({"channel": "a"}));
    backend.wait_for("/subscribe", 3);
    gateway.api("unsubscribe", json!({"user": "42", "channel": "a"}));
    // Nor is the channel anybody else's meanwhile.
    gateway.api("subscribe", json!({"user": "42", "channel": "a"}));
    drop(gate);
    assert_eq!(session.reply(id)["error"]["code"], json!(103));
    backend.set("/subscribe", json!({"result": {}}));
    session.subscribe("a");
    session.no_push();
    gateway.stop();
}

#[test]
fn what_the_server_does_to_a_connecting_client_follows_the_reply() {
    let gateway = Gateway::start("");
    let channels: Vec<String> = (0..60).map(|n| format!("c{n}")).collect();
    let connect = json!({"token": token(&json!({"sub": "42", "channels": channels}))});
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                gateway.api("unsubscribe", json!({"user": "42", "channel": "c7"}));
                gateway.api("subscribe", json!({"user": "42", "channel": "c8"}));
                gateway.api("refresh", json!({"user": "42", "expire_at": unix() + 600}));
                gateway.api("subscribe", json!({"user": "42", "channel": "c7"}));
            }
        });
        for _ in 0..60 {
            let mut session = gateway.session();
            session.command("connect", &connect);
            let heard = session.hear();
            let Some(Heard::Object(first)) = heard.first() else { panic!("{heard:?}") };
            let subs = first["connect"]["subs"].as_object();
            assert_eq!(subs.map(serde_json::Map::len), Some(60), "{first}");
        }
        done.store(true, Ordering::Relaxed);
    });
    gateway.stop();
}

#[test]
fn the_backend_knows_the_client_from_its_first_question() {
    let backend = Backend::start(&[("/connect", json!({"result": {"user": "42"}}))]);
    let gateway =
        backend.configures("[client.proxy.connect]\nenabled = true\nendpoint = \"{}/connect\"\n");
    let result = gateway.session().connect(&json!({}));
    assert_eq!(backend.wait_for("/connect", 1)[0]["client"], result["client"]);
    gateway.stop();
}

const OPEN: &str = "[uni_sse]\nenabled = true\n[uni_http_stream]\nenabled = true\n\
    [uni_websocket]\nenabled = true\n[client]\nallow_anonymous_connect_without_token = true\n\
    [[channel.namespaces]]\nname = \"open\"\nallow_subscribe_for_client = true\n\
    allow_subscribe_for_anonymous = true\nhistory_size = 10\nhistory_ttl = \"60s\"\n\
    force_recovery = true\nallow_user_limited_channels = true\n\
    [[channel.namespaces]]\nname = \"known\"\nallow_subscribe_for_client = true\n\
    [[channel.namespaces]]\nname = \"shut\"\n\
    [[channel.namespaces]]\nname = \"asked\"\nsubscribe_proxy_enabled = true\n\
    allow_subscribe_for_client = true\n\
    [channel.proxy.subscribe]\nendpoint = \"http://127.0.0.1:1\"\n";

#[test]
fn clients_get_the_channels_that_they_ask_for_and_may_have() {
    let gateway = Gateway::start(OPEN);
    let epoch = gateway.api("publish", json!({"channel": "open:1", "data": 1}))["epoch"].take();
    gateway.api("publish", json!({"channel": "open:1", "data": 2}));
    let asked = json!({"open:1": {"recover": true, "offset": 1, "epoch": epoch}, "known:1": {},
        "shut:1": {}, "asked:1": {}, "$open:1": {}, "open:#43": {}, "": {}, "open:é": {}});
    let one_way = |connect: &Value| {
        let target = format!("/connection/uni_sse?cf_connect={}", escaped(&connect.to_string()));
        let mut stream = Stream::open(gateway.address(), &request("GET", &target, &[], b""));
        stream.heard().expect("a push")
    };
    let push = one_way(&json!({"subs": asked}));
    let connect = &push["connect"];
    let subs = connect["subs"].as_object().expect("subscriptions");
    assert_eq!(subs.keys().collect::<Vec<_>>(), ["open:1"], "{push}");
    assert_eq!(subs["open:1"]["publications"], json!([{"data": 2, "offset": 2}]), "{push}");
    assert_eq!(connect["session"], connect["client"], "the server API knows it by this");
    let push = one_way(&json!({"subs": {"nope:1": {}}}));
    assert_eq!(push["disconnect"]["code"], json!(3501), "{push}");
    // Somebody may more, and the same holds for who sends commands.
    let mut session = gateway.session();
    let result = session.connect(&json!({"token": token_of("43"), "subs": asked}));
    let subs = result["subs"].as_object().expect("subscriptions");
    assert_eq!(subs.keys().collect::<Vec<_>>(), ["known:1", "open:#43", "open:1"], "{result}");
    // They are the connection's own, whatever its tokens say.
    session.result("refresh", json!({"token": token_of("43")}));
    gateway.stop();
}

#[test]
fn the_application_names_channels_as_it_likes() {
    let gateway = Gateway::start(
        "[client.subscribe_to_user_personal_channel]\nenabled = true\n\
         [channel.without_namespace]\npresence = true\nhistory_size = 10\nhistory_ttl = \"60s\"\n\
         allow_presence_for_subscriber = true\nallow_publish_for_subscriber = true\n",
    );
    let long = "x".repeat(300);
    let mut session = gateway.session();
    let claims = json!({"sub": "josé", "channels": [long, "größe", "größe", ""]});
    let result = session.connect(&json!({"token": token(&claims)}));
    let subs = result["subs"].as_object().expect("subscriptions");
    assert_eq!(subs.keys().collect::<Vec<_>>(), ["#josé", "größe", &long], "{result}");
    gateway.api("subscribe", json!({"user": "josé", "channel": "naïve"}));
    assert!(session.push()["subscribe"].is_object());
    for channel in ["#josé", "größe", &*long, "naïve"] {
        gateway.api("publish", json!({"channel": channel, "data": 1}));
        assert_eq!(session.publication(channel)["data"], json!(1));
        let history = gateway.api("history", json!({"channel": channel, "limit": 1}));
        assert_eq!(history["publications"][0]["data"], json!(1), "{history}");
        session.result("presence", json!({"channel": channel}));
        session.command("publish", &json!({"channel": channel, "data": 2}));
        assert_eq!(session.publication(channel)["data"], json!(2));
    }
    // What a client names is checked.
    for channel in ["über", &"y".repeat(256)] {
        session.fails("subscribe", json!({"channel": channel}), 107);
        session.fails("publish", json!({"channel": channel, "data": 1}), 107);
    }
    gateway.stop();
}

#[test]
fn a_channel_that_is_named_twice_is_one() {
    let backend = Backend::start(&[("/connect", json!({}))]);
    let gateway =
        backend.configures("[client.proxy.connect]\nenabled = true\nendpoint = \"{}/connect\"\n");
    let named = |result: Value| {
        let subs = result["subs"].as_object().cloned().unwrap_or_default();
        subs.keys().cloned().collect::<Vec<_>>().join(" ")
    };
    for (claims, expected) in [
        (json!({"channels": ["a", "a"]}), "a"),
        (json!({"channels": ["", "b"]}), "b"),
        (json!({"subs": {"a": null, "": {}}}), "a"),
    ] {
        let mut all = json!({"sub": "42"});
        all.as_object_mut().expect("a map").extend(claims.as_object().expect("a map").clone());
        let result = gateway.session().connect(&json!({"token": token(&all)}));
        assert_eq!(named(result), expected, "{claims}");
    }
    for (answer, expected) in [
        (json!({"channels": ["a", "a"]}), "a"),
        (json!({"channels": ["a", ""], "subs": {"a": {"data": 1}, "b": null}}), "a b"),
        (json!({"channels": null, "subs": null}), ""),
    ] {
        backend.set("/connect", json!({"result": answer}));
        let result = gateway.session().connect(&json!({}));
        if answer["subs"]["a"].is_object() {
            assert_eq!(result["subs"]["a"]["data"], json!(1), "what is said with it counts");
        }
        assert_eq!(named(result), expected, "{answer}");
    }
    gateway.stop();
}

#[test]
fn others_see_who_a_client_is_now() {
    let gateway = Gateway::start(
        "[channel.without_namespace]\npresence = true\nallow_publish_for_subscriber = true\n",
    );
    let exp = unix() + 600;
    let mut session = gateway.session();
    let who = |more: Value| {
        let mut claims = json!({"sub": "42", "exp": exp});
        claims.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
        json!({"token": token(&claims)})
    };
    session.connect(&who(json!({"info": {"n": "A"}, "meta": {"m": 1}})));
    let sub = |more: Value| {
        let mut request = who(more)["token"].take();
        request = json!({"channel": "x", "token": request});
        request
    };
    session.result("subscribe", sub(json!({"channel": "x", "info": {"role": 1}})));
    let seen = |session: &mut crate::support::gateway::Session| {
        session.command("publish", &json!({"channel": "x", "data": 1}));
        let info = session.publication("x")["info"].take();
        let present = gateway.api("presence", json!({"channel": "x"}));
        let present = present["presence"].as_object().expect("a map").values().next().cloned();
        assert_eq!(Some(&info), present.as_ref(), "presence says the same");
        (info["conn_info"].clone(), info["chan_info"].clone())
    };
    assert_eq!(seen(&mut session), (json!({"n": "A"}), json!({"role": 1})));
    session.result("refresh", who(json!({})));
    assert_eq!(seen(&mut session), (json!({"n": "A"}), json!({"role": 1})));
    session.result("refresh", who(json!({"info": {"n": "B"}})));
    session.result("sub_refresh", sub(json!({"channel": "x"})));
    assert_eq!(seen(&mut session), (json!({"n": "B"}), json!({"role": 1})));
    session.result("sub_refresh", sub(json!({"channel": "x", "info": {"role": 2}})));
    gateway.api("refresh", json!({"user": "42", "info": {"n": "C"}}));
    assert_eq!(session.push(), json!({"refresh": {}}));
    assert_eq!(seen(&mut session), (json!({"n": "C"}), json!({"role": 2})));
    gateway.stop();
}

#[test]
fn tokens_of_a_connection_answer_for_their_own_channels_only() {
    let gateway = Gateway::start("");
    let mut session = gateway.session();
    let with = |channels: Value| {
        let claims = json!({"sub": "42", "channels": channels});
        json!({"token": token(&claims)})
    };
    session.connect(&with(json!(["a"])));
    gateway.api("subscribe", json!({"user": "42", "channel": "b"}));
    assert!(session.push()["subscribe"].is_object());
    session.result("refresh", with(json!(["a", "a", ""])));
    session.command("refresh", &with(json!([])));
    session.closed(3010);
    gateway.stop();
}

#[test]
fn nobody_without_a_name_is_somebody_to_the_server_api() {
    let gateway = Gateway::start("[client]\nallow_anonymous_connect_without_token = true\n");
    let mut nobody = gateway.session();
    nobody.connect(&json!({}));
    let mut other = gateway.connected("42");
    gateway.api("subscribe", json!({"user": "", "channel": "x"}));
    assert!(nobody.push()["subscribe"].is_object());
    gateway.api("refresh", json!({"expire_at": unix() + 60}));
    assert!(nobody.push()["refresh"]["ttl"].is_u64());
    gateway.api("unsubscribe", json!({"user": "", "channel": "x"}));
    assert!(nobody.push()["unsubscribe"].is_object());
    gateway.api("disconnect", json!({}));
    nobody.closed(3503);
    other.no_push();
    gateway.stop();
}

#[test]
fn the_path_of_websockets_needs_an_upgrade() {
    let gateway = Gateway::start("");
    for (method, status) in [("GET", 400), ("POST", 405)] {
        let stream = Stream::open(gateway.address(), &request(method, PATH, &[], b""));
        assert_eq!(stream.status, status, "{method}");
    }
    gateway.stop();
}

#[test]
fn checks_that_are_off_take_no_bad_token() {
    let gateway = Gateway::start("[client]\ninsecure = true\n");
    let mut session = gateway.session();
    session.fails("connect", json!({"token": token(&json!({"sub": "1", "exp": 1}))}), 109);
    let mut session = gateway.session();
    session.command("connect", &json!({"token": "junk"}));
    session.closed(3500);
    gateway.stop();
}
