//! The page for operators: what the server does at this moment, who is there, who is slow, and the
//! two things one may have to do about it, publish and disconnect.
//!
//! Below `admin/`, with the names that Centrifugo has for them: `init` says whether a session
//! holds, `auth` begins one, `api` takes requests of the server API in their older form; `stats`,
//! `past`, `help`, `channels`, `users` and `user` are ours. The invariant: but for the files of the
//! page, `init` and `auth`, nothing is told or done without a session (`Operator`), and a session
//! begins only with the password.

mod assets;
mod attempts;
mod operator;
mod past;
mod search;
mod session;
mod stats;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Form, FromRequest, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde::{Deserialize, Serialize};

use self::attempts::Attempt;
use self::operator::{Entrance, Inside, Operator};
use super::api::{Api, ApiConfig};
use super::backend::Backend;
use super::body::{self, BodyLimits, Charge, json, refusal};
use super::counts::Counts;
use super::peer::Peer;
use crate::gateway::api::ApiRequest;
use crate::options::Secret;

/// How the page is offered.
#[derive(Clone, Debug, PartialEq)]
pub struct AdminConfig {
    /// Path it is below, without a slash at its end; `admin/` follows. Default: the root.
    pub prefix: String,
    /// What an operator logs in with. Empty: nobody can.
    pub password: Secret,
    /// What sessions are signed with, together with the password: a new password ends them all.
    /// Empty: something random besides, so that they end with the process.
    pub secret: Secret,
    /// How long a session lasts, in whole seconds. Default 12 h.
    pub session: Duration,
    /// How many logins may fail.
    pub attempts: AttemptLimits,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            prefix: String::new(),
            password: Secret::default(),
            secret: Secret::default(),
            session: Duration::from_secs(12 * 3600),
            attempts: AttemptLimits::default(),
        }
    }
}

pub use self::attempts::AttemptLimits;
pub use self::past::Past;

impl AdminConfig {
    /// The paths it takes. `root`: those above the page, too, which lead there.
    pub(super) fn paths(&self, root: bool) -> Vec<String> {
        let mut paths: Vec<_> = assets::ALL.iter().map(|asset| self.path(asset.name)).collect();
        let served = ["init", "auth", "api", "stats", "past", "help", "channels", "users", "user"];
        paths.extend(served.map(|name| self.path(name)));
        paths.push(format!("{}/admin", self.prefix));
        if root {
            paths.push(format!("{}/", self.prefix));
        }
        paths
    }

    fn path(&self, name: &str) -> String {
        format!("{}/admin/{name}", self.prefix)
    }
}

/// The routes of the page, and what they tell of the last hour, which somebody has to
/// [`keep`](Past::keep). `root`: what is above it leads there.
pub(super) fn router<B: Backend>(
    backend: Arc<B>,
    config: &AdminConfig,
    counts: Arc<Counts>,
    root: bool,
) -> (Router, Arc<Past>) {
    let api_config = ApiConfig {
        body: BodyLimits { bytes: API_BODY_MAX, ..BodyLimits::default() },
        ..ApiConfig::default()
    };
    let past = Arc::new(Past::default());
    let inside = Inside {
        api: Api::new(backend.clone(), api_config, counts.clone()),
        backend,
        counts: counts.clone(),
        past: past.clone(),
        started: Instant::now(),
    };
    let entrance = Arc::new(Entrance::new(config, counts, inside));
    let mut router = Router::new()
        .route(&config.path("init"), get(init::<B>))
        .route(&config.path("auth"), post(auth::<B>))
        .route(&config.path("api"), post(api::<B>))
        .route(&config.path("stats"), get(stats::stats::<B>))
        .route(&config.path("past"), get(stats::past::<B>))
        .route(&config.path("help"), get(stats::help::<B>))
        .route(&config.path("channels"), get(search::channels::<B>))
        .route(&config.path("users"), get(search::users::<B>))
        .route(&config.path("user"), get(search::user::<B>));
    for asset in assets::ALL {
        let serve = move |headers: HeaderMap| async move { asset.serve(&headers) };
        router = router.route(&config.path(asset.name), get(serve));
    }
    // Relative, so that it also works behind a proxy that takes a part of the path away.
    let below = |to: &'static str| get(move || async move { Redirect::temporary(to) });
    router = router.route(&format!("{}/admin", config.prefix), below("admin/"));
    if root {
        router = router.route(&format!("{}/", config.prefix), below("admin/"));
    }
    (router.with_state(entrance), past)
}

