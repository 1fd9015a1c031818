//! Bytes written by hand, and framing that does not fit.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

use crate::gateway::wire::messages::*;
use crate::gateway::wire::{self, Encoding, Envelope, Malformed, Payload, Subject};

fn decode(bytes: &[u8]) -> Vec<Result<Command, Malformed>> {
    wire::decode(Encoding::Protobuf, bytes).collect()
}

/// With its length before it.
fn framed(message: &[u8]) -> Vec<u8> {
    [&[message.len() as u8], message].concat()
}

#[test]
fn commands_by_hand() {
    let publish = framed(b"\x08\x03\x3a\x08\x0a\x01c\x12\x03\x00\x01\xff");
    let history = framed(
        b"\x08\x04\x52\x13\x0a\x01c\x38\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x42\x03\x0a\x01e",
    );
    assert_eq!(decode(&history), [Err(Malformed::Protobuf)], "an epoch where the offset is");
    let history = framed(
        b"\x08\x04\x52\x13\x0a\x01c\x38\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x42\x03\x12\x01e",
    );
    let unknown = framed(b"\x12\x02no\x5a\x00\xf8\x07\x01");
    let commands = decode(&[&publish[..], &history, b"\0", &unknown].concat());
    let [publish, history, pong, unknown] =
        <[_; 4]>::try_from(commands).unwrap().map(|command| command.unwrap());
    assert_eq!(publish.id, 3);
    let data = Bytes::from_static(b"\x00\x01\xff");
    assert_eq!(
        publish.into_request(),
        Some(Request::Publish(PublishRequest { channel: "c".into(), data, kind: 0 }))
    );
    let history = history.history.unwrap();
    assert_eq!((history.limit, history.since.unwrap().epoch.as_str()), (-1, "e"));
    assert!(pong.is_pong() && unknown.is_pong());
}

#[test]
fn framing_that_does_not_fit() {
    assert_eq!(decode(b""), [Err(Malformed::Empty)]);
    for (bytes, good, error) in [
        // Cut in the message, in the length, right after the length.
        (&b"\x02\x08"[..], 0, Malformed::Length),
        (b"\x80", 0, Malformed::Length),
        (b"\x00\x02\x08\x01\x05", 2, Malformed::Length),
        // More than 32 bits, and more bytes than those take.
        (b"\xff\xff\xff\xff\x1f", 0, Malformed::Length),
        (b"\x80\x80\x80\x80\x80\x00", 0, Malformed::Length),
        (b"\xff\xff\xff\xff\x0f", 0, Malformed::Length),
        // Not a message.
        (b"\x00\x01\x08", 1, Malformed::Protobuf),
        (b"\x03\x0a\x01c", 0, Malformed::Protobuf),
        (b"\x05\x3a\x03\x0a\x01\xff", 0, Malformed::Protobuf),
    ] {
        let commands = decode(bytes);
        assert_eq!(commands.len(), good + 1, "{bytes:?}");
        assert!(commands[..good].iter().all(Result::is_ok), "{bytes:?}");
        assert_eq!(commands[good], Err(error), "{bytes:?}");
    }
}

#[test]
fn what_is_nested_stays_as_it_came() {
    let node = (0..120).fold(FilterNode::default(), |node, _| FilterNode {
        nodes: vec![node],
        ..FilterNode::default()
    });
    let tf = Some(bytes::Bytes::from(node.encode_to_vec()));
    let subscribe = SubscribeRequest { tf, ..SubscribeRequest::default() };
    let command = Command { subscribe: Some(Box::new(subscribe)), ..Command::default() };
    assert_eq!(decode(&command.encode_length_delimited_to_vec()), [Ok(command)]);
}

