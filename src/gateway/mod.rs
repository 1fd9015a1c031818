//! The application that `ringhold serve` runs: a push gateway that speaks the Centrifugo client
//! protocol and server API, so that existing SDKs and backends use it unchanged.
//!
//! First the parts that know no connection and no core: what the gateway is told ([`plan`], which
//! the configuration fills, so that it is above), what a channel's name says and who may do what
//! ([`channels`]), tokens ([`tokens`]), what travels ([`wire`]), which publications a subscriber
//! wants ([`filter`]), how a payload is told as the difference to the one before ([`delta`]), what
//! an application's backend asks for ([`api`]) and is asked ([`hooks`]), what memory costs
//! ([`account`]), and what is counted ([`stats`]).
//!
//! Then the channels ([`hub`]). Each has one home core, chosen by a hash of its name
//! ([`placement`]), which orders everything that happens in it: its history ([`stream`]), who is in
//! it ([`presence`]), which cores have subscribers ([`home`]). Each core knows its own subscribers
//! ([`local`]) and users ([`users`]). Cores talk by [`letters`]; what the hub needs from outside is
//! [`hub_port`]. What of all this is kept when a process ends, and how cores wait for it then, is
//! [`state`] and [`farewell`]; how one process takes over from another that still runs is
//! [`handover`]. All of it without I/O.
//!
//! Then the sessions ([`session`]), one for each connection, by the rules compiled from the plan
//! ([`rulebook`]): a machine without I/O, which takes in what happens and acts through a port. What
//! a session is told is wrapped as its transport wants it ([`mod@format`]).
//!
//! Last the application itself ([`app`]): the engine's handler, which passes on what happens; the
//! machine's port on the engine is `engine_port`. Clients without WebSocket come in by event
//! streams, and send commands by requests of their own (`entrance`, [`emulation`]). Cores also
//! serve the server API's publications (`calls`). What an operator may look into is [`inspect`].
//!
//! It all points one way, `app` → `session` → `hub`, and comes back by two ports. What the hub
//! tells a session while it works (`HubPort`) is said at once, or, if it needs the hub again,
//! deferred in one list; `Sessions::step`, through which everything comes in, works that off.
//!
//! A publication, of a client of one core, in a channel whose home is another, to a subscriber on a
//! third. Where cores are the same, letters are calls.
//!
//! ```text
//! the client's core  engine ── on_message ─► app ─► step ─► command ─► publish ─► Hub::ask
//!                                                                                  │ Ask
//! the home core      engine ── on_event ──► app ─► step ─► Hub::letter ◄───────────┘
//!                                                     └─► Home::publish ─► Hub::fan_out
//!                                                               │ Answer       │ Deliver
//! a subscriber's     engine ── on_event ──► app ─► step ─► Hub::letter ◄───────┘
//!                                                     └─► Locals::deliver (filter, delta)
//!                    engine ◄── Port::send ◄── send_at ◄── HubPort ◄──┘
//!
//! the client's core  engine ── on_event ──► app ─► step ─► Hub::letter ◄── Answer
//!                    engine ◄── Port::send_message ◄── reply ◄── HubPort ◄──┘
//! ```
//!
//! By the server API the first line is `on_http ─► calls`, and the last `Port::answer_call`.
//!
//! A connect, with a token or by the backend, and with a limit of connections:
//!
//! ```text
//! engine ── on_upgrade ─► Entrance::upgrade       path, origin: the session is made
//! engine ── on_open ────► step ─► begin           in the table, with a deadline
//! engine ── on_message ─► step ─► connect ─► identify ──── token ────────────► admit
//!                                               └─► Port::ask_backend            │
//! engine ── on_event ───► step ─► backend_answered ──────────────────────────► admit
//!                                                                                │
//!           Hub::connect, Hub::enter ◄───────────────────────────────────────────┘
//!              └─ Enter ─► the user's home core ─ Entered ─► HubPort ─► Deferred::Entered
//!                                                                                │
//!           step ─► seat ◄───────────────────────────────────────────────────────┘
//!                    └─► Hub::subscribe, once for each server-side subscription
//!                           └─ Subscribed ─► HubPort ─► connect_part ─► finish_connect
//! engine ◄── Port::send_secret (the reply), then what had to follow it ◄──┘
//! ```

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
mod engine_port;
mod entrance;
pub mod farewell;
#[cfg(test)]
mod fates;
pub mod filter;
pub mod format;
pub mod handover;
pub mod home;
pub mod hooks;
pub mod hub;
pub mod hub_port;
mod idempotency;
pub mod inspect;
mod interned;
pub(crate) mod json;
pub mod letters;
pub mod local;
pub mod origins;
pub mod placement;
mod places;
pub mod plan;
pub mod presence;
mod refusals;
mod repeated;
pub mod rulebook;
mod seats;
pub mod session;
pub mod state;
pub mod stats;
pub mod stream;
pub mod tokens;
pub mod users;
pub mod wire;
