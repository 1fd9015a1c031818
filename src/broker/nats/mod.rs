//! NATS as the broker of several nodes: it passes on what is published, and keeps nothing.
//!
//! From the bottom up: the protocol ([`wire`]), names and messages ([`subjects`]), how a connection
//! comes about ([`dial`]), what requests and answers are on it (`exchange`), and the connection
//! through its lives (`shard`). Queue, post, bus, and the order of requests are those of Redis; so
//! is the thread. An own link of seven verbs and no client library: what counts here is when a
//! connection was lost and what was under way then; a library's connections keep a table of all
//! subscriptions (5 KB each, measured with `async-nats`) and queue publications while there is no
//! server.
//!
//! The invariants: a request is answered when the server has answered a PING behind it; nothing is
//! kept per channel, because a subscription has the channel's name for its number.

pub mod dial;
mod exchange;
pub mod server;
mod shard;
pub mod subjects;
pub mod wire;

pub use dial::Servers;
pub use server::{NatsLogin, NatsServer};
pub(super) use shard::{Parts, Shard};
pub use subjects::Subjects;
pub use wire::MESSAGE_MAX;
