//! In which order commands are done, what has to wait for what, and what one connection may ask
//! for.

use std::time::{Duration, Instant};

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use super::hooks::Backend;
use crate::support::PATIENCE;
use crate::support::gateway::{Gateway, assert_error, signed, token};

const HOOKS: &str = "[prometheus]\nenabled = true\n\
    [channel.proxy.subscribe]\nendpoint = \"{}/subscribe\"\ntimeout = \"30s\"\n\
    [channel.proxy.publish]\nendpoint = \"{}/publish\"\ntimeout = \"30s\"\n\
    [rpc.proxy]\nendpoint = \"{}/rpc\"\ntimeout = \"30s\"\n\
    [rpc.without_namespace]\nproxy_enabled = true\n\
    [[channel.namespaces]]\nname = \"ask\"\nsubscribe_proxy_enabled = true\n\
    [[channel.namespaces]]\nname = \"checked\"\nallow_subscribe_for_client = true\n\
    publish_proxy_enabled = true\n\
    [[channel.namespaces]]\nname = \"open\"\nallow_subscribe_for_client = true\n\
    allow_publish_for_client = true\n";

fn yes() -> Backend {
    let ok = || json!({"result": {}});
    Backend::start(&[
        ("/connect", json!({"result": {"user": "42"}})),
        ("/subscribe", ok()),
        ("/publish", ok()),
        ("/rpc", json!({"result": {"data": {}}})),
    ])
}

