//! The admin page's routes, in front of a backend that answers by itself: who gets in, and what
//! whoever does not is told. The page itself is in `admin.rs`.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use ringhold::control::admin::{AdminConfig, AttemptLimits};
use ringhold::control::counts::Counts;
use ringhold::control::http::{HttpConfig, PathTaken, routes};
use ringhold::control::peer::Peer;
use ringhold::options::Secret;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::fake::{Fake, Site, config, send};

const PASSWORD: &str = "open sesame & please";

/// What needs a session.
const QUESTIONS: [&str; 6] = [
    "/admin/stats",
    "/admin/past",
    "/admin/help",
    "/admin/channels",
    "/admin/users",
    "/admin/user",
];

fn admin() -> AdminConfig {
    AdminConfig { password: Secret::new(PASSWORD), ..AdminConfig::default() }
}

fn site(admin: AdminConfig) -> Site {
    Site::new(&HttpConfig { admin: Some(admin), ..config() })
}

/// A login from an address.
fn login(password: &str, from: [u8; 4]) -> Request<Body> {
    let form: String = password.bytes().map(|byte| format!("%{byte:02x}")).collect();
    Request::post("/admin/auth")
        .header("content-type", "application/x-www-form-urlencoded")
        .extension(Peer((from, 5).into()))
        .body(Body::from(format!("password={form}")))
        .unwrap()
}

const HERE: [u8; 4] = [10, 0, 0, 1];

async fn token(site: &Site) -> String {
    let (status, text) = site.send(login(PASSWORD, HERE)).await;
    assert_eq!(status, 200, "{text}");
    serde_json::from_str::<Value>(&text).unwrap()["token"].as_str().unwrap().to_owned()
}

fn request(method: &str, path: &str, token: &str, body: &'static str) -> Request<Body> {
    let request = Request::builder().method(method).uri(path);
    let request = match token {
        "" => request,
        token => request.header("authorization", format!("token {token}")),
    };
    request.body(Body::from(body)).unwrap()
}

