//! The gateway's client protocol, as much of it as the load speaks.
//!
//! Owns what clients say (connect, subscribe, publish, pong) and the meaning of what they hear, in
//! both encodings. Keeps nothing per connection. The invariant: ids stand for kinds of commands,
//! not for single ones, so that nobody has to remember which were sent.

use std::borrow::Cow;

use bytes::Bytes;
use prost::Message as _;
use ringhold::Kind;
use ringhold::gateway::tokens::TokenRequest;
use ringhold::gateway::wire::Encoding;
use ringhold::gateway::wire::messages::{
    Command, ConnectRequest, PublishRequest, PushBody, Reply, ReplyBody, SubscribeRequest,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// How clients speak, as whom, and to which channels they subscribe.
#[derive(Clone, Debug)]
pub(crate) struct GatewayPlan {
    pub(crate) encoding: Encoding,
    pub(crate) credentials: Credentials,
    /// Empty: no subscription.
    pub(crate) channel: String,
    /// `{n}` in the name stands for a client's number modulo this, or, with 0, for the number
    /// itself. `None`: the name is as it is.
    pub(crate) channels: Option<u32>,
}

/// What clients show to be let in.
#[derive(Clone, Debug)]
pub(crate) enum Credentials {
    Nothing,
    /// The same for all.
    Token(String),
    /// Each client makes its own, for a user of its own.
    Secret {
        secret: String,
        /// Unix time in seconds at which they are made.
        made_at: i64,
    },
}

/// One thing that a client hears.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard<'a> {
    Ping,
    Connected {
        /// Pings must be answered.
        pong: bool,
    },
    Subscribed,
    /// The payload.
    Publication(&'a [u8]),
    /// A command is refused.
    Refused {
        id: u32,
        code: u32,
        message: &'a str,
    },
    /// A subscription is over.
    Unsubscribed {
        code: u32,
        reason: &'a str,
    },
    /// What the load takes no interest in.
    Other,
}

/// A message that is not of this protocol.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl GatewayPlan {
    pub(crate) fn kind(&self) -> Kind {
        match self.encoding {
            Encoding::Json => Kind::Text,
            Encoding::Protobuf => Kind::Binary,
        }
    }

    /// Whether clients subscribe to anything.
    pub(crate) fn subscribes(&self) -> bool {
        !self.channel.is_empty()
    }

    /// Appends the first message of client `number`: all it says by itself.
    pub(crate) fn hello(&self, number: u32, batch: &mut Vec<u8>) {
        let token = self.credentials.token(number);
        let connect = ConnectRequest {
            token: token.into_owned(),
            name: "load".to_owned(),
            ..ConnectRequest::default()
        };
        self.put(CONNECT, Words::Connect(&connect), batch);
        if let Some(channel) = self.channel_of(number) {
            let subscribe = SubscribeRequest {
                channel: channel.into_owned(),
                positioned: true,
                recoverable: true,
                flag: SubscribeRequest::FLAG_COMPACT,
                ..SubscribeRequest::default()
            };
            self.put(SUBSCRIBE, Words::Subscribe(&subscribe), batch);
        }
    }

    /// Appends the publication of a payload, which must be JSON for the JSON encoding.
    pub(crate) fn publish(&self, payload: &[u8], batch: &mut Vec<u8>) {
        let data = Bytes::copy_from_slice(payload);
        let publish =
            PublishRequest { channel: self.channel.clone(), data, ..PublishRequest::default() };
        self.put(PUBLISH, Words::Publish(&publish), batch);
    }

    /// The answer to a ping.
    pub(crate) fn pong(&self) -> &'static [u8] {
        match self.encoding {
            Encoding::Json => b"{}",
            Encoding::Protobuf => b"\0",
        }
    }

    /// What a command is called that has this id.
    pub(crate) fn name_of(id: u32) -> &'static str {
        match id {
            CONNECT => "connect",
            SUBSCRIBE => "subscribe",
            PUBLISH => "publish",
            _ => "an unknown command",
        }
    }

    fn channel_of(&self, number: u32) -> Option<Cow<'_, str>> {
        if !self.subscribes() {
            return None;
        }
        let Some(channels) = self.channels.filter(|_| self.channel.contains(NUMBER)) else {
            return Some(Cow::Borrowed(&self.channel));
        };
        let number = number.checked_rem(channels).unwrap_or(number);
        Some(Cow::Owned(self.channel.replace(NUMBER, &number.to_string())))
    }

    fn put(&self, id: u32, words: Words<'_>, batch: &mut Vec<u8>) {
        match self.encoding {
            Encoding::Json => {
                if !batch.is_empty() {
                    batch.push(b'\n');
                }
                words.put_json(id, batch);
            }
            Encoding::Protobuf => {
                // Memory is the only thing it could lack, and a vector has that or aborts.
                let _ = words.into_command(id).encode_length_delimited(batch);
            }
        }
    }

    /// Tells all that a message says, in order.
    pub(crate) fn hear(
        encoding: Encoding,
        message: &[u8],
        mut tell: impl FnMut(Heard<'_>),
    ) -> Result<(), Malformed> {
        match encoding {
            Encoding::Json => {
                let lines = message.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
                for line in lines {
                    let reply: JsonReply<'_> =
                        serde_json::from_slice(line).map_err(|_| Malformed)?;
                    tell(reply.heard());
                }
            }
            Encoding::Protobuf => {
                let mut rest = message;
                while !rest.is_empty() {
                    let reply = Reply::decode_length_delimited(&mut rest).map_err(|_| Malformed)?;
                    tell(heard(&reply));
                }
            }
        }
        Ok(())
    }
}

