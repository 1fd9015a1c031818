//! What the control plane needs of the server it stands beside.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use super::publishing::Published;
use crate::broker;
use crate::gateway::api::{ApiReply, ApiRequest, PublishRequest};
use crate::gateway::inspect::{Connection, Found, Search, SlowEnd};
use crate::gateway::stats::GatewayStats;
use crate::gateway::wire::Error;
use crate::{Counters, Stats};

/// The gateway as the control plane sees it. Implemented over the engine's handle; tests have one
/// that answers by itself. All methods are called on the control thread and must not block it.
pub trait Backend: Send + Sync + 'static {
    /// Does what a request says. The reply is of the request's method.
    fn call(
        &self,
        request: ApiRequest,
    ) -> impl Future<Output = Result<ApiReply, Error>> + Send + '_;

    /// Posts publications, in this order: into one channel none overtakes another. Each has its
    /// outcome in its place. The caller bounds how many are under way.
    fn publish_all(&self, all: Vec<PublishRequest>) -> Vec<Published>;

    /// What all cores count together.
    fn snapshot(&self) -> impl Future<Output = Snapshot> + Send + '_;

    /// Channels with subscribers, those with the most first.
    fn channels(&self, search: Search) -> impl Future<Output = Result<Found, Error>> + Send + '_;

    /// Users with connections, by name.
    fn users(&self, search: Search) -> impl Future<Output = Result<Found, Error>> + Send + '_;

    /// A user's connections: so many of each core at most.
    fn user(
        &self,
        name: String,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Connection>, Error>> + Send + '_;

    /// Who does not read what is sent, so many at most: those with the most waiting.
    fn slow(&self, limit: usize) -> impl Future<Output = SlowReport> + Send + '_;

    /// Whether the server is going away: it still serves, but should be sent nobody new.
    fn draining(&self) -> bool;

    /// Why new clients are better sent elsewhere though the server lives: the broker is away.
    fn broken(&self) -> Option<String> {
        None
    }
}

/// Everything that is counted.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// By the engine, over all cores.
    pub engine: Stats,
    /// By the gateway, over all cores.
    pub gateway: GatewayStats,
    /// By the engine on each core, with the core's number. Their sum is `engine`.
    pub cores: Vec<(u16, Counters)>,
    /// By the broker's thread, if there is one.
    pub broker: Option<broker::View>,
}

impl Snapshot {
    /// From what cores say.
    pub fn new(parts: Vec<(u16, Stats)>, gateway: GatewayStats) -> Self {
        let mut all = Self { gateway, ..Self::default() };
        for (core, stats) in parts {
            all.engine.add(&stats);
            all.cores.push((core, stats.counters));
        }
        all
    }
}

/// Who does not read what is sent.
#[derive(Clone, Debug, Default)]
pub struct SlowReport {
    /// Those whose send buffer is full now, those with the most waiting first.
    pub now: Vec<SlowNow>,
    /// How many there are, those left out included.
    pub total: usize,
    /// The last that were closed for it, the newest first.
    pub ended: Vec<SlowEnd>,
}

/// A connection that does not read what is sent.
#[derive(Clone, Debug)]
pub struct SlowNow {
    /// From where.
    pub peer: SocketAddr,
    /// Bytes that wait for it.
    pub queued: usize,
    /// Time since it last took a byte.
    pub stalled: Duration,
    /// Who it is; `None` before its connect command.
    pub who: Option<Connection>,
}
