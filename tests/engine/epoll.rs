//! The engine over epoll, for hosts that refuse io_uring. The suites of the engine run over it too
//! when `RINGHOLD_IO=epoll` is set; here a server is asked for it and looked at from outside.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// No run is about these.
const PATIENT: [&str; 4] = ["--handshake-timeout", "100s", "--linger", "100s"];

struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(arguments: &[&str], variable: Option<&str>) -> Self {
        let echo = ["echo", "--listen", "127.0.0.1:0", "--workers", "2"];
        Self::launch(&[&echo, arguments].concat(), variable)
    }

    fn launch(words: &[&str], variable: Option<&str>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringhold"));
        command.args(words);
        command.env_remove("RINGHOLD_IO").envs(variable.map(|value| ("RINGHOLD_IO", value)));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        let output = child.stdout.as_mut().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("listening on ").expect(&line).to_owned();
        Self { child, url }
    }

    /// How many descriptors of the process are of this kind.
    fn descriptors(&self, kind: &str) -> usize {
        let directory = format!("/proc/{}/fd", self.child.id());
        let links = fs::read_dir(directory).unwrap().flatten();
        let targets = links.filter_map(|link| fs::read_link(link.path()).ok());
        targets.filter(|target| target.to_string_lossy().contains(kind)).count()
    }

    fn load(&self, path: &str, arguments: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringhold"));
        command.arg("load").args(arguments).arg("--url").arg(format!("{}{path}", self.url));
        command.args(PATIENT);
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text} {}", String::from_utf8_lossy(&output.stderr));
        text
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn epoll_is_used_where_it_is_asked_for() {
    for (flags, variable) in [(&["--io", "epoll"][..], None), (&[], Some("epoll"))] {
        let server = Server::start(flags, variable);
        assert!(server.descriptors("eventpoll") >= 2, "a set for each worker");
        assert_eq!(server.descriptors("io_uring"), 0, "the control plane has no ring either");
        server.load("", &["echo", "-c", "200", "-d", "500ms", "-b", "70000", "--pipeline", "2"]);
        server.load("/fanout/all", &["fanout", "-c", "200", "-d", "500ms", "-r", "20"]);
    }
    let server = Server::start(&["--io", "uring"], Some("epoll"));
    assert!(server.descriptors("io_uring") >= 2, "the flag goes before the variable");
}

#[test]
fn the_gateway_is_asked_by_its_flag() {
    for (way, wanted, other) in [("epoll", "eventpoll", "io_uring"), ("uring", "io_uring", "")] {
        let server = Server::launch(&["serve", "--port", "0", "--io", way], None);
        assert!(server.descriptors(wanted) >= 2, "{way}");
        assert!(other.is_empty() || server.descriptors(other) == 0, "{way}");
    }
}

#[test]
fn clients_dial_over_epoll_too() {
    let server = Server::start(&[], None);
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringhold"));
    command.args(["load", "echo", "-c", "300", "-d", "500ms", "--url", &server.url]);
    command.args(PATIENT);
    let output = command.env("RINGHOLD_IO", "epoll").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text} {}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("300 clean"), "{text}");
}
