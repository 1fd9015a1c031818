//! `ringhold` as a child process: started on a port the kernel gives, ended by its id.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::client::Client;
use super::{PATIENCE, STOP_LIMIT, drain, send_signal, wait_for};

/// The variable that says whether a whole run of tests is over io_uring or epoll: for engines in
/// the tests' own process and for servers that they start.
pub(crate) const IO: &str = "RINGHOLD_IO";

/// A running `ringhold echo`, or what [`super::gateway`] starts.
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
    /// Behind a lock so that threads of a test can share the server.
    stdout: Mutex<Receiver<String>>,
    stderr: Option<JoinHandle<String>>,
}

impl Server {
    /// Starts the program on a port the kernel gives and waits for its one line on stdout.
    /// `options` replace the defaults of this function where they name the same flag.
    pub(crate) fn start(options: &[&str]) -> Self {
        let mut command = Command::new(under_test());
        command.args(["echo", "--listen", "127.0.0.1:0"]);
        // Clients that wait for their processor are not late.
        let patience = ("--handshake-timeout", "110s");
        for (flag, value) in [("--workers", "2"), ("--max-connections", "256"), patience] {
            if !options.iter().any(|option| option.split('=').next() == Some(flag)) {
                command.args([flag, value]);
            }
        }
        // Raw sockets answer no pings; a test that wants heartbeats says how often.
        if !options.iter().any(|option| option.starts_with("--heartbeat-")) {
            command.arg("--no-heartbeat");
        }
        let mut server = Self::spawn(command.args(options));
        let line = server.line().expect("the server says where it listens");
        let address = line.strip_prefix("listening on ws://").and_then(|a| a.parse().ok());
        server.address = address.unwrap_or_else(|| panic!("unexpected line on stdout: {line:?}"));
        assert!(server.address.ip().is_loopback() && server.address.port() != 0, "{line:?}");
        server.goes_the_way();
        server
    }

    /// Asserts that a run over epoll has no ring in any server, not even in its control plane.
    pub(crate) fn goes_the_way(&self) {
        if std::env::var_os(IO).is_none_or(|way| way != "epoll") {
            return;
        }
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.id())).expect("it runs");
        let links = open.flatten().filter_map(|file| std::fs::read_link(file.path()).ok());
        let kinds: Vec<_> = links.map(|link| link.to_string_lossy().into_owned()).collect();
        let has = |kind: &str| kinds.iter().any(|text| text.contains(kind));
        assert!(has("eventpoll") && !has("io_uring"), "{kinds:?}");
    }

    /// Starts the program, and has its output read. Where it listens is not known yet.
    fn spawn(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the server program starts");

        let (lines, stdout) = channel();
        let pipe = BufReader::new(child.stdout.take().expect("stdout is piped"));
        std::thread::spawn(move || {
            // Ends with the process: when the pipe closes, or when nobody listens any more.
            let _: Result<(), _> =
                pipe.lines().map_while(Result::ok).try_for_each(|l| lines.send(l));
        });
        let stderr = Some(drain(child.stderr.take().expect("stderr is piped")));

        Self { child, address: ([127, 0, 0, 1], 0).into(), stdout: Mutex::new(stdout), stderr }
    }

    /// Starts the program with these arguments and reads what it prints until `address` finds in
    /// a line where it listens. Returns the lines too.
    pub(crate) fn launch(
        command: &mut Command,
        address: impl Fn(&str) -> Option<SocketAddr>,
    ) -> (Self, Vec<String>) {
        let mut server = Self::spawn(command);
        let mut lines = Vec::new();
        while let Some(line) = server.line() {
            let found = address(&line);
            lines.push(line);
            if let Some(found) = found {
                server.address = found;
                return (server, lines);
            }
        }
        panic!("the server does not say where it listens: {lines:?}");
    }

    /// The next line on stdout; `None` when there comes none.
    pub(crate) fn line(&self) -> Option<String> {
        self.stdout.lock().expect("no panic").recv_timeout(PATIENCE).ok()
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its address as a WebSocket URL.
    pub(crate) fn url(&self) -> String {
        format!("ws://{}/", self.address)
    }

    /// The process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends the process a signal. Its id is its own until it has been waited for.
    pub(crate) fn signal(&self, signal: Signal) {
        send_signal(&self.child, signal);
    }

    /// Waits for the process to end.
    pub(crate) fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        wait_for(&mut self.child, limit)
    }

    /// Opens a connection, has a message echoed and closes: the server still works.
    pub(crate) fn assert_alive(&self) {
        assert!(Client::open(self).echoes(b"still there?"));
    }

    /// Likewise on a server whose places may all be taken by clients that are just leaving.
    pub(crate) fn assert_alive_within(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        while !Client::try_open(self).is_some_and(|client| client.echoes(b"still there?")) {
            assert!(Instant::now() < deadline, "the server does not come back to work");
        }
    }

    /// Ends the server by SIGTERM and asserts that it ends well.
    pub(crate) fn stop(self) {
        self.signal(Signal::TERM);
        self.ended();
    }

    /// Asserts that it exits with 0 after a signal and has printed nothing more.
    pub(crate) fn ended(mut self) {
        self.exited_well();
        let more: Vec<_> = self.stdout.lock().expect("no panic").iter().collect();
        assert!(more.is_empty(), "more than one line on stdout: {more:?}");
    }

    /// Asserts that it exits with 0 after a signal.
    pub(crate) fn exited_well(&mut self) {
        let status = self.wait(STOP_LIMIT).expect("the server ends behind SIGTERM");
        assert!(status.success(), "the server ended with {status} (signal {:?})", status.signal());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.signal(Signal::TERM);
            if self.wait(STOP_LIMIT).is_none() {
                self.signal(Signal::KILL);
                self.wait(STOP_LIMIT);
            }
        }
        let log = self.stderr.take().and_then(|reader| reader.join().ok()).unwrap_or_default();
        if std::thread::panicking() {
            eprintln!("--- the server's log ---\n{log}--- end of the log ---");
        }
    }
}

/// The program. `SERVER_UNDER_TEST` names another build of it, for long runs and other processors.
pub(crate) fn under_test() -> OsString {
    std::env::var_os("SERVER_UNDER_TEST").unwrap_or_else(|| env!("CARGO_BIN_EXE_ringhold").into())
}

/// Runs a test against a fresh server, then asserts that the server still works and ends well.
pub(crate) fn serve(options: &[&str], test: impl FnOnce(&Server)) {
    let server = Server::start(options);
    test(&server);
    server.assert_alive();
    server.stop();
}
