//! A WebSocket connection server for Linux, built on io_uring to hold the most live connections
//! per byte of memory and per core, and to stay correct while clients vanish, stall, flood and
//! lie.
//!
//! One thread per core, each with its own ring, listener, connections and application: no locks, no
//! `Send` bounds in callbacks, nothing shared on the hot path.
//!
//! # A chat room in thirty lines
//!
//! ```no_run
//! use std::net::SocketAddr;
//!
//! use ringhold::{Connection, Context, Frame, Handler, Message, Request, Server, UpgradeAction};
//!
//! struct Chat;
//!
//! impl Handler for Chat {
//!     /// What we keep per connection: the room it is in.
//!     type State = String;
//!     /// What other threads may send to this core: nothing here.
//!     type Event = ();
//!
//!     fn on_upgrade(
//!         &mut self,
//!         _: &mut Context<'_>,
//!         request: &Request<'_>,
//!         _: SocketAddr,
//!     ) -> UpgradeAction<String> {
//!         UpgradeAction::accept(request.path().to_owned())
//!     }
//!
//!     fn on_open(&mut self, conn: &mut Connection<'_>, room: &mut String) {
//!         conn.subscribe(room);
//!     }
//!
//!     fn on_message(
//!         &mut self,
//!         conn: &mut Connection<'_>,
//!         room: &mut String,
//!         message: Message<'_>,
//!     ) {
//!         // Encoded once, shared by every receiver on every core.
//!         conn.publish(room, &Frame::new(message.kind(), message.payload()));
//!     }
//! }
//!
//! let server = Server::builder()
//!     .listen("127.0.0.1:9001".parse()?)
//!     .max_connections(100_000)
//!     .start(|_core| Chat)?;
//! let handle = server.handle();
//! std::thread::spawn(move || {
//!     // Any thread reaches any core.
//!     handle.publish("/lobby", &Frame::text("the server says hello"));
//! });
//! server.join()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # One handler per core
//!
//! The closure given to [`Builder::start`] makes one [`Handler`] for each core, and a connection
//! belongs to the core that accepted it. So **a `HashMap` of rooms or users in a handler is wrong**
//! as soon as there are two cores: each knows its own part. Use a topic for what many hear
//! ([`Connection::subscribe`], [`Context::publish`]: the engine spreads it over cores), a topic of
//! its own for a user with several connections, a [`ConnId`] for one connection (every core can
//! send to it), and an `Arc<Mutex<..>>` that all handlers share for what is looked up rarely, such
//! as names that must be unique. `examples/chat.rs` does all of it.
//!
//! # Examples
//!
//! `chat` with names and rooms over cores; `push` to one user from a tokio task; `echo` with
//! tokens, limits and a graceful end; `http` beside WebSocket on one port; a `client`. Tests of
//! an application need no socket: see [`testing`].
//!
//! # What calls what
//!
//! * [`Server::builder`] configures ([`Config`] has every knob with its default and unit) and
//!   starts the workers; the closure makes one [`Handler`] per core, on that core's thread.
//! * A [`Handler`]'s callbacks run on its core, one at a time, and must not block. They act
//!   through [`Connection`] (this connection) and [`Context`] (this core). What they queue leaves
//!   at the end of the turn, in one send per connection.
//! * A [`ConnId`] may be kept anywhere for any time; once its connection is gone, every use of it
//!   is refused with [`SendError::Gone`] and counted. It never reaches another connection.
//! * A [`Handle`] reaches every core from any thread through bounded mailboxes:
//!   [`Handle::send`], [`Handle::publish`], [`Handle::subscribe`], [`Handle::post`],
//!   [`Handle::stats`], [`Handle::drain`].
//! * An event of the application's own ([`Handle::post`]) reaches the handler of one core, which
//!   finds the state of any of its connections with [`Context::state`]. [`Context::set_timer`]
//!   calls a handler later.
//!
//! # What is guaranteed
//!
//! * [`Handler::on_close`] is called exactly once for each [`Handler::on_open`], with the cause,
//!   and nothing of that connection is called after it.
//! * Messages to one connection arrive in the order in which they were queued on its core; events
//!   and publications of one thread are taken in order.
//! * Every limit has a default, a counter in [`Counters`] and a defined answer; memory is bounded
//!   by [`Config`]. No peer can panic, stall or grow the process beyond it.
//! * A panic in a callback closes that connection with 1011 and leaves the core running, provided
//!   the binary unwinds (`panic = "unwind"`, the default).
//!
//! # Layers
//!
//! [`protocol`] is RFC 6455 and [`tls`] TLS without I/O, usable and testable on their own; what
//! this page lists is the engine: one core's world and the threads that run it. The program
//! `ringhold` is an application of it, the Centrifugo protocol, with a control plane beside it;
//! their modules are in this package and no part of the interface.
//!
//! # Features
//!
//! `default-features = false` leaves the engine and [`protocol`]: 37 crates. `tls` adds [`tls`];
//! `gateway`, `cli`, `acme`, `postgresql` and `allocator` are parts of the program and of no use to
//! a library.
//!
//! Linux 6.1 or later with io_uring (`kernel.io_uring_disabled = 0`, and a seccomp profile that
//! permits it); elsewhere [`Io::Epoll`] stands in, at more processor time per message.

#![deny(unsafe_op_in_unsafe_fn)]

#[cfg(feature = "gateway")]
#[doc(hidden)]
pub mod broker;
mod common;
#[cfg(feature = "gateway")]
#[doc(hidden)]
pub mod config;
#[cfg(feature = "gateway")]
#[doc(hidden)]
pub mod control;
mod engine;
#[cfg(feature = "gateway")]
#[doc(hidden)]
pub mod gateway;
#[cfg(feature = "gateway")]
#[doc(hidden)]
pub mod options;
pub mod protocol;
#[cfg(feature = "tls")]
pub mod tls;
#[cfg(not(feature = "tls"))]
#[path = "no_tls.rs"]
mod tls;

#[doc(no_inline)]
pub use bytes::Bytes;

pub use engine::harness as testing;
#[doc(hidden)]
pub use engine::internals;
pub use engine::{
    AddressPlace, Builder, Cause, Closed, Compression, Config, ConfigError, ConnId, Connection,
    Context, CoreStart, CounterKind, Counters, Detached, DialTarget, Distribution, Drain, Ending,
    Frame, Handle, Handler, Heartbeat, HeartbeatAction, HttpAction, Io, Layout, Message, Policy,
    Proxies, ProxyHeaders, RatePolicy, Running, SendError, Server, SetupError, SlowPeer,
    StartError, Stats, TimerId, UpgradeAction, Via, WORKERS_MAX,
};
#[doc(hidden)]
pub use engine::{Ceiling, CeilingLine, Per};
pub use protocol::request::Request;
pub use protocol::{CloseCode, HttpResponse, Kind, Network, Refusal};
