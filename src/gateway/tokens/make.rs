//! Making tokens, for trying things out and for tests: real ones are made by the application.

use std::collections::BTreeMap;
use std::fmt;

use jsonwebtoken::{EncodingKey, Header};
use serde::Serialize;

/// What a token shall say. With a channel it is a subscription token, otherwise a connection token.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TokenRequest {
    /// Who; empty: nobody in particular.
    pub sub: String,
    /// Unix time in seconds at which it is made.
    pub iat: i64,
    /// Unix time in seconds at which it expires; `None`: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exp: Option<i64>,
    /// The channel it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// The connection it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// What others are told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub info: Option<serde_json::Value>,
    /// Channels the server subscribes the connection to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<String>,
    /// Who it is for, where the server demands that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aud: Option<String>,
    /// Who made it, where the server demands that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// Further claims by name.
    #[serde(flatten)]
    pub more: BTreeMap<String, serde_json::Value>,
}

/// A token that cannot be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MakeError(String);

impl fmt::Display for MakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for MakeError {}

impl TokenRequest {
    /// Makes the token, signed with HS256.
    pub fn sign(&self, secret: &str) -> Result<String, MakeError> {
        if secret.is_empty() {
            return Err(MakeError("the secret is empty".to_owned()));
        }
        let key = EncodingKey::from_secret(secret.as_bytes());
        let made = jsonwebtoken::encode(&Header::default(), self, &key);
        made.map_err(|error| MakeError(error.to_string()))
    }
}
