//! The engine: one core's world and the threads that run it.
//!
//! ```text
//!             completions                events                effects
//!  kernel ──► ring ──────────► worker ──────────► application ────────► outbox ──► ring ──► kernel
//!              uring, sim       turn, slots,       Handler               dirty marks
//!                               wheel, reading
//! ```
//!
//! Where to start reading: `worker` is the loop in named steps; `ring` says what the kernel is
//! asked for; `slots` is what a connection costs; `transport` is the ladder that input climbs;
//! `phase` is the table of a connection's life, and `closing` how it ends. `core` composes the
//! parts of a core, each of which keeps its fields to its own file.
//!
//! The design in four sentences. An idle connection is one cache line and one poll. When
//! input comes, the core receives from all ready connections in one batch that never waits,
//! decodes in place, and calls the application. What that queues leaves in one gathering send per
//! connection, in the same system call that waits for the next event. Because batches never wait,
//! the kernel owns none of our buffers between two calls, and a connection's only outstanding
//! operations are its polls and its close, each of which carries a generation.
//!
//! What a peer can make a core hold, and its bound (`n`: connections of the core):
//!
//! ```text
//! kept in outboxes       max_outboxes, while a flush settles plus what the turn queued  ledger
//! queued by a turn       max_outboxes / 16, at most 16 MiB, and what one callback adds:
//!                        max_outboxes / 2 and a message; twice that, since queues double core
//! pieces of its sends    16 bytes for each 56 of that                                   writing
//! input not complete     max_inbound; while it grows 2 x max_message more               inbound
//! letters                2 x mailbox_bytes and a letter; control letters beyond         mailbox
//! receive arena          640 KiB                                                        reading
//! cork between turns     1 MiB                                                          outgoing
//! outboxes to spare      256 x 544 bytes                                                outgoing
//! queues of the ready    (2n + 64) x 8 bytes, of the throttled x 12                     inbox
//! marks of a turn        n x 4 bytes in each of dirty, releases, shutdowns, installs;
//!                        n x 16 in polls; 3n notices of 64 bytes             outgoing, ringwork
//! compression            3 x 384 KiB, 48 KiB, a message inflated, one compressed  compression
//! a connection           92 bytes, the application's state, a timer in them             slots
//! a subscription         20 bytes, and its topic's name once                            topics
//! a timer of the application  24 bytes and its share of a tree                   appointments
//! ```

mod addresses;
mod admission;
mod adopting;
mod alarm;
mod appointments;
mod ceiling;
mod census;
mod clock;
mod closing;
mod compression;
#[cfg(test)]
mod compression_tests;
mod config;
mod conn;
mod core;
mod counters;
mod dialling;
mod distribution;
mod drain;
mod epoll;
mod farewell;
#[cfg(test)]
mod farewell_tests;
mod guard;
mod handler;
mod handover;
pub mod harness;
mod heartbeat;
mod inbound;
mod inbox;
pub mod internals;
mod io;
mod ledger;
mod leftovers;
mod limits;
mod links;
mod mailbox;
mod notices;
mod opening;
mod outbox;
mod outgoing;
mod patience;
#[cfg(test)]
mod patience_tests;
mod phase;
mod proxies;
mod publishing;
mod queueing;
mod reading;
mod reclaim;
mod requests;
mod ring;
mod ringwork;
#[cfg_attr(not(feature = "tls"), allow(unreachable_code, unused_variables))]
mod secure;
mod server;
mod setup_error;
mod signals;
mod slots;
mod sys;
mod testing;
mod timing;
mod token;
mod topics;
mod transport;
mod uploads;
mod uring;
mod value;
mod wheel;
mod worker;
mod writing;

pub use crate::common::counters::CounterKind;
pub use addresses::AddressPlace;
pub use appointments::TimerId;
pub use ceiling::{Ceiling, CeilingLine, Per};
pub use config::{
    Compression, Config, ConfigError, Drain, Heartbeat, Layout, Proxies, ProxyHeaders, RatePolicy,
    Via, WORKERS_MAX,
};
pub use conn::{Connection, Context, Message};
pub use counters::{Counters, Stats};
pub use distribution::Distribution;
pub use handler::{Handler, HttpAction, UpgradeAction};
pub use handover::Detached;
pub use io::Io;
pub use links::{Handle, SlowPeer};
pub use server::{Builder, CoreStart, Running, Server, StartError};
pub use setup_error::SetupError;
pub use value::{
    Cause, Closed, ConnId, DialTarget, Ending, Frame, HeartbeatAction, Policy, SendError,
};
