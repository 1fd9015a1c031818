//! What the clients counted and what went wrong: written by their thread, read by the test's.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

macro_rules! counts {
    ($($(#[doc = $doc:literal])* $name:ident,)+) => {
        /// Counts of all clients.
        #[derive(Default)]
        pub(crate) struct Counts {
            $($(#[doc = $doc])* pub(crate) $name: Count,)+
        }

        impl Counts {
            /// `name=number` of each that is not 0.
            pub(crate) fn text(&self) -> String {
                let all = [$((stringify!($name), self.$name.get())),+];
                let some = all.iter().filter(|(_, count)| *count > 0);
                let texts: Vec<_> = some.map(|(name, count)| format!("{name}={count}")).collect();
                texts.join(" ")
            }
        }
    };
}

counts! {
    /// Open now.
    held,
    connected,
    subscribed,
    /// Publications checked.
    checked,
    /// Of them, by recovery.
    recovered_publications,
    patches,
    recoveries,
    /// Recoveries of what is not kept any more.
    resynced,
    /// Unsubscribed for a gap (2500, 3010).
    insufficient,
    joins,
    published_by_api,
    published_by_clients,
    publish_refused,
    /// Commands that the backend spoiled.
    spoiled,
    rpcs,
    presences,
    histories,
    refreshed,
    sub_refreshed,
    expired,
    sub_expired,
    stalls,
    cut_while_stalled,
    closes,
    drops,
    resets,
    half_frames,
    orders,
    disconnected_by_order,
    unsubscribed_by_order,
    subscribed_by_order,
    backend_ok,
    backend_refused,
    backend_failed,
    backend_late,
    backend_hung,
    /// Times that this program itself was late by more than two seconds.
    lags,
}

#[derive(Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn one(&self) {
        self.add(1);
    }

    pub(crate) fn subtract(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts, and failures.
pub(crate) struct Tally {
    pub(crate) counts: Counts,
    /// Which run it is, before each line.
    pub(crate) name: &'static str,
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

    pub(crate) fn has_failed_often(&self) -> bool {
        self.failures.lock().expect("no holder panics").len() >= FAILURES_MAX
    }
}

/// More would say nothing new: the run ends.
const FAILURES_MAX: usize = 20;