async fn init<B: Backend>(
    State(entrance): State<Arc<Entrance<B>>>,
    headers: HeaderMap,
) -> Response {
    #[derive(Serialize)]
    struct Init {
        insecure: bool,
        edition: &'static str,
        authenticated: bool,
    }
    let authenticated = entrance.admits(&headers);
    written(&Init { insecure: false, edition: "ringhold", authenticated })
}

#[derive(Deserialize)]
struct Login {
    #[serde(default)]
    password: String,
}

/// `POST` of a form with `password`: the token of a new session; 400 if it is wrong, as with
/// Centrifugo; 429 if too many were.
async fn auth<B: Backend>(
    State(entrance): State<Arc<Entrance<B>>>,
    peer: Option<Extension<Peer>>,
    request: Request,
) -> Response {
    // A page elsewhere could use up the attempts of whoever looks at it.
    if request.headers().get("sec-fetch-site").is_some_and(|site| site == "cross-site") {
        return refusal(StatusCode::FORBIDDEN);
    }
    let login = match login(request, &entrance.counts).await {
        Ok(login) => login,
        Err(status) => return refusal(status),
    };
    let peer = peer.map(|Extension(Peer(address))| address);
    let from = peer.map_or_else(|| "unknown".to_owned(), |peer| peer.ip().to_string());
    match entrance.attempt(peer.map(|peer| peer.ip()), &login.password) {
        Attempt::Right => {
            let Some(token) = entrance.begin() else {
                return refusal(StatusCode::INTERNAL_SERVER_ERROR);
            };
            entrance.counts.admin_logins.count();
            tracing::info!(%from, "an operator logged in");
            #[derive(Serialize)]
            struct Session {
                token: String,
            }
            written(&Session { token })
        }
        Attempt::Wrong => {
            entrance.counts.admin_logins_failed.count();
            tracing::warn!(%from, "a login with a wrong password");
            refusal(StatusCode::BAD_REQUEST)
        }
        Attempt::Limited(wait) => {
            entrance.counts.admin_logins_limited.count();
            let mut response = refusal(StatusCode::TOO_MANY_REQUESTS);
            let seconds = HeaderValue::from(wait.as_secs() + 1);
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
            response
        }
    }
}

async fn login(request: Request, counts: &Counts) -> Result<Login, StatusCode> {
    let (head, body) = request.into_parts();
    let mut whole = Request::new(body);
    *whole.extensions_mut() = head.extensions.clone();
    let body = body::read(whole, LOGIN_BODY, &mut Charge::new(&counts.http_bodies)).await?;
    let request = Request::from_parts(head, body.into());
    let form = Form::from_request(request, &()).await;
    form.map(|Form(login)| login).map_err(|rejection| rejection.into_response().status())
}

/// Requests of the server API, by a session instead of a key.
async fn api<B: Backend>(Operator(inside): Operator<B>, request: Request) -> Response {
    let from = request.extensions().get::<Peer>().map(|peer| peer.0.ip().to_string());
    let log = |request: &ApiRequest| {
        if !is_question(request) {
            tracing::info!(from, method = request.method(), "an operator acts");
        }
    };
    inside.api.legacy(request, log).await
}

/// Whether a request changes nothing.
fn is_question(request: &ApiRequest) -> bool {
    matches!(
        request,
        ApiRequest::Presence(_)
            | ApiRequest::PresenceStats(_)
            | ApiRequest::History(_)
            | ApiRequest::Channels(_)
            | ApiRequest::Info(_)
    )
}

fn written(body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(text) => json(StatusCode::OK, text),
        // Our own types serialize; should one not, nobody must take it for success.
        Err(_) => refusal(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

/// A password is short, and arrives at once.
const LOGIN_BODY: BodyLimits =
    BodyLimits { bytes: 4096, time: Duration::from_secs(10), small: 4096 };

/// What an operator publishes by hand is small, too.
const API_BODY_MAX: usize = 1 << 20;
