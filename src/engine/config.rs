//! Every knob of the engine with its default, checked once.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::io::Io;
use super::token::SLOTS_MAX;
use super::value::Policy;
use crate::protocol::forwarded::{self, is_trusted};
use crate::protocol::{CloseCode, Network};
use crate::tls::keys::{ClientMaterials, ServerMaterials};

impl Config {
    /// Whether a request with this Origin header, if any, may connect.
    pub(super) fn admits_origin(&self, origin: Option<&str>) -> bool {
        let listed = |origin: &str| self.origins.iter().any(|o| o.eq_ignore_ascii_case(origin));
        self.origins.is_empty() || origin.is_none_or(listed)
    }
}

/// Compression for clients that offer it (permessage-deflate, RFC 7692).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compression {
    /// 1 to 9: the higher, the shorter and the slower. 1 is as 2.
    pub level: u8,
    /// Bytes of the shortest message that is compressed.
    pub min_size: usize,
    /// Bytes of the longest message that is compressed: for so long everybody else on its core
    /// waits. See `docs/compression.md` for what that takes.
    pub max_size: usize,
    /// Bytes that a received message may be inflated to. 0: [`Config::max_message`], which is also
    /// the most.
    pub max_inflated: usize,
}

impl Default for Compression {
    fn default() -> Self {
        Self { level: 3, min_size: 256, max_size: 256 * 1024, max_inflated: 0 }
    }
}

/// What to do with a connection that sends more than its rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RatePolicy {
    /// Close with 1008.
    #[default]
    Close,
    /// Leave its input in the kernel until the rate allows: TCP slows the sender down.
    Pause,
}

/// Whether connections begin with a header of the PROXY protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProxyHeaders {
    /// They do not; one is refused, whoever sends it.
    #[default]
    Off,
    /// Those of trusted proxies may. Only for proxies that send it always: through one that hands a
    /// client's first bytes on as they are, the client could send a header of its own.
    Optional,
    /// All do; a connection without one is refused.
    Required,
}

/// Reverse proxies in front of the server, and what they are believed about the clients behind
/// them. What is said by anybody else changes nothing, and a PROXY header is refused.
///
/// The address found this way is the connection's in every respect: [`Config::max_per_address`],
/// [`super::Connection::peer_addr`], what handlers are given, [`super::SlowPeer`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    /// Their addresses. Empty: nobody is believed anything.
    pub trusted: Vec<Network>,
    /// Believe `X-Forwarded-For`: the rightmost address in it that is not a trusted proxy's. For
    /// proxies that append to this header, or set it. The port is 0 where the header has none.
    pub forwarded_for: bool,
    /// Believe the PROXY protocol, versions 1 and 2. Comes before `forwarded_for`, which is then
    /// believed if the address in the header is a trusted proxy's, too.
    pub headers: ProxyHeaders,
}

impl Proxies {
    /// Whether a peer at this address is believed about others.
    pub(super) fn believe(&self, ip: IpAddr) -> bool {
        (self.forwarded_for || self.headers != ProxyHeaders::Off) && is_trusted(&self.trusted, ip)
    }

    /// What is known of a connection that begins with no PROXY header, before its first request.
    pub fn via(&self, peer: SocketAddr) -> Via {
        let forwards = self.forwarded_for && is_trusted(&self.trusted, peer.ip());
        Via { peer, forwards }
    }

    /// Whose request it is that came this way; `lines` are the values of its `X-Forwarded-For`
    /// headers, in their order.
    pub fn client<'a>(
        &self,
        via: Via,
        lines: impl DoubleEndedIterator<Item = &'a [u8]>,
    ) -> SocketAddr {
        let named = via.forwards.then(|| forwarded::client(lines, &self.trusted)).flatten();
        named.unwrap_or(via.peer)
    }
}

/// Which way the requests of a connection come. One that proxies keep may carry those of several
/// clients, one after the other: [`Proxies::client`] says whose each is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Via {
    /// Who connected, or whom a PROXY header named.
    pub peer: SocketAddr,
    /// Whether that is a proxy whose `X-Forwarded-For` is believed.
    pub forwards: bool,
}

