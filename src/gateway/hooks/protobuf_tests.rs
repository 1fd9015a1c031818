//! The messages against `proxy.proto`, each field of each; and that answers in Protobuf mean what
//! they mean in JSON.

use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};

use super::*;
use crate::gateway::api::protobuf::tests::{full, hold, message_of_json};
use crate::gateway::fates::{self, Rows};
use crate::gateway::format::Transport;
use crate::gateway::hooks::{Asking, Caller, ClientHeaders, FeedAsked, FeedId, HookRefusal};
use crate::gateway::hub_port::Link;

fn pool() -> DescriptorPool {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/gateway/hooks");
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
    hold::<StreamSubscribeRequest>(message("StreamSubscribeRequest"));
    hold::<StreamSubscribeResponse>(message("StreamSubscribeResponse"));
    let service = pool().services().next().expect("a service");
    let paths = HookKind::ALL.iter().map(|kind| (kind.grpc_path(), *kind));
    for (path, kind) in paths.chain([(BOTH_WAYS, HookKind::SubscribeStream)]) {
        let (_, name) = path.rsplit_once('/').expect("a path");
        if kind == HookKind::SubscribeStream {
            let method = service.methods().find(|method| method.name() == name).expect(name);
            assert!(method.is_server_streaming());
            assert_eq!(method.is_client_streaming(), path == BOTH_WAYS);
            let input = if path == BOTH_WAYS { "StreamSubscribe" } else { "Subscribe" };
            assert_eq!(method.input().name(), format!("{input}Request"));
            assert_eq!(method.output().name(), "StreamSubscribeResponse");
            assert_eq!(path, format!("/{}/{name}", service.full_name()));
            continue;
        }
        let method = service.methods().find(|method| method.name() == name).expect(name);
        let whole = format!("/{}/{name}", service.full_name());
        assert_eq!((path, method.input().name()), (&whole[..], &*format!("{name}Request")));
    }
    assert_eq!(service.methods().count(), HookKind::ALL.len() + 1);
}

/// A question of that kind with something in every field.
fn question_about(event: HookEvent) -> HookRequest {
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
    let id = FeedId { from: Asking { core: 0, link: Link(1) }, number: 1 };
    let feed = || Some(FeedAsked { id, both_ways: true });
    for event in [
        HookEvent::Connect { name: text(), version: text(), data: data(), channels: vec![text()] },
        HookEvent::Refresh,
        HookEvent::Subscribe { channel: text(), token: text(), data: data(), feed: None },
        HookEvent::Subscribe { channel: text(), token: text(), data: data(), feed: feed() },
        HookEvent::Publish { channel: text(), data: data() },
        HookEvent::Rpc { method: text(), data: data() },
        HookEvent::SubRefresh { channel: text() },
    ] {
        let name = name_of(event.kind());
        let of = message(&format!("{name}Request"));
        let request = question_about(event);
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

/// What its messages are called.
fn name_of(kind: HookKind) -> &'static str {
    match kind {
        // Its answer is the first of several.
        HookKind::SubscribeStream => "Subscribe",
        _ => kind.grpc_path().rsplit_once('/').expect("a path").1,
    }
}

#[test]
fn what_goes_over_a_stream_is_of_the_description() {
    let question = message("StreamSubscribeRequest");
    let read = |bytes: Bytes| DynamicMessage::decode(question.clone(), bytes).expect("a message");
    let event = HookEvent::SubRefresh { channel: "a".to_owned() };
    let bytes = question_about(event).message(false, false);
    let first = read(feed_question(bytes));
    let client = |it: &DynamicMessage| it.get_field_by_name("client").map(|it| it.into_owned());
    let inside = first.get_field_by_name("subscribe_request").expect("a field");
    assert!(inside.as_message().and_then(client).is_some_and(|it| it.as_str() == Some("\u{e9}")));
    assert!(!first.has_field_by_name("publication"));
    let next = read(feed_publication(Bytes::from_static(b"\xff")));
    assert!(!next.has_field_by_name("subscribe_request"));
    let inside = next.get_field_by_name("publication").expect("a field");
    let data =
        inside.as_message().and_then(|it| it.get_field_by_name("data").map(|d| d.into_owned()));
    assert!(data.is_some_and(|it| it.as_bytes().is_some_and(|it| **it == *b"\xff")));
    let told = |json: serde_json::Value| {
        feed_told(message_of_json(message("StreamSubscribeResponse"), &json)).expect("a message")
    };
    let published = |data: &'static str, tags: &[(&str, &str)]| {
        let tags = tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Some(FeedSaid::Published {
            data: Bytes::from_static(data.as_bytes()),
            tags: tags.collect(),
        })
    };
    let json = serde_json::json!({"publication": {"data": {"n": 1}, "tags": {"a": "b"}}});
    assert_eq!(told(json), published("{\"n\":1}", &[("a", "b")]));
    assert_eq!(told(serde_json::json!({"publication": {}})), published("", &[]));
    assert_eq!(told(serde_json::json!({})), None);
    assert!(feed_told(Bytes::from_static(b"\x12\x05a")).is_err());
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
    let each = HookKind::ALL
        .iter()
        .flat_map(|kind| all.iter().map(move |json| (*kind, name_of(*kind), *json)));
    for (kind, name, json) in each.chain(own) {
        let value: serde_json::Value = serde_json::from_str(json).expect("JSON");
        let mut bytes = message_of_json(message(&format!("{name}Response")), &value);
        if kind == HookKind::SubscribeStream {
            let first = feed_question(bytes.to_vec());
            assert_eq!(feed_told(first.clone()).expect("a message"), None, "{json}");
            bytes = first;
        }
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
    let nothing = HookReply::decode_message(HookKind::SubscribeStream, Bytes::new());
    assert!(nothing.is_err(), "it does not say that the client may subscribe");
    let nothing = HookReply::decode_message(HookKind::Connect, Bytes::new());
    assert!(matches!(nothing, Ok(Ok(HookReply::Connect(None)))));
    let gone =
        HookReply::decode_message(HookKind::Rpc, Bytes::from_static(b"\x1a\x03\x08\x94\x23"));
    assert!(matches!(gone, Ok(Err(HookRefusal::Disconnect(it))) if it.code == 4500));
}

#[test]
fn every_field_of_every_answer_in_json() {
    let (mut wrong, mut count) = (Vec::new(), 0);
    for kind in HookKind::ALL {
        let name = name_of(*kind);
        let read = |text: &str| HookReply::decode(*kind, text.as_bytes()).ok();
        let mut rows =
            |of: &str, base: &[(&str, &str)], others: &[&str], read: &dyn Fn(&str) -> _| {
                let rows = Rows { of: message(of), base, null_is_a_value: false, others };
                count += fates::check(&rows, read, &mut wrong);
            };
        rows(&format!("{name}Response"), &[], &["error", "disconnect"], &read);
        // Their codes have ranges of their own.
        rows("Error", &[("code", "1000")], &["code"], &|text| {
            read(&format!("{{\"error\":{text}}}"))
        });
        rows("Disconnect", &[("code", "4000")], &["code"], &|text| {
            read(&format!("{{\"disconnect\":{text}}}"))
        });
        if *kind == HookKind::Connect {
            rows("SubscribeOptions", &[], &[], &|text| {
                read(&format!("{{\"result\":{{\"subs\":{{\"a\":{text}}}}}}}"))
            });
        }
    }
    assert!(wrong.is_empty(), "{} of {count} rows:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count > 300, "{count}");
}
