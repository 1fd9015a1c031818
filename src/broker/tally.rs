//! What the broker's thread counts, and how it is with its connections: for metrics and health.
//!
//! Written by that thread, read by the control plane's. Labels are those that the code names, so
//! their number is bounded.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::broker::server::RedisPlace;
use crate::gateway::stats::Durations;

/// Counters of the broker.
#[derive(Debug, Default)]
pub struct Tally {
    /// Messages that came through channels.
    pub messages: Count,
    /// Such that could not be read.
    pub messages_malformed: Count,
    /// Messages that a core's full mailbox did not take; it repairs what it can.
    pub messages_refused: Count,
    /// Channels whose messages the server was asked to pass on.
    pub listens: Count,
    /// Requests that were sent a second time, after a connection broke.
    pub repeated: Count,
    /// Messages of other nodes.
    pub control_received: Count,
    /// Messages to other nodes that the server has taken.
    pub control_sent: Count,
    /// Messages from or to other nodes for which there was no room or no connection, or that the
    /// server has refused.
    pub control_dropped: Count,
    /// Messages of other nodes that could not be read.
    pub control_malformed: Count,
    /// Times that Sentinels named another primary than before.
    pub switches: Count,
    /// Slots of a cluster that have another node.
    pub slots_moved: Count,
    /// Messages of channels whose slot has another node, which passes them on, too.
    pub messages_moved: Count,
    /// Slots that a node has stopped to pass on sharded messages of, or has refused to.
    pub slots_lost: Count,
    maps: Mutex<Maps>,
}

/// Counters with labels.
#[derive(Clone, Debug, Default)]
pub struct Maps {
    /// Connections made, by purpose.
    pub connects: BTreeMap<&'static str, u64>,
    /// Connections lost, by reason.
    pub lost: BTreeMap<&'static str, u64>,
    /// Attempts that made none, by reason.
    pub failed: BTreeMap<&'static str, u64>,
    /// Requests by what they want and what became of them.
    pub requests: BTreeMap<(&'static str, &'static str), u64>,
    /// Requests that a cluster's node sent elsewhere, by how.
    pub redirects: BTreeMap<&'static str, u64>,
    /// Orders and questions to other nodes, by what they want and what became of them.
    pub surveys: BTreeMap<(&'static str, &'static str), u64>,
    /// From a request to its answer, by what it wants; of those that the server answered.
    pub durations: BTreeMap<&'static str, Durations>,
}

/// Only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// So many more.
    pub fn add(&self, number: u64) {
        self.0.fetch_add(number, Ordering::Relaxed);
    }

    /// So far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Tally {
    /// To count with labels.
    pub fn maps(&self) -> MutexGuard<'_, Maps> {
        // Plain numbers are as good after a panic as before.
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an order or a question to other nodes.
    pub fn survey(&self, op: &'static str, outcome: &'static str) {
        *self.maps().surveys.entry((op, outcome)).or_default() += 1;
    }
}

/// How it is with one server.
#[derive(Debug)]
pub struct Condition {
    state: Mutex<State>,
}

#[derive(Clone, Debug)]
struct State {
    /// What it is.
    kind: &'static str,
    /// Where it is.
    place: String,
    up: bool,
    /// There are connections to some of its nodes.
    partly: bool,
    ever: bool,
    since: Instant,
    reason: String,
    version: String,
    /// Sentinels that answered when they were asked last, of those that are configured.
    sentinels: Option<usize>,
}

/// A copy of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Where the server is.
    pub place: String,
    /// There are connections to it.
    pub up: bool,
    /// What is wrong, if it counts: there was no contact yet, or none for [`PATIENCE`].
    pub unhealthy: Option<String>,
    /// The server's version, as it said at the last contact.
    pub version: String,
    /// Sentinels that answered when they were asked last, of those that are configured; `None`
    /// without any.
    pub sentinels: Option<usize>,
}

/// So long may a server be away before clients are better sent elsewhere.
pub const PATIENCE: Duration = Duration::from_secs(5);

impl Condition {
    /// Of a server that was not reached yet.
    pub fn new(place: &RedisPlace) -> Self {
        let sentinels = matches!(place, RedisPlace::Sentinel(_)).then_some(0);
        Self::of("redis", place.to_string(), sentinels)
    }

    /// Of one that is no Redis.
    pub fn of(kind: &'static str, place: String, sentinels: Option<usize>) -> Self {
        let reason = "not reached yet".to_owned();
        let (since, version) = (Instant::now(), String::new());
        let (up, partly, ever) = (false, false, false);
        let state = State { kind, place, up, partly, ever, since, reason, version, sentinels };
        Self { state: Mutex::new(state) }
    }

    /// So many Sentinels have answered.
    pub fn sentinels(&self, answered: usize) {
        self.state().sentinels = Some(answered);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is there.
    pub fn up(&self, version: &str) {
        let mut state = self.state();
        (state.up, state.ever, state.since) = (true, true, Instant::now());
        version.clone_into(&mut state.version);
        state.reason.clear();
    }

    /// Whether it is there, or some of its nodes are.
    pub fn is_up(&self) -> bool {
        let state = self.state();
        state.up || state.partly
    }

    /// A cluster that is not whole, and why; some of its nodes may be there.
    pub fn partly(&self, reason: String, some: bool) {
        self.down(reason);
        self.state().partly = some;
    }

    /// The fault, if it is away.
    pub fn reason(&self) -> Option<String> {
        let state = self.state();
        (!state.up).then(|| state.reason.clone())
    }

    /// It is away, and why.
    pub fn down(&self, reason: String) {
        let mut state = self.state();
        if state.up {
            (state.up, state.since) = (false, Instant::now());
        }
        state.reason = reason;
    }

    /// As it is at this moment.
    pub fn report(&self, now: Instant) -> Report {
        let state = self.state();
        let away = now.saturating_duration_since(state.since);
        let counts = !state.up && (!state.ever || away >= PATIENCE);
        let unhealthy = counts.then(|| {
            let secs = away.as_secs();
            format!("{} {} away for {secs} s: {}", state.kind, state.place, state.reason)
        });
        Report {
            place: state.place.clone(),
            up: state.up,
            unhealthy,
            version: state.version.clone(),
            sentinels: state.sentinels,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_counts_as_away_at_first_and_after_a_while() {
        let condition = Condition::new(&RedisPlace::Tcp("h".to_owned(), 1));
        let unhealthy = |after| condition.report(Instant::now() + after).unhealthy;
        condition.down("refused".to_owned());
        assert_eq!(unhealthy(Duration::ZERO).unwrap(), "redis h:1 away for 0 s: refused");
        condition.up("7.0.15");
        assert_eq!(unhealthy(PATIENCE * 2), None);
        condition.down("closed".to_owned());
        assert_eq!(unhealthy(Duration::ZERO), None, "it may be back at once");
        condition.down("no route".to_owned());
        assert!(unhealthy(PATIENCE).unwrap().ends_with("no route"));
        assert_eq!(condition.report(Instant::now()).version, "7.0.15");
    }
}
