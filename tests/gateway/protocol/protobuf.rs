//! The main rules again in Protobuf. Commands and replies are written and read by hand here, field
//! by field, so that a wrong tag on both sides of the server's own code does not go unseen.

use crate::support::client::Client;
use crate::support::deflate::OFFER;
use crate::support::gateway::{Gateway, PATH, token_of};
use crate::support::wire::{BINARY, CLOSE, FIN};

/// A value of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Number(u64),
    Bytes(Vec<u8>),
}

/// A message: fields by number, in the order they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Message(Vec<(u64, Value)>);

impl Message {
    fn number(mut self, field: u64, value: u64) -> Self {
        self.0.push((field, Value::Number(value)));
        self
    }

    fn bytes(mut self, field: u64, value: impl AsRef<[u8]>) -> Self {
        self.0.push((field, Value::Bytes(value.as_ref().to_vec())));
        self
    }

    fn inner(self, field: u64, value: &Self) -> Self {
        self.bytes(field, value.encode())
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (field, value) in &self.0 {
            match value {
                Value::Number(number) => {
                    bytes.extend(varint(field << 3));
                    bytes.extend(varint(*number));
                }
                Value::Bytes(value) => {
                    bytes.extend(varint(field << 3 | 2));
                    bytes.extend(varint(value.len() as u64));
                    bytes.extend(value);
                }
            }
        }
        bytes
    }

    fn decode(mut bytes: &[u8]) -> Self {
        let mut message = Self::default();
        while !bytes.is_empty() {
            let tag = read_varint(&mut bytes);
            let value = match tag & 7 {
                0 => Value::Number(read_varint(&mut bytes)),
                2 => Value::Bytes(take(&mut bytes)),
                other => panic!("wire type {other}"),
            };
            message.0.push((tag >> 3, value));
        }
        message
    }

    fn has(&self, field: u64) -> bool {
        self.0.iter().any(|(number, _)| *number == field)
    }

    fn num(&self, field: u64) -> u64 {
        match self.0.iter().find(|(number, _)| *number == field) {
            Some((_, Value::Number(number))) => *number,
            None => 0,
            other => panic!("field {field}: {other:?}"),
        }
    }

    fn raw(&self, field: u64) -> Vec<u8> {
        match self.0.iter().find(|(number, _)| *number == field) {
            Some((_, Value::Bytes(bytes))) => bytes.clone(),
            None => Vec::new(),
            other => panic!("field {field}: {other:?}"),
        }
    }

    fn text(&self, field: u64) -> String {
        String::from_utf8(self.raw(field)).expect("text")
    }

    fn message(&self, field: u64) -> Self {
        assert!(self.has(field), "no field {field} in {self:?}");
        Self::decode(&self.raw(field))
    }

    fn messages(&self, field: u64) -> Vec<Self> {
        let bytes = self.0.iter().filter_map(|(number, value)| match value {
            Value::Bytes(bytes) if *number == field => Some(Self::decode(bytes)),
            _ => None,
        });
        bytes.collect()
    }
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

fn read_varint(bytes: &mut &[u8]) -> u64 {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first().expect("a varint ends");
        *bytes = rest;
        number |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return number;
        }
    }
    panic!("a varint of more than 64 bits")
}

fn take(bytes: &mut &[u8]) -> Vec<u8> {
    let length = read_varint(bytes) as usize;
    let (value, rest) = bytes.split_at(length);
    *bytes = rest;
    value.to_vec()
}

fn framed(message: &Message) -> Vec<u8> {
    let bytes = message.encode();
    [varint(bytes.len() as u64), bytes].concat()
}

fn command(id: u64, field: u64, request: &Message) -> Message {
    Message::default().number(1, id).inner(field, request)
}

fn on(channel: &str) -> Message {
    Message::default().bytes(1, channel)
}

const CONNECT: u64 = 4;
const CONNECTED: u64 = 5;
const SUBSCRIBE: u64 = 5;
const SUBSCRIBED: u64 = 6;
const PUSH: u64 = 4;
const PUBLICATION: u64 = 4;

struct Session {
    client: Client,
    heard: std::collections::VecDeque<Message>,
}

