//! Properties of the client protocol's encodings over random messages and random bytes.
//!
//! Commands are written by a second, naive writer (`fuzz/gateway.rs`) and read by ours; replies are
//! written by ours and read by a naive reader below. Also replays the fuzz corpus.

#[path = "../fuzz/gateway.rs"]
mod gateway;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bytes::Bytes;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use prost::Message;
use ringhold::gateway::wire::messages::*;
use ringhold::gateway::wire::{self, Encoding, Envelope, Malformed, Payload, Subject};
use serde_json::Value;

/// Empty half of the time, as most fields are.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[a-z#:]{1,8}", any::<String>()]
}

/// JSON as `serde_json` would print it, so that texts can be compared.
fn raw() -> impl Strategy<Value = Bytes> {
    let texts =
        ["", "null", "0", "-1.5", "\"a\\n\\\"é\"", "[]", "{\"a\":[1,{\"b\":null}]}", "true"];
    select(texts.to_vec()).prop_map(|text| Bytes::from_static(text.as_bytes()))
}

/// A filter is not looked into when a command is decoded. `null` is none.
fn filter() -> impl Strategy<Value = Bytes> {
    raw().prop_filter("absent", |raw| !raw.is_empty() && raw != "null")
}

fn subscribe() -> impl Strategy<Value = SubscribeRequest> {
    let first = (text(), text(), any::<bool>(), text(), any::<u64>(), raw());
    let second =
        (any::<[bool; 3]>(), text(), prop::option::of(filter()), any::<i64>(), any::<i32>());
    (first, second).prop_map(|(first, second)| {
        let (channel, token, recover, epoch, offset, data) = first;
        let ([positioned, recoverable, join_leave], delta, tf, flag, kind) = second;
        SubscribeRequest {
            channel,
            token,
            recover,
            epoch,
            offset,
            data,
            positioned,
            recoverable,
            join_leave,
            delta,
            tf,
            flag,
            kind,
        }
    })
}

fn connect() -> impl Strategy<Value = ConnectRequest> {
    let subs = btree_map(text(), subscribe(), 0..3);
    let headers = btree_map(text(), text(), 0..3);
    let fields = (text(), raw(), subs, text(), text(), headers, any::<i64>());
    fields.prop_map(|(token, data, subs, name, version, headers, flag)| ConnectRequest {
        token,
        data,
        subs,
        name,
        version,
        headers,
        flag,
    })
}

fn history() -> impl Strategy<Value = HistoryRequest> {
    let since = (any::<u64>(), text()).prop_map(|(offset, epoch)| StreamPosition { offset, epoch });
    let fields = (text(), any::<i32>(), prop::option::of(since), any::<bool>());
    fields.prop_map(|(channel, limit, since, reverse)| HistoryRequest {
        channel,
        limit,
        since,
        reverse,
    })
}

/// One request, or none.
fn command() -> impl Strategy<Value = Command> {
    let none = Command::default;
    let request = prop_oneof![
        Just(none()),
        connect().prop_map(move |it| Command { connect: Some(it.into()), ..none() }),
        subscribe().prop_map(move |it| Command { subscribe: Some(it.into()), ..none() }),
        history().prop_map(move |it| Command { history: Some(it), ..none() }),
        (text(), raw(), any::<i32>(), 0..8_u8).prop_map(move |(name, data, kind, which)| {
            let channel = name.clone();
            match which {
                0 => Command { publish: Some(PublishRequest { channel, data, kind }), ..none() },
                1 => Command { unsubscribe: Some(UnsubscribeRequest { channel }), ..none() },
                2 => Command { presence: Some(PresenceRequest { channel }), ..none() },
                3 => Command { presence_stats: Some(PresenceStatsRequest { channel }), ..none() },
                4 => Command { rpc: Some(RpcRequest { data, method: name }), ..none() },
                5 => Command { send: Some(SendRequest { data }), ..none() },
                6 => Command { refresh: Some(RefreshRequest { token: name }), ..none() },
                _ => {
                    let request = SubRefreshRequest { channel, token: name, kind };
                    Command { sub_refresh: Some(request), ..none() }
                }
            }
        }),
    ];
    (any::<u32>(), request).prop_map(|(id, command)| Command { id, ..command })
}

