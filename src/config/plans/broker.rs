//! From options to what the broker is told.

use std::sync::Arc;

use crate::broker::nats::Servers;
use crate::broker::slots::SLOTS;
use crate::broker::target::Target;
use crate::broker::{Config, ConfigError, config};
use crate::config::{EngineType, Failover, Options, Orderer};
use crate::gateway::broker::{Keeps, Limits};

/// The section that all of it is from.
const KEYS: &str = "engine.redis";

impl Options {
    /// What the broker is told; `None` where channels live in this process. `uid` is random, of
    /// ASCII letters, digits and hyphens. Reads certificates.
    ///
    /// # Errors
    /// An address is none, or a certificate or key does not load.
    pub fn broker_config(&self, uid: &str) -> Result<Option<Config>, ConfigError> {
        let options = self;
        let orderer = options.orderer();
        let in_redis = options.engine.kind == EngineType::Redis;
        let redis = &options.engine.redis;
        let nats = match orderer {
            Orderer::Process => return Ok(None),
            Orderer::Redis => None,
            Orderer::Nats => {
                let nats = &options.broker.nats;
                let wrong = |what: String| ConfigError::new("broker.nats.url", what);
                let named = nats.servers().map_err(wrong)?;
                let servers = Servers::new(named, &nats.tls.demands(), nats.dial_timeout)?;
                Some(config::Nats {
                    servers: Arc::new(servers.named(uid)),
                    subjects: nats.subjects(),
                    write_timeout: nats.write_timeout,
                })
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
        let (tls, sentinel_tls) = (redis.tls.demands(), redis.sentinel_tls.demands());
        let target = |server| Target::new(server, &tls, &sentinel_tls, &redis.client_name, KEYS);
        Ok(Some(Config {
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
}

/// Letters that name this process in Redis: of hexadecimal digits enough for any number of nodes,
/// and in each publication.
const NODE: usize = 12;
