//! Sections about TLS, and what a handshake needs of them.
//!
//! Names are Centrifugo's; what is ours alone is marked. Reads no file: `tls::keys` does.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use crate::config::schema::{choice, join, section, tables};
use crate::options::Secret;
use crate::tls::keys::{KeyPair, ServerKeys, is_path};
use crate::tls::{RecordLayer, TicketSecret, Version};

section! {
    /// `http_server.tls` and `http_server.internal_tls`: TLS on a listener. Each `*_pem` is the
    /// path of a PEM file, PEM text, or base64 of PEM text; each `*_pem_file` a path.
    pub struct Tls {
        /// Speak TLS.
        enabled: bool = false,
        /// The chain of certificates, the host's own first.
        cert_pem: String = String::new(),
        /// The same by path.
        cert_pem_file: String = String::new(),
        /// Its key: PKCS#8, PKCS#1 or SEC1.
        key_pem: Secret = Secret::default(),
        /// The same by path.
        key_pem_file: String = String::new(),
        /// Authorities of client certificates, which are then required.
        client_ca_pem: String = String::new(),
        /// The same by path.
        client_ca_pem_file: String = String::new(),
        /// Further certificates, for the hosts that they name. Ours, like all below.
        certificates: Vec<Certificate> = Vec::new(),
        /// The lowest version that is spoken.
        min_version: TlsVersion = TlsVersion::Tls12,
        /// 32 random characters or more, the same on all servers behind one name: sessions then go
        /// on over restarts and between servers. Empty: of this process alone.
        ticket_key: Secret = Secret::default(),
        /// Who carries a connection after its handshake.
        record_layer: TlsRecordLayer = TlsRecordLayer::Own,
    }
}

section! {
    /// One of `certificates`.
    pub struct Certificate {
        /// The chain of certificates, the host's own first.
        cert_pem: String = String::new(),
        /// Its key.
        key_pem: Secret = Secret::default(),
    }
}

section! {
    /// `http_server.tls_autocert`: certificates of the public port that an authority issues by
    /// itself (ACME, RFC 8555), and renews when a third of their time is left.
    pub struct TlsAutocert {
        /// Speak TLS with them. Those of `http_server.tls` are used beside them, if that is
        /// enabled.
        enabled: bool = false,
        /// The hosts, of which each gets a certificate. At most 100.
        host_whitelist: Vec<String> = Vec::new(),
        /// Folder for certificates, keys and the account with the authority. Empty: they end with
        /// the process, and each start orders anew, which authorities limit.
        cache_dir: String = String::new(),
        /// Whom the authority writes to when something is wrong with a certificate.
        email: String = String::new(),
        /// Whose certificate clients get that name no host. Empty: the first host's.
        server_name: String = String::new(),
        /// Prove on `http_addr` that the hosts are ours (http-01), and redirect all else there to
        /// https. Without, the public port proves it (tls-alpn-01), which must then be reachable as
        /// port 443.
        http: bool = false,
        /// Where: the authority asks at port 80.
        http_addr: String = ":80".to_owned(),
        /// The authority, by the address of its directory. Ours, like the next one.
        directory: String = "https://acme-v02.api.letsencrypt.org/directory".to_owned(),
        /// Who has signed the certificate of that address: a path, PEM text or base64 of it. Empty:
        /// whom the host trusts.
        directory_ca_pem: String = String::new(),
    }
}

choice! {
    /// Who carries connections after their handshakes.
    pub enum TlsRecordLayer {
        /// This program, with 176 bytes for each.
        Own = "own",
        /// The library that does the handshakes, with some 3,900 bytes for each.
        Rustls = "rustls",
    }
}

choice! {
    /// A version of TLS.
    pub enum TlsVersion {
        /// RFC 5246.
        Tls12 = "1.2",
        /// RFC 8446.
        Tls13 = "1.3",
    }
}

/// Bytes of the shortest `ticket_key`.
pub(crate) const TICKET_KEY_MIN: usize = 32;

