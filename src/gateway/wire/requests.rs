//! What clients send: commands and the requests in them.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;

use super::messages::StreamPosition;
use super::nullable::{few, or_default, text, verbatim, verbatim_or_null};

/// One command: an id for the reply, and a request. Nothing set at all is a pong.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct Command {
    /// Chosen by the client, greater than 0 where it wants a reply.
    #[prost(uint32, tag = "1")]
    #[serde(deserialize_with = "or_default")]
    pub id: u32,
    /// Opens the session.
    #[prost(message, optional, boxed, tag = "4")]
    pub connect: Option<Box<ConnectRequest>>,
    /// Subscribes to a channel.
    #[prost(message, optional, boxed, tag = "5")]
    pub subscribe: Option<Box<SubscribeRequest>>,
    /// Ends a subscription.
    #[prost(message, optional, tag = "6")]
    pub unsubscribe: Option<UnsubscribeRequest>,
    /// Publishes into a channel.
    #[prost(message, optional, tag = "7")]
    pub publish: Option<PublishRequest>,
    /// Who is in a channel.
    #[prost(message, optional, tag = "8")]
    pub presence: Option<PresenceRequest>,
    /// How many are in a channel.
    #[prost(message, optional, tag = "9")]
    pub presence_stats: Option<PresenceStatsRequest>,
    /// Past publications of a channel.
    #[prost(message, optional, tag = "10")]
    pub history: Option<HistoryRequest>,
    /// A message that is not answered.
    #[prost(message, optional, tag = "12")]
    pub send: Option<SendRequest>,
    /// A call of the application's backend.
    #[prost(message, optional, tag = "13")]
    pub rpc: Option<RpcRequest>,
    /// A new token for the connection.
    #[prost(message, optional, tag = "14")]
    pub refresh: Option<RefreshRequest>,
    /// A new token for a subscription.
    #[prost(message, optional, tag = "15")]
    pub sub_refresh: Option<SubRefreshRequest>,
}

impl Command {
    /// Whether this is the answer to a ping: nothing set.
    pub fn is_pong(&self) -> bool {
        *self == Self::default()
    }

    /// The request, the first in the protocol's order if there are several. `None` is a pong if
    /// the id is 0, and a bad request otherwise.
    pub fn into_request(self) -> Option<Request> {
        None.or(self.connect.map(Request::Connect))
            .or(self.subscribe.map(Request::Subscribe))
            .or(self.unsubscribe.map(Request::Unsubscribe))
            .or(self.publish.map(Request::Publish))
            .or(self.presence.map(Request::Presence))
            .or(self.presence_stats.map(Request::PresenceStats))
            .or(self.history.map(Request::History))
            .or(self.rpc.map(Request::Rpc))
            .or(self.send.map(Request::Send))
            .or(self.refresh.map(Request::Refresh))
            .or(self.sub_refresh.map(Request::SubRefresh))
    }
}

/// The one request of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Each is the field of the same name of [`Command`].
pub enum Request {
    Connect(Box<ConnectRequest>),
    Subscribe(Box<SubscribeRequest>),
    Unsubscribe(UnsubscribeRequest),
    Publish(PublishRequest),
    Presence(PresenceRequest),
    PresenceStats(PresenceStatsRequest),
    History(HistoryRequest),
    Rpc(RpcRequest),
    Send(SendRequest),
    Refresh(RefreshRequest),
    SubRefresh(SubRefreshRequest),
}

/// Opens the session. Also what clients of unidirectional transports send.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct ConnectRequest {
    /// A JSON Web Token; empty for none.
    #[prost(string, tag = "1")]
    #[serde(deserialize_with = "or_default")]
    pub token: String,
    /// For the connect proxy. Raw.
    #[prost(bytes = "bytes", tag = "2")]
    #[serde(deserialize_with = "verbatim")]
    pub data: Bytes,
    /// By channel: positions from which server-side subscriptions recover.
    #[prost(btree_map = "string, message", tag = "3")]
    #[serde(deserialize_with = "few")]
    pub subs: BTreeMap<String, SubscribeRequest>,
    /// The client's name, for metrics.
    #[prost(string, tag = "4")]
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// The client's version.
    #[prost(string, tag = "5")]
    #[serde(deserialize_with = "or_default")]
    pub version: String,
    /// HTTP headers that the client wants a proxy to see.
    #[prost(btree_map = "string, string", tag = "6")]
    #[serde(deserialize_with = "few")]
    pub headers: BTreeMap<String, String>,
    /// Features of the connection, as bits.
    #[prost(int64, tag = "7")]
    #[serde(deserialize_with = "or_default")]
    pub flag: i64,
}

