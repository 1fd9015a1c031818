//! A server of NATS: where it is, and who we are there.

use crate::options::Secret;

/// One server, as the URL names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsServer {
    /// By name or address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Over TLS, whatever the server says.
    pub tls: bool,
    /// Who we are.
    pub login: NatsLogin,
}

/// Who we are to a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NatsLogin {
    /// Nobody in particular.
    #[default]
    Nobody,
    /// User and password.
    User(String, Secret),
    /// Whoever knows this.
    Token(Secret),
}
