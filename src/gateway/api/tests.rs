//! What counts as a request, and what answers look like as text.

use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::gateway::channels::{Override, Switch};
use crate::gateway::wire::codes::Disconnect;
use crate::gateway::wire::messages::{ClientInfo, Publication, StreamPosition};

fn decode(method: &str, params: &str) -> Result<ApiRequest, String> {
    ApiRequest::decode(method, params.as_bytes()).map_err(|error| match error {
        Undecodable::Malformed(_) => "malformed".to_owned(),
        Undecodable::Refused(error) => error.code.to_string(),
    })
}

fn text(reply: &ApiReply) -> String {
    serde_json::to_string(reply).unwrap()
}

#[test]
fn a_publication_has_every_documented_field() {
    let found = decode(
        "publish",
        r#"{"channel":"c","data":{"a": 1},"skip_history":true,"tags":{"k":"v"},"later":1,
            "idempotency_key":"i","delta":true,"version":18446744073709551615,
            "version_epoch":"e"}"#,
    );
    let publication = NewPublication {
        data: Bytes::from_static(b"{\"a\": 1}"),
        tags: [("k".to_owned(), "v".to_owned())].into(),
        idempotency_key: "i".to_owned(),
        delta: true,
        skip_history: true,
        version: u64::MAX,
        version_epoch: "e".to_owned(),
    };
    let channel = "c".to_owned();
    let publish = PublishRequest { channel, publication: publication.clone() };
    assert_eq!(found, Ok(ApiRequest::Publish(publish)));

    let found = decode("broadcast", r#"{"channels":["a",""],"b64data":"AAE="}"#);
    let publication =
        NewPublication { data: Bytes::from_static(&[0, 1]), ..NewPublication::default() };
    let channels = vec!["a".to_owned(), String::new()];
    assert_eq!(found, Ok(ApiRequest::Broadcast(BroadcastRequest { channels, publication })));
}

#[test]
fn a_subscription_has_every_documented_field() {
    let found = decode(
        "subscribe",
        r#"{"user":"u","channel":"c","client":"i","session":"s","info":1,"b64info":"AA==",
            "data":null,"expire_at":7,"recover_since":{"offset":3,"epoch":"e"},
            "override":{"presence":{"value":true},"join_leave":{"value":false},
            "force_recovery":{},"force_positioning":null}}"#,
    );
    let request = SubscribeRequest {
        connections: UserConnections {
            user: "u".to_owned(),
            client: "i".to_owned(),
            session: "s".to_owned(),
        },
        channel: "c".to_owned(),
        info: Bytes::from_static(&[0]),
        data: Bytes::new(),
        expire_at: 7,
        recover_since: Some(StreamPosition { offset: 3, epoch: "e".to_owned() }),
        overrides: Override {
            presence: Some(Switch { value: true }),
            join_leave: Some(Switch { value: false }),
            force_recovery: Some(Switch { value: false }),
            ..Override::default()
        },
    };
    assert_eq!(found, Ok(ApiRequest::Subscribe(request)));
}

