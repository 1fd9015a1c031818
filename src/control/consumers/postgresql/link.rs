//! Connections to a database: how one is made, and how partitions share a few.
//!
//! The invariants: a connection is used by one partition at a time, and by none after an error on
//! it; while the database is away it is dialled by one partition after the other, with pauses that
//! grow.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Mutex as Turn, Semaphore, SemaphorePermit};
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres::{AsyncMessage, Client, Config, Socket};
use tokio_rustls::TlsConnector;

use crate::config::{PgHost, PgServer, PgTls, Postgresql};
use crate::control::consumers::doing::pause;
use crate::tls::keys;

/// Why something could not be asked, or has no answer.
#[derive(Debug)]
pub(super) enum Gone {
    /// There is no connection.
    Dial(String),
    /// It broke, or the server is silent.
    Lost(String),
    /// The server refused it.
    Said(String),
}

impl Gone {
    /// As in metrics.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Dial(_) => "connect",
            Self::Lost(_) => "lost",
            Self::Said(_) => "postgresql",
        }
    }
}

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dial(what) | Self::Lost(what) | Self::Said(what) => f.write_str(what),
        }
    }
}

impl From<tokio_postgres::Error> for Gone {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            // The server ends connections by errors of this class.
            Some(said) if said.code().code().starts_with("57P") => Self::Lost(explain(&error)),
            Some(_) => Self::Said(explain(&error)),
            None => Self::Lost(explain(&error)),
        }
    }
}

/// An error with what is behind it. It holds nothing of a `dsn` but the names in it.
fn explain(error: &tokio_postgres::Error) -> String {
    if let Some(said) = error.as_db_error() {
        let hint = said.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
        return format!("{}{hint}", said.message());
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

/// Within so much time there is an answer, or the connection is given up.
pub(super) async fn answered<T>(
    answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Gone> {
    match tokio::time::timeout(ANSWER, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Gone::Lost(format!("no answer for {ANSWER:?}"))),
    }
}

/// How to reach a database.
#[derive(Clone)]
pub(super) struct Dial {
    config: Config,
    tls: Secure,
    within: Duration,
    /// As logs name it.
    place: Arc<str>,
}

impl Dial {
    /// Reads certificates.
    pub(super) fn new(server: PgServer, options: &Postgresql) -> Result<Self, String> {
        let mut config = Config::new();
        let mut places = Vec::new();
        for (host, port) in &server.hosts {
            config.port(*port);
            places.push(match host {
                PgHost::Tcp(host) => {
                    config.host(host);
                    format!("{host}:{port}")
                }
                PgHost::Unix(folder) => {
                    config.host_path(folder);
                    format!("{folder}, port {port}")
                }
                PgHost::Own if Path::new(&format!("{OWN}/.s.PGSQL.{port}")).exists() => {
                    config.host_path(OWN);
                    format!("{OWN}, port {port}")
                }
                PgHost::Own => {
                    config.host("localhost");
                    format!("localhost:{port}")
                }
            });
        }
        if !server.user.is_empty() {
            config.user(&server.user);
        }
        if !server.password.is_empty() {
            config.password(server.password.reveal());
        }
        if !server.database.is_empty() {
            config.dbname(&server.database);
        }
        let within = match server.connect_timeout {
            Duration::ZERO => DIAL,
            seconds => seconds,
        };
        config.connect_timeout(within).keepalives_idle(KEEPALIVE);
        if server.primary {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        let mut parameters = server.parameters.clone();
        if !parameters.iter().any(|(name, _)| name == "application_name") {
            parameters.push(("application_name".to_owned(), "ringhold".to_owned()));
        }
        let mut settings = String::new();
        for (name, value) in &parameters {
            match name.as_str() {
                "application_name" => _ = config.application_name(value),
                "options" => settings += &format!(" {value}"),
                name => settings += &format!(" -c {name}={}", escaped(value)),
            }
        }
        if !settings.is_empty() {
            config.options(settings.trim_start());
        }
        let tls = &options.tls;
        let (mode, trust, identity) = match (tls.enabled, &server.tls) {
            (true, _) => (SslMode::Require, tls.trust(), tls.identity()),
            (false, mode) => {
                let identity = server.identity.as_ref().map(|identity| identity.pair());
                let asked = match mode {
                    PgTls::Off => SslMode::Disable,
                    PgTls::IfOffered => SslMode::Prefer,
                    PgTls::Anybody | PgTls::Verified { .. } => SslMode::Require,
                };
                (asked, mode.trust(), identity)
            }
        };
        config.ssl_mode(mode);
        let loaded = keys::stream_client(&trust, identity.as_ref());
        let name = match tls.server_name.as_str() {
            "" => None,
            name => {
                let wrong = |_| format!("\"{name}\" can be no name in a certificate");
                Some(ServerName::try_from(name.to_owned()).map_err(wrong)?)
            }
        };
        let tls = Secure { config: loaded.map_err(|fault| fault.to_string())?, name };
        Ok(Self { config, tls, within, place: places.join(", ").into() })
    }

    /// A connection. What it hears of channels it hands on.
    pub(super) async fn dial(
        &self,
        mut hear: impl FnMut(&str) + Send + 'static,
    ) -> Result<Client, Gone> {
        // Hosts are tried one after the other, each within its time.
        let within = self.within * self.config.get_hosts().len().max(1) as u32;
        let wrong = |what: &dyn fmt::Display| Gone::Dial(format!("{}: {what}", self.place));
        let dialled = tokio::time::timeout(within, self.config.connect(self.tls.clone())).await;
        let (client, mut connection) = match dialled {
            Ok(Ok(made)) => made,
            Ok(Err(error)) => return Err(wrong(&explain(&error))),
            Err(_) => return Err(wrong(&format!("no connection within {within:?}"))),
        };
        // It ends with the client, which hears of its end by its next question.
        tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notification(told) = message {
                    hear(told.payload());
                }
            }
        });
        Ok(client)
    }
}

