//! From options to what the control plane is told.

use crate::config::Options;
use crate::control::certificates::CertificateSources;
use crate::tls::TicketSecret;

impl Options {
    /// Where the certificates of each port are; `own` seals tickets where no key is configured.
    pub fn certificate_sources(&self, own: &TicketSecret) -> CertificateSources {
        let server = &self.http_server;
        let mut public = server.speaks_tls().then(|| server.tls.keys(own));
        if let Some(keys) = public.as_mut().filter(|_| !server.tls.enabled) {
            keys.certificates.clear();
        }
        let inside = server.tls_inside().filter(|_| server.internal_port != 0);
        let grpc = Some(&self.grpc_api).filter(|api| api.enabled && api.tls.enabled);
        CertificateSources {
            public,
            on_order: server.tls_autocert.enabled,
            internal: inside.map(|tls| tls.keys(own)),
            internal_own: server.internal_tls.enabled,
            grpc: grpc.map(|api| api.tls.keys(own)),
        }
    }
}
