//! Sessions of the gateway, rule by rule, without sockets: cores on the thread of the test, a
//! backend that answers when the test says so, and clocks that only the test moves.
//!
//! Method: `site` is a gateway in the engine's world of memory (`ringhold::testing`), with clients
//! that send commands as text and look at what came back. Whatever needs time passes it, so
//! deadlines are exact; whatever needs an order has it, since nothing happens by itself.

mod support;

#[path = "gateway_session/between.rs"]
mod between;
#[path = "gateway_session/expiry.rs"]
mod expiry;
#[path = "gateway_session/feeds.rs"]
mod feeds;
#[path = "gateway_session/opening.rs"]
mod opening;
#[path = "gateway_session/order.rs"]
mod order;
#[path = "gateway_session/refusals.rs"]
mod refusals;
#[path = "gateway_session/renewing.rs"]
mod renewing;
#[path = "gateway_session/site.rs"]
mod site;
#[path = "gateway_session/streams.rs"]
mod streams;
#[path = "gateway_session/telling.rs"]
mod telling;
