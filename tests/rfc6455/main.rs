//! RFC 6455, one rule after the other, over raw sockets against `ringhold echo`.

#[path = "../support/mod.rs"]
mod support;

mod close;
mod frames;
mod handshake;
