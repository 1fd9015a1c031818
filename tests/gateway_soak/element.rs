//! What comes from the server, read from JSON or Protobuf into one shape.

use prost::Message;
use ringhold::gateway::wire::messages as wire;
use serde::Deserialize;
use serde_json::value::RawValue;

/// A publication.
#[derive(Debug)]
pub(crate) struct Pub {
    pub(crate) offset: u64,
    pub(crate) delta: bool,
    /// As it travels: where deltas were agreed on, in JSON a string.
    pub(crate) data: Vec<u8>,
}

/// A subscription that is there.
#[derive(Debug, Default)]
pub(crate) struct Granted {
    pub(crate) epoch: String,
    pub(crate) offset: u64,
    pub(crate) positioned: bool,
    pub(crate) recovered: bool,
    pub(crate) was_recovering: bool,
    pub(crate) delta: bool,
    pub(crate) expires: bool,
    pub(crate) ttl: u32,
    pub(crate) publications: Vec<Pub>,
}

#[derive(Debug, Default)]
pub(crate) struct Connected {
    pub(crate) client: String,
    pub(crate) session: String,
    pub(crate) node: String,
    pub(crate) expires: bool,
    pub(crate) ttl: u32,
    pub(crate) subs: Vec<(String, Granted)>,
}

/// The body of a reply.
#[derive(Debug)]
pub(crate) enum Body {
    Error(u32),
    Connect(Connected),
    Subscribe(Granted),
    Unsubscribe,
    Publish,
    /// Client ids.
    Presence(Vec<String>),
    History(Granted),
    Rpc(Vec<u8>),
    /// Whether it expires, and in how many seconds.
    Refresh(bool, u32),
    SubRefresh(bool, u32),
}

/// The body of a push.
#[derive(Debug)]
pub(crate) enum What {
    Publication(Pub),
    /// Whose.
    Join(String),
    Leave(String),
    Unsubscribe(u32),
    Subscribe(Granted),
    Disconnect(u32),
    /// The server API has set when the connection expires.
    Refresh,
}

#[derive(Debug)]
pub(crate) enum Element {
    Ping,
    Reply(u32, Body),
    Push(String, What),
}

/// The elements of one message in JSON.
pub(crate) fn json(text: &[u8], into: &mut Vec<Element>) -> Result<(), String> {
    for line in text.split(|byte| *byte == b'\n') {
        let shown = || String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned();
        let element: JsonElement<'_> =
            serde_json::from_slice(line).map_err(|error| format!("{error}: {}", shown()))?;
        into.push(element.read().ok_or_else(|| format!("an unknown element: {}", shown()))?);
    }
    Ok(())
}

/// The elements of one message in Protobuf.
pub(crate) fn protobuf(mut bytes: &[u8], into: &mut Vec<Element>) -> Result<(), String> {
    while !bytes.is_empty() {
        let reply = wire::Reply::decode_length_delimited(&mut bytes);
        let reply = reply.map_err(|error| format!("Protobuf: {error}"))?;
        let id = reply.id;
        into.push(match reply.body {
            None if id == 0 => Element::Ping,
            Some(wire::ReplyBody::Push(push)) if id == 0 => {
                let wire::Push { channel, body, .. } = *push;
                let what = body.and_then(pushed);
                Element::Push(channel, what.ok_or("an unknown push in Protobuf")?)
            }
            body => {
                let body = body.and_then(replied);
                Element::Reply(id, body.ok_or("an unknown reply in Protobuf")?)
            }
        });
    }
    Ok(())
}

fn replied(body: wire::ReplyBody) -> Option<Body> {
    use wire::ReplyBody as It;
    Some(match body {
        It::Error(error) => Body::Error(error.code),
        It::Connect(it) => {
            let it = *it;
            let subs = it.subs.into_iter().map(|(name, sub)| (name, granted(sub)));
            Body::Connect(Connected {
                client: it.client,
                session: it.session,
                node: it.node,
                expires: it.expires,
                ttl: it.ttl,
                subs: subs.collect(),
            })
        }
        It::Subscribe(it) => Body::Subscribe(granted(*it)),
        It::Unsubscribe(_) => Body::Unsubscribe,
        It::Publish(_) => Body::Publish,
        It::Presence(it) => Body::Presence(it.presence.into_keys().collect()),
        It::History(it) => Body::History(Granted {
            epoch: it.epoch,
            offset: it.offset,
            publications: it.publications.into_iter().map(publication).collect(),
            ..Granted::default()
        }),
        It::Rpc(it) => Body::Rpc(it.data.to_vec()),
        It::Refresh(it) => Body::Refresh(it.expires, it.ttl),
        It::SubRefresh(it) => Body::SubRefresh(it.expires, it.ttl),
        _ => return None,
    })
}

fn pushed(body: wire::PushBody) -> Option<What> {
    use wire::PushBody as It;
    Some(match body {
        It::Publication(it) => What::Publication(publication(*it)),
        It::Join(it) => What::Join(it.info?.client),
        It::Leave(it) => What::Leave(it.info?.client),
        It::Unsubscribe(it) => What::Unsubscribe(it.code),
        It::Subscribe(it) => What::Subscribe(Granted {
            epoch: it.epoch,
            offset: it.offset,
            positioned: it.positioned,
            ..Granted::default()
        }),
        It::Disconnect(it) => What::Disconnect(it.code),
        It::Refresh(_) => What::Refresh,
        _ => return None,
    })
}

