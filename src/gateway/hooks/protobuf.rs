//! Questions and answers in Protobuf, as `proxy.proto` describes them. Payloads travel as the bytes
//! they are, JSON or not; where `binary_encoding` is on, as Base64 in text, as over HTTP.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

use super::replies::{BadReply, conclude, given};
use super::{
    ConnectReply, FeedSaid, HookEvent, HookKind, HookReply, HookRequest, HookResult, PublishReply,
    RefreshReply, RpcReply, SubRefreshReply, SubscribeReply, SubscribeSettings,
};
use crate::gateway::channels::Override;
use crate::gateway::json::{base64, one_line_if_json};
use crate::gateway::wire::Encoding;

impl HookKind {
    /// The path of its method.
    pub fn grpc_path(self) -> &'static str {
        match self {
            Self::Connect => "/centrifugal.centrifugo.proxy.CentrifugoProxy/Connect",
            Self::Refresh => "/centrifugal.centrifugo.proxy.CentrifugoProxy/Refresh",
            Self::Subscribe => "/centrifugal.centrifugo.proxy.CentrifugoProxy/Subscribe",
            Self::Publish => "/centrifugal.centrifugo.proxy.CentrifugoProxy/Publish",
            Self::Rpc => "/centrifugal.centrifugo.proxy.CentrifugoProxy/RPC",
            Self::SubRefresh => "/centrifugal.centrifugo.proxy.CentrifugoProxy/SubRefresh",
            Self::SubscribeStream => {
                "/centrifugal.centrifugo.proxy.CentrifugoProxy/SubscribeUnidirectional"
            }
        }
    }
}

/// The path of the method of streams in both ways.
pub(crate) const BOTH_WAYS: &str =
    "/centrifugal.centrifugo.proxy.CentrifugoProxy/SubscribeBidirectional";

impl HookRequest {
    /// The request's message. `binary` and `meta`: as of [`Self::body`].
    pub fn message(&self, binary: bool, meta: bool) -> Vec<u8> {
        let caller = &self.caller;
        let meta = if meta { caller.meta.clone() } else { Bytes::new() };
        let user = caller.user.clone();
        let (mut data, mut b64data) = (Bytes::new(), String::new());
        match self.event.data() {
            Some(payload) if binary => b64data = base64(payload),
            Some(payload) => data = payload.clone(),
            None => {}
        }
        let mut out = About {
            client: caller.client.clone(),
            transport: caller.transport.name().to_owned(),
            protocol: match caller.encoding {
                Encoding::Json => "json".to_owned(),
                Encoding::Protobuf => "protobuf".to_owned(),
            },
            encoding: if binary { "binary" } else { "json" }.to_owned(),
        }
        .encode_to_vec();
        out.extend(match &self.event {
            HookEvent::Connect { name, version, channels, .. } => Connect {
                data,
                b64data,
                name: name.clone(),
                version: version.clone(),
                channels: channels.clone(),
            }
            .encode_to_vec(),
            HookEvent::Refresh => Refresh { user, meta }.encode_to_vec(),
            HookEvent::Subscribe { channel, token, .. } => {
                let (channel, token) = (channel.clone(), token.clone());
                Subscribe { user, channel, token, meta, data, b64data }.encode_to_vec()
            }
            HookEvent::Publish { channel, .. } => {
                Publish { user, name: channel.clone(), data, b64data, meta }.encode_to_vec()
            }
            HookEvent::Rpc { method, .. } => {
                Publish { user, name: method.clone(), data, b64data, meta }.encode_to_vec()
            }
            HookEvent::SubRefresh { channel } => {
                SubRefresh { user, channel: channel.clone(), meta }.encode_to_vec()
            }
        });
        out
    }
}

