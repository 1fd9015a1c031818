//! From an address to a connection that may be used: where the server is, if only Sentinels know;
//! TCP, TLS or a unix socket; then who we are, which protocol, which database, and whether the
//! server is the one in charge.
//!
//! Owns the order of these steps and the words for what goes wrong in each. The invariant: a
//! connection to a replica, or to a server that is still loading, is never given out.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::link::{Link, Lost, Stream};
use super::resp::{Command, Reply, command};
use super::scripts::Script;
use super::sentinel;
use super::target::{Target, Tls};
use crate::broker::server::RedisPlace;

/// A server's description of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Where it is.
    pub place: RedisPlace,
    /// Of this run of its process as a primary; `None` where it may not be asked.
    pub run_id: Option<String>,
    /// As `7.0.15`.
    pub version: String,
    /// It speaks version 3 of the protocol with us.
    pub resp3: bool,
}

/// Why there is no connection.
#[derive(Debug)]
pub enum DialError {
    /// The name has no address, nobody listens there, and the like.
    Connect(io::Error),
    /// No handshake of TLS.
    Tls(io::Error),
    /// Sentinels do not say where the server is.
    Sentinel(String),
    /// It did not come about in time.
    Timeout(Duration),
    /// User and password, of this table, are not those of the server, or it wants some.
    Unauthorised(Arc<str>, String),
    /// Whoever this key says that we are, the server does not let in.
    Login(&'static str, String),
    /// There is no such database, which this table names.
    Database(Arc<str>, u32, String),
    /// The server is a replica, or loading, or lost its primary.
    NotPrimary(String),
    /// The server is a node of a cluster.
    Cluster,
    /// The server forbids a command that is needed.
    Forbidden(&'static str, String),
    /// The connection ended meanwhile.
    Lost(Lost),
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "cannot connect: {error}"),
            Self::Tls(error) => write!(f, "no TLS handshake: {error}"),
            Self::Sentinel(what) => f.write_str(what),
            Self::Timeout(after) => write!(f, "no connection within {after:?}"),
            Self::Unauthorised(keys, what) => {
                write!(f, "user and password ({keys}.user, .password) are refused: {what}")
            }
            Self::Login(key, what) => write!(f, "the login ({key}) is refused: {what}"),
            Self::Database(keys, db, what) => write!(f, "database {db} ({keys}.db): {what}"),
            Self::NotPrimary(what) => write!(f, "not the primary: {what}"),
            Self::Cluster => f.write_str("it is a node of a cluster, which cluster_address is for"),
            Self::Forbidden(command, what) => write!(f, "{command} is forbidden: {what}"),
            Self::Lost(lost) => lost.fmt(f),
        }
    }
}

impl std::error::Error for DialError {}

impl DialError {
    /// As in metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Tls(_) => "tls",
            Self::Sentinel(_) => "sentinel",
            Self::Timeout(_) => "timeout",
            Self::Unauthorised(..) | Self::Login(..) => "unauthorised",
            Self::Database(..) => "database",
            Self::NotPrimary(_) => "not_primary",
            Self::Cluster => "cluster",
            Self::Forbidden(..) => "forbidden",
            Self::Lost(_) => "lost",
        }
    }
}

impl From<Lost> for DialError {
    fn from(lost: Lost) -> Self {
        Self::Lost(lost)
    }
}

/// The purpose of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Commands with their answers; the server gets the scripts.
    Commands,
    /// Publications, joins and leaves arrive.
    Messages,
}

/// Makes a connection, within `connect_timeout`. Before it, Sentinels have as long to answer.
pub async fn dial(target: &Target, purpose: Purpose) -> Result<(Link, Identity), DialError> {
    let place = match &target.server.place {
        RedisPlace::Sentinel(sentinels) => sentinel::primary(target, sentinels).await?,
        place => place.clone(),
    };
    let within = target.server.connect_timeout;
    let greeted = async {
        let mut link = Link::new(connect(&place, target.tls.as_ref()).await?);
        let identity = greet(&mut link, target, place, purpose).await?;
        Ok((link, identity))
    };
    let made = tokio::time::timeout(within, greeted).await;
    made.unwrap_or(Err(DialError::Timeout(within)))
}

