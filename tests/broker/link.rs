//! The broker's thread against real servers and scripted ones, without a gateway: what the cores
//! ask is answered once, whatever happens to the connection, and what is in Redis then is what
//! Centrifugo's layout says. Likewise on NATS.
//!
//! Method: a rig stands for two cores. It asks as they do and collects what they would hear; what
//! Redis holds is looked at with `redis-cli`, and what passes through NATS with a bare connection.
//! Without `redis-server` or `nats-server` the tests say so.

mod cluster;
mod failures;
mod layout;
mod nats;
mod nats_scripted;
mod nodes;
mod rig;
mod scripted;
mod secure;
mod sentinel;
mod sharded;
mod ways;
