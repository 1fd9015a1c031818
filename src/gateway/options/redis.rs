//! `engine.redis`: the server that orders channels for several nodes, and how to reach it.
//!
//! Names and defaults are Centrifugo's; what is ours alone is marked. Reads no file and opens no
//! connection: the broker does.

use std::path::Path;
use std::time::Duration;

use super::field::section;
use super::values::{Secret, Size, choice};
use crate::tls::keys::{KeyPair, Trust, is_path};

section! {
    /// `engine.redis`: heard where `engine.type` is `redis`.
    pub struct Redis {
        /// One server, or several that share the channels: `host:port`, or a URL of `redis`,
        /// `rediss` (TLS), `tcp` or `unix`. What a URL says is stronger than the keys below.
        address: Vec<String> = vec!["redis://127.0.0.1:6379".to_owned()],
        /// Begins every name of ours in Redis.
        prefix: String = "centrifugo".to_owned(),
        /// For a connection with its handshakes.
        connect_timeout: Duration = Duration::from_secs(1),
        /// For the answer to a request; then clients and the API are told error 100.
        io_timeout: Duration = Duration::from_secs(4),
        /// Number of the database. Messages pass through all of them.
        db: u32 = 0,
        /// Who we are, where the server has users (ACL).
        user: String = String::new(),
        /// The password.
        password: Secret = Secret::default(),
        /// The name of our connections in `CLIENT LIST`. Empty: ringhold.
        client_name: String = String::new(),
        /// Speak version 2 of the protocol. Else 3, if the server does.
        force_resp2: bool = false,
        /// TLS, also without a URL of `rediss`.
        tls: RedisTls = RedisTls::default(),
        /// A member of a channel vanishes so long after its node was last heard of.
        presence_ttl: Duration = Duration::from_secs(60),
        /// What histories are believed after another server has taken over, or the same has
        /// started again. Ours, like all below.
        failover: Failover = Failover::Verify,
        /// Requests of a worker that may wait for their answers; one more gets error 111.
        requests: u32 = 65_536,
        /// Memory of such requests, per worker.
        requests_bytes: Size = Size(16 << 20),
    }
}

section! {
    /// `engine.redis.tls`. Each `*_pem` is the path of a PEM file, PEM text, or base64 of PEM text.
    pub struct RedisTls {
        /// Speak TLS.
        enabled: bool = false,
        /// Our certificate with the chain to its authority, where the server asks for one.
        cert_pem: String = String::new(),
        /// Its key.
        key_pem: Secret = Secret::default(),
        /// Authorities of the server's certificate. Empty: those of the host.
        server_ca_pem: String = String::new(),
        /// Believe every certificate.
        insecure_skip_verify: bool = false,
        /// The name in the server's certificate, where it is not the host of the address.
        server_name: String = String::new(),
    }
}

choice! {
    /// What histories are believed after the server was replaced.
    pub enum Failover {
        /// Those whose newest publication is the one that a node remembers. Others get a new epoch.
        Verify = "verify",
        /// None: each channel gets a new epoch at its first use.
        Renew = "renew",
    }
}

impl RedisTls {
    /// Whom we believe to be the server.
    pub(crate) fn trust(&self) -> Trust {
        match () {
            () if self.insecure_skip_verify => Trust::Anybody,
            () if self.server_ca_pem.is_empty() => Trust::System,
            () => Trust::Authorities(self.server_ca_pem.clone()),
        }
    }

    /// Who we are, if the server asks.
    pub(crate) fn identity(&self) -> Option<KeyPair> {
        let key_pem = self.key_pem.reveal().to_owned();
        (!self.cert_pem.is_empty()).then(|| KeyPair { cert_pem: self.cert_pem.clone(), key_pem })
    }

    /// Paths in a configuration file begin at its folder.
    pub(crate) fn begin_at(&mut self, folder: &Path) {
        let begin = |path: &str| match !path.is_empty() && is_path(path) {
            true => folder.join(path).display().to_string(),
            false => path.to_owned(),
        };
        self.cert_pem = begin(&self.cert_pem);
        self.server_ca_pem = begin(&self.server_ca_pem);
        self.key_pem = Secret::new(begin(self.key_pem.reveal()));
    }
}

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
}

