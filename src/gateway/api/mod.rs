//! The server API without HTTP: what a backend may ask for, and what it is answered.
//!
//! Owns the methods, their names and their JSON. Decides whether a request is complete; whether it
//! is allowed and what it does is for [`crate::control::Backend`]. The catalogue is that of
//! Centrifugo's server API, so that its clients work unchanged.

pub(crate) mod batch;
pub(crate) mod key;
pub(crate) mod protobuf;
mod replies;
mod requests;

pub(crate) use replies::{ApiError, Envelope};
pub use replies::{
    ApiReply, BroadcastResult, ChannelsResult, HistoryResult, InfoResult, NodeInfo, NodeMetrics,
    PresenceResult, PresenceStatsResult, ProcessInfo, PublishResult, RpcResult,
};
pub use requests::{
    BroadcastRequest, ChannelsRequest, DisconnectRequest, HistoryRemoveRequest, HistoryRequest,
    InfoRequest, NewPublication, PresenceRequest, PresenceStatsRequest, PublishRequest,
    RefreshRequest, RpcRequest, SubscribeRequest, UnsubscribeRequest, UserConnections,
};

use self::requests::Decode;
use crate::gateway::wire::codes::Error;

/// Why the parameters of a method are not a request.
#[derive(Debug)]
pub enum Undecodable {
    /// Not JSON, or JSON of another shape. Over HTTP: status 400.
    Malformed(serde_json::Error),
    /// The method does not exist (104), or a required field is missing, empty or out of its range
    /// (107).
    Refused(Error),
}

impl From<serde_json::Error> for Undecodable {
    fn from(error: serde_json::Error) -> Self {
        Self::Malformed(error)
    }
}

impl From<Error> for Undecodable {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl std::fmt::Display for Undecodable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Malformed(error) => error.fmt(f),
            Self::Refused(error) => write!(f, "{}: {}", error.code, error.message),
        }
    }
}

impl std::error::Error for Undecodable {}

/// The HTTP status of an error, where errors are told so.
pub(crate) fn status_of(error: &Error) -> u16 {
    match error.code {
        102 | 104 => 404,
        107 | 108 => 400,
        112 => 416,
        113 => 409,
        _ => 500,
    }
}

macro_rules! methods {
    ($($(#[doc = $doc:literal])+ $name:literal => $variant:ident($request:ty),)+) => {
        /// A request of an application's backend.
        #[derive(Clone, Debug, PartialEq)]
        pub enum ApiRequest {
            $($(#[doc = $doc])+ $variant($request),)+
        }

        impl ApiRequest {
            /// The names of all methods. `batch`, which is made of these, is not among them.
            pub const METHODS: &[&str] = &[$($name),+];

            /// The method's name, as in the path of its URL.
            pub fn method(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => $name,)+
                }
            }

            /// The names of a method's parameters in JSON; `None` if there is no such method.
            pub fn parameters(method: &str) -> Option<Vec<&'static str>> {
                let fields = match method {
                    $($name => <$request>::FIELDS,)+
                    _ => return None,
                };
                // `override` is a word of Rust and of JSON.
                Some(fields.iter().map(|name| name.trim_start_matches("r#")).collect())
            }

            /// Reads the parameters of a method from JSON. Unknown fields are ignored.
            pub fn decode(method: &str, params: &[u8]) -> Result<Self, Undecodable> {
                match method {
                    $($name => Ok(Self::$variant(<$request>::decode(params)?)),)+
                    _ => Err(Error::METHOD_NOT_FOUND.into()),
                }
            }
        }
    };
}

methods! {
    /// Publish into one channel.
    "publish" => Publish(PublishRequest),
    /// Publish the same into many channels.
    "broadcast" => Broadcast(BroadcastRequest),
    /// Subscribe connections of a user to a channel.
    "subscribe" => Subscribe(SubscribeRequest),
    /// Unsubscribe connections of a user.
    "unsubscribe" => Unsubscribe(UnsubscribeRequest),
    /// Disconnect connections of a user.
    "disconnect" => Disconnect(DisconnectRequest),
    /// Prolong or end connections of a user.
    "refresh" => Refresh(RefreshRequest),
    /// Who is in a channel.
    "presence" => Presence(PresenceRequest),
    /// How many are in a channel.
    "presence_stats" => PresenceStats(PresenceStatsRequest),
    /// The kept publications of a channel.
    "history" => History(HistoryRequest),
    /// Forget the kept publications of a channel.
    "history_remove" => HistoryRemove(HistoryRemoveRequest),
    /// The channels that have subscribers.
    "channels" => Channels(ChannelsRequest),
    /// What this server holds.
    "info" => Info(InfoRequest),
    /// Call a method of an extension.
    "rpc" => Rpc(RpcRequest),
}

#[cfg(test)]
mod tests;
