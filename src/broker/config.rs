//! What the broker is told: servers, and the way to each.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::layout::{Layout, Tags};
use super::nats::{Servers, Subjects};
use super::server::RedisPlace;
use super::target::Target;
use crate::gateway::broker::Limits;

/// See the module's text.
pub struct Config {
    /// Servers of Redis, of which each has a share of the channels: of all that there is of them,
    /// or beside NATS of their members.
    pub targets: Vec<Target>,
    /// Set if publications pass through NATS.
    pub nats: Option<Nats>,
    /// Begins all names.
    pub prefix: Box<str>,
    /// Of each cluster, if messages are sharded; else 0.
    pub partitions: u16,
    /// Bounds of a core's requests, and their deadline.
    pub limits: Limits,
    /// Another run of a server has lost all positions.
    pub renew: bool,
    /// Names this process in what it publishes.
    pub node: Box<str>,
    /// Names it among nodes.
    pub uid: Box<str>,
}

/// NATS as the broker.
#[derive(Clone, Debug)]
pub struct Nats {
    /// Its servers.
    pub servers: Arc<Servers>,
    /// How channels are named.
    pub subjects: Subjects,
    /// For the server to have taken what is sent.
    pub write_timeout: Duration,
}

/// Why there is no broker: the key, and what is wrong with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The key.
    pub key: String,
    /// In words.
    pub what: String,
}

impl ConfigError {
    /// Of a key.
    pub(crate) fn new(key: impl Into<String>, what: impl Into<String>) -> Self {
        Self { key: key.into(), what: what.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.what)
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// How keys are named on a server.
    pub fn layout(&self, target: &Target) -> Layout {
        let tags = match (&target.server.place, self.partitions) {
            (RedisPlace::Cluster(_), 0) => Tags::Braces,
            (RedisPlace::Cluster(_), partitions) => Tags::Partitions(partitions),
            _ => Tags::Plain,
        };
        Layout::new(&self.prefix, tags)
    }
}
