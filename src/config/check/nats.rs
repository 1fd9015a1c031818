//! The NATS of `broker`: that it can be addressed, and that nothing is wanted which it does not
//! keep.
//!
//! Reads the files that the options name, and opens no connection: `ringhold doctor` does.

use std::time::Duration;

use super::super::{Broker, EngineType, Nats, Orderer};
use super::Check;
use crate::gateway::plan::{ChannelOptions, ChannelPlan};

impl Check<'_> {
    pub(super) fn broker(&mut self) {
        let broker = &self.options.broker;
        if !broker.enabled {
            let given = broker.nats != Nats::default();
            self.warn(given, "broker.nats", "is not heard: broker.enabled is false");
            return;
        }
        match broker.kind.as_str() {
            "nats" => self.nats(broker),
            "memory" | "" => self.warn(true, "broker.enabled", "changes nothing: see engine.type"),
            "redis" => {
                let what = "ringhold has Redis as engine.type = \"redis\", with engine.redis";
                self.wrong("broker.type", what);
            }
            other => {
                let what = format!("must be \"nats\" or \"memory\", not \"{other}\"");
                self.wrong("broker.type", what);
            }
        }
    }

    fn nats(&mut self, broker: &Broker) {
        let nats = &broker.nats;
        match nats.servers() {
            Err(what) => self.wrong("broker.nats.url", what),
            Ok(servers) => {
                let secure = servers.iter().any(|server| server.tls);
                let key = "broker.nats.tls";
                // A server may ask for TLS by itself.
                let what = "the connection is encrypted, to whomever";
                let anybody = secure && nats.tls.insecure_skip_verify;
                self.warn(anybody, &format!("{key}.insecure_skip_verify"), what);
            }
        }
        self.trust("broker.nats.tls", &nats.tls);
        let what = "must be words with dots between them, without spaces, * and >";
        self.demand(is_subject(&nats.prefix), "broker.nats.prefix", what);
        for (key, duration) in
            [("dial_timeout", nats.dial_timeout), ("write_timeout", nats.write_timeout)]
        {
            let range = Duration::from_millis(1)..=Duration::from_secs(60);
            let what = "must be from 1ms to 1m";
            self.demand(range.contains(&duration), &format!("broker.nats.{key}"), what);
        }
        self.demand(nats.requests > 0, "broker.nats.requests", "must not be zero");
        let room = nats.requests_bytes >= self.options.websocket.message_size_limit;
        let what = "must be at least websocket.message_size_limit";
        self.demand(room, "broker.nats.requests_bytes", what);
        self.raw_mode(nats);
    }

    fn raw_mode(&mut self, nats: &Nats) {
        let raw = &nats.raw_mode;
        let key = |name: &str| format!("broker.nats.raw_mode.{name}");
        let given = !raw.prefix.is_empty() || !raw.channel_replacements.is_empty();
        self.warn(given && !raw.enabled, &key("enabled"), "is false: the rest is not heard");
        if !raw.enabled {
            return;
        }
        // It may end within a word or after one.
        let whole = format!("{}x", raw.prefix);
        let what = "must be words with dots between them, without spaces, * and >";
        self.demand(is_subject(&whole), &key("prefix"), what);
        let all = "clients reach each subject of the server that this user may use";
        self.warn(raw.prefix.is_empty(), &key("prefix"), all);
        let named = !raw.channel_replacements.contains_key("");
        self.demand(named, &key("channel_replacements"), "must not replace an empty text");
    }

    /// Reports what channels of these options want and NATS does not keep.
    pub(super) fn kept_by_broker(&mut self, index: Option<usize>, rules: &ChannelOptions) {
        if self.options.orderer() != Orderer::Nats {
            return;
        }
        let key = |name: &str| ChannelPlan::name_of(index, name);
        let what = "NATS keeps no history: it must be 0, or broker.enabled false";
        self.demand(rules.history_size == 0, &key("history_size"), what);
        let what = "is impossible: broker.type is \"nats\", which keeps no history";
        for (name, on) in [
            ("force_recovery", rules.force_recovery),
            ("allow_recovery", rules.allow_recovery),
            ("force_positioning", rules.force_positioning),
            ("allow_positioning", rules.allow_positioning),
        ] {
            self.demand(!on, &key(name), what);
        }
        let alone = rules.presence && self.options.engine.kind != EngineType::Redis;
        let what = "is that of each node by itself: NATS keeps none; engine.type = \"redis\" \
                    beside it keeps that of all";
        self.warn(alone, &key("presence"), what);
    }
}

/// Whether it is one subject of NATS.
fn is_subject(text: &str) -> bool {
    let word = |word: &str| !word.is_empty() && !word.contains(['*', '>']);
    let fine = |c: char| !c.is_whitespace() && !c.is_control();
    text.split('.').all(word) && text.chars().all(fine)
}
