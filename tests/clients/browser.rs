//! The server as a browser's own WebSocket meets it: headless Chromium.
//!
//! Method: a listener of this test on loopback serves `tests/clients/browser/page.html` and takes
//! its results as POST requests; the page opens real connections to `ringhold echo`. At the end
//! the server is told to go while a connection of the page is open, and the page reports how that
//! looked. Without Chromium the test says so and checks nothing, but fails where `CI` is set.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use crate::support::browser::{BROWSERS, FLAGS};
use crate::support::server::Server;
use crate::support::{Program, count_of, find_program, own_path, skip};

const PAGE: &str = include_str!("browser/page.html");

/// A browser's first start may take a while; the checks need seconds.
const LIMIT: Duration = Duration::from_secs(600);

/// What the page posted: path and body.
type Report = (String, String);

/// Serves the page and passes its reports on, until the test ends.
fn serve_page() -> (SocketAddr, Receiver<Report>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
    let address = listener.local_addr().expect("its address");
    let (sender, reports) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let sender = sender.clone();
            // A browser opens connections ahead of need, so each gets a thread.
            std::thread::spawn(move || answer(stream, &sender));
        }
    });
    (address, reports)
}

/// Answers one request. A connection that ends without one is none of the test's business.
fn answer(stream: TcpStream, reports: &Sender<Report>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?, words.next()?);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().ok()?;
            }
            Some(_) => {}
            None => break,
        }
    }
    let mut body = String::new();
    reader.by_ref().take(length).read_to_string(&mut body).ok()?;
    let (status, content) = match (method, path) {
        ("GET", "/") => ("200 OK", PAGE),
        ("POST", _) => {
            reports.send((path.to_owned(), body)).ok()?;
            ("200 OK", "")
        }
        _ => ("404 Not Found", ""),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        content.len()
    );
    let mut stream = reader.into_inner();
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(content.as_bytes()).ok()
}

/// The body of the next report, which must have this path.
fn expect_report(reports: &Receiver<Report>, path: &str) -> String {
    match reports.recv_timeout(LIMIT) {
        Ok((got, body)) if got == path => body,
        other => panic!("expected {path}, got {other:?}"),
    }
}

#[test]
fn chromium() {
    suite("plain", &[], "");
}

#[test]
fn chromium_with_compression() {
    suite("compressed", &["--compress"], "?compressed");
}

fn suite(name: &str, options: &[&str], query: &str) {
    let Some(chromium) = find_program(&BROWSERS) else {
        return skip("chromium is not installed");
    };
    let profile = own_path(&format!("clients-browser-{name}"));
    let (page, reports) = serve_page();
    let common = ["--max-connections", "256", "--heartbeat-start", "1s", "--heartbeat-floor", "1s"];
    let server = Server::start(&[&common[..], options].concat());
    let _browser = Program::start(
        Command::new(chromium)
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg(format!("http://{page}/#{}{query}", server.url())),
    );

    let checked = expect_report(&reports, "/checked");
    for (check, count) in [
        ("text", 17),
        ("binary", 12),
        ("blob", 1),
        ("order", 3000),
        ("close_codes", 6),
        ("too_big", 1),
        ("connects", 50),
    ] {
        assert_eq!(count_of(&checked, check), count, "{check}: {checked}");
    }
    server.assert_alive();
    server.stop();
    let ended = expect_report(&reports, "/ended");
    assert_eq!((count_of(&ended, "code"), count_of(&ended, "clean")), (1001, 1));
}
