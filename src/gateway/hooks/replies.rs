//! What the backend may answer, and how it is read from JSON.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;

use super::HookKind;
use crate::gateway::channels::Override;
use crate::gateway::json::{
    either, nullable, nullable_labels, nullable_texts, object_of_last, raw_or_null,
};
use crate::gateway::wire::{Disconnect, Error};

/// What becomes of a question: the backend's answer, or what the client is told instead.
pub type HookResult = Result<HookReply, HookRefusal>;

/// What the client is told instead of what it wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookRefusal {
    /// An error reply.
    Error(Error),
    /// The end of the connection.
    Disconnect(Disconnect),
}

/// An answer, of the kind of its question.
#[derive(Clone, Debug, PartialEq)]
pub enum HookReply {
    /// Who it is. `None`: the backend does not say, so it is nobody, as without a token.
    Connect(Option<ConnectReply>),
    /// Whether the connection may stay.
    Refresh(RefreshReply),
    /// It may subscribe.
    Subscribe(SubscribeReply),
    /// It may publish.
    Publish(PublishReply),
    /// What the procedure gave.
    Rpc(RpcReply),
    /// Whether the subscription may stay.
    SubRefresh(SubRefreshReply),
}

/// Who a connection is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConnectReply {
    /// The user; empty: nobody in particular.
    pub user: String,
    /// Unix time in seconds at which the connection expires. 0: never.
    pub expire_at: i64,
    /// Connection information, shown to others. Empty: none.
    pub info: Bytes,
    /// Given to the client with the connect reply. Empty: none.
    pub data: Bytes,
    /// Server-side subscriptions.
    pub channels: Vec<String>,
    /// Server-side subscriptions with settings.
    pub subs: BTreeMap<String, SubscribeSettings>,
    /// Kept with the connection and sent along with later questions. Empty: none.
    pub meta: Bytes,
}

/// Settings of one server-side subscription.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SubscribeSettings {
    /// Unix time in seconds at which it expires. 0: never.
    pub expire_at: i64,
    /// Channel information, shown to others. Empty: none.
    pub info: Bytes,
    /// Given to the client. Empty: none.
    pub data: Bytes,
    /// Channel options that differ.
    pub overrides: Override,
    /// Deliver the latest publication at once (cache recovery mode).
    pub cache_recover: bool,
}

/// Whether a connection may stay.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RefreshReply {
    /// It is over (3005).
    pub expired: bool,
    /// Until when, in Unix seconds. 0: for ever.
    pub expire_at: i64,
    /// New connection information; `None` leaves it.
    pub info: Option<Bytes>,
    /// New `meta`; `None` leaves it.
    pub meta: Option<Bytes>,
}

/// A subscription that is allowed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SubscribeReply {
    /// Unix time in seconds at which it expires. 0: never.
    pub expire_at: i64,
    /// Channel information, shown to others. Empty: none.
    pub info: Bytes,
    /// Given to the client. Empty: none.
    pub data: Bytes,
    /// Channel options that differ.
    pub overrides: Override,
}

/// A publication that is allowed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PublishReply {
    /// Publish this instead of what the client sent.
    pub data: Option<Bytes>,
    /// Do not keep it.
    pub skip_history: bool,
    /// Labels that subscribers may filter by.
    pub tags: BTreeMap<String, String>,
    /// As in the server API.
    pub idempotency_key: String,
    /// As in the server API.
    pub delta: bool,
    /// As in the server API.
    pub version: u64,
    /// As in the server API.
    pub version_epoch: String,
}

/// What a procedure gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RpcReply {
    /// Empty: nothing.
    pub data: Bytes,
}

/// Whether a subscription may stay.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SubRefreshReply {
    /// It is over (2501).
    pub expired: bool,
    /// Until when, in Unix seconds. 0: for ever.
    pub expire_at: i64,
    /// New channel information; `None` leaves it.
    pub info: Option<Bytes>,
}

/// The answer is not of the documented shape.
#[derive(Debug)]
pub struct BadReply(String);

impl BadReply {
    pub(super) fn new(what: String) -> Self {
        Self(what)
    }
}

