//! The benchmark scripts do what they say: small runs, whose figures nobody looks at.
//!
//! Method: the harness's own tests, then `benches/compare.sh --quick` with `ringhold echo` once as
//! a built-in server and once as any other server that a user names. What is checked is that every
//! run was whole and that table, chart and figures are written. Needs Python 3.10 or later; without
//! it the tests say so and check nothing, but fail where `CI` is set.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use support::{find_program, run, skip};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringhold");
const BENCHES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches");

/// A few seconds where nobody else works.
const LIMIT: Duration = Duration::from_secs(120);

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
    let results = Path::new(env!("CARGO_TARGET_TMPDIR")).join("compare");
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
