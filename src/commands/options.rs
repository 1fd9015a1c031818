//! The options that every serving subcommand shares: the engine's configuration as flags.

use std::net::SocketAddr;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, ValueEnum};
use ringhold::config::LONGEST;
use ringhold::protocol::Network;
use ringhold::{
    CloseCode, Compression, Config, Drain, Heartbeat, Io, Policy, Proxies, ProxyHeaders, RatePolicy,
};

/// Flags of the engine. Durations read `25s`, `100ms`, `1m`; sizes read `4096`, `64KiB`, `16MiB`.
#[derive(Debug, Args)]
pub(crate) struct EngineOptions {
    /// Address and port to listen on; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:9001", value_name = "ADDRESS")]
    listen: SocketAddr,

    /// Worker threads; 0: one per processor, or as many as the limit of open files demands
    #[arg(long, default_value_t = 0, value_name = "N")]
    workers: usize,

    /// Bind each worker to a processor
    #[arg(long)]
    pin: bool,

    /// The way into the kernel: uring, epoll, or auto: epoll where the host refuses io_uring
    #[arg(long, default_value = "auto", value_name = "IO")]
    io: Io,

    #[command(flatten, next_help_heading = "Limits")]
    limits: LimitOptions,

    #[command(flatten, next_help_heading = "Compression (permessage-deflate)")]
    compression: CompressionOptions,

    #[command(flatten, next_help_heading = "Behind reverse proxies")]
    proxies: ProxyOptions,

    #[command(flatten, next_help_heading = "Slow readers")]
    outbox: OutboxOptions,

    #[command(flatten, next_help_heading = "Deadlines and heartbeats")]
    deadlines: DeadlineOptions,

    #[command(flatten, next_help_heading = "Going away (SIGTERM, SIGINT)")]
    drain: DrainOptions,
}

#[derive(Debug, Args)]
struct CompressionOptions {
    /// Compress messages for clients that offer it
    #[arg(long)]
    compress: bool,

    /// 1 to 9: the higher, the shorter and the slower; 1 is as 2
    #[arg(long, default_value_t = 3, value_name = "N", requires = "compress",
          value_parser = clap::value_parser!(u8).range(1..=9))]
    compress_level: u8,

    /// Shortest message that is compressed
    #[arg(long, default_value = "256B", value_name = "SIZE", requires = "compress")]
    compress_min: ByteSize,

    /// Longest message that is compressed; everybody else on its core waits for it
    #[arg(long, default_value = "256KiB", value_name = "SIZE", requires = "compress")]
    compress_max: ByteSize,
}

#[derive(Debug, Args)]
struct LimitOptions {
    /// Connections over all workers; one more is answered with 503; 0: what the limit of open files
    /// (ulimit -n) allows
    #[arg(long, default_value_t = 0, value_name = "N")]
    max_connections: u32,

    /// Connections from one IPv4 address or IPv6 /64; 0: no limit
    #[arg(long, default_value_t = 0, value_name = "N")]
    max_per_address: u32,

    /// Accepts per second and worker; 0: no limit
    #[arg(long, default_value_t = 0, value_name = "N")]
    accept_rate: u32,

    /// Length of the accept queue of each worker, capped by net.core.somaxconn
    #[arg(long, default_value_t = 65_535, value_name = "N")]
    backlog: u32,

    /// Origin whose pages may connect, such as https://example.org; others get 403. May be given
    /// several times [default: any]
    #[arg(long = "allow-origin", value_name = "ORIGIN")]
    origins: Vec<String>,

    /// Bytes of a request head; one more is answered with 431
    #[arg(long, default_value = "8KiB", value_name = "SIZE")]
    max_head: ByteSize,

    /// Payload of one message over all its fragments; one more byte closes with 1009
    #[arg(long, default_value = "16MiB", value_name = "SIZE")]
    max_message: ByteSize,

    /// Fragments of one message; one more closes with 1009
    #[arg(long, default_value_t = 131_072, value_name = "N")]
    max_fragments: u32,

    /// Memory for messages in progress per worker; beyond it the largest, then the oldest, closes
    /// with 1013
    #[arg(long, default_value = "256MiB", value_name = "SIZE")]
    max_inbound: ByteSize,

    /// TLS handshakes that may be under way per worker; one more ends the oldest
    #[arg(long, default_value_t = 4096, value_name = "N")]
    max_tls_handshakes: usize,

    /// Bytes per second in which a message must come once it has begun; then 1008. 0: no limit
    #[arg(long, default_value_t = 100, value_name = "N")]
    min_upload_rate: u32,

    /// How long such a message may rest
    #[arg(long, default_value = "30s", value_parser = duration, value_name = "TIME")]
    upload_grace: Duration,

