//! Against a backend that answers, refuses, stalls, or is not there.

use std::sync::Mutex;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::*;
use crate::control::http::{HttpLimits, HttpServer};
use crate::gateway::format::Transport;
use crate::gateway::proxy::{Caller, HookEvent, RefreshReply, RpcReply};
use crate::gateway::wire::Encoding;

/// Serves a router on a free port and returns its address.
async fn serve(router: Router) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(HttpServer::new(router, HttpLimits::default(), Arc::default()).accept(listener));
    format!("http://{address}")
}

fn config(endpoint: String) -> HookConfig {
    // Far longer than any test takes, so that only those that mean it run into it.
    HookConfig { endpoint, timeout: Duration::from_secs(120), ..HookConfig::default() }
}

fn hooks(kind: HookKind, config: HookConfig) -> Hooks {
    Hooks::new([(kind, "default".to_owned(), config)], Arc::default()).unwrap()
}

fn question(event: HookEvent, headers: ClientHeaders) -> HookRequest {
    let caller = Caller {
        transport: Transport::WebSocket,
        client: "c".to_owned(),
        user: "u".to_owned(),
        encoding: Encoding::Json,
        meta: bytes::Bytes::new(),
        headers: Arc::new(headers),
    };
    HookRequest { proxy: "default".into(), caller, event }
}

fn rpc(data: &'static str) -> HookRequest {
    let event =
        HookEvent::Rpc { method: "m".to_owned(), data: Bytes::from_static(data.as_bytes()) };
    question(event, ClientHeaders::default())
}

fn internal() -> HookResult {
    Err(HookRefusal::Error(Error::INTERNAL))
}

fn failures(hooks: &Hooks, kind: HookKind, why: HookFailure) -> u64 {
    hooks.counts.maps().hook_failures.get(&(kind, why)).copied().unwrap_or_default()
}

#[tokio::test]
async fn the_backend_sees_the_question_and_its_answer_comes_back() {
    let seen = Arc::new(Mutex::new(None));
    let keep = seen.clone();
    let answer = post(async move |headers: HeaderMap, body: Bytes| {
        let body: Value = serde_json::from_slice(&body).unwrap();
        *keep.lock().unwrap() = Some((headers, body));
        axum::Json(json!({"result": {"data": [1]}}))
    });
    let url = serve(Router::new().route("/rpc", answer)).await;
    let hooks = hooks(
        HookKind::Rpc,
        HookConfig {
            http_headers: vec!["Cookie".to_owned(), "X-Id".to_owned()],
            emulated_headers: vec!["authorization".to_owned(), "x-id".to_owned()],
            static_headers: [
                ("x-id".to_owned(), "static".to_owned()),
                ("x-key".to_owned(), "k".to_owned()),
            ]
            .into(),
            ..config(format!("{url}/rpc"))
        },
    );
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let headers = ClientHeaders {
        transport: vec![pair("cookie", "a=b"), pair("x-secret", "s"), pair("X-ID", "real")],
        emulated: vec![
            pair("Authorization", "Bearer t"),
            pair("x-id", "claimed"),
            pair("cookie", "forged=1"),
            pair("authorization", "broken\r\nx-evil: 1"),
        ],
    };
    let event = HookEvent::Rpc { method: "m".to_owned(), data: Bytes::from_static(b"{}") };
    let data = Bytes::from_static(b"[1]");
    assert_eq!(hooks.call(question(event, headers)).await, Ok(HookReply::Rpc(RpcReply { data })));
    let (headers, body) = seen.lock().unwrap().take().unwrap();
    assert_eq!(
        (&body["method"], &body["data"], &body["user"]),
        (&json!("m"), &json!({}), &json!("u"))
    );
    let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(header("content-type").as_deref(), Some("application/json"));
    assert_eq!(header("cookie").as_deref(), Some("a=b"));
    assert_eq!(header("authorization").as_deref(), Some("Bearer t"));
    // What the transport says beats what the client claims, which beats what is static.
    assert_eq!(header("x-id").as_deref(), Some("real"));
    assert_eq!(header("x-key").as_deref(), Some("k"));
    assert_eq!((header("x-secret"), header("x-evil")), (None, None));
}

#[tokio::test]
async fn bad_answers_are_temporary_errors_and_counted() {
    let answers: [(HookFailure, fn() -> Response); 5] = [
        (HookFailure::Status, || StatusCode::INTERNAL_SERVER_ERROR.into_response()),
        (HookFailure::Status, || StatusCode::NO_CONTENT.into_response()),
        (HookFailure::Status, || axum::response::Redirect::temporary("/elsewhere").into_response()),
        (HookFailure::BadReply, || "<html>".into_response()),
        (HookFailure::BadReply, || " ".repeat(2000).into_response()),
    ];
    for (why, answer) in answers {
        let router = Router::new().fallback(async move || answer());
        let config = HookConfig { reply_max: 1000, ..config(serve(router).await) };
        let hooks = hooks(HookKind::Rpc, config);
        assert_eq!(hooks.call(rpc("1")).await, internal());
        assert_eq!(failures(&hooks, HookKind::Rpc, why), 1, "{why:?}");
    }
}

