//! The keys, section by section, with Centrifugo's names: types, defaults and what each means.
//!
//! A section knows the generic reader and no other section but those that stand in it; what needs
//! several is beside this folder.

pub(super) mod admin;
pub(super) mod broker;
pub(super) mod channel;
pub(super) mod client;
pub(super) mod consumers;
pub(super) mod engine;
pub(super) mod grpc_api;
pub(super) mod health;
pub(super) mod http_api;
pub(super) mod http_server;
pub(super) mod log;
pub(super) mod node;
pub(super) mod postgresql;
pub(super) mod prometheus;
pub(super) mod proxies;
pub(super) mod redis;
pub(super) mod redis_address;
pub(super) mod rpc;
pub(super) mod shutdown;
pub(super) mod streams;
pub(super) mod tls;
pub(super) mod websocket;
