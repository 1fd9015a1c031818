//! What clients are told of themselves and of each other, and by whom the server lets them be
//! replaced.

use std::time::Duration;

use ringhold::gateway::hooks::{
    ConnectReply, HookReply, PublishReply, RpcReply, SubscribeReply, SubscribeSettings,
};
use ringhold::gateway::letters::{Action, Answer, Publish, Question, ServerSubscribe};
use ringhold::gateway::stream::{Position, StreamOptions};
use serde_json::{Value, json};

use super::site::{PATH, Peer, Site, token};

/// Everything is allowed, and the last ten publications are kept.
const OPEN: &str = "[channel.without_namespace]\nhistory_size = 10\nhistory_ttl = \"1h\"\n\
    allow_subscribe_for_client = true\nallow_publish_for_client = true\n\
    allow_history_for_client = true\nallow_presence_for_client = true\n\
    allowed_delta_types = [\"fossil\"]\n";

/// All questions go to the backend.
const ASKED: &str = "[client.proxy.connect]\nenabled = true\n\
    endpoint = \"http://backend/connect\"\n\
    [rpc.proxy]\nendpoint = \"http://backend/rpc\"\n\
    [rpc.without_namespace]\nproxy_enabled = true\n\
    [channel.proxy.publish]\nendpoint = \"http://backend/publish\"\n\
    [channel.proxy.subscribe]\nendpoint = \"http://backend/subscribe\"\n\
    [[channel.namespaces]]\nname = \"asked\"\nsubscribe_proxy_enabled = true\n\
    publish_proxy_enabled = true\nallow_subscribe_for_client = true\n\
    allowed_delta_types = [\"fossil\"]\n";

/// What the configuration says of the history.
const KEPT: StreamOptions = StreamOptions {
    size: 10,
    ttl: Duration::from_secs(3600),
    meta_ttl: Duration::from_secs(30 * 24 * 3600),
};

/// The server publishes in channel "a", which has a history.
fn keep(site: &mut Site, n: u32) {
    let data = n.to_string().into();
    let publish = Publish { data, stream: Some(KEPT), ..Publish::default() };
    site.question("a", Question::Publish(publish)).expect("published");
}

#[test]
fn a_client_is_told_the_server_and_a_one_way_client_its_session() {
    let mut site = Site::new("[uni_websocket]\nenabled = true\n");
    let request = json!({"token": token(&json!({"sub": "42"}))});
    let version = concat!("ringhold ", env!("CARGO_PKG_VERSION"));
    let mut peer = site.session();
    let result = peer.connect(&mut site, request.clone());
    assert_eq!(result["version"], json!(version));
    assert!(result.get("session").is_none() && result.get("node").is_none(), "{result}");
    let mut peer = site.open(0, "/connection/uni_websocket", &[]);
    peer.say(&[request]);
    site.run();
    let heard = peer.heard();
    let [push] = &heard[..] else { panic!("one push, not {heard:?}") };
    let told = &push["connect"];
    assert_eq!((&told["version"], &told["session"]), (&json!(version), &told["client"]));
    assert!(told["client"].as_str().is_some_and(|it| it.len() == 36));
    assert!(told.get("node").is_none() && told.get("pong").is_none(), "{told}");
    assert_eq!(site.stats().counters.connects, 2);
}

#[test]
fn seats_are_counted_of_those_who_have_a_name() {
    let limited = "[client]\nuser_connection_limit = 1\n\
        allow_anonymous_connect_without_token = true\n";
    let mut site = Site::new(limited);
    let _anonymous = [site.connected(""), site.connected("")];
    let mut first = site.connected("42");
    let mut second = site.session();
    second.command(&mut site, "connect", json!({"token": token(&json!({"sub": "42"}))}));
    assert_eq!((first.ended(), second.ended()), (None, Some(3504)));
    // Where the newest counts, it takes the place of the others.
    let personal = "[client]\nallow_anonymous_connect_without_token = true\n\
        [channel]\nnamespaces = [{name = \"me\", presence = true}]\n\
        [client.subscribe_to_user_personal_channel]\nenabled = true\n\
        personal_channel_namespace = \"me\"\n";
    for (single, ended) in [("", false), ("single_connection = true\n", true)] {
        let mut site = Site::new(&format!("{personal}{single}"));
        let mut anonymous = site.connected("");
        site.connected("");
        let mut first = site.connected("42");
        let mut second = site.connected("42");
        assert_eq!((first.ended().is_some(), second.ended()), (ended, None), "{single}");
        assert_eq!(anonymous.ended(), None);
    }
}