#[test]
fn incomplete_requests_are_refused() {
    for (method, params) in [
        ("publish", r#"{"data":1}"#),
        ("publish", r#"{"channel":"","data":1}"#),
        ("publish", r#"{"channel":"c"}"#),
        ("publish", r#"{"channel":"c","b64data":"?"}"#),
        ("broadcast", r#"{"channels":[],"data":1}"#),
        ("broadcast", r#"{"channels":["c"]}"#),
        ("subscribe", r#"{"user":"u"}"#),
        ("disconnect", r#"{"user":"u","disconnect":{}}"#),
        ("disconnect", r#"{"user":"u","disconnect":{"code":2999}}"#),
        ("disconnect", r#"{"user":"u","disconnect":{"code":5000}}"#),
        ("disconnect", r#"{"user":"u","disconnect":{"code":68536}}"#),
        ("presence", "{}"),
        ("presence_stats", r#"{"channel":null}"#),
        ("history", r#"{"limit":1}"#),
        ("history_remove", "{}"),
        ("rpc", "{}"),
    ] {
        assert_eq!(decode(method, params), Err("107".to_owned()), "{method} {params}");
    }
    let many = format!(r#"{{"data":1,"channels":["c"{}]}}"#, r#","c""#.repeat(100_000));
    assert_eq!(decode("broadcast", &many), Err("106".to_owned()));
    let long = format!(r#"{{"user":"u","disconnect":{{"code":4000,"reason":"{:0124}"}}}}"#, 0);
    assert_eq!(decode("disconnect", &long), Err("107".to_owned()));
}

#[test]
fn other_shapes_are_malformed_and_other_methods_unknown() {
    let deep = format!(r#"{{"channel":"c","data":{}{}}}"#, "[".repeat(20_000), "]".repeat(20_000));
    for params in ["", "{", "[1]", r#"{"channel":1,"data":1}"#, r#"{"tags":[]}"#, "{} {}", &deep] {
        assert_eq!(decode("publish", params), Err("malformed".to_owned()), "{params}");
    }
    for method in ["", "PUBLISH", "batch", "map_publish", "connections"] {
        assert_eq!(decode(method, "{}"), Err("104".to_owned()), "{method}");
    }
}

#[test]
fn every_method_reads_the_least_it_needs_and_keeps_its_name() {
    let least = r#"{"channel":"c","channels":["c"],"data":1,"user":"u","method":"m"}"#;
    for method in ApiRequest::METHODS {
        assert_eq!(decode(method, least).map(|request| request.method()), Ok(*method));
    }
}

#[test]
fn a_disconnect_is_final_unless_told_otherwise() {
    let code = |params: &str| match decode("disconnect", params) {
        Ok(ApiRequest::Disconnect(request)) => (request.disconnect, request.whitelist),
        other => panic!("{other:?}"),
    };
    assert_eq!(code(r#"{"user":"u"}"#), (Disconnect::FORCE_NO_RECONNECT, vec![]));
    let given = r#"{"client":"c","disconnect":{"code":4000,"reason":"r"},"whitelist":["a"]}"#;
    assert_eq!(code(given), (Disconnect::new(4000, "r"), vec!["a".to_owned()]));
}

#[test]
fn answers_have_the_documented_shapes() {
    let published = PublishResult { offset: 4, epoch: "e".to_owned() };
    assert_eq!(text(&ApiReply::Done), "{}");
    assert_eq!(text(&ApiReply::Publish(PublishResult::default())), "{}");
    assert_eq!(text(&ApiReply::Publish(published.clone())), r#"{"offset":4,"epoch":"e"}"#);
    let responses = vec![Ok(published), Err(Error::UNKNOWN_CHANNEL)];
    assert_eq!(
        text(&ApiReply::Broadcast(BroadcastResult { responses })),
        concat!(
            r#"{"responses":[{"result":{"offset":4,"epoch":"e"}},"#,
            r#"{"error":{"code":102,"message":"unknown channel"}}]}"#
        )
    );
    assert_eq!(
        text(&ApiReply::PresenceStats(PresenceStatsResult::default())),
        r#"{"num_clients":0,"num_users":0}"#
    );
    assert_eq!(
        text(&ApiReply::History(HistoryResult::default())),
        r#"{"publications":[],"offset":0,"epoch":""}"#
    );
    let channels = vec![("a".to_owned(), 2)];
    assert_eq!(
        text(&ApiReply::Channels(ChannelsResult { channels })),
        r#"{"channels":{"a":{"num_clients":2}}}"#
    );
    let data = Bytes::from_static(b"[1]");
    assert_eq!(text(&ApiReply::Rpc(RpcResult { data })), r#"{"data":[1]}"#);
}

#[test]
fn presence_and_history_show_clients() {
    let info = ClientInfo {
        user: String::new(),
        client: "i".to_owned(),
        conn_info: Bytes::from_static(b"{\"n\":1}"),
        chan_info: Bytes::new(),
    };
    let presence = vec![info.clone()];
    assert_eq!(
        text(&ApiReply::Presence(PresenceResult { presence })),
        r#"{"presence":{"i":{"user":"","client":"i","conn_info":{"n":1}}}}"#
    );
    let first = Publication {
        data: Bytes::from_static(b"null"),
        info: Some(info),
        offset: 1,
        tags: [("k".to_owned(), "v".to_owned())].into(),
        ..Publication::default()
    };
    let second =
        Publication { data: Bytes::from_static(&[0xff]), offset: 2, ..Publication::default() };
    let history = HistoryResult { publications: vec![first, second], offset: 2, epoch: "e".into() };
    let found: Value = serde_json::from_str(&text(&ApiReply::History(history))).unwrap();
    let expected = json!({"offset": 2, "epoch": "e", "publications": [
        {"data": null, "offset": 1, "tags": {"k": "v"},
         "info": {"user": "", "client": "i", "conn_info": {"n": 1}}},
        // Not JSON, and still readable.
        {"b64data": "/w==", "offset": 2},
    ]});
    assert_eq!(found, expected);
}

#[test]
fn info_shows_one_node() {
    let node = NodeInfo {
        uid: "u".to_owned(),
        num_clients: 3,
        process: Some(ProcessInfo { cpu: 1.5, rss: 4096 }),
        metrics: Some(NodeMetrics { interval: 60.0, items: vec![("a".to_owned(), 1.0)] }),
        ..NodeInfo::default()
    };
    let found: Value =
        serde_json::from_str(&text(&ApiReply::Info(InfoResult { nodes: vec![node] }))).unwrap();
    assert_eq!(
        found,
        json!({"nodes": [{"uid": "u", "name": "", "version": "", "num_clients": 3, "num_users": 0,
            "num_subs": 0, "num_channels": 0, "uptime": 0,
            "metrics": {"interval": 60.0, "items": {"a": 1.0}},
            "process": {"cpu": 1.5, "rss": 4096}}]})
    );
}
