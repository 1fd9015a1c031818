//! `channel`: markers, names of namespaces, and options that need each other.

use std::time::Duration;

use super::Check;
use crate::gateway::channels::pattern_of;
use crate::gateway::plan::{ChannelOptions, ChannelPlan, RecoveryMode};

impl Check<'_> {
    pub(super) fn channels(&mut self) {
        let channel = &self.options.channel.plan;
        self.whole_seconds("channel.history_meta_ttl", channel.history_meta_ttl);
        self.markers(channel);
        self.rules(None, &channel.without_namespace);
        for (index, namespace) in channel.namespaces.iter().enumerate() {
            let key = ChannelPlan::name_of(Some(index), "name");
            let name = namespace.name.as_str();
            let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if name.len() < 2 || !name.chars().all(legal) {
                let what = "must have two or more letters, digits, `-`, `_` or `.`";
                self.wrong(&key, format!("{what}, not \"{name}\""));
            } else if channel.namespaces[..index].iter().any(|earlier| earlier.name == name) {
                self.wrong(&key, format!("\"{name}\" is there already"));
            } else {
                let within = |mark: &str| !mark.is_empty() && name.contains(mark);
                let reachable =
                    !within(&channel.namespace_boundary) && !within(&channel.private_prefix);
                self.demand(reachable, &key, "holds a marker, so that no channel could be in it");
            }
            self.rules(Some(index), &namespace.options);
        }
    }

    fn markers(&mut self, channel: &ChannelPlan) {
        let markers = [
            ("private_prefix", &channel.private_prefix),
            ("namespace_boundary", &channel.namespace_boundary),
            ("user_boundary", &channel.user_boundary),
            ("user_separator", &channel.user_separator),
        ];
        for (n, (name, marker)) in markers.iter().enumerate() {
            let key = format!("channel.{name}");
            for (other, same) in &markers[..n] {
                let differs = marker.is_empty() || marker != same;
                self.demand(differs, &key, format!("is the same as channel.{other}"));
            }
            self.demand(marker.is_ascii(), &key, "must be ASCII");
        }
    }

    fn rules(&mut self, index: Option<usize>, rules: &ChannelOptions) {
        let key = |name: &str| ChannelPlan::name_of(index, name);
        let sized = rules.history_size > 0;
        let timed = !rules.history_ttl.is_zero();
        self.demand(!sized || timed, &key("history_size"), "needs history_ttl beside it");
        self.demand(!timed || sized, &key("history_ttl"), "needs history_size beside it");
        self.whole_seconds(&key("history_ttl"), rules.history_ttl);
        self.whole_seconds(&key("history_meta_ttl"), rules.history_meta_ttl);
        let meta = match rules.history_meta_ttl {
            Duration::ZERO => self.options.channel.plan.history_meta_ttl,
            ttl => ttl,
        };
        self.demand(
            rules.history_ttl <= meta,
            &key("history_ttl"),
            "must not be longer than history_meta_ttl: offsets would be forgotten first",
        );
        self.kept_by_broker(index, rules);
        let history = sized && timed;
        let needs = "needs history_size and history_ttl";
        self.demand(history || !rules.force_recovery, &key("force_recovery"), needs);
        for (name, on) in [
            ("allow_recovery", rules.allow_recovery),
            ("force_positioning", rules.force_positioning),
            ("allow_positioning", rules.allow_positioning),
            ("allow_history_for_client", rules.allow_history_for_client),
            ("allow_history_for_subscriber", rules.allow_history_for_subscriber),
        ] {
            self.warn(on && !history, &key(name), "does nothing without history");
        }
        let cache = rules.force_recovery && rules.force_recovery_mode == RecoveryMode::Cache;
        self.demand(
            cache || !rules.auto_cache_recover,
            &key("auto_cache_recover"),
            "needs force_recovery and force_recovery_mode = \"cache\"",
        );
        if !rules.channel_regex.is_empty()
            && let Err(what) = pattern_of(&rules.channel_regex)
        {
            self.wrong(&key("channel_regex"), what);
        }
        for (name, on) in [
            ("allow_presence_for_client", rules.allow_presence_for_client),
            ("allow_presence_for_subscriber", rules.allow_presence_for_subscriber),
        ] {
            self.warn(on && !rules.presence, &key(name), "does nothing without presence");
        }
        let (subscribe, publish) =
            (rules.allow_subscribe_for_client, rules.allow_publish_for_client);
        let publish = publish || rules.allow_publish_for_subscriber;
        let alone = "does nothing without allow_…_for_client or _for_subscriber";
        let anonymous = rules.allow_subscribe_for_anonymous;
        self.warn(anonymous && !subscribe, &key("allow_subscribe_for_anonymous"), alone);
        let anonymous = rules.allow_publish_for_anonymous;
        self.warn(anonymous && !publish, &key("allow_publish_for_anonymous"), alone);
    }

    /// Streams forget by the second.
    fn whole_seconds(&mut self, key: &str, duration: Duration) {
        self.demand(duration.subsec_nanos() == 0, key, "must be in whole seconds");
    }
}
