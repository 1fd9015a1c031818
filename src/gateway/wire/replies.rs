//! What the server sends: replies, their results, and pushes.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::messages::{ClientInfo, Publication};

/// One reply: to a command, or a push. Nothing set at all is a ping.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Reply {
    /// The command's id; 0 for pushes.
    #[prost(uint32, tag = "1")]
    pub id: u32,
    /// What is replied.
    #[prost(oneof = "ReplyBody", tags = "2, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15")]
    pub body: Option<ReplyBody>,
}

/// The one thing that a reply says.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
#[allow(missing_docs)] // Each is the reply to the request of the same name.
pub enum ReplyBody {
    #[prost(message, tag = "2")]
    Error(ErrorReply),
    #[prost(message, tag = "4")]
    Push(Box<Push>),
    #[prost(message, tag = "5")]
    Connect(Box<ConnectResult>),
    #[prost(message, tag = "6")]
    Subscribe(Box<SubscribeResult>),
    #[prost(message, tag = "7")]
    Unsubscribe(UnsubscribeResult),
    #[prost(message, tag = "8")]
    Publish(PublishResult),
    #[prost(message, tag = "9")]
    Presence(PresenceResult),
    #[prost(message, tag = "10")]
    PresenceStats(PresenceStatsResult),
    #[prost(message, tag = "11")]
    History(HistoryResult),
    #[prost(message, tag = "13")]
    Rpc(RpcResult),
    #[prost(message, tag = "14")]
    Refresh(RefreshResult),
    #[prost(message, tag = "15")]
    SubRefresh(SubRefreshResult),
}

/// `error`: a [code](super::codes::Error) in a reply.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ErrorReply {
    /// The code.
    #[prost(uint32, tag = "1")]
    pub code: u32,
    /// In words.
    #[prost(string, tag = "2")]
    pub message: String,
    /// The client may try again.
    #[prost(bool, tag = "3")]
    pub temporary: bool,
}

/// The session is open.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ConnectResult {
    /// The connection's id.
    #[prost(string, tag = "1")]
    pub client: String,
    /// The server's version.
    #[prost(string, tag = "2")]
    pub version: String,
    /// The client has to refresh its token.
    #[prost(bool, tag = "3")]
    pub expires: bool,
    /// Within so many seconds.
    #[prost(uint32, tag = "4")]
    pub ttl: u32,
    /// From the connect proxy. Raw.
    #[prost(bytes = "bytes", tag = "5")]
    pub data: Bytes,
    /// Server-side subscriptions by channel.
    #[prost(btree_map = "string, message", tag = "6")]
    pub subs: BTreeMap<String, SubscribeResult>,
    /// Seconds between pings; 0 for none.
    #[prost(uint32, tag = "7")]
    pub ping: u32,
    /// Pings must be answered.
    #[prost(bool, tag = "8")]
    pub pong: bool,
    /// Names the session, on emulated transports.
    #[prost(string, tag = "9")]
    pub session: String,
    /// The node that has the session, on emulated transports.
    #[prost(string, tag = "10")]
    pub node: String,
    /// The server's Unix time in milliseconds.
    #[prost(int64, tag = "11")]
    pub time: i64,
}

