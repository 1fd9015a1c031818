//! Sections about the server as a whole: listeners, APIs, transport, operation, engine.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::field::section;
use super::redis::Redis;
use super::tables::tables;
use super::tls::{Tls, TlsAutocert};
use super::values::{Secret, Size, choice};
use crate::protocol::Network;

section! {
    /// `http_server`: where to listen.
    pub struct HttpServer {
        /// Address of the public listener. Empty: all addresses.
        address: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST),
        /// Its port; 0 takes a free one.
        port: u16 = 8000,
        /// Address of the internal listener.
        internal_address: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST),
        /// Its port: the server API, metrics, health and the admin page move there from the public
        /// one. 0: there is none.
        internal_port: u16 = 0,
        /// TLS on the public port, and on the internal one unless `tls_external` or `internal_tls`
        /// says otherwise.
        tls: Tls = Tls::default(),
        /// TLS on the public port only.
        tls_external: bool = false,
        /// TLS on the internal port, with other certificates.
        internal_tls: Tls = Tls::default(),
        /// Certificates of the public port that an authority issues by itself.
        tls_autocert: TlsAutocert = TlsAutocert::default(),
        /// Reverse proxies that are believed about the clients behind them, as addresses and
        /// blocks. Ours, like the next two.
        trusted_proxies: Vec<Network> = Vec::new(),
        /// Believe `X-Forwarded-For` from them.
        forwarded_for: bool = false,
        /// Believe the PROXY protocol from them.
        proxy_protocol: ProxyProtocol = ProxyProtocol::Off,
        /// HTTP connections of the public port at once whose clients have shown a key or a session.
        /// Ours, like the next two.
        http_connections: u32 = 1024,
        /// The same of all other clients.
        http_anonymous: u32 = 256,
        /// Bytes that the bodies of requests to the server API hold together; one more is answered
        /// with 503.
        http_bodies: Size = Size(64 << 20),
    }
}

impl HttpServer {
    /// Whether the public port speaks TLS.
    pub fn speaks_tls(&self) -> bool {
        self.tls.enabled || self.tls_autocert.enabled
    }

    /// The internal port's TLS, if it has any.
    pub fn tls_inside(&self) -> Option<&Tls> {
        let of_both = Some(&self.tls).filter(|tls| tls.enabled && !self.tls_external);
        Some(&self.internal_tls).filter(|tls| tls.enabled).or(of_both)
    }
}

choice! {
    /// Whether connections to the public port begin with a header of the PROXY protocol.
    pub enum ProxyProtocol {
        /// They do not.
        Off = "off",
        /// Those of trusted proxies may.
        Optional = "optional",
        /// All do; one without is refused.
        Required = "required",
    }
}

section! {
    /// `http_api`: the API for the application's backend.
    pub struct HttpApi {
        /// Do not serve it.
        disabled: bool = false,
        /// Path it is below.
        handler_prefix: String = "/api".to_owned(),
        /// Key that requests must carry. Empty: all are refused, unless `insecure`.
        key: Secret = Secret::default(),
        /// No key needed: whoever reaches the port may publish.
        insecure: bool = false,
        /// Errors as a 200 with an error object, or as HTTP statuses.
        error_mode: ErrorMode = ErrorMode::Default,
        /// Serve it on the public port also where there is an internal one.
        external: bool = false,
    }
}

section! {
    /// `grpc_api`: the same API over gRPC, on a port of its own.
    pub struct GrpcApi {
        /// Serve it.
        enabled: bool = false,
        /// Address it is at. Empty: all addresses.
        address: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST),
        /// Its port.
        port: u16 = 10_000,
        /// Key that calls must carry: metadata `authorization: apikey KEY`.
        key: Secret = Secret::default(),
        /// No key needed: whoever reaches the port may publish. Ours.
        insecure: bool = false,
        /// Errors in responses, or as statuses of gRPC.
        error_mode: ErrorMode = ErrorMode::Default,
        /// TLS on that port.
        tls: Tls = Tls::default(),
        /// Tell whoever asks which services and messages there are.
        reflection: bool = false,
        /// Bytes of a message; a longer one gets `RESOURCE_EXHAUSTED`. 0: 4 MiB.
        max_receive_message_size: Size = Size(0),
        /// Connections at once whose clients have shown the key, and others. Ours, like the next
        /// two.
        max_connections: u32 = 128,
        /// Connections at once of clients that have not.
        max_anonymous: u32 = 32,
        /// Calls of one connection at once; its client waits with one more.
        max_concurrent_calls: u32 = 100,
    }
}