fn info() -> impl Strategy<Value = ClientInfo> {
    let fields = (text(), text(), raw(), raw());
    fields.prop_map(|(user, client, conn_info, chan_info)| ClientInfo {
        user,
        client,
        conn_info,
        chan_info,
    })
}

fn publication() -> impl Strategy<Value = Publication> {
    let tags = btree_map(text(), text(), 0..3);
    let first = (raw(), prop::option::of(info()), any::<u64>(), tags, any::<bool>(), any::<i64>());
    let second = (text(), text(), any::<bool>(), any::<i64>(), text(), any::<u64>());
    (first, second).prop_map(|(first, second)| {
        let (data, info, offset, tags, delta, time) = first;
        let (channel, key, removed, score, epoch, version) = second;
        Publication {
            data,
            info,
            offset,
            tags,
            delta,
            time,
            channel,
            key,
            removed,
            score,
            epoch,
            version,
        }
    })
}

fn subscribed() -> impl Strategy<Value = SubscribeResult> {
    let publications = vec(publication(), 0..3);
    let fields = (any::<[bool; 5]>(), any::<u32>(), text(), publications, any::<u64>(), raw());
    (fields, any::<i64>()).prop_map(|((flags, ttl, epoch, publications, offset, data), id)| {
        let [expires, recoverable, recovered, positioned, was_recovering] = flags;
        SubscribeResult {
            expires,
            ttl,
            recoverable,
            epoch,
            publications,
            recovered,
            offset,
            positioned,
            data,
            was_recovering,
            delta: false,
            id,
        }
    })
}

fn connected() -> impl Strategy<Value = ConnectResult> {
    let subs = btree_map(text(), subscribed(), 0..3);
    let first = (text(), text(), any::<bool>(), any::<u32>(), raw(), subs);
    let second = (any::<u32>(), any::<bool>(), text(), text(), any::<i64>());
    (first, second).prop_map(|(first, second)| {
        let (client, version, expires, ttl, data, subs) = first;
        let (ping, pong, session, node, time) = second;
        ConnectResult { client, version, expires, ttl, data, subs, ping, pong, session, node, time }
    })
}

fn push() -> impl Strategy<Value = Push> {
    let body = prop_oneof![
        publication().prop_map(|it| PushBody::Publication(it.into())),
        prop::option::of(info()).prop_map(|info| PushBody::Join(JoinPush { info })),
        prop::option::of(info()).prop_map(|info| PushBody::Leave(LeavePush { info })),
        connected().prop_map(|it| PushBody::Connect(Box::new(it.into()))),
        raw().prop_map(|data| PushBody::Message(MessagePush { data })),
        (any::<u32>(), text(), any::<bool>(), 0..3_u8).prop_map(|(code, reason, flag, which)| {
            match which {
                0 => PushBody::Unsubscribe(UnsubscribePush { code, reason }),
                1 => PushBody::Disconnect(DisconnectPush { code, reason, reconnect: flag }),
                _ => PushBody::Refresh(RefreshPush { expires: flag, ttl: code }),
            }
        }),
        (any::<[bool; 2]>(), text(), any::<u64>(), raw()).prop_map(
            |(flags, epoch, offset, data)| {
                let [recoverable, positioned] = flags;
                PushBody::Subscribe(SubscribePush { recoverable, epoch, offset, positioned, data })
            }
        ),
    ];
    (any::<i64>(), text(), prop::option::of(body)).prop_map(|(id, channel, body)| Push {
        id,
        channel,
        body,
    })
}

