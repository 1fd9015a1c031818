//! From options to the engine's configuration.

use std::net::SocketAddr;
use std::time::Duration;

use crate::config::{IoChoice, Options, ProxyProtocol, RatePolicyChoice};
use crate::engine::{
    Compression, Config, Drain, Heartbeat, Io, Policy, Proxies, ProxyHeaders, RatePolicy,
};
use crate::protocol::CloseCode;

impl Options {
    /// The engine's configuration. Origins are left to the gateway (`gateway::origins`), which
    /// refuses where the engine's empty list would admit.
    pub fn engine_config(&self) -> Config {
        let engine = &self.engine;
        let limits = [engine.max_connections, self.client.connection_limit];
        let queue = self.client.plan.queue_max_size.0.max(OUTBOX_MIN);
        Config {
            listen: Some(SocketAddr::new(self.http_server.address, self.http_server.port)),
            workers: engine.workers,
            pin: engine.pin,
            io: match engine.io {
                IoChoice::Auto => Io::Auto,
                IoChoice::Uring => Io::Uring,
                IoChoice::Epoll => Io::Epoll,
            },
            max_connections: limits.into_iter().filter(|limit| *limit > 0).min().unwrap_or(0),
            max_per_address: engine.max_per_address,
            proxies: self.proxies(),
            accept_rate: engine.accept_rate,
            backlog: engine.backlog,
            retry_after: engine.retry_after,
            handshake_timeout: engine.handshake_timeout,
            max_kept: self.http_server.http_connections,
            max_adopted: INSIDE_MAX,
            max_head: engine.max_head.0,
            max_message: self.websocket.message_size_limit.0,
            max_fragments: engine.max_fragments,
            max_inbound: engine.max_inbound.0,
            max_tls_handshakes: engine.max_tls_handshakes,
            min_upload_rate: engine.min_upload_rate,
            upload_grace: engine.upload_grace,
            message_rate: engine.message_rate,
            byte_rate: u32::try_from(engine.byte_rate.0).unwrap_or(u32::MAX),
            rate_policy: match engine.rate_policy {
                RatePolicyChoice::Close => RatePolicy::Close,
                RatePolicyChoice::Pause => RatePolicy::Pause,
            },
            max_outbox: queue,
            outbox_policy: Policy::CloseSlow,
            slow_close: (CloseCode(3008), "slow"),
            max_outboxes: engine.max_outboxes.0.max(queue),
            pause_reads: engine.pause_reads,
            write_timeout: self.websocket.write_timeout,
            min_read_rate: engine.min_read_rate,
            close_timeout: engine.close_timeout,
            heartbeat: self.heartbeat(),
            tick: engine.tick,
            compression: self.compression(),
            mailbox: engine.mailbox,
            mailbox_bytes: engine.mailbox_bytes.0,
            drain: self.drain(),
            ..Config::default()
        }
    }

    /// Accepts per second of each of so many workers; 0: no limit.
    pub fn accept_rate(&self, workers: usize) -> u32 {
        let workers = u32::try_from(workers.max(1)).unwrap_or(u32::MAX);
        let share = self.client.connection_rate_limit.div_ceil(workers);
        let limits = [self.engine.accept_rate, share];
        limits.into_iter().filter(|limit| *limit > 0).min().unwrap_or(0)
    }

    /// One for both kinds of WebSocket, which `config::check` sees to.
    fn compression(&self) -> Option<Compression> {
        let (websocket, uni) = (&self.websocket, &self.uni_websocket);
        let (level, min_size) = match () {
            () if websocket.compression && !websocket.disabled => {
                (websocket.compression_level, websocket.compression_min_size)
            }
            () if uni.compression && uni.enabled => {
                (uni.compression_level, uni.compression_min_size)
            }
            () => return None,
        };
        let max_inflated = websocket.decompressed_message_size_limit.0;
        let max_size = self.engine.compression_max_size.0;
        Some(Compression { level, min_size: min_size.0, max_size, max_inflated })
    }

    /// Pings at the announced interval, neither more nor less often: clients rely on it.
    fn heartbeat(&self) -> Heartbeat {
        let interval = self.client.plan.ping_interval;
        if interval.is_zero() {
            return Heartbeat { enabled: false, ..Heartbeat::default() };
        }
        let answer = match self.client.plan.pong_timeout {
            Duration::ZERO => NEVER,
            timeout => timeout,
        };
        Heartbeat {
            enabled: true,
            start: interval,
            floor: interval,
            ceiling: interval,
            suspect: answer,
            probe: answer,
            dead: answer,
            steady: true,
            close: Some((CloseCode(3012), "no pong")),
        }
    }

    /// Whom is believed what about clients.
    pub fn proxies(&self) -> Proxies {
        let server = &self.http_server;
        Proxies {
            trusted: server.trusted_proxies.clone(),
            forwarded_for: server.forwarded_for,
            headers: match server.proxy_protocol {
                ProxyProtocol::Off => ProxyHeaders::Off,
                ProxyProtocol::Optional => ProxyHeaders::Optional,
                ProxyProtocol::Required => ProxyHeaders::Required,
            },
        }
    }

    fn drain(&self) -> Drain {
        Drain {
            window: self.shutdown.drain_window,
            deadline: self.shutdown.timeout,
            code: CloseCode(3001),
            reason: "shutdown".to_owned(),
        }
    }
}

/// The least the engine takes.
const OUTBOX_MIN: usize = 1024;

/// For an answer that is not demanded.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Connections of the internal port that a core has: as many as the control plane.
const INSIDE_MAX: u32 = 320;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_suit_the_engine() {
        let options = Options::default();
        let config = options.engine_config();
        assert_eq!(config.check(), Ok(()));
        assert_eq!(config.listen, Some("127.0.0.1:8000".parse().unwrap()));
        assert_eq!(config.max_message, 65_536);
        assert_eq!(config.heartbeat.ceiling, Duration::from_secs(25));
        assert_eq!(config.heartbeat.dead, Duration::from_secs(8));
        assert_eq!(config.drain.code, CloseCode(3001));
    }

    #[test]
    fn the_lower_limit_of_connections_holds() {
        let limit = |ours, theirs| {
            let mut options = Options::default();
            options.engine.max_connections = ours;
            options.client.connection_limit = theirs;
            options.engine_config().max_connections
        };
        assert_eq!(limit(0, 0), 0);
        assert_eq!(limit(10, 0), 10);
        assert_eq!(limit(0, 10), 10);
        assert_eq!(limit(10, 20), 10);
    }

    #[test]
    fn workers_share_the_rate_of_connections() {
        let rate = |ours, theirs, workers| {
            let mut options = Options::default();
            options.engine.accept_rate = ours;
            options.client.connection_rate_limit = theirs;
            options.accept_rate(workers)
        };
        assert_eq!((rate(0, 0, 4), rate(7, 0, 4)), (0, 7));
        assert_eq!((rate(0, 100, 4), rate(0, 1, 4), rate(0, 5, 4)), (25, 1, 2));
        assert_eq!((rate(10, 100, 4), rate(30, 100, 4)), (10, 25));
    }

    #[test]
    fn pings_can_be_off_and_answers_not_demanded() {
        let mut options = Options::default();
        options.client.plan.pong_timeout = Duration::ZERO;
        assert_eq!(options.engine_config().check(), Ok(()));
        assert_eq!(options.engine_config().heartbeat.dead, NEVER);
        options.client.plan.ping_interval = Duration::ZERO;
        assert!(!options.engine_config().heartbeat.enabled);
        assert_eq!(options.engine_config().check(), Ok(()));
    }
}