/// The channel is subscribed.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SubscribeResult {
    /// The client has to refresh the subscription's token.
    #[prost(bool, tag = "1")]
    pub expires: bool,
    /// Within so many seconds.
    #[prost(uint32, tag = "2")]
    pub ttl: u32,
    /// The client may recover after a reconnect.
    #[prost(bool, tag = "3")]
    pub recoverable: bool,
    /// The stream's epoch.
    #[prost(string, tag = "6")]
    pub epoch: String,
    /// What was missed, oldest first. With `delta`, JSON clients get their `data` as strings.
    #[prost(message, repeated, tag = "7")]
    pub publications: Vec<Publication>,
    /// All that was missed is in `publications`.
    #[prost(bool, tag = "8")]
    pub recovered: bool,
    /// The position at which `publications` begin, or the stream's top.
    #[prost(uint64, tag = "9")]
    pub offset: u64,
    /// The server watches the position.
    #[prost(bool, tag = "10")]
    pub positioned: bool,
    /// From the token or the proxy. Raw.
    #[prost(bytes = "bytes", tag = "11")]
    pub data: Bytes,
    /// The client asked to recover.
    #[prost(bool, tag = "12")]
    pub was_recovering: bool,
    /// Payloads may be deltas.
    #[prost(bool, tag = "13")]
    pub delta: bool,
    /// Stands for the channel's name in pushes; 0 if the name is used.
    #[prost(int64, tag = "14")]
    pub id: i64,
}

/// The subscription is over.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct UnsubscribeResult {}

/// The publication is out.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct PublishResult {}

/// Who is in the channel.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PresenceResult {
    /// By id of the connection.
    #[prost(btree_map = "string, message", tag = "1")]
    pub presence: BTreeMap<String, ClientInfo>,
}

/// How many are in the channel.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct PresenceStatsResult {
    /// Connections.
    #[prost(uint32, tag = "1")]
    pub num_clients: u32,
    /// Different users.
    #[prost(uint32, tag = "2")]
    pub num_users: u32,
}

/// Past publications.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HistoryResult {
    /// In the order that was asked for.
    #[prost(message, repeated, tag = "1")]
    pub publications: Vec<Publication>,
    /// The stream's epoch.
    #[prost(string, tag = "2")]
    pub epoch: String,
    /// The stream's top.
    #[prost(uint64, tag = "3")]
    pub offset: u64,
}

/// What the backend answered.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RpcResult {
    /// The answer. Raw.
    #[prost(bytes = "bytes", tag = "1")]
    pub data: Bytes,
}

/// The connection lives longer.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RefreshResult {
    /// The connection's id.
    #[prost(string, tag = "1")]
    pub client: String,
    /// The server's version.
    #[prost(string, tag = "2")]
    pub version: String,
    /// The client has to refresh again.
    #[prost(bool, tag = "3")]
    pub expires: bool,
    /// Within so many seconds.
    #[prost(uint32, tag = "4")]
    pub ttl: u32,
}

/// The subscription lives longer.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct SubRefreshResult {
    /// The client has to refresh again.
    #[prost(bool, tag = "1")]
    pub expires: bool,
    /// Within so many seconds.
    #[prost(uint32, tag = "2")]
    pub ttl: u32,
}

/// What the server says unasked.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Push {
    /// Stands for the channel, where a [`SubscribeResult`] gave it a number; else 0.
    #[prost(int64, tag = "1")]
    pub id: i64,
    /// The channel it is about; empty if it is about the connection, or `id` is set.
    #[prost(string, tag = "2")]
    pub channel: String,
    /// What is said.
    #[prost(oneof = "PushBody", tags = "4, 5, 6, 7, 8, 9, 10, 11, 12")]
    pub body: Option<PushBody>,
}

/// The one thing that a push says.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum PushBody {
    /// `pub`: something was published.
    #[prost(message, tag = "4")]
    Publication(Box<Publication>),
    /// Somebody came.
    #[prost(message, tag = "5")]
    Join(JoinPush),
    /// Somebody went.
    #[prost(message, tag = "6")]
    Leave(LeavePush),
    /// The server ended the subscription.
    #[prost(message, tag = "7")]
    Unsubscribe(UnsubscribePush),
    /// To this connection, in no channel.
    #[prost(message, tag = "8")]
    Message(MessagePush),
    /// The server subscribed the connection.
    #[prost(message, tag = "9")]
    Subscribe(SubscribePush),
    /// The session is open, on unidirectional transports.
    #[prost(message, tag = "10")]
    Connect(Box<ConnectPush>),
    /// The server ends the connection, on transports without close frames.
    #[prost(message, tag = "11")]
    Disconnect(DisconnectPush),
    /// The connection's expiry changed.
    #[prost(message, tag = "12")]
    Refresh(RefreshPush),
}

