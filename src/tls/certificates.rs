//! Which certificate a client gets, and what certificates say about themselves.
//!
//! Invariant: a client always gets one, if there is any: that of the name it asks for, else that of
//! a wildcard, else the first; among several, one whose key the client can verify. Nobody but an
//! authority that checks a name gets the answer to its question.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use super::greet;

/// What there is to know about a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Hosts it is for; `*.example.org` stands for one label.
    pub names: Vec<String>,
    /// When it begins.
    pub not_before: SystemTime,
    /// When it ends.
    pub not_after: SystemTime,
    /// Its key is RSA.
    pub is_rsa: bool,
}

/// What a certificate says about itself.
pub(super) struct Names {
    pub(super) names: Vec<String>,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

/// Certificates by name.
#[derive(Debug, Default)]
pub(super) struct Table {
    all: Vec<Arc<CertifiedKey>>,
    /// Places in `all`, by lower-case name; wildcards with their star.
    by_name: HashMap<String, Vec<usize>>,
    /// Answers to authorities that check a name.
    challenges: HashMap<String, Arc<CertifiedKey>>,
}

/// What an authority that checks a name offers, and nothing else (RFC 8737 section 3).
pub(super) const ACME_TLS: &[u8] = b"acme-tls/1";

impl Names {
    pub(super) fn of(der: &[u8]) -> Result<Self, String> {
        let certificate = Certificate::from_der(der).map_err(|error| error.to_string())?;
        let certificate = &certificate.tbs_certificate;
        let names = certificate.get::<SubjectAltName>().map_err(|error| error.to_string())?;
        let names = names.map(|(_, names)| names.0).unwrap_or_default();
        let names = names.iter().filter_map(|name| match name {
            GeneralName::DnsName(name) => Some(name.as_str().to_ascii_lowercase()),
            _ => None,
        });
        Ok(Self {
            names: names.collect(),
            not_before: certificate.validity.not_before.to_system_time(),
            not_after: certificate.validity.not_after.to_system_time(),
        })
    }
}

impl Table {
    pub(super) fn push(&mut self, names: &[String], key: CertifiedKey) {
        for name in names {
            self.by_name.entry(name.clone()).or_default().push(self.all.len());
        }
        self.all.push(Arc::new(key));
    }

    pub(super) fn push_challenge(&mut self, names: &[String], key: CertifiedKey) {
        let key = Arc::new(key);
        self.challenges.extend(names.iter().map(|name| (name.clone(), key.clone())));
    }

    fn choose(
        &self,
        name: Option<&str>,
        schemes: &[SignatureScheme],
    ) -> Option<&Arc<CertifiedKey>> {
        let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(schemes).is_some();
        let named = name.and_then(|name| self.named(&name.to_ascii_lowercase()));
        let named = || named.into_iter().flatten().map(|at| &self.all[*at]);
        named().find(fits).or_else(|| named().next()).or_else(|| {
            // No name, or one of no certificate: the first that can serve.
            self.all.iter().find(fits).or_else(|| self.all.first())
        })
    }

    fn named(&self, name: &str) -> Option<&Vec<usize>> {
        self.by_name.get(name).or_else(|| {
            let (_, parent) = name.split_once('.')?;
            self.by_name.get(&format!("*.{parent}"))
        })
    }
}

impl ResolvesServerCert for Table {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        greet::asked(hello.server_name());
        if hello.alpn().is_some_and(|names| names.eq([ACME_TLS])) {
            return self.challenges.get(&hello.server_name()?.to_ascii_lowercase()).cloned();
        }
        self.choose(hello.server_name(), hello.signature_schemes()).cloned()
    }
}
