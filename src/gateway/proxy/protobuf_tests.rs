//! The messages against `proxy.proto`, each field of each; and that answers in Protobuf mean what
//! they mean in JSON.

use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};

use super::*;
use crate::gateway::api::protobuf::tests::{full, hold, message_of_json};
use crate::gateway::format::Transport;
use crate::gateway::outside::Link;
use crate::gateway::proxy::{Asking, Caller, ClientHeaders, HookRefusal};

fn pool() -> DescriptorPool {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/gateway/proxy");
    let set = protox::compile(["proxy.proto"], [folder]).expect("it compiles");
    DescriptorPool::from_file_descriptor_set(set).expect("it holds together")
}

fn message(name: &str) -> MessageDescriptor {
    let name = format!("centrifugal.centrifugo.proxy.{name}");
    pool().get_message_by_name(&name).unwrap_or_else(|| panic!("{name}"))
}

#[test]
fn messages_are_those_of_the_description() {
    hold::<ConnectResponse>(message("ConnectResponse"));
    hold::<RefreshResponse>(message("RefreshResponse"));
    hold::<SubscribeResponse>(message("SubscribeResponse"));
    hold::<PublishResponse>(message("PublishResponse"));
    hold::<RpcResponse>(message("RPCResponse"));
    hold::<SubRefreshResponse>(message("SubRefreshResponse"));
    let service = pool().services().next().expect("a service");
    for kind in HookKind::ALL {
        let (_, name) = kind.grpc_path().rsplit_once('/').expect("a path");
        let method = service.methods().find(|method| method.name() == name).expect(name);
        let path = format!("/{}/{name}", service.full_name());
        assert_eq!(
            (kind.grpc_path(), method.input().name()),
            (&path[..], &*format!("{name}Request"))
        );
    }
    assert_eq!(service.methods().count(), HookKind::ALL.len());
}

/// A question of that kind with something in every field.
fn question(event: HookEvent) -> HookRequest {
    HookRequest {
        proxy: "default".into(),
        from: Asking { core: 0, link: Link(1) },
        caller: Caller {
            client: "\u{e9}".to_owned(),
            user: "\u{e9}".to_owned(),
            transport: Transport::WebSocket,
            encoding: Encoding::Protobuf,
            meta: Bytes::from_static(b"[1]"),
            headers: ClientHeaders::default().into(),
        },
        event,
    }
}

#[test]
fn questions_fill_every_field_of_their_message() {
    let text = || "\u{e9}".to_owned();
    let data = || Bytes::from_static(b"[1]");
    for event in [
        HookEvent::Connect { name: text(), version: text(), data: data(), channels: vec![text()] },
        HookEvent::Refresh,
        HookEvent::Subscribe { channel: text(), token: text(), data: data() },
        HookEvent::Publish { channel: text(), data: data() },
        HookEvent::Rpc { method: text(), data: data() },
        HookEvent::SubRefresh { channel: text() },
    ] {
        let (_, name) = event.kind().grpc_path().rsplit_once('/').expect("a path");
        let of = message(&format!("{name}Request"));
        let request = question(event);
        for binary in [false, true] {
            let bytes = request.message(binary, true);
            let read = DynamicMessage::decode(of.clone(), &bytes[..]).expect("that message");
            assert_eq!(read.unknown_fields().count(), 0, "{name}");
            let whole = full(of.clone());
            for field in of.fields() {
                let (value, expected) = (read.get_field(&field), whole.get_field(&field));
                let said = |text: &str| value.as_str() == Some(text);
                let fits = match field.name() {
                    "transport" => said("websocket"),
                    "protocol" => said("protobuf"),
                    "encoding" => said(if binary { "binary" } else { "json" }),
                    "b64data" => said(if binary { "WzFd" } else { "" }),
                    "data" if binary => value.as_bytes().is_some_and(|it| it.is_empty()),
                    _ => value == expected,
                };
                assert!(fits, "{name}.{} {value:?}", field.name());
            }
        }
        let without = request.message(false, false);
        let read = DynamicMessage::decode(of.clone(), &without[..]).expect("that message");
        let meta = of.get_field_by_name("meta").map(|field| read.has_field(&field));
        assert!(meta.is_none_or(|there| !there), "{name}");
    }
}

