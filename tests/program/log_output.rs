//! Logs and output that nobody takes: a reader that went away, one that does not read, a full disk.
//!
//! Method: the program with its standard error or output made so, by a pipe whose other end is in
//! the test's hands. It must serve, and end by SIGTERM as if somebody read.

use std::fs::File;
use std::io::{Read, Write, pipe};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::daemon::free_port;
use crate::support::{PATIENCE, own_path, wait_for};

/// Where something is written to that nobody takes, and what has to be kept for that.
fn nowhere(how: &str) -> (Stdio, Option<std::io::PipeReader>) {
    match how {
        "full" => (File::options().write(true).open("/dev/full").unwrap().into(), None),
        "gone" => {
            let (reader, writer) = pipe().unwrap();
            drop(reader);
            (writer.into(), None)
        }
        _ => {
            let (reader, mut writer) = pipe().unwrap();
            rustix::io::ioctl_fionbio(&writer, true).unwrap();
            while writer.write(&[b'x'; 4096]).is_ok() {}
            rustix::io::ioctl_fionbio(&writer, false).unwrap();
            (writer.into(), Some(reader))
        }
    }
}

struct Gateway(Child, String);

impl Gateway {
    /// With a file that says where it listens, as its output may be lost.
    fn start(name: &str, stdout: Stdio, stderr: Stdio) -> Self {
        let port = free_port();
        let path = own_path(&format!("log-{name}.toml"));
        let text = format!(
            "[client]\ninsecure = true\n[http_server]\nport = {port}\n[health]\nenabled = true\n\
             [prometheus]\nenabled = true\n[log]\nlevel = \"debug\"\n"
        );
        std::fs::write(&path, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringhold"));
        command.args(["serve", "--stats-interval", "1ms", "--config"]).arg(&path);
        let child = command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn().unwrap();
        let gateway = Self(child, format!("127.0.0.1:{port}"));
        let end = std::time::Instant::now() + PATIENCE;
        while TcpStream::connect(&gateway.1).is_err() {
            assert!(std::time::Instant::now() < end, "it does not listen");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        gateway
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.1).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn dropped(&self) -> u64 {
        let metrics = self.get("/metrics");
        let line =
            metrics.lines().find_map(|line| line.strip_prefix("ringhold_log_dropped_total "));
        line.unwrap().parse().unwrap()
    }

    fn stops(mut self) {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
        let status = wait_for(&mut self.0, PATIENCE).expect("it ends");
        assert!(status.success(), "{status}");
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_log_that_cannot_be_written_stops_nothing() {
    for how in ["gone", "full", "stuck"] {
        let (stderr, _held) = nowhere(how);
        let gateway = Gateway::start(how, Stdio::null(), stderr);
        assert!(gateway.get("/health").starts_with("HTTP/1.1 200 "), "{how}");
        let end = std::time::Instant::now() + PATIENCE;
        // The figures are logged a thousand times a second. Where nobody reads they first wait.
        while how != "stuck" && gateway.dropped() == 0 {
            assert!(std::time::Instant::now() < end, "{how}: nothing is dropped");
        }
        assert!(gateway.get("/health").starts_with("HTTP/1.1 200 "), "{how}");
        gateway.stops();
    }
}

#[test]
fn an_output_that_cannot_be_written_ends_no_server() {
    for how in ["gone", "full", "stuck"] {
        let (stdout, _held) = nowhere(how);
        let gateway = Gateway::start(&format!("out-{how}"), stdout, Stdio::null());
        assert!(gateway.get("/health").starts_with("HTTP/1.1 200 "), "{how}");
        gateway.stops();
    }
}

#[test]
fn a_reader_that_goes_away_ends_a_command_quietly() {
    let token = ["token", "--user", "u", "--secret", "s"];
    for (arguments, code) in [
        (&["config", "example"][..], 0),
        (&["config", "show"], 0),
        (&token, 0),
        (&["doctor", "-c", "100000000"], 1),
        (&["doctor", "-c", "100000000", "--json"], 1),
    ] {
        let run = |stdout: Stdio| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_ringhold"));
            command.args(arguments).stdout(stdout).stderr(Stdio::piped());
            let output = command.spawn().unwrap().wait_with_output().unwrap();
            (output.status.code(), String::from_utf8(output.stderr).unwrap())
        };
        assert_eq!(run(nowhere("gone").0), (Some(code), String::new()), "{arguments:?}");
        let (code, errors) = run(nowhere("full").0);
        assert_eq!(code, Some(1), "{arguments:?}");
        assert!(errors.starts_with("ringhold: standard output: "), "{arguments:?}: {errors}");
    }
    // Nobody can be told, and nothing breaks over it.
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringhold"));
    command.args(["token", "--user", "u"]).stdout(Stdio::null()).stderr(nowhere("gone").0);
    assert_eq!(command.status().unwrap().code(), Some(1));
}
