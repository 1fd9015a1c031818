//! A real PostgreSQL server as a child process, in a folder of its own, ended by id.
//!
//! Debian keeps its programs outside of `PATH`, and they refuse to run as root: they run as the
//! package's user then.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Signal, getuid};

use super::daemon::{Daemon, again, free_port, on_free_ports};
use super::skip;

/// Of the database's superuser, which the server asks for.
pub(crate) const PASSWORD: &str = "pass word'";

/// A running server.
pub(crate) struct Postgres {
    programs: PathBuf,
    daemon: Daemon,
    port: u16,
    arguments: Vec<String>,
}

impl Postgres {
    /// Starts one on a free port. `None`, and said: it is not installed.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(|_| Vec::new())
    }

    /// With more arguments, for which its folder may be filled.
    pub(crate) fn start_with(arguments: impl FnOnce(&Path) -> Vec<String>) -> Option<Self> {
        let Some(programs) = programs() else {
            skip("postgresql is not installed");
            return None;
        };
        // Its user must get there, and paths of sockets are short.
        let daemon = Daemon::new("ringhold-postgresql", &std::env::temp_dir());
        let folder = daemon.folder();
        let secret = folder.join("password");
        std::fs::write(&secret, PASSWORD).expect("a file can be written");
        own(folder);
        let data = folder.join("data");
        let mut init = as_its_user(&programs.join("initdb"));
        init.args(["--username=postgres", "--auth=scram-sha-256", "--no-sync", "--locale=C.UTF-8"]);
        init.arg("--pgdata").arg(&data).arg("--pwfile").arg(&secret).current_dir(folder);
        let made = init.output().expect("initdb starts");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let arguments = arguments(folder);
        own(folder);
        let mut server = Self { programs, daemon, port: 0, arguments };
        on_free_ports("postgresql", || {
            server.port = free_port();
            server.launch()
        });
        Some(server)
    }

    /// Whether it answers.
    fn launch(&mut self) -> bool {
        let mut command = as_its_user(&self.programs.join("postgres"));
        command.arg("-D").arg(self.folder().join("data")).arg("-k").arg(self.folder());
        command.args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
        command.args(["-c", "fsync=off", "-c", "max_connections=50"]).args(&self.arguments);
        command.current_dir(self.folder());
        let (programs, port) = (&self.programs, self.port);
        self.daemon.launch(&mut command, || answer(&mut psql(programs, port, "SELECT 1")).is_some())
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
        self.daemon.folder()
    }

    /// The values that statements answer, one row a line.
    pub(crate) fn sql(&self, statements: &str) -> String {
        answer(&mut self.psql(statements)).unwrap_or_else(|| panic!("no answer to {statements}"))
    }

    /// `psql` with these statements, still to be started.
    pub(crate) fn psql(&self, statements: &str) -> Command {
        psql(&self.programs, self.port, statements)
    }

    /// Sends the process that accepts connections a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        self.daemon.signal(signal);
    }

    /// Ends it at once. Its other processes end when they see it.
    pub(crate) fn kill(&mut self) {
        self.daemon.kill();
    }

    /// Starts it again on the same port.
    pub(crate) fn restart(&mut self) {
        self.kill();
        // Not before all processes of the last one are gone.
        again("postgresql", || self.launch());
    }
}

fn psql(programs: &Path, port: u16, statements: &str) -> Command {
    let mut psql = Command::new(programs.join("psql"));
    psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1"]);
    psql.args(["-p", &port.to_string(), "-U", "postgres", "-c", statements]);
    psql.env("PGPASSWORD", PASSWORD).stdin(Stdio::null());
    psql
}

/// What it says; `None`: it fails.
fn answer(psql: &mut Command) -> Option<String> {
    let output = psql.stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
    output.status.success().then_some(text)
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