impl std::fmt::Display for RedisPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

/// Of Redis.
const PORT: u16 = 6379;

impl Redis {
    /// All servers.
    ///
    /// # Errors
    /// The number of the address that is none, and why, without repeating what may be a password.
    pub fn servers(&self) -> Result<Vec<RedisServer>, (usize, String)> {
        let read = |(index, text): (usize, &String)| {
            self.server(text.trim()).map_err(|what| (index, what))
        };
        self.address.iter().enumerate().map(read).collect()
    }

    fn server(&self, text: &str) -> Result<RedisServer, String> {
        let mut server = RedisServer {
            place: RedisPlace::Tcp(String::new(), PORT),
            tls: self.tls.enabled,
            user: self.user.clone(),
            password: self.password.clone(),
            db: self.db,
            connect_timeout: self.connect_timeout,
            io_timeout: self.io_timeout,
            force_resp2: self.force_resp2,
        };
        let Some((scheme, rest)) = text.split_once("://") else {
            server.place = host_and_port(text)?;
            return Ok(server);
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let rest = match rest.rsplit_once('@') {
            None => rest,
            Some((who, rest)) => {
                let (user, password) = who.split_once(':').ok_or("needs a colon before its @")?;
                server.user = decoded(user).ok_or("has a user that is not URL-encoded")?;
                let password = decoded(password).ok_or("has a password that is not URL-encoded")?;
                server.password = Secret::new(password);
                rest
            }
        };
        match scheme.to_ascii_lowercase().as_str() {
            "redis" | "tcp" => server.at(rest)?,
            "rediss" => {
                server.tls = true;
                server.at(rest)?;
            }
            "unix" if rest.starts_with('/') => {
                let path = decoded(rest).ok_or("has a path that is not URL-encoded")?;
                server.place = RedisPlace::Unix(path);
            }
            "unix" => return Err("needs a path that begins with /".to_owned()),
            "redis+sentinel" | "rediss+sentinel" => return Err(NO_SENTINEL.to_owned()),
            "redis+cluster" | "rediss+cluster" => return Err(NO_CLUSTER.to_owned()),
            _ => return Err("must begin with redis://, rediss://, tcp:// or unix://".to_owned()),
        }
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            server.option(name, value)?;
        }
        Ok(server)
    }
}

impl RedisServer {
    /// `host:port/db`.
    fn at(&mut self, rest: &str) -> Result<(), String> {
        let (place, db) = rest.split_once('/').unwrap_or((rest, ""));
        if !db.is_empty() {
            self.db = number(db)?;
        }
        self.place = host_and_port(place)?;
        Ok(())
    }

    /// What stands behind the question mark.
    fn option(&mut self, name: &str, value: &str) -> Result<(), String> {
        let duration = || {
            let wrong = |_| format!("has no duration as {name}");
            humantime::parse_duration(value).map_err(wrong)
        };
        let on = || match value {
            "true" | "1" => Ok(true),
            "false" | "0" | "" => Ok(false),
            _ => Err(format!("must have true or false as {name}")),
        };
        match name {
            "db" => self.db = number(value)?,
            "connect_timeout" => self.connect_timeout = duration()?,
            "io_timeout" => self.io_timeout = duration()?,
            "tls_enabled" => self.tls = on()?,
            "force_resp2" => self.force_resp2 = on()?,
            // Of Centrifugo's open edition without effect.
            "replica_client_enabled" => {}
            "addr" => return Err(NO_CLUSTER.to_owned()),
            _ if name.starts_with("sentinel_") => return Err(NO_SENTINEL.to_owned()),
            _ => return Err(format!("has an option {name} that there is not")),
        }
        Ok(())
    }
}

fn number(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "has a database that is no number".to_owned())
}

