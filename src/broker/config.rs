//! The options as the broker needs them: servers, and the way to each.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::layout::{Layout, Tags};
use super::nats::{Servers, Subjects};
use super::slots::SLOTS;
use super::target::Target;
use crate::config::{EngineType, Failover, Options, Orderer, RedisPlace};
use crate::gateway::broker::{Keeps, Limits};

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
    pub(super) fn new(key: impl Into<String>, what: impl Into<String>) -> Self {
        Self { key: key.into(), what: what.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.what)
    }
}

impl std::error::Error for ConfigError {}

/// The section that all of it is from.
const KEYS: &str = "engine.redis";

impl Config {
    /// `None` where channels live in this process. `uid` is random, of ASCII letters, digits and
    /// hyphens.
    pub fn new(options: &Options, uid: &str) -> Result<Option<Self>, ConfigError> {
        let orderer = options.orderer();
        let in_redis = options.engine.kind == EngineType::Redis;
        let redis = &options.engine.redis;
        let nats = match orderer {
            Orderer::Process => return Ok(None),
            Orderer::Redis => None,
            Orderer::Nats => {
                let nats = &options.broker.nats;
                let servers = Arc::new(Servers::new(nats)?.named(uid));
                let (subjects, write_timeout) = (Subjects::new(nats), nats.write_timeout);
                Some(Nats { servers, subjects, write_timeout })
            }
        };
        let servers = match in_redis {
            true => redis.servers().map_err(|fault| {
                ConfigError::new(format!("{KEYS}.{}", fault.key), fault.to_string())
            })?,
            false => Vec::new(),
        };
        // The longest: no request is given up while its server still has time.
        let deadlines = servers.iter().map(|server| server.io_timeout);
        let deadline = deadlines.chain(nats.iter().map(|nats| nats.write_timeout)).max();
        let (requests, bytes, keeps) = match (orderer, in_redis) {
            (Orderer::Nats, in_redis) => {
                let nats = &options.broker.nats;
                let keeps = if in_redis { Keeps::Members } else { Keeps::Nothing };
                (nats.requests, nats.requests_bytes, keeps)
            }
            _ => (redis.requests, redis.requests_bytes, Keeps::All),
        };
        let target =
            |server| Target::new(server, &redis.tls, &redis.sentinel_tls, &redis.client_name, KEYS);
        Ok(Some(Self {
            targets: servers.into_iter().map(target).collect::<Result<_, _>>()?,
            nats,
            prefix: redis.prefix.as_str().into(),
            partitions: match orderer {
                Orderer::Redis => redis.sharded_pub_sub_partitions.min(SLOTS as u32) as u16,
                _ => 0,
            },
            limits: Limits {
                requests: requests as usize,
                bytes: bytes.0,
                deadline: deadline.unwrap_or(redis.io_timeout),
                presence_ttl: redis.presence_ttl,
                keeps,
            },
            renew: redis.failover == Failover::Renew,
            node: uid.chars().filter(char::is_ascii_alphanumeric).take(NODE).collect(),
            uid: uid.into(),
        }))
    }

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

/// Letters that name this process in Redis: of hexadecimal digits enough for any number of nodes,
/// and in each publication.
const NODE: usize = 12;
