//! The gateway as PyPI's `centrifuge-python` meets it, in JSON and in Protobuf, unchanged.
//!
//! Method: a virtual environment below the target folder gets the pinned packages, then
//! `tests/gateway/python/suite.py` runs in it against `ringhold serve`. Each check prints how often
//! it held; the exit status and these counts are the result. Without Python 3.11 or the packages
//! the test says so and checks nothing, but fails where `CI` is set.

use std::path::PathBuf;
use std::process::Command;

use crate::sdks::{check, crowd};
use crate::support::gateway::{API_KEY, Gateway, SECRET};
use crate::support::{packages, raise_open_files};

const SUITE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gateway/python/suite.py");
const CONFIG: &str = include_str!("../gateway/sdk.toml");

/// Python in its environment; `None` where something is missing, which has been said.
fn python() -> Option<PathBuf> {
    packages::python("tests/gateway/python/requirements.txt")
}

/// The checks of the suite, and how often each holds at least.
const CHECKS: [(&str, u64); 16] = [
    ("connect", 3),
    ("publish", 10),
    ("presence", 5),
    ("joins", 5),
    ("history", 7),
    ("recovery", 101),
    ("recovery_fails", 1),
    ("cache", 2),
    ("server_side", 5),
    ("tokens", 5),
    ("subscription_tokens", 4),
    ("delta", 60),
    ("filters", 3),
    ("errors", 8),
    ("ends", 5),
    ("pings", 3),
];

fn features(protocol: &str) {
    let Some(python) = python() else { return };
    raise_open_files();
    let gateway = Gateway::start(CONFIG);
    let api = format!("http://{}/api", gateway.address());
    let arguments = [SUITE, &gateway.url(), &api, API_KEY, SECRET, protocol];
    let mut suite = Command::new(python);
    suite.args(arguments);
    check(&mut suite, &CHECKS);
    let alone = crowd();
    check(&mut suite, &[("crowd", 300)]);
    drop(alone);
    gateway.stop();
}

#[test]
fn centrifuge_python_in_json() {
    features("json");
}

#[test]
fn centrifuge_python_in_protobuf() {
    features("protobuf");
}
