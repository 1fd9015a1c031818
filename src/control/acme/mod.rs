//! Certificates of the public port that an authority issues by itself (ACME, RFC 8555).
//!
//! A task on the control thread orders them one after the other, each when a third of its time is
//! left, and tries again later where that fails: an authority counts failures, and bans who makes
//! many. The conversation is `instant-acme`'s; what is proven how, when, and where it is kept, is
//! decided here. The invariant: a certificate stays in use until another one is there.

mod client;
mod folder;
mod order;
mod proofs;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;

use self::client::Client;
use self::folder::Folder;
use self::order::Authority;
use self::proofs::{Proofs, Tokens};
use super::certificates::CertificateKeeper;
use super::counts::Counts;
use crate::tls::keys::{KeyFault, KeyPair};

/// Which certificates, from whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcmeConfig {
    /// In small letters, at least one; the first is for clients that name none.
    pub hosts: Vec<String>,
    /// Where certificates, keys and the account are kept; empty: nowhere.
    pub folder: String,
    /// The address for mails of the authority; empty: none.
    pub email: String,
    /// The address of the authority's directory.
    pub directory: String,
    /// The authority of that address' own certificate; empty: those of the host.
    pub directory_ca: String,
    /// Where hosts are proven by plain HTTP; `None`: the public port proves them.
    pub http: Option<SocketAddr>,
}

/// The task, before it runs.
pub struct Acme {
    config: AcmeConfig,
    client: Client,
    folder: Folder,
    issued: HashMap<String, KeyPair>,
    tokens: Tokens,
    counts: Arc<Counts>,
}

/// Has all cores go on with what the keeper holds.
pub(super) type Install = Box<dyn Fn() -> Result<(), KeyFault> + Send + Sync>;

/// A host, and when its next order is due.
struct Due {
    host: String,
    at: SystemTime,
    /// Orders that failed since the last that did not.
    failures: usize,
}

impl Acme {
    /// Reads what was issued before. The error says what keeps it from working at all.
    pub fn new(config: AcmeConfig, counts: Arc<Counts>) -> Result<Self, String> {
        let client = Client::new(&config.directory_ca)?;
        let folder = Folder::open(&config.folder)?;
        let mut issued = HashMap::new();
        for host in &config.hosts {
            match folder.certificate(host) {
                Ok(Some(pair)) => {
                    issued.insert(host.clone(), pair);
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(%host, error, "its certificate is ordered anew"),
            }
        }
        Ok(Self { config, client, folder, issued, tokens: Tokens::default(), counts })
    }

    /// The certificates that are there, in the order of the hosts.
    pub fn issued(&self) -> Vec<KeyPair> {
        self.config.hosts.iter().filter_map(|host| self.issued.get(host).cloned()).collect()
    }

    /// Where hosts are proven by plain HTTP, if they are.
    pub fn http(&self) -> Option<SocketAddr> {
        self.config.http
    }

    /// The answers of that port.
    pub(super) fn router(&self) -> Router {
        proofs::router(self.tokens.clone(), self.config.hosts.clone())
    }

    /// Orders what is due, until the end of the runtime.
    pub(super) async fn run(mut self, keeper: CertificateKeeper, install: Install) {
        let proofs = Proofs::new(self.tokens.clone(), self.config.http.is_some(), keeper, install);
        let mut authority = Authority::new(&self.config, self.client.clone());
        let mut dues: Vec<_> = self.config.hosts.iter().map(|host| self.first_due(host)).collect();
        loop {
            let now = SystemTime::now();
            for due in dues.iter_mut().filter(|due| due.at <= now) {
                self.order(due, &mut authority, &proofs).await;
            }
            let next = dues.iter().map(|due| due.at).min().unwrap_or(now);
            let wait = next.duration_since(SystemTime::now()).unwrap_or_default();
            tokio::select! {
                // The clock of the wall may be set, and stands still while the host sleeps.
                () = tokio::time::sleep(wait.clamp(WAIT_MIN, WAIT_MAX)) => {}
                // Who asks has mended something.
                () = proofs.reloaded() => {
                    dues.iter_mut().filter(|due| due.failures > 0).for_each(|due| due.at = now);
                }
            }
        }
    }

    fn first_due(&self, host: &str) -> Due {
        let at = self.issued.get(host).map_or(SystemTime::UNIX_EPOCH, renewal);
        Due { host: host.to_owned(), at, failures: 0 }
    }

    async fn order(&mut self, due: &mut Due, authority: &mut Authority, proofs: &Proofs) {
        let host = &due.host;
        let ordered = authority.order(host, &self.folder, proofs);
        let ordered = tokio::time::timeout(ORDER_MAX, ordered).await;
        // Also of an order that was given up.
        proofs.forget();
        let outcome = ordered.unwrap_or_else(|_| Err("it took more than five minutes".to_owned()));
        let outcome = outcome.and_then(|pair| self.take(host, pair, proofs));
        match outcome {
            Ok(at) => {
                self.counts.tls_orders.count();
                (due.at, due.failures) = (at, 0);
                tracing::info!(%host, "the authority has issued a certificate");
            }
            Err(error) => {
                self.counts.tls_orders_failed.count();
                let pause = PAUSES[due.failures.min(PAUSES.len() - 1)];
                (due.at, due.failures) = (SystemTime::now() + pause, due.failures + 1);
                tracing::error!(%host, error, again_in = ?pause, "no certificate");
            }
        }
    }

    /// Uses a certificate that was just issued, and keeps it; when it is due again.
    fn take(&mut self, host: &str, pair: KeyPair, proofs: &Proofs) -> Result<SystemTime, String> {
        let facts = pair.facts().map_err(|fault| fault.to_string())?;
        if !facts.names.iter().any(|name| name == host) {
            return Err("the authority has issued a certificate for another name".to_owned());
        }
        self.issued.insert(host.to_owned(), pair.clone());
        proofs.replace(self.issued()).map_err(|fault| fault.to_string())?;
        if let Err(error) = self.folder.keep_certificate(host, &pair) {
            tracing::error!(%host, %error, "its certificate ends with this process");
        }
        Ok(renewal(&pair))
    }
}

/// When a third of its time is left; at once, if nobody can say.
fn renewal(pair: &KeyPair) -> SystemTime {
    let Ok(facts) = pair.facts() else { return SystemTime::UNIX_EPOCH };
    let lifetime = facts.not_after.duration_since(facts.not_before).unwrap_or_default();
    facts.not_after - lifetime / 3
}

/// For an order, from the first question to the certificate.
const ORDER_MAX: Duration = Duration::from_secs(300);

/// After the first failure, the second, and so on. Let's Encrypt allows five in an hour for a name.
const PAUSES: [Duration; 5] = [
    Duration::from_secs(60),
    Duration::from_secs(5 * 60),
    Duration::from_secs(15 * 60),
    Duration::from_secs(3600),
    Duration::from_secs(6 * 3600),
];

const WAIT_MIN: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(3600);

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
