//! OpenSSL's own client over a socket: each version and suite, KeyUpdates of both kinds,
//! renegotiation. An echo on one thread is the server.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use ringhold::tls::Fault;

use super::peer::{Ours, pair, path, server_keys, server_setup, unbroken};

use crate::support::PATIENCE;

/// Serves one connection, and tells how it ended.
fn echo() -> (SocketAddr, thread::JoinHandle<Result<(), Fault>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let mut keys = server_keys();
    keys.certificates.push(pair("rsa"));
    let setup = server_setup(&keys);
    let serve = move || {
        let (mut socket, _) = listener.accept().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut ours = Ours::server(setup);
        let result = serve(&mut socket, &mut ours);
        let _ = socket.write_all(&ours.out);
        result
    };
    (address, thread::spawn(serve))
}

fn serve(socket: &mut TcpStream, ours: &mut Ours) -> Result<(), Fault> {
    let mut buffer = [0; 4096];
    while !ours.ended {
        let read = unbroken(|| socket.read(&mut buffer)).unwrap();
        if read == 0 {
            break;
        }
        ours.receive(&buffer[..read])?;
        let heard = std::mem::take(&mut ours.heard);
        if !heard.is_empty() {
            ours.send(&[&heard]);
        }
        socket.write_all(&std::mem::take(&mut ours.out)).unwrap();
    }
    if ours.welcome.is_some() {
        let mut out = Vec::new();
        ours.record().close(&mut out);
        ours.out = out;
    }
    Ok(())
}

/// `openssl s_client`, one line at a time.
struct Client {
    process: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Client {
    fn start(address: SocketAddr, arguments: &[&str]) -> Option<Self> {
        let mut process = Command::new("openssl")
            .args(["s_client", "-connect", &address.to_string(), "-CAfile", &path("ca.pem")])
            .args(["-verify_return_error", "-servername", "localhost"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .ok()?;
        let (tell, lines) = channel();
        let outputs: [Box<dyn Read + Send>; 2] =
            [Box::new(process.stdout.take().unwrap()), Box::new(process.stderr.take().unwrap())];
        for output in outputs {
            let tell = tell.clone();
            thread::spawn(move || {
                for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                    let _ = tell.send(String::from_utf8_lossy(&line).into_owned());
                }
            });
        }
        let stdin = process.stdin.take().unwrap();
        Some(Self { process, stdin, lines })
    }

    /// Writes the line with one call: the client leaves at the letter of a "Q", before a line
    /// break written apart could reach it.
    fn say(&mut self, line: &str) {
        self.stdin.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Waits for a line that holds `text`.
    fn hear(&self, text: &str) -> String {
        let mut heard = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(text) => return line,
                Ok(line) => heard.push(line),
                Err(_) => panic!("no {text:?} in:\n{}", heard.join("\n")),
            }
        }
    }

    fn echoes(&mut self, line: &str) {
        self.say(line);
        self.hear(line);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn every_version_and_suite() {
    let suites: [&[&str]; 7] = [
        &["-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"],
        &["-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"],
        &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"],
        &["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"],
        &["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"],
        &["-tls1_2", "-cipher", "ECDHE-RSA-CHACHA20-POLY1305"],
        // What it offers by itself.
        &[],
    ];
    for arguments in suites {
        let (address, server) = echo();
        let Some(mut client) = Client::start(address, arguments) else {
            // Nobody else ends the thread's wait.
            drop(TcpStream::connect(address));
            eprintln!("skipped: openssl is not installed");
            return;
        };
        client.echoes("first line");
        client.echoes("second line");
        client.say("Q");
        assert_eq!(server.join().unwrap(), Ok(()), "{arguments:?}");
    }
}

#[test]
fn key_updates_with_and_without_an_answer() {
    let (address, server) = echo();
    let Some(mut client) = Client::start(address, &["-tls1_3"]) else {
        drop(TcpStream::connect(address));
        return;
    };
    client.echoes("before");
    for round in 0..6 {
        client.say(if round % 2 == 0 { "K" } else { "k" });
        client.hear("KEYUPDATE");
        client.echoes(&format!("after {round}"));
    }
    client.say("Q");
    assert_eq!(server.join().unwrap(), Ok(()));
}

#[test]
fn renegotiation_is_refused() {
    let (address, server) = echo();
    let Some(mut client) = Client::start(address, &["-tls1_2"]) else {
        drop(TcpStream::connect(address));
        return;
    };
    client.echoes("before");
    client.say("R");
    client.hear("RENEGOTIATING");
    // OpenSSL gives up when it hears that there is none; others would go on.
    client.hear("no renegotiation");
    let end = server.join().unwrap();
    assert!(matches!(end, Ok(()) | Err(Fault::Alert(_))), "{end:?}");
}
