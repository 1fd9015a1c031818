//! What the fuzz targets of the gateway run on their bytes. `cargo test` replays the corpus through
//! the same functions (`tests/gateway/wire_properties.rs`), so a finding stays found.

use std::collections::BTreeMap;

use ringhold::gateway::delta;
use ringhold::gateway::filter::Filter;
use ringhold::gateway::wire::messages::{
    Command, ConnectRequest, Reply, ReplyBody, RpcResult, SubscribeRequest,
};
use ringhold::gateway::wire::{self, Encoding, Malformed};

/// A WebSocket message of a JSON client.
pub(crate) fn json_commands(data: &[u8]) {
    for command in commands(Encoding::Json, data) {
        for raw in raw_fields(&command) {
            assert!(raw.is_empty() || (wire::is_json(raw) && one_line(raw)));
            embed(raw);
        }
        let text = json_text(&command);
        assert!(commands(Encoding::Json, text.as_bytes()).iter().eq([&command]), "{text}");
        same_in_protobuf(&command);
    }
    if let Ok(request) = wire::decode_emulation(Encoding::Json, data) {
        commands(Encoding::Json, &request.data);
    }
    if let Ok(request) = wire::decode_connect(Encoding::Json, data) {
        let text = connect_text(&request);
        assert_eq!(wire::decode_connect(Encoding::Json, text.as_bytes()), Ok(request));
    }
    if serde_json::from_slice::<serde_json::Value>(data).is_ok() {
        assert!(wire::is_json(data));
    }
    if wire::is_json(data) {
        embed(data);
    }
}

/// A WebSocket message of a Protobuf client, and of the server to one.
pub(crate) fn protobuf_commands(data: &[u8]) {
    for command in commands(Encoding::Protobuf, data) {
        same_in_protobuf(&command);
    }
    let _ = wire::decode_emulation(Encoding::Protobuf, data);
    let _ = wire::decode_connect(Encoding::Protobuf, data);
    if let Ok(reply) = <Reply as prost::Message>::decode(data) {
        let mut out = Vec::new();
        wire::encode_reply(Encoding::Protobuf, &reply, &mut out);
        let decoded = <Reply as prost::Message>::decode_length_delimited(&*out);
        assert_eq!(decoded.as_ref(), Ok(&reply));
        // Payloads may not be JSON here, so neither is all of it. Its lines are.
        out.clear();
        wire::encode_reply(Encoding::Json, &reply, &mut out);
        assert!(out.starts_with(b"{") && out.ends_with(b"}") && one_line(&out));
    }
}

/// A base and a target or patch: two bytes say where the first ends.
pub(crate) fn deltas(data: &[u8]) {
    let Some((&[high, low], rest)) = data.split_first_chunk::<2>() else { return };
    let at = usize::from(u16::from_be_bytes([high, low]));
    let (base, other) = rest.split_at(at.min(rest.len()));
    if let Ok(target) = delta::apply(base, other, 1000) {
        assert!(target.len() <= 1000);
    }
    let patch = delta::create(base, other);
    assert_eq!(delta::apply(base, &patch, other.len()).as_deref(), Ok(other));
    if let Some(patch) = delta::text_patch(base, other) {
        assert!(delta::is_text(&patch) && patch.len() < other.len());
        assert_eq!(delta::apply(base, &patch, other.len()).as_deref(), Ok(other));
    }
}

/// What is decoded before an error, if there is one; nothing comes after it.
fn commands(encoding: Encoding, data: &[u8]) -> Vec<Command> {
    let mut decoded = wire::decode(encoding, data);
    let mut commands = Vec::new();
    for command in &mut decoded {
        match command {
            Ok(command) => commands.push(command),
            Err(error) => {
                assert!(error != Malformed::Empty || data.trim_ascii().is_empty());
                break;
            }
        }
    }
    assert_eq!(decoded.next(), None);
    for command in &commands {
        let tf = command.subscribe.as_ref().and_then(|it| it.tf.as_ref());
        if let Some(filter) = tf.and_then(|tf| Filter::decode(encoding, tf).ok()) {
            let tags = [("k", "1"), ("", "")].map(|(key, tag)| (key.into(), tag.into()));
            filter.matches(&BTreeMap::<String, String>::from(tags));
        }
    }
    commands
}

fn same_in_protobuf(command: &Command) {
    let bytes = prost::Message::encode_length_delimited_to_vec(command);
    assert!(commands(Encoding::Protobuf, &bytes).iter().eq([command]), "{command:?}");
}