/// As the server reads `options`.
fn escaped(value: &str) -> String {
    let special = |c: char| c == '\\' || c.is_whitespace();
    value.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}

/// A few connections that partitions share.
pub(super) struct Pool {
    dial: Dial,
    places: Semaphore,
    idle: Mutex<Vec<Client>>,
    dialling: Turn<Dialling>,
}

/// How it goes with dialling.
struct Dialling {
    /// That failed since the last that did not.
    failures: u32,
    /// Not before then.
    due: Instant,
}

/// A connection, in the hands of one.
pub(super) struct Taken<'a> {
    pool: &'a Pool,
    pub(super) client: Client,
    _place: SemaphorePermit<'a>,
}

impl Pool {
    pub(super) fn new(dial: Dial, connections: usize) -> Self {
        let dialling = Turn::new(Dialling { failures: 0, due: Instant::now() });
        Self { dial, places: Semaphore::new(connections), idle: Mutex::default(), dialling }
    }

    /// A connection, once one is free, and the database is there.
    pub(super) async fn take(&self) -> Result<Taken<'_>, Gone> {
        let place = self.places.acquire().await;
        let place = place.map_err(|closed| Gone::Dial(closed.to_string()))?;
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let client = match idle.filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => self.dial().await?,
        };
        Ok(Taken { pool: self, client, _place: place })
    }

    async fn dial(&self) -> Result<Client, Gone> {
        let mut dialling = self.dialling.lock().await;
        tokio::time::sleep_until(dialling.due.into()).await;
        let dialled = self.dial.dial(|_| ()).await;
        dialling.failures = match &dialled {
            Ok(_) => 0,
            Err(_) => dialling.failures.saturating_add(1),
        };
        if dialling.failures > 0 {
            dialling.due = Instant::now() + pause(dialling.failures);
        }
        dialled
    }
}

impl Taken<'_> {
    /// For the next one: nothing is under way on it.
    pub(super) fn give_back(self) {
        self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner).push(self.client);
    }
}

/// TLS by rustls.
#[derive(Clone)]
pub(super) struct Secure {
    config: Arc<ClientConfig>,
    /// In the certificate, where it is not the host of the address.
    name: Option<ServerName<'static>>,
}

impl MakeTlsConnect<Socket> for Secure {
    type Stream = Secured;
    type TlsConnect = Self;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> io::Result<Self> {
        // A socket in the file system has no host, and no TLS.
        let name = self.name.clone().or_else(|| ServerName::try_from(host.to_owned()).ok());
        Ok(Self { config: self.config.clone(), name })
    }
}

impl TlsConnect<Socket> for Secure {
    type Stream = Secured;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Secured>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        Box::pin(async move {
            let name = self.name.ok_or_else(|| io::Error::other("there is no name to verify"))?;
            let connector = TlsConnector::from(self.config);
            connector.connect(name, socket).await.map(Secured)
        })
    }
}

/// A socket with TLS over it.
pub(super) struct Secured(tokio_rustls::client::TlsStream<Socket>);

impl TlsStream for Secured {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Where Debian's server has its socket.
const OWN: &str = "/var/run/postgresql";

/// For one connection, unless the `dsn` says otherwise.
const DIAL: Duration = Duration::from_secs(10);

/// For an answer of the database: it may look through a large table, or wait for another's row.
const ANSWER: Duration = Duration::from_secs(30);

/// After so much silence the kernel asks whether the other end is there.
const KEEPALIVE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Secret;

    #[test]
    fn a_dsn_becomes_what_is_dialled() {
        let of = |dsn: &str| {
            let options = Postgresql { dsn: Secret::new(dsn), ..Postgresql::default() };
            Dial::new(options.server().unwrap(), &options).unwrap()
        };
        let dial = of(
            "postgres://ann:hush@db:7/shop?search_path=a%20b&application_name=x&connect_timeout=3",
        );
        let config = &dial.config;
        assert_eq!(config.get_user(), Some("ann"));
        assert_eq!((config.get_dbname(), config.get_ports()), (Some("shop"), &[7][..]));
        assert_eq!(config.get_application_name(), Some("x"));
        assert_eq!(config.get_options(), Some("-c search_path=a\\ b"));
        assert_eq!(config.get_ssl_mode(), SslMode::Prefer);
        assert_eq!((&*dial.place, dial.within), ("db:7", Duration::from_secs(3)));
        let dial = of("host=/run/a,b options='-c geqo=off' sslmode=disable");
        assert_eq!(dial.config.get_options(), Some("-c geqo=off"));
        assert_eq!(dial.config.get_application_name(), Some("ringhold"));
        assert_eq!(dial.config.get_ssl_mode(), SslMode::Disable);
        assert_eq!(&*dial.place, "/run/a, port 5432, b:5432");
    }

    #[test]
    fn values_of_parameters_stay_one_word() {
        assert_eq!(escaped("a b\\c\td"), "a\\ b\\\\c\\\td");
    }
}
