//! `ringhold serve` as an operator meets it: a start without configuration, mistakes that are
//! explained, a configuration that is reloaded, and an orderly end.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{PATIENCE, own_path};

struct Serve {
    child: Child,
    /// What it printed up to the line with its address.
    address: String,
    rest: BufReader<std::process::ChildStdout>,
}

impl Serve {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ringhold"))
            .args(arguments)
            .env_remove("RINGHOLD_CONFIG")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let mut rest = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        rest.read_line(&mut line).expect("a line");
        let url = line.trim().strip_prefix("listening on ws://").unwrap_or_default();
        let address = url.split('/').next().unwrap_or_default().to_owned();
        assert!(!address.is_empty(), "printed {line:?}");
        Self { child, address, rest }
    }

    /// What it prints until a line that begins like this; the rest of that line.
    fn line(&mut self, begins: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.rest.read_line(&mut line).expect("a line") > 0, "no {begins:?}");
            if let Some(rest) = line.trim().strip_prefix(begins) {
                return rest.trim().to_owned();
            }
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("it runs");
    }

    /// Head and body of the answer to a request.
    fn request(&self, head: &str, body: &str) -> String {
        self.request_at("test", head, body)
    }

    fn request_at(&self, host: &str, head: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let request = format!(
            "{head} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {}\r\n\
             X-API-Key: key\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).expect("takes it");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }

    fn publish(&self, channel: &str) -> String {
        self.request("POST /api/publish", &format!(r#"{{"channel":"{channel}","data":{{}}}}"#))
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn file(name: &str, text: &str) -> PathBuf {
    let path = own_path(name);
    std::fs::write(&path, text).expect("a folder for temporary files");
    path
}

const CONFIG: &str = "
[http_server]
port = 0
[client.token]
hmac_secret_key = \"secret\"
[http_api]
key = \"key\"
[[channel.namespaces]]
name = \"chat\"
";

#[test]
fn without_configuration_it_says_what_to_try_and_lets_nobody_in_without() {
    let mut server = Serve::start(&["serve", "--port", "0"]);
    let page = server.line("http://");
    assert_eq!(page, format!("{}/", server.address));
    let token = server.line("token");
    assert_eq!(token.split('.').count(), 3, "{token}");
    // Under a name that is not local it would hand its token to whoever made the name lead here.
    assert!(server.request("GET /", "").starts_with("HTTP/1.1 421 "));
    let page = server.request_at("localhost", "GET /", "");
    assert!(page.starts_with("HTTP/1.1 200 ") && page.contains("demo:chat"), "{page}");
    assert!(server.publish("demo:chat").starts_with("HTTP/1.1 401 "));
    assert!(server.request("GET /nothing", "").starts_with("HTTP/1.1 404 "));
    server.signal(Signal::TERM);
    assert!(server.child.wait().expect("it ends").success());
}

#[test]
fn a_hangup_brings_new_channels_and_a_wrong_file_changes_nothing() {
    let path = file("serve-reload.toml", CONFIG);
    let server = Serve::start(&["serve", "--config", path.to_str().expect("a path")]);
    assert!(server.publish("chat:1").contains("\"result\""));
    assert!(server.publish("news:1").contains("\"code\":102"));

    std::fs::write(&path, "nonsense").expect("it can be written");
    server.signal(Signal::HUP);
    // Nothing tells when it was refused; that it still serves is what matters.
    assert!(server.publish("chat:1").contains("\"result\""));

    std::fs::write(&path, CONFIG.replace("chat", "news")).expect("it can be written");
    server.signal(Signal::HUP);
    let end = Instant::now() + PATIENCE;
    while !server.publish("news:1").contains("\"result\"") {
        assert!(Instant::now() < end, "the new channels did not come");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(server.publish("chat:1").contains("\"code\":102"));
}

#[test]
fn mistakes_are_named_with_their_place() {
    let path = file("serve-wrong.toml", "[client]\nallowed_origin = [\"*\"]\n");
    let output = Command::new(env!("CARGO_BIN_EXE_ringhold"))
        .args(["serve", "--config"])
        .arg(&path)
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains(":2:") && text.contains("allowed_origins"), "{text}");
}

#[test]
fn readiness_goes_before_the_listeners() {
    let text = format!("{CONFIG}[health]\nenabled = true\n[shutdown]\ndelay = \"1h\"\n");
    let path = file("serve-delay.toml", &text);
    // The word `serve` may be left out.
    let mut server = Serve::start(&["--config", path.to_str().expect("a path")]);
    assert!(server.request("GET /ready", "").starts_with("HTTP/1.1 200 "));
    server.signal(Signal::TERM);
    let end = Instant::now() + PATIENCE;
    while !server.request("GET /ready", "").starts_with("HTTP/1.1 503 ") {
        assert!(Instant::now() < end, "it is ready still");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    // Each request is a new connection.
    assert!(server.request("GET /health", "").starts_with("HTTP/1.1 200 "));
    assert!(server.publish("chat:1").contains("\"result\""));
    // Who asks again does not wait for the hour. What comes within a second is the first again.
    while server.child.try_wait().expect("a child").is_none() {
        assert!(Instant::now() < end, "it does not end");
        server.signal(Signal::TERM);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(server.child.wait().expect("it ended").success());
    // When the time is over it drains.
    let path = file("serve-delay-short.toml", &text.replace("1h", "50ms"));
    let mut server = Serve::start(&["--config", path.to_str().expect("a path")]);
    server.signal(Signal::TERM);
    assert!(server.child.wait().expect("it ends").success());
}

#[test]
fn a_log_in_json_is_json_and_a_signal_writes_counters() {
    let path = file("serve-json.toml", &format!("{CONFIG}[log]\nformat = \"json\"\n"));
    let mut child = Command::new(env!("CARGO_BIN_EXE_ringhold"))
        .args(["serve", "--config"])
        .arg(&path)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let pid = Pid::from_child(&child);
    let log = BufReader::new(child.stderr.take().expect("piped"));
    let mut seen = Vec::new();
    for line in log.lines() {
        let line = line.expect("a line");
        // A short secret is warned about before there is a log.
        if line.starts_with("warning: ") && seen.is_empty() {
            continue;
        }
        let event: serde_json::Value =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(event["timestamp"].is_string() && event["level"].is_string(), "{line}");
        if event["message"] == "ready" {
            // It would end a process that does not expect it.
            kill_process(pid, Signal::USR1).expect("it runs");
        }
        if event["target"] == "ringhold::stats" {
            kill_process(pid, Signal::TERM).expect("it runs");
        }
        seen.push(event["message"].as_str().unwrap_or_default().to_owned());
    }
    assert!(child.wait().expect("it ends").success());
    for message in ["ready", "going away", "ended"] {
        assert!(seen.iter().any(|seen| seen == message), "{message}: {seen:?}");
    }
}

#[test]
fn the_version_names_the_build() {
    let said = |flag| {
        let output = Command::new(env!("CARGO_BIN_EXE_ringhold")).arg(flag).output().expect("runs");
        String::from_utf8(output.stdout).expect("text")
    };
    let version = concat!("ringhold ", env!("CARGO_PKG_VERSION"));
    assert_eq!(said("-V").trim(), version);
    let long = said("--version");
    assert!(long.starts_with(&format!("{version} (")) && long.contains("linux"), "{long}");
}