async fn ask(site: &Site, path: &str, token: &str) -> Value {
    let (status, text) = site.send(request("GET", path, token, "")).await;
    assert_eq!(status, 200, "{path}: {text}");
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn by_default_it_is_not_there() {
    let site = Site::new(&config());
    for path in ["/", "/admin", "/admin/", "/admin/init", "/admin/main.js"] {
        assert_eq!(site.get(path).await.0, 404, "{path}");
    }
    for path in ["/admin/auth", "/admin/api"] {
        assert_eq!(site.post(path, "{}").await.0, 404, "{path}");
    }
}

#[tokio::test]
async fn without_a_session_nothing_is_told_or_done() {
    let site = site(AdminConfig { secret: Secret::new("s"), ..admin() });
    let good = token(&site).await;
    let forged = good.replacen('.', ".x", 1);
    // Of another server with the same password.
    let other = token(&self::site(AdminConfig { secret: Secret::new("t"), ..admin() })).await;
    let mut asked: Vec<_> = QUESTIONS.map(|path| ("GET", path, "")).to_vec();
    asked.push(("POST", "/admin/api", r#"{"method":"disconnect","params":{"user":"ann"}}"#));
    for (method, path, body) in asked {
        for token in ["", "x", PASSWORD, crate::fake::KEY, &forged, &other] {
            let (status, text) = site.send(request(method, path, token, body)).await;
            assert_eq!(status, 401, "{path} {token}");
            assert_eq!(text, r#"{"status":401,"message":"unauthorized"}"#);
        }
        let mut bearer = request(method, path, "", body);
        let value = format!("Bearer {good}").parse().unwrap();
        bearer.headers_mut().insert("authorization", value);
        assert_eq!(site.send(bearer).await.0, 401, "{path}");
    }
    assert_eq!(site.fake.take(), []);
    for (token, authenticated) in [("", false), (&*forged, false), (&*good, true)] {
        let expected =
            json!({"insecure": false, "edition": "ringhold", "authenticated": authenticated});
        assert_eq!(ask(&site, "/admin/init", token).await, expected);
    }
}

#[tokio::test]
async fn a_session_ends_with_its_time_and_its_password() {
    let over = site(AdminConfig { session: Duration::ZERO, ..admin() });
    let late = token(&over).await;
    let (status, _) = over.send(request("GET", "/admin/stats", &late, "")).await;
    assert_eq!(status, 401);
    assert_eq!(ask(&over, "/admin/init", &late).await["authenticated"], false);

    let secret = || Secret::new("kept in the configuration");
    let before = token(&site(AdminConfig { secret: secret(), ..admin() })).await;
    let restarted = site(AdminConfig { secret: secret(), ..admin() });
    ask(&restarted, "/admin/stats", &before).await;
    let password = Secret::new("another");
    let changed = site(AdminConfig { secret: secret(), password, ..admin() });
    let (status, _) = changed.send(request("GET", "/admin/stats", &before, "")).await;
    assert_eq!(status, 401);
}

#[tokio::test]
async fn failed_logins_are_limited_and_counted() {
    let attempts = AttemptLimits { address: 3, ..AttemptLimits::default() };
    let site = site(AdminConfig { attempts, ..admin() });
    for wrong in ["", "open", "open sesame & pleas"] {
        let (status, text) = site.send(login(wrong, HERE)).await;
        assert_eq!((status, text.as_str()), (StatusCode::BAD_REQUEST, WRONG));
    }
    // Now not even the right one is looked at, but elsewhere it is.
    for password in ["open", PASSWORD] {
        let answer = site.routes.public.clone().oneshot(login(password, HERE)).await.unwrap();
        assert_eq!(answer.status(), 429);
        let wait: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((1..=13).contains(&wait), "{wait}");
    }
    assert_eq!(site.send(login(PASSWORD, [10, 0, 0, 2])).await.0, 200);
    let (_, metrics) = site.get("/metrics").await;
    for line in [
        "ringhold_admin_logins_total 1",
        "ringhold_admin_logins_failed_total 3",
        "ringhold_admin_logins_limited_total 2",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
}

const WRONG: &str = r#"{"status":400,"message":"bad request"}"#;

#[tokio::test]
async fn what_is_no_login_is_refused_and_costs_no_attempt() {
    let attempts = AttemptLimits { address: 1, ..AttemptLimits::default() };
    let site = site(AdminConfig { attempts, ..admin() });
    let mut elsewhere = login("guess", HERE);
    elsewhere.headers_mut().insert("sec-fetch-site", "cross-site".parse().unwrap());
    assert_eq!(site.send(elsewhere).await.0, 403);
    let mut json = login("guess", HERE);
    json.headers_mut().insert("content-type", "application/json".parse().unwrap());
    assert_eq!(site.send(json).await.0, 415);
    assert_eq!(site.send(login(&"x".repeat(4096), HERE)).await.0, 413);
    assert_eq!(site.get("/admin/auth").await.0, 405);
    token(&site).await;
}

#[tokio::test]
async fn without_a_password_nobody_gets_in() {
    let site = site(AdminConfig::default());
    for password in ["", " ", "x"] {
        assert_eq!(site.send(login(password, HERE)).await.0, 400);
    }
}

#[tokio::test]
async fn a_session_is_told_the_figures() {
    let site = site(admin());
    let token = token(&site).await;
    let stats = ask(&site, "/admin/stats", &token).await;
    assert_eq!(stats["metrics"]["ringhold_connections"], 3);
    assert_eq!(stats["metrics"]["ringhold_admin_logins_total"], 1);
    let ann = json!({"core": 1, "client": "00000000-0000-0000-0000-000000000007", "user": "ann",
        "address": "192.0.2.1:7", "transport": "sse", "since": 70, "encoding": "json",
        "subscriptions": 2, "channels": ["chat:room"]});
    let mut now = ann.clone();
    for (key, value) in
        [("peer", json!("192.0.2.1:7")), ("queued", json!(5000)), ("stalled_ms", json!(1500))]
    {
        now[key] = value;
    }
    let mut ended = ann.clone();
    (ended["at"], ended["cause"]) = (json!(77), json!("write_timeout"));
    assert_eq!(stats["slow"], json!({"total": 9, "now": [now], "ended": [ended]}));
    let help = ask(&site, "/admin/help", &token).await;
    assert!(help["ringhold_open"].as_str().unwrap().starts_with("Connections that are open"));

    let listed = json!({"name": "chat:room", "count": 3, "published": 8});
    let room = json!({"matched": 1, "page_size": 100, "pages": 1, "list": [listed]});
    let behind = json!({"matched": 1, "page_size": 100, "pages": 1, "list": []});
    let nothing = json!({"matched": 0, "page_size": 100, "pages": 0, "list": []});
    for (query, expected) in [
        ("", &room),
        ("?q=", &room),
        ("?q=t:r", &room),
        ("?page=0", &room),
        ("?page=1", &behind),
        ("?page=99", &behind),
        ("?q=chat:*", &room),
        ("?q=room*", &nothing),
        ("?q=%5C", &nothing),
        ("?q=rooom", &nothing),
    ] {
        let found = ask(&site, &format!("/admin/channels{query}"), &token).await;
        assert_eq!(found, *expected, "{query}");
    }
    assert_eq!(ask(&site, "/admin/users?q=n", &token).await["list"][0]["name"], "ann");
    assert_eq!(ask(&site, "/admin/user?user=ann", &token).await, json!([ann]));
    assert_eq!(ask(&site, "/admin/user?user=bob", &token).await, json!([]));
    for broken in ["q=%5Ba", "page=100", "page=-1", "page=x"] {
        let path = format!("/admin/channels?{broken}");
        assert_eq!(site.send(request("GET", &path, &token, "")).await.0, 400, "{broken}");
    }
}

#[tokio::test]
async fn a_session_calls_the_server_api_in_its_older_form() {
    let site = site(admin());
    let token = token(&site).await;
    let body = r#"{"method":"publish","params":{"channel":"c","data":1}}
{"method":"disconnect","params":{"user":"ann"},"id":7}"#;
    let (status, text) = site.send(request("POST", "/admin/api", &token, body)).await;
    assert_eq!(status, 200);
    let lines: Vec<_> = text.lines().collect();
    let expected = [r#"{"result":{"offset":1,"epoch":"c"}}"#, r#"{"id":7,"result":{}}"#];
    assert_eq!(lines, expected);
    let asked: Vec<_> = site.fake.take().iter().map(|request| request.method()).collect();
    assert_eq!(asked, ["publish", "disconnect"]);
    let (status, _) = site.send(request("POST", "/admin/api", &token, "{")).await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn it_moves_to_the_internal_port() {
    let config = HttpConfig { admin: Some(admin()), internal: true, ..config() };
    let statuses = async |config: &HttpConfig| {
        let site = Site::new(config);
        let get = || Request::get("/admin/").body(Body::empty()).unwrap();
        let public = send(&site.routes.public, get()).await.0.as_u16();
        (public, send(&site.routes.internal, get()).await.0.as_u16())
    };
    assert_eq!(statuses(&config).await, (404, 200));
    assert_eq!(statuses(&HttpConfig { admin_external: true, ..config }).await, (200, 200));
}

#[tokio::test]
async fn its_files_are_fresh_and_closed_to_the_outside() {
    for (prefix, root) in [("", "/"), ("/ops", "/ops/")] {
        let site = site(AdminConfig { prefix: prefix.to_owned(), ..admin() });
        let get = async |path: &str, headers: HeaderMap| {
            let mut request = Request::get(path).body(Body::empty()).unwrap();
            *request.headers_mut() = headers;
            site.routes.public.clone().oneshot(request).await.unwrap()
        };
        for path in [root, &format!("{prefix}/admin")] {
            let answer = get(path, HeaderMap::new()).await;
            assert_eq!(answer.status(), 307, "{path}");
            assert_eq!(answer.headers()["location"], "admin/");
        }
        let files = [
            ("", "text/html; charset=utf-8"),
            ("main.js", "text/javascript; charset=utf-8"),
            ("admin.css", "text/css; charset=utf-8"),
            ("icon.svg", "image/svg+xml"),
        ];
        for (name, kind) in files {
            let path = format!("{prefix}/admin/{name}");
            let answer = get(&path, HeaderMap::new()).await;
            assert_eq!(answer.status(), 200, "{path}");
            assert_eq!(answer.headers()["content-type"], kind);
            assert_eq!(answer.headers()["cache-control"], "no-cache");
            let policy = answer.headers()["content-security-policy"].to_str().unwrap();
            assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"));
            let mut known = HeaderMap::new();
            known.insert("if-none-match", answer.headers()["etag"].clone());
            let again = get(&path, known).await;
            assert_eq!(again.status(), 304);
            let body = axum::body::to_bytes(again.into_body(), usize::MAX).await.unwrap();
            assert!(body.is_empty());
        }
    }
}

#[test]
fn a_path_that_is_taken_is_an_error() {
    let (fake, counts) = (Arc::new(Fake::default()), Arc::new(Counts::default()));
    for path in ["/", "/admin", "/admin/", "/admin/api", "/admin/main.js"] {
        let metrics = Some(path.to_owned());
        let config = HttpConfig { metrics, admin: Some(admin()), ..config() };
        let error = routes(&fake, &config, &counts).unwrap_err();
        assert_eq!(error, PathTaken(path.to_owned()));
    }
}
