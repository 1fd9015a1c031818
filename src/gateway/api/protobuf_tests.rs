//! The messages against `api.proto`, each field of each; and that requests in Protobuf mean what
//! they mean in JSON.

use prost_reflect::{
    DescriptorPool, DynamicMessage, Kind, MapKey, MessageDescriptor, ReflectMessage, Value,
};
use serde_json::json;

use super::*;
use crate::gateway::fates::{self, Rows};

fn pool() -> DescriptorPool {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/gateway/api");
    let set = protox::compile(["api.proto"], [folder]).expect("it compiles");
    DescriptorPool::from_file_descriptor_set(set).expect("it holds together")
}

fn message(name: &str) -> MessageDescriptor {
    let name = format!("centrifugal.centrifugo.api.{name}");
    pool().get_message_by_name(&name).unwrap_or_else(|| panic!("{name}"))
}

/// A value of that kind which is not its default.
fn some(kind: &Kind) -> Value {
    match kind {
        Kind::Double => Value::F64(1.5),
        Kind::Int32 => Value::I32(-7),
        Kind::Int64 | Kind::Sint64 => Value::I64(-7_000_000_000),
        Kind::Uint32 => Value::U32(4_000_000_000),
        Kind::Uint64 => Value::U64(u64::MAX),
        Kind::Bool => Value::Bool(true),
        Kind::String => Value::String("\u{e9}".to_owned()),
        Kind::Bytes => Value::Bytes(Bytes::from_static(b"[1]")),
        Kind::Message(of) => Value::Message(full(of.clone())),
        kind => panic!("{kind:?}"),
    }
}

/// A message with something in every field, but for those of its own kind.
pub(crate) fn full(of: MessageDescriptor) -> DynamicMessage {
    let mut message = DynamicMessage::new(of.clone());
    for field in of.fields() {
        let value = match field.kind() {
            Kind::Message(inner) if inner == of => continue,
            Kind::Message(entry) if field.is_map() => {
                let value = some(&entry.map_entry_value_field().kind());
                Value::Map([(MapKey::String("k".to_owned()), value)].into())
            }
            kind if field.is_list() => Value::List(vec![some(&kind)]),
            kind => some(&kind),
        };
        message.set_field(&field, value);
    }
    message
}

/// That a type has exactly the fields of a message, each as it is there.
pub(crate) fn hold<T: Message + Default + PartialEq>(of: MessageDescriptor) {
    let (name, whole) = (of.full_name().to_owned(), full(of.clone()));
    let bytes = whole.encode_to_vec();
    let read = T::decode(&bytes[..]).unwrap_or_else(|error| panic!("{name}: {error}"));
    let again = DynamicMessage::decode(of, &read.encode_to_vec()[..]).expect("it is that message");
    assert_eq!(again, whole, "{name}");
    assert!(T::decode(&b""[..]).is_ok_and(|nothing| nothing == T::default()), "{name}");
}

#[test]
fn messages_are_those_of_the_description() {
    hold::<Publish>(message("PublishRequest"));
    hold::<Broadcast>(message("BroadcastRequest"));
    hold::<Subscribe>(message("SubscribeRequest"));
    hold::<Unsubscribe>(message("UnsubscribeRequest"));
    hold::<DisconnectUser>(message("DisconnectRequest"));
    hold::<Refresh>(message("RefreshRequest"));
    for name in ["Presence", "PresenceStats", "HistoryRemove", "Channels"] {
        hold::<OnlyText>(message(&format!("{name}Request")));
    }
    for name in ["InfoRequest", "SubscribeResult", "UnsubscribeResult", "DisconnectResult"] {
        hold::<NoFields>(message(name));
    }
    hold::<NoFields>(message("RefreshResult"));
    hold::<NoFields>(message("HistoryRemoveResult"));
    hold::<History>(message("HistoryRequest"));
    hold::<Rpc>(message("RPCRequest"));
    hold::<Failure>(message("Error"));
    hold::<PublishResponse>(message("PublishResponse"));
    hold::<BroadcastResult>(message("BroadcastResult"));
    hold::<PresenceResult>(message("PresenceResult"));
    hold::<PresenceStatsResult>(message("PresenceStatsResult"));
    hold::<HistoryResult>(message("HistoryResult"));
    hold::<ChannelsResult>(message("ChannelsResult"));
    hold::<InfoResult>(message("InfoResult"));
    hold::<RpcResult>(message("RPCResult"));
}

