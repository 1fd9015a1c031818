//! Against a backend that answers, refuses, stalls, or is not there.

use std::net::SocketAddr;
use std::sync::Mutex;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::*;
use crate::control::http::{HttpLimits, HttpServer};
use crate::gateway::format::Transport;
use crate::gateway::hooks::{Caller, HookEvent, RefreshReply, RpcReply};
use crate::gateway::hub_port::Link;
use crate::gateway::wire::Encoding;
use crate::options::Secret;

/// Serves a router on a free port and returns its address.
async fn serve(router: Router) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Whoever asks may take its time.
    let anonymous_timeout = Duration::from_secs(600);
    let limits = HttpLimits { anonymous_timeout, ..HttpLimits::default() };
    tokio::spawn(HttpServer::new(router, limits, Arc::default()).accept(listener));
    format!("http://{address}")
}

fn config(endpoint: String) -> HookConfig {
    // Far longer than any test takes, so that only those that mean it run into it.
    HookConfig { endpoint, timeout: Duration::from_secs(120), ..HookConfig::default() }
}

fn hooks(kind: HookKind, config: HookConfig) -> Hooks {
    Hooks::new([(HookTarget::Default(kind), config)], Arc::default()).unwrap()
}

impl Hooks {
    /// What comes of a question.
    async fn ask(&self, request: HookRequest) -> HookResult {
        let line = self.line_up(&request);
        let mut room = self.room(&request, 0).expect("room");
        let mut none = Opening::default();
        self.call(request, line, &mut room, &mut none).await.expect("nobody has gone")
    }

    fn target_of(&self, kind: HookKind) -> &Target {
        &self.targets[&kind]
    }
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
    HookRequest { proxy: "default".into(), from: asking(0), caller, event }
}

fn asking(link: u64) -> Asking {
    Asking { core: 0, link: Link(link) }
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
    assert_eq!(hooks.ask(question(event, headers)).await, Ok(HookReply::Rpc(RpcReply { data })));
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
    let answers: [(HookFailure, fn() -> Response); 6] = [
        (HookFailure::Status, || StatusCode::INTERNAL_SERVER_ERROR.into_response()),
        (HookFailure::Status, || StatusCode::NO_CONTENT.into_response()),
        (HookFailure::Status, || axum::response::Redirect::temporary("/elsewhere").into_response()),
        (HookFailure::BadReply, || "<html>".into_response()),
        // Good but for its length, in one piece and in two.
        (HookFailure::BadReply, || format!("{{\"result\":{{}}}}{:988}", "").into_response()),
        (HookFailure::BadReply, || {
            let pieces = ["{\"result\":{}}".to_owned(), " ".repeat(988)];
            let pieces = pieces.map(Ok::<_, std::io::Error>);
            Body::from_stream(futures_util::stream::iter(pieces)).into_response()
        }),
    ];
    for (why, answer) in answers {
        let router = Router::new().fallback(async move || answer());
        let config = HookConfig { reply_max: 1000, ..config(serve(router).await) };
        let hooks = hooks(HookKind::Rpc, config);
        assert_eq!(hooks.ask(rpc("1")).await, internal());
        assert_eq!(failures(&hooks, HookKind::Rpc, why), 1, "{why:?}");
    }
}

#[tokio::test]
async fn an_answer_may_be_as_long_as_the_limit() {
    let answer = async || format!("{{\"result\":{{}}}}{:986}", "");
    let config =
        HookConfig { reply_max: 999, ..config(serve(Router::new().fallback(answer)).await) };
    assert!(hooks(HookKind::Rpc, config).ask(rpc("1")).await.is_ok());
}

#[tokio::test]
async fn a_backend_that_is_down_is_an_error_but_keeps_connections() {
    // Bound and closed again, so nothing listens there.
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let down = hooks(HookKind::Rpc, config(format!("http://{unused}/")));
    assert_eq!(down.ask(rpc("1")).await, internal());
    assert_eq!(failures(&down, HookKind::Rpc, HookFailure::Unreachable), 1);

    let down = hooks(HookKind::Refresh, config(format!("http://{unused}/")));
    let before = unix_seconds();
    let reply = down.ask(question(HookEvent::Refresh, ClientHeaders::default())).await;
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
        assert_eq!(hooks.ask(rpc("1")).await, internal());
        assert_eq!(failures(&hooks, HookKind::Rpc, HookFailure::Timeout), 1);
    }
}

