//! Who may look behind the page and act there.
//!
//! Owns sessions, attempts to log in, and what only operators reach. The invariant: what is inside
//! is given out by [`Operator`] alone, which is no one without a session; so a handler that forgets
//! to ask for one can tell and do nothing.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;

use super::AdminConfig;
use super::attempts::{Attempt, Attempts};
use super::past::Past;
use super::session::AdminSessions;
use crate::control::access;
use crate::control::api::Api;
use crate::control::body::refusal;
use crate::control::counts::Counts;
use crate::control::room;
use crate::options::Secret;

/// What anybody reaches: the state of the page's routes.
pub(super) struct Entrance<B> {
    pub(super) counts: Arc<Counts>,
    password: Secret,
    sessions: AdminSessions,
    attempts: Attempts,
    inside: Arc<Inside<B>>,
}

/// What only operators reach.
pub(super) struct Inside<B> {
    pub(super) api: Api<B>,
    pub(super) backend: Arc<B>,
    pub(super) counts: Arc<Counts>,
    pub(super) past: Arc<Past>,
    pub(super) started: Instant,
}

/// Somebody with a session, and what that opens. Without one a request is answered with 401, and
/// with 503 where HTTP has no place for it.
pub(super) struct Operator<B>(pub(super) Arc<Inside<B>>);

impl<B> Entrance<B> {
    pub(super) fn new(config: &AdminConfig, counts: Arc<Counts>, inside: Inside<B>) -> Self {
        Self {
            counts,
            password: config.password.clone(),
            sessions: AdminSessions::new(&config.password, &config.secret, config.session),
            attempts: Attempts::new(config.attempts),
            inside: Arc::new(inside),
        }
    }

    /// Whether a session holds.
    pub(super) fn admits(&self, headers: &HeaderMap) -> bool {
        token(headers).is_some_and(|token| self.sessions.holds(token))
    }

    /// Compares a password that came from this address.
    pub(super) fn attempt(&self, from: Option<IpAddr>, password: &str) -> Attempt {
        let right = access::same(self.password.reveal().as_bytes(), password.as_bytes());
        self.attempts.attempt(from, Instant::now(), right)
    }

    /// The token of a new session. `None`: the kernel gives no random numbers.
    pub(super) fn begin(&self) -> Option<String> {
        self.sessions.begin()
    }
}

impl<B: Send + Sync> FromRequestParts<Arc<Entrance<B>>> for Operator<B> {
    type Rejection = Response;

    async fn from_request_parts(
        parts: &mut Parts,
        entrance: &Arc<Entrance<B>>,
    ) -> Result<Self, Response> {
        if !entrance.admits(&parts.headers) {
            return Err(refusal(StatusCode::UNAUTHORIZED));
        }
        match room::recognise(&parts.extensions) {
            true => Ok(Self(entrance.inside.clone())),
            false => Err(refusal(StatusCode::SERVICE_UNAVAILABLE)),
        }
    }
}

/// The token in `Authorization: token <token>`.
fn token(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("token").then(|| token.trim())
}
