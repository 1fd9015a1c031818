//! What the control plane counts about itself: calls of the server API, HTTP connections, hooks and
//! key fetches.
//!
//! Shared by the parts that run on the control thread, so its one lock is never waited for; engine
//! threads touch the atomics only.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;

use super::amounts::{Gauge, Total};
use super::body::Bodies;
use crate::gateway::hooks::{HookFailure, HookKind};
use crate::gateway::state::Restored;
use crate::gateway::stats::{Durations, own_code};
use crate::gateway::wire::Error;

/// Counters of the control plane.
#[derive(Debug, Default)]
pub struct Counts {
    maps: Mutex<Maps>,
    /// HTTP connections that are served now.
    pub(crate) http_connections: Gauge,
    /// HTTP connections taken, refused ones included.
    pub(crate) http_accepted: Total,
    /// The account of request bodies.
    pub(crate) http_bodies: Arc<Bodies>,
    /// HTTP connections refused with 503: too many at once.
    pub(crate) http_refused: Total,
    /// HTTP connections ended because another needed their place.
    pub(crate) http_evicted: Total,
    /// HTTP connections ended because they waited for too long.
    pub(crate) http_late: Total,
    /// HTTP connections that ended with an error or a deadline.
    pub(crate) http_failed: Total,
    /// Hook calls that wait for their turn or their answer.
    pub(crate) hooks_in_flight: Gauge,
    /// Hook calls refused on an engine thread because their proxy had no room.
    pub(crate) hooks_queue_full: Total,
    /// Streams of subscriptions that are open.
    pub(crate) feeds: Gauge,
    /// Publications that came on them.
    pub(crate) feed_messages_in: Total,
    /// Publications that clients sent on them.
    pub(crate) feed_messages_out: Total,
    /// Streams, and publications to them, for which a proxy had no room.
    pub(crate) feeds_full: Total,
    /// Times certificates were loaded while the server ran.
    pub(crate) tls_reloads: Total,
    /// Times that failed, and what was there before stayed.
    pub(crate) tls_reloads_failed: Total,
    /// Certificates that an authority has issued.
    pub(crate) tls_orders: Total,
    /// Orders for one that failed.
    pub(crate) tls_orders_failed: Total,
    /// The earliest end of a certificate, in seconds since 1970; 0 without TLS.
    pub(crate) tls_not_after: Gauge,
    /// What cores took over from the process before.
    pub(crate) state_restored: Arc<Restored>,
    /// Bytes of the file where that was.
    pub(crate) state_bytes: Gauge,
    /// 1 while another process is followed.
    pub(crate) takeover_linked: Gauge,
    /// Key sets fetched.
    pub(crate) jwks_fetched: Total,
    /// Fetches of key sets that failed.
    pub(crate) jwks_failed: Total,
    /// Logins to the admin page that succeeded.
    pub(crate) admin_logins: Total,
    /// Logins to the admin page with a wrong password.
    pub(crate) admin_logins_failed: Total,
    /// Logins to the admin page refused because too many failed before.
    pub(crate) admin_logins_limited: Total,
}

/// Who may end a stream of a subscription.
pub(crate) const FEED_ENDS: [&str; 3] = ["client", "backend", "failure"];

/// Counters with labels.
#[derive(Clone, Debug, Default)]
pub(crate) struct Maps {
    /// Calls of the server API by method.
    pub(crate) api_calls: BTreeMap<&'static str, Durations>,
    /// Error answers by method and code.
    pub(crate) api_errors: BTreeMap<(&'static str, u32), u64>,
    /// Requests refused by HTTP status, before they were a call.
    pub(crate) api_refused: BTreeMap<u16, u64>,
    /// Hook calls by kind.
    pub(crate) hook_calls: BTreeMap<HookKind, Durations>,
    /// Hook calls without a usable answer, by kind and cause.
    pub(crate) hook_failures: BTreeMap<(HookKind, HookFailure), u64>,
    /// Streams of subscriptions that ended, by who ended them.
    pub(crate) feeds_ended: BTreeMap<&'static str, u64>,
    /// Messages dealt with, by consumer.
    pub(crate) consumed: BTreeMap<Arc<str>, u64>,
    /// Files with kept channels that were not read, by reason.
    pub(crate) state_ignored: BTreeMap<&'static str, u64>,
    /// Takeovers that ended, by side and outcome.
    pub(crate) takeovers: BTreeMap<(&'static str, &'static str), u64>,
    /// Messages and connections of consumers that failed, by consumer and cause.
    pub(crate) consumer_failures: BTreeMap<(Arc<str>, &'static str), u64>,
}

impl Counts {
    pub(crate) fn api_call(&self, method: &'static str, took: Duration, error: Option<&Error>) {
        let mut maps = self.maps();
        maps.api_calls.entry(method).or_default().record(took);
        if let Some(error) = error {
            *maps.api_errors.entry((method, own_code(error.code, 400))).or_default() += 1;
        }
    }

    pub(crate) fn api_refused(&self, status: StatusCode) {
        *self.maps().api_refused.entry(status.as_u16()).or_default() += 1;
    }

    pub(crate) fn hook_call(&self, kind: HookKind, took: Duration, failure: Option<HookFailure>) {
        let mut maps = self.maps();
        maps.hook_calls.entry(kind).or_default().record(took);
        if let Some(failure) = failure {
            *maps.hook_failures.entry((kind, failure)).or_default() += 1;
        }
    }

    pub(crate) fn feed_ended(&self, who: &'static str) {
        *self.maps().feeds_ended.entry(who).or_default() += 1;
    }

    pub(crate) fn state_ignored(&self, reason: &'static str) {
        *self.maps().state_ignored.entry(reason).or_default() += 1;
    }

    pub(crate) fn takeover(&self, side: &'static str, outcome: &'static str) {
        *self.maps().takeovers.entry((side, outcome)).or_default() += 1;
    }

    pub(crate) fn consumed(&self, consumer: &Arc<str>) {
        *self.maps().consumed.entry(consumer.clone()).or_default() += 1;
    }

    pub(crate) fn consumer_failed(&self, consumer: &Arc<str>, why: &'static str) {
        *self.maps().consumer_failures.entry((consumer.clone(), why)).or_default() += 1;
    }

    pub(crate) fn maps(&self) -> MutexGuard<'_, Maps> {
        // Plain numbers are as good after a panic as before.
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