/// When to ask a silent peer whether it lives, and when to give it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Whether pings are sent at all.
    pub enabled: bool,
    /// Silence after which a new connection is pinged.
    pub start: Duration,
    /// Shortest interval; missed answers halve it down to this.
    pub floor: Duration,
    /// Longest interval; answers lengthen it by a quarter up to this.
    pub ceiling: Duration,
    /// Unanswered for this long: suspect, and pinged again.
    pub suspect: Duration,
    /// Unanswered for this long: probed with a last ping.
    pub probe: Duration,
    /// Unanswered for this long: closed.
    pub dead: Duration,
    /// One every `start`, whatever else arrives, for protocols that promise their peers a steady
    /// ping; [`super::Handler::on_heartbeat`] may send it. Any inbound byte still is an answer.
    pub steady: bool,
    /// Close code and reason for a dead peer, for protocols whose clients want to be told. `None`:
    /// it is cut, as nobody listens.
    pub close: Option<(CloseCode, &'static str)>,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self {
            enabled: true,
            start: Duration::from_secs(25),
            floor: Duration::from_secs(5),
            ceiling: Duration::from_secs(60),
            suspect: Duration::from_secs(15),
            probe: Duration::from_secs(30),
            dead: Duration::from_secs(60),
            steady: false,
            close: None,
        }
    }
}

/// How a server goes away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drain {
    /// Closes are spread evenly over this time, so that clients do not all come back at once.
    pub window: Duration,
    /// What is left after this time is cut.
    pub deadline: Duration,
    /// Close code for every connection.
    pub code: CloseCode,
    /// Close reason, at most 123 bytes.
    pub reason: String,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            window: Duration::ZERO,
            deadline: Duration::from_secs(5),
            code: CloseCode::GOING_AWAY,
            reason: "server is going away".to_owned(),
        }
    }
}

