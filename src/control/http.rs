//! The control plane's HTTP server: which routes there are, and the connections they are served on.
//!
//! Connections come from two sides. Those of the public port are handed over by the engine, with
//! what it had read of them; those of the internal port, if there is one, are accepted here, and
//! have places of their own. The invariant: at most as many are served at once as there are
//! places, and none is waited for without a deadline.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::HttpBody;
use axum::http::{HeaderValue, Request, StatusCode};
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tower::ServiceExt;

use super::admin::{self, AdminConfig};
use super::api::{self, ApiConfig};
use super::backend::Backend;
use super::body::refusal;
use super::closing::{ANSWERS, Closing};
use super::counts::Counts;
use super::demo::{self, Demo};
use super::grpc::{self, GrpcLimits};
use super::health::{self, HealthConfig};
use super::metrics;
use super::peer::Peer;
use super::replayed::Replayed;
use super::room::{GivenUp, Room, RoomLimits, Seat};
use super::secure::{Certificates, Secure, Wire};
use crate::tls::Parts;
use crate::{AddressPlace, Detached, Proxies, Via};

/// What is served.
#[derive(Clone, Debug, Default)]
pub struct HttpConfig {
    /// The server API.
    pub api: Option<ApiConfig>,
    /// Serve the API on the public port also where there is an internal one.
    pub api_external: bool,
    /// Health.
    pub health: Option<HealthConfig>,
    /// Path of the metrics, usually `/metrics`.
    pub metrics: Option<String>,
    /// Which names metrics have.
    pub metric_names: metrics::Names,
    /// The page for operators.
    pub admin: Option<AdminConfig>,
    /// Serve that page on the public port also where there is an internal one.
    pub admin_external: bool,
    /// The demo page, on the public port.
    pub demo: Option<Demo>,
    /// Whether there is an internal port: then API, health, metrics and admin page are there and
    /// not on the public one.
    pub internal: bool,
}

/// The routes of both ports.
#[derive(Clone, Debug)]
pub struct Routes {
    /// For connections that the engine hands over.
    pub public: Router,
    /// For the internal port.
    pub internal: Router,
    /// Of the page for operators, if there is one.
    pub past: Option<Arc<admin::Past>>,
}

/// Two things are configured to be at one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathTaken(pub String);

impl std::fmt::Display for PathTaken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "two things are configured to be at {}", self.0)
    }
}

impl std::error::Error for PathTaken {}

impl HttpConfig {
    /// The router panics at paths that are there twice, so they are looked for before.
    fn check(&self) -> Result<(), PathTaken> {
        let mut paths = Vec::new();
        if self.demo.is_some() {
            paths.extend(["/".to_owned(), "/demo".to_owned()]);
        }
        if let Some(api) = &self.api {
            paths.extend([api.prefix.clone(), format!("{}/openapi.json", api.prefix)]);
        }
        if let Some(health) = &self.health {
            paths.extend([health.health.clone(), health.ready.clone(), health.live.clone()]);
        }
        paths.extend(self.metrics.clone());
        if let Some(admin) = &self.admin {
            paths.extend(admin.paths(self.demo.is_none()));
        }
        paths.sort_unstable();
        match paths.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(twice) => Err(PathTaken(twice[0].clone())),
            None => Ok(()),
        }
    }
}

/// Makes the routes. Paths must begin with a slash, and hold no braces.
pub fn routes<B: Backend>(
    backend: &Arc<B>,
    config: &HttpConfig,
    counts: &Arc<Counts>,
) -> Result<Routes, PathTaken> {
    config.check()?;
    let api = || match &config.api {
        Some(api) => api::router(backend.clone(), api.clone(), counts.clone()),
        None => Router::new(),
    };
    let served = config
        .admin
        .as_ref()
        .map(|admin| admin::router(backend.clone(), admin, counts.clone(), config.demo.is_none()));
    let (served, past) = served.unzip();
    let admin = || served.clone().unwrap_or_default();
    let mut operation = Router::new();
    if let Some(health) = &config.health {
        operation = operation.merge(health::router(backend.clone(), health));
    }
    if let Some(path) = &config.metrics {
        operation = operation.merge(metrics::router(
            backend.clone(),
            counts.clone(),
            path,
            config.metric_names,
        ));
    }
    let mut public = Router::new();
    if let Some(demo) = &config.demo {
        public = public.merge(demo::router(demo.clone()));
    }
    if !config.internal {
        public = public.merge(operation.clone());
    }
    if !config.internal || config.api_external {
        public = public.merge(api());
    }
    if !config.internal || config.admin_external {
        public = public.merge(admin());
    }
    let internal = operation.merge(api()).merge(admin());
    Ok(Routes { public: closed(public), internal: closed(internal), past })
}

