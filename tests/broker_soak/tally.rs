//! What was counted and what went wrong: written by all threads of a run.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

#[derive(Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts of a run.
#[derive(Default)]
pub(crate) struct Counts {
    /// Publications that were acknowledged.
    pub(crate) acknowledged: Count,
    /// Attempts answered with error 100.
    pub(crate) refused: Count,
    /// Attempts whose node ended or did not answer.
    pub(crate) unanswered: Count,
    /// Publications that subscribers have seen.
    pub(crate) seen: Count,
    /// Returns to a channel from where one was, with everything since.
    pub(crate) recovered: Count,
    /// Returns at which something was missing, and said so.
    pub(crate) unrecovered: Count,
    /// Subscriptions ended by the server because something is missing.
    pub(crate) told: Count,
    /// Subscriptions answered with error 100, and asked for again.
    pub(crate) later: Count,
    pub(crate) connects: Count,
    /// Connections that ended with their node.
    pub(crate) ended: Count,
    /// Connections given up for want of an answer, all of them to nodes that were stopped.
    pub(crate) given_up: Count,
}

impl Counts {
    pub(crate) fn text(&self) -> String {
        let Self { acknowledged, refused, unanswered, seen, recovered, unrecovered, .. } = self;
        let Self { told, later, connects, ended, given_up, .. } = self;
        format!(
            "{} acknowledged ({} refused, {} unanswered before), {} seen, {} recovered, {} not, \
             {} told, {} later, {} connects, {} ended, {} given up",
            acknowledged.get(),
            refused.get(),
            unanswered.get(),
            seen.get(),
            recovered.get(),
            unrecovered.get(),
            told.get(),
            later.get(),
            connects.get(),
            ended.get(),
            given_up.get()
        )
    }
}

/// Counts, and failures.
pub(crate) struct Tally {
    pub(crate) counts: Counts,
    name: &'static str,
    failures: Mutex<Vec<String>>,
    start: Instant,
}

impl Tally {
    pub(crate) fn new(name: &'static str) -> Self {
        let failures = Mutex::default();
        Self { counts: Counts::default(), name, failures, start: Instant::now() }
    }

    pub(crate) fn say(&self, text: &str) {
        println!("[{} {:>6.1}] {text}", self.name, self.start.elapsed().as_secs_f64());
    }

    /// Notes what must not happen, and says so at once: an hour is long.
    pub(crate) fn fail(&self, text: &str) {
        self.say(&format!("FAILED: {text}"));
        let at = self.start.elapsed().as_secs_f64();
        let mut failures = self.failures.lock().expect("no holder panics");
        failures.push(format!("at {at:.1} s: {text}"));
    }

    pub(crate) fn failures(&self) -> Vec<String> {
        self.failures.lock().expect("no holder panics").clone()
    }

    /// More would say nothing new.
    pub(crate) fn has_failed_often(&self) -> bool {
        self.failures.lock().expect("no holder panics").len() >= 20
    }
}
