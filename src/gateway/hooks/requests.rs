//! What the backend is asked, and the JSON of it.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use serde::ser::{SerializeMap, Serializer};

use super::{FeedAsked, HookKind};
use crate::gateway::format::Transport;
use crate::gateway::hub_port::Link;
use crate::gateway::json::{Raw, base64};
use crate::gateway::wire::Encoding;

/// One question to the backend.
#[derive(Clone, Debug, PartialEq)]
pub struct HookRequest {
    /// Which of the configured proxies of this kind; the usual one is `default`.
    pub proxy: Cow<'static, str>,
    /// Which connection asks.
    pub from: Asking,
    /// On whose behalf.
    pub caller: Caller,
    /// What happened.
    pub event: HookEvent,
}

/// A connection that asks: turns go round between them, and with it go its questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Asking {
    /// Its core.
    pub core: u16,
    /// Where on that core.
    pub link: Link,
}

/// The connection a question is about.
#[derive(Clone, Debug, PartialEq)]
pub struct Caller {
    /// Its client id.
    pub client: String,
    /// Its user; not sent with `connect`, when it is not known yet.
    pub user: String,
    /// Where it came in.
    pub transport: Transport,
    /// The encoding it speaks.
    pub encoding: Encoding,
    /// What its token or an earlier answer attached to it (JSON); empty: nothing.
    pub meta: Bytes,
    /// Headers that may be passed on.
    pub headers: Arc<ClientHeaders>,
}

/// Headers of a client. Which of them are passed on is for each proxy's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHeaders {
    /// Of its upgrade request.
    pub transport: Vec<(String, String)>,
    /// Of its connect command: whatever the client likes to claim.
    pub emulated: Vec<(String, String)>,
}

/// What happened. Payloads are empty where the client sent none.
#[derive(Clone, Debug, PartialEq)]
pub enum HookEvent {
    /// It connects without a token.
    Connect {
        /// The client's name for itself.
        name: String,
        /// The client's version.
        version: String,
        /// The client's payload.
        data: Bytes,
        /// Server-side channels it asks for.
        channels: Vec<String>,
    },
    /// It expires.
    Refresh,
    /// It subscribes.
    Subscribe {
        /// To what.
        channel: String,
        /// With which token, if any.
        token: String,
        /// The client's payload.
        data: Bytes,
        /// The backend tells it what it hears, on this stream.
        feed: Option<FeedAsked>,
    },
    /// It publishes.
    Publish {
        /// Where.
        channel: String,
        /// What.
        data: Bytes,
    },
    /// It calls a procedure.
    Rpc {
        /// Which; may be empty.
        method: String,
        /// With what.
        data: Bytes,
    },
    /// Its subscription expires.
    SubRefresh {
        /// To what.
        channel: String,
    },
}

/// A payload or `meta` that would have to be JSON is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotJson;

impl HookEvent {
    /// The client's payload, if there is one.
    pub(super) fn data(&self) -> Option<&Bytes> {
        match self {
            Self::Connect { data, .. }
            | Self::Subscribe { data, .. }
            | Self::Publish { data, .. }
            | Self::Rpc { data, .. } => Some(data).filter(|data| !data.is_empty()),
            Self::Refresh | Self::SubRefresh { .. } => None,
        }
    }

    /// What it is.
    pub fn kind(&self) -> HookKind {
        match self {
            Self::Connect { .. } => HookKind::Connect,
            Self::Refresh => HookKind::Refresh,
            Self::Subscribe { feed: None, .. } => HookKind::Subscribe,
            Self::Subscribe { feed: Some(_), .. } => HookKind::SubscribeStream,
            Self::Publish { .. } => HookKind::Publish,
            Self::Rpc { .. } => HookKind::Rpc,
            Self::SubRefresh { .. } => HookKind::SubRefresh,
        }
    }
}

impl HookRequest {
    /// What it is about.
    pub fn kind(&self) -> HookKind {
        self.event.kind()
    }

    /// The stream that its answer begins, if it does.
    pub fn feed(&self) -> Option<FeedAsked> {
        match self.event {
            HookEvent::Subscribe { feed, .. } => feed,
            _ => None,
        }
    }

