//! A server of Redis: where it is or who knows, and who we are there.

use std::fmt;
use std::time::Duration;

use crate::options::Secret;

/// One server, as the keys and its own URL name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisServer {
    /// Where it is.
    pub place: RedisPlace,
    /// Over TLS.
    pub tls: bool,
    /// Empty: the default one.
    pub user: String,
    /// Empty: none.
    pub password: Secret,
    /// Number of the database.
    pub db: u32,
    /// For a connection with its handshakes.
    pub connect_timeout: Duration,
    /// For the answer to a request.
    pub io_timeout: Duration,
    /// Only version 2 of the protocol.
    pub force_resp2: bool,
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisPlace {
    /// Host, by name or address, and port.
    Tcp(String, u16),
    /// Path of a socket.
    Unix(String),
    /// Where Sentinels say.
    Sentinel(Box<Sentinels>),
    /// The nodes of a Redis Cluster, of which these are some: host and port.
    Cluster(Vec<(String, u16)>),
}

/// Sentinels of one group, and the name by which they know a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sentinels {
    /// The name.
    pub master: String,
    /// Host and port of those that are named; at least one.
    pub places: Vec<(String, u16)>,
    /// They are spoken to over TLS.
    pub tls: bool,
    /// Who we are to them. Empty: the default user.
    pub user: String,
    /// Empty: none.
    pub password: Secret,
    /// The name of our connections to them. Empty: ringhold.
    pub client_name: String,
}

impl fmt::Display for RedisPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) => f.write_str(&joined(host, *port)),
            Self::Unix(path) => write!(f, "unix:{path}"),
            Self::Sentinel(sentinels) => {
                let places = sentinels.places.iter().map(|(host, port)| joined(host, *port));
                write!(f, "{} by {}", sentinels.master, places.collect::<Vec<_>>().join(","))
            }
            Self::Cluster(places) => {
                let places = places.iter().map(|(host, port)| joined(host, *port));
                write!(f, "cluster {}", places.collect::<Vec<_>>().join(","))
            }
        }
    }
}

/// As it is written in one piece.
fn joined(host: &str, port: u16) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}
