//! gRPC as PyPI's `grpcio` meets it: the server API with a client, keys, errors, bounds, TLS and
//! reflection; and questions to a backend, what they carry and what its answers do.
//!
//! Method: protoc of `grpcio-tools` makes messages of our `.proto` files in a virtual environment
//! below the target folder, and `tests/gateway/python/grpc_*.py` call or serve with them. Each
//! check prints how often it held. Without Python 3.11 or the packages a test says so and checks
//! nothing, but fails where `CI` is set.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::backend::{Backend, Way, environment};
use crate::support::daemon::free_address;
use crate::support::gateway::{Gateway, Heard, Session};
use crate::support::moments::connect_for;
use crate::support::{Finished, count_of, raise_open_files, run};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gateway/python");
const API: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/gateway/api");
const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls/keys");

/// The suite starts protoc and makes thousands of calls on a machine that may be busy.
const LIMIT: Duration = Duration::from_secs(1200);

/// Runs the suite against a port of gRPC.
fn suite(python: &Path, at: SocketAddr, what: &[&str]) -> Finished {
    let script = format!("{FOLDER}/grpc_suite.py");
    let at = at.to_string();
    let arguments = [&[script.as_str(), &at, "grpc key", API][..], what].concat();
    run(Command::new(python).args(arguments), LIMIT)
}

const CHANNELS: &str = "[[channel.namespaces]]\nname = \"kept\"\npresence = true\n\
    history_size = 1000\nhistory_ttl = \"300s\"\n";

#[test]
fn every_method_is_called_with_its_bounds() {
    let Some(python) = environment() else { return };
    raise_open_files();
    let at = free_address();
    let gateway = Gateway::start(&format!(
        "{CHANNELS}allow_subscribe_for_client = true\n[client]\nping_interval = \"0s\"\n\
         [node]\nname = \"here\"\n[prometheus]\nenabled = true\n[grpc_api]\nenabled = true\n\
         port = {}\nkey = \"grpc key\"\nreflection = true\nmax_receive_message_size = \"1MiB\"\n\
         max_concurrent_calls = 8\n",
        at.port()
    ));
    let mut session = gateway.connected("42");
    session.subscribe("kept:room");
    let suite = suite(&python, at, &["calls"]);
    suite.assert_success();
    for (check, count) in [
        ("refused", 3),
        ("publish", 3),
        ("history", 4),
        ("broadcast", 2),
        ("history_remove", 1),
        ("presence", 2),
        ("presence_stats", 1),
        ("channels", 1),
        ("subscribe", 1),
        ("unsubscribe", 1),
        ("refresh", 1),
        ("info", 1),
        ("rpc", 1),
        ("errors", 4),
        ("statuses", 2),
        ("batch", 8),
        ("bounds", 5),
        ("crowd", 1),
        ("unknown", 3),
        ("reflection", 24),
    ] {
        assert_eq!(count_of(&suite.stdout, check), count, "{check}: {}", suite.stdout);
    }
    // What the API did, the client has seen before the answer to what it asks for now.
    session.subscribe("kept:last");
    let pushes = session.pushed();
    let told = |kind: &str| pushes.iter().filter(|push| push[kind].is_object()).count();
    assert_eq!((told("subscribe"), told("unsubscribe")), (1, 1), "{pushes:?}");
    assert!(gateway.metric("api_command_seconds_count{method=\"publish\"}") >= 500);
    assert_eq!(gateway.metric("api_refused_total{status=\"401\"}"), 3);
    assert_eq!(gateway.metric("api_refused_total{status=\"413\"}"), 1);
    // The API over HTTP has a key of its own.
    assert_eq!(gateway.post("info", "{}", "grpc key").0, 401);
    gateway.stop();
}

#[test]
fn tls_is_spoken_where_it_is_configured() {
    let Some(python) = environment() else { return };
    let at = free_address();
    let gateway = Gateway::start(&format!(
        "{CHANNELS}[grpc_api]\nenabled = true\nport = {}\nkey = \"grpc key\"\n[grpc_api.tls]\n\
         enabled = true\ncert_pem = \"{KEYS}/localhost.pem\"\nkey_pem = \"{KEYS}/localhost.key\"\n",
        at.port()
    ));
    let suite = run(
        Command::new(python).args([
            &format!("{FOLDER}/grpc_suite.py"),
            &format!("localhost:{}", at.port()),
            "grpc key",
            API,
            "secure",
            &format!("{KEYS}/ca.pem"),
        ]),
        LIMIT,
    );
    suite.assert_success();
    assert_eq!(count_of(&suite.stdout, "secure"), 2);
    gateway.stop();
}

#[test]
fn without_a_key_everybody_may_only_if_that_is_said() {
    let Some(python) = environment() else { return };
    let at = free_address();
    let gateway = Gateway::start(&format!(
        "[grpc_api]\nenabled = true\nport = {}\ninsecure = true\n",
        at.port()
    ));
    let suite = suite(&python, at, &["open"]);
    suite.assert_success();
    assert_eq!(count_of(&suite.stdout, "open"), 2);
    gateway.stop();
}

// --- Questions to a backend ----------------------------------------------------------------------

