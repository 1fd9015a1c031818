//! RFC 6455 and RFC 7692, free of I/O, clock and threads: bytes in, events out, and the other way.
//!
//! Nothing here reads a socket or allocates on the common path. An engine hands received bytes to
//! a [`Decoder`] and writes what [`frame`], [`request`] and [`response`] encode. The invariant: how
//! a peer's bytes are cut into reads changes neither the events nor the fault they end in, and no
//! bytes of a peer can cause a panic.
//!
//! From the wire upwards: [`mask`] and [`utf8`] work on payload bytes, [`frame`] on headers,
//! [`message`] puts frames together (what is unfinished waits in a [`Partial`]), [`close`] and
//! [`fault`] name the ends. Compressed messages go through [`deflate`] where both ends agreed on it
//! ([`extension`]). [`request`] (with [`Refusal`]) and [`response`] are the two halves of
//! the opening handshake; [`stream`] and [`HttpResponse`] answer who asks for no WebSocket. What
//! proxies say about the client before that is read by [`proxy_header`] and [`forwarded`]; a
//! [`Network`] says which of them are trusted.

mod answer;
pub mod close;
pub mod deflate;
pub mod extension;
pub mod fault;
pub mod forwarded;
pub mod frame;
mod head;
pub mod mask;
pub mod message;
mod network;
pub(crate) mod parameters;
mod partial;
pub mod proxy_header;
mod refusal;
pub mod request;
pub mod response;
pub mod stream;
pub mod utf8;

pub use answer::HttpResponse;
pub use close::{CloseCode, CloseFrame};
pub use deflate::{Deflater, Inflater};
pub use extension::Agreement;
pub use fault::Fault;
pub use message::{Arrival, Decoder, Event, Kind, Partial, Payload};
pub use network::{BadNetwork, Network};
pub use refusal::Refusal;

/// Which end of the connection this side is (RFC 6455 section 5.1: clients mask, servers do not).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Accepts connections; receives masked frames, sends unmasked ones.
    Server,
    /// Opens connections; sends masked frames, receives unmasked ones.
    Client,
}
