//! The gateway: the client protocol, the server API, hooks, consumers, the admin page.

#[path = "../support/mod.rs"]
mod support;

mod admin;
mod admin_address;
mod admin_http;
mod calls;
mod consumers;
mod fake;
mod feeds;
mod grpc;
mod hooks;
mod http;
mod http_sockets;
mod postgresql;
mod protocol;
mod wire_properties;
