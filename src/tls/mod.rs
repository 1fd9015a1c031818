//! TLS without I/O: rustls does the handshake, a record layer of our own carries the connection.
//!
//! * [`greet`]: records in, records out, and at the end a [`Record`] with the keys; then nothing of
//!   rustls is left, but for a client that waits for a [`Ticket`].
//! * [`Record`]: opens records where they lie, seals what leaves. 176 bytes, where rustls' smallest
//!   object has 3,400.
//! * [`keys`]: certificates, versions, trust, tickets.
//!
//! Nothing here knows a descriptor, the engine or a clock (rustls and tickets look at the time when
//! a handshake asks for it). Cryptography is aws-lc's; no secret is compared or branched on here.
//!
//! Invariant: what a peer sends leads to an [`Opened`] or to a [`Fault`] and never further; every
//! fault is final.

mod certificates;
mod direction;
mod fault;
pub mod greet;
pub mod keys;
mod layer;
mod library;
mod parts;
mod pem;
mod post_handshake;
mod record;
mod resumption;
#[cfg(feature = "simulation")]
#[doc(hidden)]
pub mod scripted;
#[cfg(not(feature = "simulation"))]
#[path = "unscripted.rs"]
mod scripted;
mod tickets;

pub use certificates::Facts;
pub use direction::{Aead, Shape, Version};
pub use fault::{Fault, Reason};
pub use greet::{Greeting, Step, Ticket, Welcome};
pub use layer::{Record, RecordLayer};
pub use parts::Parts;
pub use record::{Limits, Opened, RECORD_MAX, Role, length};
pub use tickets::TicketSecret;