impl Credentials {
    fn token(&self, number: u32) -> Cow<'_, str> {
        match self {
            Self::Nothing => Cow::Borrowed(""),
            Self::Token(token) => Cow::Borrowed(token),
            Self::Secret { secret, made_at } => {
                let sub = format!("load-{number}");
                let request = TokenRequest { sub, iat: *made_at, ..TokenRequest::default() };
                // Only an empty secret cannot sign; then the server says what it thinks of it.
                Cow::Owned(request.sign(secret).unwrap_or_default())
            }
        }
    }
}

/// A command to be put into words.
enum Words<'a> {
    Connect(&'a ConnectRequest),
    Subscribe(&'a SubscribeRequest),
    Publish(&'a PublishRequest),
}

impl Words<'_> {
    fn put_json(&self, id: u32, batch: &mut Vec<u8>) {
        let mut command = JsonCommand { id, ..JsonCommand::default() };
        match self {
            Self::Connect(it) => {
                command.connect = Some(JsonConnect { token: &it.token, name: &it.name });
            }
            Self::Subscribe(it) => {
                command.subscribe = Some(JsonSubscribe {
                    channel: &it.channel,
                    positioned: it.positioned,
                    recoverable: it.recoverable,
                    flag: it.flag,
                });
            }
            Self::Publish(it) => {
                let Ok(data) = serde_json::from_slice(&it.data) else { return };
                command.publish = Some(JsonPublish { channel: &it.channel, data });
            }
        }
        // Nothing in it can fail to be written to memory.
        let _ = serde_json::to_writer(batch, &command);
    }

    fn into_command(self, id: u32) -> Command {
        let mut command = Command { id, ..Command::default() };
        match self {
            Self::Connect(it) => command.connect = Some(Box::new(it.clone())),
            Self::Subscribe(it) => command.subscribe = Some(Box::new(it.clone())),
            Self::Publish(it) => command.publish = Some(it.clone()),
        }
        command
    }
}

#[derive(Default, Serialize)]
struct JsonCommand<'a> {
    id: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect: Option<JsonConnect<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscribe: Option<JsonSubscribe<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    publish: Option<JsonPublish<'a>>,
}

#[derive(Serialize)]
struct JsonConnect<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    token: &'a str,
    name: &'a str,
}

#[derive(Serialize)]
struct JsonSubscribe<'a> {
    channel: &'a str,
    positioned: bool,
    recoverable: bool,
    flag: i64,
}

#[derive(Serialize)]
struct JsonPublish<'a> {
    channel: &'a str,
    data: &'a RawValue,
}

