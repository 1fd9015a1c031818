//! A server to connect to, with all that a connection needs: where it is or who knows, who we are,
//! and whom we believe.
//!
//! Reads the certificates that the options name; opens no connection.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::config::ConfigError;
use super::server::{RedisPlace, RedisServer};
use crate::tls::keys::{self, KeyPair, Trust};

/// How to reach a server.
#[derive(Clone)]
pub struct Target {
    /// Where it is, and who we are there.
    pub server: RedisServer,
    /// Set if it is spoken to over TLS.
    pub tls: Option<Tls>,
    /// Set if its Sentinels are.
    pub sentinel_tls: Option<Tls>,
    /// Our name in `CLIENT LIST`.
    pub client_name: String,
    /// The table of the configuration that says all this, as errors name it.
    pub keys: Arc<str>,
    /// It is a node of a cluster that is known.
    pub(super) in_cluster: bool,
    /// Sentinels that others have named.
    met: Arc<Mutex<Vec<Address>>>,
}

/// Host, by name or address, and port.
pub type Address = (String, u16);

/// The way TLS is spoken.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
    /// In the certificate. `None`: the host.
    name: Option<ServerName<'static>>,
}

/// Whom we believe to be a server, and who we are if it asks.
#[derive(Clone, Debug)]
pub struct TlsDemands {
    /// Whom we believe.
    pub trust: Trust,
    /// Who we are.
    pub identity: Option<KeyPair>,
    /// The name in its certificate. Empty: its host.
    pub server_name: String,
}

/// Sentinels that are remembered besides those that the configuration names.
const MET_MAX: usize = 16;

impl Target {
    /// Of a server that is spoken to so; `keys` is the table of the configuration that says it all,
    /// `client_name` may be empty.
    ///
    /// # Errors
    /// A certificate or key does not load, or a name can be in none.
    pub fn new(
        server: RedisServer,
        tls: &TlsDemands,
        sentinel_tls: &TlsDemands,
        client_name: &str,
        keys: &str,
    ) -> Result<Self, ConfigError> {
        let (mut secure, mut sentinels_secure) = (None, None);
        match &server.place {
            RedisPlace::Unix(_) => {}
            RedisPlace::Tcp(host, _) => {
                if server.tls {
                    secure = Some(Tls::new(tls, Some(host), &format!("{keys}.tls"))?);
                }
            }
            RedisPlace::Cluster(_) => {
                if server.tls {
                    secure = Some(Tls::new(tls, None, &format!("{keys}.tls"))?);
                }
            }
            RedisPlace::Sentinel(sentinels) => {
                if server.tls {
                    secure = Some(Tls::new(tls, None, &format!("{keys}.tls"))?);
                }
                if sentinels.tls {
                    let key = format!("{keys}.sentinel_tls");
                    sentinels_secure = Some(Tls::new(sentinel_tls, None, &key)?);
                }
            }
        }
        let name = if client_name.is_empty() { "ringhold" } else { client_name };
        Ok(Self {
            server,
            tls: secure,
            sentinel_tls: sentinels_secure,
            client_name: name.to_owned(),
            keys: keys.into(),
            in_cluster: false,
            met: Arc::default(),
        })
    }

    /// One node of a cluster.
    pub(super) fn node(&self, (host, port): &Address) -> Self {
        let mut node = Self { in_cluster: true, ..self.clone() };
        node.server.place = RedisPlace::Tcp(host.clone(), *port);
        node
    }

    /// Sentinels besides those that the configuration names.
    pub(super) fn met(&self) -> Vec<Address> {
        self.met.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Remembers Sentinels that one has named, in place of those before.
    pub(super) fn meet(&self, mut others: Vec<Address>) {
        others.truncate(MET_MAX);
        *self.met.lock().unwrap_or_else(PoisonError::into_inner) = others;
    }
}

impl Tls {
    /// `host`: where it is known beforehand.
    pub(super) fn new(
        tls: &TlsDemands,
        host: Option<&str>,
        key: &str,
    ) -> Result<Self, ConfigError> {
        let loaded = keys::stream_client(&tls.trust, tls.identity.as_ref());
        let fault = |fault: keys::KeyFault| ConfigError::new(key, fault.to_string());
        let config = loaded.map_err(fault)?;
        let name = match tls.server_name.as_str() {
            "" => host,
            name => Some(name),
        };
        let name = name.map(named).transpose();
        let name = name.map_err(|what| ConfigError::new(format!("{key}.server_name"), what))?;
        Ok(Self { config, name })
    }

    /// The configuration and the name for a handshake with this host.
    pub(super) fn with(
        &self,
        host: &str,
    ) -> Result<(Arc<ClientConfig>, ServerName<'static>), String> {
        let name = self.name.clone().map_or_else(|| named(host), Ok)?;
        Ok((self.config.clone(), name))
    }
}

fn named(name: &str) -> Result<ServerName<'static>, String> {
    let what = |_| format!("\"{name}\" can be no name in a certificate");
    ServerName::try_from(name.to_owned()).map_err(what)
}