/// Configuration of a server. `0` switches an optional limit off where its text says so.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address to listen on. Port 0 lets the kernel choose one for all workers. `None`: only
    /// outgoing connections.
    pub listen: Option<SocketAddr>,
    /// Certificates and keys for TLS on that address; `None`: plain HTTP.
    pub tls: Option<std::sync::Arc<ServerMaterials>>,
    /// TLS handshakes that may be under way, per worker; one more ends the oldest.
    pub max_tls_handshakes: usize,
    /// Trust for TLS of outgoing connections; `None`: dials that ask for TLS fail.
    pub dial_tls: Option<std::sync::Arc<ClientMaterials>>,
    /// The way into the kernel.
    pub io: Io,
    /// Threads, each with its own ring, listener and connections. 0: one per processor, and as
    /// many more as `max_connections` needs under the limit of open files.
    pub workers: usize,
    /// Bind worker `n` to the `n`th of the processors that the process may use, counted around.
    pub pin: bool,
    /// Connections over all workers; one more is answered with 503. 0: as many as the workers can
    /// hold under the limit of open files, at most about 116,000 each.
    pub max_connections: u32,
    /// Connections from one IPv4 address or IPv6 /64, over all workers; 0: no limit. Behind
    /// [`Proxies`] the client's counts, once it is known. Who is refused does not count, nor whose
    /// close is decided, unless an address leaves many such behind.
    pub max_per_address: u32,
    /// See [`Proxies`].
    pub proxies: Proxies,
    /// Accepts per second and worker, with a burst of one second; 0: no limit.
    pub accept_rate: u32,
    /// Length of each listener's accept queue (capped by `net.core.somaxconn`).
    pub backlog: u32,
    /// Slots per worker for connections that are only there to be refused.
    pub reserve: u32,
    /// Seconds in the `Retry-After` of a 503.
    pub retry_after: u32,
    /// Origins (`https://example.org`) whose pages may connect, case-insensitive; a request from
    /// another one is answered with 403. A request without the header comes from no browser and
    /// passes. Empty: any (RFC 6455 section 10.2).
    pub origins: Vec<String>,
    /// Time for TCP connect, TLS and the opening handshake together.
    pub handshake_timeout: Duration,
    /// Time for the next request to begin where [`super::HttpAction::Answer`] keeps a connection;
    /// then it is closed. Who does not take its answers for so long is cut.
    pub keep_alive: Duration,
    /// Connections per worker that are kept so; one more is closed behind its answer.
    pub max_kept: u32,
    /// Connections per worker that [`super::Context::adopt`] hands in; one more is given back.
    pub max_adopted: u32,
    /// Time for the application to answer after [`super::HttpAction::AnswerLater`]; then the answer
    /// is 503.
    pub answer_timeout: Duration,
    /// Bytes of a request head.
    pub max_head: usize,
    /// Payload bytes of one received message, over all its fragments; of a compressed one those
    /// that it is inflated to.
    pub max_message: usize,
    /// Fragments of one received message.
    pub max_fragments: u32,
    /// Bytes of memory for what is received and not complete, per worker: messages, heads and
    /// bodies of requests, TLS handshakes and records. Beyond it the largest, and of those that are
    /// as large the oldest, is closed with 1013, or refused with 503. A message that fits one
    /// receive needs none of it.
    pub max_inbound: usize,
    /// Bytes per second in which a message, or a record of TLS, must come once it has begun, on
    /// average; 0: it may take for ever. Beyond [`Self::upload_grace`] its connection is closed
    /// with 1008.
    pub min_upload_rate: u32,
    /// How long a message may rest. Never more than this is saved up by one that comes fast.
    pub upload_grace: Duration,
    /// Time without a message after which a connection is closed with 1001; zero: no limit.
    pub idle_timeout: Duration,
    /// Messages and pings per second and connection, with a burst of one second; 0: no limit.
    pub message_rate: u32,
    /// Received bytes per second and connection, with a burst of one second; 0: no limit.
    pub byte_rate: u32,
    /// What happens beyond these rates.
    pub rate_policy: RatePolicy,
    /// Bytes queued for one peer that the kernel was offered and has not taken, 56 more for each
    /// piece included. An empty outbox takes one message of any size.
    pub max_outbox: usize,
    /// What happens beyond.
    pub outbox_policy: Policy,
    /// Close code and reason for a peer that reads too slowly.
    pub slow_close: (CloseCode, &'static str),
    /// Called on a core's thread when a burst is over, or half of its connections have left, and
    /// the memory is freed: the moment to have the allocator return it to the kernel. Must not
    /// block for long.
    pub after_burst: Option<fn()>,
    /// Called on a core's thread with `true` before and with `false` after each step of a TLS
    /// handshake. All that is allocated between goes when the handshake is over, so an allocator
    /// that keeps such blocks apart gets whole pages back.
    pub around_handshake: Option<fn(bool)>,
    /// Bytes of memory for what the kernels of all peers of a worker were offered and have not
    /// taken; what several share counts once. Beyond it who holds most and reads least is closed
    /// with 1013, or cut where a close frame would have to wait.
    ///
    /// What one turn queues comes on top: a sixteenth of this, at most 16 MiB, after which it is
    /// sent, and what a single callback queues beyond, of which half of this is accepted.
    pub max_outboxes: usize,
    /// Stop reading from a peer that does not read: above half of `max_outbox`, or earlier where
    /// the answer to one more message would not fit, until a quarter of that.
    pub pause_reads: bool,
    /// Time in which a peer must acknowledge something of what waits for it. Before Linux 6.7 the
    /// kernel does not tell, and what it takes counts: in steps of a third of its send buffer.
    pub write_timeout: Duration,
    /// Bytes per second that a peer must acknowledge on average over [`Self::read_window`] while
    /// there are more; 0: no limit.
    pub min_read_rate: u32,
    /// See [`Self::min_read_rate`].
    pub read_window: Duration,
    /// Time for the peer to finish a close handshake, from when our close frame has left; until
    /// then the write timeout watches.
    pub close_timeout: Duration,
    /// See [`Heartbeat`].
    pub heartbeat: Heartbeat,
    /// Resolution of all deadlines.
    pub tick: Duration,
    /// Commands that may wait for a worker; one more is refused to its sender.
    pub mailbox: usize,
    /// Bytes of memory of commands that may wait for a worker: frames, letters as
    /// [`super::Handler::event_size`] counts them. One more is refused to its sender.
    pub mailbox_bytes: usize,
    /// Most commands that a worker works off in one turn; the rest waits for the next one.
    pub turn_letters: u32,
    /// Time after which a turn begins with no further command, so that deadlines and input have
    /// theirs.
    pub turn_letters_time: Duration,
    /// Bytes that the sends of a turn offer to the kernel, roughly; who stands in line has to wait
    /// for the next one. A publication for many readers takes many turns, so that others have
    /// theirs in between. Not a bound of memory, and none where memory is short.
    pub turn_sends: usize,
    /// `None`: clients that offer compression do without.
    pub compression: Option<Compression>,
    /// Used by [`super::Handle::drain`] unless told otherwise.
    pub drain: Drain,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 9001))),
            tls: None,
            max_tls_handshakes: 4096,
            dial_tls: None,
            io: Io::Auto,
            workers: 0,
            pin: false,
            max_connections: 0,
            max_per_address: 0,
            proxies: Proxies::default(),
            accept_rate: 0,
            backlog: 65_535,
            reserve: 64,
            retry_after: 5,
            origins: Vec::new(),
            handshake_timeout: Duration::from_secs(10),
            keep_alive: Duration::from_secs(30),
            max_kept: 4096,
            max_adopted: 1024,
            answer_timeout: Duration::from_secs(30),
            max_head: 8 * 1024,
            max_message: 1024 * 1024,
            max_fragments: 128 * 1024,
            max_inbound: 256 * 1024 * 1024,
            min_upload_rate: 100,
            upload_grace: Duration::from_secs(30),
            idle_timeout: Duration::ZERO,
            message_rate: 0,
            byte_rate: 0,
            rate_policy: RatePolicy::Close,
            max_outbox: 1024 * 1024,
            outbox_policy: Policy::CloseSlow,
            slow_close: (CloseCode::POLICY, "too slow"),
            after_burst: None,
            around_handshake: None,
            max_outboxes: 256 * 1024 * 1024,
            pause_reads: true,
            write_timeout: Duration::from_secs(30),
            min_read_rate: 256,
            read_window: Duration::from_secs(60),
            close_timeout: Duration::from_secs(5),
            heartbeat: Heartbeat::default(),
            tick: Duration::from_millis(100),
            mailbox: 65_536,
            mailbox_bytes: 64 * 1024 * 1024,
            turn_letters: 1024,
            turn_letters_time: Duration::from_micros(500),
            turn_sends: 2 << 20,
            compression: None,
            drain: Drain::default(),
        }
    }
}