#[test]
fn an_answer_means_the_same_in_both_forms() {
    let all = [
        r#"{}"#,
        r#"{"result": {}}"#,
        r#"{"error": {"code": 1000, "message": "no", "temporary": true}}"#,
        r#"{"error": {"code": 0}}"#,
        r#"{"disconnect": {"code": 4500, "reason": "away"}}"#,
        r#"{"disconnect": {"code": 1}}"#,
        r#"{"result": {}, "error": {"code": 1}, "disconnect": {"code": 4500}}"#,
    ];
    let own = [
        (
            HookKind::Connect,
            "Connect",
            r#"{"result": {"user": "u", "expire_at": 7, "info": {"i": 1},
            "data": [1], "channels": ["a", ""], "meta": {"m": 1}, "subs": {"c": {"expire_at": 9,
            "info": 1, "data": 2, "cache_recover": true,
            "override": {"join_leave": {"value": true}}}}}}"#,
        ),
        (HookKind::Connect, "Connect", r#"{"result": {"b64info": "AAE=", "b64data": "MQ=="}}"#),
        (HookKind::Connect, "Connect", r#"{"result": {"b64info": "no base64"}}"#),
        (HookKind::Refresh, "Refresh", r#"{"result": {"expired": true, "expire_at": -1}}"#),
        (HookKind::Refresh, "Refresh", r#"{"result": {"info": {"i": 1}, "meta": {"m": 1}}}"#),
        (
            HookKind::Subscribe,
            "Subscribe",
            r#"{"result": {"expire_at": 7, "info": 1, "data": 2,
            "override": {"presence": {}}}}"#,
        ),
        (
            HookKind::Publish,
            "Publish",
            r#"{"result": {"data": {"n": 1}, "skip_history": true,
            "tags": {"a": "b"}, "idempotency_key": "k", "delta": true, "version": 7,
            "version_epoch": "e"}}"#,
        ),
        (HookKind::Rpc, "RPC", r#"{"result": {"data": {"n": 1}}}"#),
        (HookKind::SubRefresh, "SubRefresh", r#"{"result": {"expire_at": 7, "info": 1}}"#),
    ];
    let each = HookKind::ALL.iter().flat_map(|kind| {
        let (_, name) = kind.grpc_path().rsplit_once('/').expect("a path");
        all.iter().map(move |json| (*kind, name, *json))
    });
    for (kind, name, json) in each.chain(own) {
        let value: serde_json::Value = serde_json::from_str(json).expect("JSON");
        let bytes = message_of_json(message(&format!("{name}Response")), &value);
        let ours = HookReply::decode_message(kind, bytes).map_err(|error| error.to_string());
        let theirs = HookReply::decode(kind, value.to_string().as_bytes());
        match theirs {
            Ok(theirs) => assert_eq!(ours, Ok(theirs), "{name} {json}"),
            Err(_) => assert!(ours.is_err(), "{name} {json}"),
        }
    }
}

#[test]
fn what_is_no_answer_is_told() {
    for kind in HookKind::ALL {
        for bytes in [&b"\x0a"[..], b"\x0a\x05a", b"\x0b", b"\x12\x02\x08"] {
            assert!(HookReply::decode_message(*kind, bytes.into()).is_err(), "{kind:?} {bytes:?}");
        }
    }
    let nothing = HookReply::decode_message(HookKind::Connect, Bytes::new());
    assert!(matches!(nothing, Ok(Ok(HookReply::Connect(None)))));
    let gone =
        HookReply::decode_message(HookKind::Rpc, Bytes::from_static(b"\x1a\x03\x08\x94\x23"));
    assert!(matches!(gone, Ok(Err(HookRefusal::Disconnect(it))) if it.code == 4500));
}
