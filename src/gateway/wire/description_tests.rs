//! The messages against `client.proto`, each field of each, in both encodings; and each field of
//! each request in JSON, whatever it is.

use prost::Message as _;
use prost_reflect::{
    DescriptorPool, DynamicMessage, Kind, MessageDescriptor, ReflectMessage, Value,
};
use serde_json::{Map, json};

use super::messages::*;
use super::{Encoding, Envelope, decode, decode_emulation, encode_push, encode_reply};
use crate::gateway::api::protobuf::tests::{full, hold};
use crate::gateway::fates::{self, Rows};

fn pool() -> DescriptorPool {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/gateway/wire");
    let set = protox::compile(["client.proto"], [folder]).expect("it compiles");
    DescriptorPool::from_file_descriptor_set(set).expect("it holds together")
}

fn message(name: &str) -> MessageDescriptor {
    let name = format!("centrifugal.centrifuge.protocol.{name}");
    pool().get_message_by_name(&name).unwrap_or_else(|| panic!("{name}"))
}

#[test]
fn messages_are_those_of_the_description() {
    hold::<ErrorReply>(message("Error"));
    hold::<EmulationRequest>(message("EmulationRequest"));
    hold::<Command>(message("Command"));
    hold::<ClientInfo>(message("ClientInfo"));
    hold::<Publication>(message("Publication"));
    hold::<JoinPush>(message("Join"));
    hold::<LeavePush>(message("Leave"));
    hold::<UnsubscribePush>(message("Unsubscribe"));
    hold::<SubscribePush>(message("Subscribe"));
    hold::<MessagePush>(message("Message"));
    hold::<ConnectPush>(message("Connect"));
    hold::<DisconnectPush>(message("Disconnect"));
    hold::<RefreshPush>(message("Refresh"));
    hold::<FilterNode>(message("FilterNode"));
    hold::<StreamPosition>(message("StreamPosition"));
}

/// A message of this description with this field alone, and its number.
fn with_one(of: &MessageDescriptor, name: &str) -> DynamicMessage {
    let mut one = DynamicMessage::new(of.clone());
    let field = of.get_field_by_name(name).expect("it");
    one.set_field(&field, full(of.clone()).get_field(&field).into_owned());
    let number = if of.name() == "Reply" { Value::U32(7) } else { Value::I64(7) };
    one.set_field_by_name("id", number);
    one
}

/// What the client of a JSON connection expects of a message.
fn expected(message: &DynamicMessage) -> serde_json::Value {
    let mut object = Map::new();
    for field in message.descriptor().fields().filter(|field| message.has_field(field)) {
        object.insert(field.name().to_owned(), of_value(&message.get_field(&field)));
    }
    // Where payloads may be deltas, all are text.
    if message.descriptor().name() == "SubscribeResult"
        && object.get("delta") == Some(&json!(true))
        && let Some(all) = object.get_mut("publications").and_then(|it| it.as_array_mut())
    {
        for publication in all {
            publication["data"] = json!(publication["data"].to_string());
        }
    }
    object.into()
}

fn of_value(value: &Value) -> serde_json::Value {
    match value {
        Value::Bool(it) => json!(it),
        Value::I32(it) => json!(it),
        Value::I64(it) => json!(it),
        Value::U32(it) => json!(it),
        Value::U64(it) => json!(it),
        Value::String(it) => json!(it),
        Value::Bytes(it) => serde_json::from_slice(it).expect("payloads here are JSON"),
        Value::Message(it) => expected(it),
        Value::List(all) => all.iter().map(of_value).collect(),
        Value::Map(all) => {
            let pair = |(key, value): (&prost_reflect::MapKey, &Value)| {
                (key.as_str().expect("text").to_owned(), of_value(value))
            };
            all.iter().map(pair).collect::<Map<_, _>>().into()
        }
        other => panic!("{other:?}"),
    }
}

/// Each thing that a reply or push can say, whole, in both encodings.
#[test]
fn what_is_said_has_every_field() {
    let (reply, push) = (message("Reply"), message("Push"));
    let mut count = 0;
    for field in reply.fields().filter(|field| field.name() != "id") {
        let whole = match field.name() {
            // One of its own at a time: below.
            "push" => continue,
            name => with_one(&reply, name),
        };
        let ours = Reply::decode(&whole.encode_to_vec()[..]).expect("a reply");
        let again = DynamicMessage::decode(reply.clone(), &ours.encode_to_vec()[..]);
        assert_eq!(again.expect("a reply"), whole, "{}", field.name());
        let mut text = Vec::new();
        encode_reply(Encoding::Json, &ours, &mut text);
        let said: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        let mut wanted = expected(&whole);
        if field.kind() == Kind::Message(message("UnsubscribeResult")) {
            wanted["unsubscribe"] = json!({});
        }
        assert_eq!(said, wanted, "{}", field.name());
        count += 1;
    }
    for field in push.fields().filter(|field| !["id", "channel"].contains(&field.name())) {
        let mut whole = with_one(&push, field.name());
        whole.set_field_by_name("channel", Value::String("c".to_owned()));
        let ours = Push::decode(&whole.encode_to_vec()[..]).expect("a push");
        let again = DynamicMessage::decode(push.clone(), &ours.encode_to_vec()[..]);
        assert_eq!(again.expect("a push"), whole, "{}", field.name());
        for (envelope, wanted) in [
            (Envelope::Bare, expected(&whole)),
            (Envelope::Reply, json!({"push": expected(&whole)})),
        ] {
            let mut text = Vec::new();
            encode_push(Encoding::Json, envelope, &ours, &mut text);
            let said: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
            assert_eq!(said, wanted, "{}", field.name());
            count += 1;
        }
    }
    assert_eq!(count, 11 + 2 * 9);
}

