//! Every message of the protocol, as one struct with the field's names and Protobuf tags.
//!
//! Requests are in `requests.rs`, replies and pushes in `replies.rs`; here is what both use.
//! Fields documented as raw are opaque bytes to Protobuf clients and the text of one JSON value to
//! JSON clients; empty means absent. Fields that only map and shared-poll subscriptions use are
//! left out, and ignored when they come.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;

use super::nullable::or_default;

pub use super::replies::*;
pub use super::requests::*;

/// Who is behind a connection.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ClientInfo {
    /// The user's id; empty is anonymous.
    #[prost(string, tag = "1")]
    pub user: String,
    /// The connection's id.
    #[prost(string, tag = "2")]
    pub client: String,
    /// What the connection's token or proxy says of it. Raw.
    #[prost(bytes = "bytes", tag = "3")]
    pub conn_info: Bytes,
    /// What the subscription's token or proxy says of it. Raw.
    #[prost(bytes = "bytes", tag = "4")]
    pub chan_info: Bytes,
}

/// What was published into a channel.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Publication {
    /// The payload. Raw.
    #[prost(bytes = "bytes", tag = "4")]
    pub data: Bytes,
    /// The publisher, if it was a client.
    #[prost(message, optional, tag = "5")]
    pub info: Option<ClientInfo>,
    /// Place in the channel's stream; the first is 1, and 0 is not in a stream.
    #[prost(uint64, tag = "6")]
    pub offset: u64,
    /// What filters look at.
    #[prost(btree_map = "string, string", tag = "7")]
    pub tags: BTreeMap<String, String>,
    /// `data` is a patch against the publication before it.
    #[prost(bool, tag = "8")]
    pub delta: bool,
    /// Unix time in milliseconds.
    #[prost(int64, tag = "9")]
    pub time: i64,
    /// The channel, where the subscription does not name it.
    #[prost(string, tag = "10")]
    pub channel: String,
    /// What the publication is about, in channels that are keyed.
    #[prost(string, tag = "11")]
    pub key: String,
    /// The key's entry is gone.
    #[prost(bool, tag = "12")]
    pub removed: bool,
    /// Order among keys.
    #[prost(sint64, tag = "13")]
    pub score: i64,
    /// The stream's epoch; may come with the first publication.
    #[prost(string, tag = "14")]
    pub epoch: String,
    /// The version the publisher gave.
    #[prost(uint64, tag = "16")]
    pub version: u64,
}

/// A place in a stream.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct StreamPosition {
    /// The last publication seen; 0 is the beginning.
    #[prost(uint64, tag = "1")]
    #[serde(deserialize_with = "or_default")]
    pub offset: u64,
    /// Which life of the stream the offset belongs to.
    #[prost(string, tag = "2")]
    #[serde(deserialize_with = "or_default")]
    pub epoch: String,
}

/// One node of a tag filter, as it travels
/// and unchecked.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct FilterNode {
    /// `and`, `or`, `not`; empty for a comparison.
    #[prost(string, tag = "1")]
    #[serde(deserialize_with = "or_default")]
    pub op: String,
    /// The tag that is compared.
    #[prost(string, tag = "2")]
    #[serde(deserialize_with = "or_default")]
    pub key: String,
    /// How it is compared.
    #[prost(string, tag = "3")]
    #[serde(deserialize_with = "or_default")]
    pub cmp: String,
    /// What it is compared with.
    #[prost(string, tag = "4")]
    #[serde(deserialize_with = "or_default")]
    pub val: String,
    /// The values of `in` and `nin`.
    #[prost(string, repeated, tag = "5")]
    #[serde(deserialize_with = "or_default")]
    pub vals: Vec<String>,
    /// What an `op` combines.
    #[prost(message, repeated, tag = "6")]
    #[serde(deserialize_with = "or_default")]
    pub nodes: Vec<FilterNode>,
}
