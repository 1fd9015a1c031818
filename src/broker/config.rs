//! The options as the broker needs them: servers, and the way to each.
//!
//! Reads the certificates that the options name.

use std::fmt;

use rustls::pki_types::ServerName;

use super::dial::Target;
use super::layout::{Layout, Tags};
use crate::gateway::broker::Limits;
use crate::gateway::options::{EngineType, Failover, Options, RedisPlace, RedisServer};
use crate::tls::keys;

/// See the module's text.
pub struct Config {
    /// The servers, of which each has a share of the channels.
    pub targets: Vec<Target>,
    /// How keys are named.
    pub layout: Layout,
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
    pub key: &'static str,
    /// In words.
    pub what: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.what)
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// `None` where channels live in this process. `uid` is random, of ASCII letters, digits and
    /// hyphens.
    pub fn new(options: &Options, uid: &str) -> Result<Option<Self>, ConfigError> {
        if options.engine.kind != EngineType::Redis {
            return Ok(None);
        }
        let redis = &options.engine.redis;
        let wrong = |key| move |what| ConfigError { key, what };
        let address = wrong("engine.redis.address");
        let servers = redis.servers().map_err(|(_, what)| address(what))?;
        let secure = servers.iter().any(|server| server.tls);
        let tls = match secure {
            false => None,
            true => {
                let loaded = keys::stream_client(&redis.tls.trust(), redis.tls.identity().as_ref());
                let fault = |fault: keys::KeyFault| wrong("engine.redis.tls")(fault.to_string());
                Some(loaded.map_err(fault)?)
            }
        };
        let client_name = match redis.client_name.as_str() {
            "" => "ringhold".to_owned(),
            name => name.to_owned(),
        };
        // The longest: no request is given up while its server still has time.
        let deadline = servers.iter().map(|server| server.io_timeout).max();
        let target = |server: RedisServer| {
            let tls = match (&tls, &server.place) {
                (Some(config), RedisPlace::Tcp(host, _)) if server.tls => {
                    let name = match redis.tls.server_name.as_str() {
                        "" => host.clone(),
                        name => name.to_owned(),
                    };
                    let known = ServerName::try_from(name.clone());
                    let what = |_| format!("\"{name}\" can be no name in a certificate");
                    let name =
                        known.map_err(what).map_err(wrong("engine.redis.tls.server_name"))?;
                    Some((config.clone(), name))
                }
                _ => None,
            };
            let keys = "engine.redis".into();
            Ok(Target { server, tls, client_name: client_name.clone(), keys })
        };
        Ok(Some(Self {
            targets: servers.into_iter().map(target).collect::<Result<_, _>>()?,
            layout: Layout::new(&redis.prefix, Tags::Plain),
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
}

/// Letters that name this process in Redis: of hexadecimal digits enough for any number of nodes,
/// and in each publication.
const NODE: usize = 12;
