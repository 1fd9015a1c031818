//! The configuration: one typed tree with Centrifugo's section and key names, so that its users
//! translate a file by copying; what is ours alone is in `engine` and marked elsewhere.
//!
//! Sources from weakest to strongest: defaults, a file (TOML, or JSON or YAML by its extension),
//! environment variables, flags. Every mistake of a source is reported in one go, with its line and
//! key. An unknown key is a mistake, since a setting that is not heard must not look as if it were.
//!
//! The configuration is above all layers. `plans` compiles it into values of each layer's own
//! types; structs that a layer reads as they stand (`gateway::plan`) live in that layer, and
//! `sections` gives their fields keys. So no layer below names a key or this tree, and no layer
//! reaches the values of another. `schema` reads any tree and knows no key; `explain` adds advice
//! about unknown keys. `tests/tidy.rs` checks the directions.

mod backends;
mod check;
mod explain;
mod load;
mod orderer;
mod plans;
mod reload;
mod schema;
mod sections;
mod zeros;

pub use load::{LoadError, Loaded, Sources, stdin_name};
pub use orderer::Orderer;
pub use schema::node::Location;
pub use schema::reader::{Mistake, Mistakes};
pub use schema::values::LONGEST;
pub use sections::admin::Admin;
pub use sections::broker::{Broker, Nats, NatsRawMode};
pub use sections::channel::Channel;
pub use sections::client::Client;
pub use sections::consumers::{Consumer, RedisStream, StreamPublications};
pub use sections::engine::{Engine, EngineType, IoChoice, RatePolicyChoice};
pub use sections::grpc_api::GrpcApi;
pub use sections::health::Health;
pub use sections::http_api::{ErrorMode, HttpApi};
pub use sections::http_server::{HttpServer, ProxyProtocol};
pub use sections::log::{Log, LogFormat};
pub use sections::node::Node;
pub use sections::postgresql::{KeyPairSource, PgHost, PgServer, PgTls, Postgresql};
pub use sections::prometheus::Prometheus;
pub use sections::proxies::{
    ChannelProxies, ClientProxies, EnabledProxy, NamedProxy, Proxy, ProxyGrpc, ProxyHttp, ProxyTls,
    StatusTransform, ToError,
};
pub use sections::redis::{Failover, Redis, RedisTls};
pub use sections::redis_address::AddressFault;
pub use sections::rpc::Rpc;
pub use sections::shutdown::Shutdown;
pub use sections::tls::{Certificate, Tls, TlsAutocert, TlsRecordLayer, TlsVersion};

use crate::gateway::plan::{
    Emulation, HttpStream, Sse, UniHttpStream, UniSse, UniWebSocket, WebSocket,
};
use schema::{Field as _, Secrets, section};

section! {
    /// Everything that can be configured. [`Options::default`] is what an empty file means: nothing
    /// unauthenticated, nothing allowed.
    pub struct Options {
        /// Where to listen.
        http_server: HttpServer = HttpServer::default(),
        /// What connections may do.
        client: Client = Client::default(),
        /// Names, namespaces and what is allowed in them.
        channel: Channel = Channel::default(),
        /// Remote procedure calls.
        rpc: Rpc = Rpc::default(),
        /// Backends by name, for namespaces that do not ask the one of `channel.proxy` or
        /// `rpc.proxy`.
        proxies: Vec<NamedProxy> = Vec::new(),
        /// The API for the application's backend.
        http_api: HttpApi = HttpApi::default(),
        /// The same over gRPC.
        grpc_api: GrpcApi = GrpcApi::default(),
        /// The WebSocket transport.
        websocket: WebSocket = WebSocket::default(),
        /// Event streams, for clients without WebSocket.
        sse: Sse = Sse::default(),
        /// HTTP streams, likewise.
        http_stream: HttpStream = HttpStream::default(),
        /// Where clients of both send their commands.
        emulation: Emulation = Emulation::default(),
        /// One-way event streams.
        uni_sse: UniSse = UniSse::default(),
        /// One-way HTTP streams.
        uni_http_stream: UniHttpStream = UniHttpStream::default(),
        /// One-way WebSockets.
        uni_websocket: UniWebSocket = UniWebSocket::default(),
        /// Metrics.
        prometheus: Prometheus = Prometheus::default(),
        /// Whether the server lives and is ready.
        health: Health = Health::default(),
        /// The page for operators.
        admin: Admin = Admin::default(),
        /// How the server goes away.
        shutdown: Shutdown = Shutdown::default(),
        /// Logs.
        log: Log = Log::default(),
        /// Where requests of the API come from, besides the backend that calls it.
        consumers: Vec<Consumer> = Vec::new(),
        /// How this server is called.
        node: Node = Node::default(),
        /// A file for the number of the process. A relative name starts at the configuration file.
        pid_file: String = String::new(),
        /// Workers, limits and deadlines of the engine. Ours.
        engine: Engine = Engine::default(),
        /// Through what publications pass, if not through the engine.
        broker: Broker = Broker::default(),
    }
}

impl Options {
    /// Whether plain requests are answered with streams.
    pub fn has_streams(&self) -> bool {
        self.sse.enabled
            || self.http_stream.enabled
            || self.uni_sse.enabled
            || self.uni_http_stream.enabled
    }

    /// All of it as TOML, with secrets masked.
    pub fn to_toml(&self) -> String {
        // Every value here came from a type that TOML has.
        toml::to_string_pretty(&self.show(Secrets::Masked)).unwrap_or_default()
    }
}

/// A commented file with every key and its default, for a person to start from.
pub const EXAMPLE: &str = include_str!("example.toml");

#[cfg(test)]
mod tests;
