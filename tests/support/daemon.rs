//! A server of others as a child process, on ports that were free, in a folder of its own: what
//! Redis, NATS and PostgreSQL have in common. It is ended by id, and its folder with it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{PATIENCE, send_signal, until, wait_for};

/// See the module's text.
pub(crate) struct Daemon {
    child: Option<Child>,
    folder: PathBuf,
}

impl Daemon {
    /// Not started yet. Its folder is made, below this one.
    pub(crate) fn new(kind: &str, place: &Path) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = place.join(format!("{kind}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder can be made");
        Self { child: None, folder }
    }

    /// Starts it and waits. Whether it `answers`: it may also end at once.
    pub(crate) fn launch(&mut self, command: &mut Command, answers: impl Fn() -> bool) -> bool {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = self.child.insert(command.spawn().expect("the program starts"));
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if answers() {
                return true;
            }
            if child.try_wait().is_ok_and(|status| status.is_some()) {
                self.child = None;
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    /// Its folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        send_signal(self.child.as_ref().expect("it runs"), signal);
    }

    /// Ends it at once. Processes of its own end when they see that.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            send_signal(&child, Signal::KILL);
            wait_for(&mut child, PATIENCE);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        // Until they are gone its processes write there.
        let deadline = Instant::now() + PATIENCE;
        while std::fs::remove_dir_all(&self.folder).is_err()
            && self.folder.exists()
            && Instant::now() < deadline
        {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Launches a server on ports that the function chooses anew each time: another process may take
/// one before the server does.
pub(crate) fn on_free_ports(what: &str, mut launch: impl FnMut() -> bool) {
    assert!((0..5).any(|_| launch()), "{what} does not start");
}

/// Launches a server again, on ports that the kernel may still hold for the last one.
pub(crate) fn again(what: &str, launch: impl FnMut() -> bool) {
    until(&format!("{what} to start again"), launch);
}

/// A port at which nobody is: of those below the range out of which the kernel gives ports to
/// whoever wants any (from 32,768 on), so that neither a listener nor a connection of another test
/// gets it meanwhile. None is given twice in one process; processes begin at places of their own.
pub(crate) fn free_port() -> u16 {
    const FIRST: u32 = 12_000;
    const COUNT: u32 = 20_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id().wrapping_mul(97);
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let mut ports = (0..COUNT).map(|_| {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        (FIRST + begin.wrapping_add(number) % COUNT) as u16
    });
    ports.find(is_free).expect("one of so many is free")
}

/// Its address.
pub(crate) fn free_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}
