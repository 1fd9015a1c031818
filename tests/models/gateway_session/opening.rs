//! The connect command: its bounds, what its reply says, and what else is in it.

use ringhold::gateway::hooks::{ConnectReply, HookRefusal, HookReply, SubscribeSettings};
use ringhold::gateway::wire::Error;
use serde_json::{Value, json};

use super::site::{PATH, Peer, Site, token};

const OPEN: &str = "[channel.without_namespace]\nallow_subscribe_for_client = true\n";

const ASKED: &str =
    "[client.proxy.connect]\nenabled = true\nendpoint = \"http://backend/connect\"\n";

/// Connects as user 42 with a request that says more.
fn with(more: Value) -> Value {
    let mut request = more;
    request["token"] = json!(token(&json!({"sub": "42"})));
    request
}

/// How a connect command ends: well, or with this code.
fn outcome(site: &mut Site, request: Value) -> Result<Value, u16> {
    let mut peer = site.session();
    let number = peer.command(site, "connect", request);
    match peer.reply(number) {
        Some(reply) => Ok(reply),
        None => Err(peer.ended().expect("an end or a reply")),
    }
}

#[test]
fn names_and_versions_have_so_many_bytes() {
    let mut site = Site::new("");
    for (name, bytes, fits) in
        [("name", 16, true), ("name", 17, false), ("version", 64, true), ("version", 65, false)]
    {
        let mut request = with(json!({}));
        request[name] = json!("x".repeat(bytes));
        let outcome = outcome(&mut site, request);
        assert_eq!(outcome.err(), (!fits).then_some(3501), "{name} {bytes}");
    }
}

