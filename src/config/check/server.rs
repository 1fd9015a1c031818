//! Listeners, paths, operation, and what the engine demands.

use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::super::{Orderer, ProxyProtocol};
use super::Check;
use crate::engine::WORKERS_MAX;

impl Check<'_> {
    pub(super) fn server(&mut self) {
        let options = self.options;
        let server = &options.http_server;
        let apart = server.port == 0
            || server.internal_port != server.port
            || server.internal_address != server.address;
        self.demand(apart, "http_server.internal_port", "is the public port");
        for (key, number) in [
            ("http_connections", server.http_connections),
            ("http_anonymous", server.http_anonymous),
        ] {
            let within = (1..=65_536).contains(&number);
            self.demand(within, &format!("http_server.{key}"), "must be from 1 to 65536");
        }
        let fits = server.http_bodies.0 >= HTTP_BODIES_MIN;
        let what = "must be at least 32MiB: a body of 16MiB counts twice";
        self.demand(fits, "http_server.http_bodies", what);
        self.tls("http_server.tls", &server.tls);
        self.tls("http_server.internal_tls", &server.internal_tls);
        self.autocert();
        self.warn(
            server.tls_external && !server.tls.enabled,
            "http_server.tls_external",
            "changes nothing: http_server.tls is off",
        );
        self.in_front();
        self.prefixes();
        self.compression();
        self.bodies();
        self.responses();
        let shutdown = &options.shutdown;
        self.not_zero("shutdown.timeout", shutdown.timeout);
        self.demand(
            shutdown.drain_window <= shutdown.timeout,
            "shutdown.drain_window",
            "must not be longer than shutdown.timeout: what is left then is cut",
        );
        self.not_zero("shutdown.state_max_age", shutdown.state_max_age);
        let kept =
            [("state_path", &shutdown.state_path), ("takeover_path", &shutdown.takeover_path)];
        for (key, path) in kept {
            let wanted = !["", "none"].contains(&path.as_str());
            let key = format!("shutdown.{key}");
            let in_redis = options.orderer() == Orderer::Redis;
            self.warn(wanted && in_redis, &key, "changes nothing: channels live in Redis");
            let in_nats = options.orderer() == Orderer::Nats;
            self.warn(wanted && in_nats, &key, "changes nothing: NATS keeps no channels");
        }
        let filter = options.log.filter();
        // A word that is no level would be taken for the name of a module.
        let levels = ["off", "error", "warn", "info", "debug", "trace"];
        let level = |part: &str| levels.iter().any(|level| part.eq_ignore_ascii_case(level));
        let parts = filter.split(',').all(|part| part.contains('=') || level(part.trim()));
        self.demand(
            parts && EnvFilter::try_new(filter).is_ok(),
            "log.level",
            format!(
                "must be error, warn, info, debug, trace or none, or that per module as in \
                 info,ringhold::engine=debug, not \"{}\"",
                options.log.level
            ),
        );
        let public = server.internal_port == 0 || options.http_api.external;
        self.warn(
            options.http_api.insecure && public && !server.address.is_loopback(),
            "http_api.insecure",
            "whoever reaches the public port may publish to everybody",
        );
    }

    /// Answers to connect requests that fail.
    fn responses(&mut self) {
        let options = self.options;
        for (table, responses) in [
            ("uni_sse", &options.uni_sse.connect_code_to_http_response),
            ("uni_http_stream", &options.uni_http_stream.connect_code_to_http_response),
        ] {
            for (index, transform) in responses.transforms.iter().enumerate() {
                let table = format!("{table}.connect_code_to_http_response.transforms[{index}]");
                let key = |name: &str| format!("{table}.{name}");
                self.demand(transform.code > 0, &key("code"), "must be the code of an error");
                let status = (200..=599).contains(&transform.to.status_code);
                self.demand(status, &key("to.status_code"), "must be from 200 to 599");
                let short = transform.to.body.len() <= BODY_MAX;
                self.demand(short, &key("to.body"), "must be at most 4096 bytes");
            }
        }
    }

    /// Compression of messages.
    fn compression(&mut self) {
        let (websocket, uni) = (&self.options.websocket, &self.options.uni_websocket);
        for (key, level) in [
            ("websocket.compression_level", websocket.compression_level),
            ("uni_websocket.compression_level", uni.compression_level),
        ] {
            self.demand((1..=9).contains(&level), key, "must be from 1 to 9");
        }
        let inflated = websocket.decompressed_message_size_limit;
        self.demand(
            inflated <= websocket.message_size_limit,
            "websocket.decompressed_message_size_limit",
            "must be at most websocket.message_size_limit, which holds for every message",
        );
        // A message that both kinds of clients get is compressed once.
        let both = websocket.compression && !websocket.disabled && uni.compression && uni.enabled;
        let alike = |same: bool| !both || same;
        self.demand(
            alike(websocket.compression_level == uni.compression_level),
            "uni_websocket.compression_level",
            "must be the same as websocket.compression_level: a worker has one compressor",
        );
        self.demand(
            alike(websocket.compression_min_size == uni.compression_min_size),
            "uni_websocket.compression_min_size",
            "must be the same as websocket.compression_min_size: a worker has one compressor",
        );
    }

    /// Reverse proxies.
    fn in_front(&mut self) {
        let server = &self.options.http_server;
        let (named, headers) = (!server.trusted_proxies.is_empty(), server.proxy_protocol);
        let what = "believes nobody as long as http_server.trusted_proxies names no proxy";
        self.demand(named || !server.forwarded_for, "http_server.forwarded_for", what);
        let off = headers == ProxyProtocol::Off;
        self.demand(named || off, "http_server.proxy_protocol", what);
        self.demand(
            !named || !off || server.forwarded_for,
            "http_server.trusted_proxies",
            "are believed nothing: set forwarded_for or proxy_protocol beside it",
        );
        let limited = self.options.engine.max_per_address > 0;
        self.warn(
            limited && !named && server.address.is_loopback(),
            "engine.max_per_address",
            "counts all clients of a proxy as one, unless http_server.trusted_proxies names it",
        );
    }

    pub(super) fn admin(&mut self) {
        let (admin, server) = (&self.options.admin, &self.options.http_server);
        if !admin.enabled {
            return;
        }
        self.demand(!admin.password.is_empty(), "admin.password", "is needed: the page is on");
        let short = |text: &str| !text.is_empty() && text.chars().count() < PASSWORD_MIN;
        self.warn(
            short(admin.password.reveal()),
            "admin.password",
            "is short; 12 characters or more are not guessed",
        );
        self.warn(
            short(admin.secret.reveal()),
            "admin.secret",
            "is short; 32 random characters are not guessed",
        );
        let public = server.internal_port == 0 || admin.external;
        self.warn(
            public && !server.address.is_loopback(),
            "admin.enabled",
            "whoever reaches the public port may try passwords; better set \
             http_server.internal_port",
        );
        let prefix = &admin.handler_prefix;
        let path = prefix.is_empty() || prefix == "/" || is_path(prefix);
        let what = format!("must be empty or a path as \"/x\", not \"{prefix}\"");
        self.demand(path, "admin.handler_prefix", what);
    }

    fn bodies(&mut self) {
        let options = self.options;
        let most = options.engine.max_inbound;
        let emulates = options.sse.enabled || options.http_stream.enabled;
        for (table, enabled, size) in [
            ("sse", options.sse.enabled, options.sse.max_request_body_size),
            ("http_stream", options.http_stream.enabled, options.http_stream.max_request_body_size),
            ("emulation", emulates, options.emulation.max_request_body_size),
            ("uni_sse", options.uni_sse.enabled, options.uni_sse.max_request_body_size),
            (
                "uni_http_stream",
                options.uni_http_stream.enabled,
                options.uni_http_stream.max_request_body_size,
            ),
        ] {
            let key = format!("{table}.max_request_body_size");
            self.demand(!enabled || size <= most, &key, "must be at most engine.max_inbound");
        }
    }

    fn prefixes(&mut self) {
        let options = self.options;
        let prefixes = [
            ("websocket", &options.websocket.handler_prefix),
            ("sse", &options.sse.handler_prefix),
            ("http_stream", &options.http_stream.handler_prefix),
            ("emulation", &options.emulation.handler_prefix),
            ("uni_sse", &options.uni_sse.handler_prefix),
            ("uni_http_stream", &options.uni_http_stream.handler_prefix),
            ("uni_websocket", &options.uni_websocket.handler_prefix),
            ("http_api", &options.http_api.handler_prefix),
            ("prometheus", &options.prometheus.handler_prefix),
            ("health", &options.health.handler_prefix),
        ];
        for (n, (table, prefix)) in prefixes.iter().enumerate() {
            let key = format!("{table}.handler_prefix");
            let path = is_path(prefix);
            self.demand(path, &key, format!("must be a path as \"/x\", not \"{prefix}\""));
            let bare = prefix.trim_end_matches('/');
            for (other, same) in &prefixes[..n] {
                let differs = same.trim_end_matches('/') != bare;
                self.demand(differs, &key, format!("is the same as {other}.handler_prefix"));
            }
        }
    }

    pub(super) fn engine(&mut self) {
        let engine = &self.options.engine;
        let tick = engine.tick;
        let ticks = tick >= Duration::from_millis(1) && tick <= Duration::from_secs(1);
        self.demand(ticks, "engine.tick", "must be from 1ms to 1s");
        let most = format!("must be at most {WORKERS_MAX}");
        self.demand(engine.workers <= WORKERS_MAX, "engine.workers", most);
        let head = (256..=64 * 1024).contains(&engine.max_head.0);
        self.demand(head, "engine.max_head", "must be from 256 bytes to 64KiB");
        self.demand(engine.max_fragments > 0, "engine.max_fragments", "must not be zero");
        let some = engine.max_tls_handshakes > 0;
        self.demand(some, "engine.max_tls_handshakes", "must not be zero");
        self.demand(engine.mailbox > 0, "engine.mailbox", "must not be zero");
        let room = engine.mailbox_bytes >= self.options.websocket.message_size_limit;
        let what = "must be at least websocket.message_size_limit";
        self.demand(room, "engine.mailbox_bytes", what);
        let grace = engine.min_upload_rate == 0 || engine.upload_grace >= tick;
        self.demand(grace, "engine.upload_grace", "must be at least one engine.tick");
        let rate = u32::try_from(engine.byte_rate.0).is_ok();
        self.demand(rate, "engine.byte_rate", "must be less than 4GiB");
        self.not_zero("engine.handshake_timeout", engine.handshake_timeout);
        self.not_zero("engine.close_timeout", engine.close_timeout);
        let room = engine.max_inbound >= self.options.websocket.message_size_limit;
        let what = "must be at least websocket.message_size_limit";
        self.demand(room, "engine.max_inbound", what);
        let ping = self.options.client.plan.ping_interval;
        let possible = ping.is_zero() || ping >= tick && ping <= tick.saturating_mul(65_535);
        let what = "must be from one engine.tick to 65,535 of them";
        self.demand(possible, "client.ping_interval", what);
        // What the engine demands beyond this is a mistake of ours, and still better said here.
        if self.reader.mistakes.is_empty()
            && let Err(error) = self.options.engine_config().check()
        {
            self.wrong("engine", error.to_string());
        }
    }

    fn not_zero(&mut self, key: &str, duration: Duration) {
        self.demand(!duration.is_zero(), key, "must not be zero");
    }
}

/// One body of the API's limit, and what it is decoded into.
const HTTP_BODIES_MIN: usize = 32 << 20;

fn is_path(prefix: &str) -> bool {
    let legal = |c: char| c.is_ascii_graphic() && !matches!(c, '?' | '#' | '{' | '}' | '*');
    prefix.starts_with('/') && prefix.len() > 1 && prefix.chars().all(legal)
}

/// Shorter passwords are worth a word.
const PASSWORD_MIN: usize = 12;

/// Bytes of the answer to a connect request that fails.
const BODY_MAX: usize = 4096;
