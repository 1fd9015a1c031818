//! TLS without sockets: our handshakes and records against rustls as the peer, in both roles, both
//! versions and each suite; then over sockets against OpenSSL's own client; then the engine and the
//! gateway over it.
//!
//! Method of what is in memory: bytes go from one side's output to the other's input in pieces of
//! any size. What rustls accepts and sends is the truth; whatever is changed on the way must end
//! the connection, and what arrived before it must be what was sent.

#[path = "../fuzz/tls.rs"]
mod entries;
#[path = "../support/mod.rs"]
mod support;

mod acme;
mod dial;
mod engine;
mod engine_records;
mod fuzzed;
mod gateway;
mod handshakes;
mod hostile;
mod issuing;
mod keys;
mod openssl;
mod peer;
mod raw;
mod records;
mod site;
