//! The gateway without sockets, on clocks that a test moves: beside models, and session by session.
//! `session_model` and `simulation` are programs of their own.

#[path = "../support/mod.rs"]
mod support;

mod broker_model;
mod gateway_model;
mod gateway_session;