/// A configuration that cannot work; says what and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(pub(super) String);

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Checks relations between values. Values that clap or a type already bounds are not repeated.
    pub fn check(&self) -> Result<(), ConfigError> {
        let beat = &self.heartbeat;
        let proxies = &self.proxies;
        let believed = proxies.forwarded_for || proxies.headers != ProxyHeaders::Off;
        let rules = [
            (self.workers <= WORKERS_MAX, "workers must be at most 4096"),
            (self.max_head >= 256, "max-head must be at least 256 bytes"),
            (self.max_head <= 64 * 1024, "max-head must be at most 64 KiB"),
            (self.max_message > 0, "max-message must be at least 1 byte"),
            (self.max_fragments > 0, "max-fragments must be at least 1"),
            (self.max_outbox >= 1024, "max-outbox must be at least 1 KiB"),
            (self.tick >= Duration::from_millis(1), "tick must be at least 1 ms"),
            (self.tick <= Duration::from_secs(1), "tick must be at most 1 s"),
            (!self.handshake_timeout.is_zero(), "handshake-timeout must not be zero"),
            (!self.keep_alive.is_zero(), "keep-alive must not be zero"),
            (!self.answer_timeout.is_zero(), "answer-timeout must not be zero"),
            (!self.close_timeout.is_zero(), "close-timeout must not be zero"),
            (!self.write_timeout.is_zero(), "write-timeout must not be zero"),
            (!self.read_window.is_zero(), "the window of min-read-rate must not be zero"),
            (self.max_tls_handshakes > 0, "max-tls-handshakes must be at least 1"),
            (self.mailbox > 0, "mailbox must be at least 1"),
            (self.mailbox_bytes > 0, "mailbox-bytes must be at least 1"),
            (self.turn_letters > 0, "a turn must take at least one letter"),
            (self.turn_sends > 0, "a turn must offer at least one byte"),
            (
                self.min_upload_rate == 0 || self.upload_grace >= self.tick,
                "upload-grace must be at least one tick",
            ),
            (
                !believed || !proxies.trusted.is_empty(),
                "to believe proxies, their addresses must be named as trusted",
            ),
            (
                believed || proxies.trusted.is_empty(),
                "what trusted proxies are believed must be said: X-Forwarded-For, the PROXY \
                 protocol",
            ),
            (beat.floor >= self.tick, "the heartbeat's floor must be at least one tick"),
            (
                beat.floor <= beat.start && beat.start <= beat.ceiling,
                "heartbeat intervals must be ordered: floor <= start <= ceiling",
            ),
            (
                beat.suspect <= beat.probe && beat.probe <= beat.dead,
                "heartbeat deadlines must be ordered: suspect <= probe <= dead",
            ),
            (!beat.suspect.is_zero(), "the heartbeat's suspect deadline must not be zero"),
            (
                ticks(beat.ceiling, self.tick) <= u32::from(u16::MAX),
                "the heartbeat's ceiling must be at most 65,535 ticks",
            ),
            (
                self.drain.window <= self.drain.deadline,
                "drain-window must not exceed drain-deadline",
            ),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, text)) => Err(ConfigError((*text).to_owned())),
            None => Ok(()),
        }
    }

    /// How long a peer may acknowledge nothing of what is sent before the connection is given up:
    /// as long as a heartbeat may stay unanswered, so that a peer that vanished is found by the
    /// heartbeats that nobody takes, also where no answer is awaited; but a second more than a slow
    /// peer may take nothing, so that this is told apart. Where answers are not demanded, an
    /// interval. Before Linux 6.7 the kernel is told (TCP_USER_TIMEOUT), which also cuts who reads
    /// slowly for so long. At most what that takes, some 24 days.
    pub fn user_timeout(&self) -> Duration {
        let beat = &self.heartbeat;
        let unanswered = if beat.enabled { beat.dead.min(beat.ceiling) } else { Duration::ZERO };
        let longest = self.write_timeout.saturating_add(Duration::from_secs(1));
        unanswered.max(longest).min(USER_TIMEOUT_MAX)
    }

    /// How `max_connections` are spread, given the soft limit of open files and the processors
    /// there are. SO_REUSEPORT spreads by hash, so each table has room for an eighth more than its
    /// share.
    pub fn layout(&self, open_files: u64, processors: usize) -> Result<Layout, ConfigError> {
        let most = u64::from(SLOTS_MAX).min(open_files);
        let spare = 32 + u64::from(self.reserve);
        if self.max_connections == 0 {
            let workers = if self.workers == 0 { processors.max(1) } else { self.workers };
            let table = most.min(TABLE_UNASKED);
            let share = table.saturating_sub(spare) / 9 * 8;
            if share == 0 {
                // Each table needs that, however many there are.
                return Err(too_few_files(1, workers, 9 + spare, most, "raise it"));
            }
            let total = (share * workers as u64).min(u64::from(u32::MAX));
            return Ok(Layout { workers, table: table as u32, connections: total as u32 });
        }
        let table = |workers: usize| {
            let share = u64::from(self.max_connections).div_ceil(workers as u64);
            share + share / 8 + spare
        };
        let workers = match self.workers {
            0 => (processors.max(1)..=WORKERS_MAX).find(|n| table(*n) <= most),
            fixed => Some(fixed).filter(|n| table(*n) <= most),
        };
        let Some(workers) = workers else {
            let workers = self.workers.max(1);
            let remedy = match (table(WORKERS_MAX) <= most, spare + 2 <= most) {
                (true, _) => "raise it, or use more workers",
                (false, true) => "raise it, or hold fewer connections",
                (false, false) => "raise it",
            };
            let needed = table(workers);
            return Err(too_few_files(self.max_connections, workers, needed, most, remedy));
        };
        // A small crowd, or one that comes back with the same ports, spreads less evenly; room for
        // twice the share costs 8 bytes an entry, where the limit of open files allows it.
        let share = u64::from(self.max_connections).div_ceil(workers as u64);
        let table = table(workers).max(2 * share + spare).min(most) as u32;
        Ok(Layout { workers, table, connections: self.max_connections })
    }
}

