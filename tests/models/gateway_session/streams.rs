//! Streams: what their clients post, and what becomes of it.

use ringhold::gateway::hooks::{HookReply, RpcReply};
use ringhold::testing::Client;
use serde_json::{Value, json};

use super::site::Site;
use crate::support::gateway::token_of;
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
