//! Whether the server lives, and whether it should be sent clients.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;

use super::backend::Backend;
use super::body::json;

/// Where health is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthConfig {
    /// Answers 200, or 503 while the broker is away. Default `/health`.
    pub health: String,
    /// Answers 200, or 503 while the server goes away, too. Default `/ready`.
    pub ready: String,
    /// Answers 200 as long as the control plane runs: who gets no answer here may start the server
    /// again, which would not bring a broker back. Default `/live`.
    pub live: String,
}

impl Default for HealthConfig {
    fn default() -> Self {
        let [health, ready, live] = ["/health", "/ready", "/live"].map(str::to_owned);
        Self { health, ready, live }
    }
}

/// The routes of health.
pub fn router<B: Backend>(backend: Arc<B>, config: &HealthConfig) -> Router {
    Router::new()
        .route(&config.health, get(health::<B>))
        .route(&config.ready, get(ready::<B>))
        .route(&config.live, get(async || json(StatusCode::OK, "{}")))
        .with_state(backend)
}

async fn health<B: Backend>(State(backend): State<Arc<B>>) -> Response {
    match backend.broken() {
        Some(why) => unavailable(&serde_json::json!({"broker": why})),
        None => json(StatusCode::OK, "{}"),
    }
}

async fn ready<B: Backend>(State(backend): State<Arc<B>>) -> Response {
    if backend.draining() {
        return unavailable(&serde_json::json!({"draining": true}));
    }
    health(State(backend)).await
}

fn unavailable(why: &serde_json::Value) -> Response {
    json(StatusCode::SERVICE_UNAVAILABLE, why.to_string())
}
