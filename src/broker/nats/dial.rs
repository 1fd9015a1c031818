//! From URLs to a connection that may be used: one server after the other, TCP, what the server
//! says of itself, TLS, who we are, and its answer.
//!
//! Owns the list of servers: those of the configuration and, bounded, those that they name. The
//! invariants: each has `dial_timeout`; the attempt after a failure begins with the next one; a
//! connection that is given out was answered on.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::server::{NatsLogin, NatsServer};
use super::wire::{self, Connect, Info, LINE_MAX, Operation};
use crate::broker::config::ConfigError;
use crate::broker::dial::{DialError, Identity};
use crate::broker::link::{Link, Lost, Stream};
use crate::broker::resp::Fault;
use crate::broker::server::RedisPlace;
use crate::broker::side::Dialling;
use crate::broker::target::{Tls, TlsDemands};
use crate::common::rng::Rng;

/// The servers, and how to reach them.
pub struct Servers {
    named: Vec<NatsServer>,
    tls: Tls,
    /// As in the servers' list of connections.
    name: Box<str>,
    dial_timeout: Duration,
    /// Others, as those of the configuration say.
    met: Mutex<Vec<(String, u16)>>,
    /// With which the next attempt begins.
    next: AtomicUsize,
}

/// Servers that are remembered besides those that the configuration names.
const MET_MAX: usize = 16;

impl Servers {
    /// Of these, at least one; for a connection to each there is `dial_timeout`.
    ///
    /// # Errors
    /// A certificate or key does not load.
    pub fn new(
        named: Vec<NatsServer>,
        tls: &TlsDemands,
        dial_timeout: Duration,
    ) -> Result<Self, ConfigError> {
        let tls = Tls::new(tls, None, "broker.nats.tls")?;
        // Nodes shall not all be clients of the first.
        let first = Rng::from_entropy().below(named.len() as u32) as usize;
        let (met, next) = (Mutex::default(), AtomicUsize::new(first));
        let name = "ringhold".into();
        Ok(Self { named, tls, name, dial_timeout, met, next })
    }

    /// What connections of this node are called.
    pub fn named(mut self, uid: &str) -> Self {
        self.name = format!("ringhold {uid}").into();
        self
    }

    /// How many the configuration names.
    pub fn number(&self) -> usize {
        self.named.len()
    }

    /// As in logs and metrics.
    pub fn place(&self) -> String {
        let places = self.named.iter().map(|it| format!("{}:{}", it.host, it.port));
        places.collect::<Vec<_>>().join(",")
    }

    /// All of them, beginning with the one whose turn it is.
    fn in_turn(&self) -> Vec<(usize, NatsServer)> {
        let first = &self.named[0];
        let met = self.met.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let met = met.into_iter().map(|(host, port)| {
            let (tls, login) = (first.tls, first.login.clone());
            NatsServer { host, port, tls, login }
        });
        let mut all: Vec<_> = self.named.iter().cloned().chain(met).enumerate().collect();
        let turn = self.next.load(Ordering::Relaxed) % all.len();
        all.rotate_left(turn);
        all
    }

    /// The next attempt begins with another server than that of the last connection.
    pub fn turn_away(&self) {
        self.next.fetch_add(1, Ordering::Relaxed);
    }

    /// Remembers servers that one has named, in place of those before.
    pub fn meet(&self, info: &Info) {
        let urls = info.connect_urls.iter().flatten();
        let places = urls.filter_map(|url| {
            let (host, port) = url.rsplit_once(':')?;
            let host = host.trim_matches(['[', ']']);
            Some((host.to_owned(), port.parse().ok().filter(|port| *port > 0)?))
        });
        let is_named = |place: &(String, u16)| {
            self.named.iter().any(|it| (it.host.as_str(), it.port) == (place.0.as_str(), place.1))
        };
        let others = places.filter(|place| !is_named(place)).take(MET_MAX).collect();
        *self.met.lock().unwrap_or_else(PoisonError::into_inner) = others;
    }