/// What is of interest in a reply. All else is passed over unread.
#[derive(Deserialize)]
struct JsonReply<'a> {
    #[serde(default)]
    id: u32,
    #[serde(borrow, default)]
    error: Option<JsonCode<'a>>,
    #[serde(borrow, default)]
    push: Option<JsonPush<'a>>,
    #[serde(default)]
    connect: Option<JsonConnected>,
}

#[derive(Deserialize)]
struct JsonCode<'a> {
    #[serde(default)]
    code: u32,
    /// `message` in errors.
    #[serde(borrow, default, alias = "message")]
    reason: Cow<'a, str>,
}

#[derive(Deserialize)]
struct JsonPush<'a> {
    #[serde(borrow, default, rename = "pub")]
    publication: Option<JsonPublication<'a>>,
    #[serde(borrow, default)]
    unsubscribe: Option<JsonCode<'a>>,
}

#[derive(Deserialize)]
struct JsonPublication<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Deserialize)]
struct JsonConnected {
    #[serde(default)]
    pong: bool,
}

impl JsonReply<'_> {
    fn heard(&self) -> Heard<'_> {
        if let Some(push) = &self.push {
            return match (&push.publication, &push.unsubscribe) {
                (Some(publication), _) => Heard::Publication(publication.data.get().as_bytes()),
                (None, Some(it)) => Heard::Unsubscribed { code: it.code, reason: &it.reason },
                (None, None) => Heard::Other,
            };
        }
        if let Some(it) = &self.error {
            return Heard::Refused { id: self.id, code: it.code, message: &it.reason };
        }
        match (self.id, &self.connect) {
            (0, _) => Heard::Ping,
            (_, Some(it)) => Heard::Connected { pong: it.pong },
            (SUBSCRIBE, None) => Heard::Subscribed,
            (_, None) => Heard::Other,
        }
    }
}

fn heard(reply: &Reply) -> Heard<'_> {
    match &reply.body {
        None => Heard::Ping,
        Some(ReplyBody::Connect(it)) => Heard::Connected { pong: it.pong },
        Some(ReplyBody::Subscribe(_)) => Heard::Subscribed,
        Some(ReplyBody::Error(it)) => {
            Heard::Refused { id: reply.id, code: it.code, message: &it.message }
        }
        Some(ReplyBody::Push(push)) => match &push.body {
            Some(PushBody::Publication(it)) => Heard::Publication(&it.data),
            Some(PushBody::Unsubscribe(it)) => {
                Heard::Unsubscribed { code: it.code, reason: &it.reason }
            }
            _ => Heard::Other,
        },
        Some(_) => Heard::Other,
    }
}

/// Ids of the commands.
const CONNECT: u32 = 1;
const SUBSCRIBE: u32 = 2;
pub(crate) const PUBLISH: u32 = 3;

/// Stands for a client's number in a channel's name.
const NUMBER: &str = "{n}";

#[cfg(test)]
mod tests {
    use ringhold::gateway::wire::messages::{
        ConnectResult, ErrorReply, Publication, PublishResult, Push, SubscribeResult,
        UnsubscribePush,
    };
    use ringhold::gateway::wire::{self, Envelope, Payload, Subject, Unsubscribe};

    use super::*;

    const BOTH: [Encoding; 2] = [Encoding::Json, Encoding::Protobuf];

    fn plan(encoding: Encoding, channel: &str, channels: Option<u32>) -> GatewayPlan {
        let credentials = Credentials::Token("to\"ken".to_owned());
        GatewayPlan { encoding, credentials, channel: channel.to_owned(), channels }
    }

    fn decoded(encoding: Encoding, batch: &[u8]) -> Vec<Command> {
        wire::decode(encoding, batch).map(Result::unwrap).collect()
    }

    #[test]
    fn the_gateway_understands_what_clients_say() {
        for encoding in BOTH {
            let plan = plan(encoding, "load:{n}", Some(10));
            let mut batch = Vec::new();
            plan.hello(37, &mut batch);
            plan.publish(b"[1]", &mut batch);
            let commands = decoded(encoding, &batch);
            assert_eq!(commands.iter().map(|it| it.id).collect::<Vec<_>>(), [1, 2, 3]);
            assert_eq!(commands[0].connect.as_ref().unwrap().token, "to\"ken");
            let subscribe = commands[1].subscribe.as_ref().unwrap();
            assert_eq!((subscribe.channel.as_str(), subscribe.flag), ("load:7", 1));
            assert!(subscribe.positioned && subscribe.recoverable);
            assert_eq!(commands[2].publish.as_ref().unwrap().data, b"[1]"[..]);
            assert!(decoded(encoding, plan.pong())[0].is_pong());
        }
    }