    /// Messages per second and connection; 0: no limit
    #[arg(long, default_value_t = 0, value_name = "N")]
    message_rate: u32,

    /// Received bytes per second and connection; 0: no limit
    #[arg(long, default_value = "0", value_name = "SIZE")]
    byte_rate: ByteSize,

    /// What happens beyond these rates
    #[arg(long, value_enum, default_value_t = RateChoice::Close)]
    rate_policy: RateChoice,
}

#[derive(Debug, Args)]
struct ProxyOptions {
    /// Proxy that is believed about the clients behind it, as 10.0.0.7 or 10.0.0.0/8; nobody else
    /// is. May be given several times
    #[arg(long = "trusted-proxy", value_name = "NETWORK")]
    trusted_proxies: Vec<Network>,

    /// Believe X-Forwarded-For of trusted proxies
    #[arg(long)]
    forwarded_for: bool,

    /// Whether connections begin with a header of the PROXY protocol, 1 or 2
    #[arg(long, value_enum, default_value_t = HeaderChoice::Off)]
    proxy_protocol: HeaderChoice,
}

#[derive(Debug, Args)]
struct OutboxOptions {
    /// Bytes queued for one peer [default: twice --max-message, at least 1MiB]
    #[arg(long, value_name = "SIZE")]
    max_outbox: Option<ByteSize>,

    /// What happens beyond
    #[arg(long, value_enum, default_value_t = PolicyChoice::CloseSlow)]
    outbox_policy: PolicyChoice,

    /// Memory for what peers of a worker did not take; beyond it, who holds most and reads least is
    /// closed with 1013
    #[arg(long, default_value = "256MiB", value_name = "SIZE")]
    max_outboxes: ByteSize,

    /// A peer must acknowledge something of what waits for it in this time
    #[arg(long, default_value = "30s", value_parser = duration, value_name = "TIME")]
    write_timeout: Duration,

    /// Bytes per second of what waits for it that a peer must acknowledge, on average over a
    /// minute; 0: no limit
    #[arg(long, default_value_t = 256, value_name = "N")]
    min_read_rate: u32,

    /// Keep reading from peers that do not read
    #[arg(long)]
    no_pause: bool,
}

#[derive(Debug, Args)]
struct DeadlineOptions {
    /// Time for TLS and the opening handshake together; then 408, or the end
    #[arg(long, default_value = "10s", value_parser = duration, value_name = "TIME")]
    handshake_timeout: Duration,

    /// Time for the peer to finish a close handshake
    #[arg(long, default_value = "5s", value_parser = duration, value_name = "TIME")]
    close_timeout: Duration,

    /// Close with 1001 after this time without a message; 0s: never
    #[arg(long, default_value = "0s", value_parser = duration, value_name = "TIME")]
    idle_timeout: Duration,

    /// Send no pings
    #[arg(long)]
    no_heartbeat: bool,

    /// Silence before the first ping
    #[arg(long, default_value = "25s", value_parser = duration, value_name = "TIME")]
    heartbeat_start: Duration,

    /// Shortest silence before a ping; missed answers lead here
    #[arg(long, default_value = "5s", value_parser = duration, value_name = "TIME")]
    heartbeat_floor: Duration,

    /// Longest silence before a ping; answers lead here
    #[arg(long, default_value = "60s", value_parser = duration, value_name = "TIME")]
    heartbeat_ceiling: Duration,

    /// Unanswered for this long: ping again
    #[arg(long, default_value = "15s", value_parser = duration, value_name = "TIME")]
    heartbeat_suspect: Duration,

    /// Unanswered for this long: ping a last time
    #[arg(long, default_value = "30s", value_parser = duration, value_name = "TIME")]
    heartbeat_probe: Duration,

    /// Unanswered for this long: close
    #[arg(long, default_value = "60s", value_parser = duration, value_name = "TIME")]
    heartbeat_dead: Duration,

    /// Resolution of all deadlines
    #[arg(long, default_value = "100ms", value_parser = duration, value_name = "TIME")]
    tick: Duration,
}

#[derive(Debug, Args)]
struct DrainOptions {
    /// Spread the closes evenly over this time
    #[arg(long, default_value = "0s", value_parser = duration, value_name = "TIME")]
    drain_window: Duration,

    /// Cut what is left after this time
    #[arg(long, default_value = "5s", value_parser = duration, value_name = "TIME")]
    drain_deadline: Duration,

    /// Close code: 1000-4999, as RFC 6455 section 7.4 allows
    #[arg(long, default_value = "1001", value_parser = close_code, value_name = "CODE")]
    drain_code: CloseCode,

