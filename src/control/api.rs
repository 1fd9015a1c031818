//! The server API over HTTP: who may call, what the body asks for, and how the outcome is written.
//!
//! `POST /api/<method>` takes the parameters of one method, `POST /api/batch` many requests, and
//! `POST /api` the older form of one request per line. The invariant: without a valid key nothing
//! of a body is read, and nothing of a batch is done before all of it was understood.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use serde::Serialize;
use tokio::task::JoinSet;

use super::access::{Access, Admission, Gate};
use super::backend::Backend;
use super::body::{self, Bodies, BodyLimits, Charge, json, refusal};
use super::counts::Counts;
use super::process::Process;
use super::publishing;
use super::room;
use crate::gateway::api::batch::{self, Batch, Legacy};
use crate::gateway::api::status_of;
use crate::gateway::api::{ApiError, ApiReply, ApiRequest, Envelope, PublishRequest, Undecodable};
use crate::gateway::wire::Error;

/// How the server API is offered.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// Path it is below, without a slash at its end. Default `/api`.
    pub prefix: String,
    /// Who may call.
    pub access: Gate,
    /// Answer errors with an HTTP status for everyone, not only where
    /// `X-Centrifugo-Error-Mode: transport` asks for it.
    pub transport_errors: bool,
    /// How large and how slow a body may be.
    pub body: BodyLimits,
    /// How long the server may take for one request; then error 100. Default 10 s.
    pub call_timeout: Duration,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            prefix: "/api".to_owned(),
            access: Access::Nobody.into(),
            transport_errors: false,
            body: BodyLimits::default(),
            call_timeout: Duration::from_secs(10),
        }
    }
}

/// The routes of the server API.
pub fn router<B: Backend>(backend: Arc<B>, config: ApiConfig, counts: Arc<Counts>) -> Router {
    let prefix = config.prefix.clone();
    let api = Arc::new(Api::new(backend, config, counts));
    Router::new()
        .route(&prefix, post(legacy::<B>))
        .route(&format!("{prefix}/openapi.json"), get(document))
        .route(&format!("{prefix}/{{method}}"), post(method::<B>))
        .with_state(api)
}

/// The description of the API that clients can be generated from (OpenAPI 3.1).
pub const OPENAPI: &str = include_str!("assets/openapi.json");

async fn document() -> Response {
    json(StatusCode::OK, OPENAPI)
}

/// The server API behind whatever asks who may call.
pub(super) struct Api<B> {
    backend: Arc<B>,
    config: ApiConfig,
    counts: Arc<Counts>,
    process: Process,
}

/// `POST /api/<method>`.
async fn method<B: Backend>(
    State(api): State<Arc<Api<B>>>,
    Path(method): Path<String>,
    request: Request,
) -> Response {
    if let Some(response) = api.refuses(&request) {
        return response;
    }
    let by_status = api.tells_by_status(&request);
    // Held until the answer is made.
    let mut charge = Charge::new(&api.counts.http_bodies);
    if method == "batch" {
        return match api.read(request, &mut charge).await {
            Ok(body) => api.batch(&body, &mut charge).await,
            Err(response) => response,
        };
    }
    if ApiRequest::parameters(&method).is_none() {
        return refusal(StatusCode::NOT_FOUND);
    }
    let body = match api.read(request, &mut charge).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    match ApiRequest::decode(&method, &body) {
        Ok(request) => answer(&api.call(request).await, by_status),
        Err(Undecodable::Refused(error)) => answer(&Err(error), by_status),
        Err(Undecodable::Malformed(error)) => api.malformed(&error),
    }
}

/// `POST /api`: requests with a line break between them, answers likewise.
async fn legacy<B: Backend>(State(api): State<Arc<Api<B>>>, request: Request) -> Response {
    if let Some(response) = api.refuses(&request) {
        return response;
    }
    api.legacy(request, |_| {}).await
}