impl GrpcApi {
    /// Bytes of a message.
    pub fn message_max(&self) -> usize {
        match self.max_receive_message_size.0 {
            0 => GRPC_MESSAGE,
            size => size,
        }
    }
}

/// What gRPC takes where nothing is said.
const GRPC_MESSAGE: usize = 4 << 20;

choice! {
    /// How the server API tells an error.
    pub enum ErrorMode {
        /// 200 and an error object.
        Default = "" | "custom",
        /// An HTTP status.
        Transport = "transport",
    }
}

section! {
    /// `websocket`: the WebSocket transport.
    pub struct WebSocket {
        /// Do not serve it.
        disabled: bool = false,
        /// Path it is at.
        handler_prefix: String = "/connection/websocket".to_owned(),
        /// Bytes of one received message; a longer one closes with 1009.
        message_size_limit: Size = Size(65_536),
        /// A peer must take a byte of what waits for it in this time; then it is cut.
        write_timeout: Duration = Duration::from_secs(1),
        /// Compress messages for clients that offer it (permessage-deflate).
        compression: bool = false,
        /// Bytes of the shortest message that is compressed.
        compression_min_size: Size = Size(256),
        /// 1 to 9: the higher, the shorter and the slower.
        compression_level: u8 = 3,
        /// Bytes that a received message may be inflated to; more closes with 1009. 0:
        /// `message_size_limit`, which is also the most.
        decompressed_message_size_limit: Size = Size(0),
    }
}

section! {
    /// `sse`: event streams with commands by `/emulation`.
    pub struct Sse {
        /// Serve them.
        enabled: bool = false,
        /// Path they are at.
        handler_prefix: String = "/connection/sse".to_owned(),
        /// Bytes of a request's body; a longer one is answered with 413.
        max_request_body_size: Size = Size(65_536),
    }
}

section! {
    /// `http_stream`: HTTP responses that go on, with commands by `/emulation`.
    pub struct HttpStream {
        /// Serve them.
        enabled: bool = false,
        /// Path they are at.
        handler_prefix: String = "/connection/http_stream".to_owned(),
        /// Bytes of a request's body; a longer one is answered with 413.
        max_request_body_size: Size = Size(65_536),
    }
}

section! {
    /// `emulation`: commands of clients that listen to a stream. Served where `sse` or
    /// `http_stream` is.
    pub struct Emulation {
        /// Path it is at.
        handler_prefix: String = "/emulation".to_owned(),
        /// Bytes of a request's body; a longer one is answered with 413.
        max_request_body_size: Size = Size(65_536),
        /// Bytes of such bodies that wait for their sessions; more is answered with 503. Ours.
        max_waiting: Size = Size(16 << 20),
    }
}

section! {
    /// `uni_sse`: one-way event streams.
    pub struct UniSse {
        /// Serve them.
        enabled: bool = false,
        /// Path they are at.
        handler_prefix: String = "/connection/uni_sse".to_owned(),
        /// Bytes of a request's body; a longer one is answered with 413.
        max_request_body_size: Size = Size(65_536),
        /// What errors of the connect request are answered with, before the stream begins. Off:
        /// they are told in the stream, which is there at once.
        connect_code_to_http_response: ConnectResponses = ConnectResponses::default(),
    }
}

section! {
    /// `uni_http_stream`: one-way HTTP responses that go on.
    pub struct UniHttpStream {
        /// Serve them.
        enabled: bool = false,
        /// Path they are at.
        handler_prefix: String = "/connection/uni_http_stream".to_owned(),
        /// Bytes of a request's body; a longer one is answered with 413.
        max_request_body_size: Size = Size(65_536),
        /// What errors of the connect request are answered with, before the stream begins. Off:
        /// they are told in the stream, which is there at once.
        connect_code_to_http_response: ConnectResponses = ConnectResponses::default(),
    }
}

section! {
    /// Answers of HTTP to connect requests that fail.
    pub struct ConnectResponses {
        /// Answer with them; what no transform is for with 500.
        enabled: bool = false,
        /// By error or disconnect code; the first that fits holds.
        transforms: Vec<ConnectResponse> = Vec::new(),
    }
}

section! {
    /// The answer for one code.
    pub struct ConnectResponse {
        /// The code of an error or disconnect.
        code: u32 = 0,
        /// The answer.
        to: ToResponse = ToResponse::default(),
    }
}

