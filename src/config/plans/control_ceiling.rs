//! The control plane's lines of the memory ceiling.

use super::control::hooks;
use crate::broker::resp::Bounds;
use crate::broker::{bus, nats};
use crate::config::{EngineType, Options, Orderer};
use crate::control::{consumers, grpc, logging, state, takeover};
use crate::engine::{Ceiling, Layout, Per};

impl Options {
    /// The most memory that a server of these options takes, whatever clients do. Not in it:
    /// answers of the API, as large as what the holder of a key asks for.
    pub fn memory_ceiling(&self, layout: &Layout) -> Ceiling {
        of_control(self, self.ceiling(layout), layout)
    }
}

fn of_control(options: &Options, mut ceiling: Ceiling, layout: &Layout) -> Ceiling {
    let server = &options.http_server;
    let internal = options.internal_address().map_or(0, |_| INTERNAL_PLACES);
    let places = u64::from(server.http_connections) + u64::from(server.http_anonymous) + internal;
    let head = options.engine.max_head.0 as u64;
    let mut add = |what, option, bytes| ceiling.add(Per::Process, what, option, bytes);
    let secure = server.speaks_tls() || server.tls_inside().is_some();
    let place = if secure { HTTP_PLACE + TLS_PLACE } else { HTTP_PLACE };
    add("HTTP connections", "http_server.http_connections", places * place);
    add("HTTP connections handed over", "engine.max_head", HANDED_OVER * (head + RECEIVED));
    let api = &options.grpc_api;
    if api.enabled {
        let places = u64::from(api.max_connections) + u64::from(api.max_anonymous);
        let place = GRPC_PLACE + TLS_PLACE + u64::from(api.max_concurrent_calls) * GRPC_CALL;
        add("gRPC connections", "grpc_api.max_connections", places * place);
    }
    add("bodies of requests", "http_server.http_bodies", server.http_bodies.0 as u64);
    if options.prometheus.enabled {
        let readers = u64::from(server.http_anonymous) + internal;
        add("pages of metrics", "http_server.http_anonymous", readers * METRICS_PAGE);
    }
    if options.engine.kind == EngineType::Redis {
        let redis = &options.engine.redis;
        let cores = layout.workers as u64;
        // Each twice: as it was asked, and as it is written.
        let bytes = cores * 2 * redis.requests_bytes.0 as u64;
        add("requests to Redis", "engine.redis.requests_bytes", bytes);
        let servers = redis.address.len() as u64;
        add("answers of Redis", "engine.redis.address", servers * 2 * REPLY);
    }
    if options.orderer() == Orderer::Nats {
        let bytes = layout.workers as u64 * 2 * options.broker.nats.requests_bytes.0 as u64;
        add("requests to NATS", "broker.nats.requests_bytes", bytes);
        add("messages of NATS", "broker.nats.url", MESSAGE);
    }
    if options.orderer() != Orderer::Process {
        // What is sent is there twice: as it waits, and as it is written.
        let control = 2 * bus::OUTGOING_BYTES + bus::INCOMING_BYTES + bus::ANSWERS_BYTES;
        add("messages of nodes", "", control as u64);
    }
    let streams = options.consumers.iter().filter(|consumer| consumer.reads_redis());
    let streams: u64 = streams.map(|it| it.redis_stream.streams.len() as u64).sum();
    if streams > 0 {
        // As it comes, as values, and as requests.
        add("streams of consumers", "consumers", streams * 3 * REPLY);
    }
    let outboxes = options.consumers.iter().filter(|consumer| consumer.reads_postgresql());
    let connections = outboxes.filter_map(|it| {
        let partitions = it.postgresql.num_partitions;
        it.postgresql.server().ok().map(|server| u64::from(server.connections.min(partitions)))
    });
    let connections: u64 = connections.sum();
    if connections > 0 {
        // A payload as it comes, those that are read, and one as a request.
        add("outboxes of consumers", "consumers", connections * 4 * consumers::OUTBOX_BYTES);
    }
    let hooks = hooks(options);
    let asked: u64 = hooks.iter().map(|(_, hook)| hook.max_memory as u64).sum();
    if asked > 0 {
        add("questions to the backend", "a proxy's max_memory", asked);
    }
    let feeds: u64 = hooks
        .iter()
        .filter(|(_, hook)| hook.max_streams > 0)
        // What waits on either way, what the connection may have unread, and the streams.
        .map(|(_, hook)| {
            2 * hook.max_memory as u64 + FEEDS_WINDOW + hook.max_streams as u64 * FEED_PLACE
        })
        .sum();
    if feeds > 0 {
        add("streams of subscriptions", "a proxy's max_streams", feeds);
    }
    add("the log", "", logging::QUEUE_BYTES as u64);
    if options.keep_settings().file.is_some() {
        let bytes = layout.workers as u64 * state::CORE_BYTES;
        add("channels on their way into the next process", "shutdown.state_path", bytes);
    }
    if options.takeover_path().is_some() {
        // What comes of the process before lies beside what was mirrored until it is whole.
        let cores = layout.workers as u64;
        let bytes = cores * options.engine.max_history.0 as u64;
        add("histories that are taken over", "engine.max_history", bytes);
        add("words between processes", "shutdown.takeover_path", takeover::bytes(cores));
    }
    ceiling
}

