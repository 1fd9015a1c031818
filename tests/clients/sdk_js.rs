//! The gateway as npm's `centrifuge` meets it, in JSON and in Protobuf, over WebSocket,
//! event streams and HTTP streams, unchanged and on Node.
//!
//! Method: a folder below the target folder gets the locked packages by `npm ci`; copies of the
//! suites of `tests/gateway/js` run there against `ringhold serve`. Each check prints how often it
//! held; the exit status and these counts are the result. Without Node 18, npm or the packages the
//! test says so and checks nothing, but fails where `CI` is set.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::time::Duration;

use crate::sdks::{LIMIT, check, crowd};
use crate::support::gateway::{API_KEY, Gateway, SECRET};
use crate::support::{
    Program, count_of, find_program, own_path, packages, raise_open_files, run, skip,
};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gateway/js");
const FILES: [&str; 3] = ["kit.mjs", "suite.mjs", "restart.mjs"];
const CONFIG: &str = include_str!("../gateway/sdk.toml");

/// Node and the folder with the suites; `None` where something is missing, which has been said.
fn suites() -> Option<(PathBuf, PathBuf)> {
    let Some(node) = find_program(&["node", "nodejs"]) else {
        skip("node is not installed");
        return None;
    };
    let version = ["-e", "process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)"];
    if !run(Command::new(&node).args(version), LIMIT).success() {
        skip("node is older than 18");
        return None;
    }
    let folder = packages::javascript()?;
    // One test copies, the others find them.
    static COPIED: Once = Once::new();
    COPIED.call_once(|| {
        for file in FILES {
            std::fs::copy(Path::new(SOURCE).join(file), folder.join(file)).expect("a copy");
        }
    });
    Some((node, folder))
}

fn suite(file: &str, gateway: &Gateway, protocol: &str, transport: &str) -> Option<Command> {
    let (node, folder) = suites()?;
    let mut command = Command::new(node);
    let api = format!("http://{}/api", gateway.address());
    command.arg(folder.join(file)).args([&gateway.url(), &api, API_KEY, SECRET, protocol]);
    command.env("TRANSPORT", transport);
    Some(command)
}

/// Compression, of which the SDK's WebSockets on Node offer what they are asked for.
const COMPRESSION: &str = r#"
[websocket]
compression = true
compression_min_size = "32B"
[prometheus]
enabled = true
"#;

fn features(protocol: &str, transport: &str) {
    let gateway = Gateway::start(CONFIG);
    features_of(&gateway, protocol, transport);
    gateway.stop();
}

/// The checks of the suite, and how often each holds at least.
const CHECKS: [(&str, u64); 17] = [
    ("connect", 3),
    ("publish", 11),
    ("presence", 5),
    ("joins", 6),
    ("history", 7),
    ("recovery", 106),
    ("recovery_fails", 2),
    ("cache", 2),
    ("server_side", 5),
    ("tokens", 5),
    ("subscription_tokens", 4),
    ("delta", 60),
    ("filters", 3),
    ("batches", 300),
    ("errors", 8),
    ("ends", 8),
    ("pings", 3),
];

fn features_of(gateway: &Gateway, protocol: &str, transport: &str) {
    raise_open_files();
    let Some(mut suite) = suite("suite.mjs", gateway, protocol, transport) else { return };
    check(&mut suite, &CHECKS);
    let _alone = crowd();
    check(&mut suite, &[("crowd", 1000)]);
}

#[test]
fn centrifuge_in_json() {
    features("json", "websocket");
}

#[test]
fn centrifuge_in_protobuf() {
    features("protobuf", "websocket");
}

#[test]
fn centrifuge_in_json_compressed() {
    compressed("json");
}

#[test]
fn centrifuge_in_protobuf_compressed() {
    compressed("protobuf");
}

/// All features: whole publications, deltas, replies, recovery.
fn compressed(protocol: &str) {
    let gateway = Gateway::start(&format!("{COMPRESSION}{CONFIG}"));
    features_of(&gateway, protocol, "websocket");
    was_compressed(&gateway);
    gateway.stop();
}

/// If the suite ran at all, what its thousand clients were sent was compressed once for many.
fn was_compressed(gateway: &Gateway) {
    let shared = gateway.metric("deflate_shared_total");
    let ran = gateway.metric("opened_total") > 0;
    assert!(!ran || shared > 5000, "{shared} deliveries shared a compressed message");
}

#[test]
fn centrifuge_over_event_streams() {
    features("json", "sse");
}

#[test]
fn centrifuge_over_http_streams_in_json() {
    features("json", "http_stream");
}

#[test]
fn centrifuge_over_http_streams_in_protobuf() {
    features("protobuf", "http_stream");
}

/// The server is replaced under a thousand clients and a publisher.
fn restart(protocol: &str, transport: &str) {
    let mut gateway = Gateway::start(CONFIG);
    restart_of(&mut gateway, protocol, transport, 0);
    gateway.stop();
}

/// `words` are in each publication.
fn restart_of(gateway: &mut Gateway, protocol: &str, transport: &str, words: usize) {
    raise_open_files();
    let _alone = crowd();
    let Some(mut command) = suite("restart.mjs", gateway, protocol, transport) else { return };
    command.env("WORDS", words.to_string());
    let flag = format!("gateway-restart-{protocol}-{transport}-{words}");
    let flag = own_path(&flag);
    let mut suite = Program::start(command.arg(&flag));
    while !flag.exists() && suite.is_running() {
        std::thread::sleep(Duration::from_millis(10));
    }
    if suite.is_running() {
        gateway.restart();
    }
    let suite = suite.finish(LIMIT);
    suite.assert_success();
    assert_eq!(count_of(&suite.stdout, "clients"), 1000);
    assert!(count_of(&suite.stdout, "reconnects") >= 3000, "{}", suite.stdout);
    assert!(count_of(&suite.stdout, "deliveries") >= 50_000, "{}", suite.stdout);
}

#[test]
fn a_restart_under_load_in_json() {
    restart("json", "websocket");
}

#[test]
fn a_restart_under_load_in_protobuf() {
    restart("protobuf", "websocket");
}

/// Publications of half a kilobyte, compressed for all who follow.
#[test]
fn a_restart_under_load_compressed() {
    let mut gateway = Gateway::start(&format!("{COMPRESSION}{CONFIG}"));
    restart_of(&mut gateway, "json", "websocket", 100);
    was_compressed(&gateway);
    gateway.stop();
}