fn lines(commands: &[Value]) -> String {
    commands.iter().map(Value::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn commands_are_done_one_after_the_other() {
    let backend = yes();
    let gateway = backend.configures(HOOKS);
    let mut session = gateway.connected("42");
    session.subscribe("checked:a");
    let closed = backend.gate.lock().expect("no panic");
    let publish = |id: u64| json!({"id": id, "publish": {"channel": "checked:a", "data": id}});
    session.say(&lines(&[publish(11), publish(12)]));
    session.say(&lines(&[publish(13), json!({"id": 14, "rpc": {"method": "m", "data": 14}})]));
    backend.wait_for("/publish", 1);
    // What others do reaches it meanwhile, and none of the questions behind the first is asked.
    gateway.api("publish", json!({"channel": "checked:a", "data": "meanwhile"}));
    assert_eq!(session.publication("checked:a")["data"], json!("meanwhile"));
    assert_eq!(backend.wait_for("/publish", 1).len(), 1);
    drop(closed);
    for id in 11..=13 {
        assert_eq!(session.publication("checked:a")["data"], json!(id));
        assert!(session.reply(id)["publish"].is_object());
    }
    assert!(session.reply(14)["rpc"].is_object());
    let asked: Vec<_> =
        backend.wait_for("/publish", 3).iter().map(|it| it["data"].clone()).collect();
    assert_eq!(asked, [11, 12, 13]);
    gateway.stop();
}

#[test]
fn as_many_commands_are_under_way_as_is_configured() {
    let backend = yes();
    let gateway = backend.configures(&format!("[client]\nconcurrency = 2\n{HOOKS}"));
    let mut session = gateway.connected("42");
    let closed = backend.gate.lock().expect("no panic");
    let rpc = |id: u64| json!({"id": id, "rpc": {"method": "m", "data": id}});
    session.say(&lines(&[rpc(11), rpc(12), rpc(13)]));
    backend.wait_for("/rpc", 2);
    // The third is not on its way: what is asked after it was sent comes first.
    let mut other = gateway.connected("43");
    other.say(&lines(&[rpc(21)]));
    let asked = backend.wait_for("/rpc", 3);
    assert!(asked.iter().all(|question| question["data"] != json!(13)), "{asked:?}");
    drop(closed);
    for id in 11..=13 {
        assert!(session.reply(id)["rpc"].is_object());
    }
    gateway.stop();
}

#[test]
fn what_follows_a_subscribe_in_one_message_may_need_it() {
    let gateway = Gateway::start(
        "[channel.without_namespace]\npresence = true\nhistory_size = 10\nhistory_ttl = \"60s\"\n\
         allow_subscribe_for_client = true\nallow_publish_for_subscriber = true\n\
         allow_history_for_subscriber = true\nallow_presence_for_subscriber = true\n",
    );
    // Channels of either core, to clients of either core.
    for n in 0..20 {
        let (mut session, channel) = (gateway.connected("42"), format!("c{n}"));
        session.say(&lines(&[
            json!({"id": 11, "subscribe": {"channel": channel}}),
            json!({"id": 12, "publish": {"channel": channel, "data": n}}),
            json!({"id": 13, "history": {"channel": channel, "limit": 1}}),
            json!({"id": 14, "presence": {"channel": channel}}),
            json!({"id": 15, "unsubscribe": {"channel": channel}}),
            json!({"id": 16, "publish": {"channel": channel, "data": n}}),
        ]));
        assert!(session.reply(11)["subscribe"].is_object());
        assert!(session.reply(12)["publish"].is_object());
        assert_eq!(session.reply(13)["history"]["publications"][0]["data"], json!(n));
        assert_eq!(
            session.reply(14)["presence"]["presence"].as_object().map(|it| it.len()),
            Some(1)
        );
        assert!(session.reply(15)["unsubscribe"].is_object());
        assert_error(&session.reply(16), 103, "publish");
    }
    gateway.stop();
}

#[test]
fn a_connection_with_enough_to_do_is_not_read_but_hears() {
    let backend = yes();
    let tables = format!("[client]\ncommand_queue_max_size = \"1KiB\"\n{HOOKS}");
    let gateway = backend.configures(&tables);
    let mut session = gateway.connected("42");
    session.subscribe("open:a");
    let closed = backend.gate.lock().expect("no panic");
    session.say(&lines(&[json!({"id": 10, "rpc": {"method": "m", "data": 1}})]));
    backend.wait_for("/rpc", 1);
    for id in 11..=400 {
        session.say(&lines(&[json!({"id": id, "publish": {"channel": "open:b", "data": id}})]));
    }
    gateway.wait_for_metric("read_pauses_total", 1);
    gateway.api("publish", json!({"channel": "open:a", "data": "meanwhile"}));
    assert_eq!(session.publication("open:a")["data"], json!("meanwhile"));
    drop(closed);
    for id in 10..=400 {
        assert_eq!(session.reply(id)["id"], json!(id));
    }
    gateway.stop();
}

#[test]
fn commands_before_the_connect_reply_wait_and_go_with_a_refusal() {
    let backend = yes();
    let tables = "[client]\ncommand_queue_max_size = \"1KiB\"\n\
        [client.proxy.connect]\nenabled = true\nendpoint = \"{}/connect\"\ntimeout = \"30s\"\n";
    let gateway = backend.configures(&format!("{tables}{HOOKS}"));
    let publish = |id: u64| json!({"id": id, "publish": {"channel": "open:a", "data": id}});
    for refused in [false, true] {
        if refused {
            backend.set("/connect", json!({"error": {"code": 1000, "message": "no"}}));
        }
        let before = gateway.metric("read_pauses_total");
        let mut session = gateway.session();
        let closed = backend.gate.lock().expect("no panic");
        session.say(&lines(&[json!({"id": 1, "connect": {}})]));
        for id in 2..=500 {
            session.say(&lines(&[publish(id)]));
        }
        backend.wait_for("/connect", 1 + usize::from(refused));
        let deadline = Instant::now() + PATIENCE;
        while gateway.metric("read_pauses_total") == before {
            assert!(Instant::now() < deadline, "it is read for ever");
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(closed);
        let reply = session.reply(1);
        if refused {
            assert_eq!(reply["error"]["code"], json!(1000), "{reply}");
            session.closed_with();
            gateway.wait_for_metric("gateway_disconnects_total{code=\"3501\"}", 1);
        } else {
            assert!(reply["connect"].is_object(), "{reply}");
            (2..=500).for_each(|id| assert!(session.reply(id)["publish"].is_object()));
        }
    }
    gateway.stop();
}

#[test]
fn subscriptions_that_are_asked_about_take_their_place() {
    let backend = yes();
    let tables = format!("[client]\nchannel_limit = 2\nconcurrency = 10\n{HOOKS}");
    let gateway = backend.configures(&tables);
    let mut session = gateway.connected("42");
    let closed = backend.gate.lock().expect("no panic");
    let subscribe = |id: u64, channel: &str| json!({"id": id, "subscribe": {"channel": channel}});
    session.say(&lines(&[
        subscribe(11, "ask:a"),
        subscribe(12, "ask:a"),
        subscribe(13, "ask:b"),
        subscribe(14, "ask:c"),
        json!({"id": 15, "unsubscribe": {"channel": "ask:a"}}),
        json!({"id": 16, "publish": {"channel": "open:a", "data": 1}}),
    ]));
    assert_error(&session.reply(12), 105, "twice");
    assert_error(&session.reply(14), 106, "too many");
    assert_eq!(backend.wait_for("/subscribe", 2).len(), 2);
    drop(closed);
    // The unsubscribe waits for its subscribe, and wins.
    assert!(session.reply(11)["subscribe"].is_object());
    assert!(session.reply(13)["subscribe"].is_object());
    assert!(session.reply(15)["unsubscribe"].is_object());
    assert!(session.reply(16)["publish"].is_object());
    gateway.api("publish", json!({"channel": "ask:a", "data": 1}));
    session.no_push();
    assert!(session.result("subscribe", json!({"channel": "ask:a"})).is_object());
    gateway.stop();
}

#[test]
fn what_the_server_grants_while_the_backend_thinks_counts() {
    let backend = yes();
    let gateway = backend.configures(&format!("[client]\nchannel_limit = 1\n{HOOKS}"));
    let mut session = gateway.connected("42");
    let closed = backend.gate.lock().expect("no panic");
    session.say(&lines(&[json!({"id": 11, "subscribe": {"channel": "ask:a"}})]));
    backend.wait_for("/subscribe", 1);
    gateway.api("subscribe", json!({"user": "42", "channel": "open:a"}));
    assert!(session.push()["subscribe"].is_object());
    drop(closed);
    assert_error(&session.reply(11), 106, "the place is taken");
    gateway.stop();
}

#[test]
fn tokens_that_fail_again_and_again_close() {
    let gateway = Gateway::start("[client]\nfailed_token_limit = 3\n");
    let claims = json!({"sub": "42", "channel": "$a"});
    let bad = signed(Algorithm::HS256, &claims, "another secret");
    let mut session = gateway.connected("42");
    let good = json!({"channel": "$a", "token": token(&claims)});
    session.fails("subscribe", json!({"channel": "$a", "token": bad}), 103);
    session.result("subscribe", good);
    session.fails("subscribe", json!({"channel": "$b", "token": bad}), 103);
    session.command("subscribe", &json!({"channel": "$b", "token": bad}));
    session.closed(3509);
    gateway.stop();
}

#[test]
fn an_answer_that_cannot_be_sent_is_an_error_or_shorter() {
    let gateway = Gateway::start(
        "[client]\nqueue_max_size = \"16KiB\"\n[channel.without_namespace]\npresence = true\n\
         history_size = 100\nhistory_ttl = \"60s\"\nforce_recovery = true\n\
         allow_subscribe_for_client = true\nallow_history_for_client = true\n\
         allow_presence_for_client = true\n",
    );
    let name = "u".repeat(2000);
    let mut members: Vec<_> = (0..6).map(|_| gateway.connected(&name)).collect();
    members.iter_mut().for_each(|member| _ = member.subscribe("room"));
    let mut session = gateway.connected("42");
    let there = session.result("presence", json!({"channel": "room"}));
    assert_eq!(there["presence"].as_object().map(|it| it.len()), Some(6));
    let mut more: Vec<_> = (0..6).map(|_| gateway.connected(&name)).collect();
    more.iter_mut().for_each(|member| _ = member.subscribe("room"));
    session.fails("presence", json!({"channel": "room"}), 106);

    for n in 0..20 {
        gateway.api("publish", json!({"channel": "log", "data": [n, "x".repeat(1000)]}));
    }
    let read = session.result("history", json!({"channel": "log", "limit": -1}));
    let found = read["publications"].as_array().map_or(0, Vec::len);
    assert!((10..15).contains(&found), "{found}");
    let epoch = &read["epoch"];
    let request = json!({"channel": "log", "recover": true, "epoch": epoch, "offset": 0});
    let result = session.result("subscribe", request);
    assert!(result.get("recovered").is_none(), "{result}");
    gateway.stop();
}

#[test]
fn who_makes_others_receive_more_than_its_share_waits() {
    let gateway = Gateway::start(
        "[prometheus]\nenabled = true\n[client]\ndelivery_rate = 10\n[channel.without_namespace]\n\
         allow_subscribe_for_client = true\nallow_publish_for_client = true\n",
    );
    let mut readers: Vec<_> = (0..3).map(|_| gateway.connected("43")).collect();
    readers.iter_mut().for_each(|reader| _ = reader.subscribe("room"));
    let mut session = gateway.connected("42");
    let publish = |id: u64| json!({"id": id, "publish": {"channel": "room", "data": id}});
    let all: Vec<_> = (1..=16).map(|n| publish(10 + n)).collect();
    session.say(&lines(&all));
    // A burst of 40, and then no more than come at the rate.
    for id in 11..=26 {
        assert!(session.reply(id)["publish"].is_object());
    }
    assert!(gateway.metric("gateway_commands_delayed_total") > 0);
    for reader in &mut readers {
        (11..=26).for_each(|id| assert_eq!(reader.publication("room")["data"], json!(id)));
    }
    gateway.stop();
}

#[test]
fn json_clients_are_told_nothing_that_is_no_json() {
    let gateway = Gateway::start(
        "[client]\ninsecure = true\n[channel.without_namespace]\npresence = true\n\
         history_size = 10\nhistory_ttl = \"60s\"\njoin_leave = true\n\
         force_push_join_leave = true\n\
         [[channel.namespaces]]\nname = \"any\"\nhistory_size = 10\nhistory_ttl = \"60s\"\n\
         publication_data_format = \"binary\"\n",
    );
    // By the server API, too, data is JSON unless the namespace says otherwise.
    let binary = |channel: &str| json!({"channel": channel, "b64data": "/wo="});
    let reply = gateway.api_reply("publish", &binary("news"));
    assert_eq!(reply["error"]["code"], json!(107), "{reply}");
    gateway.api("publish", binary("any:a"));
    let mut session = gateway.connected("42");
    session.command("history", &json!({"channel": "any:a", "limit": 1}));
    session.closed(3506);

    // What others are shown of somebody is left out where it is none.
    let mut watcher = gateway.connected("");
    watcher.subscribe("news");
    let mut shown = gateway.connected("43");
    let info = json!({"user": "43", "channel": "news", "b64info": "fQp7ImlkIjo3fQ=="});
    gateway.api("subscribe", info);
    assert!(shown.push()["subscribe"].is_object());
    let presence = watcher.result("presence", json!({"channel": "news"}));
    let entries = presence["presence"].as_object().expect("members");
    assert_eq!(entries.len(), 2);
    assert!(entries.values().all(|entry| entry.get("chan_info").is_none()), "{presence}");
    gateway.stop();
}

#[test]
fn sessions_have_a_bounded_memory_together() {
    let gateway = Gateway::start(
        "[prometheus]\nenabled = true\n[client]\ninsecure = true\n\
         max_session_memory = \"8KiB\"\nchannel_limit = 1000\n",
    );
    let mut session = gateway.connected("42");
    let mut refused = None;
    for n in 0..100 {
        let reply = session.ask("subscribe", json!({"channel": format!("{n:0>200}")}));
        if reply.get("error").is_some() {
            assert_error(&reply, 106, "memory");
            refused = Some(n);
            break;
        }
    }
    assert!(refused.is_some_and(|n| n > 2), "{refused:?}");
    assert!(gateway.metric("gateway_session_bytes") > 4096);
    assert_eq!(gateway.metric("gateway_session_memory_refused_total"), 1);
    // What ends makes room.
    session.result("unsubscribe", json!({"channel": format!("{:0>200}", 0)}));
    session.subscribe(&format!("{:0>200}", 0));
    drop(session);
    gateway.wait_for_metric("gateway_session_bytes", 0);
    gateway.stop();
}
