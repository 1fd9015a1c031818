//! The server as Python's `websockets` client meets it.
//!
//! Method: a virtual environment below the target folder gets the pinned library, then
//! `tests/clients/python/suite.py` runs in it against `ringhold echo`. Each check there prints how
//! often it held; the suite's exit status and these counts are the result. Without Python 3.11 or
//! the library the test says so and checks nothing, but fails where `CI` is set.

use std::process::Command;
use std::time::Duration;

use crate::support::server::Server;
use crate::support::{count_of, packages, run};

const SUITE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/python/suite.py");

/// Setting up needs a package index; the suite needs seconds.
const LIMIT: Duration = Duration::from_secs(1200);

const OPTIONS: [&str; 6] =
    ["--max-connections", "2048", "--heartbeat-start", "1s", "--heartbeat-floor", "1s"];

#[test]
fn websockets_for_python() {
    suite(&[], &[], ("offers", 1));
}

/// The library offers compression unless told not to.
#[test]
fn websockets_for_python_with_compression() {
    suite(&["--compress"], &["compressed"], ("windows", 238));
}

fn suite(options: &[&str], arguments: &[&str], offers: (&str, u64)) {
    let Some(python) = packages::python("tests/clients/python/requirements.txt") else { return };
    let server = Server::start(&[&OPTIONS[..], options].concat());
    let suite = run(Command::new(python).arg(SUITE).arg(server.url()).args(arguments), LIMIT);
    suite.assert_success();
    for (check, count) in [
        ("text", 17),
        ("binary", 12),
        ("fragments", 7),
        ("pings", 226),
        ("close_codes", 13),
        ("faults", 2),
        offers,
        ("keepalive", 3),
        ("order", 3000),
        ("connects", 1000),
    ] {
        assert!(count_of(&suite.stdout, check) >= count, "{check}: {}", suite.stdout);
    }
    server.assert_alive();
    server.stop();
}
