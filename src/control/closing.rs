//! The end of what the control plane serves: nothing new is taken, what was taken is answered.
//!
//! Owns one flag that all servers of HTTP and gRPC look at, and the order in which a server that
//! keeps its channels ends: connections of clients first, then requests, then the cores. The
//! invariant: waiting for requests has an end.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::counts::Counts;
use crate::gateway::farewell::Farewell;

/// Whether servers take nothing new any more. Clones are of the same.
#[derive(Clone, Debug)]
pub struct Closing(Arc<watch::Sender<bool>>);

impl Default for Closing {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }
}

impl Closing {
    /// From now on.
    pub fn begin(&self) {
        self.0.send_replace(true);
    }

    /// Waits for that.
    pub async fn begun(&self) {
        // The sender is ours, so this ends when it is true and not before.
        let _ = self.0.subscribe().wait_for(|begun| *begun).await;
    }
}

/// Waits until nobody asks the cores of a server anything any more that has begun to drain.
pub(super) async fn see_off(farewell: &Farewell, closing: &Closing, counts: &Counts) {
    while !farewell.is_empty() {
        tokio::time::sleep(STEP).await;
    }
    closing.begin();
    let end = Instant::now() + ANSWERS;
    while counts.http_connections.get() > 0 && Instant::now() < end {
        tokio::time::sleep(STEP).await;
    }
}

/// Requests that were taken are answered within this time, or not at all.
pub(super) const ANSWERS: Duration = Duration::from_secs(2);

/// How often it looks.
const STEP: Duration = Duration::from_millis(5);
