//! Where channels are ordered, by what several sections say.

use super::{EngineType, Options};

/// Where channels are ordered, and through what publications pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orderer {
    /// This process.
    Process,
    /// Redis, for several nodes.
    Redis,
    /// NATS, for several nodes, which keeps nothing.
    Nats,
}

impl Options {
    /// Where channels are ordered.
    pub fn orderer(&self) -> Orderer {
        match self.engine.kind {
            _ if self.broker.enabled && self.broker.kind == "nats" => Orderer::Nats,
            EngineType::Redis => Orderer::Redis,
            EngineType::Memory => Orderer::Process,
        }
    }
}
