//! The answers of the server API: plain values, and how they are written as JSON.
//!
//! Invariant: what is written is valid JSON whatever the payloads are. One that is not JSON itself
//! is written as Base64 under its name with `b64` before it.

use bytes::Bytes;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::gateway::json::{Raw, base64};
use crate::gateway::wire::codes::Error;
use crate::gateway::wire::messages::{ClientInfo, Publication};

/// The answer to an [`super::ApiRequest`], of the same method. Serializes as the content of
/// `result`.
#[derive(Clone, Debug, PartialEq)]
pub enum ApiReply {
    /// To `subscribe`, `unsubscribe`, `disconnect`, `refresh` and `history_remove`.
    Done,
    /// To `publish`.
    Publish(PublishResult),
    /// To `broadcast`.
    Broadcast(BroadcastResult),
    /// To `presence`.
    Presence(PresenceResult),
    /// To `presence_stats`.
    PresenceStats(PresenceStatsResult),
    /// To `history`.
    History(HistoryResult),
    /// To `channels`.
    Channels(ChannelsResult),
    /// To `info`.
    Info(InfoResult),
    /// To `rpc`.
    Rpc(RpcResult),
}

/// Where a publication went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PublishResult {
    /// Its number in the channel's stream. 0: not kept.
    #[serde(skip_serializing_if = "is_default")]
    pub offset: u64,
    /// Which life of the stream. Empty: not kept.
    #[serde(skip_serializing_if = "is_default")]
    pub epoch: String,
}

/// One outcome per channel, in their order.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct BroadcastResult {
    /// As of `publish`.
    #[serde(serialize_with = "responses")]
    pub responses: Vec<Result<PublishResult, Error>>,
}

/// Who is in a channel.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PresenceResult {
    /// One per connection; in JSON they are keyed by their client ids.
    #[serde(serialize_with = "by_client")]
    pub presence: Vec<ClientInfo>,
}

/// How many are in a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PresenceStatsResult {
    /// Connections.
    pub num_clients: u32,
    /// Different users.
    pub num_users: u32,
}

/// What is kept of a channel.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct HistoryResult {
    /// In the order asked for.
    #[serde(serialize_with = "stored")]
    pub publications: Vec<Publication>,
    /// Number of the newest publication of the stream.
    pub offset: u64,
    /// Which life of the stream.
    pub epoch: String,
}

/// Channels with subscribers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ChannelsResult {
    /// Name and number of subscribers.
    #[serde(serialize_with = "by_channel")]
    pub channels: Vec<(String, u32)>,
}

/// The nodes that know of each other.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct InfoResult {
    /// The one that was asked, and then the others.
    pub nodes: Vec<NodeInfo>,
}

/// What one server holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct NodeInfo {
    /// Different for every start.
    pub uid: String,
    /// As configured, or host and port.
    pub name: String,
    /// Of the program.
    pub version: String,
    /// Connections past `connect`.
    pub num_clients: u32,
    /// Different users among them.
    pub num_users: u32,
    /// Subscriptions.
    pub num_subs: u32,
    /// Channels with subscribers.
    pub num_channels: u32,
    /// Seconds since the start.
    pub uptime: u32,
    /// Selected metrics, if any are reported here.
    #[serde(skip_serializing_if = "is_default")]
    pub metrics: Option<NodeMetrics>,
    /// About the process. The control plane fills it in where it is `None`.
    #[serde(skip_serializing_if = "is_default")]
    pub process: Option<ProcessInfo>,
}

/// Metrics by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct NodeMetrics {
    /// Seconds over which they were collected.
    pub interval: f64,
    /// Name and value.
    #[serde(serialize_with = "by_name")]
    pub items: Vec<(String, f64)>,
}

/// What a process takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ProcessInfo {
    /// Per cent of one processor, on average since the last question.
    pub cpu: f64,
    /// Resident bytes.
    pub rss: u64,
}

/// What a method of an extension answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RpcResult {
    /// JSON text; empty: none.
    pub data: Bytes,
}

impl Serialize for ApiReply {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Done => serializer.serialize_map(Some(0))?.end(),
            Self::Publish(result) => result.serialize(serializer),
            Self::Broadcast(result) => result.serialize(serializer),
            Self::Presence(result) => result.serialize(serializer),
            Self::PresenceStats(result) => result.serialize(serializer),
            Self::History(result) => result.serialize(serializer),
            Self::Channels(result) => result.serialize(serializer),
            Self::Info(result) => result.serialize(serializer),
            Self::Rpc(result) => result.serialize(serializer),
        }
    }
}

impl Serialize for RpcResult {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        payload(&mut map, "data", &self.data)?;
        map.end()
    }
}

/// An error as the server API shows it: without the hint for SDKs whether it is temporary.
pub(crate) struct ApiError<'a>(pub(crate) &'a Error);

impl Serialize for ApiError<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("code", &self.0.code)?;
        map.serialize_entry("message", &self.0.message)?;
        map.end()
    }
}

/// `{"result": ...}` or `{"error": ...}`.
pub(crate) struct Envelope<'a, T>(pub(crate) &'a Result<T, Error>);

impl<T: Serialize> Serialize for Envelope<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        match self.0 {
            Ok(result) => map.serialize_entry("result", result)?,
            Err(error) => map.serialize_entry("error", &ApiError(error))?,
        }
        map.end()
    }
}

fn responses<S: Serializer>(
    responses: &[Result<PublishResult, Error>],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(responses.iter().map(Envelope))
}

fn by_client<S: Serializer>(clients: &[ClientInfo], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(clients.iter().map(|info| (&info.client, Client(info))))
}

fn stored<S: Serializer>(kept: &[Publication], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(kept.iter().map(Stored))
}

fn by_channel<S: Serializer>(channels: &[(String, u32)], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct ChannelInfo {
        num_clients: u32,
    }
    let infos = channels.iter().map(|(name, number)| (name, ChannelInfo { num_clients: *number }));
    serializer.collect_map(infos)
}

fn by_name<S: Serializer>(items: &[(String, f64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(items.iter().map(|(name, value)| (name, value)))
}

/// A connection as presence and publications show it.
struct Client<'a>(&'a ClientInfo);

impl Serialize for Client<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("user", &self.0.user)?;
        map.serialize_entry("client", &self.0.client)?;
        payload(&mut map, "conn_info", &self.0.conn_info)?;
        payload(&mut map, "chan_info", &self.0.chan_info)?;
        map.end()
    }
}

/// A publication as history shows it.
struct Stored<'a>(&'a Publication);

impl Serialize for Stored<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        payload(&mut map, "data", &self.0.data)?;
        if let Some(info) = &self.0.info {
            map.serialize_entry("info", &Client(info))?;
        }
        map.serialize_entry("offset", &self.0.offset)?;
        if !self.0.tags.is_empty() {
            map.serialize_entry("tags", &self.0.tags)?;
        }
        map.end()
    }
}

/// A payload under its name, or as Base64 under `b64` and its name; nothing if it is empty.
fn payload<M: SerializeMap>(map: &mut M, name: &str, bytes: &Bytes) -> Result<(), M::Error> {
    match Raw::checked(bytes) {
        Some(json) => map.serialize_entry(name, &json),
        None if bytes.is_empty() => Ok(()),
        None => map.serialize_entry(&format!("b64{name}"), &base64(bytes)),
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
