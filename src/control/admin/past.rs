//! The last hour in figures: what the page's charts begin with, whoever looks and whenever.
//!
//! Owns a ring of readings, of which each is a few sums of what `/metrics` tells. Asks the cores
//! every five seconds, and only where there is a page.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::time::MissedTickBehavior;

use crate::control::backend::Backend;
use crate::control::counts::Counts;
use crate::control::metrics::{SNAPSHOT_TIMEOUT, Values};

/// The figures, by their names in `/metrics`; of those with labels the sum.
const NAMES: [&str; 20] = [
    "ringhold_open",
    "ringhold_opened_total",
    "ringhold_closed_total",
    "ringhold_messages_in_total",
    "ringhold_messages_out_total",
    "ringhold_bytes_in_total",
    "ringhold_bytes_out_total",
    "ringhold_heartbeats_answered_total",
    "ringhold_resident_bytes",
    "ringhold_refusals_total",
    "ringhold_gateway_publications_total",
    "ringhold_gateway_deliveries_total",
    "ringhold_gateway_command_errors_total",
    "ringhold_gateway_disconnects_total",
    "ringhold_gateway_tokens_refused_total",
    "ringhold_gateway_subscriptions_refused_total",
    "ringhold_gateway_publications_refused_total",
    "ringhold_api_command_errors_total",
    "ringhold_hook_failures_total",
    "process_cpu_seconds_total",
];

/// Between readings.
const EVERY: Duration = Duration::from_secs(5);

/// An hour of them: some 120 KiB.
const READINGS: usize = 720;

/// See the module's text.
#[derive(Debug, Default)]
pub struct Past(Mutex<VecDeque<Reading>>);

#[derive(Clone, Debug)]
struct Reading {
    /// Unix time in milliseconds.
    time: u64,
    values: [f64; NAMES.len()],
}

#[derive(Serialize)]
pub(super) struct Told {
    names: [&'static str; NAMES.len()],
    /// When each reading was, in milliseconds since 1970.
    times: Vec<u64>,
    /// Of each reading its values, in the order of the names.
    values: Vec<[f64; NAMES.len()]>,
}

impl Past {
    /// Reads the figures as long as the control thread runs.
    pub(in crate::control) async fn keep<B: Backend>(
        self: Arc<Self>,
        backend: Arc<B>,
        counts: Arc<Counts>,
    ) {
        let mut due = tokio::time::interval(EVERY);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            due.tick().await;
            // A gap is better than old figures.
            let snapshot = tokio::time::timeout(SNAPSHOT_TIMEOUT, backend.snapshot()).await;
            if let Ok(snapshot) = snapshot {
                let values = Values::new(&snapshot, &counts);
                self.push(now(), NAMES.map(|name| values.sum(name)));
            }
        }
    }

    fn push(&self, time: u64, values: [f64; NAMES.len()]) {
        let mut readings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if readings.len() == READINGS {
            readings.pop_front();
        }
        readings.push_back(Reading { time, values });
    }

    pub(super) fn told(&self) -> Told {
        let readings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Told {
            names: NAMES,
            times: readings.iter().map(|reading| reading.time).collect(),
            values: readings.iter().map(|reading| reading.values).collect(),
        }
    }
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::backend::Snapshot;

    #[test]
    fn the_last_hour_is_kept_and_no_more() {
        let past = Past::default();
        for time in 0..READINGS as u64 + 9 {
            past.push(time, [time as f64; NAMES.len()]);
        }
        let told = past.told();
        assert_eq!((told.times.len(), told.values.len()), (READINGS, READINGS));
        assert_eq!((told.times[0], told.values[0][3]), (9, 9.0));
    }

    #[test]
    fn each_figure_is_a_metric() {
        let values = Values::new(&Snapshot::default(), &Counts::default());
        for name in NAMES {
            assert!(values.has(name), "{name}");
        }
    }
}
