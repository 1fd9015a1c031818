//! What the end-to-end tests share: `ringhold echo` as a child process, a raw-socket client that
//! can send any bytes, and clients of other languages run under a time limit.
//!
//! Nothing here knows the server's code. Every wait has a deadline far beyond what a loaded machine
//! needs and ends as soon as its condition holds; only processes started here are ended, by id.

#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod answers;
pub(crate) mod backend;
pub(crate) mod browser;
pub(crate) mod client;
pub(crate) mod cluster;
pub(crate) mod daemon;
pub(crate) mod deflate;
pub(crate) mod events;
pub(crate) mod figures;
pub(crate) mod front;
pub(crate) mod gateway;
pub(crate) mod moments;
pub(crate) mod nats;
pub(crate) mod numbered;
pub(crate) mod packages;
pub(crate) mod postgresql;
pub(crate) mod redis;
pub(crate) mod sentinel;
pub(crate) mod server;
pub(crate) mod site;
pub(crate) mod stream;
pub(crate) mod unbroken;
pub(crate) mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions};
use rustix::process::{getrlimit, kill_process, kill_process_group, setrlimit, waitid};

/// How long any single condition may take before a test fails: on a machine that is ten times as
/// slow as others and does other things besides, most take seconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// How long the server may take to end after SIGTERM.
const STOP_LIMIT: Duration = PATIENCE;

/// What an external program left behind.
pub(crate) struct Finished {
    /// `None`: it was ended at the time limit.
    pub(crate) status: Option<ExitStatus>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    /// Whether it ended by itself, with 0.
    pub(crate) fn success(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// Fails the test with everything the program said, unless it succeeded.
    pub(crate) fn assert_success(&self) {
        let Self { status, stdout, stderr } = self;
        assert!(self.success(), "ended with {status:?}\n-- stdout\n{stdout}\n-- stderr\n{stderr}");
    }
}

/// A count that a suite printed as a line `name=number`.
pub(crate) fn count_of(output: &str, name: &str) -> u64 {
    let mut lines = output.lines().filter_map(|line| line.trim().split_once('='));
    let found = lines.find(|(key, _)| *key == name).and_then(|(_, value)| value.parse().ok());
    found.unwrap_or_else(|| panic!("no count {name:?} in:\n{output}"))
}

/// An external program with its children in a process group of its own, ended when dropped.
pub(crate) struct Program {
    child: Child,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
}

impl Program {
    /// Starts it, without stdin.
    pub(crate) fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.process_group(0).spawn().expect("the program starts");
        let stdout = child.stdout.take().map(drain);
        let stderr = child.stderr.take().map(drain);
        Self { child, stdout, stderr }
    }

    /// Whether it has not ended yet.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for it to end by itself; at the limit it is ended with all its children.
    pub(crate) fn finish(mut self, limit: Duration) -> Finished {
        let status = wait_for(&mut self.child, limit);
        self.end();
        let text = |reader: Option<JoinHandle<String>>| {
            reader.and_then(|reader| reader.join().ok()).unwrap_or_default()
        };
        Finished { status, stdout: text(self.stdout.take()), stderr: text(self.stderr.take()) }
    }