    /// Makes a connection, with each server in its turn.
    ///
    /// # Errors
    /// With none of them; the reason of the last.
    pub async fn dial(&self) -> Result<(Link, Identity, Info), DialError> {
        let mut failed = None;
        for (number, server) in self.in_turn() {
            let within = self.dial_timeout;
            let made = tokio::time::timeout(within, self.greet(&server)).await;
            match made.unwrap_or(Err(DialError::Timeout(within))) {
                Ok(made) => {
                    self.next.store(number, Ordering::Relaxed);
                    self.meet(&made.2);
                    return Ok(made);
                }
                Err(error) => {
                    tracing::debug!(host = %server.host, port = server.port, "NATS: {error}");
                    failed = Some(error);
                }
            }
        }
        self.turn_away();
        Err(failed.unwrap_or(DialError::Timeout(self.dial_timeout)))
    }

    async fn greet(&self, server: &NatsServer) -> Result<(Link, Identity, Info), DialError> {
        let place = (server.host.as_str(), server.port);
        let mut socket = TcpStream::connect(place).await.map_err(DialError::Connect)?;
        socket.set_nodelay(true).map_err(DialError::Connect)?;
        let (info, rest) = introduction(&mut socket).await?;
        let mut link = if info.tls_required || server.tls {
            if !rest.is_empty() {
                return Err(DialError::Lost(Lost::Protocol(Fault::End)));
            }
            if !info.tls_required && !info.tls_available {
                let what = "the server does not speak TLS";
                return Err(DialError::Tls(io::Error::other(what)));
            }
            let fault = |what: String| DialError::Tls(io::Error::other(what));
            let (config, name) = self.tls.with(&server.host).map_err(fault)?;
            let secure = TlsConnector::from(config).connect(name, socket).await;
            let stream: Box<dyn Stream> = Box::new(secure.map_err(DialError::Tls)?);
            Link::new(stream)
        } else {
            Link::going_on(Box::new(socket), &rest)
        };
        let secure = info.tls_required || server.tls;
        wire::connect(link.output(), &self.who(server, secure));
        wire::ping(link.output());
        let info = answer(&mut link, info).await?;
        let identity = Identity {
            place: RedisPlace::Tcp(server.host.clone(), server.port),
            run_id: Some(info.server_id.clone()),
            version: info.version.clone(),
            resp3: false,
        };
        Ok((link, identity, info))
    }

    fn who<'a>(&'a self, server: &'a NatsServer, tls: bool) -> Connect<'a> {
        let (user, pass, token) = match &server.login {
            NatsLogin::Nobody => (None, None, None),
            NatsLogin::User(user, pass) => (Some(user.as_str()), Some(pass.reveal()), None),
            NatsLogin::Token(token) => (None, None, Some(token.reveal())),
        };
        Connect {
            verbose: false,
            pedantic: false,
            tls_required: tls,
            user,
            pass,
            auth_token: token,
            name: &self.name,
            lang: "rust",
            version: env!("CARGO_PKG_VERSION"),
            protocol: 1,
            echo: true,
            headers: false,
            no_responders: false,
        }
    }
}

/// The server's first INFO, and the bytes behind it.
async fn introduction(socket: &mut TcpStream) -> Result<(Info, Vec<u8>), DialError> {
    let mut input = Vec::with_capacity(4096);
    loop {
        let lost = |fault| DialError::Lost(Lost::Protocol(fault));
        match wire::read(&input).map_err(lost)? {
            Some((Operation::Info(json), bytes)) => {
                let info = described(json)?;
                return Ok((info, input.split_off(bytes)));
            }
            Some((Operation::Refused(what), _)) => return Err(refused(what)),
            Some(_) => return Err(lost(Fault::End)),
            None if input.len() > LINE_MAX => return Err(lost(Fault::Line)),
            None => {}
        }
        let read = socket.read_buf(&mut input).await.map_err(Lost::Io)?;
        if read == 0 {
            return Err(Lost::Closed.into());
        }
    }
}

/// Reads the JSON of an INFO.
pub(super) fn described(json: &[u8]) -> Result<Info, DialError> {
    let fault = |_| DialError::Lost(Lost::Protocol(Fault::Number));
    serde_json::from_slice(json).map_err(fault)
}

