//! Redis or NATS as the broker of several nodes: one thread that asks it what the home cores want,
//! and tells them what happens there.
//!
//! From the bottom up: the protocol ([`resp`]), a connection ([`link`]), to whom ([`server`],
//! [`target`]), how it comes about ([`dial`]) and who is asked where ([`sentinel`]); Centrifugo's
//! layout ([`layout`]), [`scripts`], and what is written for each request ([`requests`]) and read
//! from its replies ([`answers`]). Then what is under way: requests (`work`, in a language that is
//! a `tongue`), channels to listen to (`listening`, and slot by slot in `sharded`), a connection
//! through its lives (`side`), a server with both of its connections (`shard`), where it is by now
//! (`watch`); and several that share the [`slots`] of a cluster (`cluster`, `places`), as they say
//! themselves ([`nodes`]). NATS has a protocol, names and a shard of its own ([`nats`]). The cores'
//! requests come by [`queue`], what happens leaves by `post`; `thread` ties it together. What nodes
//! tell each other goes through the [`bus`]. What others see of it is [`tally`]; [`inspect`] is for
//! an operator who wants to know whether a server is fit.
//!
//! The shapes of requests and happenings are the gateway's ([`crate::gateway::broker`]). The
//! invariants: each request with a ticket is answered once, at the latest when its time has passed;
//! nothing is kept per channel but what is under way; all that waits is bounded by the cores'
//! accounts in [`queue`].

pub mod answers;
pub mod bus;
mod cluster;
pub mod config;
pub mod dial;
mod diary;
pub mod inspect;
mod join;
pub mod layout;
pub mod link;
mod listening;
pub mod nats;
pub mod nodes;
mod places;
mod post;
pub mod queue;
pub mod requests;
pub mod resp;
pub mod scripts;
pub mod sentinel;
pub mod server;
mod shard;
mod sharded;
mod side;
pub mod slots;
pub mod tally;
pub mod target;
mod thread;
mod tongue;
mod watch;
mod work;

pub use config::{Config, ConfigError};
pub use post::Cores;
pub(crate) use post::Post;
pub use queue::Queue;
pub use thread::{Thread, View, start};
