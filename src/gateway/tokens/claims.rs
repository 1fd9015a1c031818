//! What tokens say: the texts as they come, and the plain values that the gateway works with.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{TokenError, invalid};
use crate::gateway::channels::Override;
use crate::gateway::json::nullable_texts;
use crate::gateway::wire::raw::one_line;

/// What a connection token says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionClaims {
    /// Who it is; empty: nobody in particular.
    pub user: String,
    /// Unix time in seconds at which the connection expires; `None`: never.
    pub expire_at: Option<i64>,
    /// What others are told about the connection (`conn_info`); may be empty.
    pub info: Bytes,
    /// What only the backend is told; may be empty.
    pub meta: Bytes,
    /// Channels the server subscribes the connection to.
    pub subs: Vec<ServerSubscription>,
}

/// A channel that the server subscribes a connection to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerSubscription {
    /// Its name.
    pub channel: String,
    /// What others are told about the subscription (`chan_info`); may be empty.
    pub info: Bytes,
    /// What the subscriber is told; may be empty.
    pub data: Bytes,
    /// Where it differs from the namespace.
    pub overrides: Override,
}

/// What a subscription token says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionClaims {
    /// Whose it is: must be the connection's user.
    pub user: String,
    /// Which channel it is for: must be the one asked for.
    pub channel: String,
    /// Which connection it is for, if it says so; may be empty.
    pub client: String,
    /// Unix time in seconds at which the subscription expires; `None`: never.
    pub expire_at: Option<i64>,
    /// What others are told about the subscription (`chan_info`); may be empty.
    pub info: Bytes,
    /// What the subscriber is told; may be empty.
    pub data: Bytes,
    /// Where it differs from the namespace.
    pub overrides: Override,
}

/// What every token may say (RFC 7519 section 4.1), of which we look at these.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Registered {
    #[serde(default)]
    pub(super) sub: Option<String>,
    #[serde(default)]
    pub(super) iss: Option<String>,
    #[serde(default)]
    pub(super) aud: Option<Audience>,
    #[serde(default)]
    exp: Option<Date>,
    #[serde(default)]
    nbf: Option<Date>,
    #[serde(default)]
    expire_at: Option<i64>,
}

/// One or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Audience {
    pub(super) fn list(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Several(several) => several,
        }
    }
}

/// Seconds since 1970, possibly with a fraction.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
enum Date {
    Whole(i64),
    Fraction(f64),
}

impl Date {
    fn seconds(self) -> i64 {
        match self {
            Self::Whole(seconds) => seconds,
            // Saturates.
            Self::Fraction(seconds) => seconds.floor() as i64,
        }
    }
}

impl Registered {
    /// Whether the token's time has come and is not over.
    pub(super) fn is_current(&self, now: i64) -> bool {
        self.exp.is_none_or(|exp| now < exp.seconds())
            && self.nbf.is_none_or(|nbf| nbf.seconds() <= now)
    }

    /// When what the token grants expires: `expire_at` where it is given (0: never), else `exp`.
    pub(super) fn expire_at(&self) -> Option<i64> {
        match self.expire_at {
            Some(at) => Some(at).filter(|at| *at > 0),
            None => self.exp.map(Date::seconds),
        }
    }
}

/// A connection token's own claims.
#[derive(Debug, Deserialize)]
struct ConnectionText<'a> {
    #[serde(borrow, default)]
    info: Option<&'a RawValue>,
    #[serde(default)]
    b64info: Option<String>,
    #[serde(borrow, default)]
    meta: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "nullable_texts")]
    channels: Vec<String>,
    #[serde(borrow, default)]
    subs: Option<BTreeMap<String, Option<Details<'a>>>>,
    #[serde(default)]
    channel: Option<String>,
}

/// A subscription token's own claims.
#[derive(Debug, Deserialize)]
struct SubscriptionText {
    #[serde(default)]
    channel: Option<String>,
    #[serde(default)]
    client: Option<String>,
}

