//! The server API, health, metrics and the demo page, at their routes, in front of a backend that
//! answers by itself. Sockets are in `http_sockets.rs`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Request, StatusCode};
use ringhold::control::access::Access;
use ringhold::control::api::OPENAPI;
use ringhold::control::body::BodyLimits;
use ringhold::control::counts::Counts;
use ringhold::control::demo::Demo;
use ringhold::control::http::{HttpConfig, PathTaken, routes};
use ringhold::gateway::api::ApiRequest;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::fake::{Fake, KEY, Site, config, send};

/// Enough for every method.
const ANY: &str = r#"{"channel":"c","channels":["c"],"data":1,"user":"u","method":"m"}"#;

#[tokio::test]
async fn every_method_answers_with_its_result() {
    let site = Site::new(&config());
    for method in ApiRequest::METHODS {
        let reply = site.call(&format!("/api/{method}"), ANY).await;
        assert!(reply["result"].is_object() && reply.get("error").is_none(), "{method} {reply}");
        let asked: Vec<_> = site.fake.take().iter().map(ApiRequest::method).collect();
        assert_eq!(asked, [*method]);
    }
    let reply = site.call("/api/publish", r#"{"channel":"c","data":1}"#).await;
    assert_eq!(reply, json!({"result": {"offset": 1, "epoch": "c"}}));
    let reply = site.call("/api/broadcast", r#"{"channels":["a","error:102"],"data":1}"#).await;
    let expected = json!({"result": {"responses": [
        {"result": {"offset": 1, "epoch": "a"}},
        {"error": {"code": 102, "message": "as asked"}},
    ]}});
    assert_eq!(reply, expected);
}

#[tokio::test]
async fn info_says_what_the_process_takes() {
    let site = Site::new(&config());
    let reply = site.call("/api/info", "{}").await;
    let process = &reply["result"]["nodes"][0]["process"];
    assert!(process["rss"].as_u64().unwrap() > 100_000, "{reply}");
    assert!(process["cpu"].is_number(), "{reply}");
}

#[tokio::test]
async fn without_the_key_nothing_is_done() {
    let site = Site::new(&config());
    let request = |uri: &str, header: Option<(&str, &str)>| {
        let builder = Request::post(uri);
        let builder =
            header.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value));
        builder.body(Body::from(ANY)).unwrap()
    };
    for path in ["/api/publish", "/api/batch", "/api", "/api/nothing"] {
        for header in [
            None,
            Some(("x-api-key", "wrong")),
            Some(("x-api-key", "")),
            Some(("authorization", "apikey wrong")),
            Some(("authorization", "Bearer secret")),
        ] {
            let (status, text) = site.send(request(path, header)).await;
            assert_eq!(status, 401, "{path} {header:?}");
            assert_eq!(text, r#"{"status":401,"message":"unauthorized"}"#);
        }
    }
    assert_eq!(site.fake.take(), []);
    for (path, header) in [
        ("/api/publish", Some(("x-api-key", KEY))),
        ("/api/publish", Some(("authorization", "apikey secret"))),
        ("/api/publish?api_key=secret", None),
    ] {
        assert_eq!(site.send(request(path, header)).await.0, 200, "{path} {header:?}");
    }
    assert_eq!(site.fake.take().len(), 3);

    let closed = Site::with_api(|api| api.access = Access::new("", false).into());
    let (status, _) = closed.send(request("/api/publish", Some(("x-api-key", "")))).await;
    assert_eq!(status, 401);
    let open = Site::with_api(|api| api.access = Access::new("", true).into());
    assert_eq!(open.send(request("/api/publish", None)).await.0, 200);
}

#[tokio::test]
async fn what_is_no_call_has_its_status() {
    let site = Site::new(&config());
    for (path, body, status) in [
        ("/api/nothing", "{}", 404),
        ("/api/publish/more", "{}", 404),
        ("/api/map_publish", "{}", 404),
        ("/nothing", "{}", 404),
        ("/api/publish", "", 400),
        ("/api/publish", "{", 400),
        ("/api/publish", "[]", 400),
        ("/api/publish", r#"{"channel":1}"#, 400),
        ("/api/batch", r#"{"commands":1}"#, 400),
        ("/api", "", 400),
        ("/api", " \n ", 400),
        ("/api", "{}{", 400),
    ] {
        let (found, text) = site.post(path, body).await;
        assert_eq!(found, status, "{path} {body}");
        let text: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(text["status"], status, "{path} {body}");
    }
    for path in ["/api/publish", "/api", "/api/batch"] {
        for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
            let request = Request::builder().method(method).uri(path).header("x-api-key", KEY);
            let (status, _) = site.send(request.body(Body::from(ANY)).unwrap()).await;
            assert_eq!(status, 405, "{method} {path}");
        }
    }
    assert_eq!(site.fake.take(), []);
}

#[tokio::test]
async fn incomplete_requests_are_errors_of_the_api() {
    let site = Site::new(&config());
    let reply = site.call("/api/publish", r#"{"channel":"c"}"#).await;
    assert_eq!(reply, json!({"error": {"code": 107, "message": "bad request"}}));
    assert_eq!(site.fake.take(), []);
}

#[tokio::test]
async fn errors_are_told_by_status_where_that_is_asked_for() {
    let site = Site::new(&config());
    let always = Site::with_api(|api| api.transport_errors = true);
    for (code, status) in [
        (100, 500),
        (102, 404),
        (104, 404),
        (107, 400),
        (108, 400),
        (112, 416),
        (113, 409),
        (1000, 500),
    ] {
        let body = format!(r#"{{"channel":"error:{code}","data":1}}"#);
        let error = json!({"code": code, "message": "as asked"});
        let reply = site.call("/api/publish", body.clone()).await;
        assert_eq!(reply, json!({"error": error}));
        let request = Request::post("/api/publish")
            .header("x-api-key", KEY)
            .header("x-centrifugo-error-mode", "transport")
            .body(Body::from(body.clone()))
            .unwrap();
        for (found, text) in [site.send(request).await, always.post("/api/publish", body).await] {
            assert_eq!(found, status, "{code}");
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), error);
        }
    }
    // A result is the same in both.
    let (status, text) = always.post("/api/publish", ANY).await;
    assert_eq!((status, text.as_str()), (StatusCode::OK, r#"{"result":{"offset":1,"epoch":"c"}}"#));
}

#[tokio::test]
async fn a_batch_has_its_replies_in_order_without_envelope() {
    let site = Site::new(&config());
    for parallel in [false, true] {
        let body = json!({"parallel": parallel, "commands": [
            {"publish": {"channel": "later", "data": 1}},
            {"publish": {"channel": "error:102", "data": 1}},
            {"presence_stats": {"channel": "c"}},
            {"publish": {"channel": "c"}},
            {"nothing": {}},
            {},
            null,
            {"publish": null, "info": {}},
            {"unsubscribe": {"user": "u", "channel": ""}},
        ]});
        let mut reply = site.call("/api/batch", body.to_string()).await;
        let error = |code: u32, message: &str| json!({"error": {"code": code, "message": message}});
        assert!(reply["replies"][7]["info"]["nodes"][0]["process"].is_object(), "{reply}");
        reply["replies"][7] = json!("info");
        let expected = json!({"replies": [
            {"publish": {"offset": 1, "epoch": "later"}},
            error(102, "as asked"),
            {"presence_stats": {"num_clients": 0, "num_users": 0}},
            error(107, "bad request"),
            error(104, "method not found"),
            error(104, "method not found"),
            error(107, "bad request"),
            "info",
            {"unsubscribe": {}},
        ]});
        assert_eq!(reply, expected, "parallel: {parallel}");
        assert_eq!(site.fake.take().len(), 5);
    }
    assert_eq!(site.call("/api/batch", r#"{"commands":[]}"#).await, json!({"replies": []}));
}

#[tokio::test]
async fn of_a_batch_that_is_malformed_anywhere_nothing_is_done() {
    let site = Site::new(&config());
    let commands = [
        r#"{"publish":{"channel":"c","data":1}},{"publish":{"channel":7,"data":1}}"#.to_owned(),
        format!("{{}}{}", ",{}".repeat(10_000)),
    ];
    for commands in commands {
        let (status, text) =
            site.post("/api/batch", format!("{{\"commands\":[{commands}]}}")).await;
        assert_eq!(status, 400, "{text}");
    }
    assert_eq!(site.fake.take(), []);
}

#[tokio::test]
async fn a_large_parallel_batch_keeps_its_order() {
    let site = Site::new(&config());
    let commands: Vec<_> = (0..500)
        .map(|number| {
            let channel = if number % 3 == 0 { "later".to_owned() } else { number.to_string() };
            json!({"publish": {"channel": channel, "data": 1}})
        })
        .collect();
    let body = json!({"parallel": true, "commands": commands}).to_string();
    let reply = site.call("/api/batch", body).await;
    for (number, command) in commands.iter().enumerate() {
        let epoch = &reply["replies"][number]["publish"]["epoch"];
        assert_eq!(epoch, &command["publish"]["channel"], "{number}");
    }
}

#[tokio::test]
async fn one_command_that_dies_takes_no_other_with_it() {
    let site = Site::new(&config());
    let publish = |channel: &str| json!({"publish": {"channel": channel, "data": 1}});
    let commands = [publish("a"), publish("panic"), publish("b")];
    let body = json!({"parallel": true, "commands": commands}).to_string();
    let reply = site.call("/api/batch", body).await;
    assert_eq!(reply["replies"][0]["publish"]["epoch"], "a");
    assert_eq!(reply["replies"][1]["error"]["code"], 100);
    assert_eq!(reply["replies"][2]["publish"]["epoch"], "b");
}

#[tokio::test]
async fn the_older_form_has_a_line_for_each() {
    let site = Site::new(&config());
    let body = r#"{"method":"publish","params":{"channel":"c","data":1},"id":7}
{"method":"PRESENCE_STATS","params":{"channel":"c"}} {"method":"info"}
{"method":"publish","params":{"channel":3}}
{"method":"nothing","id":8}"#;
    let (status, text) = site.post("/api", body).await;
    let mut lines = text.lines();
    assert_eq!(status, 200);
    assert_eq!(lines.next(), Some(r#"{"id":7,"result":{"offset":1,"epoch":"c"}}"#));
    assert_eq!(lines.next(), Some(r#"{"result":{"num_clients":0,"num_users":0}}"#));
    assert!(lines.next().unwrap().starts_with(r#"{"result":{"nodes":[{"#));
    assert_eq!(lines.next(), Some(r#"{"error":{"code":107,"message":"bad request"}}"#));
    assert_eq!(lines.next(), Some(r#"{"id":8,"error":{"code":104,"message":"method not found"}}"#));
    assert_eq!(lines.next(), None);
}

#[tokio::test]
async fn bodies_have_a_size_and_a_time() {
    let site = Site::with_api(|api| {
        let time = Duration::from_millis(20);
        api.body = BodyLimits { bytes: 100, time, ..BodyLimits::default() };
    });
    let fits = format!(r#"{{"channel":"c","data":"{}"}}"#, "x".repeat(75));
    assert_eq!(fits.len(), 100);
    assert_eq!(site.post("/api/publish", fits.clone()).await.0, 200);
    assert_eq!(site.post("/api/publish", format!("{fits} ")).await.0, 413);
    // Of unknown length, in pieces.
    let pieces = (0..11).map(|_| Ok::<_, std::io::Error>(Bytes::from_static(b"          ")));
    let stream = Body::from_stream(futures_util::stream::iter(pieces));
    assert_eq!(site.post("/api", stream).await.0, 413);
    let stalled = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
    assert_eq!(site.post("/api/batch", Body::from_stream(stalled)).await.0, 408);
    assert_eq!(site.fake.take().len(), 1);
    let (_, metrics) = site.get("/metrics").await;
    assert!(metrics.contains("ringhold_api_refused_total{status=\"413\"} 2"), "{metrics}");
    assert!(metrics.contains("ringhold_api_refused_total{status=\"408\"} 1"), "{metrics}");
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_an_internal_error() {
    let site = Site::with_api(|api| api.call_timeout = Duration::from_millis(10));
    let reply = site.call("/api/publish", r#"{"channel":"slow","data":1}"#).await;
    assert_eq!(reply["error"]["code"], 100);
}

#[tokio::test]
async fn health_tells_life_and_readiness() {
    let site = Site::new(&config());
    for path in ["/health", "/ready"] {
        assert_eq!(site.get(path).await, (StatusCode::OK, "{}".to_owned()));
    }
    site.fake.draining.store(true, Ordering::Relaxed);
    assert_eq!(site.get("/health").await.0, 200);
    assert_eq!(site.get("/ready").await.0, 503);
}

#[tokio::test]
async fn metrics_count_calls() {
    let site = Site::new(&config());
    site.call("/api/publish", ANY).await;
    site.call("/api/publish", r#"{"channel":"error:108","data":1}"#).await;
    site.post("/api/publish", "{").await;
    let (status, text) = site.get("/metrics").await;
    assert_eq!(status, 200);
    for line in [
        "ringhold_connections 3",
        "ringhold_api_command_seconds_count{method=\"publish\"} 2",
        "ringhold_api_command_errors_total{method=\"publish\",code=\"108\"} 1",
        "ringhold_api_refused_total{status=\"400\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn an_internal_port_takes_everything_from_the_public_one() {
    let site = Site::new(&HttpConfig { internal: true, ..config() });
    let requests = |path: &str| match path {
        "/api/publish" => Request::post(path).header("x-api-key", KEY).body(Body::from(ANY)),
        path => Request::get(path).body(Body::empty()),
    };
    for path in ["/api/publish", "/api/openapi.json", "/health", "/ready", "/metrics"] {
        let public = site.send(requests(path).unwrap()).await.0;
        let internal = send(&site.routes.internal, requests(path).unwrap()).await.0;
        assert_eq!((public.as_u16(), internal.as_u16()), (404, 200), "{path}");
    }
    let site = Site::new(&HttpConfig { internal: true, api_external: true, ..config() });
    assert_eq!(site.send(requests("/api/publish").unwrap()).await.0, 200);
    assert_eq!(site.send(requests("/metrics").unwrap()).await.0, 404);
}

#[tokio::test]
async fn what_is_switched_off_is_not_there() {
    let site = Site::new(&HttpConfig::default());
    for path in ["/", "/demo", "/health", "/ready", "/metrics", "/api/openapi.json"] {
        let expected = r#"{"status":404,"message":"not found"}"#.to_owned();
        assert_eq!(site.get(path).await, (StatusCode::NOT_FOUND, expected), "{path}");
    }
    assert_eq!(site.post("/api/publish", ANY).await.0, 404);
}

#[tokio::test]
async fn paths_can_be_elsewhere() {
    let mut config = config();
    config.api.as_mut().unwrap().prefix = "/backend/v1".to_owned();
    config.metrics = Some("/internal/metrics".to_owned());
    let site = Site::new(&config);
    assert_eq!(site.post("/backend/v1/publish", ANY).await.0, 200);
    assert_eq!(site.post("/backend/v1", r#"{"method":"info"}"#).await.0, 200);
    assert_eq!(site.get("/backend/v1/openapi.json").await.0, 200);
    assert_eq!(site.get("/internal/metrics").await.0, 200);
    assert_eq!(site.post("/api/publish", ANY).await.0, 404);
}

#[test]
fn one_path_for_two_things_is_an_error() {
    let (fake, counts) = (Arc::new(Fake::default()), Arc::new(Counts::default()));
    for path in ["/", "/demo", "/api", "/api/openapi.json", "/health", "/ready"] {
        let demo = Demo { channel: "c".to_owned(), token: Arc::new(String::new) };
        let metrics = Some(path.to_owned());
        let config = HttpConfig { metrics, demo: Some(demo), ..config() };
        let error = routes(&fake, &config, &counts).unwrap_err();
        assert_eq!(error, PathTaken(path.to_owned()));
    }
}

#[tokio::test]
async fn the_demo_page_has_a_guest_of_its_own_each_time() {
    let guests = AtomicUsize::new(0);
    let token = move || format!("token-{}", guests.fetch_add(1, Ordering::Relaxed));
    let demo = Demo { channel: "chat:</script>".to_owned(), token: Arc::new(token) };
    let site = Site::new(&HttpConfig { demo: Some(demo), ..config() });
    for (number, path) in ["/", "/demo"].into_iter().enumerate() {
        let request = Request::get(path).header("host", "localhost").body(Body::empty()).unwrap();
        let answer = site.routes.public.clone().oneshot(request).await.unwrap();
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("cache-control"), "no-store");
        assert_eq!(header("content-type"), "text/html; charset=utf-8");
        assert!(header("content-security-policy").contains("default-src 'none'"));
        let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
        let page = std::str::from_utf8(&body).unwrap();
        assert!(page.contains(&format!("const token = \"token-{number}\";")), "{path}");
        assert!(page.contains(r#"const channel = "chat:\u003c/script>";"#), "{path}");
        assert!(!page.contains("{{"), "{path}");
    }
}

/// The document lists exactly the methods there are, with exactly the parameters they read.
#[tokio::test]
async fn the_openapi_document_is_complete() {
    let site = Site::new(&config());
    let (status, text) = site.get("/api/openapi.json").await;
    assert_eq!((status, text.as_str()), (StatusCode::OK, OPENAPI));
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    let keys = |object: &Value| -> BTreeSet<String> {
        object.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect()
    };
    let mut paths: BTreeSet<_> =
        ApiRequest::METHODS.iter().map(|method| format!("/api/{method}")).collect();
    paths.extend(["/api".to_owned(), "/api/batch".to_owned()]);
    assert_eq!(keys(&document["paths"]), paths);

    let schemas = &document["components"]["schemas"];
    let batch = &schemas["batch_request"]["properties"]["commands"]["items"]["properties"];
    let methods: BTreeSet<_> =
        ApiRequest::METHODS.iter().map(|method| (*method).to_owned()).collect();
    assert_eq!(keys(batch), methods);
    for method in ApiRequest::METHODS {
        let post = &document["paths"][format!("/api/{method}")]["post"];
        assert_eq!(post["operationId"], *method);
        let name = post["requestBody"]["content"]["application/json"]["schema"]["$ref"].as_str();
        let name = name.unwrap().strip_prefix("#/components/schemas/").unwrap();
        let documented = keys(&schemas[name]["properties"]);
        let read = ApiRequest::parameters(method).unwrap();
        assert_eq!(documented, read.into_iter().map(str::to_owned).collect(), "{method}");
        // What is required is refused where it is missing.
        let required = schemas[name]["required"].as_array().cloned().unwrap_or_default();
        for field in required {
            let mut body: Value = serde_json::from_str(ANY).unwrap();
            body.as_object_mut().unwrap().remove(field.as_str().unwrap());
            let reply = site.call(&format!("/api/{method}"), body.to_string()).await;
            assert_eq!(reply["error"]["code"], 107, "{method} without {field}");
        }
    }
    // Every reference leads somewhere.
    let mut references = Vec::new();
    find_references(&document, &mut references);
    assert!(references.len() > 50);
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

fn find_references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value.as_str() {
                    Some(target) if key == "$ref" => found.push(target.to_owned()),
                    _ => find_references(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| find_references(item, found)),
        _ => {}
    }
}