fn wants_status(request: &Request) -> bool {
    request.headers().get("x-centrifugo-error-mode").is_some_and(|mode| mode == "transport")
}

impl<B: Backend> Api<B> {
    pub(super) fn new(backend: Arc<B>, config: ApiConfig, counts: Arc<Counts>) -> Self {
        Self { backend, config, counts, process: Process::default() }
    }

    /// Requests with a line break between them, answers likewise. `about_to` sees each before it
    /// is done.
    pub(super) async fn legacy(
        &self,
        request: Request,
        about_to: impl Fn(&ApiRequest),
    ) -> Response {
        let mut charge = Charge::new(&self.counts.http_bodies);
        let body = match self.read(request, &mut charge).await {
            Ok(body) => body,
            Err(response) => return response,
        };
        let requests = match batch::legacy(&body) {
            Ok(requests) => requests,
            Err(error) => return self.malformed(&error),
        };
        if let Err(status) = charge.add(requests.len() * batch::REQUEST_SIZE) {
            return self.refused(status);
        }
        let mut lines = Vec::new();
        for Legacy { id, request } in requests {
            let outcome = match request {
                Ok(request) => {
                    about_to(&request);
                    self.call(request).await
                }
                Err(error) => Err(error),
            };
            if !lines.is_empty() {
                lines.push(b'\n');
            }
            batch::write_legacy(&mut lines, id, &outcome);
        }
        json(StatusCode::OK, lines)
    }

    async fn read(&self, request: Request, charge: &mut Charge) -> Result<Bytes, Response> {
        let body = body::read(request, self.config.body, charge).await;
        body.map_err(|status| self.refused(status))
    }

    /// Whether the request may call.
    pub(super) fn admits(&self, request: &Request) -> Admission {
        self.config.access.admits(request)
    }

    /// Whether errors are told by status.
    pub(super) fn tells_by_status(&self, request: &Request) -> bool {
        self.config.transport_errors || wants_status(request)
    }

    /// The account of bodies.
    pub(super) fn bodies(&self) -> &Arc<Bodies> {
        &self.counts.http_bodies
    }

    /// How large and how slow a body may be.
    pub(super) fn limits(&self) -> BodyLimits {
        self.config.body
    }

    /// A request was refused before it was a call.
    pub(super) fn count_refused(&self, status: StatusCode) {
        self.counts.api_refused(status);
    }

    /// The answer to whoever may not call, or finds no place.
    fn refuses(&self, request: &Request) -> Option<Response> {
        match self.admits(request) {
            Admission::Refused => Some(self.refused(StatusCode::UNAUTHORIZED)),
            Admission::ByKey if !room::recognise(request.extensions()) => {
                Some(self.refused(StatusCode::SERVICE_UNAVAILABLE))
            }
            Admission::ByKey | Admission::Anybody => None,
        }
    }

    fn refused(&self, status: StatusCode) -> Response {
        self.counts.api_refused(status);
        refusal(status)
    }

    fn malformed(&self, error: &dyn std::fmt::Display) -> Response {
        self.counts.api_refused(StatusCode::BAD_REQUEST);
        // Where and what, so that whoever wrote the backend finds it.
        let body = Malformed { status: 400, message: format!("bad request: {error}") };
        write(StatusCode::BAD_REQUEST, &body)
    }

