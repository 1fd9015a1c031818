//! SIGTERM and SIGINT of a server that has no control plane.
//!
//! Owns a thread that waits for them, from the server's start to its end. The invariant: the first
//! signal begins a drain, the second ends all connections at once; the process itself is left to
//! the application.

use std::io;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

/// The thread, which lives on if this is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    handle: Handle,
    thread: JoinHandle<()>,
}

impl Watch {
    /// Waits for signals, and says how many have come, from 1.
    pub(super) fn start(mut each: impl FnMut(u32) + Send + 'static) -> io::Result<Self> {
        let mut signals = Signals::new([SIGTERM, SIGINT])?;
        let handle = signals.handle();
        let thread = std::thread::Builder::new().name("ringhold-signals".to_owned());
        let thread = thread.spawn(move || {
            let mut first: Option<Instant> = None;
            for _ in signals.forever() {
                // A wrapper signals both its child and the group.
                let again = first.is_some_and(|first| first.elapsed() >= TOGETHER);
                match first {
                    None => each(1),
                    Some(_) if again => each(2),
                    Some(_) => {}
                }
                first.get_or_insert_with(Instant::now);
            }
        })?;
        Ok(Self { handle, thread })
    }
}

impl Watch {
    /// Ends the thread.
    pub(super) fn end(self) {
        self.handle.close();
        let _ = self.thread.join();
    }
}

/// Signals that come within this time of the first are that one again.
const TOGETHER: Duration = Duration::from_secs(1);