/// All questions go to one backend, those about methods of `other` to another one.
fn asking(first: SocketAddr, second: SocketAddr) -> Gateway {
    let proxy = |table: &str, more: &str| {
        format!("[{table}]\nendpoint = \"grpc://{first}\"\ntimeout = \"60s\"\n{more}\n")
    };
    Gateway::start_whole(&format!(
        "proxies = [{{ name = \"other\", endpoint = \"{second}\", timeout = \"60s\" }}]\n\
         [http_server]\nport = 0\n[http_api]\nkey = \"api key of the tests\"\n\
         [prometheus]\nenabled = true\n\
         [client.token]\nhmac_secret_key = \"secret of the tests\"\n{}{}{}{}{}{}\
         [rpc]\nnamespaces = [{{ name = \"other\", proxy_enabled = true, \
         proxy_name = \"other\" }}]\n\
         without_namespace = {{ proxy_enabled = true }}\n\
         [channel.without_namespace]\nsubscribe_proxy_enabled = true\n\
         publish_proxy_enabled = true\nsub_refresh_proxy_enabled = true\n",
        proxy(
            "client.proxy.connect",
            "enabled = true\nhttp_headers = [\"X-Request\"]\nemulated_headers = [\"X-Emulated\"]\n\
             grpc.static_metadata = { x-static = \"s\" }\n\
             grpc.credentials_key = \"authorization\"\n\
             grpc.credentials_value = \"hush\"",
        ),
        proxy("client.proxy.refresh", "enabled = true"),
        proxy("channel.proxy.subscribe", "include_connection_meta = true"),
        proxy("channel.proxy.publish", "binary_encoding = true"),
        proxy("channel.proxy.sub_refresh", ""),
        proxy("rpc.proxy", ""),
    ))
}

fn rpc(session: &mut Session, method: &str) -> Value {
    session.ask("rpc", json!({"method": method, "data": {"n": 1}}))
}

#[test]
fn each_question_is_asked_and_its_answer_heard() {
    let Some(python) = environment() else { return };
    let backend = Backend::start(&python, Way::Grpc, 0);
    let gateway = asking(backend.address(), backend.address());
    let mut session = gateway.session_at("/connection/websocket", &["X-Request: r"]);
    let connect =
        session.connect(&json!({"name": "js", "headers": {"X-Emulated": "e"}, "data": {"c": 1}}));
    assert_eq!(connect["data"], json!({"hello": 1}), "{connect}");
    assert!(connect["subs"]["own"].is_object(), "{connect}");
    let asked = backend.asked("Connect");
    assert_eq!(asked["request"]["name"], json!("js"));
    assert_eq!(asked["request"]["transport"], json!("websocket"));
    // Bytes are Base64 in the JSON of the backend's words.
    assert_eq!(asked["request"]["data"], json!("eyJjIjoxfQ=="));
    for (name, value) in
        [("x-request", "r"), ("x-emulated", "e"), ("x-static", "s"), ("authorization", "hush")]
    {
        assert_eq!(asked["metadata"][name], json!(value), "{asked}");
    }
    assert_eq!(session.subscribe("a")["data"], json!({"sub": 1}));
    let asked = backend.asked("Subscribe");
    assert_eq!(
        (&asked["request"]["user"], &asked["request"]["channel"]),
        (&json!("42"), &json!("a"))
    );
    assert_eq!(asked["request"]["meta"], json!("eyJtIjogMX0="), "the connection's own");
    session.command("publish", &json!({"channel": "a", "data": {"mine": 1}}));
    assert_eq!(session.publication("a")["data"], json!({"changed": true}));
    let asked = backend.asked("Publish");
    assert_eq!(asked["request"]["b64data"], json!("eyJtaW5lIjoxfQ=="));
    assert_eq!(
        (&asked["request"]["encoding"], asked["request"].get("data")),
        (&json!("binary"), None)
    );
    assert_eq!(rpc(&mut session, "sum")["rpc"]["data"], json!({"answer": 42}));
    let asked = backend.asked("RPC");
    assert_eq!(asked["request"]["method"], json!("sum"));
    assert!(asked["request"].get("meta").is_none());
    assert_eq!(gateway.metric("hook_seconds_count{hook=\"rpc\"}"), 1);
    gateway.stop();
}

#[test]
fn what_expires_may_stay_if_the_backend_says_so() {
    let Some(python) = environment() else { return };
    let backend = Backend::start(&python, Way::Grpc, 0);
    let gateway = asking(backend.address(), backend.address());
    let (mut session, _) = connect_for(&gateway, 2, &json!({"sub": "42"}));
    let asked = backend.asked("Refresh");
    assert_eq!(asked["request"]["user"], json!("42"));
    // It is still served.
    assert_eq!(rpc(&mut session, "sum")["rpc"]["data"], json!({"answer": 42}));
    gateway.stop();
}

#[test]
fn what_the_backend_refuses_the_client_hears() {
    let Some(python) = environment() else { return };
    let mut backend = Backend::start(&python, Way::Grpc, 0);
    let gateway = asking(backend.address(), backend.address());
    let mut session = gateway.connected("42");
    backend.set("error");
    let error = json!({"code": 1000, "message": "no", "temporary": true});
    for method in ["sum", "other:sum"] {
        assert_eq!(rpc(&mut session, method)["error"], error, "{method}");
    }
    backend.set("disconnect");
    session.command("rpc", &json!({"method": "sum", "data": {}}));
    let heard = session.hear();
    let end = heard.last().expect("something");
    assert!(matches!(end, Heard::Close(4500, reason) if reason == "away"), "{end:?}");
    gateway.stop();
}