fn host_and_port(text: &str) -> Result<RedisPlace, String> {
    // A password that stands in the wrong place must not be repeated.
    if text.contains(['@', '/']) || text.contains(char::is_whitespace) {
        return Err("must be host:port or a URL".to_owned());
    }
    let bracketed = |text: &str| text.starts_with('[') && text.ends_with(']');
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !bracketed(text) => {
            let port = port.parse().ok().filter(|port| *port > 0);
            (host, port.ok_or("must end with a port from 1 to 65535")?)
        }
        _ => (text, PORT),
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let host = if host.is_empty() { "127.0.0.1" } else { host };
    Ok(RedisPlace::Tcp(host.to_owned(), port))
}

/// Without `%41` and the like.
pub(super) fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

const NO_SENTINEL: &str = "names Sentinels, which are not supported yet: give the address of the \
    primary, or of what follows it";
const NO_CLUSTER: &str = "names a cluster, which is not supported yet: give one server, or a list \
    of independent ones";

#[cfg(test)]
mod tests {
    use super::*;

    fn server(address: &str) -> Result<RedisServer, String> {
        let redis = Redis { address: vec![address.to_owned()], ..Redis::default() };
        redis.servers().map(|mut servers| servers.remove(0)).map_err(|(_, what)| what)
    }

    #[test]
    fn addresses_are_read_in_all_forms() {
        let tcp = |host: &str, port| RedisPlace::Tcp(host.to_owned(), port);
        for (address, place) in [
            ("redis://127.0.0.1:6379", tcp("127.0.0.1", 6379)),
            ("10.0.0.7:7000", tcp("10.0.0.7", 7000)),
            ("redis.example", tcp("redis.example", 6379)),
            (":7000", tcp("127.0.0.1", 7000)),
            ("[::1]:7000", tcp("::1", 7000)),
            ("tcp://[::1]", tcp("::1", 6379)),
            ("unix:///run/redis.sock", RedisPlace::Unix("/run/redis.sock".to_owned())),
        ] {
            assert_eq!(server(address).unwrap().place, place, "{address}");
        }
        assert_eq!(server("[::1]:1").unwrap().place.to_string(), "[::1]:1");
    }

    #[test]
    fn a_url_is_stronger_than_the_keys() {
        let redis = Redis {
            address: vec![
                "rediss://ann:s%3Acret@h:1/3?io_timeout=2s&force_resp2=true".to_owned(),
                "unix://:p@/s?db=2&tls_enabled=false".to_owned(),
                "h".to_owned(),
            ],
            user: "key".to_owned(),
            password: Secret::new("word"),
            db: 7,
            ..Redis::default()
        };
        let servers = redis.servers().unwrap();
        let [first, second, third] = &servers[..] else { panic!("{servers:?}") };
        assert!(first.tls && first.force_resp2 && first.db == 3);
        assert_eq!((first.user.as_str(), first.password.reveal()), ("ann", "s:cret"));
        assert_eq!(first.io_timeout, Duration::from_secs(2));
        assert_eq!((second.user.as_str(), second.password.reveal(), second.db), ("", "p", 2));
        assert_eq!((third.user.as_str(), third.password.reveal(), third.db), ("key", "word", 7));
        assert!(!format!("{servers:?}").contains("cret"));
    }

    #[test]
    fn mistakes_are_named_and_passwords_are_not() {
        for (address, part) in [
            ("http://h:1", "must begin with"),
            ("redis://h:0", "port"),
            ("redis://h:1/x", "database"),
            ("unix://run/s", "begins with /"),
            ("redis://hush@h", "colon"),
            ("redis://u:%zz@h", "URL-encoded"),
            ("u:hush@h:1", "must be host:port"),
            ("redis://h?io_timeout=hush", "io_timeout"),
            ("redis://h?hush_me=1", "hush_me"),
            ("redis://h?tls_enabled=perhaps", "tls_enabled"),
            ("redis+sentinel://h:1", "Sentinel"),
            ("redis://h?sentinel_master_name=m", "Sentinel"),
            ("redis+cluster://h:1", "cluster"),
            ("redis://h?addr=i:1", "cluster"),
        ] {
            let what = server(address).unwrap_err();
            assert!(what.contains(part), "{address}: {what}");
            assert!(!what.contains("hush") || address.contains("hush_me"), "{address}: {what}");
        }
    }
}