tables!(ConnectResponse);

section! {
    /// An answer of HTTP.
    pub struct ToResponse {
        /// Its status.
        status_code: u16 = 0,
        /// Its text. Empty: the message of the error.
        body: String = String::new(),
    }
}

impl ConnectResponses {
    /// Status and text for a code.
    pub(crate) fn of(&self, code: u32) -> Option<(u16, &str)> {
        let found = self.transforms.iter().find(|known| known.code == code)?;
        Some((found.to.status_code, &found.to.body))
    }
}

section! {
    /// `uni_websocket`: one-way WebSockets.
    pub struct UniWebSocket {
        /// Serve them.
        enabled: bool = false,
        /// Path they are at.
        handler_prefix: String = "/connection/uni_websocket".to_owned(),
        /// Compress messages for clients that offer it (permessage-deflate).
        compression: bool = false,
        /// Bytes of the shortest message that is compressed.
        compression_min_size: Size = Size(256),
        /// 1 to 9: the higher, the shorter and the slower.
        compression_level: u8 = 3,
    }
}

section! {
    /// `prometheus`: metrics.
    pub struct Prometheus {
        /// Serve them.
        enabled: bool = false,
        /// Path they are at.
        handler_prefix: String = "/metrics".to_owned(),
        /// Tell them under Centrifugo's names, too, where it has the same figure. Ours.
        centrifugo_names: bool = false,
    }
}

section! {
    /// `health`: whether the server is well (`/health`), takes new connections (`/ready`) and lives
    /// (`/live`).
    pub struct Health {
        /// Serve it.
        enabled: bool = false,
        /// Path of the first.
        handler_prefix: String = "/health".to_owned(),
    }
}

section! {
    /// `admin`: the page that shows what the server does, and its API.
    pub struct Admin {
        /// Serve it. Needs a password.
        enabled: bool = false,
        /// Path it is below; the page is at `admin/` there. Empty: the root.
        handler_prefix: String = String::new(),
        /// What an operator logs in with.
        password: Secret = Secret::default(),
        /// What sessions are signed with. Empty: something random, so that a restart ends them.
        secret: Secret = Secret::default(),
        /// Serve it on the public port also where there is an internal one.
        external: bool = false,
    }
}

section! {
    /// `shutdown`: how the server goes away.
    pub struct Shutdown {
        /// Readiness says no for so long before listeners close, so that load balancers send no
        /// more clients. Ours.
        delay: Duration = Duration::ZERO,
        /// What is left after this time is cut.
        timeout: Duration = Duration::from_secs(30),
        /// Spread the closes (3001) evenly over this time, so that clients do not all come back at
        /// once. Ours.
        drain_window: Duration = Duration::ZERO,
        /// Where channels are kept over a restart: written in the end, read at the start. Empty:
        /// `state` in the folder that systemd gives (`StateDirectory=`), if it gives one; `none`:
        /// nowhere. A relative name starts at the configuration file. Ours.
        state_path: String = String::new(),
        /// Bytes of that file at most. Publications that find no room are not kept; positions are
        /// as long as they do. Ours.
        state_max_size: Size = Size(1 << 30),
        /// A file that was written longer ago is not read. Ours.
        state_max_age: Duration = Duration::from_secs(3600),
        /// The unix socket at which a process started with `--takeover` takes channels over. Empty:
        /// `takeover` in the folder that systemd gives (`RuntimeDirectory=`), if it gives one;
        /// `none`: nowhere. A relative name starts at the configuration file. Ours.
        takeover_path: String = String::new(),
    }
}

section! {
    /// `node`: how this server is called.
    pub struct Node {
        /// Its name in the answer to `info`. Empty: where it listens.
        name: String = String::new(),
    }
}

section! {
    /// `log`: logs on standard error, or in a file.
    pub struct Log {
        /// `error`, `warn`, `info`, `debug`, `trace` or `none`; or per module as in
        /// `info,ringhold::engine=debug`. `--log` and `RINGHOLD_LOG` are stronger.
        level: String = "info".to_owned(),
        /// One line of text per event, or one JSON object. Ours.
        format: LogFormat = LogFormat::Text,
        /// A file that lines are added to, instead of standard error. SIGHUP opens it anew, after
        /// it was moved aside. A relative name starts at the configuration file.
        file: String = String::new(),
    }
}

