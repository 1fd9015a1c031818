//! Sessions of the gateway, rule by rule, without sockets: cores on the thread of the test, a
//! backend that answers when the test says so, and clocks that only the test moves.
//!
//! Method: `site` is a gateway in the engine's world of memory (`ringhold::testing`), with clients
//! that send commands as text and look at what came back. Whatever needs time passes it, so
//! deadlines are exact; whatever needs an order has it, since nothing happens by itself.

mod between;
mod expiry;
mod feeds;
mod opening;
mod order;
mod refusals;
mod renewing;
mod site;
mod streams;
mod telling;