impl std::fmt::Display for BadReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadReply {}

impl From<serde_json::Error> for BadReply {
    fn from(error: serde_json::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<base64::DecodeError> for BadReply {
    fn from(error: base64::DecodeError) -> Self {
        Self(format!("base64: {error}"))
    }
}

impl HookReply {
    /// Reads the backend's answer to a question of this kind.
    pub fn decode(kind: HookKind, body: &[u8]) -> Result<HookResult, BadReply> {
        let Reply { result, error, disconnect } = object_of_last::<Reply>(body)?;
        let error = error.map(|it| (it.code, it.message, it.temporary));
        let disconnect = disconnect.map(|it| (it.code, it.reason));
        conclude(kind, result, error, disconnect, |fields: Fields| fields.reply(kind))
    }

    /// What happens where the backend gave no usable answer: error 100, upon which SDKs try again
    /// by themselves or tell their application. What was about to expire stays for a minute, in
    /// which the backend may come back.
    pub fn without_answer(kind: HookKind, now_seconds: i64) -> HookResult {
        let expire_at = now_seconds.saturating_add(GRACE_SECONDS);
        match kind {
            HookKind::Refresh => {
                Ok(Self::Refresh(RefreshReply { expire_at, ..RefreshReply::default() }))
            }
            HookKind::SubRefresh => {
                Ok(Self::SubRefresh(SubRefreshReply { expire_at, ..SubRefreshReply::default() }))
            }
            _ => Err(HookRefusal::Error(Error::INTERNAL)),
        }
    }

    /// What it means that a backend refuses by its status.
    pub fn refused(kind: HookKind, refusal: HookRefusal) -> HookResult {
        match kind {
            // Nobody waits for the outcome: what is not prolonged is over.
            HookKind::Refresh | HookKind::SubRefresh => Ok(Self::over(kind)),
            _ => Err(refusal),
        }
    }

    fn over(kind: HookKind) -> Self {
        match kind {
            HookKind::SubRefresh => {
                Self::SubRefresh(SubRefreshReply { expired: true, ..SubRefreshReply::default() })
            }
            _ => Self::Refresh(RefreshReply { expired: true, ..RefreshReply::default() }),
        }
    }
}

/// What an answer comes to, whose parts were decoded: a result, an error with its message and
/// whether it is temporary, the end of the connection with its reason.
pub(super) fn conclude<T: Default>(
    kind: HookKind,
    result: Option<T>,
    error: Option<(u32, String, bool)>,
    disconnect: Option<(u32, String)>,
    reply: impl FnOnce(T) -> Result<HookReply, BadReply>,
) -> Result<HookResult, BadReply> {
    // Nobody waits for the outcome of a refresh: what is not prolonged is over.
    let final_word = matches!(kind, HookKind::Refresh | HookKind::SubRefresh);
    if final_word && (result.is_none() || error.is_some() || disconnect.is_some()) {
        return Ok(Ok(HookReply::over(kind)));
    }
    if let Some((code, reason)) = disconnect {
        return match u16::try_from(code) {
            Ok(code @ 3000..=4999) => {
                Ok(Err(HookRefusal::Disconnect(Disconnect::new(code, reason))))
            }
            _ => Err(BadReply(format!("disconnect code {code} is not within 3000 to 4999"))),
        };
    }
    if let Some((code, message, temporary)) = error {
        return match code {
            0 => Err(BadReply("error code 0".to_owned())),
            code => Ok(Err(HookRefusal::Error(Error::new(code, message, temporary)))),
        };
    }
    if kind == HookKind::Connect && result.is_none() {
        return Ok(Ok(HookReply::Connect(None)));
    }
    Ok(Ok(reply(result.unwrap_or_default())?))
}

/// How long what expires stays without an answer.
pub(in crate::gateway) const GRACE_SECONDS: i64 = 60;

#[derive(Deserialize)]
struct Reply {
    #[serde(default)]
    result: Option<Fields>,
    #[serde(default)]
    error: Option<ErrorFields>,
    #[serde(default)]
    disconnect: Option<DisconnectFields>,
}

/// The fields of all results; each kind takes those it knows.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Fields {
    #[serde(deserialize_with = "nullable")]
    user: String,
    #[serde(deserialize_with = "nullable")]
    expired: bool,
    #[serde(deserialize_with = "nullable")]
    expire_at: i64,
    #[serde(deserialize_with = "raw_or_null")]
    info: Option<Bytes>,
    b64info: Option<String>,
    #[serde(deserialize_with = "raw_or_null")]
    data: Option<Bytes>,
    b64data: Option<String>,
    #[serde(deserialize_with = "nullable_texts")]
    channels: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    subs: BTreeMap<String, Option<Fields>>,
    #[serde(deserialize_with = "raw_or_null")]
    meta: Option<Bytes>,
    #[serde(rename = "override", deserialize_with = "nullable")]
    overrides: Override,
    #[serde(deserialize_with = "nullable")]
    cache_recover: bool,
    #[serde(deserialize_with = "nullable")]
    skip_history: bool,
    #[serde(deserialize_with = "nullable_labels")]
    tags: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    idempotency_key: String,
    #[serde(deserialize_with = "nullable")]
    delta: bool,
    #[serde(deserialize_with = "nullable")]
    version: u64,
    #[serde(deserialize_with = "nullable")]
    version_epoch: String,
}

impl Fields {
    fn reply(self, kind: HookKind) -> Result<HookReply, BadReply> {
        let info = given(self.info, self.b64info)?;
        let data = given(self.data, self.b64data)?;
        let expire_at = self.expire_at;
        Ok(match kind {
            HookKind::Connect => HookReply::Connect(Some(ConnectReply {
                user: self.user,
                expire_at,
                info: info.unwrap_or_default(),
                data: data.unwrap_or_default(),
                channels: self.channels,
                subs: settings(self.subs)?,
                meta: self.meta.unwrap_or_default(),
            })),
            HookKind::Refresh => HookReply::Refresh(RefreshReply {
                expired: self.expired,
                expire_at,
                info,
                meta: self.meta,
            }),
            HookKind::Subscribe | HookKind::SubscribeStream => {
                HookReply::Subscribe(SubscribeReply {
                    expire_at,
                    info: info.unwrap_or_default(),
                    data: data.unwrap_or_default(),
                    overrides: self.overrides,
                })
            }
            HookKind::Publish => HookReply::Publish(PublishReply {
                data,
                skip_history: self.skip_history,
                tags: self.tags,
                idempotency_key: self.idempotency_key,
                delta: self.delta,
                version: self.version,
                version_epoch: self.version_epoch,
            }),
            HookKind::Rpc => HookReply::Rpc(RpcReply { data: data.unwrap_or_default() }),
            HookKind::SubRefresh => {
                HookReply::SubRefresh(SubRefreshReply { expired: self.expired, expire_at, info })
            }
        })
    }
}

fn settings(
    subs: BTreeMap<String, Option<Fields>>,
) -> Result<BTreeMap<String, SubscribeSettings>, BadReply> {
    let each = subs.into_iter().map(|(channel, fields)| {
        let fields = fields.unwrap_or_default();
        let settings = SubscribeSettings {
            expire_at: fields.expire_at,
            info: given(fields.info, fields.b64info)?.unwrap_or_default(),
            data: given(fields.data, fields.b64data)?.unwrap_or_default(),
            overrides: fields.overrides,
            cache_recover: fields.cache_recover,
        };
        Ok((channel, settings))
    });
    each.collect()
}

/// An empty `b64x` beside no `x` is as good as absent: backends write all their fields.
pub(super) fn given(
    json: Option<Bytes>,
    base64: Option<String>,
) -> Result<Option<Bytes>, BadReply> {
    Ok(either(json, base64.filter(|text| !text.is_empty()))?)
}

#[derive(Deserialize)]
struct ErrorFields {
    code: u32,
    #[serde(default, deserialize_with = "nullable")]
    message: String,
    #[serde(default, deserialize_with = "nullable")]
    temporary: bool,
}

#[derive(Deserialize)]
struct DisconnectFields {
    code: u32,
    #[serde(default, deserialize_with = "nullable")]
    reason: String,
}
