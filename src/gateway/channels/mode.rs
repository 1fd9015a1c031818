//! How a subscription behaves: the namespace's options, what a token or the backend overrides, and
//! what the subscriber wishes and may have.

use serde::{Deserialize, Serialize};

use super::{ResolvedChannel, Subject};
use crate::gateway::json::nullable;
use crate::gateway::plan::RecoveryMode;

/// Where one subscription differs from its namespace, as tokens, proxies and the server API say it:
/// `{"presence": {"value": true}}`.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, prost::Message)]
pub struct Override {
    /// Take part in presence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[prost(message, optional, tag = "1")]
    pub presence: Option<Switch>,
    /// Announce coming and going.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[prost(message, optional, tag = "2")]
    pub join_leave: Option<Switch>,
    /// Be told of others' coming and going.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[prost(message, optional, tag = "5")]
    pub force_push_join_leave: Option<Switch>,
    /// Recover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[prost(message, optional, tag = "3")]
    pub force_recovery: Option<Switch>,
    /// Watch the position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[prost(message, optional, tag = "4")]
    pub force_positioning: Option<Switch>,
}

/// On or off, where nothing would mean neither.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, prost::Message)]
pub struct Switch {
    /// On.
    #[serde(default, deserialize_with = "nullable")]
    #[prost(bool, tag = "1")]
    pub value: bool,
}

/// What a subscriber asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Its position watched.
    pub positioned: bool,
    /// Publications replayed when it comes back.
    pub recoverable: bool,
    /// Told who comes and goes.
    pub join_leave: bool,
}

/// How a subscription behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// It is listed in presence.
    pub presence: bool,
    /// Its coming and going is announced.
    pub join_leave: bool,
    /// It is told of others' coming and going.
    pub push_join_leave: bool,
    /// Its position is watched. Always with `recovery`.
    pub positioning: bool,
    /// It can recover.
    pub recovery: bool,
    /// What is replayed then.
    pub recovery_mode: RecoveryMode,
    /// The newest publication is given at every subscribe.
    pub auto_cache_recover: bool,
}