/// To a place that is known.
pub(super) async fn connect(
    place: &RedisPlace,
    tls: Option<&Tls>,
) -> Result<Box<dyn Stream>, DialError> {
    let (host, port) = match place {
        RedisPlace::Unix(path) => {
            let socket = UnixStream::connect(path).await.map_err(DialError::Connect)?;
            return Ok(Box::new(socket));
        }
        RedisPlace::Tcp(host, port) => (host.as_str(), *port),
        RedisPlace::Sentinel(_) | RedisPlace::Cluster(_) => {
            return Err(DialError::Sentinel("nobody was asked where it is".to_owned()));
        }
    };
    let socket = TcpStream::connect((host, port)).await.map_err(DialError::Connect)?;
    socket.set_nodelay(true).map_err(DialError::Connect)?;
    let Some(tls) = tls else { return Ok(Box::new(socket)) };
    let (config, name) = tls.with(host).map_err(|what| DialError::Tls(io::Error::other(what)))?;
    let stream = TlsConnector::from(config).connect(name, socket).await.map_err(DialError::Tls)?;
    Ok(Box::new(stream))
}

async fn greet(
    link: &mut Link,
    target: &Target,
    place: RedisPlace,
    purpose: Purpose,
) -> Result<Identity, DialError> {
    let server = &target.server;
    let resp3 = hello(link, target).await?;
    command(link.output(), &["CLIENT", "SETNAME", &target.client_name]);
    command(link.output(), &["SELECT", &server.db.to_string()]);
    command(link.output(), &["ROLE"]);
    command(link.output(), &["INFO"]);
    let loads: &[Script] = match purpose {
        Purpose::Commands => &Script::ALL,
        Purpose::Messages => &[],
    };
    loads.iter().for_each(|script| load(link.output(), *script));
    let mut answers = Vec::with_capacity(4 + loads.len());
    receive(link, 4 + loads.len(), |reply| answers.push(OwnedReply::of(&reply))).await?;
    let mut answers = answers.into_iter();
    let mut next = || answers.next().unwrap_or_default();
    // A name is for people.
    let _named = next();
    if let Some(what) = next().error {
        let database = |what| DialError::Database(target.keys.clone(), server.db, what);
        return Err(refused(&target.keys, what, database));
    }
    let (role, info) = (next(), next());
    let facts = Facts::of(&info.text);
    if facts.cluster && !target.in_cluster {
        return Err(DialError::Cluster);
    }
    primary(&target.keys, &role, &facts)?;
    if let Some(what) = loads.iter().find_map(|_| next().error) {
        let forbidden = |what| DialError::Forbidden("SCRIPT LOAD", what);
        return Err(refused(&target.keys, what, forbidden));
    }
    Ok(Identity { place, run_id: facts.run(), version: facts.version, resp3 })
}

/// Who we are, and which protocol. Whether it is version 3.
async fn hello(link: &mut Link, target: &Target) -> Result<bool, DialError> {
    let server = &target.server;
    let password = server.password.reveal();
    let user = if server.user.is_empty() { "default" } else { &server.user };
    if !server.force_resp2 {
        match password.is_empty() {
            true => command(link.output(), &["HELLO", "3"]),
            false => command(link.output(), &["HELLO", "3", "AUTH", user, password]),
        }
        let answer = one(link).await?;
        match answer.error {
            None => return Ok(true),
            // Older than 6, or made for version 2 only.
            Some(what) if is_unknown(&what) => {}
            Some(what) => {
                let forbidden = |what| DialError::Forbidden("HELLO", what);
                return Err(refused(&target.keys, what, forbidden));
            }
        }
    }
    if !password.is_empty() {
        match server.user.is_empty() {
            // The form that servers without users know, too.
            true => command(link.output(), &["AUTH", password]),
            false => command(link.output(), &["AUTH", user, password]),
        }
        if let Some(what) = one(link).await?.error {
            return Err(DialError::Unauthorised(target.keys.clone(), what));
        }
    }
    Ok(false)
}

