//! The options as the broker needs them: servers, and the way to each.

use std::fmt;

use super::layout::{Layout, Tags};
use super::target::Target;
use crate::gateway::broker::Limits;
use crate::gateway::options::{EngineType, Failover, Options, RedisPlace};

/// See the module's text.
pub struct Config {
    /// The servers, of which each has a share of the channels.
    pub targets: Vec<Target>,
    /// Begins all names.
    pub prefix: Box<str>,
    /// Bounds of a core's requests, and their deadline.
    pub limits: Limits,
    /// Another run of a server has lost all positions.
    pub renew: bool,
    /// Names this process in what it publishes.
    pub node: Box<str>,
    /// Names it among nodes.
    pub uid: Box<str>,
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
        if options.engine.kind != EngineType::Redis {
            return Ok(None);
        }
        let redis = &options.engine.redis;
        let servers = redis.servers().map_err(|fault| {
            ConfigError::new(format!("{KEYS}.{}", fault.key), fault.to_string())
        })?;
        // The longest: no request is given up while its server still has time.
        let deadline = servers.iter().map(|server| server.io_timeout).max();
        let target =
            |server| Target::new(server, &redis.tls, &redis.sentinel_tls, &redis.client_name, KEYS);
        Ok(Some(Self {
            targets: servers.into_iter().map(target).collect::<Result<_, _>>()?,
            prefix: redis.prefix.as_str().into(),
            limits: Limits {
                requests: redis.requests as usize,
                bytes: redis.requests_bytes.0,
                deadline: deadline.unwrap_or(redis.io_timeout),
                presence_ttl: redis.presence_ttl,
            },
            renew: redis.failover == Failover::Renew,
            node: uid.chars().filter(char::is_ascii_alphanumeric).take(NODE).collect(),
            uid: uid.into(),
        }))
    }

    /// How keys are named on a server.
    pub fn layout(&self, target: &Target) -> Layout {
        let tags = match target.server.place {
            RedisPlace::Cluster(_) => Tags::Braces,
            _ => Tags::Plain,
        };
        Layout::new(&self.prefix, tags)
    }
}

/// Letters that name this process in Redis: of hexadecimal digits enough for any number of nodes,
/// and in each publication.
const NODE: usize = 12;