    /// Close reason, at most 123 bytes
    #[arg(long, default_value = "server is going away", value_name = "TEXT")]
    drain_reason: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum HeaderChoice {
    /// They do not
    Off,
    /// Those of trusted proxies may
    Optional,
    /// All do; one without is refused
    Required,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RateChoice {
    /// Close with 1008
    Close,
    /// Read later
    Pause,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PolicyChoice {
    /// Close with 1008
    CloseSlow,
    /// Drop the new message
    DropNewest,
    /// Drop the oldest messages
    DropOldest,
    /// Keep the newest message of each key
    Conflate,
}

impl EngineOptions {
    /// The configuration these flags describe.
    pub(crate) fn config(&self) -> Config {
        let Self { limits, compression, proxies, outbox, deadlines, drain, .. } = self;
        let max_message = size(limits.max_message);
        let max_outbox = outbox.max_outbox.map_or((2 * max_message).max(1 << 20), size);
        Config {
            listen: Some(self.listen),
            workers: self.workers,
            pin: self.pin,
            io: self.io,
            max_connections: limits.max_connections,
            max_per_address: limits.max_per_address,
            proxies: Proxies {
                trusted: proxies.trusted_proxies.clone(),
                forwarded_for: proxies.forwarded_for,
                headers: match proxies.proxy_protocol {
                    HeaderChoice::Off => ProxyHeaders::Off,
                    HeaderChoice::Optional => ProxyHeaders::Optional,
                    HeaderChoice::Required => ProxyHeaders::Required,
                },
            },
            accept_rate: limits.accept_rate,
            backlog: limits.backlog,
            origins: limits.origins.clone(),
            max_head: size(limits.max_head),
            max_message,
            max_fragments: limits.max_fragments,
            max_inbound: size(limits.max_inbound),
            max_tls_handshakes: limits.max_tls_handshakes,
            min_upload_rate: limits.min_upload_rate,
            upload_grace: limits.upload_grace,
            message_rate: limits.message_rate,
            byte_rate: limits.byte_rate.as_u64().min(u64::from(u32::MAX)) as u32,
            rate_policy: match limits.rate_policy {
                RateChoice::Close => RatePolicy::Close,
                RateChoice::Pause => RatePolicy::Pause,
            },
            compression: compression.compress.then(|| Compression {
                level: compression.compress_level,
                min_size: size(compression.compress_min),
                max_size: size(compression.compress_max),
                ..Compression::default()
            }),
            max_outbox,
            outbox_policy: match outbox.outbox_policy {
                PolicyChoice::CloseSlow => Policy::CloseSlow,
                PolicyChoice::DropNewest => Policy::DropNewest,
                PolicyChoice::DropOldest => Policy::DropOldest,
                PolicyChoice::Conflate => Policy::Conflate,
            },
            max_outboxes: size(outbox.max_outboxes).max(max_outbox),
            after_burst: Some(crate::memory::give_back),
            around_handshake: Some(crate::memory::put_apart),
            write_timeout: outbox.write_timeout,
            min_read_rate: outbox.min_read_rate,
            pause_reads: !outbox.no_pause,
            handshake_timeout: deadlines.handshake_timeout,
            close_timeout: deadlines.close_timeout,
            idle_timeout: deadlines.idle_timeout,
            heartbeat: Heartbeat {
                enabled: !deadlines.no_heartbeat,
                start: deadlines.heartbeat_start,
                floor: deadlines.heartbeat_floor,
                ceiling: deadlines.heartbeat_ceiling,
                suspect: deadlines.heartbeat_suspect,
                probe: deadlines.heartbeat_probe,
                dead: deadlines.heartbeat_dead,
                ..Heartbeat::default()
            },
            tick: deadlines.tick,
            drain: Drain {
                window: drain.drain_window,
                deadline: drain.drain_deadline.max(drain.drain_window),
                code: drain.drain_code,
                reason: drain.drain_reason.clone(),
            },
            ..Config::default()
        }
    }
}

/// `25s`, `100ms`, `1m 30s`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text);
    let duration = duration.map_err(|error| format!("{error}; write 25s, 100ms or 1m"))?;
    match duration <= LONGEST {
        true => Ok(duration),
        false => Err("must be at most 876000h".to_owned()),
    }
}

/// Bytes as the machine counts them.
pub(crate) fn size(size: ByteSize) -> usize {
    usize::try_from(size.as_u64()).unwrap_or(usize::MAX)
}

fn close_code(text: &str) -> Result<CloseCode, String> {
    let code = text.parse().map(CloseCode).map_err(|_| "not a number".to_owned())?;
    match code.is_sendable() {
        true => Ok(code),
        false => Err("may not be in a close frame (RFC 6455 section 7.4)".to_owned()),
    }
}