/// A backend that answers when it is told to; its questions' data go to the second.
async fn patient() -> (Arc<Notify>, mpsc::UnboundedReceiver<Value>, String) {
    let release = Arc::new(Notify::new());
    let (asked, questions) = mpsc::unbounded_channel();
    let wait = release.clone();
    let router = Router::new().fallback(async move |body: Bytes| {
        let body: Value = serde_json::from_slice(&body).unwrap();
        asked.send(body["data"].clone()).unwrap();
        wait.notified().await;
        axum::Json(json!({"result": {}}))
    });
    (release, questions, serve(router).await)
}

type Outcomes = mpsc::UnboundedReceiver<(u64, HookResult)>;

/// A running queue before these hooks; outcomes come with their tickets.
fn queue(hooks: &Arc<Hooks>) -> (HookSender<u64>, Outcomes) {
    let (sender, queue) = hook_queue(hooks.clone());
    let (outcomes, found) = mpsc::unbounded_channel();
    let said = move |ticket, outcome, _room| outcomes.send((ticket, outcome)).unwrap();
    tokio::spawn(queue.run(said, |_| {}));
    (sender, found)
}

fn of(link: u64, data: &'static str) -> Box<HookRequest> {
    Box::new(HookRequest { from: asking(link), ..rpc(data) })
}

#[tokio::test]
async fn beyond_the_queue_calls_fail_at_once_and_the_others_get_through() {
    let (release, _questions, url) = patient().await;
    let config = HookConfig { concurrency: 1, queue: 2, ..config(url) };
    let hooks = Arc::new(hooks(HookKind::Rpc, config));
    let (sender, mut found) = queue(&hooks);
    for ticket in 1..=3 {
        assert_eq!(sender.try_call(of(ticket, "1"), ticket, 0), Ok(()));
    }
    assert_eq!(sender.try_call(of(4, "1"), 4, 0), Err(4));
    assert_eq!(hooks.counts.hooks_queue_full.get(), 1);
    for ticket in 1..=3 {
        release.notify_one();
        assert_eq!(found.recv().await, Some((ticket, Ok(HookReply::Rpc(RpcReply::default())))));
    }
    let target = hooks.target_of(HookKind::Rpc);
    assert_eq!((target.turns.waiting(), target.number.held(), target.memory.held()), (0, 0, 0));
}

#[tokio::test]
async fn what_waits_is_bounded_in_bytes_by_proxy() {
    let (release, _questions, url) = patient().await;
    let cost = of(1, "1").cost();
    let config = HookConfig { max_memory: 2 * cost + 100, ..config(url) };
    let targets = [HookKind::Rpc, HookKind::Refresh];
    let targets = targets.map(|kind| (HookTarget::Default(kind), config.clone()));
    let hooks = Arc::new(Hooks::new(targets, Arc::default()).unwrap());
    let (sender, mut found) = queue(&hooks);
    assert_eq!(sender.try_call(of(1, "1"), 1, 101), Ok(()));
    assert_eq!(sender.try_call(of(1, "1"), 2, 0), Err(2), "what the asker holds counts");
    // One whose backend hangs takes nothing of the others'.
    let refresh = || Box::new(question(HookEvent::Refresh, ClientHeaders::default()));
    assert_eq!(sender.try_call(refresh(), 3, 0), Ok(()));
    release.notify_waiters();
    for _ in 0..2 {
        release.notify_one();
        assert!(found.recv().await.is_some());
    }
    assert_eq!(sender.try_call(of(1, "1"), 4, 0), Ok(()));
}

#[tokio::test]
async fn answers_count_too() {
    let answer = async || axum::Json(json!({"result": {"data": "x".repeat(5000)}}));
    let url = serve(Router::new().fallback(answer)).await;
    let config = HookConfig { max_memory: rpc("1").cost() + 9_000, ..config(url) };
    let hooks = hooks(HookKind::Rpc, config);
    assert_eq!(hooks.ask(rpc("1")).await, internal());
    assert_eq!(failures(&hooks, HookKind::Rpc, HookFailure::Overloaded), 1);
    assert_eq!(hooks.target_of(HookKind::Rpc).memory.held(), 0);
}