impl Session {
    fn open(gateway: &Gateway) -> Self {
        Self::open_with(gateway, &[])
    }

    fn open_with(gateway: &Gateway, lines: &[&str]) -> Self {
        let line = "Sec-WebSocket-Protocol: centrifuge-protobuf";
        let (head, client) = gateway.upgrade_head(PATH, &[&[line], lines].concat());
        assert_eq!(head.values("sec-websocket-protocol"), ["centrifuge-protobuf"]);
        Self { client, heard: std::collections::VecDeque::new() }
    }

    fn connected(gateway: &Gateway, user: &str) -> Self {
        Self::open(gateway).connect(user)
    }

    fn connect(mut self, user: &str) -> Self {
        let session = &mut self;
        let request = Message::default().bytes(1, token_of(user));
        let reply = session.ask(&command(1, CONNECT, &request));
        assert_eq!(reply.message(CONNECTED).text(1).len(), 36, "{reply:?}");
        self
    }

    fn say(&mut self, bytes: &[u8]) {
        self.client.send_frame(FIN | BINARY, bytes);
    }

    fn next(&mut self) -> Message {
        while self.heard.is_empty() {
            let (first, payload) = self.client.read_frame();
            assert_eq!(first, FIN | BINARY, "{payload:?}");
            let mut rest = payload.as_slice();
            while !rest.is_empty() {
                self.heard.push_back(Message::decode(&take(&mut rest)));
            }
        }
        self.heard.pop_front().expect("it is not empty")
    }

    /// The reply must come before anything else.
    fn ask(&mut self, command: &Message) -> Message {
        self.say(&framed(command));
        let reply = self.next();
        assert_eq!(reply.num(1), command.num(1), "{reply:?}");
        reply
    }

    fn fails(&mut self, command: &Message, code: u64) {
        let reply = self.ask(command);
        assert_eq!(reply.message(2).num(1), code, "{reply:?}");
        assert!(!reply.message(2).text(2).is_empty());
    }

    fn push(&mut self) -> Message {
        let reply = self.next();
        assert_eq!(reply.num(1), 0, "{reply:?}");
        reply.message(PUSH)
    }

    fn closed(&mut self, code: u16) {
        loop {
            let (first, payload) = self.client.read_frame();
            if first == FIN | CLOSE {
                let got = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                assert_eq!(got, Some(code), "{payload:?}");
                return;
            }
        }
    }
}

const EVERYTHING: &str = "[client]\nallow_anonymous_connect_without_token = true\n\
    [channel.without_namespace]\npublication_data_format = \"binary\"\nhistory_size = 10\n\
    history_ttl = \"60s\"\nforce_recovery = true\npresence = true\njoin_leave = true\n\
    force_push_join_leave = true\nallow_subscribe_for_client = true\n\
    allow_publish_for_client = true\nallow_history_for_client = true\n\
    allow_presence_for_client = true\n[[channel.namespaces]]\nname = \"plain\"\n\
    publication_data_format = \"binary\"\n\
    allow_subscribe_for_client = true\nallow_publish_for_client = true\n";

#[test]
fn every_way_to_ask_for_protobuf() {
    let gateway = Gateway::start(EVERYTHING);
    for target in [format!("{PATH}?cf_protocol=protobuf"), format!("{PATH}?format=protobuf")] {
        let (head, client) = gateway.upgrade_head(&target, &[]);
        assert!(head.values("sec-websocket-protocol").is_empty());
        let mut session = Session { client, heard: std::collections::VecDeque::new() };
        let reply = session.ask(&command(1, CONNECT, &Message::default()));
        let result = reply.message(CONNECTED);
        assert_eq!((result.num(7), result.num(8)), (25, 1), "{result:?}");
    }
    gateway.stop();
}

