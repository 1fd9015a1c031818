//! Who may call the server API.

use std::sync::{Arc, PoisonError, RwLock};

use axum::extract::{Query, Request};
use axum::http::header;
use serde::Deserialize;

use crate::gateway::api::key::authorization;
pub(super) use crate::gateway::api::key::same;

/// Who may call the server API.
#[derive(Clone, PartialEq, Eq)]
pub enum Access {
    /// Nobody: no key is configured.
    Nobody,
    /// Whoever has this key: in `X-API-Key`, as `Authorization: apikey <key>`, or as `?api_key=`.
    Key(String),
    /// Whoever reaches the port.
    Anybody,
}

/// Who may call at the moment: shared by the routes and by whoever reloads the configuration.
#[derive(Clone, Debug)]
pub struct Gate(Arc<RwLock<Access>>);

impl From<Access> for Gate {
    fn from(access: Access) -> Self {
        Self(Arc::new(RwLock::new(access)))
    }
}

impl Gate {
    /// Lets others in from now on.
    pub fn replace(&self, access: Access) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = access;
    }

    /// Who may call.
    pub fn access(&self) -> Access {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn admits(&self, request: &Request) -> Admission {
        match &*self.0.read().unwrap_or_else(PoisonError::into_inner) {
            Access::Anybody => Admission::Anybody,
            access if access.allows(request) => Admission::ByKey,
            _ => Admission::Refused,
        }
    }
}

/// Whether a request may be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Refused,
    /// It has the key.
    ByKey,
    /// As whatever reaches the port, which says nothing about who asks.
    Anybody,
}

impl Access {
    /// From `http_api.key` and `http_api.insecure`.
    pub fn new(key: &str, insecure: bool) -> Self {
        match key {
            _ if insecure => Self::Anybody,
            "" => Self::Nobody,
            key => Self::Key(key.to_owned()),
        }
    }

    pub(crate) fn allows(&self, request: &Request) -> bool {
        let key = match self {
            Self::Nobody => return false,
            Self::Anybody => return true,
            Self::Key(key) => key.as_bytes(),
        };
        let headers = request.headers();
        let direct = headers.get("x-api-key").is_some_and(|given| same(key, given.as_bytes()));
        direct
            || headers
                .get(header::AUTHORIZATION)
                .and_then(|value| authorization(value.as_bytes()))
                .is_some_and(|given| same(key, given))
            || Query::<Parameters>::try_from_uri(request.uri())
                .is_ok_and(|query| same(key, query.0.api_key.as_bytes()))
    }
}

/// Keys do not get into logs.
impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nobody => "Nobody",
            Self::Key(_) => "Key(..)",
            Self::Anybody => "Anybody",
        })
    }
}

#[derive(Deserialize)]
struct Parameters {
    #[serde(default)]
    api_key: String,
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn request(uri: &str, headers: &[(&str, &str)]) -> Request {
        let builder = Request::builder().uri(uri);
        let builder =
            headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value));
        builder.body(Body::empty()).unwrap()
    }

    #[test]
    fn the_key_is_taken_from_three_places() {
        let access = Access::new("s3 cret", false);
        for (uri, headers) in [
            ("/", &[("x-api-key", "s3 cret")][..]),
            ("/", &[("authorization", "apikey s3 cret")]),
            ("/", &[("authorization", "ApiKey   s3 cret ")]),
            ("/?api_key=s3%20cret", &[]),
            ("/?a=b&api_key=s3+cret", &[]),
            ("/?api_key=s3%20cret", &[("x-api-key", "wrong")]),
        ] {
            assert!(access.allows(&request(uri, headers)), "{uri} {headers:?}");
        }
        for (uri, headers) in [
            ("/", &[][..]),
            ("/", &[("x-api-key", "")]),
            ("/", &[("x-api-key", "s3 cre")]),
            ("/", &[("x-api-key", "s3 crets")]),
            ("/", &[("authorization", "s3 cret")]),
            ("/", &[("authorization", "Bearer s3 cret")]),
            ("/", &[("authorization", "apikey")]),
            ("/?api_key=", &[]),
            ("/?api_key=s3", &[]),
            ("/?api_key=s3%20cret&api_key=s3%20cret", &[]),
        ] {
            assert!(!access.allows(&request(uri, headers)), "{uri} {headers:?}");
        }
    }

    #[test]
    fn a_gate_tells_who_has_the_key_and_lets_others_in_when_replaced() {
        let (bare, keyed) = (request("/", &[]), request("/", &[("x-api-key", "k")]));
        let gate = Gate::from(Access::new("k", false));
        let admits = |gate: &Gate| (gate.admits(&bare), gate.admits(&keyed));
        assert_eq!(admits(&gate), (Admission::Refused, Admission::ByKey));
        gate.replace(Access::new("k", true));
        assert_eq!(gate.access(), Access::Anybody);
        assert_eq!(admits(&gate), (Admission::Anybody, Admission::Anybody));
        gate.replace(Access::new("", false));
        assert_eq!(admits(&gate), (Admission::Refused, Admission::Refused));
    }

    #[test]
    fn without_a_key_nobody_may_unless_anybody_may() {
        let empty = request("/?api_key=", &[("x-api-key", ""), ("authorization", "apikey ")]);
        assert!(!Access::new("", false).allows(&empty));
        assert!(Access::new("", true).allows(&empty));
        assert!(Access::new("key", true).allows(&empty));
        assert_eq!(format!("{:?}", Access::new("key", false)), "Key(..)");
    }

    #[test]
    fn another_key_of_the_same_length_is_another_wherever_it_differs() {
        assert!(same(b"key", b"key"));
        for given in [&b"Key"[..], b"kEy", b"keY", b"ek!", b"iey", b"igy"] {
            assert!(!same(b"key", given), "{}", String::from_utf8_lossy(given));
        }
        // Twice by the same bits.
        assert!(!same(b"aa", b"bb") && !same(b"", b""));
    }
}