impl HookReply {
    /// Reads the backend's answer to a question of this kind.
    pub fn decode_message(kind: HookKind, message: Bytes) -> Result<HookResult, BadReply> {
        match kind {
            HookKind::Connect => answer::<ConnectResponse>(kind, message),
            HookKind::Refresh => answer::<RefreshResponse>(kind, message),
            HookKind::Subscribe => answer::<SubscribeResponse>(kind, message),
            HookKind::Publish => answer::<PublishResponse>(kind, message),
            HookKind::Rpc => answer::<RpcResponse>(kind, message),
            HookKind::SubRefresh => answer::<SubRefreshResponse>(kind, message),
            HookKind::SubscribeStream => {
                let first = StreamSubscribeResponse::decode(message).map_err(unreadable)?;
                let response = first.subscribe_response.ok_or_else(|| {
                    BadReply::new("the first message has no subscribe_response".to_owned())
                })?;
                conclude_response(kind, response)
            }
        }
    }
}

fn answer<T: Response>(kind: HookKind, message: Bytes) -> Result<HookResult, BadReply> {
    conclude_response(kind, T::decode(message).map_err(unreadable)?)
}

fn unreadable(error: prost::DecodeError) -> BadReply {
    BadReply::new(error.to_string())
}

fn conclude_response<T: Response>(kind: HookKind, decoded: T) -> Result<HookResult, BadReply> {
    let (result, error, disconnect) = decoded.parts();
    let error = error.map(|it| (it.code, it.message, it.temporary));
    let disconnect = disconnect.map(|it| (it.code, it.reason));
    conclude(kind, result, error, disconnect, T::reply)
}

/// A response: one of a result, an error and the end of the connection.
trait Response: Message + Default {
    type Result: Message + Default;

    fn parts(self) -> (Option<Self::Result>, Option<Failure>, Option<Disconnect>);

    fn reply(result: Self::Result) -> Result<HookReply, BadReply>;
}

/// A payload that is not there is none.
fn some(bytes: Bytes, base64: String) -> Result<Option<Bytes>, BadReply> {
    let found = given((!bytes.is_empty()).then_some(bytes), Some(base64))?;
    Ok(found.map(one_line_if_json))
}

fn or_nothing(bytes: Bytes, base64: String) -> Result<Bytes, BadReply> {
    Ok(some(bytes, base64)?.unwrap_or_default())
}

fn settings(it: SubscribeOptions) -> Result<SubscribeSettings, BadReply> {
    Ok(SubscribeSettings {
        expire_at: it.expire_at,
        info: or_nothing(it.info, it.b64info)?,
        data: or_nothing(it.data, it.b64data)?,
        overrides: it.overrides.unwrap_or_default(),
        cache_recover: it.cache_recover,
    })
}

// --- Messages, with the numbers of `proxy.proto` -------------------------------------------------