impl ResolvedChannel<'_, '_> {
    /// How a subscription that is allowed behaves. For one that the server or the backend makes,
    /// the wish is the default: nobody asked.
    pub fn mode(&self, asker: Subject<'_>, overrides: &Override, wish: Wish) -> Mode {
        let options = &self.rules.options;
        let over = |switch: Option<Switch>, otherwise| switch.map_or(otherwise, |s| s.value);
        // What subscribers may read, this one may: it is about to be one.
        let asker = Subject { subscribed: true, ..asker };
        let reads = self.sees_history(asker);
        let recovery = over(overrides.force_recovery, options.force_recovery)
            || wish.recoverable && (options.allow_recovery || reads);
        let positioning = over(overrides.force_positioning, options.force_positioning)
            || wish.positioned && (options.allow_positioning || reads);
        let told = over(overrides.force_push_join_leave, options.force_push_join_leave)
            || wish.join_leave && options.join_leave && self.sees_presence(asker);
        let mode = options.force_recovery_mode;
        Mode {
            presence: over(overrides.presence, options.presence),
            join_leave: over(overrides.join_leave, options.join_leave),
            push_join_leave: told,
            positioning: positioning || recovery,
            recovery,
            recovery_mode: mode,
            auto_cache_recover: recovery
                && options.auto_cache_recover
                && mode == RecoveryMode::Cache,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Namespaces;
    use super::*;
    use crate::gateway::plan::{ChannelOptions, Plan};

    const OFF: Mode = Mode {
        presence: false,
        join_leave: false,
        push_join_leave: false,
        positioning: false,
        recovery: false,
        recovery_mode: RecoveryMode::Stream,
        auto_cache_recover: false,
    };
    const ALL: Wish = Wish { positioned: true, recoverable: true, join_leave: true };
    const ON: Option<Switch> = Some(Switch { value: true });
    const NOT: Option<Switch> = Some(Switch { value: false });

    fn mode(change: impl Fn(&mut ChannelOptions), over: &Override, wish: Wish) -> Mode {
        mode_for("42", change, over, wish)
    }

    fn mode_for(
        user: &str,
        change: impl Fn(&mut ChannelOptions),
        over: &Override,
        wish: Wish,
    ) -> Mode {
        let mut options = Plan::default();
        change(&mut options.channel.without_namespace);
        let namespaces = Namespaces::new(&options).unwrap();
        let asker = Subject { user, ..Subject::default() };
        namespaces.resolve("x").unwrap().mode(asker, over, wish)
    }

    #[test]
    fn wishes_are_granted_where_they_are_allowed() {
        let none = Override::default();
        assert_eq!(mode(|_| {}, &none, ALL), OFF);
        let positioned = Mode { positioning: true, ..OFF };
        let recovers = Mode { recovery: true, ..positioned };
        assert_eq!(mode(|o| o.allow_positioning = true, &none, ALL), positioned);
        assert_eq!(mode(|o| o.allow_positioning = true, &none, Wish::default()), OFF);
        assert_eq!(mode(|o| o.allow_recovery = true, &none, ALL), recovers);
        assert_eq!(mode(|o| o.allow_recovery = true, &none, Wish::default()), OFF);
        // Who may read the history may have both.
        assert_eq!(mode(|o| o.allow_history_for_subscriber = true, &none, ALL), recovers);
        assert_eq!(mode(|o| o.allow_history_for_client = true, &none, ALL), recovers);
        assert_eq!(mode_for("", |o| o.allow_history_for_client = true, &none, ALL), OFF);
        // Who may see presence may be told of changes, where there are any.
        let announced = Mode { join_leave: true, ..OFF };
        assert_eq!(mode(|o| o.join_leave = true, &none, ALL), announced);
        assert_eq!(mode(|o| o.allow_presence_for_subscriber = true, &none, ALL), OFF);
        let both = |o: &mut ChannelOptions| {
            o.join_leave = true;
            o.allow_presence_for_subscriber = true;
        };
        assert_eq!(mode(both, &none, ALL), Mode { push_join_leave: true, ..announced });
        assert_eq!(mode(both, &none, Wish::default()), announced);
    }

    #[test]
    fn namespaces_force_and_overrides_are_stronger() {
        let forced = |o: &mut ChannelOptions| {
            o.presence = true;
            o.join_leave = true;
            o.force_push_join_leave = true;
            o.force_positioning = true;
            o.force_recovery = true;
            o.force_recovery_mode = RecoveryMode::Cache;
            o.auto_cache_recover = true;
        };
        let all = Mode {
            presence: true,
            join_leave: true,
            push_join_leave: true,
            positioning: true,
            recovery: true,
            recovery_mode: RecoveryMode::Cache,
            auto_cache_recover: true,
        };
        assert_eq!(mode(forced, &Override::default(), Wish::default()), all);
        let off = Override {
            presence: NOT,
            join_leave: NOT,
            force_push_join_leave: NOT,
            force_recovery: NOT,
            force_positioning: NOT,
        };
        let cache = Mode { recovery_mode: RecoveryMode::Cache, ..OFF };
        assert_eq!(mode(forced, &off, Wish::default()), cache);
        let on = Override {
            presence: ON,
            join_leave: ON,
            force_push_join_leave: ON,
            force_recovery: ON,
            force_positioning: ON,
        };
        let stream = Mode { recovery_mode: RecoveryMode::Stream, auto_cache_recover: false, ..all };
        assert_eq!(mode(|_| {}, &on, Wish::default()), stream);
        let only = Override { force_recovery: ON, ..Override::default() };
        let expected = Mode { recovery: true, positioning: true, ..OFF };
        assert_eq!(mode(|_| {}, &only, Wish::default()), expected);
    }

    #[test]
    fn overrides_are_read_as_tokens_write_them() {
        let text = r#"{"presence":{"value":true},"force_recovery":{"value":false},"other":1}"#;
        let over: Override = serde_json::from_str(text).unwrap();
        let expected = Override { presence: ON, force_recovery: NOT, ..Override::default() };
        assert_eq!(over, expected);
        let written = serde_json::to_string(&expected).unwrap();
        assert_eq!(written, r#"{"presence":{"value":true},"force_recovery":{"value":false}}"#);
    }
}