/// Of each request each field in JSON; and the whole means what it means in Protobuf.
#[test]
fn every_field_of_every_request() {
    let one = |text: &str| {
        let mut all = decode(Encoding::Json, text.as_bytes());
        let first = all.next()?.ok()?;
        assert!(all.next().is_none());
        Some(first)
    };
    let (command, mut wrong, mut count) = (message("Command"), Vec::new(), 0);
    for field in command.fields() {
        let Kind::Message(of) = field.kind() else { continue };
        let name = field.name();
        // What is there in any case makes a command of it. A filter is looked at when it is used.
        let rows = Rows { of: of.clone(), base: &[], null_is_a_value: true, others: &["tf"] };
        let read = |text: &str| one(&format!("{{\"id\":1,\"{name}\":{text}}}"));
        count += fates::check(&rows, &read, &mut wrong);
        let whole = full(of);
        let text = expected(&whole).to_string();
        let mut theirs = DynamicMessage::new(command.clone());
        theirs.set_field_by_name("id", Value::U32(1));
        theirs.set_field(&field, Value::Message(whole));
        let theirs = Command::decode(&theirs.encode_to_vec()[..]).expect("a command");
        let ours = read(&text).expect("a command");
        if let (Some(ours), Some(theirs)) = (&ours.subscribe, &theirs.subscribe) {
            // Kept as it came, in either encoding.
            let (mut ours, mut theirs) = ((**ours).clone(), (**theirs).clone());
            assert!(ours.tf.take().is_some() && theirs.tf.take().is_some());
            assert_eq!(ours, theirs);
        } else if name != "connect" {
            assert_eq!(ours, theirs, "{name}");
        }
    }
    let rows = Rows {
        of: command.clone(),
        base: &[("unsubscribe", "{\"channel\":\"a\"}")],
        null_is_a_value: true,
        // Messages inside are those above.
        others: &[
            "connect",
            "subscribe",
            "unsubscribe",
            "publish",
            "presence",
            "presence_stats",
            "history",
            "send",
            "rpc",
            "refresh",
            "sub_refresh",
        ],
    };
    count += fates::check(&rows, &one, &mut wrong);
    let emulation = message("EmulationRequest");
    // Commands there are text.
    let rows = Rows { of: emulation, base: &[], null_is_a_value: true, others: &["data"] };
    let read = |text: &str| decode_emulation(Encoding::Json, text.as_bytes()).ok();
    count += fates::check(&rows, &read, &mut wrong);
    assert!(wrong.is_empty(), "{} of {count} rows:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count > 300, "{count}");
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number > 0x7f {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// Of each request each field in Protobuf: zero, huge, twice, of another kind, cut off.
#[test]
fn every_field_of_every_request_in_protobuf() {
    let mut count = 0;
    for request in message("Command").fields() {
        let Kind::Message(of) = request.kind() else { continue };
        let read = |fields: &[Vec<u8>]| {
            let body = fields.concat();
            let key = varint(u64::from(request.number()) << 3 | 2);
            let command = [&[8, 1][..], &key, &varint(body.len() as u64), &body].concat();
            let framed = [varint(command.len() as u64), command].concat();
            let mut all = decode(Encoding::Protobuf, &framed);
            let first = all.next().expect("one").ok();
            assert!(all.next().is_none());
            first
        };
        let nothing = read(&[]).expect("a command");
        for field in of.fields() {
            let name = format!("{}.{}", of.name(), field.name());
            let of_wire = |wire: u64, value: &[u8]| {
                [&varint(u64::from(field.number()) << 3 | wire)[..], value].concat()
            };
            let is_number = !matches!(field.kind(), Kind::String | Kind::Bytes | Kind::Message(_));
            let (wire, values): (u64, [Vec<u8>; 3]) = match is_number {
                true => (0, [varint(0), varint(1), varint(u64::MAX)]),
                false => (2, [varint(0), vec![3, 10, 1, b'a'], vec![3, 10, 1, b'b']]),
            };
            let [zero, one, other] = values.map(|value| of_wire(wire, &value));
            let inside = matches!(field.kind(), Kind::Message(_));
            if inside {
                // What is inside has rules of its own; that it is there is all.
                assert_ne!(read(std::slice::from_ref(&zero)).expect(&name), nothing, "{name}");
            } else {
                assert_eq!(read(std::slice::from_ref(&zero)).as_ref(), Some(&nothing), "{name}");
                for last in [&zero, &other] {
                    let twice = read(&[one.clone(), last.clone()]);
                    assert_eq!(twice, read(std::slice::from_ref(last)), "{name}");
                    assert!(twice.is_some(), "{name}");
                }
            }
            for wrong in [of_wire(5, &[0; 4]), of_wire(1, &[0; 8]), of_wire(wire, &[])] {
                assert_eq!(read(&[wrong]), None, "{name}");
            }
            count += 7;
        }
        // A field of another version of the protocol.
        assert_eq!(read(&[vec![0xfa, 0x3e, 1, b'x']]), Some(nothing), "{}", of.name());
    }
    assert!(count > 200, "{count}");
}
