//! What proves that a host is ours: a text on port 80 (http-01, RFC 8555 section 8.3), or a
//! certificate for `acme-tls/1` on the public port (tls-alpn-01, RFC 8737).
//!
//! The invariant: a proof is there before the authority is told so, and gone when its order ends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::header::{CONTENT_TYPE, HOST, LOCATION};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use instant_acme::ChallengeHandle;
use rcgen::{CertificateParams, CustomExtension};

use super::Install;
use crate::control::certificates::CertificateKeeper;
use crate::tls::keys::{KeyFault, KeyPair};

/// The ways to prove a host.
pub(super) struct Proofs {
    tokens: Tokens,
    by_http: bool,
    keeper: CertificateKeeper,
    install: Install,
}

/// Texts by their tokens.
#[derive(Clone, Debug, Default)]
pub(super) struct Tokens(Arc<Mutex<HashMap<String, String>>>);

impl Tokens {
    fn all(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Proofs {
    pub(super) fn new(
        tokens: Tokens,
        by_http: bool,
        keeper: CertificateKeeper,
        install: Install,
    ) -> Self {
        Self { tokens, by_http, keeper, install }
    }

    pub(super) fn by_http(&self) -> bool {
        self.by_http
    }

    /// Has the proof for a challenge ready.
    pub(super) fn prepare(
        &self,
        host: &str,
        challenge: &ChallengeHandle<'_>,
    ) -> Result<(), String> {
        let answer = challenge.key_authorization();
        if self.by_http {
            let text = answer.as_str().to_owned();
            self.tokens.all().insert(challenge.token.clone(), text);
            return Ok(());
        }
        let pair =
            certificate(host, answer.digest().as_ref()).map_err(|error| error.to_string())?;
        self.keeper.on_order().challenges = vec![pair];
        (self.install)().map_err(|fault| fault.to_string())
    }

    /// Waits for the next reload of the configuration.
    pub(super) async fn reloaded(&self) {
        self.keeper.reloaded().await;
    }

    /// Takes all proofs away.
    pub(super) fn forget(&self) {
        self.tokens.all().clear();
        if std::mem::take(&mut self.keeper.on_order().challenges).is_empty() {
            return;
        }
        if let Err(error) = (self.install)() {
            tracing::error!(%error, "a proof for the authority stays");
        }
    }

    /// Has all cores go on with what was issued.
    pub(super) fn replace(&self, issued: Vec<KeyPair>) -> Result<(), KeyFault> {
        let before = std::mem::replace(&mut self.keeper.on_order().issued, issued);
        (self.install)().inspect_err(|_| self.keeper.on_order().issued = before)
    }
}

/// RFC 8737 section 3: signed by itself, for one name, with the digest in a critical extension.
fn certificate(host: &str, digest: &[u8]) -> Result<KeyPair, rcgen::Error> {
    let mut params = CertificateParams::new([host.to_owned()])?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = rcgen::KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok(KeyPair { cert_pem: certificate.pem(), key_pem: key.serialize_pem() })
}

/// What port 80 answers: proofs, and for all else where https is.
pub(super) fn router(tokens: Tokens, hosts: Vec<String>) -> Router {
    Router::new()
        .route("/.well-known/acme-challenge/{token}", get(proof))
        .with_state(tokens)
        .fallback(move |request: Request| {
            let answer = redirect(&request, &hosts);
            async move { answer }
        })
}

async fn proof(State(tokens): State<Tokens>, Path(token): Path<String>) -> Response {
    match tokens.all().get(&token) {
        Some(text) => ([(CONTENT_TYPE, "application/octet-stream")], text.clone()).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// To port 443: where the authority asks, clients come in, too.
fn redirect(request: &Request, hosts: &[String]) -> Response {
    let Some(host) = host(request.headers()).filter(|host| hosts.contains(host)) else {
        return StatusCode::MISDIRECTED_REQUEST.into_response();
    };
    // Whatever had a body has sent it in the clear already.
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        return (StatusCode::BAD_REQUEST, "use https").into_response();
    }
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let location = format!("https://{host}{target}");
    (StatusCode::PERMANENT_REDIRECT, [(LOCATION, location)]).into_response()
}

/// The host of a request, in small letters and without its port.
fn host(headers: &HeaderMap) -> Option<String> {
    let host = headers.get(HOST)?.to_str().ok()?;
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    Some(host.to_ascii_lowercase())
}
