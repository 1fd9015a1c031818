//! Several nodes on one broker: the servers themselves, and their scripted likenesses (`link`).

#[path = "../support/mod.rs"]
mod support;

mod cluster;
mod link;
mod nats;
mod redis;
mod sentinel;
