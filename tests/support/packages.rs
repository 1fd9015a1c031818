//! Packages of npm and PyPI, pinned by the files of the suites that need them, in folders below the
//! target folder, one for all tests that need the same. Where they cannot be had, that is said, and
//! the test checks nothing.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{find_program, install_once, run, skip};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A registry may be slow.
const LIMIT: Duration = Duration::from_secs(600);

/// A folder with the packages of `tests/gateway/js` in its `node_modules`. Scripts that use them
/// lie beside those, each test's under names of its own.
pub(crate) fn javascript() -> Option<PathBuf> {
    let Some(npm) = find_program(&["npm"]) else {
        skip("npm is not installed");
        return None;
    };
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("gateway-js");
    let source = Path::new(ROOT).join("tests/gateway/js");
    let files = ["package.json", "package-lock.json", ".npmrc"];
    let read = |file| std::fs::read_to_string(source.join(file)).expect("a source file");
    let mut failure = String::new();
    let ready = install_once(&folder, &files.map(read).concat(), || {
        for file in files {
            std::fs::write(folder.join(file), read(file)).expect("a copy");
        }
        let npm = run(Command::new(&npm).arg("ci").current_dir(&folder), LIMIT);
        failure = format!("{}{}", npm.stdout, npm.stderr);
        npm.success()
    });
    if !ready {
        skip(&format!("the packages cannot be installed: {failure}"));
        return None;
    }
    Some(folder)
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
    let environment = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("python-{name}"));
    let requirements = &Path::new(ROOT).join(requirements);
    let inside = environment.join("bin/python");
    let inputs = std::fs::read_to_string(requirements).expect("requirements.txt");
    let mut failure = String::new();
    let ready = install_once(&environment, &inputs, || {
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
        let mut venv = Command::new(&python);
        let mut install = Command::new(&inside);
        [venv.args(["-m", "venv"]).arg(&environment), install.args(pip).arg(requirements)]
            .into_iter()
            .all(|command| {
                let finished = run(command, LIMIT);
                failure = format!("{}{}", finished.stdout, finished.stderr);
                finished.success()
            })
    });
    if !ready {
        skip(&format!("the environment cannot be set up: {failure}"));
        return None;
    }
    Some(inside)
}