/// Answers in JSON what no route answers.
fn closed(router: Router) -> Router {
    router
        .fallback(async || refusal(StatusCode::NOT_FOUND))
        .method_not_allowed_fallback(async || refusal(StatusCode::METHOD_NOT_ALLOWED))
}

/// Limits of HTTP connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpLimits {
    /// Served at once to clients that have shown a key or a session; one more ends one of them
    /// that waits, or is answered with 503. Default 1024.
    pub connections: usize,
    /// Served at once to all others; one more ends one of them that waits, or is answered with 503.
    /// Default 256.
    pub anonymous: usize,
    /// From the first moment, or an answer, to the end of the next request's head; then the
    /// connection is closed. An answer has a second more for every 64 KiB. Default 30 s.
    pub head_timeout: Duration,
    /// The same for clients that have shown neither key nor session. Default 5 s.
    pub anonymous_timeout: Duration,
    /// The peer must take a byte of what waits for it in this time. Default 30 s.
    pub write_timeout: Duration,
    /// Bytes of a request's head; more is answered with 431. Default 16 KiB.
    pub head_max: usize,
    /// Serve one request after the other on a connection. Default true.
    pub keep_alive: bool,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            connections: 1024,
            anonymous: 256,
            head_timeout: Duration::from_secs(30),
            anonymous_timeout: Duration::from_secs(5),
            write_timeout: Duration::from_secs(30),
            head_max: 16 << 10,
            keep_alive: true,
        }
    }
}

impl HttpLimits {
    /// Of the internal port, which only operators and backends reach.
    #[must_use]
    pub fn internal(self) -> Self {
        Self { keep_alive: true, connections: 256, anonymous: 64, ..self }
    }

    fn room(&self) -> Room {
        Room::new(RoomLimits {
            strangers: self.anonymous,
            known: self.connections,
            patience: self.anonymous_timeout,
            known_patience: self.head_timeout,
        })
    }
}

/// Serves a router on connections. Cloning is cheap; clones share the places.
#[derive(Clone, Debug)]
pub struct HttpServer {
    router: Router,
    limits: HttpLimits,
    room: Room,
    counts: Arc<Counts>,
    proxies: Arc<Proxies>,
    /// Connections speak gRPC, and this is what one may hold.
    grpc: Option<GrpcLimits>,
    closing: Closing,
    /// The engine's threads, which are offered each connection before anything of it is read.
    cores: Option<Cores>,
}

/// Offers connections that were just accepted to the engine's threads. One that they do not take
/// is given back.
#[derive(Clone)]
pub struct Cores(Arc<dyn Fn(TcpStream, SocketAddr) -> Option<TcpStream> + Send + Sync>);

impl Cores {
    /// Offers by this: it must not wait.
    pub fn new(
        offer: impl Fn(TcpStream, SocketAddr) -> Option<TcpStream> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(offer))
    }
}

impl std::fmt::Debug for Cores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cores(..)")
    }
}

impl HttpServer {
    /// A server for a router, with no proxies in front.
    pub fn new(router: Router, limits: HttpLimits, counts: Arc<Counts>) -> Self {
        let (room, proxies) = (limits.room(), Arc::default());
        let closing = Closing::default();
        Self { router, room, limits, counts, proxies, grpc: None, closing, cores: None }
    }

    /// Behind these proxies: what they say about a request's client is believed.
    pub fn behind(self, proxies: Proxies) -> Self {
        Self { proxies: Arc::new(proxies), ..self }
    }

    /// Takes nothing new when this begins.
    pub fn until(self, closing: Closing) -> Self {
        Self { closing, ..self }
    }

    /// One for the internal port, with places of its own.
    pub fn internal(&self, router: Router) -> Self {
        let limits = self.limits.internal();
        Self { router, room: limits.room(), limits, ..self.clone() }
    }

    /// Offers what it accepts in the clear to the engine's threads first.
    pub fn offering(self, cores: Cores) -> Self {
        Self { cores: Some(cores), ..self }
    }

