//! The benchmark scripts do what they say: small runs, whose figures nobody looks at.
//!
//! Method: the harness's own tests, then `benches/compare.sh --quick` with `ringhold echo` once as
//! a built-in server and once as any other server that a user names. What is checked is that every
//! run was whole and that table, chart and figures are written. Needs Python 3.10 or later; without
//! it the tests say so and check nothing, but fail where `CI` is set.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::client::Client;
use crate::support::gateway::address;
use crate::support::server::Server;
use crate::support::wire::{BINARY, FIN, frame};
use crate::support::{find_program, own_path, run, skip};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringhold");
const BENCHES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches");

/// Variants of the bare loop, and some together; the first is the loop without flags.
const VARIANTS: [&str; 18] = [
    "",
    "--receive=multishot",
    "--receive=multishot-incremental",
    "--buffers=huge",
    "--receive=multishot --buffers=huge",
    "--send=gather",
    "--send=bundle",
    "--send=registered",
    "--send=zero-copy",
    "--send=zero-copy-registered",
    "--wait=min-wait=50",
    "--sqpoll=10",
    "--napi=20",
    "--accept=polled",
    "--accept=deferred",
    "--receive=multishot --send=bundle",
    "--receive=multishot-incremental --send=registered",
    "--receive=multishot-incremental --sqpoll=10",
];

/// To build a bench that nobody has built yet.
const BUILD_LIMIT: Duration = Duration::from_secs(900);
/// A few seconds where nobody else works.
const LIMIT: Duration = Duration::from_secs(600);

fn python() -> Option<PathBuf> {
    let version = ["-c", "import sys; sys.exit(sys.version_info < (3, 10))"];
    let found = find_program(&["python3"])
        .filter(|python| run(Command::new(python).args(version), LIMIT).success());
    if found.is_none() {
        skip("python3, 3.10 or later, is not installed");
    }
    found
}

#[test]
fn the_harness_passes_its_own_tests() {
    let Some(python) = python() else { return };
    let script = format!("{BENCHES}/harness/test_harness.py");
    let finished = run(Command::new(python).arg(script), LIMIT);
    assert!(finished.success(), "{}{}", finished.stdout, finished.stderr);
}

#[test]
fn servers_are_compared() {
    if python().is_none() {
        return;
    }
    let results = own_path("compare");
    let other = format!("other={PROGRAM} --log warn echo --listen 127.0.0.1:{{port}}");
    let mut command = Command::new(format!("{BENCHES}/compare.sh"));
    command.args(["--quick", "--only", "echo-*,fanout-*,connect-*", "--name", "smoke"]);
    command.args(["--servers", "ringhold", "--server", &other, "--fanout", "other"]);
    command.args(["--ringhold", PROGRAM, "--results"]).arg(&results);
    let finished = run(&mut command, LIMIT);
    assert!(finished.success(), "{}{}", finished.stdout, finished.stderr);
    let read = |ending: &str| std::fs::read_to_string(results.join(format!("smoke.{ending}")));
    let figures: Value = serde_json::from_str(&read("json").unwrap()).unwrap();
    let cells = figures["cells"].as_object().unwrap();
    assert_eq!(cells.len(), 3, "{figures}");
    let (table, chart) = (read("md").unwrap(), read("svg").unwrap());
    for (name, cell) in cells {
        for server in ["ringhold", "other"] {
            assert_eq!(cell["runs"][server][0]["ok"], true, "{name} {server}: {cell}");
            assert!(table.contains(&format!("| {name} | {server} | 1 |")), "{table}");
        }
        assert!(chart.contains(&format!(">{name}</text>")), "{chart}");
    }
}

/// Publications by HTTP have their costs, by the public and by the internal port.
#[test]
fn publications_are_measured() {
    if python().is_none() {
        return;
    }
    let mut command = Command::new(format!("{BENCHES}/publish.sh"));
    command.args(["--quick", "--only", "lone,broadcast,batch-16,heard-batch"]);
    command.args(["--ringhold", PROGRAM]);
    command.args(["--server", &format!("twin={PROGRAM} serve --config {{config}}")]);
    let finished = run(&mut command, LIMIT);
    assert!(finished.success(), "{}{}", finished.stdout, finished.stderr);
    let rows =
        ["publish, one connection", "broadcast to 100 channels", "batch of 16, ", "batch of 16 to"];
    for row in rows {
        let line = finished.stdout.lines().find(|line| line.starts_with(&format!("| {row}")));
        let line = line.unwrap_or_else(|| panic!("no {row} in {}", finished.stdout));
        let costs: Vec<_> =
            line.split('|').skip(2).filter(|cell| !cell.trim().is_empty()).collect();
        assert_eq!(costs.len(), 3, "{line}");
        for cost in costs {
            let number = cost.split_whitespace().next().and_then(|text| text.parse::<f64>().ok());
            assert!(number.is_some_and(|number| number > 0.0), "{line}");
        }
    }
}

