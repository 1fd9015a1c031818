//! Whose a request of plain HTTP is.

use std::net::SocketAddr;

/// Whose a request is; with every request that came over a socket. That of the client behind
/// trusted proxies, and so perhaps another one with each request of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);
