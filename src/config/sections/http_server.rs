//! `http_server`: where to listen, and who is in front.

use std::net::{IpAddr, Ipv4Addr};

use super::tls::{Tls, TlsAutocert};
use crate::config::schema::{choice, section};
use crate::options::Size;
use crate::protocol::Network;

section! {
    /// `http_server`: where to listen.
    pub struct HttpServer {
        /// Address of the public listener. Empty: all addresses.
        address: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST),
        /// Its port; 0 takes a free one.
        port: u16 = 8000,
        /// Address of the internal listener.
        internal_address: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST),
        /// Its port: the server API, metrics, health and the admin page move there from the public
        /// one. 0: there is none.
        internal_port: u16 = 0,
        /// TLS on the public port, and on the internal one unless `tls_external` or `internal_tls`
        /// says otherwise.
        tls: Tls = Tls::default(),
        /// TLS on the public port only.
        tls_external: bool = false,
        /// TLS on the internal port, with other certificates.
        internal_tls: Tls = Tls::default(),
        /// Certificates of the public port that an authority issues by itself.
        tls_autocert: TlsAutocert = TlsAutocert::default(),
        /// Reverse proxies that are believed about the clients behind them, as addresses and
        /// blocks. Ours, like the next two.
        trusted_proxies: Vec<Network> = Vec::new(),
        /// Believe `X-Forwarded-For` from them.
        forwarded_for: bool = false,
        /// Believe the PROXY protocol from them.
        proxy_protocol: ProxyProtocol = ProxyProtocol::Off,
        /// HTTP connections of the public port at once whose clients have shown a key or a session.
        /// Ours, like the next two.
        http_connections: u32 = 1024,
        /// The same of all other clients.
        http_anonymous: u32 = 256,
        /// Bytes that the bodies of requests to the server API hold together; one more is answered
        /// with 503.
        http_bodies: Size = Size(64 << 20),
    }
}

impl HttpServer {
    /// Whether the public port speaks TLS.
    pub fn speaks_tls(&self) -> bool {
        self.tls.enabled || self.tls_autocert.enabled
    }

    /// The internal port's TLS, if it has any.
    pub fn tls_inside(&self) -> Option<&Tls> {
        let of_both = Some(&self.tls).filter(|tls| tls.enabled && !self.tls_external);
        Some(&self.internal_tls).filter(|tls| tls.enabled).or(of_both)
    }
}

choice! {
    /// Whether connections to the public port begin with a header of the PROXY protocol.
    pub enum ProxyProtocol {
        /// They do not.
        Off = "off",
        /// Those of trusted proxies may.
        Optional = "optional",
        /// All do; one without is refused.
        Required = "required",
    }
}
