//! `engine`: where channels live; workers, limits and deadlines.

use std::time::Duration;

use super::redis::Redis;
use crate::config::schema::{choice, section};
use crate::options::Size;

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