    /// One for gRPC, with places of its own.
    pub(super) fn grpc(&self, router: Router, limits: HttpLimits, each: GrpcLimits) -> Self {
        Self { router, room: limits.room(), limits, grpc: Some(each), ..self.clone() }
    }

    /// Serves a connection of which `head` was read already, in a task of its own. Within a
    /// runtime.
    pub fn serve_connection(
        &self,
        stream: TcpStream,
        head: Bytes,
        via: Via,
        counted: AddressPlace,
    ) {
        self.serve(Detached {
            socket: stream.into(),
            received: head,
            via,
            place: counted,
            tls: None,
        });
    }

    /// The same of one that comes from the engine.
    pub fn serve(&self, passed: Detached) {
        let Detached { socket, received, via, place, tls } = passed;
        let stream = TcpStream::from(socket);
        let Some(seat) = self.seat(via.peer) else { return refuse(stream, tls) };
        match asynchronous(stream) {
            Ok(stream) => {
                let wire = match tls {
                    Some(parts) => Wire::Secure(Box::new(Secure::handed_over(stream, *parts))),
                    None => Wire::Plain(stream),
                };
                tokio::spawn(self.clone().run(wire, received, via, (seat, place)));
            }
            Err(error) => self.failed(via.peer, &error),
        }
    }

    /// Serves a connection that was just accepted where TLS is spoken.
    fn serve_secure(&self, stream: TcpStream, certificates: &Certificates, via: Via) {
        let Some(seat) = self.seat(via.peer) else {
            // Before the handshake no answer can be sealed.
            return;
        };
        match asynchronous(stream) {
            Ok(stream) => {
                let secure = Secure::accepted(stream, certificates.clone());
                let wire = Wire::Secure(Box::new(secure));
                let run = self.clone().run(wire, Bytes::new(), via, (seat, Default::default()));
                tokio::spawn(run);
            }
            Err(error) => self.failed(via.peer, &error),
        }
    }

    /// Serves what comes in on a listener, until the end of the runtime or of the server. A PROXY
    /// header is not known here; `X-Forwarded-For` is.
    pub async fn accept(self, listener: std::net::TcpListener) -> io::Result<()> {
        self.accept_all(listener, None).await
    }

    /// The same where clients speak TLS.
    pub async fn accept_secure(
        self,
        listener: std::net::TcpListener,
        certificates: Certificates,
    ) -> io::Result<()> {
        self.accept_all(listener, Some(certificates)).await
    }