/// The server has no such command, or not this version of it.
fn is_unknown(what: &str) -> bool {
    let lower = what.to_ascii_lowercase();
    lower.starts_with("noproto") || lower.starts_with("err") && lower.contains("unknown")
}

/// Sorts the errors that each of the first commands may have.
fn refused(keys: &Arc<str>, what: String, else_: impl FnOnce(String) -> DialError) -> DialError {
    let word = what.split(' ').next().unwrap_or_default();
    match word {
        "NOAUTH" | "WRONGPASS" => DialError::Unauthorised(keys.clone(), what),
        "LOADING" | "MASTERDOWN" => DialError::NotPrimary(what),
        _ => else_(what),
    }
}

/// Demands that the server be in charge. One that may not be asked is believed.
fn primary(keys: &Arc<str>, role: &OwnedReply, facts: &Facts) -> Result<(), DialError> {
    if let Some(what) = role.error.as_ref().filter(|what| !what.starts_with("NOPERM")) {
        let unknown = |what| DialError::Forbidden("ROLE", what);
        // Some services have none.
        return if is_unknown(what) { Ok(()) } else { Err(refused(keys, what.clone(), unknown)) };
    }
    let role = if role.text.is_empty() { &facts.role } else { &role.text };
    if facts.loading {
        return Err(DialError::NotPrimary("it is loading its data".to_owned()));
    }
    match role.as_str() {
        "" | "master" => Ok(()),
        role => Err(DialError::NotPrimary(format!("its role is {role}"))),
    }
}

/// Asks for a script to be kept.
pub fn load(out: &mut Vec<u8>, script: Script) {
    Command::begin(out, 3).part("SCRIPT").part("LOAD").part(script.text());
}

/// The part of a reply that outlives it.
#[derive(Debug, Default)]
struct OwnedReply {
    error: Option<String>,
    /// Of a text, or the first of a list.
    text: String,
}

impl OwnedReply {
    fn of(reply: &Reply<'_>) -> Self {
        let lossy = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
        match reply {
            Reply::Error(what) => Self { error: Some(lossy(what)), text: String::new() },
            Reply::List(list) => list.first().map(Self::of).unwrap_or_default(),
            other => Self { error: None, text: other.text().map(lossy).unwrap_or_default() },
        }
    }
}

async fn one(link: &mut Link) -> Result<OwnedReply, DialError> {
    let mut answer = OwnedReply::default();
    receive(link, 1, |reply| answer = OwnedReply::of(&reply)).await?;
    Ok(answer)
}

