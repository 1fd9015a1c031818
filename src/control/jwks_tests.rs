//! Against an endpoint that changes its keys, fails, or says too much.

use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::response::IntoResponse;

use super::*;
use crate::control::http::{HttpLimits, HttpServer};

/// Of an endpoint that a fetcher may take its time to ask.
fn patient() -> HttpLimits {
    HttpLimits { anonymous_timeout: Duration::from_secs(600), ..HttpLimits::default() }
}

/// An endpoint whose answer depends on how often it was called.
async fn serve(
    answer: impl Fn(usize) -> (StatusCode, String) + Clone + Send + Sync + 'static,
) -> (String, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let router = Router::new()
        .fallback(async move || answer(counted.fetch_add(1, Ordering::Relaxed)).into_response());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(HttpServer::new(router, patient(), Arc::default()).accept(listener));
    let url = format!("http://{address}/keys");
    (url, calls)
}

fn fetcher(url: String, interval: Duration) -> (Jwks<String>, JwksView<String>, Arc<Counts>) {
    let counts = Arc::new(Counts::default());
    let config = JwksConfig { url, interval, bytes_max: 100, ..JwksConfig::default() };
    let parse = |body: &[u8]| match std::str::from_utf8(body) {
        Ok(text) if text.starts_with("keys") => Ok(text.to_owned()),
        _ => Err("no keys".to_owned()),
    };
    let (jwks, view) = Jwks::new(config, parse, counts.clone()).unwrap();
    (jwks, view, counts)
}

#[tokio::test]
async fn a_set_is_fetched_at_once_and_again_when_asked() {
    let (url, calls) = serve(|call| (StatusCode::OK, format!("keys {call}"))).await;
    let (jwks, mut view, _) = fetcher(url, Duration::from_millis(1));
    assert_eq!(view.current(), None);
    let running = tokio::spawn(jwks.run());
    assert!(view.changed().await);
    assert_eq!(view.current().unwrap().as_str(), "keys 0");
    view.ask();
    assert!(view.changed().await);
    assert_eq!(view.current().unwrap().as_str(), "keys 1");
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    drop(view);
    running.await.unwrap();
}

#[tokio::test]
async fn a_redirection_is_a_failure() {
    let (elsewhere, calls) = serve(|_| (StatusCode::OK, "keys of somebody".to_owned())).await;
    for status in [301, 302, 303, 307, 308] {
        let to = [("location", elsewhere.clone())];
        let status = StatusCode::from_u16(status).unwrap();
        let router = Router::new().fallback(async move || (status, to).into_response());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let server = HttpServer::new(router, patient(), Arc::default());
        tokio::spawn(server.accept(listener));
        let (jwks, view, _) = fetcher(url, Duration::from_secs(3600));
        let failure = jwks.fetch().await.unwrap_err();
        assert_eq!(failure, format!("status {}", status.as_u16()));
        assert_eq!(view.current(), None);
    }
    assert_eq!(calls.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn however_often_it_is_asked_it_calls_once_per_interval() {
    let (url, calls) = serve(|call| (StatusCode::OK, format!("keys {call}"))).await;
    let (jwks, mut view, _) = fetcher(url, Duration::from_secs(3600));
    let running = tokio::spawn(jwks.run());
    assert!(view.changed().await);
    for _ in 0..1000 {
        view.ask();
        tokio::task::yield_now().await;
    }
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    drop(view);
    running.await.unwrap();
}

#[tokio::test]
async fn the_last_good_set_stays_while_the_endpoint_fails() {
    let (url, _) = serve(|call| match call {
        0 => (StatusCode::OK, "keys old".to_owned()),
        1 => (StatusCode::BAD_GATEWAY, "keys of nobody".to_owned()),
        2 => (StatusCode::OK, "nothing".to_owned()),
        3 => (StatusCode::OK, format!("keys {:096}", 0)),
        // As long as it may be.
        _ => (StatusCode::OK, format!("keys {:095}", 1)),
    })
    .await;
    let (jwks, mut view, counts) = fetcher(url, Duration::from_millis(1));
    tokio::spawn(jwks.run());
    assert!(view.changed().await);
    assert_eq!(view.current().unwrap().as_str(), "keys old");
    view.ask();
    // Failures do not touch the set, and are tried again without being asked.
    assert!(view.changed().await);
    assert_eq!(view.current().unwrap().as_str(), format!("keys {:095}", 1));
    assert_eq!((counts.jwks_fetched.get(), counts.jwks_failed.get()), (2, 3));
}