#[test]
fn commands_are_answered_field_by_field() {
    let gateway = Gateway::start(EVERYTHING);
    let mut session = Session::connected(&gateway, "42");
    let subscribed = session.ask(&command(2, SUBSCRIBE, &on("a"))).message(SUBSCRIBED);
    // Recoverable, positioned, an epoch, offset 0.
    assert_eq!((subscribed.num(3), subscribed.num(10), subscribed.num(9)), (1, 1, 0));
    let epoch = subscribed.text(6);
    assert!(!epoch.is_empty());
    let join = session.push();
    assert_eq!(join.text(2), "a");
    let me = join.message(5).message(1);
    assert_eq!((me.text(1).as_str(), me.text(2).len()), ("42", 36));

    // Any bytes are data.
    let data = [0, 1, 2, 0xff, b'\n', b'"'];
    session.say(&framed(&command(3, 7, &on("a").bytes(2, data))));
    let (first, second) = (session.next(), session.next());
    let (reply, push) = if first.num(1) == 3 { (first, second) } else { (second, first) };
    assert_eq!(reply.message(8), Message::default());
    let push = push.message(PUSH);
    let publication = push.message(PUBLICATION);
    assert_eq!((publication.raw(4).as_slice(), publication.num(6)), (&data[..], 1));
    assert_eq!(publication.message(5), me);

    let present = session.ask(&command(4, 8, &on("a"))).message(9);
    let entries = present.messages(1);
    assert_eq!((entries.len(), entries[0].message(2)), (1, me.clone()));
    assert_eq!(entries[0].text(1), me.text(2));
    let stats = session.ask(&command(5, 9, &on("a"))).message(10);
    assert_eq!((stats.num(1), stats.num(2)), (1, 1));
    let history = session.ask(&command(6, 10, &on("a").number(7, 10))).message(11);
    assert_eq!((history.text(2), history.num(3)), (epoch.clone(), 1));
    assert_eq!(history.messages(1)[0].raw(4), data);
    // A negative limit is ten bytes of varint.
    let all = on("a").number(7, (-1_i64) as u64);
    assert_eq!(session.ask(&command(7, 10, &all)).message(11).messages(1).len(), 1);

    assert!(session.ask(&command(8, 6, &on("a"))).has(7));
    let again = on("a").number(3, 1).bytes(6, &epoch);
    let recovered = session.ask(&command(9, SUBSCRIBE, &again)).message(SUBSCRIBED);
    assert_eq!((recovered.num(8), recovered.num(12)), (1, 1), "{recovered:?}");
    assert_eq!(recovered.messages(7)[0].num(6), 1);
    gateway.stop();
}

#[test]
fn errors_and_closes_are_those_of_json() {
    let gateway = Gateway::start(&EVERYTHING.replace("publication_data_format = \"binary\"\n", ""));
    let mut session = Session::connected(&gateway, "42");
    session.fails(&command(2, SUBSCRIBE, &on("unknown:a")), 102);
    session.fails(&command(3, SUBSCRIBE, &on("$a")), 103);
    session.fails(&command(4, 7, &on("a")), 107);
    session.fails(&command(5, 13, &Message::default().bytes(2, "m")), 108);
    session.fails(&command(6, 8, &on("plain:a")), 108);
    let close = |connected: bool, bytes: &[u8], code: u16| {
        let mut session = match connected {
            true => Session::connected(&gateway, "42"),
            false => Session::open(&gateway),
        };
        session.say(bytes);
        session.closed(code);
    };
    close(true, &[], 3501);
    close(true, &[0], 3501); // a pong nobody waits for
    close(true, &[0xff], 3501);
    close(true, &[5, 8, 1], 3501);
    close(true, b"{\"id\":1}", 3501);
    close(true, &[0x80; 11], 3501);
    close(true, &framed(&command(2, CONNECT, &Message::default())), 3501);
    close(true, &framed(&command(0, SUBSCRIBE, &on("a"))), 3501);
    close(true, &framed(&Message::default().number(1, 2)), 3501);
    close(true, &framed(&command(0, 12, &Message::default())), 3508);
    close(false, &framed(&command(1, SUBSCRIBE, &on("a"))), 3501);
    let junk = Message::default().bytes(1, "junk");
    close(false, &framed(&command(1, CONNECT, &junk)), 3500);
    gateway.stop();
}