#[tokio::test]
async fn turns_go_round_between_connections() {
    let (release, mut questions, url) = patient().await;
    let hooks = Arc::new(hooks(HookKind::Rpc, HookConfig { concurrency: 1, ..config(url) }));
    let (sender, mut found) = queue(&hooks);
    for ticket in 0..20 {
        sender.try_call(of(7, "\"many\""), ticket, 0).unwrap();
    }
    sender.try_call(of(8, "\"one\""), 99, 0).unwrap();
    let mut order = Vec::new();
    for _ in 0..3 {
        order.push(questions.recv().await.unwrap());
        release.notify_one();
        assert!(found.recv().await.is_some());
    }
    assert_eq!(order, ["many", "many", "one"], "the first two were there before it");
}

#[tokio::test]
async fn what_a_connection_has_waiting_goes_with_it() {
    let (release, mut questions, url) = patient().await;
    let hooks = Arc::new(hooks(HookKind::Rpc, HookConfig { concurrency: 1, ..config(url) }));
    let (sender, mut found) = queue(&hooks);
    for ticket in 0..9 {
        sender.try_call(of(7, "\"gone\""), ticket, 0).unwrap();
    }
    sender.try_call(of(8, "\"stays\""), 99, 0).unwrap();
    assert_eq!(questions.recv().await.unwrap(), "gone");
    sender.forget(asking(7));
    let target = hooks.target_of(HookKind::Rpc);
    while target.number.held() > 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(target.turns.waiting(), 1);
    release.notify_one();
    assert_eq!(questions.recv().await.unwrap(), "stays");
    release.notify_one();
    let tickets = [found.recv().await.unwrap().0, found.recv().await.unwrap().0];
    assert_eq!(tickets, [0, 99], "the first was asked already");
    assert_eq!(target.number.held(), 0);
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused() {
    let hooks = hooks(HookKind::Rpc, config("http://127.0.0.1:1/".to_owned()));
    let refused = hooks.ask(rpc("no JSON")).await;
    assert_eq!(refused, Err(HookRefusal::Error(Error::BAD_REQUEST)));
    let mut other = rpc("1");
    other.proxy = "other".into();
    assert_eq!(hooks.ask(other).await, Err(HookRefusal::Error(Error::NOT_AVAILABLE)));
}

#[test]
fn configurations_that_cannot_work_are_errors() {
    let make = |config: HookConfig| {
        let targets = [(HookTarget::Default(HookKind::Connect), config)];
        Hooks::new(targets, Arc::default()).unwrap_err().to_string()
    };
    let wrong = make(config("ftp://user:hush@host/".to_owned()));
    assert!(wrong.contains("ftp://") && !wrong.contains("hush"), "{wrong}");
    for url in ["", "localhost", "grpc://localhost", "grpc://u:p@localhost:1", "/path"] {
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
    let config = HookConfig { concurrency: 1, queue: 1, ..config(serve(router).await) };
    let hooks = Arc::new(hooks(HookKind::Rpc, config));
    let (sender, queue) = hook_queue(hooks.clone());
    // Nobody takes them yet: the third finds no room and comes back.
    let engine = std::thread::spawn(move || {
        sender.try_call(of(1, "1"), 1, 0).unwrap();
        sender.try_call(of(1, "2"), 2, 0).unwrap();
        sender.try_call(of(1, "3"), 3, 0).unwrap_err()
    });
    assert_eq!(engine.join().unwrap(), 3);
    assert_eq!(hooks.counts.hooks_queue_full.get(), 1);
    let (outcomes, mut found) = mpsc::unbounded_channel();
    let said = move |ticket, outcome, _room| outcomes.send((ticket, outcome)).unwrap();
    let run = queue.run(said, |_| {});
    run.await;
    let mut tickets = Vec::new();
    while let Some((ticket, outcome)) = found.recv().await {
        assert_eq!(outcome, Ok(HookReply::Rpc(RpcReply::default())));
        tickets.push(ticket);
    }
    assert_eq!(tickets, [1, 2]);
}

#[test]
fn a_question_comes_back_where_nobody_asks_any_more() {
    let hooks = Arc::new(hooks(HookKind::Rpc, config("http://127.0.0.1:1".to_owned())));
    let (sender, queue) = hook_queue(hooks.clone());
    assert_eq!(sender.try_call(of(1, "1"), 1, 0), Ok(()));
    drop(queue);
    assert_eq!(sender.try_call(of(1, "2"), 2, 0), Err(2));
    sender.forget(asking(1));
}

#[test]
fn what_is_told_of_hooks_is_their_names() {
    let named = (HookTarget::Named("other".to_owned()), config("http://127.0.0.1:1".to_owned()));
    let of_kind = (HookTarget::Default(HookKind::Rpc), config("http://u:secret@h:1".to_owned()));
    let hooks = Hooks::new([named, of_kind], Arc::default()).unwrap();
    assert_eq!(format!("{hooks:?}"), "{Rpc, \"other\"}");
}

#[test]
fn a_backend_is_told_to_give_up_a_little_after_we_do() {
    assert_eq!(patience(Duration::from_secs(1)), "1100m");
    assert_eq!(patience(Duration::MAX), "99999999m", "eight digits are allowed");
}

#[test]
fn seconds_are_those_of_the_clock() {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64;
    assert!((now..now + 60).contains(&unix_seconds()));
}

/// A backend with TLS: its certificate is for localhost, and it may want one of the client.
fn secured(wants: bool) -> SocketAddr {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let file = |name: &str| keys(name);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let builder = match wants {
        false => builder.with_no_client_auth(),
        true => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(file("ca.pem")).unwrap()).unwrap();
            let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
                Arc::new(roots),
                provider,
            );
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let chain: Vec<_> = CertificateDer::pem_file_iter(file("localhost.pem"))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    let key = PrivateKeyDer::from_pem_file(file("localhost.key")).unwrap();
    let config = Arc::new(builder.with_single_cert(chain, key).unwrap());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let connection = rustls::ServerConnection::new(config.clone()).unwrap();
            answer_once(rustls::StreamOwned::new(connection, stream));
        }
    });
    address
}

