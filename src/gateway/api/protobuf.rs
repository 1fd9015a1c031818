//! The server API in Protobuf, as `api.proto` describes it: requests into those of [`super`], and
//! their outcomes back. The invariant: what decodes is as complete as what JSON decodes to, and a
//! message never takes much more memory than its bytes.

use std::collections::BTreeMap;

use bytes::{Buf, Bytes};
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::requests::{self, CHANNELS_MAX};
use super::{
    ApiReply, ApiRequest, BroadcastRequest, ChannelsRequest, DisconnectRequest,
    HistoryRemoveRequest, HistoryRequest, InfoRequest, NewPublication, PresenceRequest,
    PresenceStatsRequest, PublishRequest, RefreshRequest, RpcRequest, SubscribeRequest,
    UnsubscribeRequest, UserConnections,
};
use crate::gateway::channels::Override;
use crate::gateway::json::{either, one_line_if_json};
use crate::gateway::wire::codes::{Disconnect, Error};
use crate::gateway::wire::messages::{ClientInfo, StreamPosition};

/// Methods by their names in the service, in this catalogue, and the number of their fields in
/// `Command` and `Reply`.
pub(crate) const METHODS: &[(&str, &str, u32)] = &[
    ("Publish", "publish", 4),
    ("Broadcast", "broadcast", 5),
    ("Subscribe", "subscribe", 6),
    ("Unsubscribe", "unsubscribe", 7),
    ("Disconnect", "disconnect", 8),
    ("Presence", "presence", 9),
    ("PresenceStats", "presence_stats", 10),
    ("History", "history", 11),
    ("HistoryRemove", "history_remove", 12),
    ("Info", "info", 13),
    ("RPC", "rpc", 14),
    ("Refresh", "refresh", 15),
    ("Channels", "channels", 16),
];

/// Why bytes are not a request.
#[derive(Debug)]
pub(crate) enum Undecodable {
    /// Not Protobuf of this shape, or too much of it.
    Malformed,
    /// As in JSON.
    Refused(Error),
}