macro_rules! messages {
    ($($(#[doc = $doc:literal])* $name:ident {
        $($(#[$field_meta:meta])* $field:ident: $type:ty,)*
    })*) => { $(
        $(#[doc = $doc])*
        #[derive(Clone, PartialEq, Message)]
        struct $name {
            $($(#[$field_meta])* $field: $type,)*
        }
    )* };
}

messages! {
    /// What all questions begin with.
    About {
        #[prost(string, tag = "1")] client: String,
        #[prost(string, tag = "2")] transport: String,
        #[prost(string, tag = "3")] protocol: String,
        #[prost(string, tag = "4")] encoding: String,
    }
    Connect {
        #[prost(bytes = "bytes", tag = "10")] data: Bytes,
        #[prost(string, tag = "11")] b64data: String,
        #[prost(string, tag = "12")] name: String,
        #[prost(string, tag = "13")] version: String,
        #[prost(string, repeated, tag = "14")] channels: Vec<String>,
    }
    Refresh {
        #[prost(string, tag = "10")] user: String,
        #[prost(bytes = "bytes", tag = "11")] meta: Bytes,
    }
    Subscribe {
        #[prost(string, tag = "10")] user: String,
        #[prost(string, tag = "11")] channel: String,
        #[prost(string, tag = "12")] token: String,
        #[prost(bytes = "bytes", tag = "13")] meta: Bytes,
        #[prost(bytes = "bytes", tag = "14")] data: Bytes,
        #[prost(string, tag = "15")] b64data: String,
    }
    /// Of a channel, and of a procedure.
    Publish {
        #[prost(string, tag = "10")] user: String,
        #[prost(string, tag = "11")] name: String,
        #[prost(bytes = "bytes", tag = "12")] data: Bytes,
        #[prost(string, tag = "13")] b64data: String,
        #[prost(bytes = "bytes", tag = "14")] meta: Bytes,
    }
    SubRefresh {
        #[prost(string, tag = "10")] user: String,
        #[prost(string, tag = "11")] channel: String,
        #[prost(bytes = "bytes", tag = "12")] meta: Bytes,
    }
    Failure {
        #[prost(uint32, tag = "1")] code: u32,
        #[prost(string, tag = "2")] message: String,
        #[prost(bool, tag = "3")] temporary: bool,
    }
    Disconnect {
        #[prost(uint32, tag = "1")] code: u32,
        #[prost(string, tag = "2")] reason: String,
    }
    SubscribeOptions {
        #[prost(int64, tag = "1")] expire_at: i64,
        #[prost(bytes = "bytes", tag = "2")] info: Bytes,
        #[prost(string, tag = "3")] b64info: String,
        #[prost(bytes = "bytes", tag = "4")] data: Bytes,
        #[prost(string, tag = "5")] b64data: String,
        #[prost(message, optional, tag = "6")] overrides: Option<Override>,
        #[prost(bool, tag = "8")] cache_recover: bool,
    }
    ConnectResult {
        #[prost(string, tag = "1")] user: String,
        #[prost(int64, tag = "2")] expire_at: i64,
        #[prost(bytes = "bytes", tag = "3")] info: Bytes,
        #[prost(string, tag = "4")] b64info: String,
        #[prost(bytes = "bytes", tag = "5")] data: Bytes,
        #[prost(string, tag = "6")] b64data: String,
        #[prost(string, repeated, tag = "7")] channels: Vec<String>,
        #[prost(btree_map = "string, message", tag = "8")] subs: BTreeMap<String, SubscribeOptions>,
        #[prost(bytes = "bytes", tag = "9")] meta: Bytes,
    }
    RefreshResult {
        #[prost(bool, tag = "1")] expired: bool,
        #[prost(int64, tag = "2")] expire_at: i64,
        #[prost(bytes = "bytes", tag = "3")] info: Bytes,
        #[prost(string, tag = "4")] b64info: String,
        #[prost(bytes = "bytes", tag = "5")] meta: Bytes,
    }
    SubscribeResult {
        #[prost(int64, tag = "1")] expire_at: i64,
        #[prost(bytes = "bytes", tag = "2")] info: Bytes,
        #[prost(string, tag = "3")] b64info: String,
        #[prost(bytes = "bytes", tag = "4")] data: Bytes,
        #[prost(string, tag = "5")] b64data: String,
        #[prost(message, optional, tag = "6")] overrides: Option<Override>,
    }
    PublishResult {
        #[prost(bytes = "bytes", tag = "1")] data: Bytes,
        #[prost(string, tag = "2")] b64data: String,
        #[prost(bool, tag = "3")] skip_history: bool,
        #[prost(btree_map = "string, string", tag = "4")] tags: BTreeMap<String, String>,
        #[prost(string, tag = "5")] idempotency_key: String,
        #[prost(bool, tag = "6")] delta: bool,
        #[prost(uint64, tag = "7")] version: u64,
        #[prost(string, tag = "8")] version_epoch: String,
    }
    Publication {
        #[prost(bytes = "bytes", tag = "4")] data: Bytes,
        #[prost(btree_map = "string, string", tag = "7")] tags: BTreeMap<String, String>,
    }
    StreamSubscribeRequest {
        /// A message that is encoded already.
        #[prost(bytes = "bytes", optional, tag = "1")] subscribe_request: Option<Bytes>,
        #[prost(message, optional, tag = "2")] publication: Option<Publication>,
    }
    StreamSubscribeResponse {
        #[prost(message, optional, tag = "1")] subscribe_response: Option<SubscribeResponse>,
        #[prost(message, optional, tag = "2")] publication: Option<Publication>,
    }
    RpcResult {
        #[prost(bytes = "bytes", tag = "1")] data: Bytes,
        #[prost(string, tag = "2")] b64data: String,
    }
    SubRefreshResult {
        #[prost(bool, tag = "1")] expired: bool,
        #[prost(int64, tag = "2")] expire_at: i64,
        #[prost(bytes = "bytes", tag = "3")] info: Bytes,
        #[prost(string, tag = "4")] b64info: String,
    }
}

macro_rules! responses {
    ($($name:ident of $result:ident |$it:ident| $reply:expr;)*) => { $(
        #[derive(Clone, PartialEq, Message)]
        struct $name {
            #[prost(message, optional, tag = "1")]
            result: Option<$result>,
            #[prost(message, optional, tag = "2")]
            error: Option<Failure>,
            #[prost(message, optional, tag = "3")]
            disconnect: Option<Disconnect>,
        }

        impl Response for $name {
            type Result = $result;

            fn parts(self) -> (Option<$result>, Option<Failure>, Option<Disconnect>) {
                (self.result, self.error, self.disconnect)
            }

            fn reply($it: $result) -> Result<HookReply, BadReply> {
                Ok($reply)
            }
        }
    )* };
}

responses! {
    ConnectResponse of ConnectResult |it| HookReply::Connect(Some(ConnectReply {
        user: it.user,
        expire_at: it.expire_at,
        info: or_nothing(it.info, it.b64info)?,
        data: or_nothing(it.data, it.b64data)?,
        channels: it.channels,
        subs: it
            .subs
            .into_iter()
            .map(|(channel, options)| Ok((channel, settings(options)?)))
            .collect::<Result<_, BadReply>>()?,
        meta: one_line_if_json(it.meta),
    }));
    RefreshResponse of RefreshResult |it| HookReply::Refresh(RefreshReply {
        expired: it.expired,
        expire_at: it.expire_at,
        info: some(it.info, it.b64info)?,
        meta: (!it.meta.is_empty()).then(|| one_line_if_json(it.meta)),
    });
    SubscribeResponse of SubscribeResult |it| HookReply::Subscribe(SubscribeReply {
        expire_at: it.expire_at,
        info: or_nothing(it.info, it.b64info)?,
        data: or_nothing(it.data, it.b64data)?,
        overrides: it.overrides.unwrap_or_default(),
    });
    PublishResponse of PublishResult |it| HookReply::Publish(PublishReply {
        data: some(it.data, it.b64data)?,
        skip_history: it.skip_history,
        tags: it.tags,
        idempotency_key: it.idempotency_key,
        delta: it.delta,
        version: it.version,
        version_epoch: it.version_epoch,
    });
    RpcResponse of RpcResult |it| HookReply::Rpc(RpcReply {
        data: or_nothing(it.data, it.b64data)?,
    });
    SubRefreshResponse of SubRefreshResult |it| HookReply::SubRefresh(SubRefreshReply {
        expired: it.expired,
        expire_at: it.expire_at,
        info: some(it.info, it.b64info)?,
    });
}

// --- Streams of subscriptions --------------------------------------------------------------------

/// The first message of a stream in both ways, around the question.
pub(crate) fn feed_question(question: Vec<u8>) -> Bytes {
    let subscribe_request = Some(question.into());
    StreamSubscribeRequest { subscribe_request, publication: None }.encode_to_vec().into()
}

/// What a client publishes to its stream.
pub(crate) fn feed_publication(data: Bytes) -> Bytes {
    let publication = Some(Publication { data, tags: BTreeMap::new() });
    StreamSubscribeRequest { subscribe_request: None, publication }.encode_to_vec().into()
}

/// What the backend tells on a stream after its first message; `None`: nothing.
pub(crate) fn feed_told(message: Bytes) -> Result<Option<FeedSaid>, BadReply> {
    let told = StreamSubscribeResponse::decode(message).map_err(unreadable)?;
    Ok(told
        .publication
        .map(|it| FeedSaid::Published { data: one_line_if_json(it.data), tags: it.tags }))
}

#[cfg(test)]
#[path = "protobuf_tests.rs"]
mod tests;