/// What is said about one subscription, in a token of its own or in a connection token.
#[derive(Debug, Default, Deserialize)]
struct Details<'a> {
    #[serde(borrow, default)]
    info: Option<&'a RawValue>,
    #[serde(default)]
    b64info: Option<String>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(default)]
    b64data: Option<String>,
    #[serde(rename = "override", default)]
    overrides: Option<Override>,
}

impl Details<'_> {
    fn into_subscription(self, channel: String) -> Result<ServerSubscription, TokenError> {
        Ok(ServerSubscription {
            channel,
            info: payload(self.info, self.b64info.as_deref())?,
            data: payload(self.data, self.b64data.as_deref())?,
            overrides: self.overrides.unwrap_or_default(),
        })
    }
}

impl ConnectionClaims {
    pub(super) fn read(
        json: &[u8],
        registered: &Registered,
        user: String,
    ) -> Result<Self, TokenError> {
        let text: ConnectionText<'_> = parse(json)?;
        // It would let whoever got a token for one channel open connections with it.
        if text.channel.is_some_and(|channel| !channel.is_empty()) {
            return Err(invalid("it is a subscription token: it has the claim channel"));
        }
        let subs = match (text.subs, text.channels) {
            (Some(subs), _) if !subs.is_empty() => {
                let subs = subs.into_iter();
                let sub = |(channel, details): (_, Option<Details<'_>>)| {
                    details.unwrap_or_default().into_subscription(channel)
                };
                subs.map(sub).collect()
            }
            (_, channels) => Ok(channels.into_iter().map(plain).collect()),
        };
        Ok(Self {
            user,
            expire_at: registered.expire_at(),
            info: payload(text.info, text.b64info.as_deref())?,
            meta: payload(text.meta, None)?,
            subs: subs?,
        })
    }
}

fn plain(channel: String) -> ServerSubscription {
    ServerSubscription { channel, ..ServerSubscription::default() }
}

impl SubscriptionClaims {
    pub(super) fn read(
        json: &[u8],
        registered: &Registered,
        user: String,
    ) -> Result<Self, TokenError> {
        let text: SubscriptionText = parse(json)?;
        let channel = text.channel.filter(|channel| !channel.is_empty());
        let channel = channel.ok_or(invalid("it lacks the claim channel"))?;
        let details: Details<'_> = parse(json)?;
        let ServerSubscription { channel, info, data, overrides } =
            details.into_subscription(channel)?;
        let client = text.client.unwrap_or_default();
        let expire_at = registered.expire_at();
        Ok(Self { user, channel, client, expire_at, info, data, overrides })
    }
}

/// JSON as it stands, without line breaks, or what base64 says.
fn payload(json: Option<&RawValue>, base64: Option<&str>) -> Result<Bytes, TokenError> {
    match (base64, json) {
        (Some(text), _) if !text.is_empty() => {
            let bytes = STANDARD.decode(text);
            Ok(bytes.map_err(|_| invalid("a b64 claim is no base64"))?.into())
        }
        (_, Some(json)) => Ok(one_line(json.get().as_bytes())),
        (_, None) => Ok(Bytes::new()),
    }
}

/// The claim that names the user: at the top under this name, or where its dots lead. A number is
/// as good as text; a claim that is missing names nobody, as a missing `sub` does.
pub(super) fn user_of(json: &[u8], claim: &str) -> Result<String, TokenError> {
    let claims: serde_json::Value = parse(json)?;
    let by_dots = || claim.split('.').try_fold(&claims, |value, key| value.get(key));
    match claims.get(claim).or_else(by_dots) {
        None | Some(serde_json::Value::Null) => Ok(String::new()),
        Some(serde_json::Value::String(user)) => Ok(user.clone()),
        Some(serde_json::Value::Number(user)) => Ok(user.to_string()),
        Some(_) => Err(invalid("the claim that names the user is neither text nor a number")),
    }
}

pub(super) fn parse<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, TokenError> {
    // A list would be read as the values of a structure, one after the other.
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(invalid("header or claims are no object"));
    }
    serde_json::from_slice(json)
        .map_err(|error| TokenError::Invalid(format!("header or claims: {error}").into()))
}

/// Base64 as tokens have it: URL-safe, without padding.
pub(super) fn decode_url(text: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| invalid("a part of it is no base64"))
}