choice! {
    /// How a line of the log is written.
    pub enum LogFormat {
        /// For people.
        Text = "text",
        /// For collectors of logs.
        Json = "json",
    }
}

impl Log {
    /// The level as `tracing` filters understand it.
    pub fn filter(&self) -> &str {
        match self.level.as_str() {
            "none" => "off",
            level => level,
        }
    }
}

section! {
    /// `engine`: where channels live; workers, limits and deadlines. All of it ours, but `type` and
    /// `redis`.
    pub struct Engine {
        /// Where channels live.
        kind as "type": EngineType = EngineType::Memory,
        /// The Redis that orders them.
        redis: Redis = Redis::default(),
        /// Worker threads. 0: one per processor, or as many as the limit of open files demands.
        workers: usize = 0,
        /// Bind each worker to a processor.
        pin: bool = false,
        /// The way into the kernel.
        io: IoChoice = IoChoice::Auto,
        /// Connections over all workers; one more is answered with 503. 0: what the limit of open
        /// files (ulimit -n) allows.
        max_connections: u32 = 0,
        /// Connections per worker from one IPv4 address or IPv6 /64. 0: no limit.
        max_per_address: u32 = 0,
        /// Accepts per second and worker. 0: no limit.
        accept_rate: u32 = 0,
        /// Length of each worker's accept queue, capped by net.core.somaxconn.
        backlog: u32 = 65_535,
        /// Seconds that a client answered with 503 is told to wait.
        retry_after: u32 = 5,
        /// Time for the opening handshake; then 408.
        handshake_timeout: Duration = Duration::from_secs(10),
        /// Bytes of a request head; one more is answered with 431.
        max_head: Size = Size(8 * 1024),
        /// Fragments of one message; one more closes with 1009.
        max_fragments: u32 = 4096,
        /// Memory for what is received and not complete, per worker; beyond it the largest, then
        /// the oldest, is closed.
        max_inbound: Size = Size(256 << 20),
        /// TLS handshakes that may be under way, per worker; one more ends the oldest.
        max_tls_handshakes: usize = 4096,
        /// Bytes per second in which a message must come once it has begun. 0: no limit.
        min_upload_rate: u32 = 100,
        /// How long such a message may rest.
        upload_grace: Duration = Duration::from_secs(30),
        /// Messages and pings per second and connection. 0: no limit.
        message_rate: u32 = 1000,
        /// Received bytes per second and connection. 0: no limit.
        byte_rate: Size = Size(8 << 20),
        /// What happens beyond these rates.
        rate_policy: RatePolicyChoice = RatePolicyChoice::Pause,
        /// Bytes per second that a client must acknowledge of what waits for it, on average over a
        /// minute. 0: no limit.
        min_read_rate: u32 = 256,
        /// Memory for what waits for all connections of a worker; beyond it, who holds most and
        /// reads least is closed.
        max_outboxes: Size = Size(256 << 20),
        /// Memory of a worker for histories: publications kept, positions of channels without
        /// subscribers, idempotency keys. Beyond it the oldest go early.
        max_history: Size = Size(256 << 20),
        /// Memory of a worker for tag filters of subscriptions; one more gets error 106.
        max_filters: Size = Size(64 << 20),
        /// Bytes of the longest message that is compressed: everybody else on its worker waits.
        compression_max_size: Size = Size(256 * 1024),
        /// Stop reading from a peer that does not read.
        pause_reads: bool = true,
        /// Time for the peer to finish a close handshake.
        close_timeout: Duration = Duration::from_secs(5),
        /// Resolution of all deadlines: 1 ms to 1 s.
        tick: Duration = Duration::from_millis(100),
        /// Commands that may wait for a worker.
        mailbox: usize = 65_536,
        /// Memory of commands that may wait for a worker.
        mailbox_bytes: Size = Size(64 << 20),
    }
}

choice! {
    /// Where channels live.
    pub enum EngineType {
        /// In this process.
        Memory = "memory" | "",
        /// In Redis, for several nodes.
        Redis = "redis",
    }
}

choice! {
    /// The way into the kernel.
    pub enum IoChoice {
        /// io_uring, or epoll where the host refuses it.
        Auto = "auto",
        /// io_uring.
        Uring = "uring",
        /// epoll.
        Epoll = "epoll",
    }
}

choice! {
    /// What happens to a connection that sends more than its rate.
    pub enum RatePolicyChoice {
        /// It is closed with 1008.
        Close = "close",
        /// It is read later.
        Pause = "pause",
    }
}
