//! Stories of failure, as operators tell them: who did what, and what must not happen to others.

#[path = "../support/stories/mod.rs"]
mod stories;
#[path = "../support/mod.rs"]
mod support;

mod connect_storm;
mod heartbeats;
mod large_payload;
mod missing_client;
mod timeout_loop;
mod zombie_stream;
