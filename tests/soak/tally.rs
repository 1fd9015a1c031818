//! What the clients counted and what went wrong, shared by all of them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::plan::{ENDS, End};

/// Counts of all clients.
pub(crate) struct Tally {
    pub(crate) connected: Count,
    pub(crate) opened: Count,
    /// Open now.
    pub(crate) held: Count,
    pub(crate) sent: Count,
    pub(crate) echoed: Count,
    pub(crate) echoed_bytes: Count,
    pub(crate) pongs: Count,
    /// Ended by the end of the run, in the middle of another way.
    pub(crate) cut: Count,
    ends: [Count; ENDS.len()],
    failures: Mutex<Vec<String>>,
    start: Instant,
}

#[derive(Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }

    pub(crate) fn subtract(&self, n: usize) {
        self.0.fetch_sub(n as u64, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Tally {
    pub(crate) fn new() -> Self {
        let count = Count::default;
        Self {
            connected: count(),
            opened: count(),
            held: count(),
            sent: count(),
            echoed: count(),
            echoed_bytes: count(),
            pongs: count(),
            cut: count(),
            ends: std::array::from_fn(|_| count()),
            failures: Mutex::default(),
            start: Instant::now(),
        }
    }

    pub(crate) fn ended(&self, end: End) {
        if let Some(at) = ENDS.iter().position(|(it, _)| *it == end) {
            self.ends[at].add(1);
        }
    }

    pub(crate) fn ends(&self, end: End) -> u64 {
        let at = ENDS.iter().position(|(it, _)| *it == end);
        at.map_or(0, |at| self.ends[at].get())
    }

    /// `Close=12 Drop=3 ...`
    pub(crate) fn ends_text(&self) -> String {
        let mut text = String::new();
        for ((end, _), count) in ENDS.iter().zip(&self.ends) {
            text.push_str(&format!("{end:?}={} ", count.get()));
        }
        text.push_str(&format!("cut={}", self.cut.get()));
        text
    }

    /// Notes what must not happen, and says so at once: an hour is long.
    pub(crate) fn fail(&self, text: String) {
        let at = self.start.elapsed().as_secs_f64();
        println!("FAILED at {at:.1} s: {text}");
        let mut failures = self.failures.lock().expect("no holder panics");
        failures.push(format!("at {at:.1} s: {text}"));
    }

    pub(crate) fn failures(&self) -> Vec<String> {
        self.failures.lock().expect("no holder panics").clone()
    }

    pub(crate) fn has_failed_often(&self) -> bool {
        self.failures.lock().expect("no holder panics").len() >= FAILURES_MAX
    }
}

/// More would say nothing new: the run ends.
const FAILURES_MAX: usize = 20;