#[test]
fn compressed_it_is_the_same() {
    let compression = "[websocket]\ncompression = true\ncompression_min_size = \"64B\"\n";
    let gateway = Gateway::start(&format!("{compression}{EVERYTHING}"));
    let mut session = Session::open_with(&gateway, &[OFFER]).connect("42");
    assert!(session.client.deflates());
    session.ask(&command(2, SUBSCRIBE, &on("plain:a")));
    let data = b"\x00\xff many bytes like others ".repeat(40);
    session.say(&framed(&command(3, 7, &on("plain:a").bytes(2, &data))));
    let (first, second) = (session.next(), session.next());
    let push = if first.num(1) == 3 { second } else { first };
    assert_eq!(push.message(PUSH).message(PUBLICATION).raw(4), data);
    assert_eq!(session.client.inflated, 1, "the publication, and no secret or short reply");
    gateway.stop();
}

#[test]
fn a_message_may_hold_many_commands() {
    let gateway = Gateway::start(EVERYTHING);
    let mut session = Session::open(&gateway);
    let mut batch = framed(&command(1, CONNECT, &Message::default().bytes(1, token_of("42"))));
    for id in 2..100 {
        batch.extend(framed(&command(id, 7, &on("plain:a").bytes(2, "1"))));
    }
    session.say(&batch);
    for id in 1..100 {
        let reply = session.next();
        assert_eq!((reply.num(1), reply.has(2)), (id, false), "{reply:?}");
    }
    // What is good before something malformed is done.
    let mut reader = Session::connected(&gateway, "43");
    reader.ask(&command(2, SUBSCRIBE, &on("plain:b")));
    let good = framed(&command(200, 7, &on("plain:b").bytes(2, "1")));
    session.say(&[good, vec![9, 9]].concat());
    session.closed(3501);
    assert_eq!(reader.push().message(PUBLICATION).raw(4), b"1");
    gateway.stop();
}

#[test]
fn both_encodings_share_channels() {
    let gateway = Gateway::start(EVERYTHING);
    let mut binary = Session::connected(&gateway, "42");
    binary.ask(&command(2, SUBSCRIBE, &on("plain:a")));
    let mut text = gateway.connected("43");
    text.subscribe("plain:a");
    text.result("publish", serde_json::json!({"channel": "plain:a", "data": {"a": 1}}));
    assert_eq!(binary.push().message(PUBLICATION).raw(4), br#"{"a":1}"#);
    let json = on("plain:a").bytes(2, r#"{"b":2}"#);
    binary.say(&framed(&command(3, 7, &json)));
    text.publication("plain:a");
    assert_eq!(text.publication("plain:a")["data"], serde_json::json!({"b": 2}));
    // What is no JSON cannot be told to a JSON client.
    binary.say(&framed(&command(4, 7, &on("plain:a").bytes(2, [0xff, 0]))));
    text.closed(3506);
    gateway.stop();
}

#[test]
fn channels_have_no_numbers() {
    // The JavaScript SDK would compare them as objects, and lose every push.
    let gateway = Gateway::start(EVERYTHING);
    let mut session = Session::connected(&gateway, "42");
    let request = on("plain:a").number(14, 1);
    let result = session.ask(&command(2, SUBSCRIBE, &request)).message(SUBSCRIBED);
    assert!(!result.has(14), "{result:?}");
    gateway.api("publish", serde_json::json!({"channel": "plain:a", "data": 1}));
    let push = session.push();
    assert_eq!((push.has(1), push.text(2).as_str()), (false, "plain:a"), "{push:?}");
    gateway.stop();
}

#[test]
fn pings_are_empty_messages() {
    let gateway = Gateway::start(
        "[client]\ninsecure = true\nping_interval = \"8s\"\npong_timeout = \"7s\"\n",
    );
    let mut session = Session::open(&gateway);
    session.ask(&command(1, CONNECT, &Message::default()));
    for _ in 0..2 {
        assert_eq!(session.client.read_frame(), (FIN | BINARY, vec![0]));
        session.say(&[0]);
    }
    assert_eq!(session.client.read_frame(), (FIN | BINARY, vec![0]));
    session.closed(3012);
    gateway.stop();
}
