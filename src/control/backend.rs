//! What the control plane needs of the server it stands beside.

use std::future::Future;

use crate::Stats;
use crate::gateway::api::{ApiReply, ApiRequest};
use crate::gateway::stats::GatewayStats;
use crate::gateway::wire::Error;

/// The gateway as the control plane sees it. Implemented over the engine's handle; tests have one
/// that answers by itself. All methods are called on the control thread and must not block it.
pub trait Backend: Send + Sync + 'static {
    /// Does what a request says. The reply is of the request's method.
    fn call(
        &self,
        request: ApiRequest,
    ) -> impl Future<Output = Result<ApiReply, Error>> + Send + '_;

    /// What all cores count together.
    fn snapshot(&self) -> impl Future<Output = Snapshot> + Send + '_;

    /// Whether the server is going away: it still serves, but should be sent nobody new.
    fn draining(&self) -> bool;
}

/// Everything that is counted, summed over cores.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// By the engine.
    pub engine: Stats,
    /// By the gateway.
    pub gateway: GatewayStats,
}
