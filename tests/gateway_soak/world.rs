//! What all clients, publishers and the backend of one run share. All of them live on one thread.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::watch;

use super::link::exchange;
use super::plan::Plan;
use super::tally::{Counts, Tally};
use super::truth::Truth;
use crate::support::gateway::API_KEY;
use crate::support::stream::request;

/// What everybody does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Run,
    /// Nobody publishes or comes any more; what was sent arrives.
    Settle,
    /// What has arrived is compared, and everybody leaves.
    Leave,
}

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) address: SocketAddr,
    pub(crate) tally: Arc<Tally>,
    pub(crate) truth: RefCell<Truth>,
    /// By client number.
    pub(crate) seats: RefCell<Vec<SeatView>>,
    pub(crate) phase: watch::Receiver<Phase>,
    /// When this program was late itself, so that the server may have lost patience.
    pub(crate) lagged: Cell<Option<Instant>>,
}

/// What others know of a client.
#[derive(Default)]
pub(crate) struct SeatView {
    /// The connection, where it has connected.
    pub(crate) client: Option<String>,
    /// Its client-side subscriptions.
    pub(crate) channels: Vec<usize>,
    pub(crate) server_side: Vec<usize>,
    /// Its token names no server-side channels, so that it may be given some.
    pub(crate) may_be_given: bool,
    pub(crate) orders: Vec<Order>,
    /// The backend said that it is over, or did not say anything of use.
    pub(crate) backend_says_over: Option<Instant>,
}

/// What the server API was asked to do to a client.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) action: Action,
    /// The connection at that time.
    pub(crate) client: String,
    pub(crate) done: Option<Instant>,
    /// It has shown.
    pub(crate) seen: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Disconnect(u32),
    Unsubscribe(usize),
    Subscribe(usize),
    /// To expire, now or at some time.
    Refresh,
}

impl World {
    pub(crate) fn counts(&self) -> &Counts {
        &self.tally.counts
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Whether this program was late a while ago.
    pub(crate) fn is_lagging(&self) -> bool {
        self.lagged.get().is_some_and(|at| at.elapsed() < Duration::from_secs(30))
    }

    pub(crate) fn user(&self, number: usize) -> String {
        format!("user-{number}")
    }

    /// Calls the server API, which must succeed.
    pub(crate) async fn api(&self, method: &str, parameters: &Value) -> Result<Value, String> {
        let mut json = self.call(method, parameters).await?;
        match json.get_mut("result") {
            Some(result) => Ok(result.take()),
            None => Err(format!("API {method} {parameters:.200}: {json}")),
        }
    }

    /// Several calls in one.
    pub(crate) async fn batch(&self, commands: &Value) -> Result<Vec<Value>, String> {
        let mut json = self.call("batch", commands).await?;
        match json["replies"].take() {
            Value::Array(replies) => Ok(replies),
            _ => Err(format!("API batch: {json}")),
        }
    }

    async fn call(&self, method: &str, parameters: &Value) -> Result<Value, String> {
        let lines = [format!("X-API-Key: {API_KEY}"), "Connection: close".to_owned()];
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        let body = parameters.to_string();
        let path = format!("/api/{method}");
        let request = request("POST", &path, &lines, body.as_bytes());
        let told = |what: &str| format!("API {method} {body:.200}: {what}");
        let answer = exchange(self.address, &request).await.map_err(|error| told(&error))?;
        let text = String::from_utf8_lossy(&answer);
        let json =
            text.split_once("\r\n\r\n").and_then(|(_, body)| serde_json::from_str(body).ok());
        json.ok_or_else(|| told(&text))
    }

    /// Where the backend's questions name a user: whose.
    pub(crate) fn number_of(&self, user: &str) -> Option<usize> {
        user.strip_prefix("user-")?.parse().ok().filter(|it| *it < self.plan.clients)
    }
}

/// A publication as the server API takes it.
pub(crate) fn publication(channel: &str, content: &str) -> Value {
    let data: Value = serde_json::from_str(content).expect("content is JSON");
    json!({"channel": channel, "data": data})
}
