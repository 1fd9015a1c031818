//! A backend that answers by itself and remembers what it was asked, and how to talk to the routes
//! in front of it.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use ringhold::Cause;
use ringhold::control::access::Access;
use ringhold::control::api::ApiConfig;
use ringhold::control::backend::{SlowNow, SlowReport};
use ringhold::control::body::BodyLimits;
use ringhold::control::counts::Counts;
use ringhold::control::health::HealthConfig;
use ringhold::control::http::{HttpConfig, Routes, routes};
use ringhold::control::publishing::Published;
use ringhold::control::{Backend, Snapshot};
use ringhold::gateway::api::{
    ApiReply, ApiRequest, BroadcastResult, ChannelsResult, HistoryResult, InfoResult, NodeInfo,
    PresenceResult, PresenceStatsResult, PublishRequest, PublishResult, RpcResult,
};
use ringhold::gateway::format::Transport;
use ringhold::gateway::inspect::{Connection, Found, Named, Search, SlowEnd};
use ringhold::gateway::letters::ClientId;
use ringhold::gateway::wire::{Encoding, Error};
use serde_json::Value;
use tower::ServiceExt;

pub(crate) const KEY: &str = "secret";

/// Channels named `error:<code>` fail with that code; `slow` never answers; `panic` does.
#[derive(Default)]
pub(crate) struct Fake {
    pub(crate) asked: Mutex<Vec<ApiRequest>>,
    pub(crate) draining: AtomicBool,
}

impl Fake {
    pub(crate) fn take(&self) -> Vec<ApiRequest> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

impl Backend for Fake {
    async fn call(&self, request: ApiRequest) -> Result<ApiReply, Error> {
        self.asked.lock().unwrap().push(request.clone());
        answer(request).await
    }

    fn publish_all(&self, all: Vec<PublishRequest>) -> Vec<Published> {
        let post = |request| {
            let (to, published) = tokio::sync::oneshot::channel();
            let request = ApiRequest::Publish(request);
            self.asked.lock().unwrap().push(request.clone());
            tokio::spawn(async move {
                let outcome = match answer(request).await {
                    Ok(ApiReply::Publish(result)) => Ok(result),
                    Ok(other) => panic!("no answer to a publish: {other:?}"),
                    Err(error) => Err(error),
                };
                let _ = to.send(outcome);
            });
            published
        };
        all.into_iter().map(post).collect()
    }

    async fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.engine.counters.connections = 3;
        snapshot
    }

    async fn channels(&self, search: Search) -> Result<Found, Error> {
        found("chat:room", &search)
    }

    async fn users(&self, search: Search) -> Result<Found, Error> {
        found("ann", &search)
    }

    async fn user(&self, name: String, _: usize) -> Result<Vec<Connection>, Error> {
        Ok(Vec::from_iter((name == "ann").then(connection)))
    }

    async fn slow(&self, _: usize) -> SlowReport {
        let peer = ([192, 0, 2, 1], 7).into();
        let stalled = Duration::from_millis(1500);
        let now = SlowNow { peer, queued: 5000, stalled, who: Some(connection()) };
        let end = SlowEnd { at: 77, cause: Cause::WriteTimeout, connection: connection() };
        SlowReport { now: vec![now], total: 9, ended: vec![end] }
    }

    fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

fn found(name: &str, search: &Search) -> Result<Found, Error> {
    let matches = search.pattern.as_ref().is_none_or(|pattern| pattern.is_match(name));
    let one = Named { name: name.into(), count: 3, published: 8 };
    let list: Vec<_> = matches.then_some(one).into_iter().collect();
    let matched = list.len();
    Ok(Found { matched, list: list.into_iter().skip(search.skip).take(search.limit).collect() })
}

/// Of ann.
fn connection() -> Connection {
    Connection {
        core: 1,
        client: ClientId::new(7),
        user: "ann".into(),
        peer: Some(([192, 0, 2, 1], 7).into()),
        transport: Transport::Sse,
        since: 70,
        encoding: Encoding::Json,
        subscriptions: 2,
        channels: vec!["chat:room".into()],
    }
}

async fn answer(request: ApiRequest) -> Result<ApiReply, Error> {
    Ok(match request {
        ApiRequest::Publish(request) => ApiReply::Publish(publish(&request.channel).await?),
        ApiRequest::Broadcast(request) => {
            let mut responses = Vec::new();
            for channel in &request.channels {
                responses.push(publish(channel).await);
            }
            ApiReply::Broadcast(BroadcastResult { responses })
        }
        ApiRequest::Presence(_) => ApiReply::Presence(PresenceResult::default()),
        ApiRequest::PresenceStats(_) => ApiReply::PresenceStats(PresenceStatsResult::default()),
        ApiRequest::History(_) => ApiReply::History(HistoryResult::default()),
        ApiRequest::Channels(_) => ApiReply::Channels(ChannelsResult::default()),
        ApiRequest::Info(_) => ApiReply::Info(InfoResult { nodes: vec![NodeInfo::default()] }),
        ApiRequest::Rpc(request) => ApiReply::Rpc(RpcResult { data: request.params }),
        _ => ApiReply::Done,
    })
}

async fn publish(channel: &str) -> Result<PublishResult, Error> {
    match channel {
        "slow" => std::future::pending().await,
        "panic" => panic!("as asked"),
        "later" => tokio::task::yield_now().await,
        _ => {}
    }
    match channel.strip_prefix("error:") {
        Some(code) => Err(Error::new(code.parse().unwrap(), "as asked", false)),
        None => Ok(PublishResult { offset: 1, epoch: channel.to_owned() }),
    }
}

/// Everything on the public port, with small limits.
pub(crate) fn config() -> HttpConfig {
    HttpConfig {
        api: Some(ApiConfig {
            access: Access::new(KEY, false).into(),
            body: BodyLimits {
                bytes: 200_000,
                time: Duration::from_secs(60),
                ..BodyLimits::default()
            },
            ..ApiConfig::default()
        }),
        health: Some(HealthConfig::default()),
        metrics: Some("/metrics".to_owned()),
        ..HttpConfig::default()
    }
}

/// The routes, and what is behind them.
pub(crate) struct Site {
    pub(crate) fake: Arc<Fake>,
    pub(crate) routes: Routes,
    pub(crate) counts: Arc<Counts>,
}

impl Site {
    pub(crate) fn new(config: &HttpConfig) -> Self {
        let (fake, counts) = (Arc::new(Fake::default()), Arc::new(Counts::default()));
        let routes = routes(&fake, config, &counts).unwrap();
        Self { fake, routes, counts }
    }

    /// With a changed configuration of the API.
    pub(crate) fn with_api(change: impl FnOnce(&mut ApiConfig)) -> Self {
        let mut config = config();
        change(config.api.as_mut().unwrap());
        Self::new(&config)
    }

    /// A request on the public port.
    pub(crate) async fn send(&self, request: Request<Body>) -> (StatusCode, String) {
        send(&self.routes.public, request).await
    }

    pub(crate) async fn get(&self, path: &str) -> (StatusCode, String) {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    /// A POST with the key.
    pub(crate) async fn post(&self, path: &str, body: impl Into<Body>) -> (StatusCode, String) {
        let request = Request::post(path).header("x-api-key", KEY);
        self.send(request.body(body.into()).unwrap()).await
    }

    /// A POST with the key, of which the answer is 200 and JSON.
    pub(crate) async fn call(&self, path: &str, body: impl Into<Body>) -> Value {
        let (status, text) = self.post(path, body).await;
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }
}

pub(crate) async fn send(router: &Router, request: Request<Body>) -> (StatusCode, String) {
    let answer = router.clone().oneshot(request).await.unwrap();
    let status = answer.status();
    let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}