/// A JSON value makes a JSON reply of one line.
fn embed(raw: &[u8]) {
    let mut out = Vec::new();
    let data = bytes::Bytes::copy_from_slice(raw);
    let body = Some(ReplyBody::Rpc(RpcResult { data }));
    wire::encode_reply(Encoding::Json, &Reply { id: 1, body }, &mut out);
    assert!(one_line(&out));
    // Two levels are ours.
    assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&out).is_ok());
}

fn one_line(bytes: &[u8]) -> bool {
    !bytes.iter().any(|byte| matches!(byte, b'\n' | b'\r'))
}

fn raw_fields(command: &Command) -> Vec<&[u8]> {
    let mut raw: Vec<&[u8]> = Vec::new();
    if let Some(connect) = &command.connect {
        raw.push(&connect.data);
        raw.extend(connect.subs.values().map(|subscribe| &*subscribe.data));
    }
    raw.extend(command.subscribe.iter().map(|it| &*it.data));
    raw.extend(command.publish.iter().map(|it| &*it.data));
    raw.extend(command.rpc.iter().map(|it| &*it.data));
    raw.extend(command.send.iter().map(|it| &*it.data));
    raw
}

/// A command as a client writes it.
pub(crate) fn json_text(command: &Command) -> String {
    let channel = |channel: &String| object([text("channel", channel)]);
    let fields = [
        number("id", command.id),
        optional("connect", &command.connect, |it| connect_text(it)),
        optional("subscribe", &command.subscribe, |it| subscribe_text(it)),
        optional("unsubscribe", &command.unsubscribe, |it| channel(&it.channel)),
        optional("publish", &command.publish, |it| {
            let kind = number("type", it.kind);
            object([text("channel", &it.channel), raw("data", &it.data), kind])
        }),
        optional("presence", &command.presence, |it| channel(&it.channel)),
        optional("presence_stats", &command.presence_stats, |it| channel(&it.channel)),
        optional("history", &command.history, |it| {
            object([
                text("channel", &it.channel),
                number("limit", it.limit),
                optional("since", &it.since, |since| {
                    object([number("offset", since.offset), text("epoch", &since.epoch)])
                }),
                number("reverse", it.reverse),
            ])
        }),
        optional("rpc", &command.rpc, |it| {
            object([text("method", &it.method), raw("data", &it.data)])
        }),
        optional("send", &command.send, |it| object([raw("data", &it.data)])),
        optional("refresh", &command.refresh, |it| object([text("token", &it.token)])),
        optional("sub_refresh", &command.sub_refresh, |it| {
            let kind = number("type", it.kind);
            object([text("channel", &it.channel), text("token", &it.token), kind])
        }),
    ];
    object(fields)
}

fn connect_text(it: &ConnectRequest) -> String {
    object([
        text("token", &it.token),
        raw("data", &it.data),
        Some(format!("\"subs\":{}", map(&it.subs, subscribe_text))),
        text("name", &it.name),
        text("version", &it.version),
        Some(format!("\"headers\":{}", map(&it.headers, |value| string(value)))),
        number("flag", it.flag),
    ])
}

fn subscribe_text(it: &SubscribeRequest) -> String {
    object([
        text("channel", &it.channel),
        text("token", &it.token),
        number("recover", it.recover),
        text("epoch", &it.epoch),
        number("offset", it.offset),
        raw("data", &it.data),
        number("positioned", it.positioned),
        number("recoverable", it.recoverable),
        number("join_leave", it.join_leave),
        text("delta", &it.delta),
        it.tf.as_ref().and_then(|tf| raw("tf", tf)),
        number("flag", it.flag),
        number("type", it.kind),
    ])
}

fn object<const N: usize>(fields: [Option<String>; N]) -> String {
    format!("{{{}}}", fields.into_iter().flatten().collect::<Vec<_>>().join(","))
}

fn map<T>(map: &BTreeMap<String, T>, value: impl Fn(&T) -> String) -> String {
    let entries = map.iter().map(|(key, it)| format!("{}:{}", string(key), value(it)));
    format!("{{{}}}", entries.collect::<Vec<_>>().join(","))
}

fn string(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

fn text(key: &str, text: &str) -> Option<String> {
    Some(format!("\"{key}\":{}", string(text)))
}

/// A number, or a boolean.
fn number(key: &str, number: impl std::fmt::Display) -> Option<String> {
    Some(format!("\"{key}\":{number}"))
}

fn raw(key: &str, raw: &[u8]) -> Option<String> {
    (!raw.is_empty()).then(|| format!("\"{key}\":{}", std::str::from_utf8(raw).unwrap()))
}

fn optional<T>(key: &str, value: &Option<T>, text: impl Fn(&T) -> String) -> Option<String> {
    value.as_ref().map(|value| format!("\"{key}\":{}", text(value)))
}