#[test]
fn maps_are_counted_before_they_come() {
    let connect = |subs: usize, headers: usize| {
        let name = |n: usize| format!("{n}");
        let connect = ConnectRequest {
            subs: (0..subs).map(|n| (name(n), SubscribeRequest::default())).collect(),
            headers: (0..headers).map(|n| (name(n), String::new())).collect(),
            ..ConnectRequest::default()
        };
        Command { connect: Some(Box::new(connect)), ..Command::default() }
    };
    let decodes = |command: &Command| decode(&command.encode_length_delimited_to_vec())[0].is_ok();
    assert!(decodes(&connect(wire::ENTRIES_MAX, 0)));
    assert!(!decodes(&connect(wire::ENTRIES_MAX + 1, 0)));
    assert!(!decodes(&connect(wire::ENTRIES_MAX / 2, wire::ENTRIES_MAX / 2 + 1)));
    let bare = connect(0, wire::ENTRIES_MAX + 1).connect.unwrap().encode_to_vec();
    assert!(wire::decode_connect(Encoding::Protobuf, &bare).is_err());
}

#[test]
fn replies_by_hand() {
    let mut batch = Vec::new();
    let publish = Reply { id: 3, body: Some(ReplyBody::Publish(PublishResult {})) };
    let score = Publication { score: -1, version: 2, ..Publication::default() };
    let push = Push { id: 1, body: Some(PushBody::Publication(score.into())), ..Push::default() };
    wire::encode_reply(Encoding::Protobuf, &publish, &mut batch);
    wire::encode_ping(Encoding::Protobuf, &mut batch);
    wire::encode_push(Encoding::Protobuf, Envelope::Reply, &push, &mut batch);
    wire::encode_push(Encoding::Protobuf, Envelope::Bare, &push, &mut batch);
    let expected = [
        &b"\x04\x08\x03\x42\x00"[..],
        b"\x00",
        b"\x0b\x22\x09\x08\x01\x22\x05\x68\x01\x80\x01\x02",
        b"\x09\x08\x01\x22\x05\x68\x01\x80\x01\x02",
    ];
    assert_eq!(batch, expected.concat());
}

/// The same fields stand in another order in a push than in a reply.
#[test]
fn connect_has_two_forms() {
    let data = Bytes::from_static(b"d");
    let subs = BTreeMap::from([("c".to_owned(), SubscribeResult::default())]);
    let result =
        ConnectResult { expires: true, ttl: 5, data, subs, ping: 6, ..ConnectResult::default() };
    let push = ConnectPush::from(result.clone());
    assert_eq!(result.encode_to_vec(), b"\x18\x01\x20\x05\x2a\x01d\x32\x03\x0a\x01c\x38\x06");
    assert_eq!(push.encode_to_vec(), b"\x1a\x01d\x22\x03\x0a\x01c\x28\x01\x30\x05\x38\x06");
}

#[test]
fn publications_are_what_prost_makes_of_them() {
    for len in [0, 1, 100, 127, 128, 20_000] {
        let publication = Publication {
            data: Bytes::from(vec![b'x'; len]),
            info: Some(ClientInfo { user: "u".into(), ..ClientInfo::default() }),
            offset: 1 << 40,
            ..Publication::default()
        };
        for (subject, id, channel) in [
            (Subject::Channel("news"), 0, "news"),
            (Subject::Channel(""), 0, ""),
            (Subject::Id(300), 300, ""),
            (Subject::Id(0), 0, ""),
        ] {
            let patch = Bytes::from_static(b"a patch");
            let patched = Publication { data: patch.clone(), delta: true, ..publication.clone() };
            for (payload, carried) in [
                (Payload::Verbatim, &publication),
                (Payload::Text, &publication),
                (Payload::Patch(&patch), &patched),
            ] {
                let body = Some(PushBody::Publication(Box::new(carried.clone())));
                let push = Push { id, channel: channel.into(), body };
                let body = Some(ReplyBody::Push(Box::new(push.clone())));
                let reply = Reply { id: 0, body };
                let mut out = Vec::new();
                let (encoding, envelopes) = (Encoding::Protobuf, [Envelope::Reply, Envelope::Bare]);
                for envelope in envelopes {
                    wire::encode_publication(
                        encoding,
                        envelope,
                        subject,
                        &publication,
                        payload,
                        &mut out,
                    );
                }
                let mut expected = reply.encode_length_delimited_to_vec();
                expected.extend(push.encode_length_delimited_to_vec());
                assert_eq!(out, expected);
            }
        }
    }
}