fn reply() -> impl Strategy<Value = Reply> {
    let numbers = (any::<u32>(), any::<u32>(), any::<bool>(), text(), text());
    let body = prop_oneof![
        push().prop_map(|it| ReplyBody::Push(it.into())),
        connected().prop_map(|it| ReplyBody::Connect(it.into())),
        subscribed().prop_map(|it| ReplyBody::Subscribe(it.into())),
        Just(ReplyBody::Unsubscribe(UnsubscribeResult {})),
        Just(ReplyBody::Publish(PublishResult {})),
        btree_map(text(), info(), 0..3)
            .prop_map(|presence| ReplyBody::Presence(PresenceResult { presence })),
        (vec(publication(), 0..3), text(), any::<u64>()).prop_map(
            |(publications, epoch, offset)| {
                ReplyBody::History(HistoryResult { publications, epoch, offset })
            }
        ),
        raw().prop_map(|data| ReplyBody::Rpc(RpcResult { data })),
        (numbers, 0..4_u8).prop_map(|((code, ttl, flag, first, second), which)| match which {
            0 => ReplyBody::Error(ErrorReply { code, message: first, temporary: flag }),
            1 => {
                let stats = PresenceStatsResult { num_clients: code, num_users: ttl };
                ReplyBody::PresenceStats(stats)
            }
            2 => ReplyBody::SubRefresh(SubRefreshResult { expires: flag, ttl }),
            _ => {
                let (client, version) = (first, second);
                ReplyBody::Refresh(RefreshResult { client, version, expires: flag, ttl })
            }
        }),
    ];
    (any::<u32>(), prop::option::of(body)).prop_map(|(id, body)| Reply { id, body })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// A batch of commands is read as it was written, and wherever it is cut, the commands before
    /// the cut are.
    #[test]
    fn commands_survive_json(
        commands in vec(command(), 1..4),
        between in select(vec!["\n", "\n\n", "\r\n", " \n\t"]),
        end in select(vec!["", "\n", " "]),
        cut in any::<Index>(),
    ) {
        let texts: Vec<_> = commands.iter().map(gateway::json_text).collect();
        let text = texts.join(between) + end;
        let decoded: Result<Vec<_>, _> = wire::decode(Encoding::Json, text.as_bytes()).collect();
        prop_assert_eq!(decoded.as_ref(), Ok(&commands));
        let cut = cut.index(text.len());
        // Where each command ends.
        let mut ends: Vec<usize> = Vec::new();
        for text in &texts {
            ends.push(ends.last().map_or(0, |end| end + between.len()) + text.len());
        }
        let whole = ends.iter().filter(|&&end| end <= cut).count();
        let decoded: Vec<_> = wire::decode(Encoding::Json, &text.as_bytes()[..cut]).collect();
        let good: Vec<_> = decoded.iter().filter_map(|it| it.clone().ok()).collect();
        prop_assert_eq!(&good[..], &commands[..whole]);
        let rest = text.as_bytes()[..cut].get(whole.checked_sub(1).map_or(0, |i| ends[i])..);
        let clean = whole > 0 && rest.unwrap_or_default().trim_ascii().is_empty();
        prop_assert_eq!(decoded.len(), whole + !clean as usize);
    }

    #[test]
    fn commands_survive_protobuf(commands in vec(command(), 1..4), cut in any::<Index>()) {
        let frames: Vec<_> =
            commands.iter().map(Message::encode_length_delimited_to_vec).collect();
        let bytes = frames.concat();
        let decoded: Result<Vec<_>, _> = wire::decode(Encoding::Protobuf, &bytes).collect();
        prop_assert_eq!(decoded.as_ref(), Ok(&commands));
        let cut = cut.index(bytes.len());
        let mut ends = Vec::new();
        frames.iter().fold(0, |at, frame| { ends.push(at + frame.len()); at + frame.len() });
        let whole = ends.iter().filter(|&&end| end <= cut).count();
        let decoded: Vec<_> = wire::decode(Encoding::Protobuf, &bytes[..cut]).collect();
        let good: Vec<_> = decoded.iter().filter_map(|it| it.clone().ok()).collect();
        prop_assert_eq!(&good[..], &commands[..whole]);
        let error = match cut {
            0 => Some(Malformed::Empty),
            _ if ends.contains(&cut) => None,
            _ => Some(Malformed::Length),
        };
        prop_assert_eq!(decoded.get(whole).cloned(), error.map(Err));
    }

    /// What a client reads is what was meant, one line each.
    #[test]
    fn replies_survive_json(replies in vec(reply(), 1..4)) {
        let mut batch = Vec::new();
        for reply in &replies {
            wire::encode_reply(Encoding::Json, reply, &mut batch);
        }
        let text = String::from_utf8(batch).unwrap();
        let read: Vec<_> = text.split('\n').map(|line| read_reply(&parse(line))).collect();
        prop_assert_eq!(read, replies);
    }

    #[test]
    fn replies_survive_protobuf(replies in vec(reply(), 1..4)) {
        let mut batch = Vec::new();
        for reply in &replies {
            wire::encode_reply(Encoding::Protobuf, reply, &mut batch);
        }
        let mut rest = &batch[..];
        for reply in replies {
            prop_assert_eq!(Reply::decode_length_delimited(&mut rest).unwrap(), reply);
        }
        prop_assert!(rest.is_empty());
    }

    /// Pushes are the same with and without a reply around them, and a publication is the same
    /// whichever function encodes it.
    #[test]
    fn pushes_are_the_same_in_all_envelopes(push in push(), publication in publication()) {
        for encoding in [Encoding::Json, Encoding::Protobuf] {
            let encode = |envelope, push: &Push| {
                let mut out = Vec::new();
                wire::encode_push(encoding, envelope, push, &mut out);
                out
            };
            let (enclosed, bare) = (encode(Envelope::Reply, &push), encode(Envelope::Bare, &push));
            match encoding {
                Encoding::Json => {
                    prop_assert_eq!([b"{\"push\":", &bare[..], b"}"].concat(), enclosed);
                }
                Encoding::Protobuf => {
                    let reply = Reply::decode_length_delimited(&*enclosed).unwrap();
                    prop_assert_eq!(&Push::decode_length_delimited(&*bare).unwrap(), &push);
                    prop_assert_eq!(reply.body, Some(ReplyBody::Push(push.clone().into())));
                }
            }
            let (id, channel) = (push.id, push.channel.clone());
            let body = Some(PushBody::Publication(publication.clone().into()));
            for (subject, push) in [
                (Subject::Id(id), Push { id, body: body.clone(), ..Push::default() }),
                (Subject::Channel(&push.channel), Push { channel, body, ..Push::default() }),
            ] {
                for envelope in [Envelope::Reply, Envelope::Bare] {
                    let mut out = Vec::new();
                    let payload = Payload::Verbatim;
                    let it = &publication;
                    wire::encode_publication(encoding, envelope, subject, it, payload, &mut out);
                    prop_assert_eq!(out, encode(envelope, &push));
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn arbitrary_bytes(data in vec(any::<u8>(), 0..200)) {
        gateway::json_commands(&data);
        gateway::protobuf_commands(&data);
        gateway::deltas(&data);
    }

    /// Tokens of JSON in any order go deeper.
    #[test]
    fn plausible_json(tokens in vec(select(TOKENS.to_vec()), 0..40)) {
        gateway::json_commands(tokens.concat().as_bytes());
    }

    /// So do commands with a few bytes changed.
    #[test]
    fn damaged_commands(
        command in command(),
        damage in vec((any::<Index>(), any::<u8>()), 1..4),
    ) {
        let (mut text, mut bytes) =
            (gateway::json_text(&command).into_bytes(), command.encode_length_delimited_to_vec());
        for (at, byte) in damage {
            let (in_text, in_bytes) = (at.index(text.len()), at.index(bytes.len()));
            (text[in_text], bytes[in_bytes]) = (byte, byte);
        }
        gateway::json_commands(&text);
        gateway::protobuf_commands(&bytes);
    }
}

const TOKENS: [&str; 27] = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\n",
    " ",
    "{}",
    "null",
    "1",
    "-1",
    "1.5",
    "\"\"",
    "\"k\"",
    "{\"id\":",
    "\"subscribe\":{",
    "\"publish\":{",
    "\"connect\":{",
    "\"data\":",
    "\"channel\":\"c\"",
    "\"tf\":{",
    "\"nodes\":[",
    "\"subs\":{\"c\":{",
    "\"\\u00e9\"",
    "\"\\ud800\"",
    "\r\n",
];

/// Each file of `tests/fuzz/corpus/<target>/` goes through the entry function of its target.
fn replay(target: &str, entry: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let files = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path());
    let mut files: Vec<_> = files.collect();
    files.sort();
    assert!(!files.is_empty(), "{} has seeds", folder.display());
    for file in files {
        // Shown only when the test fails.
        println!("{}", file.display());
        entry(&fs::read(&file).unwrap());
    }
}

#[test]
fn the_corpus_holds() {
    replay("json_commands", gateway::json_commands);
    replay("protobuf_commands", gateway::protobuf_commands);
    replay("deltas", gateway::deltas);
}

fn parse(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// The reading half of a client, which insists on nothing that may be left out.
fn read_reply(value: &Value) -> Reply {
    let body = |key: &str| value.get(key);
    let body = None
        .or(body("error").map(|it| {
            let (code, message) = (uint(it, "code") as u32, string(it, "message"));
            ReplyBody::Error(ErrorReply { code, message, temporary: flag(it, "temporary") })
        }))
        .or(body("push").map(|it| ReplyBody::Push(read_push(it).into())))
        .or(body("connect").map(|it| ReplyBody::Connect(read_connected(it).into())))
        .or(body("subscribe").map(|it| ReplyBody::Subscribe(read_subscribed(it).into())))
        .or(body("unsubscribe").map(|_| ReplyBody::Unsubscribe(UnsubscribeResult {})))
        .or(body("publish").map(|_| ReplyBody::Publish(PublishResult {})))
        .or(body("presence").map(|it| {
            let presence = it["presence"].as_object().unwrap();
            let presence = presence.iter().map(|(id, info)| (id.clone(), read_info(info)));
            ReplyBody::Presence(PresenceResult { presence: presence.collect() })
        }))
        .or(body("presence_stats").map(|it| {
            let number = |key: &str| it[key].as_u64().unwrap() as u32;
            let (num_clients, num_users) = (number("num_clients"), number("num_users"));
            ReplyBody::PresenceStats(PresenceStatsResult { num_clients, num_users })
        }))
        .or(body("history").map(|it| {
            let publications = it["publications"].as_array().unwrap();
            ReplyBody::History(HistoryResult {
                publications: publications.iter().map(read_publication).collect(),
                epoch: it["epoch"].as_str().unwrap().to_owned(),
                offset: it["offset"].as_u64().unwrap(),
            })
        }))
        .or(body("rpc").map(|it| ReplyBody::Rpc(RpcResult { data: read_raw(it, "data") })))
        .or(body("refresh").map(|it| {
            ReplyBody::Refresh(RefreshResult {
                client: string(it, "client"),
                version: string(it, "version"),
                expires: flag(it, "expires"),
                ttl: uint(it, "ttl") as u32,
            })
        }))
        .or(body("sub_refresh").map(|it| {
            let (expires, ttl) = (flag(it, "expires"), uint(it, "ttl") as u32);
            ReplyBody::SubRefresh(SubRefreshResult { expires, ttl })
        }));
    Reply { id: uint(value, "id") as u32, body }
}

fn read_push(value: &Value) -> Push {
    let body = |key: &str| value.get(key);
    let info = |it: &Value| it.get("info").map(read_info);
    let body = None
        .or(body("pub").map(|it| PushBody::Publication(read_publication(it).into())))
        .or(body("join").map(|it| PushBody::Join(JoinPush { info: info(it) })))
        .or(body("leave").map(|it| PushBody::Leave(LeavePush { info: info(it) })))
        .or(body("unsubscribe").map(|it| {
            let (code, reason) = (uint(it, "code") as u32, string(it, "reason"));
            PushBody::Unsubscribe(UnsubscribePush { code, reason })
        }))
        .or(body("message").map(|it| PushBody::Message(MessagePush { data: read_raw(it, "data") })))
        .or(body("subscribe").map(|it| {
            PushBody::Subscribe(SubscribePush {
                recoverable: flag(it, "recoverable"),
                epoch: string(it, "epoch"),
                offset: uint(it, "offset"),
                positioned: flag(it, "positioned"),
                data: read_raw(it, "data"),
            })
        }))
        .or(body("connect").map(|it| PushBody::Connect(Box::new(read_connected(it).into()))))
        .or(body("disconnect").map(|it| {
            let (code, reason) = (uint(it, "code") as u32, string(it, "reason"));
            PushBody::Disconnect(DisconnectPush { code, reason, reconnect: flag(it, "reconnect") })
        }))
        .or(body("refresh").map(|it| {
            let (expires, ttl) = (flag(it, "expires"), uint(it, "ttl") as u32);
            PushBody::Refresh(RefreshPush { expires, ttl })
        }));
    Push { id: int(value, "id"), channel: string(value, "channel"), body }
}

fn read_connected(value: &Value) -> ConnectResult {
    let subs = value.get("subs").and_then(Value::as_object).into_iter().flatten();
    ConnectResult {
        client: string(value, "client"),
        version: string(value, "version"),
        expires: flag(value, "expires"),
        ttl: uint(value, "ttl") as u32,
        data: read_raw(value, "data"),
        subs: subs.map(|(channel, it)| (channel.clone(), read_subscribed(it))).collect(),
        ping: uint(value, "ping") as u32,
        pong: flag(value, "pong"),
        session: string(value, "session"),
        node: string(value, "node"),
        time: int(value, "time"),
    }
}

fn read_subscribed(value: &Value) -> SubscribeResult {
    let publications = value.get("publications").and_then(Value::as_array).into_iter().flatten();
    SubscribeResult {
        expires: flag(value, "expires"),
        ttl: uint(value, "ttl") as u32,
        recoverable: flag(value, "recoverable"),
        epoch: string(value, "epoch"),
        publications: publications.map(read_publication).collect(),
        recovered: flag(value, "recovered"),
        offset: uint(value, "offset"),
        positioned: flag(value, "positioned"),
        data: read_raw(value, "data"),
        was_recovering: flag(value, "was_recovering"),
        delta: flag(value, "delta"),
        id: int(value, "id"),
    }
}

fn read_publication(value: &Value) -> Publication {
    let tags = value.get("tags").and_then(Value::as_object).into_iter().flatten();
    let tags = tags.map(|(key, tag)| (key.clone(), tag.as_str().unwrap().to_owned()));
    Publication {
        data: read_raw(value, "data"),
        info: value.get("info").map(read_info),
        offset: uint(value, "offset"),
        tags: tags.collect::<BTreeMap<_, _>>(),
        delta: flag(value, "delta"),
        time: int(value, "time"),
        channel: string(value, "channel"),
        key: string(value, "key"),
        removed: flag(value, "removed"),
        score: int(value, "score"),
        epoch: string(value, "epoch"),
        version: uint(value, "version"),
    }
}

fn read_info(value: &Value) -> ClientInfo {
    ClientInfo {
        user: value["user"].as_str().unwrap().to_owned(),
        client: value["client"].as_str().unwrap().to_owned(),
        conn_info: read_raw(value, "conn_info"),
        chan_info: read_raw(value, "chan_info"),
    }
}

fn read_raw(value: &Value, key: &str) -> Bytes {
    value.get(key).map(|value| Bytes::from(value.to_string())).unwrap_or_default()
}

fn string(value: &Value, key: &str) -> String {
    value.get(key).map(|it| it.as_str().unwrap().to_owned()).unwrap_or_default()
}

fn uint(value: &Value, key: &str) -> u64 {
    value.get(key).map(|it| it.as_u64().unwrap()).unwrap_or_default()
}

fn int(value: &Value, key: &str) -> i64 {
    value.get(key).map(|it| it.as_i64().unwrap()).unwrap_or_default()
}

fn flag(value: &Value, key: &str) -> bool {
    value.get(key).map(|it| it.as_bool().unwrap()).unwrap_or_default()
}