#[test]
fn methods_are_those_of_the_description() {
    let pool = pool();
    let service = pool.services().next().expect("a service");
    let mut named: Vec<_> = service.methods().map(|method| method.name().to_owned()).collect();
    named.retain(|name| name != "Batch");
    let mut known: Vec<_> = METHODS.iter().map(|(name, ..)| (*name).to_owned()).collect();
    named.sort();
    known.sort();
    assert_eq!(named, known);
    let (command, reply) = (message("Command"), message("Reply"));
    for (name, method, number) in METHODS {
        for (of, kind) in [(&command, "Request"), (&reply, "Result")] {
            let field = of.get_field(*number).unwrap_or_else(|| panic!("{name}"));
            assert_eq!(field.name(), *method);
            let Kind::Message(kind_of) = field.kind() else { panic!("{name}") };
            assert_eq!(kind_of.name(), format!("{name}{kind}"));
        }
        assert!(ApiRequest::METHODS.contains(method));
        let response = message(&format!("{name}Response"));
        let numbers: Vec<_> = response.fields().map(|field| field.number()).collect();
        assert_eq!(numbers, [RESPONSE_ERROR, RESPONSE_RESULT], "{name}");
    }
    assert_eq!(METHODS.len(), ApiRequest::METHODS.len());
    let batch: Vec<_> = message("BatchRequest").fields().map(|field| field.number()).collect();
    assert_eq!(batch, [COMMANDS, PARALLEL]);
    assert_eq!(reply.get_field(REPLY_ERROR).expect("it").name(), "error");
}

fn written(name: &str, json: &serde_json::Value) -> Bytes {
    message_of_json(message(name), json)
}

/// A message from JSON, whose payloads are bytes of JSON.
pub(crate) fn message_of_json(of: MessageDescriptor, json: &serde_json::Value) -> Bytes {
    let mut whole = DynamicMessage::new(of);
    put(&mut whole, json);
    whole.encode_to_vec().into()
}

fn put(message: &mut DynamicMessage, json: &serde_json::Value) {
    for (key, value) in json.as_object().expect("an object") {
        let field = message.descriptor().get_field_by_name(key);
        let field = field.unwrap_or_else(|| panic!("{key}"));
        let all = match field.kind() {
            Kind::Message(entry) if field.is_map() => {
                let kind = entry.map_entry_value_field().kind();
                let pair = |(key, value): (&String, &serde_json::Value)| {
                    (MapKey::String(key.clone()), from_json(&kind, value))
                };
                Value::Map(value.as_object().expect("a map").iter().map(pair).collect())
            }
            kind if field.is_list() => {
                let list = value.as_array().expect("a list").iter();
                Value::List(list.map(|value| from_json(&kind, value)).collect())
            }
            kind => from_json(&kind, value),
        };
        message.set_field(&field, all);
    }
}

fn from_json(kind: &Kind, value: &serde_json::Value) -> Value {
    match kind {
        Kind::Message(of) => {
            let mut inner = DynamicMessage::new(of.clone());
            put(&mut inner, value);
            Value::Message(inner)
        }
        Kind::Bytes => Value::Bytes(value.to_string().into()),
        Kind::String => Value::String(value.as_str().expect("text").to_owned()),
        Kind::Bool => Value::Bool(value.as_bool().expect("a switch")),
        Kind::Int32 => Value::I32(value.as_i64().expect("a number") as i32),
        Kind::Int64 => Value::I64(value.as_i64().expect("a number")),
        Kind::Uint32 => Value::U32(value.as_u64().expect("a number") as u32),
        Kind::Uint64 => Value::U64(value.as_u64().expect("a number")),
        kind => panic!("{kind:?}"),
    }
}

