//! The requests of the server API: plain values, and how they are read from JSON.
//!
//! Invariant: a decoded request has every required field, and its payloads are free of line breaks
//! (or were Base64).

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;

use super::{ApiRequest, Undecodable};
use crate::gateway::channels::Override;
use crate::gateway::json::{
    either, nullable, nullable_labels, nullable_texts, object_of_last, raw, raw_or_null,
};
use crate::gateway::wire::codes::{Disconnect, Error, REASON_MAX};
use crate::gateway::wire::messages::StreamPosition;

/// What a publication consists of before it has a place in a channel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NewPublication {
    /// JSON text without line breaks, or any bytes if they came as `b64data`. May be empty only if
    /// `b64data` was; the channel's data format decides about that and about JSON.
    pub data: Bytes,
    /// Labels that subscribers may filter by.
    pub tags: BTreeMap<String, String>,
    /// Publications of one channel with the same key are one, within five minutes. Empty: none.
    pub idempotency_key: String,
    /// Send the difference to the previous publication to those who can take it.
    pub delta: bool,
    /// Do not keep it.
    pub skip_history: bool,
    /// Dropped if the channel has seen this version or a later one. 0: not versioned.
    pub version: u64,
    /// Versions of different epochs are not compared.
    pub version_epoch: String,
}

/// Parameters of `publish`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PublishRequest {
    /// Not empty.
    pub channel: String,
    /// What to publish.
    pub publication: NewPublication,
}

/// Parameters of `broadcast`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BroadcastRequest {
    /// From 1 to 100,000; each may be empty, which is answered in its own place.
    pub channels: Vec<String>,
    /// What to publish into each.
    pub publication: NewPublication,
}

/// Which connections a request is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserConnections {
    /// The user. Empty: connections without a user.
    pub user: String,
    /// Only the connection with this client id, if not empty.
    pub client: String,
    /// Only the connection with this session id, if not empty.
    pub session: String,
}

/// Parameters of `subscribe`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SubscribeRequest {
    /// Whom to subscribe.
    pub connections: UserConnections,
    /// Not empty.
    pub channel: String,
    /// Channel information about the subscriber, shown to others. Empty: none.
    pub info: Bytes,
    /// Given to the subscriber with the subscription. Empty: none.
    pub data: Bytes,
    /// Unix time in seconds at which the subscription ends. 0: never.
    pub expire_at: i64,
    /// Send what was published after this position.
    pub recover_since: Option<StreamPosition>,
    /// Channel options that differ for these subscriptions.
    pub overrides: Override,
}

/// Parameters of `unsubscribe`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UnsubscribeRequest {
    /// Whom to unsubscribe.
    pub connections: UserConnections,
    /// Empty: from all channels.
    pub channel: String,
}

/// Parameters of `disconnect`.
#[derive(Clone, Debug, PartialEq)]
pub struct DisconnectRequest {
    /// Whom to disconnect.
    pub connections: UserConnections,
    /// Client ids that are spared.
    pub whitelist: Vec<String>,
    /// Code 3000 to 4999 and a reason of at most 123 bytes.
    pub disconnect: Disconnect,
}

/// Parameters of `refresh`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RefreshRequest {
    /// Whose connections.
    pub connections: UserConnections,
    /// End them as expired.
    pub expired: bool,
    /// Unix time in seconds at which they expire. 0: never.
    pub expire_at: i64,
    /// New connection information; `None` leaves it.
    pub info: Option<Bytes>,
}

/// Parameters of `presence`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PresenceRequest {
    /// Not empty.
    pub channel: String,
}

/// Parameters of `presence_stats`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PresenceStatsRequest {
    /// Not empty.
    pub channel: String,
}

/// Parameters of `history`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryRequest {
    /// Not empty.
    pub channel: String,
    /// How many publications at most. 0: none, only the position. Negative: as many as are kept.
    pub limit: i32,
    /// Where to start; that publication is not included.
    pub since: Option<StreamPosition>,
    /// Newest first.
    pub reverse: bool,
}

/// Parameters of `history_remove`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryRemoveRequest {
    /// Not empty.
    pub channel: String,
}

