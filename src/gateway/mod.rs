//! The application that `ringhold serve` runs: a push gateway that speaks the Centrifugo client
//! protocol and server API, so that existing SDKs and backends use it unchanged.
//!
//! First the parts that know no connection and no core: what the gateway is told ([`plan`], which
//! the configuration fills, so that it is above), what a channel's name says and who may do what
//! ([`channels`]), tokens ([`tokens`]), what travels ([`wire`]), which publications a subscriber
//! wants ([`filter`]), how a payload is told as the difference to the one before ([`delta`]), what
//! an application's backend asks for ([`api`]) and is asked ([`proxy`]), what memory costs
//! ([`account`]), and what is counted ([`stats`]).
//!
//! Then the channels ([`hub`]). Each has one home core, chosen by a hash of its name
//! ([`placement`]), which orders everything that happens in it: its history ([`stream`]), who is in
//! it ([`presence`]), which cores have subscribers ([`home`]). Each core knows its own subscribers
//! ([`local`]) and users ([`users`]). Cores talk by [`letters`]; what the hub needs from outside is
//! [`outside`]. What of all this is kept when a process ends, and how cores wait for it then, is
//! [`state`] and [`farewell`]; how one process takes over from another that still runs is
//! [`handover`]. All of it without I/O.
//!
//! Last the application itself ([`app`]): it ties the hub to the engine's connections, each of
//! which has a session, by the rules compiled from the plan ([`rulebook`]). What a session is
//! told is wrapped as its transport wants it ([`mod@format`]); clients without WebSocket come in by
//! event streams, and send commands by requests of their own ([`emulation`]). Cores also serve the
//! server API's publications (`calls`). What an operator may look into is [`inspect`].

pub mod account;
pub mod api;
pub mod app;
mod beside;
pub mod broker;
pub(crate) mod calls;
pub mod channels;
mod date;
pub mod delivery;
pub mod delta;
pub mod emulation;
mod entrance;
pub mod farewell;
#[cfg(test)]
mod fates;
pub mod filter;
pub mod format;
pub mod handover;
pub mod home;
pub mod hub;
mod idempotency;
pub mod inspect;
mod interned;
pub(crate) mod json;
pub mod letters;
pub mod local;
pub mod origins;
pub mod outside;
pub mod placement;
mod places;
pub mod plan;
pub mod presence;
pub mod proxy;
mod refusals;
mod repeated;
pub mod rulebook;
mod seats;
pub mod session;
pub mod state;
pub mod stats;
pub mod stream;
mod timers;
pub mod tokens;
pub mod users;
pub mod wire;