#[test]
fn others_see_who_has_published() {
    let mut site = Site::new(OPEN);
    let mut peer = site.session();
    let claims = json!({"sub": "42", "info": {"n": 1}});
    let result = peer.connect(&mut site, json!({"token": token(&claims)}));
    peer.subscribe(&mut site, "a");
    peer.result(&mut site, "publish", json!({"channel": "a", "data": {"x": 1}}));
    let info = &peer.push()["pub"]["info"];
    assert_eq!(*info, json!({"user": "42", "client": result["client"], "conn_info": {"n": 1}}));
}

#[test]
fn others_see_what_a_token_says_of_a_subscriber() {
    let mut site = Site::new(OPEN);
    let mut peer = site.connected("42");
    let claims = json!({"sub": "42", "channel": "$a", "info": {"s": 1}});
    let request = json!({"channel": "$a", "token": token(&claims)});
    peer.result(&mut site, "subscribe", request);
    peer.result(&mut site, "publish", json!({"channel": "$a", "data": 1}));
    assert_eq!(peer.push()["pub"]["info"]["chan_info"], json!({"s": 1}));
}

/// Whether the next publication is a patch of the one before.
fn is_patch(peer: &mut Peer) -> bool {
    peer.push()["pub"]["delta"] == json!(true)
}

#[test]
fn patches_are_made_where_the_namespace_or_the_backend_wants_them() {
    let long = |n: u32| json!({"text": "x".repeat(300), "n": n});
    for (option, wanted) in [(false, false), (false, true), (true, false)] {
        let patched = option || wanted;
        let mut site = Site::new(&format!("{ASKED}delta_publish = {option}\n"));
        let mut peer = site.connected("42");
        let request = json!({"channel": "asked:a", "delta": "fossil"});
        let number = peer.command(&mut site, "subscribe", request);
        let asked = site.asked();
        site.answer(asked, HookReply::Subscribe(SubscribeReply::default()));
        assert!(peer.reply(number).expect("a reply")["subscribe"].is_object());
        for n in 0..2 {
            let request = json!({"channel": "asked:a", "data": long(n)});
            let number = peer.command(&mut site, "publish", request);
            let asked = site.asked();
            let reply = PublishReply { delta: wanted, ..PublishReply::default() };
            site.answer(asked, HookReply::Publish(reply));
            assert!(peer.reply(number).expect("a reply").get("publish").is_some());
            assert_eq!(is_patch(&mut peer), n > 0 && patched);
        }
    }
}

#[test]
fn json_clients_are_told_nothing_else() {
    let no_json = || "no json".into();
    let mut site = Site::new(&format!("{ASKED}{OPEN}"));
    let ends = |site: &mut Site, peer: &mut Peer, reply: HookReply| {
        let asked = site.asked();
        site.answer(asked, reply);
        peer.ended()
    };
    let named = |data: &'static str| {
        let settings = SubscribeSettings { data: data.into(), ..SubscribeSettings::default() };
        [("x".to_owned(), settings)].into()
    };
    for (reply, end) in [
        (ConnectReply { data: no_json(), ..ConnectReply::default() }, Some(3506)),
        (ConnectReply { subs: named("no json"), ..ConnectReply::default() }, Some(3506)),
        (ConnectReply { subs: named("{}"), data: "1".into(), ..Default::default() }, None),
    ] {
        let mut peer = site.session();
        peer.command(&mut site, "connect", json!({}));
        let what = format!("{reply:?}");
        let reply = HookReply::Connect(Some(reply));
        assert_eq!(ends(&mut site, &mut peer, reply), end, "{what}");
    }
    for (data, end) in [("no json", Some(3506)), ("{}", None)] {
        let mut peer = site.connected("42");
        peer.command(&mut site, "rpc", json!({"method": "m"}));
        let reply = HookReply::Rpc(RpcReply { data: data.into() });
        assert_eq!(ends(&mut site, &mut peer, reply), end);
        let mut peer = site.connected("42");
        peer.command(&mut site, "subscribe", json!({"channel": "asked:a"}));
        let reply = SubscribeReply { data: data.into(), ..SubscribeReply::default() };
        assert_eq!(ends(&mut site, &mut peer, HookReply::Subscribe(reply)), end);
        let mut peer = site.connected("43");
        let channel = "b".to_owned();
        let wanted = ServerSubscribe { channel, data: data.into(), ..Default::default() };
        site.order("43", Action::Subscribe(Box::new(wanted)));
        assert_eq!(peer.ended(), end);
    }
}

