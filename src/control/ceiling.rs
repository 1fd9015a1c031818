//! What the control plane takes at most: its lines of the memory ceiling.

use super::{logging, settings};
use crate::engine::{Ceiling, Layout, Per};
use crate::gateway::options::Options;

/// The most memory that a server of these options takes, whatever clients do. Not in it: answers of
/// the API, as large as what the holder of a key asks for.
pub fn ceiling(options: &Options, layout: &Layout) -> Ceiling {
    let mut ceiling = options.ceiling(layout);
    let server = &options.http_server;
    let internal = settings::internal_address(options).map_or(0, |_| INTERNAL_PLACES);
    let places = u64::from(server.http_connections) + u64::from(server.http_anonymous) + internal;
    let head = options.engine.max_head.0 as u64;
    let mut add = |what, option, bytes| ceiling.add(Per::Process, what, option, bytes);
    add("HTTP connections", "http_server.http_connections", places * HTTP_PLACE);
    add("HTTP connections handed over", "engine.max_head", HANDED_OVER * (head + RECEIVED));
    add("bodies of requests", "http_server.http_bodies", server.http_bodies.0 as u64);
    if options.prometheus.enabled {
        let readers = u64::from(server.http_anonymous) + internal;
        add("pages of metrics", "http_server.http_anonymous", readers * METRICS_PAGE);
    }
    let hooks: u64 =
        settings::hooks(options).iter().map(|(_, _, hook)| hook.max_memory as u64).sum();
    if hooks > 0 {
        add("questions to the backend", "a proxy's max_memory", hooks);
    }
    add("the log", "", logging::QUEUE_BYTES as u64);
    ceiling
}

/// Buffers of an HTTP connection, and a body so small that it does not count elsewhere.
const HTTP_PLACE: u64 = (32 + 64) << 10;

/// Connections of the internal port.
const INTERNAL_PLACES: u64 = 256 + 64;

/// Connections between the engine and the control plane, and what was received on each.
const HANDED_OVER: u64 = 1024;
const RECEIVED: u64 = 64 << 10;

/// A page of metrics until it is taken.
const METRICS_PAGE: u64 = 256 << 10;
