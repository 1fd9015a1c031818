//! Packages of npm and PyPI, pinned by the files of the suites that need them, in folders below the
//! target folder, one for all tests that need the same. Where they cannot be had, that is said, and
//! the test checks nothing.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{find_program, install_once, run, skip};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The program in an environment.
const PYTHON: &str = "bin/python";

/// A registry may be slow.
const LIMIT: Duration = Duration::from_secs(600);

/// A folder with the packages of `tests/gateway/js` in its `node_modules`. Scripts that use them
/// lie beside those, each test's under names of its own.
pub(crate) fn javascript() -> Option<PathBuf> {
    let Some(npm) = find_program(&["npm"]) else {
        skip("npm is not installed");
        return None;
    };
    let source = Path::new(ROOT).join("tests/gateway/js");
    let files = ["package.json", "package-lock.json", ".npmrc"];
    let read = |file| std::fs::read_to_string(source.join(file)).expect("a source file");
    let mut failure = String::new();
    let folder = install_once("gateway-js", &files.map(read).concat(), |folder| {
        for file in files {
            std::fs::write(folder.join(file), read(file)).expect("a copy");
        }
        let npm = run(Command::new(&npm).arg("ci").current_dir(folder), LIMIT);
        failure = format!("{}{}", npm.stdout, npm.stderr);
        npm.success()
    });
    if folder.is_none() {
        skip(&format!("the packages cannot be installed: {failure}"));
    }
    folder
}

/// Python 3.11 or later in an environment with the packages of this file of the repository.
pub(crate) fn python(requirements: &str) -> Option<PathBuf> {
    let Some(python) = find_program(&["python3"]) else {
        skip("python3 is not installed");
        return None;
    };
    let version = ["-c", "import sys; sys.exit(sys.version_info < (3, 11))"];
    if !run(Command::new(&python).args(version), LIMIT).success() {
        skip("python3 is older than 3.11");
        return None;
    }
    let name = requirements.trim_end_matches(".txt").replace('/', "-");
    let requirements = &Path::new(ROOT).join(requirements);
    let inputs = std::fs::read_to_string(requirements).expect("requirements.txt");
    let mut failure = String::new();
    let environment = install_once(&format!("python-{name}"), &inputs, |environment| {
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
        let mut venv = Command::new(&python);
        let mut install = Command::new(environment.join(PYTHON));
        [venv.args(["-m", "venv"]).arg(environment), install.args(pip).arg(requirements)]
            .into_iter()
            .all(|command| {
                let finished = run(command, LIMIT);
                failure = format!("{}{}", finished.stdout, finished.stderr);
                finished.success()
            })
    });
    if environment.is_none() {
        skip(&format!("the environment cannot be set up: {failure}"));
    }
    environment.map(|environment| environment.join(PYTHON))
}