#[test]
fn a_client_asks_for_so_many_channels() {
    let mut site = Site::new(&format!("[client]\nchannel_limit = 2\n{OPEN}"));
    let subs = |names: &[&str]| {
        let subs = names.iter().map(|name| ((*name).to_owned(), json!({})));
        with(json!({"subs": subs.collect::<serde_json::Map<_, _>>()}))
    };
    let reply = outcome(&mut site, subs(&["a", "b"])).expect("two are allowed");
    let granted = reply["connect"]["subs"].as_object().expect("subscriptions");
    assert_eq!(granted.keys().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(outcome(&mut site, subs(&["a", "b", "c"])), Err(3505));
    assert_eq!(outcome(&mut site, subs(&["nowhere:a"])), Err(3501), "there is no such namespace");
    // One without a name is none; one that needs a token is not granted.
    let reply = outcome(&mut site, subs(&["", "$a"])).expect("nothing is granted");
    assert!(reply["connect"].get("subs").is_none(), "{reply}");
    // What the token grants comes first, and counts.
    let claims = json!({"sub": "42", "subs": {"a": {"data": {"d": 1}}, "b": {}}});
    let request = json!({"token": token(&claims), "subs": {"a": {}}});
    let reply = outcome(&mut site, request).expect("two");
    assert_eq!(reply["connect"]["subs"]["a"]["data"], json!({"d": 1}));
    let request = json!({"token": token(&claims), "subs": {"c": {}}});
    assert_eq!(outcome(&mut site, request), Err(3505));
}

#[test]
fn the_reply_says_when_pings_come_and_whether_pongs_are_expected() {
    for (tables, target, ping, pong) in [
        ("ping_interval = \"10s\"", PATH, json!(10), json!(true)),
        ("ping_interval = \"1500ms\"\npong_timeout = \"1s\"", PATH, json!(2), json!(true)),
        ("ping_interval = \"10s\"\npong_timeout = \"0s\"", PATH, json!(10), Value::Null),
        ("ping_interval = \"0s\"", PATH, Value::Null, Value::Null),
        ("ping_interval = \"10s\"", NATIVE, Value::Null, Value::Null),
    ] {
        let mut site = Site::new(&format!("[client]\n{tables}\n"));
        let mut peer = site.open(0, target, &[]);
        let result = peer.connect(&mut site, with(json!({})));
        assert_eq!((&result["ping"], &result["pong"]), (&ping, &pong), "{tables} {target}");
        assert!(result.get("time").is_none() && result.get("session").is_none(), "{result}");
    }
    let mut site = Site::new("[client]\nconnect_include_server_time = true\n");
    let time = site.now() * 1000;
    let mut peer = site.session();
    assert_eq!(peer.connect(&mut site, with(json!({})))["time"], json!(time));
}

const NATIVE: &str = "/connection/websocket?cf_ws_frame_ping_pong=true";

#[test]
fn who_does_not_connect_is_stale_after_the_delay_and_not_before() {
    let mut site = Site::new("[client]\nstale_close_delay = \"7s\"\n");
    let mut stale = site.session();
    let mut peer = site.connected("42");
    site.advance(std::time::Duration::from_millis(6_980));
    assert_eq!(stale.ended(), None);
    site.advance(std::time::Duration::from_millis(40));
    assert_eq!((stale.ended(), peer.ended()), (Some(3502), None));
}

#[test]
fn a_connection_that_nobody_vouches_for_is_nobodys_where_that_is_allowed() {
    let anonymous = json!({"token": token(&json!({"sub": ""}))});
    for (tables, without, nameless) in [
        ("", Err(3501), None),
        ("allow_anonymous_connect_without_token = true", Ok(()), None),
        ("disallow_anonymous_connection_tokens = true", Err(3501), Some(3507)),
        ("disallow_anonymous_connection_tokens = true\ninsecure = true", Ok(()), None),
        ("insecure = true", Ok(()), None),
    ] {
        let mut site = Site::new(&format!("[client]\n{tables}\n"));
        assert_eq!(outcome(&mut site, json!({})).map(drop), without, "{tables}");
        assert_eq!(outcome(&mut site, anonymous.clone()).err(), nameless, "{tables}");
        assert_eq!(site.stats().counters.tokens_refused, u64::from(nameless.is_some()));
    }
}

#[test]
fn without_checks_nothing_expires() {
    let mut site = Site::new("[client]\ninsecure = true\n");
    let claims = json!({"sub": "42", "exp": site.now() + 10});
    let reply = outcome(&mut site, json!({"token": token(&claims)})).expect("in");
    assert!(reply["connect"].get("expires").is_none(), "{reply}");
}

#[test]
fn the_backend_hears_what_the_client_says_and_says_who_it_is() {
    let mut site = Site::new(&format!("{ASKED}{OPEN}"));
    let mut peer = site.session();
    let request =
        json!({"name": "js", "version": "1", "data": {"d": 1}, "subs": {"a": {}, "b": {}}});
    let number = peer.command(&mut site, "connect", request);
    // A second command before the reply waits for it.
    peer.say(&[json!({"id": 77, "subscribe": {"channel": "c"}})]);
    site.run();
    let asked = site.asked();
    let event = format!("{:?}", asked.request.event);
    for word in ["\"js\"", "\"1\"", "[\"a\", \"b\"]", "{\\\"d\\\":1}"] {
        assert!(event.contains(word), "{event} has {word}");
    }
    assert!(peer.reply(77).is_none());
    let settings = SubscribeSettings { data: "{\"s\":1}".into(), ..SubscribeSettings::default() };
    let reply = ConnectReply {
        user: "7".to_owned(),
        data: "{\"hello\":1}".into(),
        channels: vec!["x".to_owned(), "y".to_owned(), "".to_owned()],
        subs: [("y".to_owned(), settings)].into(),
        ..ConnectReply::default()
    };
    site.answer(asked, HookReply::Connect(Some(reply)));
    let result = peer.reply(number).expect("a reply")["connect"].clone();
    assert_eq!(result["data"], json!({"hello": 1}));
    let subs = result["subs"].as_object().expect("subscriptions");
    // Of the backend only: it was told what the client asked for.
    assert_eq!(subs.keys().collect::<Vec<_>>(), ["x", "y"]);
    assert_eq!(subs["y"]["data"], json!({"s": 1}), "what is said last holds");
    assert!(peer.reply(77).expect("it was done").get("subscribe").is_some());
    peer.leave(&mut site);
    site.empty();
}

#[test]
fn a_refused_connect_command_is_the_last_command() {
    let mut site = Site::new(ASKED);
    let refuse = |site: &mut Site, peer: &mut Peer| {
        let number = peer.command(site, "connect", json!({}));
        let asked = site.asked();
        let error = Error::new(1000, "no", false);
        site.conclude(asked, Err(HookRefusal::Error(error)));
        assert_eq!(peer.reply(number).expect("a reply")["error"]["code"], json!(1000));
    };
    let mut peer = site.session();
    refuse(&mut site, &mut peer);
    assert_eq!(site.stats().counters.session_bytes, 0, "what was kept for it is gone");
    peer.command(&mut site, "connect", json!({}));
    assert_eq!(peer.ended(), Some(3501));
    // Nobody is told what it is, and nobody waits.
    let mut peer = site.session();
    refuse(&mut site, &mut peer);
    peer.command(&mut site, "subscribe", json!({"channel": "a"}));
    assert_eq!(peer.ended(), Some(3501));
    site.empty();
}

#[test]
fn sessions_take_so_much_memory_together() {
    let mut site = Site::new("[client]\nmax_session_memory = \"16KiB\"\n");
    let info = "x".repeat(3000);
    let claims = json!({"sub": "42", "info": info});
    let mut peers = Vec::new();
    let refused = loop {
        let mut peer = site.session();
        let number = peer.command(&mut site, "connect", json!({"token": token(&claims)}));
        if peer.reply(number).is_none() {
            break peer.ended();
        }
        peers.push(peer);
        assert!(peers.len() < 10);
    };
    assert_eq!((refused, peers.len()), (Some(3013), 5));
    assert!(site.stats().counters.session_memory_refused >= 1);
    let held = site.stats().counters.session_bytes;
    assert!((15_000..20_000).contains(&held), "{held}");
    // Nobody is refused where there is no limit.
    let mut free = Site::new("[client]\nmax_session_memory = \"0\"\n");
    assert!(outcome(&mut free, json!({"token": token(&claims)})).is_ok());
    assert_eq!(free.stats().counters.session_memory_refused, 0);
    // Who goes makes room.
    peers.pop().expect("one").leave(&mut site);
    let reply = outcome(&mut site, json!({"token": token(&claims)}));
    assert!(reply.is_ok(), "{reply:?}");
}

#[test]
fn where_the_backend_has_no_room_clients_come_back_later() {
    use std::sync::atomic::Ordering;

    let calls = "[rpc.proxy]\nendpoint = \"http://backend/rpc\"\n\
        [rpc.without_namespace]\nproxy_enabled = true\n";
    let mut site = Site::new(&format!("{ASKED}{calls}"));
    site.backend.full.store(true, Ordering::Relaxed);
    assert_eq!(outcome(&mut site, json!({})), Err(3004));
    let mut peer = site.connected("42");
    let reply = peer.ask(&mut site, "rpc", json!({"method": "m"}));
    assert_eq!(reply["error"]["code"], json!(100), "{reply}");
    site.backend.full.store(false, Ordering::Relaxed);
    let number = peer.command(&mut site, "rpc", json!({"method": "m"}));
    assert!(peer.reply(number).is_none() && site.try_asked().is_some());
}