#[test]
fn what_the_server_subscribes_to_begins_where_it_says() {
    let mut site = Site::new(&format!("{OPEN}force_recovery = true\n"));
    (1..4).for_each(|n| keep(&mut site, n));
    let read = Default::default();
    let history = site.question("a", Question::History { stream: KEPT, read }).expect("a history");
    let Answer::History(history) = history else { panic!("{history:?}") };
    let recovery = |epoch: &str| {
        let since = Some(Position { offset: 1, epoch: epoch.to_owned() });
        let channel = "a".to_owned();
        ServerSubscribe { channel, recover_since: since, ..Default::default() }
    };
    for (user, epoch, missed) in [("1", &*history.epoch, vec![2, 3]), ("2", "other", vec![])] {
        let mut peer = site.connected(user);
        site.order(user, Action::Subscribe(Box::new(recovery(epoch))));
        let mut pushes = peer.pushes().into_iter();
        let begun = pushes.next().expect("it begins");
        // What follows it counts from here.
        let offset = json!(3 - missed.len());
        assert_eq!((&begun["channel"], &begun["subscribe"]["offset"]), (&json!("a"), &offset));
        let told: Vec<u64> = pushes.filter_map(|it| it["pub"]["offset"].as_u64()).collect();
        assert_eq!(told, missed, "{epoch}");
        // Afterwards the channel is named once in each push.
        site.publish("b", "1");
        assert!(peer.pushes().is_empty());
    }
}

#[test]
fn an_unsubscribe_waits_for_its_subscribe() {
    let mut site = Site::with_cores(2, &format!("[client]\nconcurrency = 8\n{ASKED}{OPEN}"));
    let there = site.channel_of(1, 0);
    let both = |channel: &str| {
        [
            json!({"id": 11, "subscribe": {"channel": channel}}),
            json!({"id": 12, "unsubscribe": {"channel": channel}}),
        ]
    };
    let mut peer = site.open(0, PATH, &[]);
    peer.connect(&mut site, json!({"token": token(&json!({"sub": "42"}))}));
    let numbers = |peer: &mut Peer| -> Vec<Value> {
        peer.heard().iter().map(|it| it["id"].clone()).collect()
    };
    peer.say(&both(&there));
    site.run();
    assert_eq!(numbers(&mut peer), [11, 12]);
    assert_eq!(site.stats().counters.subscriptions, 0);
    // As long as the backend thinks.
    peer.say(&both("asked:a"));
    site.run();
    assert!(numbers(&mut peer).is_empty());
    let asked = site.asked();
    site.answer(asked, HookReply::Subscribe(SubscribeReply::default()));
    assert_eq!(numbers(&mut peer), [11, 12]);
    assert_eq!(site.stats().counters.subscriptions, 0);
}

#[test]
fn connecting_comes_first_and_once() {
    let mut site = Site::new(OPEN);
    let mut peer = site.session();
    peer.command(&mut site, "subscribe", json!({"channel": "a"}));
    assert_eq!(peer.ended(), Some(3501));
    let mut peer = site.connected("42");
    peer.command(&mut site, "connect", json!({"token": token(&json!({"sub": "42"}))}));
    assert_eq!(peer.ended(), Some(3501));
    site.empty();
}

#[test]
fn a_token_says_what_a_subscription_of_the_server_is() {
    let mut site = Site::new(OPEN);
    for value in [true, false] {
        let force = json!({"override": {"force_positioning": {"value": value}}});
        let claims = json!({"sub": "42", "subs": {"a": force}});
        let mut peer = site.session();
        let result = peer.connect(&mut site, json!({"token": token(&claims)}));
        let told = result["subs"]["a"]["positioned"].as_bool().unwrap_or_default();
        assert_eq!(told, value, "{result}");
    }
}

#[test]
fn who_asks_for_nothing_that_was_missed_is_told_nothing_of_it() {
    let mut site = Site::new(&format!("{OPEN}force_recovery = true\n"));
    (1..4).for_each(|n| keep(&mut site, n));
    let mut peer = site.connected("42");
    let result = peer.subscribe(&mut site, "a");
    assert_eq!(result["offset"], json!(3));
    let silent = |result: &Value| {
        ["recovered", "was_recovering", "publications"].iter().all(|it| result.get(it).is_none())
    };
    assert!(silent(&result), "{result}");
    let epoch = &result["epoch"];
    let mut peer = site.connected("43");
    let request = json!({"channel": "a", "recover": true, "offset": 1, "epoch": epoch});
    let result = peer.result(&mut site, "subscribe", request);
    let missed: Vec<_> = result["publications"].as_array().expect("two").iter().collect();
    assert_eq!((missed.len(), &result["recovered"]), (2, &json!(true)));
    // A connect command says the same of the channels that it grants.
    let connect = |site: &mut Site, position: Value| {
        let claims = json!({"sub": "44", "subs": {"a": {}}});
        let mut peer = site.session();
        let request = json!({"token": token(&claims), "subs": {"a": position}});
        let number = peer.command(site, "connect", request);
        (peer.reply(number).map(|mut it| it["connect"]["subs"]["a"].take()), peer.ended())
    };
    let here = json!({"recover": true, "offset": 1, "epoch": epoch});
    let (sub, _) = connect(&mut site, here.clone());
    let sub = sub.expect("a subscription");
    assert_eq!(sub["publications"].as_array().map(Vec::len), Some(2), "{sub}");
    assert!(connect(&mut site, json!({})).0.is_some_and(|sub| silent(&sub)));
    let elsewhere = json!({"recover": true, "offset": 1, "epoch": "other"});
    let (sub, end) = connect(&mut site, elsewhere.clone());
    assert!(sub.is_some_and(|sub| sub["was_recovering"] == json!(true)) && end.is_none());
    // It may rather have nothing than a gap.
    let mut rather = elsewhere;
    rather["flag"] = json!(2);
    let (sub, end) = connect(&mut site, rather);
    assert!(sub.is_none() && end.is_some(), "{sub:?} {end:?}");
}