fn granted(it: wire::SubscribeResult) -> Granted {
    Granted {
        epoch: it.epoch,
        offset: it.offset,
        positioned: it.positioned,
        recovered: it.recovered,
        was_recovering: it.was_recovering,
        delta: it.delta,
        expires: it.expires,
        ttl: it.ttl,
        publications: it.publications.into_iter().map(publication).collect(),
    }
}

fn publication(it: wire::Publication) -> Pub {
    Pub { offset: it.offset, delta: it.delta, data: it.data.to_vec() }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct JsonElement<'a> {
    id: u32,
    error: Option<JsonCode>,
    #[serde(borrow)]
    push: Option<JsonPush<'a>>,
    #[serde(borrow)]
    connect: Option<JsonConnect<'a>>,
    #[serde(borrow)]
    subscribe: Option<JsonGranted<'a>>,
    unsubscribe: Option<JsonNothing>,
    publish: Option<JsonNothing>,
    presence: Option<JsonPresence>,
    #[serde(borrow)]
    history: Option<JsonGranted<'a>>,
    #[serde(borrow)]
    rpc: Option<JsonRpc<'a>>,
    refresh: Option<JsonTime>,
    sub_refresh: Option<JsonTime>,
}

#[derive(Deserialize)]
struct JsonNothing {}

#[derive(Default, Deserialize)]
#[serde(default)]
struct JsonCode {
    code: u32,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct JsonTime {
    expires: bool,
    ttl: u32,
}

#[derive(Deserialize)]
struct JsonPresence {
    presence: std::collections::HashMap<String, serde::de::IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct JsonRpc<'a> {
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct JsonConnect<'a> {
    client: String,
    session: String,
    node: String,
    expires: bool,
    ttl: u32,
    #[serde(borrow)]
    subs: std::collections::HashMap<String, JsonGranted<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct JsonGranted<'a> {
    epoch: String,
    offset: u64,
    positioned: bool,
    recovered: bool,
    was_recovering: bool,
    delta: bool,
    expires: bool,
    ttl: u32,
    #[serde(borrow)]
    publications: Vec<JsonPub<'a>>,
}

#[derive(Deserialize)]
struct JsonPub<'a> {
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    delta: bool,
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct JsonPush<'a> {
    channel: String,
    #[serde(borrow, rename = "pub")]
    publication: Option<JsonPub<'a>>,
    join: Option<JsonInfo>,
    leave: Option<JsonInfo>,
    unsubscribe: Option<JsonCode>,
    #[serde(borrow)]
    subscribe: Option<JsonGranted<'a>>,
    disconnect: Option<JsonCode>,
    refresh: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct JsonInfo {
    info: JsonClient,
}

#[derive(Deserialize)]
struct JsonClient {
    client: String,
}

impl JsonElement<'_> {
    fn read(self) -> Option<Element> {
        if let Some(push) = self.push {
            let channel = push.channel.clone();
            return Some(Element::Push(channel, push.read()?));
        }
        let body = None
            .or(self.error.map(|it| Body::Error(it.code)))
            .or(self.connect.map(|it| Body::Connect(it.read())))
            .or(self.subscribe.map(|it| Body::Subscribe(it.read())))
            .or(self.unsubscribe.map(|_| Body::Unsubscribe))
            .or(self.publish.map(|_| Body::Publish))
            .or(self.presence.map(|it| Body::Presence(it.presence.into_keys().collect())))
            .or(self.history.map(|it| Body::History(it.read())))
            .or(self.rpc.map(|it| Body::Rpc(raw(it.data))))
            .or(self.refresh.map(|it| Body::Refresh(it.expires, it.ttl)))
            .or(self.sub_refresh.map(|it| Body::SubRefresh(it.expires, it.ttl)));
        match body {
            Some(body) => Some(Element::Reply(self.id, body)),
            None => (self.id == 0).then_some(Element::Ping),
        }
    }
}

impl JsonConnect<'_> {
    fn read(self) -> Connected {
        let Self { client, session, node, expires, ttl, subs } = self;
        let subs = subs.into_iter().map(|(name, sub)| (name, sub.read())).collect();
        Connected { client, session, node, expires, ttl, subs }
    }
}

impl JsonGranted<'_> {
    fn read(self) -> Granted {
        Granted {
            epoch: self.epoch,
            offset: self.offset,
            positioned: self.positioned,
            recovered: self.recovered,
            was_recovering: self.was_recovering,
            delta: self.delta,
            expires: self.expires,
            ttl: self.ttl,
            publications: self.publications.into_iter().map(JsonPub::read).collect(),
        }
    }
}

impl JsonPub<'_> {
    fn read(self) -> Pub {
        Pub { offset: self.offset, delta: self.delta, data: raw(Some(self.data)) }
    }
}

impl JsonPush<'_> {
    fn read(self) -> Option<What> {
        None.or(self.publication.map(|it| What::Publication(it.read())))
            .or(self.join.map(|it| What::Join(it.info.client)))
            .or(self.leave.map(|it| What::Leave(it.info.client)))
            .or(self.unsubscribe.map(|it| What::Unsubscribe(it.code)))
            .or(self.subscribe.map(|it| What::Subscribe(it.read())))
            .or(self.disconnect.map(|it| What::Disconnect(it.code)))
            .or(self.refresh.map(|_| What::Refresh))
    }
}

fn raw(value: Option<&RawValue>) -> Vec<u8> {
    value.map_or_else(Vec::new, |value| value.get().as_bytes().to_vec())
}