#[test]
fn a_request_means_the_same_in_both_forms() {
    let long = "x".repeat(200);
    for (method, name, json) in [
        (
            "publish",
            "PublishRequest",
            json!({"channel": "a", "data": {"n": 1}, "tags": {"t": "1"},
            "skip_history": true, "delta": true, "idempotency_key": "k", "version": 7,
            "version_epoch": "e"}),
        ),
        ("publish", "PublishRequest", json!({"channel": "a", "b64data": "AAE="})),
        ("publish", "PublishRequest", json!({"channel": "a", "b64data": "no base64"})),
        ("publish", "PublishRequest", json!({"data": {}})),
        ("broadcast", "BroadcastRequest", json!({"channels": ["a", ""], "data": 1})),
        ("broadcast", "BroadcastRequest", json!({"data": 1})),
        (
            "subscribe",
            "SubscribeRequest",
            json!({"channel": "a", "user": "u", "client": "c",
            "session": "s", "info": {"i": 1}, "data": [1], "expire_at": 7_000_000_000_i64,
            "recover_since": {"offset": 3, "epoch": "e"},
            "override": {"presence": {"value": true}, "force_recovery": {"value": false}}}),
        ),
        ("subscribe", "SubscribeRequest", json!({"user": "u"})),
        ("unsubscribe", "UnsubscribeRequest", json!({"channel": "a", "user": "u"})),
        ("unsubscribe", "UnsubscribeRequest", json!({"client": "c", "session": "s"})),
        (
            "disconnect",
            "DisconnectRequest",
            json!({"user": "u", "whitelist": ["c", "d"],
            "disconnect": {"code": 4000, "reason": "r"}}),
        ),
        ("disconnect", "DisconnectRequest", json!({"user": "u"})),
        ("disconnect", "DisconnectRequest", json!({"disconnect": {"code": 2999}})),
        ("disconnect", "DisconnectRequest", json!({"disconnect": {"code": 4000, "reason": long}})),
        (
            "refresh",
            "RefreshRequest",
            json!({"user": "u", "expired": true, "expire_at": -1,
            "info": {"i": 1}}),
        ),
        ("refresh", "RefreshRequest", json!({})),
        ("presence", "PresenceRequest", json!({"channel": "a"})),
        ("presence", "PresenceRequest", json!({})),
        ("presence_stats", "PresenceStatsRequest", json!({"channel": "a"})),
        (
            "history",
            "HistoryRequest",
            json!({"channel": "a", "limit": -1, "reverse": true,
            "since": {"offset": 3, "epoch": "e"}}),
        ),
        ("history", "HistoryRequest", json!({"limit": 3})),
        ("history_remove", "HistoryRemoveRequest", json!({"channel": "a"})),
        ("channels", "ChannelsRequest", json!({"pattern": "a*"})),
        ("channels", "ChannelsRequest", json!({})),
        ("info", "InfoRequest", json!({})),
        ("rpc", "RPCRequest", json!({"method": "m", "params": {"n": 1}})),
        ("rpc", "RPCRequest", json!({})),
    ] {
        let bytes = written(name, &json);
        let ours = match decode(method, bytes) {
            Ok(request) => Ok(request),
            Err(Undecodable::Refused(error)) => Err(error),
            Err(Undecodable::Malformed) => panic!("{method} {json}"),
        };
        let theirs = match ApiRequest::decode(method, json.to_string().as_bytes()) {
            Ok(request) => Ok(request),
            Err(super::super::Undecodable::Refused(error)) => Err(error),
            Err(error) => panic!("{method} {json}: {error}"),
        };
        assert_eq!(ours, theirs, "{method} {json}");
    }
}

