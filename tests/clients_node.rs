//! The server as the client of Node's `ws` package meets it.
//!
//! Method: a copy of `tests/clients/node` below the target folder gets the locked package by
//! `npm ci`, then `suite.mjs` runs there against `ringhold echo`. Each check prints how often it
//! held; the suite's exit status and these counts are the result. Without Node 18, npm or the
//! package the test says so and checks nothing, but fails where `CI` is set.

mod support;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use support::server::Server;
use support::{count_of, find_program, install_once, run, skip};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/node");
const FILES: [&str; 4] = ["package.json", "package-lock.json", ".npmrc", "suite.mjs"];

/// Setting up needs a package registry; the suite needs seconds.
const LIMIT: Duration = Duration::from_secs(300);

#[test]
fn ws_for_node() {
    let (Some(node), Some(npm)) = (find_program(&["node", "nodejs"]), find_program(&["npm"]))
    else {
        return skip("node or npm is not installed");
    };
    let version = ["-e", "process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)"];
    if !run(Command::new(&node).args(version), LIMIT).success() {
        return skip("node is older than 18");
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients-node");
    let read = |file| std::fs::read_to_string(Path::new(SOURCE).join(file)).expect("a source file");
    let inputs = FILES.map(read).concat();
    let mut failure = String::new();
    let ready = install_once(&folder, &inputs, || {
        for file in FILES {
            std::fs::write(folder.join(file), read(file)).expect("the file can be copied");
        }
        let npm = run(Command::new(&npm).arg("ci").current_dir(&folder), LIMIT);
        failure = format!("{}{}", npm.stdout, npm.stderr);
        npm.success()
    });
    if !ready {
        return skip(&format!("the package cannot be installed: {failure}"));
    }

    let server = Server::start(&[
        "--max-connections",
        "2048",
        "--heartbeat-start",
        "1s",
        "--heartbeat-floor",
        "1s",
    ]);
    let suite = run(Command::new(&node).arg(folder.join("suite.mjs")).arg(server.url()), LIMIT);
    suite.assert_success();
    for (check, count) in [
        ("text", 17),
        ("binary", 12),
        ("fragments", 10),
        ("stream", 1),
        ("pings", 126),
        ("close_codes", 14),
        ("faults", 2),
        ("offers", 1),
        ("order", 3000),
        ("connects", 1000),
    ] {
        assert_eq!(count_of(&suite.stdout, check), count, "{check}: {}", suite.stdout);
    }
    server.assert_alive();
    server.stop();
}