/// Parameters of `channels`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChannelsRequest {
    /// Only channels whose names match this glob. Empty: all.
    pub pattern: String,
}

/// Parameters of `info`: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InfoRequest;

/// Parameters of `rpc`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RpcRequest {
    /// Not empty.
    pub method: String,
    /// JSON text; empty if there were none.
    pub params: Bytes,
}

/// How a request is read: `T::decode` tells malformed JSON from an incomplete request, which
/// serde's `Deserialize` could not.
pub(super) trait Decode: Sized {
    /// The names of its fields in JSON.
    const FIELDS: &[&str];

    fn decode(params: &[u8]) -> Result<Self, Undecodable>;
}

impl ApiRequest {
    /// What publishes the same into one channel, or into many.
    pub(crate) fn publication(
        mut channels: Vec<String>,
        publication: NewPublication,
    ) -> Result<Self, Error> {
        if let [channel] = &mut channels[..] {
            let channel = required(std::mem::take(channel))?;
            return Ok(Self::Publish(PublishRequest { channel, publication }));
        }
        few(&channels)?;
        Ok(Self::Broadcast(BroadcastRequest { channels, publication }))
    }
}

/// The JSON of one request: `reader field: type`. What is absent is the type's default.
macro_rules! params {
    ($request:ty, |$params:ident| $build:expr, {
        $($how:tt $field:ident: $type:ty,)*
    }) => {
        impl Decode for $request {
            const FIELDS: &[&str] = &[$(stringify!($field)),*];

            fn decode(params: &[u8]) -> Result<Self, Undecodable> {
                #[derive(Default, Deserialize)]
                #[serde(default)]
                struct Params {
                    $(#[serde(deserialize_with = $how)] $field: $type,)*
                }
                let $params: Params = object_of_last(params)?;
                $build
            }
        }
    };
}

params!(PublishRequest, |p| {
    Ok(Self {
        channel: required(p.channel)?,
        publication: NewPublication {
            data: required_payload(p.data, p.b64data)?,
            tags: p.tags,
            idempotency_key: p.idempotency_key,
            delta: p.delta,
            skip_history: p.skip_history,
            version: p.version,
            version_epoch: p.version_epoch,
        },
    })
}, {
    "nullable" channel: String,
    "raw" data: Option<Bytes>,
    "nullable" b64data: Option<String>,
    "nullable" skip_history: bool,
    "nullable_labels" tags: BTreeMap<String, String>,
    "nullable" idempotency_key: String,
    "nullable" delta: bool,
    "nullable" version: u64,
    "nullable" version_epoch: String,
});

params!(BroadcastRequest, |p| {
    few(&p.channels)?;
    Ok(Self {
        channels: p.channels,
        publication: NewPublication {
            data: required_payload(p.data, p.b64data)?,
            tags: p.tags,
            idempotency_key: p.idempotency_key,
            delta: p.delta,
            skip_history: p.skip_history,
            version: p.version,
            version_epoch: p.version_epoch,
        },
    })
}, {
    "nullable_texts" channels: Vec<String>,
    "raw" data: Option<Bytes>,
    "nullable" b64data: Option<String>,
    "nullable" skip_history: bool,
    "nullable_labels" tags: BTreeMap<String, String>,
    "nullable" idempotency_key: String,
    "nullable" delta: bool,
    "nullable" version: u64,
    "nullable" version_epoch: String,
});

params!(SubscribeRequest, |p| {
    Ok(Self {
        connections: connections(p.user, p.client, p.session),
        channel: required(p.channel)?,
        info: payload(p.info, p.b64info)?.unwrap_or_default(),
        data: payload(p.data, p.b64data)?.unwrap_or_default(),
        expire_at: p.expire_at,
        recover_since: p.recover_since,
        overrides: p.r#override,
    })
}, {
    "nullable" user: String,
    "nullable" channel: String,
    "nullable" client: String,
    "nullable" session: String,
    "raw_or_null" info: Option<Bytes>,
    "nullable" b64info: Option<String>,
    "raw_or_null" data: Option<Bytes>,
    "nullable" b64data: Option<String>,
    "nullable" expire_at: i64,
    "nullable" recover_since: Option<StreamPosition>,
    "nullable" r#override: Override,
});

params!(UnsubscribeRequest, |p| {
    Ok(Self { connections: connections(p.user, p.client, p.session), channel: p.channel })
}, {
    "nullable" user: String,
    "nullable" channel: String,
    "nullable" client: String,
    "nullable" session: String,
});

params!(DisconnectRequest, |p| {
    let disconnect = match p.disconnect {
        None => Disconnect::FORCE_NO_RECONNECT,
        Some(given) => disconnect(given.code, given.reason)?,
    };
    Ok(Self {
        connections: connections(p.user, p.client, p.session),
        whitelist: p.whitelist,
        disconnect,
    })
}, {
    "nullable" user: String,
    "nullable" client: String,
    "nullable" session: String,
    "nullable_texts" whitelist: Vec<String>,
    "nullable" disconnect: Option<DisconnectFields>,
});

params!(RefreshRequest, |p| {
    Ok(Self {
        connections: connections(p.user, p.client, p.session),
        expired: p.expired,
        expire_at: p.expire_at,
        info: p.info,
    })
}, {
    "nullable" user: String,
    "nullable" client: String,
    "nullable" session: String,
    "nullable" expired: bool,
    "nullable" expire_at: i64,
    "raw_or_null" info: Option<Bytes>,
});

params!(PresenceRequest, |p| Ok(Self { channel: required(p.channel)? }), {
    "nullable" channel: String,
});

params!(PresenceStatsRequest, |p| Ok(Self { channel: required(p.channel)? }), {
    "nullable" channel: String,
});

params!(HistoryRequest, |p| {
    Ok(Self {
        channel: required(p.channel)?,
        limit: p.limit,
        since: p.since,
        reverse: p.reverse,
    })
}, {
    "nullable" channel: String,
    "nullable" limit: i32,
    "nullable" since: Option<StreamPosition>,
    "nullable" reverse: bool,
});

params!(HistoryRemoveRequest, |p| Ok(Self { channel: required(p.channel)? }), {
    "nullable" channel: String,
});

params!(ChannelsRequest, |p| Ok(Self { pattern: p.pattern }), {
    "nullable" pattern: String,
});

params!(InfoRequest, |_p| Ok(Self), {});

params!(RpcRequest, |p| {
    Ok(Self { method: required(p.method)?, params: p.params.unwrap_or_default() })
}, {
    "nullable" method: String,
    "raw_or_null" params: Option<Bytes>,
});

/// A close code and its reason as JSON has them.
#[derive(Default, Deserialize)]
#[serde(default)]
struct DisconnectFields {
    #[serde(deserialize_with = "nullable")]
    code: u32,
    #[serde(deserialize_with = "nullable")]
    reason: String,
}

/// What a close frame takes, and codes of which SDKs know what they mean for reconnecting.
pub(super) fn disconnect(code: u32, reason: String) -> Result<Disconnect, Error> {
    match u16::try_from(code) {
        Ok(code @ 3000..=4999) if reason.len() <= REASON_MAX => Ok(Disconnect::new(code, reason)),
        _ => Err(Error::BAD_REQUEST),
    }
}

/// Some channels, and not more than one broadcast takes.
pub(super) fn few(channels: &[String]) -> Result<(), Error> {
    match channels.len() {
        0 => Err(Error::BAD_REQUEST),
        1..=CHANNELS_MAX => Ok(()),
        _ => Err(Error::LIMIT_EXCEEDED),
    }
}

pub(super) fn required(text: String) -> Result<String, Error> {
    if text.is_empty() { Err(Error::BAD_REQUEST) } else { Ok(text) }
}

fn payload(json: Option<Bytes>, base64: Option<String>) -> Result<Option<Bytes>, Error> {
    either(json, base64).map_err(|_| Error::BAD_REQUEST)
}

fn required_payload(json: Option<Bytes>, base64: Option<String>) -> Result<Bytes, Error> {
    payload(json, base64)?.ok_or(Error::BAD_REQUEST)
}

fn connections(user: String, client: String, session: String) -> UserConnections {
    UserConnections { user, client, session }
}

/// Channels of one broadcast; one more gets error 106. Each becomes a letter to its home core.
pub(super) const CHANNELS_MAX: usize = 100_000;
