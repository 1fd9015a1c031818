//! The broker's thread against real servers and scripted ones, without a gateway: what the cores
//! ask is answered once, whatever happens to the connection, and what is in Redis then is what
//! Centrifugo's layout says. Likewise on NATS.
//!
//! Method: a rig stands for two cores. It asks as they do and collects what they would hear; what
//! Redis holds is looked at with `redis-cli`, and what passes through NATS with a bare connection.
//! Without `redis-server` or `nats-server` the tests say so.

mod support;

#[path = "broker_link/cluster.rs"]
mod cluster;
#[path = "broker_link/failures.rs"]
mod failures;
#[path = "broker_link/layout.rs"]
mod layout;
#[path = "broker_link/nats.rs"]
mod nats;
#[path = "broker_link/nats_scripted.rs"]
mod nats_scripted;
#[path = "broker_link/nodes.rs"]
mod nodes;
#[path = "broker_link/rig.rs"]
mod rig;
#[path = "broker_link/scripted.rs"]
mod scripted;
#[path = "broker_link/secure.rs"]
mod secure;
#[path = "broker_link/sentinel.rs"]
mod sentinel;
#[path = "broker_link/sharded.rs"]
mod sharded;
#[path = "broker_link/ways.rs"]
mod ways;