#[tokio::test]
async fn a_backend_that_is_down_is_an_error_but_keeps_connections() {
    // Bound and closed again, so nothing listens there.
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let down = hooks(HookKind::Rpc, config(format!("http://{unused}/")));
    assert_eq!(down.call(rpc("1")).await, internal());
    assert_eq!(failures(&down, HookKind::Rpc, HookFailure::Unreachable), 1);

    let down = hooks(HookKind::Refresh, config(format!("http://{unused}/")));
    let before = unix_seconds();
    let reply = down.call(question(HookEvent::Refresh, ClientHeaders::default())).await;
    let Ok(HookReply::Refresh(RefreshReply { expired: false, expire_at, .. })) = reply else {
        panic!("{reply:?}")
    };
    assert!((before + 60..=unix_seconds() + 60).contains(&expire_at));
}

#[tokio::test]
async fn a_backend_that_stalls_is_given_up() {
    let never = Router::new().fallback(async || std::future::pending::<()>().await);
    let endless = Router::new().fallback(async || {
        Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>())
    });
    for router in [never, endless] {
        let timeout = Duration::from_millis(50);
        let hooks = hooks(HookKind::Rpc, HookConfig { timeout, ..config(serve(router).await) });
        assert_eq!(hooks.call(rpc("1")).await, internal());
        assert_eq!(failures(&hooks, HookKind::Rpc, HookFailure::Timeout), 1);
    }
}

#[tokio::test]
async fn beyond_the_queue_calls_fail_at_once_and_the_others_get_through() {
    let release = Arc::new(Notify::new());
    let wait = release.clone();
    let router = Router::new().fallback(async move |_: Request| {
        wait.notified().await;
        axum::Json(json!({"result": {}}))
    });
    let config = HookConfig { concurrency: 1, queue: 2, ..config(serve(router).await) };
    let hooks = Arc::new(hooks(HookKind::Rpc, config));
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let hooks = hooks.clone();
            tokio::spawn(async move { hooks.call(rpc("1")).await })
        })
        .collect();
    let target = &hooks.targets[&(HookKind::Rpc, "default".to_owned())];
    while target.waiting.load(Ordering::Relaxed) < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(hooks.call(rpc("1")).await, internal());
    assert_eq!(failures(&hooks, HookKind::Rpc, HookFailure::Overloaded), 1);
    for call in calls {
        release.notify_one();
        assert_eq!(call.await.unwrap(), Ok(HookReply::Rpc(RpcReply::default())));
    }
    assert_eq!(target.waiting.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused() {
    let hooks = hooks(HookKind::Rpc, config("http://127.0.0.1:1/".to_owned()));
    let refused = hooks.call(rpc("no JSON")).await;
    assert_eq!(refused, Err(HookRefusal::Error(Error::BAD_REQUEST)));
    let mut other = rpc("1");
    other.proxy = "other".into();
    assert_eq!(hooks.call(other).await, Err(HookRefusal::Error(Error::NOT_AVAILABLE)));
}

#[test]
fn configurations_that_cannot_work_are_errors() {
    let make = |config: HookConfig| {
        let targets = [(HookKind::Connect, "default".to_owned(), config)];
        Hooks::new(targets, Arc::default()).unwrap_err().to_string()
    };
    for url in ["", "localhost:3000", "grpc://localhost", "/path"] {
        assert!(make(config(url.to_owned())).contains("endpoint"), "{url}");
    }
    for name in ["", "a b", "Host", "content-length", "Upgrade"] {
        let http_headers = vec![name.to_owned()];
        let config = HookConfig { http_headers, ..config("http://localhost".to_owned()) };
        assert!(make(config).contains("header"), "{name}");
    }
    let static_headers = [("a".to_owned(), "x\ny".to_owned())].into();
    assert!(make(HookConfig { static_headers, ..config("http://l".to_owned()) }).contains("\"a\""));
}

#[tokio::test]
async fn engine_threads_hand_questions_over_without_waiting() {
    let router = Router::new().fallback(async || axum::Json(json!({"result": {}})));
    let hooks = Arc::new(hooks(HookKind::Rpc, config(serve(router).await)));
    let (sender, queue) = hook_queue(2, hooks.counts.clone());
    // Nobody takes them yet: the third finds the queue full and comes back.
    let engine = std::thread::spawn(move || {
        sender.try_call(rpc("1"), 1).unwrap();
        sender.try_call(rpc("2"), 2).unwrap();
        let (_, ticket) = *sender.try_call(rpc("3"), 3).unwrap_err();
        ticket
    });
    assert_eq!(engine.join().unwrap(), 3);
    assert_eq!(hooks.counts.hooks_queue_full.get(), 1);
    let (outcomes, mut found) = mpsc::unbounded_channel();
    let run = queue.run(hooks, move |ticket, outcome| {
        outcomes.send((ticket, outcome)).unwrap();
    });
    run.await;
    let mut tickets = Vec::new();
    while let Some((ticket, outcome)) = found.recv().await {
        assert_eq!(outcome, Ok(HookReply::Rpc(RpcReply::default())));
        tickets.push(ticket);
    }
    tickets.sort_unstable();
    assert_eq!(tickets, [1, 2]);
}