/// Buffers of an HTTP connection, and a body so small that it does not count elsewhere.
const HTTP_PLACE: u64 = (32 + 64) << 10;

/// Windows and buffers of a connection of gRPC, and of each call: its metadata, and a message so
/// small that it does not count elsewhere, twice.
const GRPC_PLACE: u64 = (256 + 64) << 10;
const GRPC_CALL: u64 = (8 + 2 * 4 + 4) << 10;

/// With TLS: a record on each way, and what a handshake may hold.
const TLS_PLACE: u64 = (2 * 18 + 32) << 10;

/// A stream of a subscription: its task, what HTTP/2 keeps of it, and the piece that came last.
const FEED_PLACE: u64 = 24 << 10;

const FEEDS_WINDOW: u64 = grpc::FEEDS_WINDOW as u64;

/// Connections of the internal port.
const INTERNAL_PLACES: u64 = 256 + 64;

/// Connections between the engine and the control plane, and what was received on each.
const HANDED_OVER: u64 = 1024;
const RECEIVED: u64 = 64 << 10;

/// The longest answer of Redis, one per connection.
const REPLY: u64 = Bounds::MAX.bytes as u64;

/// The longest message of NATS.
const MESSAGE: u64 = nats::MESSAGE_MAX as u64;

/// A page of metrics until it is taken.
const METRICS_PAGE: u64 = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Server;
    use crate::config::{Consumer, Sources};
    use crate::options::{Secret, Size};

    type Change = fn(&mut Options);

    fn total(options: &Options) -> u64 {
        let layout = Layout { workers: 2, table: 20_000, connections: 10_000 };
        options.memory_ceiling(&layout).total()
    }

    #[test]
    fn each_key_that_bounds_memory_counts() {
        let before = total(&Options::default());
        let changes: [(&str, Change); 15] = [
            ("broker.nats.requests_bytes", |o| {
                (o.broker.enabled, o.broker.kind) = (true, "nats".to_owned());
                o.broker.nats.requests_bytes = Size(1 << 40);
            }),
            ("max_inbound", |o| o.engine.max_inbound = Size(1 << 40)),
            ("max_outboxes", |o| o.engine.max_outboxes = Size(1 << 40)),
            ("mailbox_bytes", |o| o.engine.mailbox_bytes = Size(1 << 40)),
            ("max_history", |o| o.engine.max_history = Size(1 << 40)),
            ("max_filters", |o| o.engine.max_filters = Size(1 << 40)),
            ("max_session_memory", |o| o.client.plan.max_session_memory = Size(1 << 40)),
            ("http_connections", |o| o.http_server.http_connections = 1 << 30),
            ("http_anonymous", |o| o.http_server.http_anonymous = 1 << 30),
            ("http_bodies", |o| o.http_server.http_bodies = Size(1 << 40)),
            ("consumers", |o| {
                o.consumers.push(Consumer {
                    enabled: true,
                    kind: "redis_stream".to_owned(),
                    ..Consumer::default()
                });
                o.consumers[0].redis_stream.streams = vec![String::new(); 1 << 16];
            }),
            ("grpc_api.max_connections", |o| {
                o.grpc_api.enabled = true;
                o.grpc_api.max_connections = 1 << 30;
            }),
            ("max_waiting", |o| {
                o.sse.enabled = true;
                o.emulation.max_waiting = Size(1 << 40);
            }),
            ("a proxy's max_memory", |o| {
                o.client.proxy.connect.enabled = true;
                o.client.proxy.connect.proxy.endpoint = "http://127.0.0.1:1/".to_owned();
                o.client.proxy.connect.proxy.max_memory = Size(1 << 40);
            }),
            ("max_head", |o| o.engine.max_head = Size(1 << 40)),
        ];
        for (key, change) in changes {
            let mut options = Options::default();
            change(&mut options);
            assert!(total(&options) > before + (1 << 40), "{key}");
        }
    }

    #[test]
    fn connections_for_outboxes_count() {
        let mut options = Options::default();
        let before = total(&options);
        let mut consumer =
            Consumer { enabled: true, kind: "postgresql".to_owned(), ..Consumer::default() };
        consumer.postgresql.num_partitions = 100;
        consumer.postgresql.dsn = Secret::new("postgres://a/b?pool_max_conns=20");
        options.consumers.push(consumer);
        assert!(total(&options) >= before + ((20 * 4 * 16) << 20));
    }

    #[test]
    fn a_ceiling_without_limit_is_none() {
        let mut options = Options::default();
        options.client.plan.max_session_memory = Size(0);
        assert_eq!(total(&options), u64::MAX);
    }

    #[test]
    fn the_small_server_of_the_docs_is_small() {
        let docs = include_str!("../../../docs/limits.md");
        let (_, toml) = docs.split_once("```toml check\n").unwrap();
        let (toml, _) = toml.split_once("```").unwrap();
        let sources = Sources {
            file: Some("limits.toml".into()),
            variables: Default::default(),
            sets: Vec::new(),
        };
        let options = Options::from_text(&sources, toml).unwrap().options;
        let layout = Server::builder().config(options.engine_config()).layout().unwrap();
        let ceiling = options.memory_ceiling(&layout);
        assert!(ceiling.total() < 512 << 20, "{ceiling}");
    }
}