    /// Ends it and its children at once, and waits until it is gone.
    pub(crate) fn end(&mut self) {
        // Only while the leader has not been waited for is the group's id surely still its own.
        if let Ok(None) = self.child.try_wait() {
            let group = Pid::from_child(&self.child);
            kill_process_group(group, Signal::KILL).expect("the group can be ended");
            wait_for(&mut self.child, STOP_LIMIT);
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.end();
        if let Some(log) = self.stderr.take().and_then(|reader| reader.join().ok())
            && std::thread::panicking()
        {
            eprintln!("--- the program's log ---\n{log}--- end of the log ---");
        }
    }
}

/// Runs an external program to its end.
pub(crate) fn run(command: &mut Command, limit: Duration) -> Finished {
    Program::start(command).finish(limit)
}

/// The first of these programs that `PATH` has.
pub(crate) fn find_program(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let found =
        |name: &&str| std::env::split_paths(&path).map(|d| d.join(name)).find(|f| f.is_file());
    names.iter().find_map(found)
}

/// Says on the real stderr, which the test harness does not capture, why a test checks nothing
/// here. On a CI machine nothing may be missing, so there the test fails.
pub(crate) fn skip(reason: &str) {
    assert!(std::env::var_os("CI").is_none(), "missing on a CI machine: {reason}");
    let _: Result<(), _> = writeln!(std::io::stderr(), "SKIPPED: {reason}");
}

/// Where tests keep files, below the target folder.
pub(crate) fn files() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// A path for a file or a folder of one test; what an earlier run left there is gone. Tests run
/// beside each other, so a name that is taken twice in one process fails at once, on every run.
pub(crate) fn own_path(name: &str) -> PathBuf {
    static TAKEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let is_new = TAKEN.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
    assert!(is_new, "two tests want the path {name:?}");
    let path = files().join(name);
    let removed = if path.is_dir() {
        std::fs::remove_dir_all(&path)
    } else {
        std::fs::remove_file(&path).or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })
    };
    removed.expect("what an earlier run left can be removed");
    path
}

/// Likewise a folder, made and empty.
pub(crate) fn own_folder(name: &str) -> PathBuf {
    let path = own_path(name);
    std::fs::create_dir_all(&path).expect("a folder below target can be made");
    path
}

/// A folder that all tests share, set up once for these `inputs`: `install` fills it when it is new
/// or when the inputs have changed since. `None`: that failed. Tests that want the same folder wait
/// for the first.
pub(crate) fn install_once(
    name: &str,
    inputs: &str,
    install: impl FnOnce(&Path) -> bool,
) -> Option<PathBuf> {
    static FOLDERS: Mutex<BTreeMap<PathBuf, Arc<Mutex<()>>>> = Mutex::new(BTreeMap::new());
    let folder = files().join(name);
    let mut folders = FOLDERS.lock().unwrap_or_else(PoisonError::into_inner);
    let one = folders.entry(folder.clone()).or_default().clone();
    drop(folders);
    // Where another failed within, there is no stamp.
    let _one = one.lock().unwrap_or_else(PoisonError::into_inner);
    let stamp = folder.join("installed-from");
    if std::fs::read_to_string(&stamp).is_ok_and(|text| text == inputs) {
        return Some(folder);
    }
    if folder.exists() {
        std::fs::remove_dir_all(&folder).expect("an old installation can be removed");
    }
    std::fs::create_dir_all(&folder).expect("a folder under target can be made");
    if !install(&folder) {
        return None;
    }
    std::fs::write(&stamp, inputs).expect("the stamp can be written");
    Some(folder)
}

/// Raises this process's limit of open files as far as it may go, for itself and what it starts.
/// Returns the limit (`None`: there is none).
pub(crate) fn raise_open_files() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).expect("the soft limit may go up to the hard one");
    limit.maximum
}

/// Reads a pipe to its end in the background, keeping at most its first mebibyte.
fn drain(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        let mut chunk = [0; 8192];
        while let Ok(count @ 1..) = pipe.read(&mut chunk) {
            let room = (1 << 20) - kept.len();
            kept.extend_from_slice(&chunk[..count.min(room)]);
        }
        String::from_utf8_lossy(&kept).into_owned()
    })
}

/// Sends a child a signal, until it has been waited for. When STOP returns, all its threads stand
/// still: the kernel stops them one after the other.
pub(crate) fn send_signal(child: &Child, signal: Signal) {
    let id = Pid::from_child(child);
    kill_process(id, signal).expect("it can be signalled");
    if signal == Signal::STOP {
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        until("it to stand still", || matches!(waitid(WaitId::Pid(id), options), Ok(Some(_))));
    }
}

/// Waits for a condition.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn wait_for(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return Some(status);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
