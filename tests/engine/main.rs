//! The engine, by its library and through its sockets. `isolation` and `signals` are programs of
//! their own: one measures its process, the other signals to it.

#[path = "../support/stories/mod.rs"]
mod stories;
#[path = "../support/mod.rs"]
mod support;

mod abuse;
mod client_address;
mod drain;
mod epoll;
mod handover;
mod library;
mod limits;
mod requests;
mod streams;