    /// Bytes of what it holds, the same again for the body that is made of it, and what the call
    /// itself takes.
    pub fn cost(&self) -> usize {
        let Caller { client, user, meta, .. } = &self.caller;
        let about = match &self.event {
            HookEvent::Connect { name, version, data, channels } => {
                let channels = channels.iter().map(|name| name.len() + size_of::<String>());
                name.len() + version.len() + data.len() + channels.sum::<usize>()
            }
            HookEvent::Refresh => 0,
            HookEvent::Subscribe { channel, token, data, .. } => {
                channel.len() + token.len() + data.len()
            }
            HookEvent::Publish { channel, data } => channel.len() + data.len(),
            HookEvent::Rpc { method, data } => method.len() + data.len(),
            HookEvent::SubRefresh { channel } => channel.len(),
        };
        CALL_BYTES + 2 * (client.len() + user.len() + meta.len() + about)
    }

    /// The request's body. `binary`: payloads travel as Base64, which is the only way for those
    /// that are not JSON. `meta`: the connection's `meta` goes along.
    pub fn body(&self, binary: bool, meta: bool) -> Result<Vec<u8>, NotJson> {
        let mut out = Vec::with_capacity(256);
        let mut serializer = serde_json::Serializer::new(&mut out);
        self.write(&mut serializer, binary, meta).map_err(|_| NotJson)?;
        Ok(out)
    }

    /// Nothing but a payload can fail here.
    fn write<S: Serializer>(
        &self,
        serializer: S,
        binary: bool,
        meta: bool,
    ) -> Result<S::Ok, S::Error> {
        let caller = &self.caller;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("client", &caller.client)?;
        map.serialize_entry("transport", caller.transport.name())?;
        map.serialize_entry(
            "protocol",
            match caller.encoding {
                Encoding::Json => "json",
                Encoding::Protobuf => "protobuf",
            },
        )?;
        map.serialize_entry("encoding", if binary { "binary" } else { "json" })?;
        if !matches!(self.event, HookEvent::Connect { .. }) {
            map.serialize_entry("user", &caller.user)?;
            if meta {
                raw(&mut map, "meta", &caller.meta)?;
            }
        }
        match &self.event {
            HookEvent::Connect { name, version, data, channels } => {
                text(&mut map, "name", name)?;
                text(&mut map, "version", version)?;
                payload(&mut map, data, binary)?;
                if !channels.is_empty() {
                    map.serialize_entry("channels", channels)?;
                }
            }
            HookEvent::Refresh => {}
            // Those with a feed are asked over gRPC only.
            HookEvent::Subscribe { channel, token, data, .. } => {
                map.serialize_entry("channel", channel)?;
                text(&mut map, "token", token)?;
                payload(&mut map, data, binary)?;
            }
            HookEvent::Publish { channel, data } => {
                map.serialize_entry("channel", channel)?;
                payload(&mut map, data, binary)?;
            }
            HookEvent::Rpc { method, data } => {
                text(&mut map, "method", method)?;
                payload(&mut map, data, binary)?;
            }
            HookEvent::SubRefresh { channel } => map.serialize_entry("channel", channel)?,
        }
        map.end()
    }
}

/// The task of a call, its HTTP request with headers, and its share of a connection.
const CALL_BYTES: usize = 8 * 1024;

fn text<M: SerializeMap>(map: &mut M, name: &str, value: &str) -> Result<(), M::Error> {
    if value.is_empty() { Ok(()) } else { map.serialize_entry(name, value) }
}

fn payload<M: SerializeMap>(map: &mut M, data: &[u8], binary: bool) -> Result<(), M::Error> {
    if binary && !data.is_empty() {
        return map.serialize_entry("b64data", &base64(data));
    }
    raw(map, "data", data)
}

fn raw<M: SerializeMap>(map: &mut M, name: &str, json: &[u8]) -> Result<(), M::Error> {
    if json.is_empty() {
        return Ok(());
    }
    let json = Raw::checked(json).ok_or_else(|| serde::ser::Error::custom("not JSON"))?;
    map.serialize_entry(name, &json)
}
