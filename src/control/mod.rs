//! The control plane: one thread beside the workers, on tokio-uring.
//!
//! It turns signals into drains and counters into log lines, tells systemd how the server does, and
//! speaks HTTP: the server API, health, metrics, the admin page, the demo page, and the hooks by
//! which the gateway asks the application's backend. No WebSocket connection ever passes through
//! it, and no worker ever waits for it.
//!
//! This is what the program `ringhold` is made of, for its own use: names here may change in any
//! version.

pub mod access;
#[cfg(feature = "acme")]
pub mod acme;
pub mod admin;
pub mod alone;
mod amounts;
pub mod api;
pub mod backend;
pub mod body;
pub mod broker;
pub mod certificates;
pub mod closing;
pub(crate) mod consumers;
pub mod counts;
pub mod demo;
pub mod gateway_backend;
pub mod grpc;
pub mod health;
pub mod hooks;
pub mod http;
pub mod jwks;
pub mod keeping;
mod logfile;
pub mod logging;
pub mod metrics;
mod nodes;
pub mod notify;
mod orders;
pub(crate) mod outgoing;
pub mod peer;
pub(crate) mod pem;
pub mod process;
pub mod publishing;
mod replayed;
mod room;
pub mod secure;
pub mod services;
pub mod settings;
pub mod state;
pub mod takeover;
mod turns;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

pub use self::backend::{Backend, Snapshot};
use crate::{Drain, Handle, Handler, Io, Stats};

/// The control thread of a running server.
#[derive(Debug)]
pub struct Control {
    thread: JoinHandle<()>,
    finished: oneshot::Sender<()>,
}

/// What a program wants of its control thread besides.
pub struct Duties {
    /// Called once, within the thread's runtime, before anything else and before
    /// [`start`] returns.
    pub begin: Box<dyn FnOnce() + Send>,
    /// Called when the server starts to go away, which readiness tells from then on.
    pub drain: Box<dyn Fn() + Send>,
    /// From then until listeners close: the time in which those in front hear of it.
    pub delay: Duration,
    /// Called at SIGHUP, on a thread where it may wait.
    pub reload: Box<dyn Fn() + Send + Sync>,
    /// As the server has it: with epoll the thread makes no ring either.
    pub io: Io,
}

impl Default for Duties {
    fn default() -> Self {
        let reload = || tracing::info!("there is nothing to reload");
        Self {
            begin: Box::new(|| {}),
            drain: Box::new(|| {}),
            delay: Duration::ZERO,
            reload: Box::new(reload),
            io: Io::Auto,
        }
    }
}

/// Starts the control thread. It drains the server at the first SIGTERM or SIGINT and ends it at
/// once at the second, unless that comes within [`SIGNALS_TOGETHER`].
pub fn start<H: Handler>(
    handle: Handle<H>,
    drain: Drain,
    stats_interval: Duration,
    mut duties: Duties,
) -> io::Result<Control> {
    let (finished, end) = oneshot::channel();
    let (ready, started) = std::sync::mpsc::channel();
    let (rest, farewell, io) = (handle.clone(), drain.clone(), duties.io);
    let thread =
        std::thread::Builder::new().name("ringhold-control".to_owned()).spawn(move || {
            // Nobody would heed signals any more.
            let _guard = Guard(Some(move || rest.drain(&farewell)));
            run(io, async move {
                let signals = Signals::new();
                let outcome = signals.as_ref().map(|_| ()).map_err(|error| error.kind());
                if outcome.is_ok() {
                    // What it opens is open when the caller says that the server is ready.
                    std::mem::replace(&mut duties.begin, Box::new(|| {}))();
                }
                let _ = ready.send(outcome);
                if let Ok(signals) = signals {
                    serve(handle, signals, drain, stats_interval, duties, end).await;
                }
            });
        })?;
    // Signals that arrive from here on are seen.
    match started.recv() {
        Ok(Ok(())) => Ok(Control { thread, finished }),
        Ok(Err(kind)) => Err(kind.into()),
        Err(_) => Err(io::Error::other("the control thread could not start")),
    }
}

/// Runs the control plane's tasks on this thread, on a ring where the host allows one.
fn run(io: Io, tasks: impl Future<Output = ()> + 'static) {
    if !io.takes_descriptors() {
        return tokio_uring::builder().entries(8).start(tasks);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => tokio::task::LocalSet::new().block_on(&runtime, tasks),
        // Whoever waits for the thread hears that it ended.
        Err(error) => tracing::error!(%error, "the control plane has no runtime"),
    }
}

/// Does something if its thread panics.
struct Guard<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for Guard<F> {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(last) = self.0.take()
        {
            last();
        }
    }
}

/// For programs that end by themselves: the flag is set by the first SIGTERM or SIGINT; the second
/// ends the process at once, unless it comes within [`SIGNALS_TOGETHER`].
pub fn watch_interrupts() -> io::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let interrupted = flag.clone();
    let (ready, started) = std::sync::mpsc::channel();
    // The thread waits until the process ends.
    std::thread::Builder::new().name("ringhold-control".to_owned()).spawn(move || {
        run(Io::Auto, async move {
            let signals = Signals::new();
            let _ = ready.send(signals.as_ref().map(|_| ()).map_err(|error| error.kind()));
            let Ok(mut signals) = signals else { return };
            let mut wish = Wish::default();
            loop {
                while signals.next().await != Asked::End {}
                match wish.again(Instant::now()) {
                    Demand::End => interrupted.store(true, Ordering::Relaxed),
                    Demand::Nothing => {}
                    Demand::EndAtOnce => std::process::exit(130),
                }
            }
        });
    })?;
    match started.recv() {
        Ok(Ok(())) => Ok(flag),
        Ok(Err(kind)) => Err(kind.into()),
        Err(_) => Err(io::Error::other("the control thread could not start")),
    }
}