pub(super) async fn receive(
    link: &mut Link,
    replies: usize,
    mut each: impl FnMut(Reply<'_>),
) -> Result<(), DialError> {
    let mut missing = replies;
    while missing > 0 {
        link.exchange().await?;
        link.replies(Instant::now(), |reply| {
            // Of its own accord a server says nothing that is of use here.
            if !matches!(reply, Reply::Push(_)) {
                missing = missing.saturating_sub(1);
                each(reply);
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// What of `INFO` is of use.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Of this run.
    pub run_id: Option<String>,
    /// Of the history of changes that it has: another one since it was made a primary.
    pub replid: Option<String>,
    /// Of the server.
    pub version: String,
    /// `master` or `slave`.
    pub role: String,
    /// It reads its data in.
    pub loading: bool,
    /// It is a node of a cluster.
    pub cluster: bool,
    /// The policy for keys when memory is short.
    pub maxmemory_policy: String,
    /// Replicas that follow it.
    pub replicas: u32,
    /// It writes each change down.
    pub aof: bool,
}

impl Facts {
    /// From the text of `INFO`.
    pub fn of(info: &str) -> Self {
        let field = |name: &str| {
            let mut lines = info.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
        };
        let text = |name| field(name).unwrap_or_default().to_owned();
        // Valkey tells the version of Redis that it stands for, too.
        let version = field("valkey_version").map(|version| format!("valkey {version}"));
        Self {
            run_id: field("run_id").filter(|id| !id.is_empty()).map(str::to_owned),
            replid: field("master_replid").map(str::to_owned),
            version: version.unwrap_or_else(|| text("redis_version")),
            role: text("role"),
            loading: field("loading") == Some("1"),
            cluster: field("cluster_enabled") == Some("1"),
            maxmemory_policy: text("maxmemory_policy"),
            replicas: field("connected_slaves").and_then(|n| n.parse().ok()).unwrap_or(0),
            aof: field("aof_enabled") == Some("1"),
        }
    }

    /// Names this run as a primary: a process that was a replica for a while may have lost what it
    /// had before.
    fn run(&self) -> Option<String> {
        let run_id = self.run_id.as_ref()?;
        Some(format!("{run_id} {}", self.replid.as_deref().unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_is_read_by_its_fields() {
        let info = "# Server\r\nredis_version:7.0.15\r\nrun_id:abc\r\n# Replication\r\nrole:slave\r\
                    \nconnected_slaves:2\r\nloading:1\r\ncluster_enabled:0\r\nx_run_id:no\r\n";
        let facts = Facts::of(info);
        assert_eq!(facts.run_id.as_deref(), Some("abc"));
        assert_eq!((facts.version.as_str(), facts.role.as_str()), ("7.0.15", "slave"));
        assert!(facts.loading && !facts.cluster && facts.replicas == 2);
        assert_eq!(Facts::of("").run(), None);
        let run =
            |replid: &str| Facts::of(&format!("run_id:a\r\nmaster_replid:{replid}\r\n")).run();
        assert!(run("b") == run("b") && run("b") != run("c"), "it was a replica meanwhile");
        let valkey = "redis_version:7.2.4\r\nvalkey_version:9.1.2\r\n";
        assert_eq!(Facts::of(valkey).version, "valkey 9.1.2");
    }

    #[test]
    fn only_a_primary_is_believed() {
        let answer = |text: &str| OwnedReply { error: None, text: text.to_owned() };
        let error = |what: &str| OwnedReply { error: Some(what.to_owned()), text: String::new() };
        let facts = Facts::default();
        let primary =
            |role: &OwnedReply, facts: &Facts| primary(&"engine.redis".into(), role, facts);
        assert!(primary(&answer("master"), &facts).is_ok());
        assert!(primary(&answer("slave"), &facts).is_err());
        assert!(primary(&error("ERR unknown command 'ROLE'"), &facts).is_ok());
        assert!(primary(&error("LOADING Redis is loading"), &facts).is_err());
        let replica = Facts { role: "slave".to_owned(), ..Facts::default() };
        assert!(primary(&error("NOPERM no"), &facts).is_ok());
        assert!(primary(&error("NOPERM no"), &replica).is_err());
        let loading = Facts { loading: true, ..Facts::default() };
        assert!(primary(&answer("master"), &loading).is_err());
    }

    #[test]
    fn errors_of_the_first_commands_are_sorted() {
        let keys = Arc::from("consumers[1].redis_stream");
        let of =
            |what: &str| refused(&keys, what.to_owned(), |what| DialError::Forbidden("X", what));
        assert_eq!(of("WRONGPASS invalid").name(), "unauthorised");
        let named = "user and password (consumers[1].redis_stream.user, .password)";
        assert!(of("WRONGPASS invalid").to_string().starts_with(named));
        assert_eq!(of("NOAUTH HELLO must be called").name(), "unauthorised");
        assert_eq!(of("LOADING Redis").name(), "not_primary");
        assert_eq!(of("NOPERM this user").name(), "forbidden");
        assert!(is_unknown("ERR unknown command `HELLO`") && is_unknown("NOPROTO sorry"));
        assert!(!is_unknown("NOAUTH x"));
    }
}
