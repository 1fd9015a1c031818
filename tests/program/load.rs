//! `ringhold load` as its users run it: against `ringhold echo` and `ringhold serve`, against
//! servers that do wrong in known ways, and against none.
//!
//! Each test starts its own server on a port the kernel chooses, runs the program, and reads its
//! exit status and report. What a faulty server does wrong is counted there, so the report can be
//! compared with the truth. No test depends on how fast anything is.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use serde_json::Value;
use tungstenite::{Message, WebSocket};

use crate::support::daemon::free_address;
use crate::support::own_path;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringhold");

const SECRET: &str = "a secret of tests";

/// Its pings come soon.
const GATEWAY: &str = r#"
[client]
ping_interval = "8s"
pong_timeout = "7s"

[client.token]
hmac_secret_key = "a secret of tests"

[[channel.namespaces]]
name = "load"
history_size = 100
history_ttl = "600s"
force_recovery = true
allow_subscribe_for_client = true
allow_publish_for_client = true
"#;

/// A running `ringhold echo` or `ringhold serve`.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(PROGRAM);
        command.args(["--log", "warn", "echo", "--listen", "127.0.0.1:0"]).args(arguments);
        Self::spawn(command)
    }

    /// A gateway with this configuration, in a file of this name.
    fn serve(name: &str, configuration: &str) -> Self {
        let file = own_path(&format!("load-{name}.toml"));
        std::fs::write(&file, configuration).unwrap();
        let mut command = Command::new(PROGRAM);
        command.args(["--log", "warn", "serve", "--port", "0", "--config"]).arg(&file);
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("listening on ").unwrap().to_owned();
        Self { child, url }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn load(arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("load").args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Where a test says nothing of these, they are as long as a slow machine may need.
    for (flag, value) in [("--handshake-timeout", "100s"), ("--linger", "100s")] {
        if !arguments.is_empty() && !arguments.contains(&flag) {
            command.args([flag, value]);
        }
    }
    command
}

/// Runs to the end and returns exit status, report and what was said on standard error.
fn report(arguments: &[&str]) -> (i32, Value, String) {
    read(load(arguments).arg("--json").output().unwrap())
}

fn read(output: Output) -> (i32, Value, String) {
    let errors = String::from_utf8(output.stderr).unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code().unwrap(), report, errors)
}

/// A server of a few lines that answers each message as `answer` says.
fn faulty(answer: fn(&mut WebSocket<TcpStream>, u64, Message)) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || {
                let Ok(mut socket) = tungstenite::accept(stream.unwrap()) else { return };
                let mut number = 0;
                while let Ok(message) = socket.read() {
                    if message.is_binary() {
                        number += 1;
                        answer(&mut socket, number, message);
                        let _ = socket.flush();
                    }
                }
            });
        }
    });
    url
}

#[test]
fn idle_connections_are_opened_held_and_closed() {
    let server = Server::start(&["--heartbeat-start", "200ms", "--heartbeat-floor", "200ms"]);
    let pid = server.child.id().to_string();
    let arguments = ["idle", "--url", &server.url, "-c", "200", "-d", "1s", "--server-pid", &pid];
    let (status, report, errors) = report(&arguments);
    assert_eq!(status, 0, "{report} {errors}");
    assert_eq!(report["opening"]["opened"], 200);
    assert_eq!(report["lost"], 0);
    assert_eq!(report["closing"]["clean"], 200);
    assert_eq!(report["closing"]["cut"], 0);
    assert!(report["server"]["rss_bytes"].as_u64().unwrap() > 0);
    assert!(report["seconds"].as_f64().unwrap() >= 1.0);
    assert!(report["messages"].is_null());
}

#[test]
fn echoes_in_a_closed_loop() {
    let server = Server::start(&[]);
    for more in [&["-b", "32"][..], &["-b", "70000", "--pipeline", "3", "--threads", "1"]] {
        let mut arguments = vec!["echo", "--url", &server.url, "-c", "200", "-d", "6s"];
        arguments.extend(more);
        let (status, report, errors) = report(&arguments);
        assert_eq!(status, 0, "{report} {errors}");
        let messages = &report["messages"];
        assert!(messages["sent"].as_u64().unwrap() >= 200);
        assert_eq!(messages["sent"], messages["received"]);
        assert_eq!(messages["lost"], 0);
        assert!(messages["latency_us"]["p50"].as_f64().unwrap() > 0.0);
        assert_eq!(report["closing"]["clean"], 200);
    }
}