impl Layout {
    /// The same where each connection takes a descriptor of the process: fewer connections if their
    /// number was not asked for, an error if it was.
    pub(super) fn within_process(
        self,
        config: &Config,
        open_files: u64,
    ) -> Result<Self, ConfigError> {
        let spare = PROCESS_DESCRIPTORS + u64::from(config.reserve) * self.workers as u64;
        let most = open_files.saturating_sub(spare);
        if u64::from(self.connections) <= most {
            return Ok(self);
        }
        if config.max_connections == 0 && most > 0 {
            return Ok(Self { connections: most as u32, ..self });
        }
        Err(ConfigError(format!(
            "{} connections over epoll need a descriptor each and {spare} more, and the limit of \
             open files (ulimit -n) allows {open_files}: raise it, or hold fewer connections",
            self.connections
        )))
    }
}

/// See [`Config::layout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Threads.
    pub workers: usize,
    /// Direct descriptors of each.
    pub table: u32,
    /// Connections over all of them.
    pub connections: u32,
}

fn too_few_files(
    connections: u32,
    workers: usize,
    table: u64,
    most: u64,
    remedy: &str,
) -> ConfigError {
    ConfigError(format!(
        "{connections} connections on {workers} workers need {table} direct descriptors each, and \
         the limit of open files (ulimit -n) allows {most}: {remedy}"
    ))
}

