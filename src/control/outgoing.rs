//! Clients for what the control plane asks: the application's backend, key sets.
//!
//! The invariant: the host's certificates are read only where an address is https. A host without
//! any runs a server that needs none.

/// Begins a client; `secure`: one of its addresses is https.
pub(super) fn client(secure: bool) -> reqwest::ClientBuilder {
    let builder = reqwest::Client::builder()
        // What is asked goes where the configuration says, or not at all.
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy();
    if secure { builder } else { builder.tls_certs_only([]) }
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
