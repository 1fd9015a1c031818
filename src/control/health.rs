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
    /// Answers 200 as long as the control plane runs. Default `/health`.
    pub live: String,
    /// Answers 200, or 503 while the server goes away. Default `/ready`.
    pub ready: String,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self { live: "/health".to_owned(), ready: "/ready".to_owned() }
    }
}

/// The routes of health.
pub fn router<B: Backend>(backend: Arc<B>, config: &HealthConfig) -> Router {
    Router::new()
        .route(&config.live, get(async || json(StatusCode::OK, "{}")))
        .route(&config.ready, get(ready::<B>))
        .with_state(backend)
}

async fn ready<B: Backend>(State(backend): State<Arc<B>>) -> Response {
    if backend.draining() {
        json(StatusCode::SERVICE_UNAVAILABLE, "{\"draining\":true}")
    } else {
        json(StatusCode::OK, "{}")
    }
}
