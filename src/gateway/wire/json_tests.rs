//! What SDKs send, what they are sent, and what is refused.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::gateway::wire::messages::*;
use crate::gateway::wire::{
    self, Encoding, Envelope, Error, Malformed, Payload, Subject, codes, raw,
};

fn decode(text: &str) -> Vec<Result<Command, Malformed>> {
    wire::decode(Encoding::Json, text.as_bytes()).collect()
}

/// The one command in this text.
fn one(text: &str) -> Command {
    let [Ok(command)] = <[_; 1]>::try_from(decode(text)).unwrap() else { panic!("{text}") };
    command
}

fn fails(text: &str) {
    assert_eq!(decode(text), [Err(Malformed::Json)], "{text}");
}

fn reply(id: u32, body: ReplyBody) -> String {
    let mut out = Vec::new();
    wire::encode_reply(Encoding::Json, &Reply { id, body: Some(body) }, &mut out);
    String::from_utf8(out).unwrap()
}

fn push(channel: &str, body: PushBody) -> String {
    let mut out = Vec::new();
    let push = Push { channel: channel.into(), body: Some(body), ..Push::default() };
    wire::encode_push(Encoding::Json, Envelope::Bare, &push, &mut out);
    String::from_utf8(out).unwrap()
}

fn json(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn info() -> ClientInfo {
    ClientInfo { user: "u".into(), client: "c".into(), ..ClientInfo::default() }
}

#[test]
fn what_javascript_sends() {
    let connect = r#"{"connect":{"token":"t","data":{"a":[1, 2]},"name":"js"},"id":1}"#;
    let request = ConnectRequest {
        token: "t".into(),
        data: json(r#"{"a":[1, 2]}"#),
        name: "js".into(),
        ..ConnectRequest::default()
    };
    assert_eq!(one(connect).id, 1);
    assert_eq!(one(connect).into_request(), Some(Request::Connect(Box::new(request))));

    let subscribe = r#"{"subscribe":{"channel":"chat:1","recover":true,"epoch":"xyzq","offset":41,
        "delta":"fossil","flag":1,"tf":{"op":"not","nodes":[{"key":"k","cmp":"in","vals":["a"]}]}},
        "id":2}"#;
    let request = SubscribeRequest {
        channel: "chat:1".into(),
        recover: true,
        epoch: "xyzq".into(),
        offset: 41,
        delta: "fossil".into(),
        flag: SubscribeRequest::FLAG_COMPACT,
        tf: Some(json(r#"{"op":"not","nodes":[{"key":"k","cmp":"in","vals":["a"]}]}"#)),
        ..SubscribeRequest::default()
    };
    assert_eq!(one(subscribe).into_request(), Some(Request::Subscribe(Box::new(request))));

    let commands = decode(concat!(
        r#"{"publish":{"channel":"c","data":"\u00e9\n"},"id":3}"#,
        "\n",
        r#"{"history":{"channel":"c","limit":-1,"reverse":true,"#,
        r#""since":{"offset":18446744073709551615,"epoch":"e"}},"id":4294967295}"#,
        "\n",
        r#"{"rpc":{"method":"m","data":null},"id":5}"#,
        "\n",
        r#"{"send":{"data":17}}"#,
        "\n{}\n",
    ));
    let requests: Vec<_> = commands.into_iter().map(|it| it.unwrap().into_request()).collect();
    let since = StreamPosition { offset: u64::MAX, epoch: "e".into() };
    let publish =
        PublishRequest { channel: "c".into(), data: json(r#""\u00e9\n""#), ..Default::default() };
    assert_eq!(
        requests,
        [
            Some(Request::Publish(publish)),
            Some(Request::History(HistoryRequest {
                channel: "c".into(),
                limit: -1,
                since: Some(since),
                reverse: true,
            })),
            Some(Request::Rpc(RpcRequest { method: "m".into(), data: json("null") })),
            Some(Request::Send(SendRequest { data: json("17") })),
            None,
        ]
    );
}

#[test]
fn what_is_left_of_the_requests() {
    let request = |text: &str| one(text).into_request().unwrap();
    let channel = || "c".to_owned();
    assert_eq!(
        request(r#"{"id":1,"unsubscribe":{"channel":"c"}}"#),
        Request::Unsubscribe(UnsubscribeRequest { channel: channel() })
    );
    assert_eq!(
        request(r#"{"id":1,"presence":{"channel":"c"}}"#),
        Request::Presence(PresenceRequest { channel: channel() })
    );
    assert_eq!(
        request(r#"{"id":1,"presence_stats":{"channel":"c"}}"#),
        Request::PresenceStats(PresenceStatsRequest { channel: channel() })
    );
    assert_eq!(
        request(r#"{"id":1,"refresh":{"token":"t"}}"#),
        Request::Refresh(RefreshRequest { token: "t".into() })
    );
    assert_eq!(
        request(r#"{"id":1,"sub_refresh":{"channel":"c","token":"t","type":1}}"#),
        Request::SubRefresh(SubRefreshRequest { channel: channel(), token: "t".into(), kind: 1 })
    );
    // The first in the protocol's order, whatever the order in the text.
    assert_eq!(
        request(r#"{"send":{},"rpc":{},"publish":{}}"#),
        Request::Publish(PublishRequest::default())
    );
    assert_eq!(request(r#"{"send":{},"rpc":{}}"#), Request::Rpc(RpcRequest::default()));
}

#[test]
fn nothing_and_null_are_the_same() {
    let empty = one(r#"{"id":1,"subscribe":{"channel":""}}"#);
    let nulls = r#"{"id":1,"connect":null,"publish":null,"error":null,"subscribe":{"channel":null,
        "token":null,"recover":null,"offset":null,"flag":null,"tf":null,"type":null}}"#;
    assert_eq!(one(nulls), empty);
    assert_eq!(
        one(r#"{"connect":{"subs":null,"headers":null}}"#).into_request(),
        Some(Request::Connect(Box::default()))
    );
    for pong in ["{}", " {} ", "{}\n", "\n{}", "{ }", r#"{"id":0}"#, r#"{"ping":{}}"#] {
        assert!(one(pong).is_pong(), "{pong}");
    }
    assert!(!one(r#"{"id":1}"#).is_pong());
    assert!(!one(r#"{"send":{}}"#).is_pong());
}

#[test]
fn unknown_fields_are_skipped() {
    let text = r#"{"id":1,"x":[{"y":"}"}],"refresh":{"token":"t","z":{"a":[1e400,"\u00e9"]}}}"#;
    let request = RefreshRequest { token: "t".into() };
    assert_eq!(one(text).into_request(), Some(Request::Refresh(request)));
    // Not even their depth matters: whatever skips them does not recurse.
    one(&format!(r#"{{"x":{}{}}}"#, "[".repeat(20_000), "]".repeat(20_000)));
}

#[test]
fn commands_before_a_malformed_one_are_there() {
    for (text, good) in [
        ("{}\n{", 1),
        ("{}\n{}\n{\"id\":-1}\n{}", 2),
        ("{\"id\":1}{\"id\":2}", 0),
        ("{}{}", 0),
        ("{} {}", 0),
        ("{}\n{} x", 1),
        ("{\"id\":1}\nnull", 1),
    ] {
        let commands = decode(text);
        assert_eq!(commands.len(), good + 1, "{text}");
        assert!(commands[..good].iter().all(Result::is_ok), "{text}");
        assert_eq!(commands[good], Err(Malformed::Json), "{text}");
    }
    assert_eq!(decode(""), [Err(Malformed::Empty)]);
    assert_eq!(decode(" \n"), [Err(Malformed::Empty)]);
}

#[test]
fn wrong_kinds_are_malformed() {
    for text in [
        "null",
        "[]",
        "[1]",
        "1",
        "\"\"",
        "{\"id\":1",
        r#"{"id":"1"}"#,
        r#"{"id":1.5}"#,
        r#"{"id":4294967296}"#,
        r#"{"id":-1}"#,
        r#"{"id":01}"#,
        r#"{"connect":1}"#,
        r#"{"connect":{"token":1}}"#,
        r#"{"subscribe":{"offset":"41"}}"#,
        r#"{"subscribe":{"offset":-1}}"#,
        r#"{"subscribe":{"recover":1}}"#,
        r#"{"subscribe":{"flag":9223372036854775808}}"#,
        r#"{"publish":{"data":}}"#,
        r#"{"publish":{"data":nul}}"#,
        r#"{"publish":{"data":{"a" 1}}}"#,
        r#"{"publish":{"data":01}}"#,
        "{\"publish\":{\"data\":\"a\nb\"}}",
        "{\"publish\":{\"channel\":\"\u{1}\"}}",
    ] {
        fails(text);
    }
    let not_text = b"{\"publish\":{\"data\":\"\xff\"}}";
    let decoded: Vec<_> = wire::decode(Encoding::Json, not_text).collect();
    assert_eq!(decoded, [Err(Malformed::Json)]);
}

#[test]
fn nesting_is_bounded() {
    let data = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let publish = |depth| format!(r#"{{"publish":{{"data":{}}}}}"#, data(depth));
    assert!(decode(&publish(raw::DEPTH_MAX))[0].is_ok());
    fails(&publish(raw::DEPTH_MAX + 1));
    fails(&publish(30_000));
    assert!(wire::is_json(data(raw::DEPTH_MAX).as_bytes()));
    assert!(!wire::is_json(data(raw::DEPTH_MAX + 1).as_bytes()));
    // Wide is fine, and brackets in strings are none.
    assert!(wire::is_json(format!("[{}1]", "[],".repeat(10_000)).as_bytes()));
    assert!(wire::is_json(format!("\"{}\\\"{}\"", "[".repeat(500), "{".repeat(500)).as_bytes()));

    let nodes = |depth| format!("{}{}", r#"{"nodes":["#.repeat(depth), "]}".repeat(depth));
    let filter = |depth| format!(r#"{{"subscribe":{{"tf":{}}}}}"#, nodes(depth));
    // Two levels each; how deep a filter may be is for who compiles it.
    assert!(decode(&filter(raw::DEPTH_MAX / 2))[0].is_ok());
    fails(&filter(raw::DEPTH_MAX / 2 + 1));
    fails(&filter(raw::DEPTH_MAX));
}

#[test]
fn maps_are_counted_while_they_come() {
    for map in ["subs", "headers"] {
        let value = if map == "subs" { "{}" } else { "\"\"" };
        let entries = |count: usize| {
            let entries: Vec<_> = (0..count).map(|n| format!("\"{n}\":{value}")).collect();
            format!(r#"{{"id":1,"connect":{{"{map}":{{{}}}}}}}"#, entries.join(","))
        };
        assert!(decode(&entries(wire::ENTRIES_MAX))[0].is_ok());
        fails(&entries(wire::ENTRIES_MAX + 1));
    }
}

#[test]
fn line_breaks_do_not_get_into_payloads() {
    let text = "{\r\n \"publish\": {\"data\": {\n\t\"a\":\r\n [1,\n2] , \"b\":\"\\n\"\n}\n}\n}\n";
    let data = one(text).publish.unwrap().data;
    assert_eq!(data, "{\t\"a\": [1,2] , \"b\":\"\\n\"}");
    // Where somebody else did not take them out, encoding does.
    let data = json("{\r\n\"a\": [1,\n2]}");
    assert_eq!(
        reply(1, ReplyBody::Rpc(RpcResult { data })),
        r#"{"id":1,"rpc":{"data":{"a": [1,2]}}}"#
    );
}

#[test]
fn what_is_json() {
    for text in ["0", "-1.5e+3", "\"\"", "null", " true ", "[]", "{\"a\":{}}\n", "\"\\ud800\""] {
        assert!(wire::is_json(text.as_bytes()), "{text}");
    }
    for text in [
        "", " ", "nul", "+1", ".5", "1 2", "{}{}", "{},", "{a:1}", "'a'", "\"", "\"\t\"", "[1,]",
        "\"\\x\"", "NaN",
    ] {
        assert!(!wire::is_json(text.as_bytes()), "{text}");
    }
    assert!(!wire::is_json(b"\"\xc3\""));
    assert!(!wire::is_json(b"\xef\xbb\xbf1"));
}

#[test]
fn empty_results_are_there() {
    for (body, text) in [
        (ReplyBody::Connect(Box::default()), r#"{"id":7,"connect":{}}"#),
        (ReplyBody::Subscribe(Box::default()), r#"{"id":7,"subscribe":{}}"#),
        (ReplyBody::Unsubscribe(UnsubscribeResult {}), r#"{"id":7,"unsubscribe":{}}"#),
        (ReplyBody::Publish(PublishResult {}), r#"{"id":7,"publish":{}}"#),
        (ReplyBody::Presence(PresenceResult::default()), r#"{"id":7,"presence":{"presence":{}}}"#),
        (
            ReplyBody::PresenceStats(PresenceStatsResult::default()),
            r#"{"id":7,"presence_stats":{"num_clients":0,"num_users":0}}"#,
        ),
        (
            ReplyBody::History(HistoryResult::default()),
            r#"{"id":7,"history":{"publications":[],"epoch":"","offset":0}}"#,
        ),
        (ReplyBody::Rpc(RpcResult::default()), r#"{"id":7,"rpc":{}}"#),
        (ReplyBody::Refresh(RefreshResult::default()), r#"{"id":7,"refresh":{}}"#),
        (ReplyBody::SubRefresh(SubRefreshResult::default()), r#"{"id":7,"sub_refresh":{}}"#),
    ] {
        assert_eq!(reply(7, body), text);
    }
}

#[test]
fn results_as_sdks_expect_them() {
    let subs = BTreeMap::from([("#u".to_owned(), SubscribeResult::default())]);
    let connect = ConnectResult {
        client: "uuid".into(),
        version: "1".into(),
        expires: true,
        ttl: 3599,
        data: json("[0]"),
        subs,
        ping: 25,
        pong: true,
        session: "s".into(),
        node: "n".into(),
        time: 1_700_000_000_000,
    };
    assert_eq!(
        reply(1, ReplyBody::Connect(Box::new(connect))),
        r##"{"id":1,"connect":{"client":"uuid","version":"1","expires":true,"ttl":3599,"##
            .to_owned()
            + r##""data":[0],"subs":{"#u":{}},"ping":25,"pong":true,"session":"s","node":"n","##
            + r##""time":1700000000000}}"##
    );

    let first = Publication { data: json(r#"{"n":42}"#), offset: 42, ..Publication::default() };
    let tags = BTreeMap::from([("b".to_owned(), "\"".to_owned()), ("a".to_owned(), "".to_owned())]);
    let second = Publication {
        data: json("1"),
        info: Some(info()),
        offset: 43,
        tags,
        time: 5,
        ..Publication::default()
    };
    let mut subscribe = SubscribeResult {
        recoverable: true,
        epoch: "xyzq".into(),
        publications: vec![first, second],
        recovered: true,
        offset: 41,
        positioned: true,
        was_recovering: true,
        ..SubscribeResult::default()
    };
    assert_eq!(
        reply(2, ReplyBody::Subscribe(Box::new(subscribe.clone()))),
        r#"{"id":2,"subscribe":{"recoverable":true,"epoch":"xyzq","publications":["#.to_owned()
            + r#"{"data":{"n":42},"offset":42},{"data":1,"info":{"user":"u","client":"c"},"#
            + r#""offset":43,"tags":{"a":"","b":"\""},"time":5}],"recovered":true,"offset":41,"#
            + r#""positioned":true,"was_recovering":true}}"#
    );

    // With delta, payloads are strings.
    subscribe.delta = true;
    subscribe.publications[1] =
        Publication { data: json("1\n1:x0;"), delta: true, offset: 43, ..Publication::default() };
    let text = reply(2, ReplyBody::Subscribe(Box::new(subscribe)));
    assert!(text.contains(r#"[{"data":"{\"n\":42}","offset":42},"#), "{text}");
    assert!(text.contains(r#"{"data":"1\n1:x0;","offset":43,"delta":true}]"#), "{text}");

    let error = ReplyBody::Error(Error::TOO_MANY_REQUESTS.into());
    let text = r#"{"id":3,"error":{"code":111,"message":"too many requests","temporary":true}}"#;
    assert_eq!(reply(3, error), text);

    let who = ClientInfo { conn_info: json("{}"), chan_info: json("1"), ..ClientInfo::default() };
    let presence = PresenceResult { presence: BTreeMap::from([("id".to_owned(), who)]) };
    assert_eq!(
        reply(4, ReplyBody::Presence(presence)),
        r#"{"id":4,"presence":{"presence":{"id":{"user":"","client":"","#.to_owned()
            + r#""conn_info":{},"chan_info":1}}}}"#
    );
}

#[test]
fn pushes_as_sdks_expect_them() {
    let join = JoinPush { info: Some(info()) };
    let leave = LeavePush { info: Some(info()) };
    let subscribe = SubscribePush {
        recoverable: true,
        epoch: "e".into(),
        offset: 5,
        data: json("{}"),
        ..SubscribePush::default()
    };
    let connect = ConnectResult {
        client: "id".into(),
        ttl: 9,
        data: json("1"),
        ping: 25,
        ..ConnectResult::default()
    };
    let disconnect = codes::Disconnect::FORCE_RECONNECT.into();
    for (channel, body, text) in [
        ("c", PushBody::Join(join), r#""join":{"info":{"user":"u","client":"c"}}"#),
        ("c", PushBody::Leave(leave), r#""leave":{"info":{"user":"u","client":"c"}}"#),
        (
            "c",
            PushBody::Unsubscribe(codes::Unsubscribe::SERVER.into()),
            r#""unsubscribe":{"code":2000,"reason":"server unsubscribe"}"#,
        ),
        ("", PushBody::Message(MessagePush { data: json("1") }), r#""message":{"data":1}"#),
        (
            "c",
            PushBody::Subscribe(subscribe),
            r#""subscribe":{"recoverable":true,"epoch":"e","offset":5,"data":{}}"#,
        ),
        (
            "",
            PushBody::Connect(Box::new(connect.into())),
            r#""connect":{"client":"id","data":1,"ttl":9,"ping":25}"#,
        ),
        (
            "",
            PushBody::Disconnect(disconnect),
            r#""disconnect":{"code":3011,"reason":"force reconnect","reconnect":true}"#,
        ),
        (
            "",
            PushBody::Refresh(RefreshPush { expires: true, ttl: 300 }),
            r#""refresh":{"expires":true,"ttl":300}"#,
        ),
        ("c", PushBody::Publication(Box::default()), r#""pub":{}"#),
    ] {
        let channel_text = if channel.is_empty() { "" } else { r#""channel":"c","# };
        assert_eq!(push(channel, body), format!("{{{channel_text}{text}}}"));
    }
}

#[test]
fn publications_in_their_forms() {
    let publication = Publication {
        data: json("{\"a\":\"ñ\"}"),
        offset: 5,
        info: None,
        ..Publication::default()
    };
    let encode = |envelope, subject, payload: Payload<'_>| {
        let mut out = Vec::new();
        wire::encode_publication(
            Encoding::Json,
            envelope,
            subject,
            &publication,
            payload,
            &mut out,
        );
        String::from_utf8(out).unwrap()
    };
    let by_name = Subject::Channel("say \"c\"");
    assert_eq!(
        encode(Envelope::Reply, by_name, Payload::Verbatim),
        r#"{"push":{"channel":"say \"c\"","pub":{"data":{"a":"ñ"},"offset":5}}}"#
    );
    assert_eq!(
        encode(Envelope::Bare, by_name, Payload::Verbatim),
        r#"{"channel":"say \"c\"","pub":{"data":{"a":"ñ"},"offset":5}}"#
    );
    assert_eq!(
        encode(Envelope::Reply, Subject::Id(7), Payload::Text),
        r#"{"push":{"id":7,"pub":{"data":"{\"a\":\"ñ\"}","offset":5}}}"#
    );
    assert_eq!(
        encode(Envelope::Reply, Subject::Id(7), Payload::Patch(&json("1\n1@0,0;"))),
        r#"{"push":{"id":7,"pub":{"data":"1\n1@0,0;","offset":5,"delta":true}}}"#
    );
}

#[test]
fn every_field_of_a_publication() {
    let all = Publication {
        data: json("0"),
        channel: "c".into(),
        key: "k".into(),
        removed: true,
        score: -9,
        epoch: "e".into(),
        version: u64::MAX,
        time: i64::MIN,
        ..Publication::default()
    };
    assert_eq!(
        push("", PushBody::Publication(Box::new(all))),
        r#"{"pub":{"data":0,"time":-9223372036854775808,"channel":"c","key":"k","removed":true,"#
            .to_owned()
            + r#""score":-9,"epoch":"e","version":18446744073709551615}}"#
    );
}

#[test]
fn batches_are_lines() {
    let mut batch = Vec::new();
    let publish = Reply { id: 1, body: Some(ReplyBody::Publish(PublishResult {})) };
    let message = PushBody::Message(MessagePush { data: json("{\n}") });
    let push = Push { body: Some(message), ..Push::default() };
    wire::encode_reply(Encoding::Json, &publish, &mut batch);
    wire::encode_push(Encoding::Json, Envelope::Reply, &push, &mut batch);
    wire::encode_ping(Encoding::Json, &mut batch);
    let text = "{\"id\":1,\"publish\":{}}\n{\"push\":{\"message\":{\"data\":{}}}}\n{}";
    assert_eq!(batch, text.as_bytes());
}

#[test]
fn other_transports() {
    let body = br#"{"session":"s","node":"n","data":"{\"id\":1}\n{}"}"#;
    let request = wire::decode_emulation(Encoding::Json, body).unwrap();
    assert_eq!((&*request.session, &*request.node), ("s", "n"));
    assert_eq!(wire::decode(Encoding::Json, &request.data).count(), 2);
    let connect = wire::decode_connect(Encoding::Json, br#"{"token":"t","subs":{"c":{}}}"#);
    let connect = connect.unwrap();
    assert_eq!((&*connect.token, connect.subs.len()), ("t", 1));
    for bad in ["", "[]", "{} {}", "{\"token\":1}", "{\"data\":}"] {
        assert!(wire::decode_connect(Encoding::Json, bad.as_bytes()).is_err(), "{bad}");
    }
    for bad in ["", "[]", "{} {}", "{\"data\":{}}", "{\"session\":1}"] {
        assert!(wire::decode_emulation(Encoding::Json, bad.as_bytes()).is_err(), "{bad}");
    }
}
