//! The Redis of the engine: that it can be addressed, and believed.
//!
//! Reads the files that the options name, and opens no connection: `ringhold doctor` does.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::{EngineType, Orderer, Redis, RedisTls};
use super::Check;
use crate::broker::server::{RedisPlace, RedisServer};
use crate::tls::keys;

/// Slots of a cluster.
const PARTITIONS_MAX: u64 = 16_384;

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
        self.partitions();
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
        for (key, name) in [
            ("client_name", &redis.client_name),
            ("sentinel_client_name", &redis.sentinel_client_name),
        ] {
            let legal = name.chars().all(|c| c.is_ascii_graphic());
            let what = "must have no spaces, and only ASCII";
            self.demand(legal, &format!("engine.redis.{key}"), what);
        }
        for (user, password, key) in [
            (&redis.user, &redis.password, "password"),
            (&redis.sentinel_user, &redis.sentinel_password, "sentinel_password"),
        ] {
            let nameless = user.is_empty() || !password.is_empty();
            let key = format!("engine.redis.{key}");
            self.demand(nameless, &key, "is needed: there is a user");
        }
        self.trust("engine.redis.tls", &redis.tls);
        self.trust("engine.redis.sentinel_tls", &redis.sentinel_tls);
    }

    fn addresses(&mut self) {
        let redis = &self.options.engine.redis;
        let (key, list) = redis.addresses();
        let key = format!("engine.redis.{key}");
        self.demand(!list.is_empty(), &key, "is needed: engine.type is \"redis\"");
        let default = Redis::default();
        let what = format!("is not heard: {key} is");
        let both = key != "engine.redis.address" && redis.address != default.address;
        self.warn(both, "engine.redis.address", &what);
        let both = key == "engine.redis.cluster_address" && !redis.sentinel_address.is_empty();
        self.warn(both, "engine.redis.sentinel_address", &what);
        match redis.servers() {
            Err(fault) => self.wrong(&format!("engine.redis.{}", fault.key), fault.to_string()),
            Ok(servers) => {
                // Messages pass through all databases of one.
                let places: BTreeSet<_> =
                    servers.iter().map(|server| server.place.to_string()).collect();
                let differ = places.len() == servers.len();
                let what = "names a server twice: messages pass through all its databases";
                self.demand(differ, &key, what);
                let secure = servers.iter().any(|server| server.tls);
                self.heard("engine.redis.tls", &redis.tls, secure, "no address is spoken to");
                let groups = servers.iter().filter_map(|server| match &server.place {
                    RedisPlace::Sentinel(sentinels) => Some(sentinels),
                    _ => None,
                });
                let groups: Vec<_> = groups.collect();
                let secure = groups.iter().any(|group| group.tls);
                let key = "engine.redis.sentinel_tls";
                self.heard(key, &redis.sentinel_tls, secure, "no Sentinel is spoken to");
                let given = !redis.sentinel_master_name.is_empty()
                    || !redis.sentinel_user.is_empty()
                    || !redis.sentinel_password.is_empty();
                let what = "is not heard: there are no Sentinels";
                self.warn(given && groups.is_empty(), "engine.redis.sentinel_address", what);
            }
        }
    }

    /// Sharded messages need slots, and nobody hears them where NATS carries all.
    fn partitions(&mut self) {
        let redis = &self.options.engine.redis;
        let (key, count) = (
            "engine.redis.sharded_pub_sub_partitions",
            u64::from(redis.sharded_pub_sub_partitions),
        );
        if count == 0 {
            return;
        }
        self.demand(count <= PARTITIONS_MAX, key, "must be at most 16384, the slots of a cluster");
        let cluster = |server: &RedisServer| matches!(server.place, RedisPlace::Cluster(_));
        let all = redis.servers().map_or(true, |servers| servers.iter().all(cluster));
        let what = "needs Redis Clusters only (cluster_address, or addresses of redis+cluster://): \
                    no other server has slots for sharded messages";
        self.demand(all, key, what);
        let nats = self.options.orderer() == Orderer::Nats;
        self.warn(nats, key, "is not heard: messages pass through broker.nats");
    }

    /// Warns of a table of TLS that changes nothing, or that lets anybody in.
    fn heard(&mut self, key: &str, tls: &RedisTls, secure: bool, who: &str) {
        let given = *tls != RedisTls::default();
        self.warn(given && !secure, key, &format!("is not heard: {who} over TLS"));
        let what = "the connection is encrypted, to whomever";
        let key = format!("{key}.insecure_skip_verify");
        self.warn(secure && tls.insecure_skip_verify, &key, what);
    }

    /// Demands that the named certificates and keys load.
    pub(super) fn trust(&mut self, key: &str, tls: &RedisTls) {
        let both = tls.cert_pem.is_empty() == tls.key_pem.is_empty();
        self.demand(both, &format!("{key}.key_pem"), "and cert_pem belong together");
        // The host's certificates are looked for where they are needed.
        if !both || (tls.server_ca_pem.is_empty() && tls.cert_pem.is_empty()) {
            return;
        }
        if let Err(fault) = keys::stream_client(&tls.trust(), tls.identity().as_ref()) {
            self.wrong(key, fault.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{Options, Sources};

    fn load(keys: &str) -> Result<String, String> {
        let text = format!("[engine]\ntype = \"redis\"\n{keys}");
        let sources = Sources { file: Some("ringhold.toml".into()), ..Sources::default() };
        let loaded = Options::from_text(&sources, &text);
        let loaded = loaded.map_err(|mistakes| mistakes.to_string())?;
        Ok(loaded.warnings.join("\n"))
    }

    #[test]
    fn sharded_messages_need_slots() {
        let keys = |count: u32, more: &str| {
            load(&format!("[engine.redis]\nsharded_pub_sub_partitions = {count}\n{more}"))
        };
        for clusters in [
            "cluster_address = [\"h:1,i:1\", \"j:1\"]",
            "address = [\"redis+cluster://h:1?addr=i:1\", \"rediss+cluster://j:1\"]",
        ] {
            for count in [0, 1, 64, 16_384] {
                assert_eq!(keys(count, clusters), Ok(String::new()), "{count}, {clusters}");
            }
            assert!(keys(16_385, clusters).unwrap_err().contains("must be at most 16384"));
        }
        for others in [
            "",
            "address = [\"h:1\"]",
            "address = [\"redis+cluster://h:1\", \"h:1\"]",
            "sentinel_address = [\"h:1\"]\nsentinel_master_name = \"m\"",
        ] {
            let wrong = keys(64, others).unwrap_err();
            let what = "engine.redis.sharded_pub_sub_partitions: needs Redis Clusters only";
            assert!(wrong.contains(what), "{others}: {wrong}");
            assert!(keys(0, others).is_ok());
        }
        let beside = "cluster_address = [\"h:1\"]\n[broker]\nenabled = true\ntype = \"nats\"\n";
        let warnings = keys(64, beside).unwrap();
        assert!(warnings.contains("partitions: is not heard: messages pass through broker.nats"));
    }
}
