//! Where outgoing connections go.

use std::net::SocketAddr;

/// Where [`Context::dial`](crate::Context::dial) connects to.
#[derive(Clone, Debug)]
pub struct DialTarget {
    /// Address and port.
    pub peer: SocketAddr,
    /// Value of the Host header.
    pub host: String,
    /// Path and query.
    pub target: String,
    /// Further headers.
    pub headers: Vec<(String, String)>,
    /// Speak TLS, with the server of this name or address, which its certificate must have.
    /// [`Config::dial_tls`](crate::Config::dial_tls) says whom to trust.
    pub tls: Option<String>,
    /// Where TLS is spoken, go on with the session of an earlier connection of this core to that
    /// name, if `ClientMaterials::with_tickets` has kept a ticket of it: the server's certificate
    /// is neither sent nor verified again. Each ticket of TLS 1.3 is used once.
    pub resume: bool,
    /// Offer compression. A server that accepts it without keeping to no window is refused.
    pub compression: bool,
}