/// Reads a request as far as its body's end and answers it; a handshake that fails is nobody's.
fn answer_once(mut stream: rustls::StreamOwned<rustls::ServerConnection, std::net::TcpStream>) {
    use std::io::{Read, Write};
    let mut text = Vec::new();
    let mut piece = [0; 4096];
    while !text.ends_with(b"}") {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return,
            Ok(count) => text.extend_from_slice(&piece[..count]),
        }
    }
    let body = r#"{"result": {"data": 7}}"#;
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: ";
    let _ = write!(stream, "{head}{}\r\n\r\n{body}", body.len());
    stream.conn.send_close_notify();
    let _ = stream.flush();
}

fn keys(name: &str) -> String {
    format!("{}/tests/tls/keys/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[tokio::test]
async fn certificates_are_those_that_are_configured() {
    let answer = Ok(HookReply::Rpc(RpcReply { data: "7".into() }));
    let plain = secured(false).port();
    let strict = secured(true).port();
    let authority = std::fs::read_to_string(keys("ca.pem")).unwrap();
    let none = Certificates::default();
    let by_file = Certificates { authority: keys("ca.pem"), ..none.clone() };
    let by_text = Certificates { authority, ..none.clone() };
    let other = Certificates { authority: keys("client.pem"), ..none.clone() };
    let anybody = Certificates { believe_all: true, ..none.clone() };
    let ours = Certificates {
        certificate: keys("client.pem"),
        key: Secret::new(keys("client.key")),
        ..by_file.clone()
    };
    for (port, tls, fits) in [
        (plain, &by_file, true),
        (plain, &by_text, true),
        (plain, &other, false),
        (plain, &anybody, true),
        (plain, &ours, true),
        (strict, &by_file, false),
        (strict, &ours, true),
    ] {
        let config = config(format!("https://localhost:{port}/"));
        let hooks = hooks(HookKind::Rpc, HookConfig { tls: Some(tls.clone()), ..config });
        let said = hooks.ask(rpc("1")).await;
        assert_eq!(said == answer, fits, "{said:?} {}", port == strict);
        let failed = failures(&hooks, HookKind::Rpc, HookFailure::Unreachable);
        assert_eq!(failed, u64::from(!fits));
    }
    let target = HookTarget::Default(HookKind::Rpc);
    let broken = Certificates { certificate: keys("client.pem"), ..none };
    let config = HookConfig { tls: Some(broken), ..config("https://localhost/".to_owned()) };
    let wrong = Hooks::new([(target, config)], Arc::default()).unwrap_err().to_string();
    assert!(wrong.starts_with("rpc proxy: key_pem: "), "{wrong}");
}
