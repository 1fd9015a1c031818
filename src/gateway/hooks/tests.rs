//! The documented shapes, as text.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::gateway::channels::{Override, Switch};
use crate::gateway::format::Transport;
use crate::gateway::hub_port::Link;
use crate::gateway::wire::{Disconnect, Encoding, Error};

fn request(event: HookEvent) -> HookRequest {
    let caller = Caller {
        transport: Transport::WebSocket,
        client: "c1".to_owned(),
        user: "56".to_owned(),
        encoding: Encoding::Json,
        meta: Bytes::from_static(b"{\"m\":1}"),
        headers: Arc::new(ClientHeaders::default()),
    };
    let from = Asking { core: 0, link: Link(1) };
    HookRequest { proxy: "default".into(), from, caller, event }
}

fn body(event: HookEvent, binary: bool) -> Value {
    serde_json::from_slice(&request(event).body(binary, true).unwrap()).unwrap()
}

fn decode(kind: HookKind, body: Value) -> HookResult {
    HookReply::decode(kind, body.to_string().as_bytes()).unwrap()
}

#[test]
fn questions_have_the_documented_fields() {
    let data = Bytes::from_static(b"{\"a\":1}");
    let connect = HookEvent::Connect {
        name: "js".to_owned(),
        version: String::new(),
        data: data.clone(),
        channels: vec!["news".to_owned()],
    };
    assert_eq!(
        body(connect, false),
        json!({"client": "c1", "transport": "websocket", "protocol": "json", "encoding": "json",
            "name": "js", "data": {"a": 1}, "channels": ["news"]})
    );
    let common = |more: Value| {
        let mut all = json!({"client": "c1", "transport": "websocket", "protocol": "json",
            "encoding": "json", "user": "56", "meta": {"m": 1}});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    assert_eq!(body(HookEvent::Refresh, false), common(json!({})));
    let channel = "chat:index".to_owned();
    let subscribe = HookEvent::Subscribe {
        channel: channel.clone(),
        token: "t".to_owned(),
        data: Bytes::new(),
        feed: None,
    };
    assert_eq!(body(subscribe, false), common(json!({"channel": channel, "token": "t"})));
    let publish = HookEvent::Publish { channel: channel.clone(), data: data.clone() };
    assert_eq!(body(publish, false), common(json!({"channel": channel, "data": {"a": 1}})));
    let rpc = HookEvent::Rpc { method: "m".to_owned(), data };
    assert_eq!(
        body(rpc, true),
        common(json!({"method": "m", "b64data": "eyJhIjoxfQ==", "encoding": "binary"}))
    );
    let sub_refresh = HookEvent::SubRefresh { channel: channel.clone() };
    assert_eq!(body(sub_refresh, false), common(json!({"channel": channel})));
}

#[test]
fn meta_goes_only_where_it_is_asked_for_and_payloads_must_fit() {
    let quiet = request(HookEvent::Refresh).body(false, false).unwrap();
    assert!(!String::from_utf8(quiet).unwrap().contains("meta"));
    let binary = HookEvent::Rpc { method: String::new(), data: Bytes::from_static(&[0xff]) };
    assert_eq!(request(binary.clone()).body(false, false), Err(NotJson));
    assert!(request(binary).body(true, false).is_ok());
}

#[test]
fn a_connection_is_described_in_full() {
    let reply = decode(
        HookKind::Connect,
        json!({"result": {"user": "56", "expire_at": 9, "b64info": "AA==", "data": {"d": 1},
            "b64data": "", "channels": ["a"], "meta": {"m": 2}, "caps": [],
            "subs": {"b": {"info": 1, "override": {"presence": {"value": true}},
                "cache_recover": true}}}}),
    );
    let overrides = Override { presence: Some(Switch { value: true }), ..Override::default() };
    let settings = SubscribeSettings {
        info: Bytes::from_static(b"1"),
        overrides,
        cache_recover: true,
        ..SubscribeSettings::default()
    };
    let expected = ConnectReply {
        user: "56".to_owned(),
        expire_at: 9,
        info: Bytes::from_static(&[0]),
        data: Bytes::from_static(b"{\"d\":1}"),
        channels: vec!["a".to_owned()],
        subs: [("b".to_owned(), settings)].into(),
        meta: Bytes::from_static(b"{\"m\":2}"),
    };
    assert_eq!(reply, Ok(HookReply::Connect(Some(expected))));
    assert_eq!(decode(HookKind::Connect, json!({})), Ok(HookReply::Connect(None)));
}

#[test]
fn permissions_need_no_details() {
    for empty in [json!({}), json!({"result": {}}), json!({"result": null, "error": null})] {
        assert_eq!(
            decode(HookKind::Subscribe, empty.clone()),
            Ok(HookReply::Subscribe(SubscribeReply::default()))
        );
        assert_eq!(
            decode(HookKind::Publish, empty.clone()),
            Ok(HookReply::Publish(PublishReply::default()))
        );
        assert_eq!(decode(HookKind::Rpc, empty), Ok(HookReply::Rpc(RpcReply::default())));
    }
    let changed = decode(HookKind::Publish, json!({"result": {"b64data": "AA==", "version": 3}}));
    let data = Some(Bytes::from_static(&[0]));
    let expected = PublishReply { data, version: 3, ..PublishReply::default() };
    assert_eq!(changed, Ok(HookReply::Publish(expected)));
}

#[test]
fn the_backend_may_refuse() {
    let error = json!({"error": {"code": 1000, "message": "custom", "temporary": true}});
    let disconnect = json!({"disconnect": {"code": 4501, "reason": "unauthorized"}});
    for kind in [HookKind::Connect, HookKind::Subscribe, HookKind::Publish, HookKind::Rpc] {
        let expected = HookRefusal::Error(Error::new(1000, "custom", true));
        assert_eq!(decode(kind, error.clone()), Err(expected));
        let expected = HookRefusal::Disconnect(Disconnect::new(4501, "unauthorized"));
        assert_eq!(decode(kind, disconnect.clone()), Err(expected));
    }
}

#[test]
fn what_is_not_prolonged_is_over() {
    let over = RefreshReply { expired: true, ..RefreshReply::default() };
    let sub_over = SubRefreshReply { expired: true, ..SubRefreshReply::default() };
    for reply in [
        json!({}),
        json!({"result": {"expired": true}}),
        json!({"error": {"code": 400}}),
        json!({"result": {"expire_at": 9}, "disconnect": {"code": 4000}}),
    ] {
        let refresh = decode(HookKind::Refresh, reply.clone());
        assert_eq!(refresh, Ok(HookReply::Refresh(over.clone())), "{reply}");
        let sub_refresh = decode(HookKind::SubRefresh, reply.clone());
        assert_eq!(sub_refresh, Ok(HookReply::SubRefresh(sub_over.clone())), "{reply}");
    }
    let stays = RefreshReply { expire_at: 9, ..RefreshReply::default() };
    let reply = decode(HookKind::Refresh, json!({"result": {"expire_at": 9}}));
    assert_eq!(reply, Ok(HookReply::Refresh(stays)));
}

#[test]
fn a_backend_that_is_silent_costs_nobody_a_connection() {
    let stays = RefreshReply { expire_at: 1060, ..RefreshReply::default() };
    assert_eq!(HookReply::without_answer(HookKind::Refresh, 1000), Ok(HookReply::Refresh(stays)));
    for kind in [HookKind::Connect, HookKind::Subscribe, HookKind::Publish, HookKind::Rpc] {
        let refused = HookReply::without_answer(kind, 1000);
        assert_eq!(refused, Err(HookRefusal::Error(Error::INTERNAL)));
    }
}

#[test]
fn other_answers_are_bad() {
    for body in [
        "",
        "[]",
        "{",
        "<html>",
        r#"{"result":{"user":1}}"#,
        r#"{"result":{"b64info":"?"}}"#,
        r#"{"error":{"code":0}}"#,
        r#"{"error":{"message":"no code"}}"#,
        r#"{"disconnect":{"code":1000}}"#,
        r#"{"disconnect":{"code":70000}}"#,
    ] {
        assert!(HookReply::decode(HookKind::Connect, body.as_bytes()).is_err(), "{body}");
    }
}