/// Waits for the PONG behind our CONNECT. Returns the latest INFO.
async fn answer(link: &mut Link, mut info: Info) -> Result<Info, DialError> {
    let (mut answered, mut asked, mut refusal) = (false, 0, None);
    while !answered {
        link.exchange().await?;
        let read = link.pieces(Instant::now(), |input| {
            if answered {
                return Ok(None);
            }
            let Some((operation, bytes)) = wire::read(input).map_err(Lost::Protocol)? else {
                return Ok(None);
            };
            match operation {
                Operation::Pong => answered = true,
                Operation::Ping => asked += 1,
                Operation::Info(json) => info = described(json).unwrap_or(info.clone()),
                Operation::Refused(what) => {
                    refusal = Some(refused(what));
                    return Err(Lost::Closed);
                }
                Operation::Message { .. } | Operation::Done => {}
            }
            Ok(Some(bytes))
        });
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        read?;
        (0..std::mem::take(&mut asked)).for_each(|_| wire::pong(link.output()));
    }
    Ok(info)
}

/// A refusal before anything was asked.
fn refused(what: &[u8]) -> DialError {
    let words = String::from_utf8_lossy(&what[..what.len().min(WORDS_MAX)]).into_owned();
    let lower = words.to_ascii_lowercase();
    match lower.starts_with("authorization") || lower.starts_with("authentication") {
        true => DialError::Login("broker.nats.url", words),
        false => DialError::Lost(Lost::Refused(words)),
    }
}

/// Of a server's error in the log.
pub(super) const WORDS_MAX: usize = 200;

/// For a side that makes connections anew.
pub(super) fn attempts(
    servers: Arc<Servers>,
    made: impl Fn(Info) + Clone + 'static,
) -> impl Fn() -> Dialling {
    move || {
        let (servers, made) = (servers.clone(), made.clone());
        Box::pin(async move {
            let (link, identity, info) = servers.dial().await?;
            made(info);
            Ok((link, identity))
        })
    }
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Servers").field("place", &self.place()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Secret;
    use crate::tls::keys::Trust;

    fn servers(places: &[(&str, u16)], login: &NatsLogin) -> Servers {
        let named = places.iter().map(|(host, port)| NatsServer {
            host: (*host).to_owned(),
            port: *port,
            tls: false,
            login: login.clone(),
        });
        let tls = TlsDemands { trust: Trust::Anybody, identity: None, server_name: String::new() };
        let servers = Servers::new(named.collect(), &tls, Duration::from_secs(1)).unwrap();
        servers.next.store(0, Ordering::Relaxed);
        servers
    }

    fn places(servers: &Servers) -> Vec<(String, u16)> {
        servers.in_turn().into_iter().map(|(_, it)| (it.host, it.port)).collect()
    }

    fn place(host: &str, port: u16) -> (String, u16) {
        (host.to_owned(), port)
    }

    #[test]
    fn each_has_its_turn() {
        let servers = servers(&[("a", 1), ("b", 2)], &NatsLogin::Nobody);
        assert_eq!(places(&servers), [place("a", 1), place("b", 2)]);
        servers.turn_away();
        assert_eq!(places(&servers), [place("b", 2), place("a", 1)]);
        servers.turn_away();
        assert_eq!(places(&servers)[0], place("a", 1));
        assert_eq!(servers.place(), "a:1,b:2");
    }

    #[test]
    fn others_are_remembered_within_bounds_and_with_the_same_login() {
        let servers = servers(&[("a", 1)], &NatsLogin::Token(Secret::new("t")));
        let meet = |urls: &[&str]| {
            let urls = urls.iter().map(|url| (*url).to_owned()).collect();
            servers.meet(&Info { connect_urls: Some(urls), ..Info::default() });
        };
        meet(&["a:1", "[::1]:2", "b", "c:x", "d:0", "e:70000", "f:3"]);
        assert_eq!(places(&servers), [place("a", 1), place("::1", 2), place("f", 3)]);
        let all = servers.in_turn();
        assert!(all.iter().all(|(_, it)| it.login == all[0].1.login));
        let many: Vec<_> = (1..100).map(|port| format!("h:{port}")).collect();
        meet(&many.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(places(&servers).len(), 1 + MET_MAX);
        servers.meet(&Info::default());
        assert_eq!(places(&servers).len(), 1, "in place of those before");
    }

    #[test]
    fn a_refused_login_is_told_apart() {
        let login = refused(b"Authorization Violation");
        assert_eq!((login.name(), refused(b"Server Shutdown").name()), ("unauthorised", "lost"));
        assert!(login.to_string().contains("broker.nats.url"));
        assert!(refused(&[b'x'; 1000]).to_string().len() <= WORDS_MAX);
    }
}
