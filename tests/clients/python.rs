//! The server as Python's `websockets` client meets it.
//!
//! Method: a virtual environment below the target folder gets the pinned library, then
//! `tests/clients/python/suite.py` runs in it against `ringhold echo`. Each check there prints how
//! often it held; the suite's exit status and these counts are the result. Without Python 3.11 or
//! the library the test says so and checks nothing, but fails where `CI` is set.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use crate::support::server::Server;
use crate::support::{count_of, find_program, install_once, run, skip};

const SUITE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/python/suite.py");
const REQUIREMENTS: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/python/requirements.txt");

/// Setting up needs a package index; the suite needs seconds.
const LIMIT: Duration = Duration::from_secs(300);

/// Python in an environment with the library; `None` where something is missing, which has been
/// said.
fn environment() -> Option<PathBuf> {
    // One test sets up, the others find it done.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().expect("no test fails in here");
    let Some(python) = find_program(&["python3"]) else {
        skip("python3 is not installed");
        return None;
    };
    let version = ["-c", "import sys; sys.exit(sys.version_info < (3, 11))"];
    if !run(Command::new(&python).args(version), LIMIT).success() {
        skip("python3 is older than 3.11");
        return None;
    }
    let environment = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients-python");
    let in_environment = environment.join("bin/python");
    let requirements = std::fs::read_to_string(REQUIREMENTS).expect("requirements.txt");
    let mut failure = String::new();
    let ready = install_once(&environment, &requirements, || {
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
        let venv = run(Command::new(&python).args(["-m", "venv"]).arg(&environment), LIMIT);
        failure = format!("{}{}", venv.stdout, venv.stderr);
        if !venv.success() {
            return false;
        }
        let pip = run(Command::new(&in_environment).args(pip).arg(REQUIREMENTS), LIMIT);
        failure = format!("{}{}", pip.stdout, pip.stderr);
        pip.success()
    });
    if !ready {
        skip(&format!("the environment cannot be set up: {failure}"));
        return None;
    }
    Some(in_environment)
}

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
    let Some(python) = environment() else { return };
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
