//! A connection that speaks gRPC: HTTP/2 from its first byte, so many calls at once, and a word
//! before its end, upon which clients go elsewhere without losing a call. The invariant: what one
//! holds besides bodies, which count elsewhere, is bounded by [`GrpcLimits`].

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tower::ServiceExt;

use crate::control::closing::{ANSWERS, Closing};
use crate::control::room::{GivenUp, Seat};

/// What one connection may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrpcLimits {
    /// Calls at once; a client waits with one more.
    pub calls: u32,
    /// Bytes of the metadata of a call.
    pub head: u32,
}

/// Serves a connection until its end, or until its place is given up.
pub(in crate::control) async fn serve<S>(
    stream: S,
    router: Router,
    limits: GrpcLimits,
    seat: Seat,
    closing: &Closing,
) -> Result<Option<GivenUp>, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let calls = Calls { seat: seat.clone(), number: Arc::default() };
    let service = service_fn(move |request: Request<Incoming>| {
        let (router, call) = (router.clone(), calls.begin());
        async move { call.answer(router, request).await }
    });
    let served = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.calls)
        .max_header_list_size(limits.head)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = pin!(served);
    tokio::select! {
        // First: a call that is here already may be one with a key.
        biased;
        served = &mut served => served.map(|()| None),
        why = seat.given_up() => {
            served.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(FAREWELL, served).await;
            Ok(Some(why))
        }
        () = closing.begun() => {
            served.as_mut().graceful_shutdown();
            tokio::time::timeout(ANSWERS, served).await.unwrap_or(Ok(())).map(|()| None)
        }
    }
}

/// Calls of one connection: as long as there is one, the server works for it.
#[derive(Clone)]
struct Calls {
    seat: Seat,
    number: Arc<AtomicUsize>,
}

/// One of them, until it is dropped.
struct Call(Calls, u64);

impl Calls {
    fn begin(&self) -> Call {
        self.number.fetch_add(1, Ordering::Relaxed);
        self.seat.work();
        Call(self.clone(), 0)
    }
}

impl Call {
    async fn answer(
        mut self,
        router: Router,
        mut request: Request<Incoming>,
    ) -> Result<Response<Body>, Infallible> {
        request.extensions_mut().insert(self.0.seat.clone());
        let answer = router.oneshot(request).await;
        self.1 = answer.as_ref().map_or(0, |answer| answer.body().size_hint().lower());
        answer
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.0.number.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.seat.answer(self.1, Instant::now());
        }
    }
}

/// What is received and not taken yet, of a call and of all together.
const WINDOW: u32 = 256 << 10;

/// What is written of one answer before the connection has taken it.
const SEND_BUFFER: usize = 64 << 10;

/// Whether the other end is still there.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// For the last word, and what is under way.
const FAREWELL: Duration = Duration::from_secs(1);
