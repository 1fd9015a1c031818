//! What systemd is told: by `ringhold serve` from its start to its end, and by the watchdog while a
//! core works or does not.
//!
//! Method: a socket of the test's own in `NOTIFY_SOCKET`, by path and by abstract name. What comes
//! is compared with what holds at that moment: a server that says it is ready must answer.

use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use ringhold::control::notify::Notifier;
use ringhold::protocol::request::Request;
use ringhold::{Connection, Context, Handler, Message, Server, UpgradeAction};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::daemon::free_port;
use crate::support::gateway::program;
use crate::support::unbroken::unbroken;
use crate::support::{PATIENCE, own_path};

/// A socket that is told things, and its name.
fn socket(name: &str, is_abstract: bool) -> (UnixDatagram, String) {
    let socket = if is_abstract {
        let name = format!("ringhold-test-{}-{name}", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
        (UnixDatagram::bind_addr(&address).unwrap(), format!("@{name}"))
    } else {
        // Short: the path of a socket has 107 bytes.
        let path = std::env::temp_dir().join(format!("rh-{}-{name}", std::process::id()));
        (UnixDatagram::bind(&path).unwrap(), path.to_str().unwrap().to_owned())
    };
    socket.0.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// The next message, by lines.
fn hear(socket: &UnixDatagram) -> Vec<String> {
    let mut buffer = [0; 4096];
    let length = unbroken(|| socket.recv(&mut buffer)).expect("something is said");
    let text = std::str::from_utf8(&buffer[..length]).expect("text");
    text.lines().map(str::to_owned).collect()
}

fn silent(socket: &UnixDatagram) -> bool {
    socket.set_nonblocking(true).unwrap();
    let silent = socket.recv(&mut [0; 64]).is_err();
    socket.set_nonblocking(false).unwrap();
    silent
}

/// `ringhold serve`, ended when it is dropped.
struct Served(std::process::Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Served {
    fn start(command: &mut Command) -> Self {
        let quiet = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        Self(quiet.spawn().expect("the program starts"))
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).expect("it can be signalled");
    }
}

#[test]
fn ready_is_who_answers_and_the_end_is_announced() {
    for is_abstract in [false, true] {
        let (socket, name) = socket("serve", is_abstract);
        let port = free_port();
        let mut served = Served::start(
            program()
                .args(["--port", &port.to_string(), "--set", "health.enabled=true"])
                .args(["--set", "http_api.key=key"])
                .env("NOTIFY_SOCKET", &name),
        );
        assert_eq!(hear(&socket)[0], "READY=1");
        // At once, with no second try.
        let answer = health(port);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

        let before = monotonic_us();
        served.signal(Signal::HUP);
        let said = hear(&socket);
        assert_eq!(said[0], "RELOADING=1");
        let at = said[1].strip_prefix("MONOTONIC_USEC=").expect("the time");
        let at: u64 = at.parse().expect("a number");
        assert!((before..=monotonic_us()).contains(&at), "{at}");
        assert_eq!(hear(&socket)[0], "READY=1");

        served.signal(Signal::TERM);
        assert_eq!(hear(&socket)[0], "STOPPING=1");
        assert!(served.0.wait().expect("it ends").success());
        assert!(silent(&socket), "after the end");
        if !is_abstract {
            std::fs::remove_file(name).unwrap();
        }
    }
}

#[test]
fn who_cannot_start_is_never_ready() {
    let (socket, name) = socket("failing", true);
    let mut served = Served::start(
        program().args(["--port", "0", "--set", "admin.enabled=true"]).env("NOTIFY_SOCKET", &name),
    );
    assert!(!served.0.wait().expect("it ends").success());
    assert!(silent(&socket));
}

#[test]
fn names_that_are_none_are_errors() {
    for name in ["relative", "vsock:2:1234", ""] {
        assert!(Notifier::new(name.as_bytes(), None).is_err(), "{name}");
    }
    // Nobody listens: that is nobody's error.
    let nobody = own_path("n");
    Notifier::new(nobody.to_str().unwrap().as_bytes(), None).unwrap().ready();
}

/// Its letters make it wait.
struct Idler;

impl Handler for Idler {
    type State = ();
    type Event = (mpsc::Sender<()>, mpsc::Receiver<()>);

    fn on_upgrade(
        &mut self,
        _: &mut Context<'_>,
        _: &Request<'_>,
        _: SocketAddr,
    ) -> UpgradeAction<()> {
        UpgradeAction::accept(())
    }

    fn on_message(&mut self, _: &mut Connection<'_>, (): &mut (), _: Message<'_>) {}

    fn on_event(&mut self, _: &mut Context<'_>, (begun, end): Self::Event) {
        begun.send(()).expect("the test listens");
        let _ = end.recv();
    }
}

#[test]
fn a_core_that_stalls_stops_the_watchdog() {
    let (socket, name) = socket("watchdog", true);
    let running = Server::builder()
        .listen(SocketAddr::from(([127, 0, 0, 1], 0)))
        .workers(2)
        .start(|_| Idler)
        .expect("the server starts");
    let handle = running.handle();
    let notifier = Notifier::new(name.as_bytes(), Some(Duration::from_millis(40))).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let watching = {
        let (notifier, handle) = (notifier.clone(), running.handle());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async move {
                tokio::select! { () = notifier.watch(handle) => {}, _ = stopped => {} }
            });
        })
    };
    for _ in 0..3 {
        assert_eq!(hear(&socket), ["WATCHDOG=1"]);
    }
    let (begun, has_begun) = mpsc::channel();
    let (end, until) = mpsc::channel();
    handle.post(1, (begun, until)).unwrap();
    has_begun.recv_timeout(PATIENCE).expect("the core takes the letter");
    // What was said before, while this thread was busy elsewhere.
    let mut buffer = [0; 64];
    socket.set_nonblocking(true).unwrap();
    while unbroken(|| socket.recv(&mut buffer)).is_ok() {}
    socket.set_nonblocking(false).unwrap();
    // One answer may have been under way; then there is none, however long one waits.
    socket.set_read_timeout(Some(Duration::from_millis(1500))).unwrap();
    let mut said = 0;
    while unbroken(|| socket.recv(&mut buffer)).is_ok() {
        said += 1;
        assert!(said <= 2, "it says that a core works which does not");
    }
    drop(end);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(hear(&socket), ["WATCHDOG=1"]);
    drop(stop);
    watching.join().unwrap();
    handle.stop();
    running.join().unwrap();
}

/// The whole answer of `/health`.
fn health(port: u16) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).expect("it accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("set_read_timeout");
    let request = b"GET /health HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
    stream.write_all(request).expect("it takes a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}

/// The clock that systemd compares with.
fn monotonic_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}
