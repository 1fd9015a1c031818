//! A real PostgreSQL server as a child process, in a folder of its own, ended by id.
//!
//! Debian keeps its programs outside of `PATH`, and they refuse to run as root: they run as the
//! package's user then.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getuid, kill_process};

use super::redis::free_port;
use super::{PATIENCE, skip, wait_for};

/// Of the database's superuser, which the server asks for.
pub(crate) const PASSWORD: &str = "pass word'";

/// A running server.
pub(crate) struct Postgres {
    programs: PathBuf,
    child: Option<Child>,
    port: u16,
    folder: PathBuf,
    arguments: Vec<String>,
}

impl Postgres {
    /// Starts one on a free port. `None`, and said: it is not installed.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(|_| Vec::new())
    }

    /// With more arguments, for which its folder may be filled.
    pub(crate) fn start_with(arguments: impl FnOnce(&Path) -> Vec<String>) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let Some(programs) = programs() else {
            skip("postgresql is not installed");
            return None;
        };
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // Its user must get there, and paths of sockets are short.
        let name = format!("ringhold-postgresql-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("a folder can be made");
        let secret = folder.join("password");
        std::fs::write(&secret, PASSWORD).expect("a file can be written");
        own(&folder);
        let data = folder.join("data");
        let mut init = as_its_user(&programs.join("initdb"));
        init.args(["--username=postgres", "--auth=scram-sha-256", "--no-sync", "--locale=C.UTF-8"]);
        init.arg("--pgdata").arg(&data).arg("--pwfile").arg(&secret).current_dir(&folder);
        let made = init.output().expect("initdb starts");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let arguments = arguments(&folder);
        own(&folder);
        let mut server = Self { programs, child: None, port: 0, folder, arguments };
        // Another process may take the port before the server does.
        for _ in 0..5 {
            server.port = free_port();
            if server.launch() {
                return Some(server);
            }
        }
        panic!("postgresql does not start");
    }

    /// Whether it answers.
    fn launch(&mut self) -> bool {
        let mut command = as_its_user(&self.programs.join("postgres"));
        command.arg("-D").arg(self.folder.join("data")).arg("-k").arg(&self.folder);
        command.args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
        command.args(["-c", "fsync=off", "-c", "max_connections=50"]).args(&self.arguments);
        command.current_dir(&self.folder);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().expect("postgres starts"));
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if self.try_sql("SELECT 1").is_some() {
                return true;
            }
            if let Some(child) = &mut self.child
                && child.try_wait().is_ok_and(|status| status.is_some())
            {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    /// Where it is, as a `dsn` has it.
    pub(crate) fn dsn(&self) -> String {
        format!("postgres://postgres:pass%20word'@127.0.0.1:{}/postgres", self.port)
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Its folder, in which its socket is.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The values that statements answer, one row a line.
    pub(crate) fn sql(&self, statements: &str) -> String {
        self.try_sql(statements).unwrap_or_else(|| panic!("no answer to {statements}"))
    }

    fn try_sql(&self, statements: &str) -> Option<String> {
        let output = self.psql(statements).stderr(Stdio::null()).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        output.status.success().then_some(text)
    }

    /// `psql` with these statements, still to be started.
    pub(crate) fn psql(&self, statements: &str) -> Command {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1"]);
        psql.args(["-p", &self.port.to_string(), "-U", "postgres", "-c", statements]);
        psql.env("PGPASSWORD", PASSWORD).stdin(Stdio::null());
        psql
    }

    /// Sends the process that accepts connections a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).expect("it can be signalled");
    }

    /// Ends it at once. Its other processes end when they see it.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            kill_process(Pid::from_child(&child), Signal::KILL).expect("it can be ended");
            wait_for(&mut child, PATIENCE);
        }
    }

    /// Starts it again on the same port.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let deadline = Instant::now() + PATIENCE;
        // Not before all processes of the last one are gone.
        while !self.launch() {
            assert!(Instant::now() < deadline, "postgresql does not start again");
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
        // Until they are gone its processes write there.
        let deadline = Instant::now() + PATIENCE;
        while self.folder.exists() && Instant::now() < deadline {
            if std::fs::remove_dir_all(&self.folder).is_err() {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// The folder of the newest version's programs.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let folders = versions.filter_map(|version| Some(version.ok()?.path().join("bin")));
    folders.filter(|bin| bin.join("postgres").is_file()).max()
}

/// The program as a user whom it accepts.
fn as_its_user(program: &Path) -> Command {
    if !getuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
    command
}

/// Makes that user the owner of all that is in the folder.
fn own(folder: &Path) {
    if getuid().is_root() {
        let made = Command::new("chown").args(["-R", "postgres:postgres"]).arg(folder).status();
        assert!(made.is_ok_and(|status| status.success()), "the folder can be given away");
    }
}