impl From<Error> for Undecodable {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

/// A batch: the bytes of each command's request, not decoded yet.
pub(crate) struct Batch {
    pub(crate) commands: Vec<Result<ApiRequest, Error>>,
    pub(crate) parallel: bool,
}

impl Batch {
    /// Decodes one of at most `most` commands.
    pub(crate) fn decode(bytes: Bytes, most: usize) -> Result<Self, Undecodable> {
        let mut batch = Self { commands: Vec::new(), parallel: false };
        let mut fields = Fields(bytes);
        while let Some(field) = fields.next()? {
            match field {
                (COMMANDS, Content::Bytes(command)) => {
                    if batch.commands.len() == most {
                        return Err(Undecodable::Malformed);
                    }
                    batch.commands.push(match command_of(command) {
                        Ok(request) => Ok(request),
                        Err(Undecodable::Refused(error)) => Err(error),
                        Err(malformed) => return Err(malformed),
                    });
                }
                (PARALLEL, Content::Number(number)) => batch.parallel = number != 0,
                _ => {}
            }
        }
        Ok(batch)
    }
}

/// The request in a `Command`: that of the first method in the catalogue that it has.
fn command_of(bytes: Bytes) -> Result<ApiRequest, Undecodable> {
    let mut first: Option<(usize, Bytes)> = None;
    let mut fields = Fields(bytes);
    while let Some((tag, content)) = fields.next()? {
        let place = METHODS.iter().position(|(_, _, number)| *number == tag);
        if let (Some(place), Content::Bytes(bytes)) = (place, content)
            && first.as_ref().is_none_or(|(known, _)| place <= *known)
        {
            first = Some((place, bytes));
        }
    }
    let Some((place, bytes)) = first else { return Err(Error::METHOD_NOT_FOUND.into()) };
    decode(METHODS[place].1, bytes)
}

/// Reads the parameters of a method.
pub(crate) fn decode(method: &str, bytes: Bytes) -> Result<ApiRequest, Undecodable> {
    // Before there is anything to hold them.
    let mut fields = Fields(bytes.clone());
    let mut count = 0;
    while fields.next()?.is_some() {
        count += 1;
        if count > FIELDS_MAX {
            return Err(Undecodable::Malformed);
        }
    }
    Ok(match method {
        "publish" => {
            let it: Publish = read(bytes)?;
            let channel = requests::required(it.channel.clone())?;
            ApiRequest::Publish(PublishRequest { channel, publication: it.into_publication()? })
        }
        "broadcast" => {
            let it: Broadcast = read(bytes)?;
            requests::few(&it.channels)?;
            let (channels, publication) = it.into_parts()?;
            ApiRequest::Broadcast(BroadcastRequest { channels, publication })
        }
        "subscribe" => {
            let it: Subscribe = read(bytes)?;
            ApiRequest::Subscribe(SubscribeRequest {
                connections: whom(it.user, it.client, it.session),
                channel: requests::required(it.channel)?,
                info: payload(it.info, it.b64info)?,
                data: payload(it.data, it.b64data)?,
                expire_at: it.expire_at,
                recover_since: it.recover_since,
                overrides: it.overrides.unwrap_or_default(),
            })
        }
        "unsubscribe" => {
            let it: Unsubscribe = read(bytes)?;
            ApiRequest::Unsubscribe(UnsubscribeRequest {
                connections: whom(it.user, it.client, it.session),
                channel: it.channel,
            })
        }
        "disconnect" => {
            let it: DisconnectUser = read(bytes)?;
            ApiRequest::Disconnect(DisconnectRequest {
                connections: whom(it.user, it.client, it.session),
                whitelist: it.whitelist,
                disconnect: match it.disconnect {
                    None => Disconnect::FORCE_NO_RECONNECT,
                    Some(given) => requests::disconnect(given.code, given.reason)?,
                },
            })
        }
        "refresh" => {
            let it: Refresh = read(bytes)?;
            ApiRequest::Refresh(RefreshRequest {
                connections: whom(it.user, it.client, it.session),
                expired: it.expired,
                expire_at: it.expire_at,
                info: (!it.info.is_empty()).then(|| one_line_if_json(it.info)),
            })
        }
        "presence" => ApiRequest::Presence(PresenceRequest { channel: channel(bytes)? }),
        "presence_stats" => {
            ApiRequest::PresenceStats(PresenceStatsRequest { channel: channel(bytes)? })
        }
        "history" => {
            let it: History = read(bytes)?;
            ApiRequest::History(HistoryRequest {
                channel: requests::required(it.channel)?,
                limit: it.limit,
                since: it.since,
                reverse: it.reverse,
            })
        }
        "history_remove" => {
            ApiRequest::HistoryRemove(HistoryRemoveRequest { channel: channel(bytes)? })
        }
        "channels" => {
            let it: OnlyText = read(bytes)?;
            ApiRequest::Channels(ChannelsRequest { pattern: it.text })
        }
        "info" => {
            let NoFields {} = read(bytes)?;
            ApiRequest::Info(InfoRequest)
        }
        "rpc" => {
            let it: Rpc = read(bytes)?;
            let method = requests::required(it.method)?;
            ApiRequest::Rpc(RpcRequest { method, params: it.params })
        }
        _ => return Err(Error::METHOD_NOT_FOUND.into()),
    })
}

fn read<T: Message + Default>(bytes: Bytes) -> Result<T, Undecodable> {
    T::decode(bytes).map_err(|_| Undecodable::Malformed)
}

fn channel(bytes: Bytes) -> Result<String, Undecodable> {
    let it: OnlyText = read(bytes)?;
    Ok(requests::required(it.text)?)
}

fn whom(user: String, client: String, session: String) -> UserConnections {
    UserConnections { user, client, session }
}

/// Base64 wins if there is some. Whether nothing, or what is no JSON, will do, the channel says.
fn payload(bytes: Bytes, base64: String) -> Result<Bytes, Error> {
    let found = either(Some(bytes), Some(base64)).map_err(|_| Error::BAD_REQUEST)?;
    Ok(one_line_if_json(found.unwrap_or_default()))
}

/// Fields of a message, one after the other.
struct Fields(Bytes);

/// What a field holds, as far as it matters here.
enum Content {
    Number(u64),
    Bytes(Bytes),
    Other,
}

impl Fields {
    fn next(&mut self) -> Result<Option<(u32, Content)>, Undecodable> {
        let malformed = |_| Undecodable::Malformed;
        if !self.0.has_remaining() {
            return Ok(None);
        }
        let (tag, kind) = decode_key(&mut self.0).map_err(malformed)?;
        let content = match kind {
            WireType::Varint => Content::Number(decode_varint(&mut self.0).map_err(malformed)?),
            WireType::LengthDelimited => {
                let length = decode_varint(&mut self.0).map_err(malformed)?;
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                if length > self.0.remaining() {
                    return Err(Undecodable::Malformed);
                }
                Content::Bytes(self.0.split_to(length))
            }
            kind => {
                skip_field(kind, tag, &mut self.0, DecodeContext::default()).map_err(malformed)?;
                Content::Other
            }
        };
        Ok(Some((tag, content)))
    }
}

/// `BatchRequest.commands` and `.parallel`.
const COMMANDS: u32 = 1;
const PARALLEL: u32 = 2;

/// Fields of one request: the channels of a broadcast, and some more.
const FIELDS_MAX: usize = CHANNELS_MAX + 10_000;

// --- Outcomes ------------------------------------------------------------------------------------

/// The response of a method: an error, or its result.
pub(crate) fn response(outcome: &Result<ApiReply, Error>) -> Vec<u8> {
    let mut out = Vec::new();
    match outcome {
        Err(error) => enclose(RESPONSE_ERROR, &failure(error).encode_to_vec(), &mut out),
        Ok(reply) => enclose(RESPONSE_RESULT, &result(reply), &mut out),
    }
    out
}

/// The response of a batch; `None` where a command died.
pub(crate) fn replies(all: &[Option<(&'static str, Result<ApiReply, Error>)>]) -> Vec<u8> {
    let mut out = Vec::new();
    for one in all {
        let mut reply = Vec::new();
        let error = match one {
            Some((name, Ok(done))) => {
                let known = METHODS.iter().find(|(_, method, _)| method == name);
                known.map(|(_, _, tag)| enclose(*tag, &result(done), &mut reply)).is_none()
            }
            Some((_, Err(error))) => {
                enclose(REPLY_ERROR, &failure(error).encode_to_vec(), &mut reply);
                false
            }
            None => true,
        };
        if error {
            enclose(REPLY_ERROR, &failure(&Error::INTERNAL).encode_to_vec(), &mut reply);
        }
        enclose(REPLIES, &reply, &mut out);
    }
    out
}

/// An error as this API shows it, also among the details of a status.
pub(crate) fn failure(error: &Error) -> Failure {
    Failure { code: error.code, message: error.message.to_string() }
}

fn enclose(tag: u32, message: &[u8], out: &mut Vec<u8>) {
    prost::encoding::encode_key(tag, WireType::LengthDelimited, out);
    prost::encoding::encode_varint(message.len() as u64, out);
    out.extend_from_slice(message);
}

fn result(reply: &ApiReply) -> Vec<u8> {
    match reply {
        ApiReply::Done => Vec::new(),
        ApiReply::Publish(it) => published(it).encode_to_vec(),
        ApiReply::Broadcast(it) => {
            let responses = it.responses.iter().map(|outcome| match outcome {
                Ok(it) => PublishResponse { error: None, result: Some(published(it)) },
                Err(error) => PublishResponse { error: Some(failure(error)), result: None },
            });
            BroadcastResult { responses: responses.collect() }.encode_to_vec()
        }
        ApiReply::Presence(it) => {
            let each = it.presence.iter().map(|info| (info.client.clone(), info.clone()));
            PresenceResult { presence: each.collect() }.encode_to_vec()
        }
        ApiReply::PresenceStats(it) => {
            let (num_clients, num_users) = (it.num_clients, it.num_users);
            PresenceStatsResult { num_clients, num_users }.encode_to_vec()
        }
        ApiReply::History(it) => {
            let kept = it.publications.iter().map(|kept| Publication {
                data: kept.data.clone(),
                info: kept.info.clone(),
                offset: kept.offset,
                tags: kept.tags.clone(),
            });
            let (epoch, offset) = (it.epoch.clone(), it.offset);
            HistoryResult { publications: kept.collect(), epoch, offset }.encode_to_vec()
        }
        ApiReply::Channels(it) => {
            let info =
                |(name, count): &(String, u32)| (name.clone(), ChannelInfo { num_clients: *count });
            ChannelsResult { channels: it.channels.iter().map(info).collect() }.encode_to_vec()
        }
        ApiReply::Info(it) => {
            InfoResult { nodes: it.nodes.iter().map(node).collect() }.encode_to_vec()
        }
        ApiReply::Rpc(it) => RpcResult { data: it.data.clone() }.encode_to_vec(),
    }
}

fn published(it: &super::PublishResult) -> PublishResult {
    PublishResult { offset: it.offset, epoch: it.epoch.clone() }
}

fn node(it: &super::NodeInfo) -> NodeResult {
    NodeResult {
        uid: it.uid.clone(),
        name: it.name.clone(),
        version: it.version.clone(),
        num_clients: it.num_clients,
        num_users: it.num_users,
        num_channels: it.num_channels,
        uptime: it.uptime,
        metrics: it
            .metrics
            .as_ref()
            .map(|it| Metrics { interval: it.interval, items: it.items.iter().cloned().collect() }),
        process: it
            .process
            .as_ref()
            .map(|it| Process { cpu: it.cpu, rss: i64::try_from(it.rss).unwrap_or(i64::MAX) }),
        num_subs: it.num_subs,
    }
}

/// `error` and `result` of a response.
const RESPONSE_ERROR: u32 = 1;
const RESPONSE_RESULT: u32 = 2;
/// `BatchResponse.replies` and `Reply.error`.
const REPLIES: u32 = 1;
const REPLY_ERROR: u32 = 2;

// --- Messages, with the numbers of `api.proto` ---------------------------------------------------

macro_rules! messages {
    ($($(#[doc = $doc:literal])* $name:ident {
        $($(#[$field_meta:meta])* $field:ident: $type:ty,)*
    })*) => { $(
        $(#[doc = $doc])*
        #[derive(Clone, PartialEq, Message)]
        pub(crate) struct $name {
            $($(#[$field_meta])* pub(crate) $field: $type,)*
        }
    )* };
}

messages! {
    Publish {
        #[prost(string, tag = "1")] channel: String,
        #[prost(bytes = "bytes", tag = "2")] data: Bytes,
        #[prost(string, tag = "3")] b64data: String,
        #[prost(bool, tag = "4")] skip_history: bool,
        #[prost(btree_map = "string, string", tag = "5")] tags: BTreeMap<String, String>,
        #[prost(string, tag = "6")] idempotency_key: String,
        #[prost(bool, tag = "7")] delta: bool,
        #[prost(uint64, tag = "8")] version: u64,
        #[prost(string, tag = "9")] version_epoch: String,
    }
    Broadcast {
        #[prost(string, repeated, tag = "1")] channels: Vec<String>,
        #[prost(bytes = "bytes", tag = "2")] data: Bytes,
        #[prost(string, tag = "3")] b64data: String,
        #[prost(bool, tag = "4")] skip_history: bool,
        #[prost(btree_map = "string, string", tag = "5")] tags: BTreeMap<String, String>,
        #[prost(string, tag = "6")] idempotency_key: String,
        #[prost(bool, tag = "7")] delta: bool,
        #[prost(uint64, tag = "8")] version: u64,
        #[prost(string, tag = "9")] version_epoch: String,
    }
    Subscribe {
        #[prost(string, tag = "1")] channel: String,
        #[prost(string, tag = "2")] user: String,
        #[prost(int64, tag = "3")] expire_at: i64,
        #[prost(bytes = "bytes", tag = "4")] info: Bytes,
        #[prost(string, tag = "5")] b64info: String,
        #[prost(string, tag = "6")] client: String,
        #[prost(bytes = "bytes", tag = "7")] data: Bytes,
        #[prost(string, tag = "8")] b64data: String,
        #[prost(message, optional, tag = "9")] recover_since: Option<StreamPosition>,
        #[prost(message, optional, tag = "10")] overrides: Option<Override>,
        #[prost(string, tag = "11")] session: String,
    }
    Unsubscribe {
        #[prost(string, tag = "1")] channel: String,
        #[prost(string, tag = "2")] user: String,
        #[prost(string, tag = "3")] client: String,
        #[prost(string, tag = "4")] session: String,
    }
    DisconnectUser {
        #[prost(string, tag = "1")] user: String,
        #[prost(message, optional, tag = "2")] disconnect: Option<DisconnectCode>,
        #[prost(string, tag = "3")] client: String,
        #[prost(string, repeated, tag = "4")] whitelist: Vec<String>,
        #[prost(string, tag = "5")] session: String,
    }
    DisconnectCode {
        #[prost(uint32, tag = "1")] code: u32,
        #[prost(string, tag = "2")] reason: String,
    }
    Refresh {
        #[prost(string, tag = "1")] user: String,
        #[prost(string, tag = "2")] client: String,
        #[prost(bool, tag = "3")] expired: bool,
        #[prost(int64, tag = "4")] expire_at: i64,
        #[prost(bytes = "bytes", tag = "5")] info: Bytes,
        #[prost(string, tag = "6")] session: String,
    }
    /// Of `presence`, `presence_stats`, `history_remove` and `channels`.
    OnlyText {
        #[prost(string, tag = "1")] text: String,
    }
    /// Of `info`.
    NoFields {}
    History {
        #[prost(string, tag = "1")] channel: String,
        #[prost(int32, tag = "2")] limit: i32,
        #[prost(message, optional, tag = "3")] since: Option<StreamPosition>,
        #[prost(bool, tag = "4")] reverse: bool,
    }
    Rpc {
        #[prost(string, tag = "1")] method: String,
        #[prost(bytes = "bytes", tag = "2")] params: Bytes,
    }
    Failure {
        #[prost(uint32, tag = "1")] code: u32,
        #[prost(string, tag = "2")] message: String,
    }
    PublishResult {
        #[prost(uint64, tag = "1")] offset: u64,
        #[prost(string, tag = "2")] epoch: String,
    }
    PublishResponse {
        #[prost(message, optional, tag = "1")] error: Option<Failure>,
        #[prost(message, optional, tag = "2")] result: Option<PublishResult>,
    }
    BroadcastResult {
        #[prost(message, repeated, tag = "1")] responses: Vec<PublishResponse>,
    }
    PresenceResult {
        #[prost(btree_map = "string, message", tag = "1")] presence: BTreeMap<String, ClientInfo>,
    }
    PresenceStatsResult {
        #[prost(uint32, tag = "1")] num_clients: u32,
        #[prost(uint32, tag = "2")] num_users: u32,
    }
    Publication {
        #[prost(bytes = "bytes", tag = "2")] data: Bytes,
        #[prost(message, optional, tag = "3")] info: Option<ClientInfo>,
        #[prost(uint64, tag = "4")] offset: u64,
        #[prost(btree_map = "string, string", tag = "5")] tags: BTreeMap<String, String>,
    }
    HistoryResult {
        #[prost(message, repeated, tag = "1")] publications: Vec<Publication>,
        #[prost(string, tag = "2")] epoch: String,
        #[prost(uint64, tag = "3")] offset: u64,
    }
    ChannelInfo {
        #[prost(uint32, tag = "1")] num_clients: u32,
    }
    ChannelsResult {
        #[prost(btree_map = "string, message", tag = "1")] channels: BTreeMap<String, ChannelInfo>,
    }
    Metrics {
        #[prost(double, tag = "1")] interval: f64,
        #[prost(btree_map = "string, double", tag = "2")] items: BTreeMap<String, f64>,
    }
    Process {
        #[prost(double, tag = "1")] cpu: f64,
        #[prost(int64, tag = "2")] rss: i64,
    }
    NodeResult {
        #[prost(string, tag = "1")] uid: String,
        #[prost(string, tag = "2")] name: String,
        #[prost(string, tag = "3")] version: String,
        #[prost(uint32, tag = "4")] num_clients: u32,
        #[prost(uint32, tag = "5")] num_users: u32,
        #[prost(uint32, tag = "6")] num_channels: u32,
        #[prost(uint32, tag = "7")] uptime: u32,
        #[prost(message, optional, tag = "8")] metrics: Option<Metrics>,
        #[prost(message, optional, tag = "9")] process: Option<Process>,
        #[prost(uint32, tag = "10")] num_subs: u32,
    }
    InfoResult {
        #[prost(message, repeated, tag = "1")] nodes: Vec<NodeResult>,
    }
    RpcResult {
        #[prost(bytes = "bytes", tag = "1")] data: Bytes,
    }
}

macro_rules! publication {
    ($it:ident) => {
        NewPublication {
            data: payload($it.data, $it.b64data)?,
            tags: $it.tags,
            idempotency_key: $it.idempotency_key,
            delta: $it.delta,
            skip_history: $it.skip_history,
            version: $it.version,
            version_epoch: $it.version_epoch,
        }
    };
}

impl Publish {
    fn into_publication(self) -> Result<NewPublication, Error> {
        Ok(publication!(self))
    }
}

impl Broadcast {
    fn into_parts(self) -> Result<(Vec<String>, NewPublication), Error> {
        let channels = self.channels;
        Ok((channels, publication!(self)))
    }
}

#[cfg(test)]
#[path = "protobuf_tests.rs"]
pub(crate) mod tests;