/// Somebody came.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct JoinPush {
    /// Who.
    #[prost(message, optional, tag = "1")]
    pub info: Option<ClientInfo>,
}

/// Somebody went.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct LeavePush {
    /// Who.
    #[prost(message, optional, tag = "1")]
    pub info: Option<ClientInfo>,
}

/// The server ended the subscription: an [unsubscribe code](super::codes::Unsubscribe).
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct UnsubscribePush {
    /// The code.
    #[prost(uint32, tag = "2")]
    pub code: u32,
    /// In words.
    #[prost(string, tag = "3")]
    pub reason: String,
}

/// To this connection, in no channel.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct MessagePush {
    /// The payload. Raw.
    #[prost(bytes = "bytes", tag = "1")]
    pub data: Bytes,
}

/// The server subscribed the connection.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SubscribePush {
    /// The client may recover after a reconnect.
    #[prost(bool, tag = "1")]
    pub recoverable: bool,
    /// The stream's epoch.
    #[prost(string, tag = "4")]
    pub epoch: String,
    /// The stream's top.
    #[prost(uint64, tag = "5")]
    pub offset: u64,
    /// The server watches the position.
    #[prost(bool, tag = "6")]
    pub positioned: bool,
    /// From whoever subscribed it. Raw.
    #[prost(bytes = "bytes", tag = "7")]
    pub data: Bytes,
}

/// The session is open: a [`ConnectResult`] with other tags.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ConnectPush {
    /// The connection's id.
    #[prost(string, tag = "1")]
    pub client: String,
    /// The server's version.
    #[prost(string, tag = "2")]
    pub version: String,
    /// From the connect proxy. Raw.
    #[prost(bytes = "bytes", tag = "3")]
    pub data: Bytes,
    /// Server-side subscriptions by channel.
    #[prost(btree_map = "string, message", tag = "4")]
    pub subs: BTreeMap<String, SubscribeResult>,
    /// The connection expires.
    #[prost(bool, tag = "5")]
    pub expires: bool,
    /// In so many seconds.
    #[prost(uint32, tag = "6")]
    pub ttl: u32,
    /// Seconds between pings; 0 for none.
    #[prost(uint32, tag = "7")]
    pub ping: u32,
    /// Pings must be answered.
    #[prost(bool, tag = "8")]
    pub pong: bool,
    /// Names the session.
    #[prost(string, tag = "9")]
    pub session: String,
    /// The node that has the session.
    #[prost(string, tag = "10")]
    pub node: String,
    /// The server's Unix time in milliseconds.
    #[prost(int64, tag = "11")]
    pub time: i64,
}

impl From<ConnectResult> for ConnectPush {
    fn from(result: ConnectResult) -> Self {
        Self {
            client: result.client,
            version: result.version,
            data: result.data,
            subs: result.subs,
            expires: result.expires,
            ttl: result.ttl,
            ping: result.ping,
            pong: result.pong,
            session: result.session,
            node: result.node,
            time: result.time,
        }
    }
}

/// The server ends the connection: a [disconnect code](super::codes::Disconnect).
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DisconnectPush {
    /// The code.
    #[prost(uint32, tag = "1")]
    pub code: u32,
    /// In words.
    #[prost(string, tag = "2")]
    pub reason: String,
    /// The client should come back. Clients of today go by the code.
    #[prost(bool, tag = "3")]
    pub reconnect: bool,
}

/// The connection's expiry changed.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct RefreshPush {
    /// The connection expires.
    #[prost(bool, tag = "1")]
    pub expires: bool,
    /// In so many seconds.
    #[prost(uint32, tag = "2")]
    pub ttl: u32,
}
