//! A real `nats-server` as a child process, in a folder of its own, ended by id; and a bare
//! connection to it, by which tests see and say what they want.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use super::daemon::{Daemon, again, free_port, on_free_ports};
use super::unbroken::unbroken;
use super::{PATIENCE, files, find_program, skip};

/// A running server.
pub(crate) struct Nats {
    program: PathBuf,
    daemon: Daemon,
    port: u16,
    /// Where others of its cluster speak to it.
    routes: u16,
    /// Where it tells of itself.
    monitor: u16,
    /// Its configuration, besides where it listens.
    config: String,
}

impl Nats {
    /// Starts one on a free port. `None`, and said: it is not installed.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with("")
    }

    /// With this in its configuration.
    pub(crate) fn start_with(config: &str) -> Option<Self> {
        // Another version may stand in its place.
        let other = std::env::var_os("NATS_SERVER").map(PathBuf::from);
        let found = || find_program(&["nats-server", "/usr/sbin/nats-server"]);
        let Some(program) = other.or_else(found) else {
            skip("nats-server is not installed");
            return None;
        };
        let daemon = Daemon::new("nats", files());
        let (port, routes, monitor) = (0, 0, 0);
        let mut nats = Self { program, daemon, port, routes, monitor, config: config.to_owned() };
        on_free_ports("nats-server", || {
            (nats.port, nats.routes, nats.monitor) = (free_port(), free_port(), free_port());
            nats.launch()
        });
        Some(nats)
    }

    /// Two servers of one cluster, which know each other.
    pub(crate) fn pair() -> Option<(Self, Self)> {
        let first = Self::start_with(
            "server_name: one\ncluster { name: c, listen: \"127.0.0.1:ROUTES\" }",
        )?;
        let route = format!("nats://127.0.0.1:{}", first.routes);
        let cluster = format!(
            "server_name: two\ncluster {{ name: c, listen: \"127.0.0.1:ROUTES\",
             routes: [\"{route}\"] }}"
        );
        let second = Self::start_with(&cluster)?;
        for server in [&first, &second] {
            super::until("a route between the servers", || {
                // Several connections each since 2.10.
                let told = server.tells("/routez");
                told.contains("\"num_routes\"") && !told.contains("\"num_routes\": 0")
            });
        }
        Some((first, second))
    }

    /// Whether it greets.
    fn launch(&mut self) -> bool {
        let file = self.folder().join("nats.conf");
        let (port, monitor) = (self.port, self.monitor);
        let config = self.config.replace("ROUTES", &self.routes.to_string());
        let text =
            format!("listen: \"127.0.0.1:{port}\"\nhttp: \"127.0.0.1:{monitor}\"\n{config}\n");
        std::fs::write(&file, text).expect("the file can be written");
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(&file).arg("-l").arg(self.folder().join("log"));
        self.daemon.launch(&mut command, || Wire::open(port).is_some())
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// `nats://127.0.0.1:PORT`.
    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Its folder.
    pub(crate) fn folder(&self) -> &Path {
        self.daemon.folder()
    }

    /// What it tells of itself at this path.
    pub(crate) fn tells(&self, path: &str) -> String {
        let mut answer = String::new();
        let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.monitor)) else {
            return answer;
        };
        let request = format!("GET {path} HTTP/1.0\r\n\r\n");
        if stream.write_all(request.as_bytes()).is_ok() {
            let _ = stream.read_to_string(&mut answer);
        }
        answer
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
        again("nats-server", || self.launch());
    }
}

/// A bare connection.
pub(crate) struct Wire {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Wire {
    /// To a server without logins. `None`: nobody greets.
    pub(crate) fn open(port: u16) -> Option<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        let mut wire = Self { stream, input: Vec::new() };
        wire.line().filter(|line| line.starts_with("INFO "))?;
        wire.say("CONNECT {\"verbose\":false,\"pedantic\":false,\"echo\":false}\r\n");
        Some(wire)
    }

    fn fill(&mut self) -> Option<()> {
        let mut chunk = [0; 4096];
        match unbroken(|| self.stream.read(&mut chunk)) {
            Ok(0) => None,
            Ok(bytes) => {
                self.input.extend_from_slice(&chunk[..bytes]);
                Some(())
            }
            Err(_) => None,
        }
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.input.windows(2).position(|it| it == b"\r\n") {
                let line: Vec<u8> = self.input.drain(..end + 2).collect();
                return Some(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            self.fill()?;
        }
    }

    /// Writes.
    pub(crate) fn say(&mut self, text: impl AsRef<[u8]>) {
        self.stream.write_all(text.as_ref()).expect("it can be written to");
    }

    /// Publishes.
    pub(crate) fn publish(&mut self, subject: &str, payload: &[u8]) {
        let head = format!("PUB {subject} {}\r\n", payload.len());
        self.say([head.as_bytes(), payload, b"\r\n"].concat());
    }

    /// Subscribes, and waits until the server knows.
    pub(crate) fn subscribe(&mut self, subject: &str) {
        self.say(format!("SUB {subject} 1\r\n"));
        self.settle();
    }

    /// Waits until the server has done all that was said.
    pub(crate) fn settle(&mut self) {
        self.say("PING\r\n");
        while self.line().expect("it answers") != "PONG" {}
    }

    /// The next message: its subject and its content.
    pub(crate) fn message(&mut self) -> (String, Vec<u8>) {
        loop {
            let line = self.line().expect("a message");
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["MSG", subject, .., bytes] => {
                    let bytes: usize = bytes.parse().expect("a number");
                    while self.input.len() < bytes + 2 {
                        self.fill().expect("the rest of the message");
                    }
                    let payload: Vec<u8> = self.input.drain(..bytes + 2).take(bytes).collect();
                    return (subject.to_owned(), payload);
                }
                ["PING"] => self.say("PONG\r\n"),
                ["-ERR", ..] => panic!("{line}"),
                _ => {}
            }
        }
    }
}
