//! Centrifugo's control messages, by which nodes speak to each other: the fields, with their names
//! and Protobuf tags.
//!
//! Fields from 1000 on are ours; nodes of Centrifugo skip them. Its own edition has labels of
//! connections and orders for all users, which ringhold has not: an order with either is nobody's
//! here.

use std::collections::HashMap;

use bytes::Bytes;

/// A message from one node to another, or to all. One of its fields is set.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Command {
    /// The sender.
    #[prost(string, tag = "1")]
    pub uid: String,
    /// It is there, and has so much.
    #[prost(message, optional, tag = "4")]
    pub node: Option<Node>,
    /// An order.
    #[prost(message, optional, tag = "5")]
    pub unsubscribe: Option<Unsubscribe>,
    /// An order.
    #[prost(message, optional, tag = "6")]
    pub disconnect: Option<Disconnect>,
    /// It goes away.
    #[prost(message, optional, tag = "7")]
    pub shutdown: Option<Shutdown>,
    /// A question.
    #[prost(message, optional, tag = "8")]
    pub survey_request: Option<SurveyRequest>,
    /// The answer to one, or to an order of ours.
    #[prost(message, optional, tag = "9")]
    pub survey_response: Option<SurveyResponse>,
    /// An order.
    #[prost(message, optional, tag = "10")]
    pub subscribe: Option<Subscribe>,
    /// An order.
    #[prost(message, optional, tag = "12")]
    pub refresh: Option<Refresh>,
    /// Ours: whoever knows this field answers the order when it is done, under this number; 0: none
    /// is wanted.
    #[prost(uint64, tag = "1000")]
    pub acknowledge: u64,
}

/// A node, in its own words.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Node {
    /// Different for every start.
    #[prost(string, tag = "1")]
    pub uid: String,
    /// For people.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Of the program.
    #[prost(string, tag = "3")]
    pub version: String,
    /// Connections.
    #[prost(uint32, tag = "4")]
    pub num_clients: u32,
    /// Different users among them.
    #[prost(uint32, tag = "5")]
    pub num_users: u32,
    /// Channels with subscribers.
    #[prost(uint32, tag = "6")]
    pub num_channels: u32,
    /// Seconds since the start.
    #[prost(uint32, tag = "7")]
    pub uptime: u32,
    /// Set where they are new.
    #[prost(message, optional, tag = "8")]
    pub metrics: Option<Metrics>,
    /// Subscriptions.
    #[prost(uint32, tag = "10")]
    pub num_subs: u32,
    /// Ours: it answers orders.
    #[prost(bool, tag = "1000")]
    pub acknowledges: bool,
}

/// Metrics by name.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Metrics {
    /// Seconds over which they were collected.
    #[prost(double, tag = "1")]
    pub interval: f64,
    /// Name and value.
    #[prost(map = "string, double", tag = "2")]
    pub items: HashMap<String, f64>,
}

/// A node goes away.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Shutdown {}

/// To subscribe connections of a user.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Subscribe {
    /// Whose connections; empty: without a user.
    #[prost(string, tag = "1")]
    pub user: String,
    /// To this channel.
    #[prost(string, tag = "2")]
    pub channel: String,
    /// Listed in presence.
    #[prost(bool, tag = "3")]
    pub emit_presence: bool,
    /// Coming and going is announced.
    #[prost(bool, tag = "4")]
    pub emit_join_leave: bool,
    /// Unix time in seconds; 0: never.
    #[prost(int64, tag = "5")]
    pub expire_at: i64,
    /// The position is watched.
    #[prost(bool, tag = "6")]
    pub position: bool,
    /// Can recover.
    #[prost(bool, tag = "7")]
    pub recover: bool,
    /// Shown to others.
    #[prost(bytes = "bytes", tag = "8")]
    pub channel_info: Bytes,
    /// Only this connection, if not empty.
    #[prost(string, tag = "9")]
    pub client: String,
    /// Given to the subscriber.
    #[prost(bytes = "bytes", tag = "10")]
    pub data: Bytes,
    /// The server sends the publications after this position.
    #[prost(message, optional, tag = "11")]
    pub recover_since: Option<StreamPosition>,
    /// Only this session, if not empty.
    #[prost(string, tag = "12")]
    pub session: String,
    /// Told of others' coming and going.
    #[prost(bool, tag = "13")]
    pub push_join_leave: bool,
    /// Not ours.
    #[prost(bytes = "bytes", tag = "15")]
    pub label_filter: Bytes,
    /// Not ours.
    #[prost(bool, tag = "16")]
    pub all_users: bool,
    /// Ours: what differs from the options of the channel, as the server API has it. Empty: the
    /// fields above say how it shall be.
    #[prost(bytes = "bytes", tag = "1000")]
    pub overrides: Bytes,
}

