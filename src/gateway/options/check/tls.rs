//! Certificates and keys: whether they are there, fit together, and are valid now.
//!
//! Reads the files that the options name, as the server does at its start.

use std::time::SystemTime;

use super::super::Tls;
use super::super::tls::{Certificate, TICKET_KEY_MIN};
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
