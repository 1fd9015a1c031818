//! The control plane: one thread beside the workers, on tokio-uring. It turns signals into drains
//! and counters into log lines; no connection of a client ever passes through it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use ringhold::{Counters, Drain, Handle, Handler, Stats};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// The control thread of a running server.
pub(crate) struct Control {
    thread: JoinHandle<()>,
    finished: oneshot::Sender<()>,
}

/// Starts the control thread. It drains the server at the first SIGTERM or SIGINT and ends it at
/// once at the second.
pub(crate) fn start<H: Handler>(
    handle: Handle<H>,
    drain: Drain,
    stats_interval: Duration,
) -> io::Result<Control> {
    let (finished, end) = oneshot::channel();
    let (ready, started) = std::sync::mpsc::channel();
    let thread =
        std::thread::Builder::new().name("ringhold-control".to_owned()).spawn(move || {
            // A ring of its own, small: the control plane has a handful of operations in flight.
            tokio_uring::builder().entries(8).start(async move {
                let signals = Signals::new();
                let outcome = signals.as_ref().map(|_| ()).map_err(|error| error.kind());
                let _ = ready.send(outcome);
                if let Ok(signals) = signals {
                    serve(handle, signals, drain, stats_interval, end).await;
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

/// For programs that end by themselves: the flag is set by the first SIGTERM or SIGINT; the second
/// ends the process at once.
pub(crate) fn watch_interrupts() -> io::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let interrupted = flag.clone();
    let (ready, started) = std::sync::mpsc::channel();
    // The thread waits until the process ends.
    std::thread::Builder::new().name("ringhold-control".to_owned()).spawn(move || {
        tokio_uring::builder().entries(8).start(async move {
            let signals = Signals::new();
            let _ = ready.send(signals.as_ref().map(|_| ()).map_err(|error| error.kind()));
            let Ok(mut signals) = signals else { return };
            signals.next().await;
            interrupted.store(true, Ordering::Relaxed);
            signals.next().await;
            std::process::exit(130);
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
    pub(crate) fn finish(self) {
        let _ = self.finished.send(());
        let _ = self.thread.join();
    }
}

/// Says where the server listens: one line on standard output, for people and scripts.
pub(crate) fn announce(address: SocketAddr, workers: usize) {
    println!("listening on ws://{address}");
    tracing::info!(%address, workers, "ready");
}

/// The last line of a server that ended as asked.
pub(crate) fn summarise(stats: &Stats) {
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
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

async fn serve<H: Handler>(
    handle: Handle<H>,
    mut signals: Signals,
    drain: Drain,
    stats_interval: Duration,
    mut end: oneshot::Receiver<()>,
) {
    let mut draining = false;
    let pause = if stats_interval.is_zero() { Duration::MAX } else { stats_interval };
    loop {
        tokio::select! {
            _ = &mut end => return,
            () = signals.next() => {
                if draining {
                    tracing::warn!("second signal: ending at once");
                    std::process::exit(0);
                }
                draining = true;
                let (window, deadline) = (drain.window, drain.deadline);
                tracing::info!(?window, ?deadline, "going away");
                handle.drain(&drain);
            }
            () = tokio::time::sleep(pause) => log_stats(&handle.stats()),
        }
    }
}

fn log_stats(stats: &Stats) {
    let mut line = String::new();
    stats.counters.each(|name, _, _, value| {
        if value > 0 {
            line.push_str(&format!(" {name}={value}"));
        }
    });
    for (name, histogram) in [("rtt_us", &stats.rtt_us), ("drift_us", &stats.drift_us)] {
        if !histogram.is_empty() {
            let [p50, p99] = [0.5, 0.99].map(|q| histogram.value_at_quantile(q));
            line.push_str(&format!(
                " {name}_p50={p50} {name}_p99={p99} {name}_max={}",
                histogram.max()
            ));
        }
    }
    if let Some(bytes) = bytes_per_connection(&stats.counters) {
        line.push_str(&format!(" resident_per_connection={bytes}"));
    }
    tracing::info!(target: "ringhold::stats", "{}", line.trim_start());
}

/// Resident bytes of this process per connection, all included.
fn bytes_per_connection(counters: &Counters) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    (kib * 1024).checked_div(counters.connections)
}