/// A place in a stream.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct StreamPosition {
    /// In the stream.
    #[prost(uint64, tag = "1")]
    pub offset: u64,
    /// Of the stream.
    #[prost(string, tag = "2")]
    pub epoch: String,
}

/// To end subscriptions of a user.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Unsubscribe {
    /// Empty: all channels.
    #[prost(string, tag = "1")]
    pub channel: String,
    /// Whose connections; empty: without a user.
    #[prost(string, tag = "2")]
    pub user: String,
    /// Only this connection, if not empty.
    #[prost(string, tag = "3")]
    pub client: String,
    /// Only this session, if not empty.
    #[prost(string, tag = "4")]
    pub session: String,
    /// For the client.
    #[prost(uint32, tag = "5")]
    pub code: u32,
    /// In words.
    #[prost(string, tag = "6")]
    pub reason: String,
    /// Not ours.
    #[prost(bytes = "bytes", tag = "7")]
    pub label_filter: Bytes,
    /// Not ours.
    #[prost(bool, tag = "8")]
    pub all_users: bool,
}

/// To close connections of a user.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Disconnect {
    /// Whose connections; empty: without a user.
    #[prost(string, tag = "1")]
    pub user: String,
    /// But not these.
    #[prost(string, repeated, tag = "2")]
    pub whitelist: Vec<String>,
    /// Of the close frame.
    #[prost(uint32, tag = "3")]
    pub code: u32,
    /// In words.
    #[prost(string, tag = "4")]
    pub reason: String,
    /// Only this connection, if not empty.
    #[prost(string, tag = "6")]
    pub client: String,
    /// Only this session, if not empty.
    #[prost(string, tag = "7")]
    pub session: String,
    /// Not ours.
    #[prost(bytes = "bytes", tag = "8")]
    pub label_filter: Bytes,
    /// Not ours.
    #[prost(bool, tag = "9")]
    pub all_users: bool,
}

/// To change when connections of a user expire.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Refresh {
    /// Whose connections; empty: without a user.
    #[prost(string, tag = "1")]
    pub user: String,
    /// Only this connection, if not empty.
    #[prost(string, tag = "2")]
    pub client: String,
    /// It is over now.
    #[prost(bool, tag = "3")]
    pub expired: bool,
    /// Unix time in seconds; 0: never.
    #[prost(int64, tag = "4")]
    pub expire_at: i64,
    /// New connection information; empty leaves it.
    #[prost(bytes = "bytes", tag = "5")]
    pub info: Bytes,
    /// Only this session, if not empty.
    #[prost(string, tag = "6")]
    pub session: String,
    /// Not ours.
    #[prost(bytes = "bytes", tag = "7")]
    pub label_filter: Bytes,
    /// Not ours.
    #[prost(bool, tag = "8")]
    pub all_users: bool,
}

/// A question to all nodes.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SurveyRequest {
    /// Of the asker's.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// The name of the question.
    #[prost(string, tag = "2")]
    pub op: String,
    /// As the question has it.
    #[prost(bytes = "bytes", tag = "3")]
    pub data: Bytes,
}

/// One node's answer.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SurveyResponse {
    /// The question's.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// 0 is an answer, anything else none.
    #[prost(uint32, tag = "2")]
    pub code: u32,
    /// As the question has it.
    #[prost(bytes = "bytes", tag = "3")]
    pub data: Bytes,
}

impl SurveyResponse {
    /// It could not be found out, or not be done.
    pub const INTERNAL: u32 = 1;
    /// The question is malformed.
    pub const INVALID: u32 = 2;
    /// Nobody here knows the question.
    pub const UNKNOWN: u32 = 3;
}

/// The question for channels.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ChannelsRequest {
    /// Only channels whose names match this glob. Empty: all.
    #[prost(string, tag = "1")]
    pub pattern: String,
}

/// Channels with subscribers on one node.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ChannelsResult {
    /// By name.
    #[prost(map = "string, message", tag = "1")]
    pub channels: HashMap<String, ChannelInfo>,
}

/// One of them.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ChannelInfo {
    /// Subscribers.
    #[prost(uint32, tag = "1")]
    pub num_clients: u32,
}
