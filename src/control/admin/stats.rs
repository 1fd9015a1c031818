//! The figures of the admin page: one snapshot, the same that `/metrics` is made from, and who
//! does not read.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;

use super::operator::Operator;
use super::search::Who;
use super::written;
use crate::control::backend::{Backend, SlowReport};
use crate::control::body::refusal;
use crate::control::metrics::{Helps, SNAPSHOT_TIMEOUT, Values};
use crate::engine::Cause;

#[derive(Serialize)]
struct Stats<'a> {
    /// Unix time in milliseconds of the snapshot.
    time: u64,
    /// Seconds since the server began.
    uptime: u64,
    version: &'static str,
    draining: bool,
    /// All metrics, as `metrics::json` writes them.
    metrics: Values,
    slow: Slow<'a>,
}

#[derive(Serialize)]
struct Slow<'a> {
    total: usize,
    now: Vec<Now<'a>>,
    ended: Vec<Ended<'a>>,
}

#[derive(Serialize)]
struct Now<'a> {
    peer: String,
    queued: usize,
    stalled_ms: u64,
    #[serde(flatten)]
    who: Option<Who<'a>>,
}

#[derive(Serialize)]
struct Ended<'a> {
    /// Unix time in seconds.
    at: i64,
    cause: &'static str,
    #[serde(flatten)]
    who: Who<'a>,
}

pub(super) async fn stats<B: Backend>(Operator(inside): Operator<B>) -> Response {
    let figures = async {
        let snapshot = inside.backend.snapshot().await;
        (snapshot, inside.backend.slow(SLOW_SHOWN).await)
    };
    let Ok((snapshot, slow)) = tokio::time::timeout(SNAPSHOT_TIMEOUT, figures).await else {
        return refusal(StatusCode::SERVICE_UNAVAILABLE);
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    written(&Stats {
        time: now.as_millis() as u64,
        uptime: inside.started.elapsed().as_secs(),
        version: env!("CARGO_PKG_VERSION"),
        draining: inside.backend.draining(),
        metrics: Values::new(&snapshot, &inside.counts),
        slow: told(&slow),
    })
}

/// What each metric means.
pub(super) async fn help<B: Backend>(_: Operator<B>) -> Response {
    written(&Helps::new())
}

/// `GET` of all readings.
pub(super) async fn past<B: Backend>(Operator(inside): Operator<B>) -> Response {
    written(&inside.past.told())
}

fn told(report: &SlowReport) -> Slow<'_> {
    let now = report.now.iter().map(|slow| Now {
        peer: slow.peer.to_string(),
        queued: slow.queued,
        stalled_ms: slow.stalled.as_millis() as u64,
        who: slow.who.as_ref().map(Who::new),
    });
    let ended = report.ended.iter().map(|end| Ended {
        at: end.at,
        cause: match end.cause {
            Cause::WriteTimeout => "write_timeout",
            Cause::Trickle => "trickle",
            Cause::OutboxFull => "outbox_full",
            _ => "slow",
        },
        who: Who::new(&end.connection),
    });
    Slow { total: report.total, now: now.collect(), ended: ended.collect() }
}

/// More than a person reads.
const SLOW_SHOWN: usize = 50;