    async fn accept_all(
        self,
        listener: std::net::TcpListener,
        certificates: Option<Certificates>,
    ) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.closing.begun() => return Ok(()),
            };
            match accepted {
                Ok((stream, peer)) => match stream.into_std() {
                    Ok(stream) => {
                        let via = self.proxies.via(peer);
                        match &certificates {
                            Some(certificates) => self.serve_secure(stream, certificates, via),
                            None => {
                                let left = match &self.cores {
                                    Some(Cores(offer)) => offer(stream, peer),
                                    None => Some(stream),
                                };
                                let Some(stream) = left else { continue };
                                let place = AddressPlace::default();
                                self.serve_connection(stream, Bytes::new(), via, place);
                            }
                        }
                    }
                    Err(error) => self.failed(peer, &error),
                },
                Err(error) => {
                    self.counts.http_failed.count();
                    tracing::warn!(%error, "accepting a connection failed");
                    // Out of descriptors: the connection stays in the queue, and trying again at
                    // once would spin.
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Serves what the engine hands over, until all its senders are gone.
    pub async fn serve_handed_over(self, mut queue: HandedOver) {
        while let Some(passed) = queue.connections.recv().await {
            self.serve(passed);
        }
    }

    /// A place among the connections that are served at once.
    fn seat(&self, peer: SocketAddr) -> Option<Seat> {
        self.counts.http_accepted.count();
        let seat = self.room.enter(peer.ip(), Instant::now());
        if seat.is_none() {
            self.counts.http_refused.count();
        }
        seat
    }

    async fn run(
        self,
        stream: Wire<tokio::net::TcpStream>,
        head: Bytes,
        via: Via,
        (seat, _counted): (Seat, AddressPlace),
    ) {
        let _inside = self.counts.http_connections.enter();
        let stream = Replayed::new(head, stream, self.limits.write_timeout);
        if let Some(limits) = self.grpc {
            match grpc::serve(stream, self.router, limits, seat, &self.closing).await {
                Ok(None) => {}
                Ok(Some(why)) => ended(&self.counts, why),
                Err(error) => {
                    self.counts.http_failed.count();
                    tracing::debug!(peer = %via.peer, %error, "a gRPC connection failed");
                }
            }
            return;
        }
        let (router, proxies) = (self.router.clone(), self.proxies.clone());
        let at = seat.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            let lines = request.headers().get_all(FORWARDED_FOR).into_iter();
            let client = proxies.client(via, lines.map(HeaderValue::as_bytes));
            request.extensions_mut().insert(Peer(client));
            request.extensions_mut().insert(at.clone());
            let (router, seat) = (router.clone(), at.clone());
            async move {
                seat.work();
                let answer = router.oneshot(request).await;
                let bytes = answer.as_ref().map_or(0, |answer| answer.body().size_hint().lower());
                seat.answer(bytes, Instant::now());
                answer
            }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .keep_alive(self.limits.keep_alive)
            .header_read_timeout(self.limits.head_timeout)
            .max_header_size(self.limits.head_max)
            .max_buf_size(self.limits.head_max.max(BUFFER_MIN))
            .serve_connection(TokioIo::new(stream), service);
        let mut served = pin!(served);
        let outcome = tokio::select! {
            // First: a request that is here already may be one with a key.
            biased;
            served = &mut served => served,
            why = seat.given_up() => return ended(&self.counts, why),
            () = self.closing.begun() => {
                served.as_mut().graceful_shutdown();
                tokio::time::timeout(ANSWERS, served).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = outcome {
            self.failed(via.peer, &error);
        }
    }

    fn failed(&self, peer: SocketAddr, error: &dyn std::fmt::Display) {
        self.counts.http_failed.count();
        tracing::debug!(%peer, %error, "an HTTP connection failed");
    }
}

/// A connection gave its place up.
fn ended(counts: &Counts, why: GivenUp) {
    match why {
        GivenUp::Evicted => counts.http_evicted.count(),
        GivenUp::Late => counts.http_late.count(),
    }
}

/// Tells a peer that there is no room. The send buffer of a connection that nothing was written to
/// takes it whole.
fn refuse(mut stream: TcpStream, tls: Option<Box<Parts>>) {
    let _ = stream.set_nonblocking(true);
    // Closing with bytes unread would take the answer back.
    let _ = stream.read(&mut [0; 4096]);
    let _ = match tls {
        Some(tls) => stream.write(&tls.last_words(NO_ROOM)),
        None => stream.write(NO_ROOM),
    };
}

fn asynchronous(stream: TcpStream) -> io::Result<tokio::net::TcpStream> {
    stream.set_nonblocking(true)?;
    // Answers leave at once.
    stream.set_nodelay(true)?;
    tokio::net::TcpStream::from_std(stream)
}

/// A way to [`HttpServer`] for engine threads: it never waits.
#[derive(Clone, Debug)]
pub struct HandOver {
    connections: mpsc::Sender<Detached>,
}

/// The other end of [`HandOver`], for the control thread.
#[derive(Debug)]
pub struct HandedOver {
    connections: mpsc::Receiver<Detached>,
}

/// A queue of at most `capacity` connections between engine threads and the control thread.
pub fn hand_over(capacity: usize) -> (HandOver, HandedOver) {
    let (sender, connections) = mpsc::channel(capacity.max(1));
    (HandOver { connections: sender }, HandedOver { connections })
}

impl HandOver {
    /// Hands over a connection. The error gives it back: the queue is full, or the control plane
    /// has ended. 503 is the answer then.
    pub fn serve(&self, passed: Detached) -> Result<(), Detached> {
        self.connections.try_send(passed).map_err(mpsc::error::TrySendError::into_inner)
    }
}

/// The answer to a connection that there is no room for.
const NO_ROOM: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\
    Retry-After: 5\r\nContent-Type: application/json\r\nContent-Length: 46\r\n\r\n\
    {\"status\":503,\"message\":\"service unavailable\"}";

/// In small letters, as the map of headers has its names.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// How long accepting pauses after it failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The least that hyper takes for a buffer.
const BUFFER_MIN: usize = 8192;

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
