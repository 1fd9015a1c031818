//! Certificates and keys: whether they are there, fit together, and are valid now.
//!
//! Reads the files that the options name, as the server does at its start.

use std::time::SystemTime;

use super::super::Tls;
use super::super::sections::tls::{Certificate, HOSTS_MAX, TICKET_KEY_MIN};
use super::Check;
use crate::tls::TicketSecret;
use crate::tls::keys::ServerMaterials;

impl Check<'_> {
    /// One listener's.
    pub(super) fn tls(&mut self, table: &str, tls: &Tls) {
        let key = |name: &str| format!("{table}.{name}");
        for (one, text) in [
            ("cert_pem", &tls.cert_pem[..]),
            ("key_pem", tls.key_pem.reveal()),
            ("client_ca_pem", &tls.client_ca_pem),
        ] {
            let file = match one {
                "cert_pem" => &tls.cert_pem_file,
                "key_pem" => &tls.key_pem_file,
                _ => &tls.client_ca_pem_file,
            };
            let once = text.is_empty() || file.is_empty();
            let what = format!("is given besides {one}: one of them is enough");
            self.demand(once, &key(&format!("{one}_file")), what);
        }
        let short = tls.ticket_key.reveal().len();
        let enough = short == 0 || short >= TICKET_KEY_MIN;
        let what = format!("must have at least {TICKET_KEY_MIN} bytes");
        self.demand(enough, &key("ticket_key"), what);
        for (index, one) in tls.certificates.iter().enumerate() {
            for (name, empty) in
                [("cert_pem", one.cert_pem.is_empty()), ("key_pem", one.key_pem.is_empty())]
            {
                self.demand(!empty, &Certificate::key_of(table, index, name), "is needed");
            }
        }
        if !tls.enabled {
            let given = !tls.cert_pem.is_empty() || !tls.cert_pem_file.is_empty();
            let what = "is not heard: enabled is not set";
            return self.warn(given, &key("cert_pem"), what);
        }
        let cert = !tls.cert_pem.is_empty() || !tls.cert_pem_file.is_empty();
        self.demand(cert, &key("cert_pem"), "is needed: TLS is on");
        let has_key = !tls.key_pem.is_empty() || !tls.key_pem_file.is_empty();
        self.demand(has_key, &key("key_pem"), "is needed: TLS is on");
        if self.reader.mistakes.iter().any(|mistake| mistake.key.starts_with(table)) {
            return;
        }
        self.materials(table, tls);
    }

    /// Certificates that an authority issues.
    pub(super) fn autocert(&mut self) {
        let server = &self.options.http_server;
        let order = &server.tls_autocert;
        let key = |name: &str| format!("http_server.tls_autocert.{name}");
        let hosts = order.hosts();
        if !order.enabled {
            let what = "is not heard: enabled is not set";
            return self.warn(!hosts.is_empty(), &key("host_whitelist"), what);
        }
        let built = cfg!(feature = "acme");
        self.demand(
            built,
            &key("enabled"),
            "needs the feature `acme`, without which this is built",
        );
        let what = "must name at least one host, so that strangers cannot order for others";
        self.demand(!hosts.is_empty(), &key("host_whitelist"), what);
        let what = format!("must name at most {HOSTS_MAX} hosts");
        self.demand(hosts.len() <= HOSTS_MAX, &key("host_whitelist"), what);
        for host in hosts.iter().filter(|host| !is_certifiable(host)) {
            let what = format!(
                "must hold names as \"www.example.com\", neither addresses nor wildcards, which \
                 cannot be proven this way: not \"{host}\""
            );
            self.demand(false, &key("host_whitelist"), what);
        }
        let first = order.server_name.to_ascii_lowercase();
        let known = first.is_empty() || hosts.contains(&first);
        self.demand(known, &key("server_name"), "must be one of host_whitelist");
        let address = order.http_address().is_some();
        let what = "must be an address with a port, as \":80\" or \"192.0.2.1:80\"";
        self.demand(address, &key("http_addr"), what);
        let secure = order.directory.to_ascii_lowercase().starts_with("https://");
        self.demand(secure, &key("directory"), "must begin with https:// (RFC 8555 section 6.1)");
        let plain = !order.email.contains(|c: char| c.is_whitespace() || c == ',' || c == '?');
        let mail = order.email.is_empty() || order.email.contains('@') && plain;
        self.demand(mail, &key("email"), "must be one address as \"ops@example.com\"");
        let what = "is empty: every start orders anew, and authorities count; name a folder";
        self.warn(order.cache_dir.is_empty(), &key("cache_dir"), what);
        let reached = order.http || [0, 443].contains(&server.port);
        let what = "the authority asks at port 443, which must lead here";
        self.warn(!reached, "http_server.port", what);
    }

    /// Demands that the named certificates and keys load.
    fn materials(&mut self, table: &str, tls: &Tls) {
        let own = match TicketSecret::random() {
            Ok(own) => own,
            Err(error) => return self.wrong(table, format!("no randomness: {error}")),
        };
        let now = SystemTime::now();
        match ServerMaterials::load(&tls.keys(&own), now) {
            Ok(materials) => {
                for warning in materials.warnings(now) {
                    self.warn(true, table, &warning);
                }
            }
            Err(fault) => self.wrong(table, fault.to_string()),
        }
    }
}

/// Whether a host is a name of the public DNS: RFC 1123 section 2.1, with a dot, and no address.
fn is_certifiable(host: &str) -> bool {
    let label = |label: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let edges = !label.starts_with('-') && !label.ends_with('-');
        (1..=63).contains(&label.len()) && edges && label.chars().all(inner)
    };
    let name = host.len() <= 253 && host.contains('.') && host.split('.').all(label);
    name && host.parse::<std::net::IpAddr>().is_err()
}