/// Hosts that may be certified.
pub(crate) const HOSTS_MAX: usize = 100;

impl TlsAutocert {
    /// Paths in a configuration file begin at its folder.
    pub(crate) fn begin_at(&mut self, folder: &Path) {
        let ca = &mut self.directory_ca_pem;
        if !ca.is_empty() && is_path(ca) {
            *ca = folder.join(&ca).display().to_string();
        }
        if !self.cache_dir.is_empty() {
            self.cache_dir = folder.join(&self.cache_dir).display().to_string();
        }
    }

    /// Where `http_addr` is: without a host, on all addresses.
    pub fn http_address(&self) -> Option<SocketAddr> {
        match self.http_addr.strip_prefix(':') {
            Some(port) => Some((Ipv4Addr::UNSPECIFIED, port.parse().ok()?).into()),
            None => self.http_addr.parse().ok(),
        }
    }

    /// The hosts in the order in which their certificates are offered to who names none.
    pub fn hosts(&self) -> Vec<String> {
        let first = self.server_name.to_ascii_lowercase();
        let mut hosts: Vec<String> = Vec::new();
        for host in self.host_whitelist.iter().map(|host| host.to_ascii_lowercase()) {
            if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        hosts.sort_by_key(|host| *host != first);
        hosts
    }
}

impl Tls {
    /// Paths in a configuration file begin at its folder.
    pub(crate) fn begin_at(&mut self, folder: &Path) {
        let begin = |path: &str| match !path.is_empty() && is_path(path) {
            true => folder.join(path).display().to_string(),
            false => path.to_owned(),
        };
        for path in [
            &mut self.cert_pem,
            &mut self.cert_pem_file,
            &mut self.key_pem_file,
            &mut self.client_ca_pem,
            &mut self.client_ca_pem_file,
        ] {
            *path = begin(path);
        }
        self.key_pem = Secret::new(begin(self.key_pem.reveal()));
        for one in &mut self.certificates {
            one.cert_pem = begin(&one.cert_pem);
            one.key_pem = Secret::new(begin(one.key_pem.reveal()));
        }
    }

    /// What handshakes need, as `tls::keys` loads it; `own` seals tickets where no key is
    /// configured.
    pub fn keys(&self, own: &TicketSecret) -> ServerKeys {
        let first = KeyPair {
            cert_pem: either(&self.cert_pem, &self.cert_pem_file),
            key_pem: either(self.key_pem.reveal(), &self.key_pem_file),
        };
        let named = self.certificates.iter().map(|one| KeyPair {
            cert_pem: one.cert_pem.clone(),
            key_pem: one.key_pem.reveal().to_owned(),
        });
        let authorities = either(&self.client_ca_pem, &self.client_ca_pem_file);
        let configured = TicketSecret::from_bytes(self.ticket_key.reveal().as_bytes());
        ServerKeys {
            certificates: std::iter::once(first).chain(named).collect(),
            client_ca_pem: (!authorities.is_empty()).then_some(authorities),
            min_version: match self.min_version {
                TlsVersion::Tls12 => Version::Tls12,
                TlsVersion::Tls13 => Version::Tls13,
            },
            tickets: configured.unwrap_or_else(|| own.clone()),
            record_layer: self.record_layer(),
            on_order: None,
        }
    }

    /// Who carries connections after their handshakes.
    pub fn record_layer(&self) -> RecordLayer {
        match self.record_layer {
            TlsRecordLayer::Own => RecordLayer::Own,
            TlsRecordLayer::Rustls => RecordLayer::Rustls,
        }
    }
}

fn either(text: &str, file: &str) -> String {
    if text.is_empty() { file.to_owned() } else { text.to_owned() }
}

tables!(Certificate);

impl Certificate {
    /// The path of one's key, as mistakes name it.
    pub(crate) fn key_of(table: &str, index: usize, key: &str) -> String {
        join(&format!("{table}.certificates[{index}]"), key)
    }
}
