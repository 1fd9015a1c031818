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
//! use ringhold::protocol::request::Request;
//! use ringhold::{Answer, Conn, Cx, Frame, Handler, Message, Server};
//!
//! struct Chat;
//!
//! impl Handler for Chat {
//!     /// What we keep per connection: the room it is in.
//!     type State = String;
//!     /// What other threads may send to this core: nothing here.
//!     type Letter = ();
//!
//!     fn request(
//!         &mut self,
//!         _: &mut Cx<'_>,
//!         request: &Request<'_>,
//!         _: SocketAddr,
//!     ) -> Answer<String> {
//!         Answer::accept(request.path().to_owned())
//!     }
//!
//!     fn open(&mut self, conn: &mut Conn<'_>, room: &mut String) {
//!         conn.subscribe(room);
//!     }
//!
//!     fn message(&mut self, conn: &mut Conn<'_>, room: &mut String, message: Message<'_>) {
//!         // Encoded once, shared by every receiver on every core.
//!         conn.publish(room, &Frame::new(message.kind(), message.data()));
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
//! # What calls what
//!
//! * [`Server::builder`] configures ([`Config`] has every knob with its default and unit) and
//!   starts the workers; the closure makes one [`Handler`] per core, on that core's thread.
//! * A [`Handler`]'s callbacks run on its core, one at a time, and must not block. They act
//!   through [`Conn`] (this connection) and [`Cx`] (this core). What they queue leaves at the end
//!   of the turn, in one send per connection.
//! * A [`ConnId`] may be kept anywhere for any time; once its connection is gone, every use of it
//!   is refused with [`SendError::Gone`] and counted. It never reaches another connection.
//! * A [`Handle`] reaches every core from any thread through bounded mailboxes:
//!   [`Handle::send`], [`Handle::publish`], [`Handle::post`], [`Handle::stats`], [`Handle::drain`].
//!
//! # What is guaranteed
//!
//! * [`Handler::close`] is called exactly once for each [`Handler::open`], with the cause, and
//!   nothing of that connection is called after it.
//! * Messages to one connection arrive in the order in which they were queued on its core; letters
//!   and publications of one thread are taken in order.
//! * Every limit has a default, a counter in [`Counters`] and a defined answer; memory is bounded
//!   by [`Config`]. No peer can panic, stall or grow the process beyond it.
//! * A panic in a callback closes that connection with 1011 and leaves the core running, provided
//!   the binary unwinds (`panic = "unwind"`, the default).
//!
//! # Layers
//!
//! [`protocol`] is RFC 6455 and [`tls`] TLS without I/O, usable and testable on their own;
//! [`engine`] is one core's world and the threads that run it; [`gateway`] is the Centrifugo client
//! protocol as an application of the engine. Dependencies point from gateway to engine to protocol
//! only. [`control`] is what the program `ringhold` has beside them: signals, HTTP, metrics.
//!
//! Linux 6.1 or later with io_uring (`kernel.io_uring_disabled = 0`, and a seccomp profile that
//! permits it); elsewhere [`Io::Epoll`] stands in, at more processor time per message.

#![deny(unsafe_op_in_unsafe_fn)]

#[cfg(feature = "gateway")]
pub mod control;
pub mod engine;
#[cfg(feature = "gateway")]
pub mod gateway;
pub mod protocol;
#[cfg(feature = "tls")]
pub mod tls;

pub use engine::{
    AddressPlace, Answer, Builder, Cause, Closed, Compression, Config, ConfigError, Conn, ConnId,
    CoreStart, CounterKind, Counters, Cx, DialTarget, Drain, Frame, Handle, Handler, Heartbeat, Io,
    LastWords, Message, Passed, Plain, Policy, Proxies, ProxyHeaders, RatePolicy, Running,
    SendError, Server, SlowPeer, StartError, Stats, Via,
};
pub use protocol::{CloseCode, Kind};
