//! What systemd is told: ready, reloading, going away, still working (`sd_notify`).
//!
//! A datagram of text lines to the socket that `$NOTIFY_SOCKET` names, a path or, after `@`, a name
//! in the abstract namespace. The invariant: nothing is said that does not hold. Ready is a server
//! that accepts connections; the watchdog hears that all cores answered, or nothing.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::{Handle, Handler};

/// Whoever started this process and wants to know how it does.
#[derive(Clone, Debug)]
pub struct Notifier(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    socket: UnixDatagram,
    to: SocketAddr,
    watchdog: Option<Duration>,
    stopping: AtomicBool,
}

impl Notifier {
    /// One that says nothing.
    pub fn none() -> Self {
        Self(None)
    }

    /// As the environment says: `NOTIFY_SOCKET`, and for the watchdog `WATCHDOG_USEC` and
    /// `WATCHDOG_PID`. One that says nothing if nobody wants to know.
    ///
    /// # Errors
    /// The socket's name is of a kind that does not exist here, or no socket can be made.
    pub fn from_environment() -> io::Result<Self> {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Ok(Self(None));
        };
        let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
        let other = number("WATCHDOG_PID").is_some_and(|pid| pid != u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|us| *us > 0 && !other);
        Self::new(name.as_bytes(), watchdog.map(Duration::from_micros))
    }

    /// For the socket of this name. `watchdog`: how long silence may last.
    ///
    /// # Errors
    /// As [`Self::from_environment`].
    pub fn new(name: &[u8], watchdog: Option<Duration>) -> io::Result<Self> {
        let to = match name {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))?,
            _ => return Err(io::Error::other("NOTIFY_SOCKET is neither a path nor abstract")),
        };
        let socket = UnixDatagram::unbound()?;
        // Whoever does not listen is not waited for.
        socket.set_nonblocking(true)?;
        let stopping = AtomicBool::new(false);
        Ok(Self(Some(Arc::new(Inner { socket, to, watchdog, stopping }))))
    }

    /// Connections are accepted, by the configuration as it is now.
    pub fn ready(&self) {
        self.say("READY=1\nSTATUS=Accepting connections");
    }

    /// The configuration is being read again; [`Self::ready`] follows, whatever comes of it.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let us = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={us}"));
    }

    /// The server goes away.
    pub fn stopping(&self) {
        if let Some(inner) = &self.0 {
            inner.stopping.store(true, Ordering::Relaxed);
        }
        self.say("STOPPING=1\nSTATUS=Closing connections");
    }

    /// Tells the watchdog twice per interval that all cores answered. Ends at once if there is no
    /// watchdog. While the server goes away cores end one after the other, and the time that it
    /// may take is limited elsewhere: then it only says that this thread works.
    pub async fn watch<H: Handler>(self, handle: Handle<H>) {
        let Some(inner) = &self.0 else { return };
        let Some(interval) = inner.watchdog else { return };
        loop {
            tokio::time::sleep(interval / 2).await;
            let asked = handle.clone();
            // It waits for the cores, and so not on the control thread.
            let answers = tokio::task::spawn_blocking(move || asked.stats_by_core().len()).await;
            let all = answers.is_ok_and(|answers| answers == handle.workers());
            if all || inner.stopping.load(Ordering::Relaxed) {
                self.say("WATCHDOG=1");
            } else {
                tracing::error!("a core does not answer; the watchdog is not told otherwise");
            }
        }
    }

    fn say(&self, text: &str) {
        let Some(inner) = &self.0 else { return };
        if let Err(error) = inner.socket.send_to_addr(text.as_bytes(), &inner.to) {
            tracing::debug!(%error, "telling systemd");
        }
    }
}
