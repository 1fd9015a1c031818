//! Attacks on the process from outside: nobody reads its log, its output is closed, signals come
//! twice. It goes on serving, and SIGTERM ends it as ever.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::support::client::Client;
use crate::support::gateway::{PATH, Session, address, program, token_of};
use crate::support::{PATIENCE, own_path};

/// What is configured: logs as much as there is.
const CONFIG: &str = r#"
[http_server]
port = 0
[engine]
workers = 2
tick = "10ms"
[client.token]
hmac_secret_key = "secret of the tests"
[client]
ping_interval = "600s"
[log]
level = "trace"
[shutdown]
drain_window = "300ms"
"#;

/// A server whose streams this file holds.
struct Bare {
    child: Child,
    address: SocketAddr,
}

impl Bare {
    /// Starts it; its standard output goes to `keep`.
    fn start(name: &str, keep: impl FnOnce(Box<dyn Read + Send>)) -> Self {
        let path = own_path(&format!("hostile-{name}.toml"));
        std::fs::write(&path, CONFIG).expect("the configuration can be written");
        let mut command = program();
        command.arg("--config").arg(&path).stdin(Stdio::null());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn();
        let mut child = child.expect("the server starts");
        let mut reader = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        let address = loop {
            line.clear();
            let count = reader.read_line(&mut line).expect("lines of text");
            if let Some(address) = address(&line) {
                break address;
            }
            if count == 0 {
                let _ = child.wait();
                panic!("the server does not say where it listens");
            }
        };
        let _ = std::fs::remove_file(&path);
        keep(Box::new(reader));
        Self { child, address }
    }

    fn session(&self) -> Session {
        Session::open_on(Client::connect_to(self.address, None), PATH, &[])
    }

    fn connected(&self, user: &str) -> Session {
        let mut session = self.session();
        session.connect(&json!({"token": token_of(user)}));
        session
    }

    fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("it can be signalled");
    }

    /// Waits for its end.
    fn ended(&mut self) -> Option<ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }

    /// SIGTERM closes everybody in order, and the process ends well.
    fn ends_well(&mut self, sessions: Vec<Session>) {
        self.terminate();
        self.sees_off(sessions);
    }

    fn sees_off(&mut self, sessions: Vec<Session>) {
        for mut session in sessions {
            session.closed(3001);
        }
        let status = self.ended().expect("the server ends behind SIGTERM");
        assert!(status.success(), "{status}");
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // Both fail if it has ended, which is what they are for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sessions that make a server at `trace` say more than a pipe holds.
fn talkative(server: &Bare) -> Vec<Session> {
    let mut sessions: Vec<Session> =
        (0..20).map(|number| server.connected(&format!("user-{number}"))).collect();
    for _ in 0..5 {
        for session in &mut sessions {
            session.ask("presence", json!({"channel": "a"}));
        }
    }
    // Each of these is worth a line.
    for _ in 0..800 {
        let mut session = server.session();
        session.command("connect", &json!({"token": "a.b.c"}));
        session.closed_with();
    }
    sessions
}

/// Whoever reads the log goes away.
pub(crate) fn log_reader_gone() {
    let mut server = Bare::start("log-gone", drop);
    drop(server.child.stderr.take());
    let sessions = talkative(&server);
    server.ends_well(sessions);
}

/// The reader of the log is there and does not read.
pub(crate) fn log_unread() {
    let mut output = None;
    let mut server = Bare::start("log-unread", |rest| output = Some(rest));
    let sessions = talkative(&server);
    server.ends_well(sessions);
}

/// Standard output is closed behind the line that says where the server listens.
pub(crate) fn output_closed() {
    let mut server = Bare::start("output-closed", drop);
    let mut stderr = server.child.stderr.take().expect("piped");
    std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
    let sessions = talkative(&server);
    server.ends_well(sessions);
}

/// A wrapper signals the process and its group: two SIGTERM within a moment are one.
pub(crate) fn terminated_twice() {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut output = None;
        let mut server = Bare::start("twice", |rest| output = Some(rest));
        let mut stderr = server.child.stderr.take().expect("piped");
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        let sessions: Vec<Session> =
            (0..40).map(|number| server.connected(&format!("user-{number}"))).collect();
        let first = Instant::now();
        server.terminate();
        // At once they would be one already for the kernel.
        std::thread::sleep(Duration::from_millis(10));
        server.terminate();
        // Where the machine has made more than a moment of it, again.
        if first.elapsed() < Duration::from_millis(500) {
            return server.sees_off(sessions);
        }
        assert!(Instant::now() < deadline, "there is never a moment");
    }
}
