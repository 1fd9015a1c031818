//! A real `redis-server` as a child process, in a folder of its own, ended by id: a server, or a
//! Sentinel.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;

use super::daemon::{Daemon, again, free_port, on_free_ports};
use super::{files, find_program, skip};

/// A running server. Nothing is kept on disk unless its arguments say so.
pub(crate) struct Redis {
    program: PathBuf,
    daemon: Daemon,
    port: u16,
    /// Where nodes of a cluster speak to each other.
    bus: u16,
    arguments: Vec<String>,
    /// What a Sentinel's file says besides.
    sentinel: Option<String>,
    /// What `redis-cli` needs to be let in.
    access: Vec<String>,
}

impl Redis {
    /// Starts one on a free port. `None`, and said: it is not installed.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&[], &[])
    }

    /// With more arguments, in which `PORT` stands for its port; `access` is what `redis-cli` then
    /// needs.
    pub(crate) fn start_with(arguments: &[&str], access: &[&str]) -> Option<Self> {
        Self::start_as(arguments, None, access)
    }

    /// A Sentinel whose file says this.
    pub(crate) fn start_sentinel(file: &str, access: &[&str]) -> Option<Self> {
        Self::start_as(&[], Some(file.to_owned()), access)
    }

    fn start_as(arguments: &[&str], sentinel: Option<String>, access: &[&str]) -> Option<Self> {
        // Another program of the same kind may stand in its place, as Valkey's.
        let other = std::env::var_os("REDIS_SERVER").map(PathBuf::from);
        let Some(program) = other.or_else(|| find_program(&["redis-server"])) else {
            skip("redis-server is not installed");
            return None;
        };
        let secure = |text: &str| text.contains("tls-port");
        let wants =
            arguments.iter().any(|it| secure(it)) || sentinel.as_deref().is_some_and(secure);
        if wants && !has_tls(&program) {
            skip(&format!("{} was built without TLS", program.display()));
            return None;
        }
        let daemon = Daemon::new("redis", files());
        let own = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        let (arguments, access) = (own(arguments), own(access));
        let mut redis = Self { program, daemon, port: 0, bus: 0, arguments, sentinel, access };
        on_free_ports("redis-server", || {
            (redis.port, redis.bus) = (free_port(), free_port());
            redis.launch()
        });
        Some(redis)
    }

    /// Whether it answers.
    fn launch(&mut self) -> bool {
        let port = self.port.to_string();
        let mut command = Command::new(&self.program);
        if let Some(more) = &self.sentinel {
            let file = self.folder().join("sentinel.conf");
            let folder = self.folder().display();
            let more = more.replace("PORT", &port);
            let text = format!("port {port}\nbind 127.0.0.1\ndir \"{folder}\"\n{more}\n");
            std::fs::write(&file, text).expect("the file can be written");
            command.arg(&file).arg("--sentinel");
        } else {
            command.args(["--port", &port, "--bind", "127.0.0.1", "--appendonly", "no"]);
            command.args(["--save", "", "--dir"]).arg(self.folder());
            command.args(self.arguments.iter().map(|argument| argument.replace("PORT", &port)));
            if self.arguments.iter().any(|argument| argument == "--cluster-enabled") {
                command.args(["--cluster-port", &self.bus.to_string()]);
            }
        }
        let (port, access) = (self.port, &self.access);
        let pings = || ask(port, access, &["PING"]).is_some_and(|text| text.contains("PONG"));
        self.daemon.launch(&mut command, pings)
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Where other nodes of its cluster speak to it.
    pub(crate) fn bus(&self) -> u16 {
        self.bus
    }

    /// Its folder.
    pub(crate) fn folder(&self) -> &Path {
        self.daemon.folder()
    }

    /// What `redis-cli` says of a command.
    pub(crate) fn cli(&self, command: &[&str]) -> String {
        self.try_cli(command).unwrap_or_else(|| panic!("no answer to {command:?}"))
    }

    fn try_cli(&self, command: &[&str]) -> Option<String> {
        ask(self.port, &self.access, command)
    }

    /// One field of `INFO`; empty if it is not there. Asked again where there is no answer: a
    /// Sentinel ends all connections to a server that it promotes.
    pub(crate) fn info(&self, field: &str) -> String {
        let mut answer = None;
        super::until("an answer to INFO", || {
            answer = self.try_cli(&["INFO"]);
            answer.is_some()
        });
        let text = answer.unwrap_or_default();
        let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        value.unwrap_or_default().trim().to_owned()
    }

    /// The same in lines.
    pub(crate) fn lines(&self, command: &[&str]) -> Vec<String> {
        self.cli(command).lines().map(str::to_owned).collect()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        self.daemon.signal(signal);
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        self.daemon.kill();
    }

    /// Starts it again on the same port.
    pub(crate) fn restart(&mut self) {
        self.kill();
        again("redis-server", || self.launch());
    }
}

/// What a server needs to be spoken to over TLS only, also by other servers.
pub(crate) fn tls_arguments() -> Vec<String> {
    let file = |name: &str| format!("{KEYS}/{name}");
    let (cert, key, ca) = (file("localhost.pem"), file("localhost.key"), file("ca.pem"));
    // Nodes of a cluster are clients of each other.
    let (client, client_key) = (file("client.pem"), file("client.key"));
    let pairs = [
        ("port", "0"),
        ("tls-port", "PORT"),
        ("tls-cert-file", &cert),
        ("tls-key-file", &key),
        ("tls-client-cert-file", &client),
        ("tls-client-key-file", &client_key),
        ("tls-ca-cert-file", &ca),
        ("tls-auth-clients", "no"),
        ("tls-replication", "yes"),
    ];
    pairs.iter().flat_map(|(name, value)| [format!("--{name}"), (*value).to_owned()]).collect()
}

/// What `redis-cli` needs for it.
pub(crate) fn tls_access() -> Vec<String> {
    ["--tls", "--cacert", &format!("{KEYS}/ca.pem")].map(str::to_owned).to_vec()
}

/// Keys and certificates of the tests.
const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls/keys");

/// Whether a server was built with TLS: else it ends at once, and says so.
fn has_tls(program: &Path) -> bool {
    let mut command = Command::new(program);
    command.args(tls_arguments().iter().map(|argument| argument.replace("PORT", "1")));
    // A port that it may not have: it ends in either case.
    command.args(["--bind", "192.0.2.1"]).stdin(Stdio::null());
    let output = command.output().expect("it can be started");
    let said = [output.stdout, output.stderr].concat();
    !String::from_utf8_lossy(&said).contains("TLS support")
}

/// What `redis-cli` says of a command; `None`: nobody answers.
fn ask(port: u16, access: &[String], command: &[&str]) -> Option<String> {
    let mut cli = Command::new("redis-cli");
    cli.args(["-h", "127.0.0.1", "-p", &port.to_string()]).args(access).args(command);
    let output = cli.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
    output.status.success().then_some(text)
}