    #[test]
    fn channels_by_number() {
        let of = |channel, channels, number| {
            let plan = plan(Encoding::Json, channel, channels);
            plan.channel_of(number).map(Cow::into_owned)
        };
        assert_eq!(of("news", Some(3), 7).as_deref(), Some("news"));
        assert_eq!(of("a{n}", Some(0), 7).as_deref(), Some("a7"));
        assert_eq!(of("a{n}", Some(3), 7).as_deref(), Some("a1"));
        assert_eq!(of("a{n}", None, 7).as_deref(), Some("a{n}"));
        assert_eq!(of("", Some(0), 7), None);
        let mut batch = Vec::new();
        plan(Encoding::Json, "", None).hello(1, &mut batch);
        assert_eq!(decoded(Encoding::Json, &batch).len(), 1);
    }

    #[test]
    fn each_client_is_a_user_of_its_own() {
        let secret = Credentials::Secret { secret: "s".to_owned(), made_at: 5 };
        let tokens = [secret.token(1), secret.token(2)];
        assert!(tokens[0] != tokens[1] && tokens[0].split('.').count() == 3, "{tokens:?}");
        assert_eq!(Credentials::Nothing.token(1), "");
    }

    #[test]
    fn clients_understand_what_the_gateway_says() {
        let data = Bytes::from_static(b"{\"a\":\"\\n\"}");
        let publication = Publication { data: data.clone(), offset: 4, ..Publication::default() };
        let replies = [
            (1, ReplyBody::Connect(Box::new(ConnectResult { pong: true, ..Default::default() }))),
            (2, ReplyBody::Subscribe(Box::new(SubscribeResult { id: 9, ..Default::default() }))),
            (3, ReplyBody::Publish(PublishResult {})),
            (
                3,
                ReplyBody::Error(ErrorReply {
                    code: 103,
                    message: "a\"b".to_owned(),
                    temporary: true,
                }),
            ),
        ];
        let (code, reason) = (Unsubscribe::SERVER.code, "x\ty".to_owned());
        let over = PushBody::Unsubscribe(UnsubscribePush { code, reason });
        let over = Push { id: 0, channel: "c".to_owned(), body: Some(over) };
        for encoding in BOTH {
            let mut batch = Vec::new();
            for (id, body) in replies.clone() {
                wire::encode_reply(encoding, &Reply { id, body: Some(body) }, &mut batch);
            }
            wire::encode_ping(encoding, &mut batch);
            for subject in [Subject::Channel("c"), Subject::Id(9)] {
                let (envelope, payload) = (Envelope::Reply, Payload::Verbatim);
                if encoding == Encoding::Json {
                    batch.push(b'\n');
                }
                wire::encode_publication(
                    encoding,
                    envelope,
                    subject,
                    &publication,
                    payload,
                    &mut batch,
                );
            }
            wire::encode_push(encoding, Envelope::Reply, &over, &mut batch);
            let expected = [
                Heard::Connected { pong: true },
                Heard::Subscribed,
                Heard::Other,
                Heard::Refused { id: 3, code: 103, message: "a\"b" },
                Heard::Ping,
                Heard::Publication(&data),
                Heard::Publication(&data),
                Heard::Unsubscribed { code, reason: "x\ty" },
            ];
            let mut expected = expected.into_iter();
            let told = |heard: Heard<'_>| assert_eq!(Some(heard), expected.next(), "{encoding:?}");
            GatewayPlan::hear(encoding, &batch, told).unwrap();
            assert_eq!(expected.next(), None);
            let half = &batch[..batch.len() - 1];
            assert_eq!(GatewayPlan::hear(encoding, half, |_| ()), Err(Malformed));
        }
    }
}
