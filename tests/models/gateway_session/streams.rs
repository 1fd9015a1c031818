//! Streams: what their clients post, and what becomes of it.

use std::sync::Arc;
use std::time::Duration;

use ringhold::gateway::hooks::{HookReply, RpcReply};
use ringhold::gateway::letters::{Action, Letter, Publish, Question, ServerSubscribe};
use ringhold::gateway::stream::StreamOptions;
use ringhold::gateway::wire::Unsubscribe;
use ringhold::protocol::stream;
use ringhold::testing::{Client, Received};
use ringhold::{CloseCode, Drain};
use serde_json::{Value, json};

use super::site::{Site, order_of};
use crate::support::gateway::{token, token_of};
use crate::support::stream::escaped;

const STREAMS: &str = "[sse]\nenabled = true\n\
    [channel.without_namespace]\nallow_subscribe_for_client = true\n\
    [rpc.proxy]\nendpoint = \"http://backend/rpc\"\n\
    [rpc.without_namespace]\nproxy_enabled = true\n";

/// An event stream, and how its commands find it.
struct Stream {
    client: Client,
    session: Value,
    node: Value,
}

impl Stream {
    /// One on the first core, connected.
    fn open(site: &mut Site) -> Self {
        let connect = json!({"id": 1, "connect": {"token": token_of("42")}}).to_string();
        let target = format!("/connection/sse?cf_connect={}", escaped(&connect));
        let client = site.request(0, &format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let mut stream = Self { client, session: Value::Null, node: Value::Null };
        let mut reply = stream.reply(1).expect("a connect reply");
        let connect = &mut reply["connect"];
        (stream.session, stream.node) = (connect["session"].take(), connect["node"].take());
        stream
    }

    /// All that came.
    fn heard(&self) -> Vec<Value> {
        let answer = self.client.answer().expect("an answer");
        assert_eq!(answer.status, 200);
        let text = String::from_utf8(answer.body).expect("UTF-8");
        let events = text.lines().filter_map(|line| line.strip_prefix("data: "));
        events.map(|event| serde_json::from_str(event).expect("JSON")).collect()
    }

    fn reply(&self, number: u64) -> Option<Value> {
        self.heard().into_iter().find(|it| it["id"] == json!(number))
    }

    /// Posts commands by way of a core; the answer's status.
    fn post(&self, site: &mut Site, core: usize, commands: &Value) -> u16 {
        let data = commands.to_string();
        let body = json!({"session": self.session, "node": self.node, "data": data}).to_string();
        let length = body.len();
        let head = format!("POST /emulation HTTP/1.1\r\nHost: h\r\nContent-Length: {length}");
        let json = "Content-Type: application/json";
        let client = site.request(core, &format!("{head}\r\n{json}\r\n\r\n{body}"));
        client.answer().expect("an answer").status
    }
}

#[test]
fn what_is_posted_anywhere_reaches_its_stream_as_long_as_that_is_there() {
    let mut site = Site::with_cores(2, STREAMS);
    let stream = Stream::open(&mut site);
    assert_eq!(stream.node, json!("here"));
    for core in [0, 1] {
        let id = 10 + core as u64;
        let channel = format!("{core}");
        let commands = json!({"id": id, "subscribe": {"channel": channel}});
        assert_eq!(stream.post(&mut site, core, &commands), 204);
        assert!(stream.reply(id).is_some_and(|it| it["subscribe"].is_object()));
    }
    let counters = site.stats().counters;
    assert_eq!((counters.emulated, counters.emulation_lost), (2, 0));
    stream.client.leave();
    site.run();
    for lost in 1..3 {
        stream.post(&mut site, 1, &json!({"id": 20, "rpc": {}}));
        let counters = site.stats().counters;
        assert_eq!((counters.emulated, counters.emulation_lost), (2, lost));
    }
    site.empty();
}

#[test]
fn a_streams_client_is_closed_where_too_much_of_it_waits() {
    let mut site = Site::new(&format!("[client]\ncommand_queue_max_size = 1000\n{STREAMS}"));
    let stream = Stream::open(&mut site);
    let call = |id: u64, bytes: usize| {
        let of = |data: &str| json!({"id": id, "rpc": {"method": "m", "data": data}});
        of(&"x".repeat(bytes - of("").to_string().len()))
    };
    stream.post(&mut site, 0, &call(10, 60));
    let asked = site.asked();
    // Each waits behind its length, which are four bytes.
    for id in 11..21 {
        stream.post(&mut site, 0, &call(id, 96));
        assert!(!stream.client.is_ended(), "{id}");
    }
    site.answer(asked, HookReply::Rpc(RpcReply::default()));
    assert!(stream.reply(10).is_some(), "1000 bytes may wait");
    // One is under way now, so there is room for as much.
    stream.post(&mut site, 0, &call(21, 96));
    assert!(!stream.client.is_ended());
    stream.post(&mut site, 0, &call(22, 60));
    assert!(stream.client.is_ended());
    site.empty();
}

const ALL: &str = "[client]\ninsecure = true\nping_interval = \"10s\"\npong_timeout = \"3s\"\n\
    [sse]\nenabled = true\n[http_stream]\nenabled = true\n[uni_sse]\nenabled = true\n\
    [uni_http_stream]\nenabled = true\n[uni_websocket]\nenabled = true\n";

/// What a disconnect push is in Protobuf, in a reply and behind its length.
fn protobuf(code: u16, reason: &str) -> Vec<u8> {
    let field = |number: u8, bytes: &[u8]| [&[number << 3 | 2, bytes.len() as u8], bytes].concat();
    let code = [1 << 3, 0x80 | code as u8, (code >> 7) as u8];
    let disconnect = [&code, &*field(2, reason.as_bytes()), &[3 << 3, 1]].concat();
    let reply = field(4, &field(11, &disconnect));
    [&[reply.len() as u8], &*reply].concat()
}

/// A stream, how its format writes a disconnect push, and whether its client answers pings.
type Sample = (Client, Words, bool);
type Words = fn(u16, &str) -> Vec<u8>;

/// Streams of all formats.
fn streams(site: &mut Site) -> Vec<Sample> {
    fn json(code: u16, reason: &str) -> String {
        json!({"disconnect": {"code": code, "reason": reason, "reconnect": true}}).to_string()
    }
    let post = |path: &str, more: &str, body: &str| {
        let length = body.len();
        format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n{more}\r\n{body}")
    };
    let (connect, binary) = ("{\"id\":1,\"connect\":{}}", "\x04\x08\x01\x22\x00");
    let octets = "Content-Type: application/octet-stream\r\n";
    let sse = format!("/connection/sse?cf_connect={}", escaped(connect));
    let requests = [
        format!("GET {sse} HTTP/1.1\r\nHost: h\r\n\r\n"),
        post("/connection/http_stream", "", connect),
        post("/connection/http_stream", octets, binary),
        post("/connection/uni_sse", "", "{}"),
        post("/connection/uni_http_stream", "", "{}"),
    ];
    let words: [Words; 5] = [
        |code, reason| format!("data: {{\"push\":{}}}\n\n", json(code, reason)).into(),
        |code, reason| format!("{{\"push\":{}}}\n", json(code, reason)).into(),
        protobuf,
        |code, reason| format!("data: {}\n\n", json(code, reason)).into(),
        |code, reason| format!("{}\n", json(code, reason)).into(),
    ];
    let answers = [true, true, true, false, false];
    let samples = requests.iter().zip(words).zip(answers);
    samples.map(|((request, words), answers)| (site.request(0, request), words, answers)).collect()
}

/// The farewell is the last chunk, and the end of the body is behind it.
fn ends_with(client: &Client, words: &[u8]) {
    assert!(client.is_ended());
    let answer = client.answer().expect("an answer");
    let mut end = Vec::new();
    stream::append_chunk(&mut end, words);
    end.extend_from_slice(stream::END);
    let body = answer.body.escape_ascii();
    assert!(answer.body.ends_with(&end), "{body}, and not {}", end.escape_ascii());
}

#[test]
fn each_format_has_its_farewell() {
    let mut site = Site::new(ALL);
    let streams = streams(&mut site);
    let uni = site.open(0, "/connection/uni_websocket?cf_connect=%7B%7D", &[]);
    // Its ping is one of WebSocket.
    uni.client.set_answering(false);
    let others = ["", "?cf_protocol=protobuf"].map(|query| {
        let peer = site.open(0, &format!("/connection/websocket{query}"), &[]);
        match query {
            "" => peer.client.text("{\"id\":1,\"connect\":{}}"),
            _ => peer.client.binary(b"\x04\x08\x01\x22\x00"),
        }
        peer
    });
    site.run();
    // Those that have to answer a ping, and do not; the ping is sent by whoever has a client.
    site.seconds(14);
    let (silent, quiet): (Vec<_>, Vec<_>) = streams.into_iter().partition(|it| it.2);
    for (client, words, _) in &silent {
        ends_with(client, &words(3012, "no pong"));
    }
    assert!(quiet.iter().all(|it| !it.0.is_ended()), "nobody waits for their answers");
    let plan = Drain { code: CloseCode(3001), reason: "shutdown".into(), ..Drain::default() };
    site.world.handle().drain(&plan);
    site.advance(plan.window);
    site.seconds(1);
    for (client, words, _) in &quiet {
        ends_with(client, &words(3001, "shutdown"));
    }
    // A WebSocket has the push if it is one-way; the close frame comes behind it, or alone.
    let last = |client: &Client| {
        let all: Vec<_> = std::iter::from_fn(|| client.next()).collect();
        let close = all.iter().position(|it| matches!(it, Received::Close(..))).expect("a close");
        assert_eq!(all[close + 1..], [Received::End]);
        (all[close - 1].clone(), all[close].clone())
    };
    let push = json!({"disconnect": {"code": 3012, "reason": "no pong", "reconnect": true}});
    let close = Received::Close(CloseCode(3012), "no pong".to_owned());
    assert_eq!(last(&uni.client), (Received::Text(push.to_string()), close.clone()));
    let [json, binary] = others.map(|peer| last(&peer.client));
    assert_eq!((json.0, json.1), (Received::Text("{}".to_owned()), close.clone()), "a ping");
    assert!(matches!(binary.0, Received::Binary(_)) && binary.1 == close);
}

#[test]
fn a_drain_is_told_to_all_formats() {
    let mut site = Site::new(ALL);
    let streams = streams(&mut site);
    let plan = Drain { code: CloseCode(3001), reason: "shutdown".into(), ..Drain::default() };
    site.world.handle().drain(&plan);
    site.advance(plan.window);
    site.seconds(1);
    for (client, words, _) in &streams {
        ends_with(client, &words(3001, "shutdown"));
    }
    assert!(site.world.is_ended());
}

/// The server ends a subscription that was answered while another is not: the reply still has it,
/// the end follows, and no id behind that names the channel.
#[test]
fn an_id_names_no_channel_that_was_left_before_the_reply() {
    let tables = "[uni_sse]\nenabled = true\n[channel.without_namespace]\nhistory_size = 10\n\
        history_ttl = \"60s\"\nforce_recovery = true\n";
    let why = Unsubscribe { code: 2500, reason: "by the test".into() };
    for back in [false, true] {
        let mut site = Site::with_cores(3, tables);
        let [x, y] = [1, 2].map(|core| site.channel_of(core, 0));
        let token = token(&json!({"sub": "42", "channels": [x, y]}));
        let connect = escaped(&json!({ "token": token }).to_string());
        let request = format!("GET /connection/uni_sse?cf_connect={connect} HTTP/1.1\r\n");
        let client = site.knock(0);
        site.run();
        client.bytes(format!("{request}Host: h\r\n\r\n").as_bytes());
        let channel = Some(x.as_str().into());
        // The request is read, the home of one answers, and this comes in between.
        [0, 0, 0, 1, 0].into_iter().for_each(|core| site.turn(core));
        let (order, _) = order_of("42", Action::Unsubscribe { channel, why: why.clone() });
        assert!(site.send(0, Letter::Order(Arc::new(order))));
        site.turn(0);
        let told = client.answer().map(|it| it.body).unwrap_or_default();
        let told = String::from_utf8(told).expect("UTF-8");
        assert!(!told.contains("connect"), "the other is not answered: {told}");
        site.run();
        if back {
            let subscribe = ServerSubscribe { channel: x.clone(), ..ServerSubscribe::default() };
            site.order("42", Action::Subscribe(Box::new(subscribe)));
        }
        for channel in [&x, &y] {
            publish(&mut site, channel, [1]);
        }
        let (_, id) = got(&client);
        assert_eq!(id.split(',').count(), 1 + usize::from(back), "{id}");
    }
}

const CACHED: &str = "[uni_sse]\nenabled = true\n[[channel.namespaces]]\nname = \"cached\"\n\
    history_size = 10\nhistory_ttl = \"60s\"\nforce_recovery = true\n\
    force_recovery_mode = \"cache\"\n";

/// Publishes these in a channel with a history.
fn publish(site: &mut Site, channel: &str, numbers: impl IntoIterator<Item = u32>) {
    for number in numbers {
        let minute = Duration::from_secs(60);
        let stream = StreamOptions { size: 10, ttl: minute, meta_ttl: minute };
        let data = number.to_string().into();
        let publish = Publish { data, stream: Some(stream), ..Publish::default() };
        site.question(channel, Question::Publish(publish)).expect("published");
    }
}

/// A one-way event stream that brings back an id.
fn resumed(site: &mut Site, id: &str) -> Client {
    let token = token(&json!({"sub": "42", "channels": ["cached:a"]}));
    let target = format!(
        "/connection/uni_sse?cf_connect={}",
        escaped(&json!({ "token": token }).to_string())
    );
    site.request(0, &format!("GET {target} HTTP/1.1\r\nHost: h\r\nLast-Event-ID: {id}\r\n\r\n"))
}

/// The numbers that it got, and the last id.
fn got(client: &Client) -> (Vec<u64>, String) {
    let body = String::from_utf8(client.answer().expect("an answer").body).expect("UTF-8");
    let of = |name: &'static str| body.lines().filter_map(move |it| it.strip_prefix(name));
    let events = of("data: ").map(|it| serde_json::from_str::<Value>(it).expect("JSON"));
    let numbers = events.flat_map(|it| {
        let recovered = it["connect"]["subs"]["cached:a"]["publications"].as_array().cloned();
        let all = recovered.into_iter().flatten().chain(it.get("pub").cloned());
        all.map(|it| it["data"].as_u64().expect("a number")).collect::<Vec<_>>()
    });
    (numbers.collect(), of("id: ").next_back().expect("an id").to_owned())
}

#[test]
fn an_id_says_what_its_client_has_got_and_not_what_it_believed() {
    let mut site = Site::new(CACHED);
    publish(&mut site, "cached:a", 1..=2);
    let (_, id) = got(&resumed(&mut site, ""));
    let (life, offset) = id.rsplit_once('.').expect("an offset");
    assert_eq!(offset, "2");
    // It comes from another life, in which more was published, or from this one before its broker
    // forgot some: the newest is what it gets.
    for before in [format!("{}elsewhen", &life[..8]), life.to_owned()] {
        let client = resumed(&mut site, &format!("{before}.5"));
        assert_eq!(got(&client), (vec![2], format!("{life}.2")), "{before}");
    }
    let client = resumed(&mut site, &format!("{}elsewhen.5", &life[..8]));
    publish(&mut site, "cached:a", [3]);
    let (numbers, id) = got(&client);
    assert_eq!((numbers, &id), (vec![2, 3], &format!("{life}.3")));
    client.leave();
    // Neither is there what it had not got, where it believed to be.
    publish(&mut site, "cached:a", 4..=5);
    assert_eq!(got(&resumed(&mut site, &id)), (vec![5], format!("{life}.5")));
}