/// Subscribes to a channel.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct SubscribeRequest {
    /// The channel.
    #[prost(string, tag = "1")]
    #[serde(deserialize_with = "or_default")]
    pub channel: String,
    /// A JSON Web Token for the subscription; empty for none.
    #[prost(string, tag = "2")]
    #[serde(deserialize_with = "or_default")]
    pub token: String,
    /// Publications after `offset` in `epoch` are wanted.
    #[prost(bool, tag = "3")]
    #[serde(deserialize_with = "or_default")]
    pub recover: bool,
    /// See `recover`.
    #[prost(string, tag = "6")]
    #[serde(deserialize_with = "or_default")]
    pub epoch: String,
    /// See `recover`.
    #[prost(uint64, tag = "7")]
    #[serde(deserialize_with = "or_default")]
    pub offset: u64,
    /// For the subscribe proxy. Raw.
    #[prost(bytes = "bytes", tag = "8")]
    #[serde(deserialize_with = "verbatim")]
    pub data: Bytes,
    /// The server shall watch the position.
    #[prost(bool, tag = "9")]
    #[serde(deserialize_with = "or_default")]
    pub positioned: bool,
    /// The client wants to recover after a reconnect.
    #[prost(bool, tag = "10")]
    #[serde(deserialize_with = "or_default")]
    pub recoverable: bool,
    /// Join and leave messages are wanted.
    #[prost(bool, tag = "11")]
    #[serde(deserialize_with = "or_default")]
    pub join_leave: bool,
    /// Deltas that the client can apply: `fossil`, or empty for none.
    #[prost(string, tag = "12")]
    #[serde(deserialize_with = "or_default")]
    pub delta: String,
    /// Which publications are wanted: a [`FilterNode`](super::messages::FilterNode), not decoded,
    /// because it becomes many times its size (see
    /// [`Filter::decode`](crate::gateway::filter::Filter::decode)).
    #[prost(bytes = "bytes", optional, tag = "13")]
    #[serde(deserialize_with = "verbatim_or_null")]
    pub tf: Option<Bytes>,
    /// Features of the subscription: see [`FLAG_COMPACT`](Self::FLAG_COMPACT) and
    /// [`FLAG_REJECT_UNRECOVERED`](Self::FLAG_REJECT_UNRECOVERED).
    #[prost(int64, tag = "14")]
    #[serde(deserialize_with = "or_default")]
    pub flag: i64,
    /// `type` on the wire: 0 is a stream, all others are refused.
    #[prost(int32, tag = "15")]
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: i32,
}

impl SubscribeRequest {
    /// The client takes a number for the channel's name in pushes.
    pub const FLAG_COMPACT: i64 = 1;
    /// A recovery that fails is to be answered with an error.
    pub const FLAG_REJECT_UNRECOVERED: i64 = 2;
}

/// Ends a subscription.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct UnsubscribeRequest {
    /// The channel.
    #[prost(string, tag = "1")]
    #[serde(deserialize_with = "or_default")]
    pub channel: String,
}

/// Publishes into a channel.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct PublishRequest {
    /// The channel.
    #[prost(string, tag = "1")]
    #[serde(deserialize_with = "or_default")]
    pub channel: String,
    /// The payload. Raw.
    #[prost(bytes = "bytes", tag = "2")]
    #[serde(deserialize_with = "verbatim")]
    pub data: Bytes,
    /// `type` on the wire: 0 is a stream, all others are refused.
    #[prost(int32, tag = "3")]
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: i32,
}

/// Who is in a channel.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct PresenceRequest {
    /// The channel.
    #[prost(string, tag = "1")]
    #[serde(deserialize_with = "or_default")]
    pub channel: String,
}

/// How many are in a channel.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct PresenceStatsRequest {
    /// The channel.
    #[prost(string, tag = "1")]
    #[serde(deserialize_with = "or_default")]
    pub channel: String,
}

/// Past publications of a channel.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct HistoryRequest {
    /// The channel.
    #[prost(string, tag = "1")]
    #[serde(deserialize_with = "or_default")]
    pub channel: String,
    /// How many: 0 is none but the position, less is as many as the server gives.
    #[prost(int32, tag = "7")]
    #[serde(deserialize_with = "or_default")]
    pub limit: i32,
    /// Those after it, or before it in reverse.
    #[prost(message, optional, tag = "8")]
    pub since: Option<StreamPosition>,
    /// Newest first.
    #[prost(bool, tag = "9")]
    #[serde(deserialize_with = "or_default")]
    pub reverse: bool,
}

/// A message that is not answered.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct SendRequest {
    /// The payload. Raw.
    #[prost(bytes = "bytes", tag = "1")]
    #[serde(deserialize_with = "verbatim")]
    pub data: Bytes,
}

/// A call of the application's backend.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct RpcRequest {
    /// The parameters. Raw.
    #[prost(bytes = "bytes", tag = "1")]
    #[serde(deserialize_with = "verbatim")]
    pub data: Bytes,
    /// What is called.
    #[prost(string, tag = "2")]
    #[serde(deserialize_with = "or_default")]
    pub method: String,
}

/// A new token for the connection.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct RefreshRequest {
    /// A JSON Web Token.
    #[prost(string, tag = "1")]
    #[serde(deserialize_with = "or_default")]
    pub token: String,
}

/// A new token for a subscription.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct SubRefreshRequest {
    /// The channel.
    #[prost(string, tag = "1")]
    #[serde(deserialize_with = "or_default")]
    pub channel: String,
    /// A JSON Web Token.
    #[prost(string, tag = "2")]
    #[serde(deserialize_with = "or_default")]
    pub token: String,
    /// `type` on the wire: 0 is a refresh, all others are refused.
    #[prost(int32, tag = "3")]
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: i32,
}

/// What a client of an emulated transport posts.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct EmulationRequest {
    /// The node that has the session.
    #[prost(string, tag = "1")]
    #[serde(deserialize_with = "or_default")]
    pub node: String,
    /// The session.
    #[prost(string, tag = "2")]
    #[serde(deserialize_with = "or_default")]
    pub session: String,
    /// Commands, as in one WebSocket message. In JSON this is a string with their text.
    #[prost(bytes = "bytes", tag = "3")]
    #[serde(deserialize_with = "text")]
    pub data: Bytes,
}