/// TCP_USER_TIMEOUT is an `int` of milliseconds.
const USER_TIMEOUT_MAX: Duration = Duration::from_millis(i32::MAX as u64);

/// A duration in ticks, rounded up.
pub(super) fn ticks(duration: Duration, tick: Duration) -> u32 {
    let count = duration.as_nanos().div_ceil(tick.as_nanos().max(1));
    u32::try_from(count).unwrap_or(u32::MAX / 4).min(u32::MAX / 4)
}

/// Descriptors of the process beside those of connections: listeners, sets, doorbells, the control
/// plane's sockets.
const PROCESS_DESCRIPTORS: u64 = 256;

/// Direct descriptors of a worker that was not told how many: 8 bytes each.
const TABLE_UNASKED: u64 = 128 * 1024;

/// The identifier of a connection has 16 bits for its worker; this is far beyond any host.
pub const WORKERS_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_hold() {
        assert_eq!(Config::default().check(), Ok(()));
    }

    #[test]
    fn the_kernel_gives_up_when_a_heartbeat_would() {
        let second = Duration::from_secs;
        let mut config = Config { write_timeout: second(1), ..Config::default() };
        assert_eq!(config.user_timeout(), second(60));
        config.heartbeat.dead = second(8);
        assert_eq!(config.user_timeout(), second(8));
        config.heartbeat.dead = second(1_000_000);
        assert_eq!(config.user_timeout(), config.heartbeat.ceiling);
        config.heartbeat.enabled = false;
        assert_eq!(config.user_timeout(), second(2));
        // The kernel takes an `int` of milliseconds.
        for longest in [second(597 * 3600), Duration::MAX] {
            config.write_timeout = longest;
            assert_eq!(config.user_timeout(), USER_TIMEOUT_MAX);
        }
    }

    #[test]
    fn too_few_files_come_with_what_helps() {
        let error = |max_connections, workers, open_files| {
            let config = Config { max_connections, workers, ..Config::default() };
            config.layout(open_files, 2).unwrap_err().0
        };
        let spare = 32 + u64::from(Config::default().reserve);
        let unasked = error(0, 0, spare + 8);
        assert!(unasked.ends_with(&format!("allows {}: raise it", spare + 8)), "{unasked}");
        let few = error(1_000_000, 1, 1 << 16);
        assert!(few.ends_with("raise it, or use more workers"), "{few}");
        let many = error(1_000_000, 0, spare + 8);
        assert!(many.ends_with("raise it, or hold fewer connections"), "{many}");
        let none = error(1, 0, spare);
        assert!(none.ends_with(": raise it"), "{none}");
    }

    #[test]
    fn workers_follow_the_limit_of_open_files() {
        let config = Config { max_connections: 1_000_000, ..Config::default() };
        let layout = config.layout(20_000, 2).unwrap();
        assert!(layout.table <= 20_000 && layout.workers as u32 * layout.table > 1_000_000);
        assert_eq!(config.layout(1 << 30, 2).unwrap().workers, 2);
        let fixed = Config { workers: 2, ..config };
        assert!(fixed.layout(20_000, 2).unwrap_err().0.contains("ulimit -n"));
    }

    #[test]
    fn unasked_the_limit_of_open_files_decides() {
        let layout = Config::default().layout(20_000, 2).unwrap();
        assert_eq!((layout.workers, layout.table), (2, 20_000));
        assert!((35_000..40_000).contains(&layout.connections));
        assert!(Config::default().layout(64, 2).is_err());
    }
}