#[test]
fn echoes_at_a_fixed_rate() {
    let server = Server::start(&[]);
    let arguments =
        ["echo", "--url", &server.url, "-c", "50", "-d", "1s", "--warmup", "0s", "-r", "1000"];
    let (status, report, errors) = report(&arguments);
    assert_eq!(status, 0, "{report} {errors}");
    let sent = report["messages"]["sent"].as_u64().unwrap();
    // When messages are due is tested where time is a parameter.
    assert!(sent > 0);
    assert_eq!(report["messages"]["unsent"], 0);
    assert_eq!(report["messages"]["received"], sent);
}

#[test]
fn a_latency_that_was_asked_for_is_demanded() {
    let server = Server::start(&[]);
    for (limit, expected) in [("1h", 0), ("1ns", 3)] {
        let arguments = ["echo", "--url", &server.url, "-c", "5", "-d", "2s"];
        let (status, report, errors) = report(&[&arguments[..], &["--max-p99", limit]].concat());
        assert_eq!(status, expected, "{report} {errors}");
        assert_eq!(report["ok"], expected == 0);
        assert_eq!(report["messages"]["lost"], 0);
    }
}

#[test]
fn large_messages_among_small_ones() {
    let server = Server::start(&[]);
    for mode in [&["-r", "2000"][..], &["--pipeline", "4"]] {
        let mut arguments = vec!["echo", "--url", &server.url, "-c", "20", "-d", "4s"];
        arguments.extend(["-b", "32", "--large", "100KiB", "--large-share", "0.2"]);
        arguments.extend(mode);
        let (status, report, errors) = report(&arguments);
        assert_eq!(status, 0, "{report} {errors}");
        let messages = &report["messages"];
        assert_eq!(messages["sent"], messages["received"]);
        let [all, large] = [&messages["measured"], &messages["large"]["measured"]];
        let [all, large] = [all, large].map(|count| count.as_u64().unwrap());
        assert!(0 < large && large < all, "{messages}");
        assert!(messages["large"]["latency_us"]["p50"].as_f64().unwrap() > 0.0);
        assert!(messages["latency_us"]["p50"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn half_of_the_connections_leave_and_come_back() {
    let server = Server::start(&["--workers", "2"]);
    for workload in [&["idle"][..], &["echo", "-r", "2000"], &["echo", "--pipeline", "2"]] {
        let mut arguments = workload.to_vec();
        arguments.extend(["--url", &server.url, "-c", "300", "-d", "8s"]);
        arguments.extend(["--storm-after", "200ms", "--threads", "2", "--close-rate", "0"]);
        let (status, report, errors) = report(&arguments);
        assert_eq!(status, 0, "{report} {errors}");
        let storm = &report["storm"];
        assert_eq!((&storm["left"], &storm["back"]), (&150.into(), &150.into()), "{report}");
        assert!(storm["back_us"]["max"].as_f64().unwrap() > 0.0);
        assert!(storm["resumed"].is_null(), "in the clear there is no session");
        assert_eq!(report["opening"]["opened"], 300);
        assert_eq!(report["lost"], 0);
        assert_eq!(report["closing"]["clean"], 300);
        assert!(report["closing"]["seconds"].as_f64().unwrap() > 0.0);
        if workload[0] == "echo" {
            assert_eq!(report["messages"]["sent"], report["messages"]["received"]);
        }
    }
}

/// Each by a ticket of its own, unless that is not wanted; the first time nobody has one.
#[test]
fn who_comes_back_over_tls_goes_on_with_the_session() {
    let (cert, key) = (key_file("localhost.pem"), key_file("localhost.key"));
    let server = Server::start(&["--workers", "2", "--tls-cert", &cert, "--tls-key", &key]);
    for (more, resumed) in [(&[][..], 50), (&["--no-resumption"], 0)] {
        let url = ["--url", &server.url, "--insecure"];
        let size = ["-c", "100", "-d", "8s", "--threads", "2"];
        let storm = ["--storm-after", "100ms", "--storm-share", "0.5"];
        let arguments = [&["idle"][..], &url, &size, &storm, more].concat();
        let (status, report, errors) = report(&arguments);
        assert_eq!(status, 0, "{report} {errors}");
        let storm = &report["storm"];
        assert_eq!((&storm["back"], &storm["resumed"]), (&50.into(), &resumed.into()), "{report}");
    }
}

#[test]
fn every_subscriber_gets_every_message() {
    let server = Server::start(&["--workers", "3"]);
    let url = format!("{}/fanout/news", server.url);
    for mode in [&["-r", "40", "--publishers", "3"][..], &["--pipeline", "2"]] {
        let mut arguments = vec!["fanout", "--url", &url, "-c", "200", "-d", "4s"];
        arguments.extend(mode);
        let (status, report, errors) = report(&arguments);
        assert_eq!(status, 0, "{report} {errors}");
        let messages = &report["messages"];
        let sent = messages["sent"].as_u64().unwrap();
        assert!(sent > 0);
        assert_eq!(messages["expected"], sent * 200);
        assert_eq!(messages["received"], sent * 200);
        assert_eq!(messages["duplicates"], 0);
        assert_eq!(messages["late"], 0);
    }
}

fn key_file(name: &str) -> String {
    format!("{}/tests/tls/keys/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn each_workload_over_tls() {
    let (cert, key) = (key_file("localhost.pem"), key_file("localhost.key"));
    let server = Server::start(&["--workers", "2", "--tls-cert", &cert, "--tls-key", &key]);
    assert!(server.url.starts_with("wss://127.0.0.1:"), "{}", server.url);
    let fanout = format!("{}/fanout/news", server.url);
    let ca = key_file("ca.pem");
    for (workload, url) in [
        (&["idle", "-d", "8s", "--storm-after", "50ms"][..], &server.url),
        (&["echo", "-d", "2s", "-r", "1000"], &server.url),
        (&["echo", "-d", "2s", "-b", "70000", "--pipeline", "3"], &server.url),
        (&["fanout", "-d", "2s", "-r", "40", "--publishers", "3"], &fanout),
    ] {
        for trust in [&["--ca", &ca][..], &["--insecure"]] {
            let arguments = [workload, &["--url", url, "-c", "100", "--threads", "2"], trust];
            let (status, report, errors) = report(&arguments.concat());
            assert_eq!(status, 0, "{report} {errors}");
            assert_eq!(report["opening"]["opened"], 100);
            assert_eq!(report["closing"]["clean"], 100);
            let messages = &report["messages"];
            assert_eq!(messages["expected"], messages["received"], "{messages}");
        }
    }
    let arguments = ["idle", "--url", &server.url, "-c", "3", "--ca", &key_file("client.pem")];
    let (status, _, errors) = report(&arguments);
    assert_eq!(status, 1, "{errors}");
    assert!(errors.contains("UnknownIssuer: name its authority by --ca"), "{errors}");
    let (status, _, errors) = report(&["idle", "--url", &server.url, "--ca", "/no/file"]);
    assert_eq!(status, 1, "{errors}");
    assert!(errors.contains("authorities: No such file"), "{errors}");
}

#[test]
fn clients_of_the_gateway_are_let_in_and_held() {
    let server = Server::serve("idle", GATEWAY);
    let pid = server.child.id().to_string();
    for more in [
        &["--encoding", "protobuf", "-d", "9s"][..],
        &["--channel", "load:{n}", "--channels", "7", "-d", "100ms"],
        &["--channel", "", "-d", "100ms"],
    ] {
        let mut arguments = vec!["idle", "--gateway", "--url", &server.url, "-c", "200"];
        arguments.extend(["--secret", SECRET, "--server-pid", &pid]);
        arguments.extend(more);
        let (status, report, errors) = report(&arguments);
        assert_eq!(status, 0, "{report} {errors}");
        assert_eq!(report["opening"]["opened"], 200);
        assert_eq!(report["closing"]["clean"], 200);
        assert!(report["messages"].is_null());
        assert!(report["server"]["rss_per_connection"].is_number());
        let heartbeats = report["heartbeats"].as_u64().unwrap();
        if more[1] == "protobuf" {
            // Each connection has its first ping within the interval.
            assert!(heartbeats > 0, "{report}");
            assert_eq!(report["protocol"], "protobuf");
        }
    }
}

#[test]
fn every_subscriber_gets_every_publication() {
    let server = Server::serve("fanout", GATEWAY);
    let pid = server.child.id().to_string();
    for (mode, burst) in [
        (&["-r", "20"][..], 1),
        (&["-r", "40", "--burst", "4", "--encoding", "protobuf", "--publishers", "2"], 4),
        (&["--burst", "16", "-b", "8000"], 16),
    ] {
        let mut arguments = vec!["fanout", "--gateway", "--url", &server.url, "-c", "50"];
        arguments.extend(["-d", "1s", "--warmup", "0s", "--secret", SECRET]);
        arguments.extend(["--server-pid", &pid]);
        arguments.extend(mode);
        let (status, report, errors) = report(&arguments);
        assert_eq!(status, 0, "{report} {errors}");
        let messages = &report["messages"];
        let sent = messages["sent"].as_u64().unwrap();
        assert!(sent > 0 && sent.is_multiple_of(burst), "{messages}");
        assert_eq!(messages["received"], sent * 50);
        assert_eq!((&messages["lost"], &messages["duplicates"]), (&0.into(), &0.into()));
        assert_eq!((&messages["late"], &messages["burst"]), (&0.into(), &burst.into()));
        assert!(messages["latency_us"]["p999"].as_f64().unwrap() > 0.0);
        assert!(report["server"]["messages_per_cpu_second"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn what_the_gateway_refuses_is_quoted() {
    let closed = GATEWAY.replace("allow_publish_for_client = true", "");
    let server = Server::serve("refused", &closed);
    for (more, reason) in [
        (&["--token", "x.y.z"][..], "closed by the server with 3500"),
        (&[], "closed by the server with 3501"),
        (&["--secret", SECRET, "--channel", "no:x"], "subscribe refused with 102: unknown"),
    ] {
        let mut arguments = vec!["idle", "--gateway", "--url", &server.url, "-c", "20"];
        arguments.extend(more);
        let (status, _, errors) = report(&arguments);
        assert_eq!(status, 1, "{errors}");
        assert!(errors.contains(reason), "{errors}");
    }
    let arguments = ["fanout", "--gateway", "--url", &server.url, "-c", "5", "-r", "50"];
    let more = ["-d", "200ms", "--linger", "8s", "--secret", SECRET];
    let (status, report, errors) = report(&[&arguments[..], &more].concat());
    assert_eq!(status, 3, "{report} {errors}");
    let refused = &report["messages"]["refused"]["publish refused with 103: permission denied"];
    assert_eq!(refused, &report["messages"]["sent"]);
}

#[test]
fn clients_of_the_gateway_leave_and_come_back() {
    let server = Server::serve("storm", GATEWAY);
    let arguments = ["idle", "--gateway", "--url", &server.url, "-c", "100", "-d", "8s"];
    let more = ["--secret", SECRET, "--storm-after", "100ms", "--threads", "2"];
    let (status, report, errors) = report(&[&arguments[..], &more].concat());
    assert_eq!(status, 0, "{report} {errors}");
    let storm = &report["storm"];
    assert_eq!((&storm["left"], &storm["back"]), (&50.into(), &50.into()), "{report}");
    assert_eq!((&report["lost"], &report["closing"]["clean"]), (&0.into(), &100.into()));
}

#[test]
fn a_gateway_that_says_nothing_is_given_up() {
    // A WebSocket server that never answers.
    let url = faulty(|_, _, _| ());
    let arguments = ["idle", "--gateway", "--url", &url, "-c", "3", "--secret", SECRET];
    let (status, _, errors) = report(&[&arguments[..], &["--handshake-timeout", "6s"]].concat());
    assert_eq!(status, 1, "{errors}");
    assert!(errors.contains("was not answered in time (3 attempts)"), "{errors}");
}

#[test]
fn a_server_killed_in_mid_run_is_reported() {
    let mut server = Server::start(&[]);
    let arguments =
        ["echo", "--url", &server.url, "-c", "200", "-d", "60s", "-r", "2000", "--linger", "3s"];
    let mut child = load(&arguments).arg("--json").spawn().unwrap();
    // Messages flow as soon as the server's counters say so; here it is enough that the
    // connections are there.
    while connections_to(&server.url) < 200 {
        assert!(child.try_wait().unwrap().is_none());
        thread::yield_now();
    }
    server.child.kill().unwrap();
    let (status, report, errors) = read(child.wait_with_output().unwrap());
    if report.is_null() {
        // Killed before the first handshake was complete.
        assert_eq!(status, 1, "{errors}");
        return;
    }
    assert_eq!(status, 3, "{report}");
    let opened = report["opening"]["opened"].as_u64().unwrap();
    assert_eq!(report["lost"], opened);
    let reasons = report["lost_reasons"].as_object().unwrap();
    assert!(reasons.keys().all(|reason| reason.contains("server")), "{reasons:?}");
    assert!(report["seconds"].as_f64().unwrap() < 60.0);
}

/// Established connections to a server on 127.0.0.1, as the kernel counts them.
fn connections_to(url: &str) -> usize {
    let address: SocketAddr = url.strip_prefix("ws://").unwrap().parse().unwrap();
    let wanted = format!("0100007F:{:04X} 01 ", address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().filter(|line| line.contains(&wanted)).count()
}

#[test]
fn a_server_that_says_goodbye_is_quoted() {
    let server = Server::start(&["--drain-reason", "see you", "--drain-code", "3001"]);
    let arguments = ["idle", "--url", &server.url, "-c", "20", "-d", "60s"];
    let child = load(&arguments).arg("--json").spawn().unwrap();
    while connections_to(&server.url) < 20 {
        thread::yield_now();
    }
    signal("-TERM", server.child.id());
    let (status, report, errors) = read(child.wait_with_output().unwrap());
    match status {
        3 => {
            let quoted = &report["lost_reasons"]["closed by the server with 3001: see you"];
            assert_eq!(quoted, &report["opening"]["opened"]);
        }
        // The server was gone before the handshakes were complete.
        _ => assert_eq!(status, 1, "{report} {errors}"),
    }
}

#[test]
fn an_interrupt_ends_with_the_report_so_far() {
    let server = Server::start(&[]);
    let arguments = ["echo", "--url", &server.url, "-c", "20", "-d", "600s"];
    let child = load(&arguments).arg("--json").spawn().unwrap();
    while connections_to(&server.url) < 20 {
        thread::yield_now();
    }
    signal("-INT", child.id());
    let (status, report, errors) = read(child.wait_with_output().unwrap());
    if status == 0 {
        assert_eq!(report["interrupted"], true);
        assert_eq!(report["messages"]["lost"], 0);
    } else {
        assert!(errors.contains("interrupted"), "{status} {report} {errors}");
    }
}

fn signal(name: &str, pid: u32) {
    assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success());
}

#[test]
fn without_a_server_it_says_so() {
    let address = free_address();
    let url = format!("ws://{address}/");
    let (status, report, errors) = report(&["idle", "--url", &url, "-c", "200", "-d", "1s"]);
    assert_eq!((status, report), (1, Value::Null));
    assert!(errors.contains("Connection refused") && errors.contains("running"), "{errors}");
}

#[test]
fn a_server_that_is_full_is_quoted() {
    let server = Server::start(&["--max-connections", "50"]);
    let arguments = ["idle", "--url", &server.url, "-c", "200", "-d", "100ms"];
    let (status, report, errors) = report(&arguments);
    assert_eq!(status, 3, "{report} {errors}");
    assert_eq!(report["opening"]["opened"], 50);
    let reasons = &report["opening"]["failed_reasons"];
    assert_eq!(report["opening"]["failed"], 150);
    // The rest came when even the slots for refusing were taken, and was reset.
    let refused = reasons["the server answered with status 503"].as_u64().unwrap();
    assert!((1..=150).contains(&refused), "{reasons}");
}

#[test]
fn a_server_that_hangs_up_or_says_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let arguments = ["idle", "--url", &url, "-c", "3", "--handshake-timeout", "300ms"];
    // Nobody accepts: the kernel completes TCP, and the request stays unanswered.
    let (status, _, errors) = report(&arguments);
    assert_eq!(status, 1);
    assert!(errors.contains("no answer to the request"), "{errors}");
    thread::spawn(move || listener.incoming().for_each(drop));
    let (status, _, errors) = report(&["idle", "--url", &url, "-c", "3"]);
    assert_eq!(status, 1);
    assert!(errors.contains("before") && errors.contains("answered"), "{errors}");
}

#[test]
fn a_changed_byte_is_found() {
    let url = faulty(|socket, number, message| {
        let mut data = message.into_data().to_vec();
        if number == 1 {
            *data.last_mut().unwrap() ^= 1;
        }
        let _ = socket.send(Message::binary(data));
    });
    let arguments = ["echo", "--url", &url, "-c", "5", "-d", "300ms", "-b", "64", "--linger", "8s"];
    let (status, report, errors) = report(&arguments);
    assert_eq!(status, 3, "{report} {errors}");
    assert_eq!(report["messages"]["wrong"]["pattern"], 5);
}

#[test]
fn a_message_that_does_not_come_back_is_lost() {
    let url = faulty(|socket, number, message| {
        if number != 1 {
            let _ = socket.send(message);
        }
    });
    let arguments =
        ["echo", "--url", &url, "-c", "4", "-d", "300ms", "--pipeline", "1", "--linger", "3s"];
    let (status, report, errors) = report(&arguments);
    assert_eq!(status, 3, "{report} {errors}");
    // Each connection waits for its first echo, for good.
    assert_eq!(report["messages"]["lost"], 4);
    assert_eq!(report["messages"]["received"], 0);
}

#[test]
fn a_message_that_comes_twice_is_found() {
    let url = faulty(|socket, number, message| {
        if number == 1 {
            let _ = socket.send(message.clone());
        }
        let _ = socket.send(message);
    });
    let arguments = ["echo", "--url", &url, "-c", "4", "-d", "300ms"];
    let (status, report, _) = report(&arguments);
    assert_eq!(status, 3);
    let messages = &report["messages"];
    assert_eq!((&messages["duplicates"], &messages["lost"]), (&4.into(), &0.into()), "{report}");
    assert_eq!((&messages["late"], &messages["wrong"]), (&0.into(), &serde_json::json!({})));
}

#[test]
fn wrong_arguments_are_refused_with_a_reason() {
    for (arguments, reason) in [
        (&["idle", "--url", "localhost"][..], "ws://"),
        (&["idle", "--url", "ws://localhost/", "--insecure"], "wss://"),
        (&["idle", "--url", "wss://localhost/", "--insecure", "--ca", "x"], "--insecure"),
        (&["idle", "-c", "0"], "--connections"),
        (&["idle", "--sources", "here"], "not an address"),
        (&["echo", "-b", "19"], "20 bytes"),
        (&["echo", "-d", "soon"], "--duration"),
        (&["fanout", "--publishers", "0"], "--publishers"),
        (&["echo", "--large", "1KiB", "--large-share", "1.5"], "at most 1"),
        (&["echo", "--large-share", "0.5"], "--large <SIZE>"),
        (&["idle", "--storm-share", "0.5"], "--storm-after <TIME>"),
        (&["idle", "--secret", "x"], "--gateway"),
        (&["idle", "--gateway", "--token", "x", "--secret", "y"], "--secret"),
        (&["fanout", "--gateway", "-b", "51"], "52 bytes"),
        (&["fanout", "--gateway", "--channel", ""], "--channel"),
        (&["sleep"], "sleep"),
        (&[], "load"),
    ] {
        let (status, _, errors) = report(arguments);
        assert_eq!(status, 2, "{arguments:?}: {errors}");
        assert!(errors.contains(reason), "{arguments:?}: {errors}");
    }
    let arguments = ["idle", "--sources", "::1", "-c", "1"];
    let (status, _, errors) = report(&arguments);
    assert_eq!(status, 1);
    assert!(errors.contains("different families"), "{errors}");
    let (status, _, errors) = report(&["idle", "--server-pid", "4294967295"]);
    assert_eq!(status, 1);
    assert!(errors.contains("no process"), "{errors}");
}

#[test]
fn the_report_for_people_is_a_table() {
    let server = Server::start(&[]);
    let arguments = ["echo", "--url", &server.url, "-c", "10", "-d", "100ms", "--warmup", "0s"];
    let output = load(&arguments).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for row in [
        "load      echo ws://",
        "\nopened    10 in",
        "\nlatency   p50 ",
        "\nverdict   nothing lost",
    ] {
        assert!(text.contains(row), "{row:?} in {text}");
    }
    // Nothing is drawn where nobody watches.
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}
