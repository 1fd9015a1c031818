//! The client protocol and server API of `ringhold serve`, one rule after the other, over raw
//! sockets.
//!
//! Method: each test starts the program with the configuration its rules are about, sends commands
//! as text (or bytes), and compares what comes back, with code and words of every error and close.
//! Rules that are alike stand in tables. What is expected comes from the protocol's description,
//! not from this server's code.

mod support;

#[path = "gateway_protocol/api.rs"]
mod api;
#[path = "gateway_protocol/behind.rs"]
mod behind;
#[path = "gateway_protocol/channels.rs"]
mod channels;
#[path = "gateway_protocol/commands.rs"]
mod commands;
#[path = "gateway_protocol/compression.rs"]
mod compression;
#[path = "gateway_protocol/connecting.rs"]
mod connecting;
#[path = "gateway_protocol/event_streams.rs"]
mod event_streams;
#[path = "gateway_protocol/expiry.rs"]
mod expiry;
#[path = "gateway_protocol/fields.rs"]
mod fields;
#[path = "gateway_protocol/hooks.rs"]
mod hooks;
#[path = "gateway_protocol/named_hooks.rs"]
mod named_hooks;
#[path = "gateway_protocol/one_way.rs"]
mod one_way;
#[path = "gateway_protocol/order.rs"]
mod order;
#[path = "gateway_protocol/permissions.rs"]
mod permissions;
#[path = "gateway_protocol/protobuf.rs"]
mod protobuf;
#[path = "gateway_protocol/streams.rs"]
mod streams;
#[path = "gateway_protocol/transport.rs"]
mod transport;