impl Control {
    /// Ends the thread after the workers have ended.
    pub fn finish(self) {
        let _ = self.finished.send(());
        let _ = self.thread.join();
    }
}

/// Says where the server listens: one line on standard output, for people and scripts.
pub fn announce(scheme: &str, address: SocketAddr, workers: usize) {
    say(format!("listening on {scheme}://{address}"));
    tracing::info!(%address, workers, "ready");
}

/// Writes a line of a server to standard output, on a thread of its own: a reader that is gone or
/// does not read must not hold the server up.
pub fn say(text: String) {
    let thread = std::thread::Builder::new().name("ringhold-say".to_owned());
    let _ = thread.spawn(move || {
        use std::io::Write;
        let mut out = io::stdout().lock();
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    });
}

/// The last line of a server that ended as asked.
pub fn summarise(stats: &Stats) {
    let c = &stats.counters;
    tracing::info!(
        opened = c.opened,
        closed = c.closed,
        messages_in = c.messages_in,
        messages_out = c.messages_out,
        left = c.connections,
        "ended"
    );
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user: Signal,
}

/// The wish behind a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    End,
    Reload,
    /// A line of counters. SIGUSR1 would otherwise end the process.
    Counters,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user: signal(SignalKind::user_defined1())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::End,
            _ = self.interrupt.recv() => Asked::End,
            _ = self.hangup.recv() => Asked::Reload,
            _ = self.user.recv() => Asked::Counters,
        }
    }
}

async fn serve<H: Handler>(
    handle: Handle<H>,
    mut signals: Signals,
    drain: Drain,
    stats_interval: Duration,
    duties: Duties,
    mut end: oneshot::Receiver<()>,
) {
    let reload: Arc<dyn Fn() + Send + Sync> = duties.reload.into();
    let mut wish = Wish::default();
    let pause = if stats_interval.is_zero() { Duration::MAX } else { stats_interval };
    let mut drains_at = None;
    loop {
        tokio::select! {
            _ = &mut end => return,
            () = at(drains_at), if drains_at.is_some() => {
                drains_at = None;
                begin_drain(&handle, &drain);
            }
            asked = signals.next() => {
                match asked {
                    Asked::End => {}
                    Asked::Reload => {
                        let reload = reload.clone();
                        tokio::task::spawn_blocking(move || reload());
                        continue;
                    }
                    Asked::Counters => {
                        log_stats(&handle.stats());
                        continue;
                    }
                }
                match wish.again(Instant::now()) {
                    Demand::End => {}
                    Demand::Nothing => continue,
                    Demand::EndAtOnce => {
                        tracing::warn!("second signal: ending at once");
                        logging::flush(LAST_WORD);
                        std::process::exit(0);
                    }
                }
                (duties.drain)();
                if duties.delay.is_zero() {
                    begin_drain(&handle, &drain);
                } else {
                    drains_at = Instant::now().checked_add(duties.delay);
                    tracing::info!(delay = ?duties.delay, "not ready any more; listening still");
                }
            }
            () = tokio::time::sleep(pause) => log_stats(&handle.stats()),
        }
    }
}

/// Waits for a moment that is known.
async fn at(moment: Option<Instant>) {
    if let Some(moment) = moment {
        tokio::time::sleep_until(moment.into()).await;
    }
}

/// Listeners close, connections follow. Acts first and tells later.
fn begin_drain<H: Handler>(handle: &Handle<H>, drain: &Drain) {
    handle.drain(drain);
    let (window, deadline) = (drain.window, drain.deadline);
    tracing::info!(?window, ?deadline, "going away");
}

/// The signals to end so far.
#[derive(Debug, Default)]
struct Wish {
    first: Option<Instant>,
}

/// The meaning of one signal to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Demand {
    End,
    /// It is the first again: a wrapper signals both its child and the group.
    Nothing,
    EndAtOnce,
}

impl Wish {
    /// A signal to end came.
    fn again(&mut self, now: Instant) -> Demand {
        match self.first {
            None => {
                self.first = Some(now);
                Demand::End
            }
            Some(first) if now.saturating_duration_since(first) < SIGNALS_TOGETHER => {
                Demand::Nothing
            }
            Some(_) => Demand::EndAtOnce,
        }
    }
}

/// Signals to end that come within this time of the first are that one again.
pub const SIGNALS_TOGETHER: Duration = Duration::from_secs(1);

/// What the end at once leaves the log.
const LAST_WORD: Duration = Duration::from_millis(100);

fn log_stats(stats: &Stats) {
    let mut line = String::new();
    stats.counters.each(|name, _, _, value| {
        if value > 0 {
            line.push_str(&format!(" {name}={value}"));
        }
    });
    for (name, histogram) in [("rtt_us", &stats.rtt_us), ("drift_us", &stats.drift_us)] {
        if !histogram.is_empty() {
            let [p50, p99] = [0.5, 0.99].map(|q| histogram.quantile(q));
            line.push_str(&format!(
                " {name}_p50={p50} {name}_p99={p99} {name}_max={}",
                histogram.max()
            ));
        }
    }
    if let Some(bytes) = process::bytes_per_connection(stats.counters.connections) {
        line.push_str(&format!(" resident_per_connection={bytes}"));
    }
    tracing::info!(target: "ringhold::stats", "{}", line.trim_start());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_that_come_together_are_one() {
        let (mut wish, start) = (Wish::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!(wish.again(at(0)), Demand::End);
        assert_eq!(wish.again(at(0)), Demand::Nothing);
        assert_eq!(wish.again(at(999)), Demand::Nothing);
        assert_eq!(wish.again(at(1000)), Demand::EndAtOnce);
    }
}