#[test]
fn the_backend_may_want_the_newest_publication_in_the_reply() {
    for cached in [false, true] {
        let mut site = Site::new(&format!(
            "{ASKED}{OPEN}force_recovery = true\n\
            force_recovery_mode = \"cache\"\n"
        ));
        (1..4).for_each(|n| keep(&mut site, n));
        let mut peer = site.session();
        let number = peer.command(&mut site, "connect", json!({}));
        let settings = SubscribeSettings { cache_recover: cached, ..SubscribeSettings::default() };
        let subs = [("a".to_owned(), settings)].into();
        let asked = site.asked();
        let reply = ConnectReply { subs, user: "42".to_owned(), ..ConnectReply::default() };
        site.answer(asked, HookReply::Connect(Some(reply)));
        let sub = peer.reply(number).expect("a reply")["connect"]["subs"]["a"].take();
        let newest = sub["publications"].as_array().into_iter().flatten();
        let newest: Vec<Value> = newest.map(|it| it["data"].clone()).collect();
        assert_eq!(newest, if cached { vec![json!(3)] } else { vec![] });
    }
}

#[test]
fn json_clients_may_have_numbers_for_names() {
    let mut site = Site::new(OPEN);
    for (flag, numbers) in [(0, false), (1, true)] {
        let mut peer = site.connected("42");
        let request = json!({"channel": "a", "flag": flag});
        let result = peer.result(&mut site, "subscribe", request);
        site.publish("a", "1");
        let push = peer.push();
        assert_eq!(result.get("id").is_some(), numbers, "{result}");
        let named = (push.get("channel").is_some(), push.get("id").is_some());
        assert_eq!(named, (!numbers, numbers), "{push}");
    }
}

#[test]
fn pings_are_the_protocols_or_websockets_and_for_who_is_connected() {
    let mut site = Site::new("[client]\nping_interval = \"10s\"\nstale_close_delay = \"60s\"\n");
    let request = json!({"token": token(&json!({"sub": "42"}))});
    let native = format!("{PATH}?cf_ws_frame_ping_pong=true");
    for (target, by_protocol, by_websocket) in [(PATH, 1, 0), (&*native, 0, 1)] {
        let mut silent = site.open(0, target, &[]);
        let mut peer = site.open(0, target, &[]);
        peer.connect(&mut site, request.clone());
        site.seconds(11);
        assert_eq!((peer.heard().len(), peer.client.pings()), (by_protocol, by_websocket));
        assert_eq!((silent.heard().len(), silent.client.pings()), (0, 0));
        silent.leave(&mut site);
        peer.leave(&mut site);
    }
}

#[test]
fn an_operator_sees_since_when_somebody_is_connected() {
    let mut site = Site::new("[client]\nping_interval = \"0s\"\n");
    site.seconds(100);
    let since = site.now();
    let _peer = site.connected("42");
    site.seconds(100);
    let connections = site.connections(0, "42");
    assert_eq!(connections.iter().map(|it| it.since).collect::<Vec<_>>(), [since]);
}

#[test]
fn questions_go_to_the_proxy_that_is_named_with_the_headers_it_is_to_see() {
    let mut site = Site::new(
        "[client.proxy.connect]\nenabled = true\nendpoint = \"http://backend/connect\"\n\
         emulated_headers = [\"Auth\"]\n\
         [[proxies]]\nname = \"other\"\nendpoint = \"http://backend/other\"\n\
         [[rpc.namespaces]]\nname = \"far\"\nproxy_enabled = true\nproxy_name = \"other\"\n",
    );
    let mut peer = site.connected("42");
    peer.command(&mut site, "rpc", json!({"method": "far:m"}));
    assert_eq!(site.asked().request.proxy, "other");
    for (headers, seen) in [
        (json!({"auth": "a", "x": "y"}), vec![("auth".to_owned(), "a".to_owned())]),
        (json!({"x": "y"}), vec![]),
    ] {
        let mut peer = site.session();
        peer.command(&mut site, "connect", json!({"headers": headers}));
        assert_eq!(site.asked().request.caller.headers.emulated, seen);
    }
}