/// Nodes are restarted under clients of an SDK, who miss nothing: the small form.
#[test]
fn restarts_are_counted() {
    if python().is_none() {
        return;
    }
    if find_program(&["npm"]).is_none() {
        return skip("npm is not installed");
    }
    let mut command = Command::new(format!("{BENCHES}/rolling.sh"));
    command.args(["--engine", "memory", "--nodes", "1", "--rounds", "2", "--clients", "40"]);
    command.args(["--channels", "10", "--rate", "50", "--window", "1", "--processes", "1"]);
    let finished = run(command.args(["--ringhold", PROGRAM]), LIMIT);
    assert!(finished.success(), "{}{}", finished.stdout, finished.stderr);
    let count = |name: &str| {
        let line = finished.stdout.lines().find_map(|line| line.strip_prefix(name));
        let count = line.and_then(|rest| rest.trim().replace(',', "").parse().ok());
        count.unwrap_or_else(|| panic!("{name}: {}", finished.stdout))
    };
    let each: u64 = count("publications ");
    assert_eq!((count("restarts "), count("recovered ")), (2, 80));
    assert!(each > 0 && count("delivered ") == each * 4, "{}", finished.stdout);
}

/// Each figure has its row.
#[test]
fn brokers_are_measured() {
    if python().is_none() {
        return;
    }
    if find_program(&["redis-benchmark"]).is_none() {
        return skip("redis-server is not installed");
    }
    let mut command = Command::new(format!("{BENCHES}/brokers.sh"));
    command.args(["publish", "messages", "latency", "return", "crowd", "--seconds", "0.2"]);
    command.args(["--rounds", "1", "--channels", "1000", "--clients", "100"]);
    let finished = run(command.args(["--ringhold", PROGRAM]), LIMIT);
    assert!(finished.success(), "{}{}", finished.stdout, finished.stderr);
    let rows = finished.stdout.lines().filter(|line| line.starts_with("| ")).count();
    assert_eq!(rows, 1 + 10, "{}", finished.stdout);
}

/// Both forms of each measurement run, and each target has its row.
#[test]
fn compression_is_compared() {
    if python().is_none() {
        return;
    }
    let results = own_path("compare-packed");
    let mut command = Command::new(format!("{BENCHES}/compare.sh"));
    command.args(["--packed", "--quick", "--ringhold", PROGRAM, "--results"]).arg(&results);
    let finished = run(&mut command, LIMIT);
    assert!(finished.success(), "{}{}", finished.stdout, finished.stderr);
    let read =
        |ending: &str| std::fs::read_to_string(results.join(format!("compression.{ending}")));
    let table = read("md").unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| ")).count();
    assert_eq!(rows, 1 + 7, "{table}");
    let figures: Value = serde_json::from_str(&read("json").unwrap()).unwrap();
    let bytes = |form: &str| {
        figures["runs"][format!("fanout-20 ringhold {form}")][0]["bytes"].as_f64().unwrap()
    };
    assert!(bytes("compressed") < 0.5 * bytes("plain"), "{figures}");
}

/// Builds the bare loop, as the tests are built, and returns where it is.
fn floor() -> PathBuf {
    let mut command = Command::new(env!("CARGO"));
    command.args(["build", "--bench", "floor", "--message-format=json-render-diagnostics"]);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    let finished = run(&mut command, BUILD_LIMIT);
    assert!(finished.success(), "{}", finished.stderr);
    let messages = finished.stdout.lines().map_while(|line| serde_json::from_str(line).ok());
    let found = messages
        .filter(|message: &Value| message["target"]["name"] == "floor")
        .find_map(|message| Some(PathBuf::from(message["executable"].as_str()?)));
    found.expect("cargo names the executable")
}

/// Each variant of the bare loop sends back what it is sent: small messages and large ones of
/// several connections at once, many small ones in one piece, and frames in odd pieces.
#[test]
fn every_variant_of_the_floor_echoes() {
    let floor = floor();
    for variant in VARIANTS {
        for payload in [32, 256 * 1024] {
            let mut command = Command::new(&floor);
            command.args(["0", &payload.to_string()]).args(variant.split_whitespace());
            let (server, _) = Server::launch(&mut command, address);
            println!("floor {payload} {variant}");
            echoes(&server, payload, variant);
        }
    }
}

fn echoes(server: &Server, payload: usize, variant: &str) {
    // One after the other, as the loop accepts in blocking style.
    let mut clients: Vec<_> = (0..12).map(|_| Client::open(server)).collect();
    std::thread::scope(|scope| {
        for (index, client) in clients.iter_mut().enumerate() {
            scope.spawn(move || talk(client, payload, index));
        }
    });
    for client in clients.drain(1..) {
        client.close(1000);
    }
    assert!(clients.remove(0).echoes(b"still there"), "{variant}");
}

/// What one client says and hears.
fn talk(client: &mut Client, payload: usize, index: usize) {
    for round in 0..4 {
        let body: Vec<u8> =
            (0..payload).map(|at| (at * 31 + at / 251 + index * 7 + round) as u8).collect();
        client.send_frame(FIN | BINARY, &body);
        client.expect_frame(FIN | BINARY, &body);
    }
    let many: Vec<Vec<u8>> = (0..40).map(|number| vec![number; 32]).collect();
    let wire: Vec<u8> = many.iter().flat_map(|body| frame(FIN | BINARY, body)).collect();
    for len in [wire.len(), 7, 39] {
        wire.chunks(len).for_each(|piece| client.send(piece));
        many.iter().for_each(|body| client.expect_frame(FIN | BINARY, body));
    }
}
