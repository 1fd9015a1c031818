//! The Redis of the engine: that it can be addressed, and believed.
//!
//! Reads the files that the options name, and opens no connection: `ringhold doctor` does.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::{EngineType, Redis, RedisTls};
use super::Check;
use crate::tls::keys;

impl Check<'_> {
    pub(super) fn redis(&mut self) {
        let engine = &self.options.engine;
        let redis = &engine.redis;
        if engine.kind != EngineType::Redis {
            let given = *redis != Redis::default();
            let what = "is not heard: engine.type is \"memory\"";
            return self.warn(given, "engine.redis", what);
        }
        self.addresses();
        self.demand(!redis.prefix.is_empty(), "engine.redis.prefix", "must not be empty");
        for (key, duration) in
            [("connect_timeout", redis.connect_timeout), ("io_timeout", redis.io_timeout)]
        {
            let what = "must be from 1ms to 1m";
            let range = Duration::from_millis(1)..=Duration::from_secs(60);
            self.demand(range.contains(&duration), &format!("engine.redis.{key}"), what);
        }
        let enough = redis.presence_ttl >= Duration::from_secs(3);
        self.demand(enough, "engine.redis.presence_ttl", "must be at least 3s");
        self.demand(redis.requests > 0, "engine.redis.requests", "must not be zero");
        let room = redis.requests_bytes >= self.options.websocket.message_size_limit;
        let what = "must be at least websocket.message_size_limit";
        self.demand(room, "engine.redis.requests_bytes", what);
        let legal = |c: char| c.is_ascii_graphic();
        let legal = redis.client_name.chars().all(legal);
        self.demand(legal, "engine.redis.client_name", "must have no spaces, and only ASCII");
        let nameless = redis.user.is_empty() || !redis.password.is_empty();
        self.demand(nameless, "engine.redis.password", "is needed: there is a user");
        self.trust(&redis.tls);
    }

    fn addresses(&mut self) {
        let redis = &self.options.engine.redis;
        let some = !redis.address.is_empty();
        self.demand(some, "engine.redis.address", "is needed: engine.type is \"redis\"");
        match redis.servers() {
            Err((index, what)) => {
                let what = match redis.address.len() {
                    1 => what,
                    _ => format!("number {} {what}", index + 1),
                };
                self.wrong("engine.redis.address", what);
            }
            Ok(servers) => {
                // Messages pass through all databases of one.
                let places: BTreeSet<_> =
                    servers.iter().map(|server| server.place.to_string()).collect();
                let differ = places.len() == servers.len();
                let what = "names a server twice: messages pass through all its databases";
                self.demand(differ, "engine.redis.address", what);
                let secure = servers.iter().any(|server| server.tls);
                let given = redis.tls != RedisTls::default();
                let what = "is not heard: no address is spoken to over TLS";
                self.warn(given && !secure, "engine.redis.tls", what);
                let open = servers.iter().any(|server| server.tls);
                let what = "the connection is encrypted, to whomever";
                let key = "engine.redis.tls.insecure_skip_verify";
                self.warn(open && redis.tls.insecure_skip_verify, key, what);
            }
        }
    }

    /// Demands that the named certificates and keys load.
    fn trust(&mut self, tls: &RedisTls) {
        let both = tls.cert_pem.is_empty() == tls.key_pem.is_empty();
        self.demand(both, "engine.redis.tls.key_pem", "and cert_pem belong together");
        // The host's certificates are looked for where they are needed.
        if !both || (tls.server_ca_pem.is_empty() && tls.cert_pem.is_empty()) {
            return;
        }
        if let Err(fault) = keys::stream_client(&tls.trust(), tls.identity().as_ref()) {
            self.wrong("engine.redis.tls", fault.to_string());
        }
    }
}
