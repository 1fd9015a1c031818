//! Programs that a story runs in a process of their own: the server where signals matter, and the
//! test program itself where clients have to die all at once.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use super::PATIENCE;

/// A child process; killed when dropped.
pub(crate) struct Child {
    child: std::process::Child,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
}

impl Child {
    /// `ringhold echo` with these options, when it listens, and where.
    pub(crate) fn serve(options: &[&str]) -> (Self, SocketAddr) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringhold"));
        let child = Self::spawn(command.arg("echo").args(options));
        let line = child.line();
        let address = line.strip_prefix("listening on ws://").and_then(|a| a.parse().ok());
        (child, address.unwrap_or_else(|| panic!("unexpected line on stdout: {line:?}")))
    }

    /// The test program itself, running only the ignored test `name` against this server.
    /// [`is_child`] and [`child_port`] tell the test about it.
    pub(crate) fn reenter(name: &str, server: SocketAddr, prefix: &[&str]) -> Self {
        let program = std::env::current_exe().expect("the test program has a path");
        let mut command = match prefix {
            [] => Command::new(&program),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(&program);
                command
            }
        };
        command.args(["--exact", name, "--ignored", "--nocapture", "--test-threads=1"]);
        Self::spawn(command.env(CHILD, server.to_string()))
    }

    /// Any program.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let stdout = lines(child.stdout.take().expect("stdout is piped"));
        let stderr = lines(child.stderr.take().expect("stderr is piped"));
        Self { child, stdout, stderr }
    }

    /// The next line on its standard output.
    pub(crate) fn line(&self) -> String {
        self.stdout.recv_timeout(PATIENCE).expect("the program says something")
    }

    /// Waits for a line of its standard output that contains this.
    pub(crate) fn wait_line(&self, part: &str) -> String {
        loop {
            let line = self.line();
            if line.contains(part) {
                return line;
            }
        }
    }

    /// Sends a signal by its number, with the shell's own `kill`: no `unsafe` for a test.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let status = Command::new("sh").args(["-c", &format!("kill -{name} {id}")]).status();
        assert!(status.is_ok_and(|status| status.success()), "kill -{name} {id}");
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child can be waited for");
    }

    /// Waits for it to end by itself; gives its status and all it said on standard error.
    pub(crate) fn ended(mut self) -> (ExitStatus, Vec<String>) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                break status;
            }
            assert!(Instant::now() < deadline, "the program does not end");
            std::thread::sleep(std::time::Duration::from_millis(2));
        };
        (status, self.stderr.iter().collect())
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_none()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
            if std::thread::panicking() {
                let said: Vec<_> = self.stderr.iter().collect();
                eprintln!("--- the child said ---\n{}\n--- end ---", said.join("\n"));
            }
        }
    }
}

/// Whether this process was started by [`Child::reenter`].
pub(crate) fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// The server that the parent wants this process to talk to.
pub(crate) fn child_port() -> SocketAddr {
    let value = std::env::var(CHILD).expect("set by the parent");
    value.parse().expect("an address")
}

fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let pipe = BufReader::new(pipe);
        // Ends with the process, or when nobody listens any more.
        let _ = pipe.lines().map_while(Result::ok).try_for_each(|line| sender.send(line));
    });
    receiver
}

const CHILD: &str = "RINGHOLD_STORY_SERVER";
