//! Paths and places: which there are, and what becomes of connections that get none.

use std::net::TcpListener;

use axum::body::Body;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use super::*;
use crate::control::consumers::fake::Fake;

#[test]
fn a_path_is_for_one_thing() {
    let with = |metrics: &str| HttpConfig {
        health: Some(HealthConfig::default()),
        metrics: Some(metrics.to_owned()),
        ..HttpConfig::default()
    };
    assert_eq!(with("/metrics").check(), Ok(()));
    let taken = with("/ready").check().unwrap_err();
    assert_eq!(taken.to_string(), "two things are configured to be at /ready");
}

#[test]
fn the_internal_port_has_places_of_its_own() {
    let public = HttpLimits { keep_alive: false, head_max: 77, ..HttpLimits::default() };
    let internal = HttpLimits { keep_alive: true, connections: 256, anonymous: 64, ..public };
    assert_eq!(public.internal(), internal);
}

/// Whether there is something at a path.
async fn has(router: &Router, path: &str) -> bool {
    let request = Request::get(path).body(Body::empty()).unwrap();
    router.clone().oneshot(request).await.unwrap().status() != StatusCode::NOT_FOUND
}

#[tokio::test]
async fn each_port_has_what_it_is_for() {
    let backend = Arc::new(Fake::default());
    for case in 0..8 {
        let [internal, api_external, admin_external] = [1, 2, 4].map(|bit| case & bit != 0);
        let config = HttpConfig {
            api: Some(ApiConfig::default()),
            health: Some(HealthConfig::default()),
            metrics: Some("/metrics".to_owned()),
            admin: Some(AdminConfig::default()),
            internal,
            api_external,
            admin_external,
            ..HttpConfig::default()
        };
        let routes = routes(&backend, &config, &Arc::default()).unwrap();
        for (path, public) in [
            ("/health", !internal),
            ("/metrics", !internal),
            ("/api/info", !internal || api_external),
            ("/admin/init", !internal || admin_external),
        ] {
            assert_eq!(has(&routes.public, path).await, public, "{path} {case}");
            assert!(has(&routes.internal, path).await, "{path} {case}");
            assert!(!has(&routes.internal, "/nothing").await);
        }
    }
}

/// What answers at one path.
fn at(path: &'static str) -> Router {
    Router::new().route(path, get(async || "ok"))
}

#[tokio::test]
async fn servers_have_routes_and_places_of_their_own_and_the_rest_in_common() {
    let few = HttpLimits { anonymous: 1, head_max: 77, ..HttpLimits::default() };
    let proxies = Proxies {
        trusted: vec!["10.0.0.0/8".parse().unwrap()],
        forwarded_for: true,
        ..Proxies::default()
    };
    let public = HttpServer::new(at("/public"), few, Arc::default()).behind(proxies);
    let peer = "10.0.0.1:1".parse().unwrap();
    assert!(public.proxies.via(peer).forwards);
    let each = GrpcLimits { calls: 3, head: 9 };
    let limits = HttpLimits { anonymous: 2, ..HttpLimits::default() };
    let (internal, grpc) =
        (public.internal(at("/internal")), public.grpc(at("/grpc"), limits, each));
    assert!(public.grpc.is_none() && internal.grpc.is_none());
    assert!(grpc.grpc.is_some_and(|own| (own.calls, own.head) == (3, 9)));
    for (server, own, limits, places) in [
        (&public, "/public", few, 1),
        (&internal, "/internal", few.internal(), 64),
        (&grpc, "/grpc", limits, 2),
    ] {
        for path in ["/public", "/internal", "/grpc"] {
            assert_eq!(has(&server.router, path).await, path == own);
        }
        assert_eq!(server.limits, limits);
        assert!(server.proxies.via(peer).forwards);
        let seat = || server.seat(peer).inspect(Seat::work);
        let seats: Vec<Seat> = std::iter::from_fn(seat).take(100).collect();
        assert_eq!(seats.len(), places, "{own}");
    }
}

/// Serves what comes by a connection; the client's end of it.
async fn serve(server: &HttpServer) -> tokio::net::TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, peer) = listener.accept().unwrap();
    let via = Via { peer, forwards: false };
    server.serve_connection(stream, Bytes::new(), via, AddressPlace::default());
    client
}

/// All that a server says to the end.
async fn heard(mut client: tokio::net::TcpStream) -> String {
    let mut all = String::new();
    client.read_to_string(&mut all).await.unwrap();
    all
}

/// Far longer than any test takes, so that only those that mean it run into it.
const PATIENCE: Duration = Duration::from_secs(600);

async fn until(holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < end, "it does not come");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn who_gets_no_place_is_told_so() {
    let (entered, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (at, on) = (entered.clone(), go.clone());
    let slow = async move || {
        at.notify_one();
        on.notified().await;
        "done"
    };
    let limits = HttpLimits {
        anonymous: 1,
        anonymous_timeout: PATIENCE,
        keep_alive: false,
        ..HttpLimits::default()
    };
    let router = Router::new().route("/", get(slow));
    let server = HttpServer::new(router, limits, Arc::default());
    let mut first = serve(&server).await;
    first.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    entered.notified().await;
    let second = heard(serve(&server).await).await;
    assert_eq!(second.as_bytes(), NO_ROOM);
    assert_eq!(server.counts.http_refused.get(), 1);
    go.notify_one();
    assert!(heard(first).await.ends_with("done"));
    // Who waits gives its place to the next.
    let waits = serve(&server).await;
    let next = serve(&server).await;
    assert_eq!(heard(waits).await, "");
    until(|| server.counts.http_evicted.get() == 1).await;
    drop(next);
}

#[tokio::test]
async fn who_says_nothing_for_too_long_or_nonsense_is_counted() {
    let limits = HttpLimits { anonymous_timeout: Duration::ZERO, ..HttpLimits::default() };
    let server = HttpServer::new(Router::new(), limits, Arc::default());
    assert_eq!(heard(serve(&server).await).await, "");
    until(|| server.counts.http_late.get() == 1).await;
    let limits = HttpLimits { anonymous_timeout: PATIENCE, ..HttpLimits::default() };
    let server = HttpServer::new(Router::new(), limits, Arc::default());
    let mut client = serve(&server).await;
    client.write_all(b"nonsense\r\n\r\n").await.unwrap();
    assert!(heard(client).await.starts_with("HTTP/1.1 400 "));
    until(|| server.counts.http_failed.get() == 1).await;
}

#[tokio::test]
async fn nothing_new_is_taken_once_the_end_has_begun() {
    let closing = Closing::default();
    let server = HttpServer::new(Router::new(), HttpLimits::default(), Arc::default());
    let server = server.until(closing.clone());
    let waits = serve(&server).await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let accepting = tokio::spawn(server.accept(listener));
    closing.begin();
    accepting.await.unwrap().unwrap();
    assert_eq!(heard(waits).await, "");
}