    /// Does one request.
    pub(super) async fn call(&self, request: ApiRequest) -> Result<ApiReply, Error> {
        let (method, started) = (request.method(), Instant::now());
        let call = self.backend.call(request);
        let mut outcome = match tokio::time::timeout(self.config.call_timeout, call).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::INTERNAL),
        };
        self.counts.api_call(method, started.elapsed(), outcome.as_ref().err());
        if let Ok(ApiReply::Info(info)) = &mut outcome {
            // Of the others nobody knows.
            if let Some(own) = info.nodes.first_mut() {
                own.process.get_or_insert_with(|| self.process.info());
            }
        }
        outcome
    }

    async fn batch(self: &Arc<Self>, body: &[u8], charge: &mut Charge) -> Response {
        let Batch { commands, parallel } = match Batch::decode(body) {
            Ok(batch) => batch,
            Err(error) => return self.malformed(&error),
        };
        if let Err(status) = charge.add(commands.len() * batch::REQUEST_SIZE) {
            return self.refused(status);
        }
        write(StatusCode::OK, &batch::Replies::new(&self.all(commands, parallel).await))
    }

    /// Does many requests. Each has its outcome in its place; one that died has none. Publications
    /// that follow one another are under way together, and keep their order.
    pub(super) async fn all(
        self: &Arc<Self>,
        commands: Vec<Result<ApiRequest, Error>>,
        parallel: bool,
    ) -> Vec<Reply> {
        let mut replies = vec![None; commands.len()];
        let mut running = JoinSet::new();
        let mut row = Row::default();
        for (place, command) in commands.into_iter().enumerate() {
            let request = match command {
                Ok(ApiRequest::Publish(request)) => {
                    row.push((place, request));
                    continue;
                }
                Ok(request) => request,
                Err(error) => {
                    replies[place] = Some(("", Err(error)));
                    continue;
                }
            };
            let method = request.method();
            if !parallel {
                self.publish_row(std::mem::take(&mut row), &mut replies).await;
                replies[place] = Some((method, self.call(request).await));
                continue;
            }
            if running.len() >= PARALLEL_MAX {
                keep(&mut replies, running.join_next().await);
            }
            let api = self.clone();
            running.spawn(async move { (place, method, api.call(request).await) });
        }
        self.publish_row(row, &mut replies).await;
        while let Some(done) = running.join_next().await {
            keep(&mut replies, Some(done));
        }
        replies
    }

    /// Publishes one after the other, a portion at a time.
    async fn publish_row(&self, mut row: Row, replies: &mut [Reply]) {
        while !row.is_empty() {
            let count = publishing::portion(row.iter().map(|(_, request)| &request.publication));
            let rest = row.split_off(count);
            let (places, portion): (Vec<_>, Vec<_>) =
                std::mem::replace(&mut row, rest).into_iter().unzip();
            let started = Instant::now();
            let end = started + self.config.call_timeout;
            for (place, published) in places.into_iter().zip(self.backend.publish_all(portion)) {
                let outcome = tokio::time::timeout_at(end.into(), published).await;
                let outcome = outcome.ok().and_then(Result::ok).unwrap_or(Err(Error::INTERNAL));
                self.counts.api_call("publish", started.elapsed(), outcome.as_ref().err());
                replies[place] = Some(("publish", outcome.map(ApiReply::Publish)));
            }
        }
    }
}

/// Publications of a batch that follow one another, with their places in it.
type Row = Vec<(usize, PublishRequest)>;

pub(super) type Reply = Option<(&'static str, Result<ApiReply, Error>)>;
type Done = Result<(usize, &'static str, Result<ApiReply, Error>), tokio::task::JoinError>;

/// A call that panicked leaves its place empty, which is written as an internal error.
fn keep(replies: &mut [Reply], done: Option<Done>) {
    if let Some(Ok((place, method, outcome))) = done {
        replies[place] = Some((method, outcome));
    }
}

fn answer(outcome: &Result<ApiReply, Error>, by_status: bool) -> Response {
    match outcome {
        Err(error) if by_status => {
            let status = StatusCode::from_u16(status_of(error));
            write(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), &ApiError(error))
        }
        outcome => write(StatusCode::OK, &Envelope(outcome)),
    }
}

fn write(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(text) => json(status, text),
        // Our own types serialize; should one not, the caller must not take it for success.
        Err(_) => refusal(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

#[derive(Serialize)]
struct Malformed {
    status: u16,
    message: String,
}

/// Requests of one batch that are under way at once. Each is a letter to a core, so this many fill
/// no mailbox, and more would not be faster.
const PARALLEL_MAX: usize = 64;
