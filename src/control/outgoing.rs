//! Clients for what the control plane asks: the application's backend, key sets.
//!
//! The invariant: the host's certificates are read only where an address is https. A host without
//! any runs a server that needs none.

use super::pem;
use crate::options::Secret;

/// Begins a client; `secure`: one of its addresses is https.
pub(super) fn client(secure: bool) -> reqwest::ClientBuilder {
    let builder = reqwest::Client::builder()
        // What is asked goes where the configuration says, or not at all.
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy();
    if secure { builder } else { builder.tls_certs_only([]) }
}

/// Whom a client believes, and who it is, where that is not what the host says. Each text is PEM,
/// Base64 of PEM, or the name of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificates {
    /// Our certificate with the chain to its authority; empty: none.
    pub certificate: String,
    /// Its key.
    pub key: Secret,
    /// The authority of the other end; empty: those of the host.
    pub authority: String,
    /// The name that the other end must have; empty: that of its address. Of gRPC only.
    pub name: String,
    /// Believe everybody. Not of gRPC.
    pub believe_all: bool,
}

impl Certificates {
    /// Begins a client. The error says what is wrong, without the key.
    pub(super) fn client(&self) -> Result<reqwest::ClientBuilder, String> {
        let mut builder = client(true).tls_danger_accept_invalid_certs(self.believe_all);
        if !self.authority.is_empty() {
            let wrong = |what| format!("server_ca_pem: {what}");
            let bundle = pem::load(&self.authority).map_err(wrong)?;
            let found = reqwest::Certificate::from_pem_bundle(&bundle);
            let found = found.map_err(|error| wrong(error.to_string()))?;
            builder = builder.tls_certs_only(found);
        } else if self.believe_all {
            builder = builder.tls_certs_only([]);
        }
        if !self.certificate.is_empty() {
            let mut both =
                pem::load(&self.certificate).map_err(|what| format!("cert_pem: {what}"))?;
            both.push(b'\n');
            both.extend(pem::load(self.key.reveal()).map_err(|what| format!("key_pem: {what}"))?);
            let identity = reqwest::Identity::from_pem(&both)
                .map_err(|error| format!("cert_pem and key_pem: {error}"))?;
            builder = builder.identity(identity);
        }
        Ok(builder)
    }
}

/// Whether an endpoint is one of gRPC: `grpc://` or nothing, a host and a port.
pub(crate) fn is_grpc(endpoint: &str) -> bool {
    let host = endpoint.strip_prefix("grpc://").unwrap_or(endpoint).trim_end_matches('/');
    let authority = host.parse::<http::uri::Authority>().ok();
    authority
        .is_some_and(|it| it.port_u16().is_some() && !it.host().is_empty() && !host.contains('@'))
}

/// Why there is no client, with the usual remedy.
pub(super) fn explain(error: &reqwest::Error) -> String {
    format!("{error}: are the certificates of authorities installed (ca-certificates)?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_https_no_certificates_are_needed() {
        client(false).build().expect("a client");
    }
}
