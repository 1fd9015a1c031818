//! The record of a server's troubles: in the log, in metrics, and in its condition.
//!
//! Owns the times of log lines: the same complaint stands there once per [`REPEAT`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::link::Lost;
use super::tally::{Condition, Tally};

/// See the module's text.
#[derive(Debug)]
pub(super) struct Diary {
    place: String,
    condition: Arc<Condition>,
    tally: Arc<Tally>,
    logged: Option<(String, Instant)>,
}

/// The same complaint is not made more often.
const REPEAT: Duration = Duration::from_secs(10);

impl Diary {
    /// Of this server.
    pub(super) fn new(place: String, condition: Arc<Condition>, tally: Arc<Tally>) -> Self {
        Self { place, condition, tally, logged: None }
    }

    /// Where it is.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// There is a connection.
    pub(super) fn made(&self, purpose: &'static str, version: &str) {
        *self.tally.maps().connects.entry(purpose).or_default() += 1;
        tracing::debug!(server = %self.place, purpose, version, "connected");
    }

    /// An attempt to make one has failed.
    pub(super) fn failed(&mut self, purpose: &str, name: &'static str, what: &str, now: Instant) {
        *self.tally.maps().failed.entry(name).or_default() += 1;
        self.complain(purpose, what, now);
    }

    /// A connection is lost.
    pub(super) fn lost(&mut self, purpose: &str, lost: &Lost, now: Instant) {
        self.complain(purpose, &lost.to_string(), now);
        *self.tally.maps().lost.entry(lost.name()).or_default() += 1;
    }

    fn complain(&mut self, purpose: &str, what: &str, now: Instant) {
        self.condition.down(what.to_owned());
        let said =
            self.logged.as_ref().is_some_and(|(said, at)| said == what && *at + REPEAT > now);
        if !said {
            tracing::warn!(server = %self.place, purpose, "broker: {what}");
            self.logged = Some((what.to_owned(), now));
        }
    }

    /// All connections are there.
    pub(super) fn well(&mut self, version: &str) {
        self.condition.up(version);
        self.logged = None;
    }
}