#[test]
fn payloads_need_not_be_json_and_lose_line_breaks_if_they_are() {
    let data = |bytes: &'static [u8]| {
        let publish = Publish { channel: "a".to_owned(), data: bytes.into(), ..Publish::default() };
        match decode("publish", publish.encode_to_vec().into()) {
            Ok(ApiRequest::Publish(request)) => request.publication.data,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(data(b"{\"a\":\n1}"), "{\"a\":1}");
    assert_eq!(data(b"\x00\n\xff"), &b"\x00\n\xff"[..]);
    assert_eq!(data(b""), "");
}

#[test]
fn a_batch_has_a_bounded_number_of_commands_each_of_one_method() {
    let batch = |json: &serde_json::Value, most| Batch::decode(written("BatchRequest", json), most);
    let two = json!({"parallel": true, "commands": [
        {"presence": {"channel": "b"}, "publish": {"channel": "a", "data": 1}}, {},
        {"history": {}}, {"info": {}},
    ]});
    let batch_of_two = batch(&two, 4).unwrap_or_else(|_| panic!("it decodes"));
    assert!(batch_of_two.parallel);
    let said = |place: usize| match &batch_of_two.commands[place] {
        Ok(request) => request.method().to_owned(),
        Err(error) => error.code.to_string(),
    };
    assert_eq!([0, 1, 2, 3].map(said), ["publish", "104", "107", "info"]);
    assert!(matches!(batch(&two, 3), Err(Undecodable::Malformed)));
    assert!(batch(&json!({}), 0).is_ok_and(|batch| batch.commands.is_empty()));
}

#[test]
fn what_is_no_message_is_told_from_what_is_too_much() {
    for bytes in
        [&b"\x0a"[..], b"\x0a\x05ab", b"\x0a\x01\xff", b"\xff\xff\xff\xff\xff\xff", b"\x0b"]
    {
        assert!(
            matches!(decode("publish", bytes.into()), Err(Undecodable::Malformed)),
            "{bytes:?}"
        );
        // The same in a batch, as a command to publish.
        let length = bytes.len() as u8;
        let one = [&[0x0a, length + 2, 0x22, length], bytes].concat();
        assert!(Batch::decode(one.into(), 9).is_err(), "{bytes:?}");
    }
    let many = [0x0a, 0].repeat(FIELDS_MAX + 1);
    assert!(matches!(decode("broadcast", many.into()), Err(Undecodable::Malformed)));
    let most = decode("broadcast", [0x0a, 0].repeat(CHANNELS_MAX + 1).into());
    assert!(matches!(most, Err(Undecodable::Refused(error)) if error.code == 106));
    // Unknown fields and those of a newer version are skipped.
    let newer = Bytes::from_static(b"\x0a\x01a\xa2\x06\x02xy\xa8\x06\x01");
    assert!(decode("presence", newer).is_ok());
}

#[test]
fn every_field_of_every_request_in_json() {
    let (mut wrong, mut count) = (Vec::new(), 0);
    for (method, name, base) in [
        ("publish", "Publish", &[("channel", "\"a\""), ("data", "1")][..]),
        ("broadcast", "Broadcast", &[("channels", "[\"a\"]"), ("data", "1")]),
        ("subscribe", "Subscribe", &[("channel", "\"a\""), ("user", "\"u\"")]),
        ("unsubscribe", "Unsubscribe", &[("user", "\"u\"")]),
        ("disconnect", "Disconnect", &[("user", "\"u\"")]),
        ("refresh", "Refresh", &[("user", "\"u\"")]),
        ("presence", "Presence", &[("channel", "\"a\"")]),
        ("presence_stats", "PresenceStats", &[("channel", "\"a\"")]),
        ("history", "History", &[("channel", "\"a\"")]),
        ("history_remove", "HistoryRemove", &[("channel", "\"a\"")]),
        ("channels", "Channels", &[]),
        ("info", "Info", &[]),
        ("rpc", "RPC", &[("method", "\"m\"")]),
    ] {
        let of = message(&format!("{name}Request"));
        // `null` may be published.
        let null_is_a_value = matches!(method, "publish" | "broadcast");
        let rows = Rows { of, base, null_is_a_value, others: &[] };
        let read = |text: &str| match ApiRequest::decode(method, text.as_bytes()) {
            Ok(request) => Some(Ok(request)),
            Err(super::super::Undecodable::Refused(error)) => Some(Err(error)),
            Err(_) => None,
        };
        count += fates::check(&rows, &read, &mut wrong);
    }
    assert!(wrong.is_empty(), "{} of {count} rows:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count > 300, "{count}");
}
