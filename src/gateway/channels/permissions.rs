//! Who may do what: the ladders of checks, each step in Centrifugo's order.

use super::ResolvedChannel;
use crate::gateway::wire::Error;

/// What is known about who asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Subject<'a> {
    /// The connection's user; empty: nobody in particular.
    pub user: &'a str,
    /// `client.insecure`.
    pub insecure: bool,
    /// Whether the connection is subscribed to the channel.
    pub subscribed: bool,
}

/// What comes of a ladder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Do it.
    Allow,
    /// The subscription token decides.
    VerifyToken,
    /// The backend decides.
    AskProxy,
    /// The backend decides, and feeds the subscription from then on; of a publication: it goes
    /// there.
    AskStream,
    /// Answer with this.
    Refuse(Error),
}

impl Decision {
    fn from(allowed: bool) -> Self {
        if allowed { Self::Allow } else { Self::Refuse(Error::PERMISSION_DENIED) }
    }
}

impl Subject<'_> {
    /// Whether one of the three switches that most permissions have lets them.
    fn passes(&self, for_client: bool, for_subscriber: bool, for_anonymous: bool) -> bool {
        let is_somebody = !self.user.is_empty() || for_anonymous;
        is_somebody && (for_client || for_subscriber && self.subscribed) || self.insecure
    }
}

impl ResolvedChannel<'_, '_> {
    /// Whether somebody may subscribe. The gate of private channels and the list of users cannot be
    /// passed by options, and the gate not even by `insecure`.
    pub fn subscribe(&self, asker: Subject<'_>, has_token: bool) -> Decision {
        let options = &self.rules.options;
        if has_token {
            return Decision::VerifyToken;
        }
        if self.private {
            return Decision::Refuse(Error::PERMISSION_DENIED);
        }
        if self.is_user_limited() {
            return Decision::from(self.lists(asker.user) || asker.insecure);
        }
        if options.subscribe_proxy_enabled {
            return Decision::AskProxy;
        }
        if options.subscribe_stream_proxy_enabled {
            return Decision::AskStream;
        }
        let for_client = options.allow_subscribe_for_client;
        Decision::from(asker.passes(for_client, false, options.allow_subscribe_for_anonymous))
    }

    /// Whether somebody may publish. The data is checked before ([`super::Rules::accept_data`]).
    /// `fed`: the backend feeds the asker's subscription, and takes what it publishes.
    pub fn publish(&self, asker: Subject<'_>, fed: bool) -> Decision {
        let options = &self.rules.options;
        if options.publish_proxy_enabled {
            return Decision::AskProxy;
        }
        if options.subscribe_stream_proxy_enabled {
            return if fed { Decision::AskStream } else { Decision::Refuse(Error::NOT_AVAILABLE) };
        }
        Decision::from(asker.passes(
            options.allow_publish_for_client,
            options.allow_publish_for_subscriber,
            options.allow_publish_for_anonymous,
        ))
    }

    /// Whether somebody may ask who is there; 108 where nobody keeps it.
    pub fn presence(&self, asker: Subject<'_>) -> Decision {
        match self.rules.options.presence {
            true => Decision::from(self.sees_presence(asker)),
            false => Decision::Refuse(Error::NOT_AVAILABLE),
        }
    }

    /// Whether somebody may read the history; 108 where nobody keeps it.
    pub fn history(&self, asker: Subject<'_>) -> Decision {
        match self.rules.options.has_history() {
            true => Decision::from(self.sees_history(asker)),
            false => Decision::Refuse(Error::NOT_AVAILABLE),
        }
    }

    pub(super) fn sees_presence(&self, asker: Subject<'_>) -> bool {
        let options = &self.rules.options;
        asker.passes(
            options.allow_presence_for_client,
            options.allow_presence_for_subscriber,
            options.allow_presence_for_anonymous,
        )
    }

    pub(super) fn sees_history(&self, asker: Subject<'_>) -> bool {
        let options = &self.rules.options;
        asker.passes(
            options.allow_history_for_client,
            options.allow_history_for_subscriber,
            options.allow_history_for_anonymous,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::Namespaces;
    use super::*;
    use crate::gateway::plan::{ChannelOptions, Plan};

    const DENIED: Decision = Decision::Refuse(Error::PERMISSION_DENIED);
    const OFF: Decision = Decision::Refuse(Error::NOT_AVAILABLE);

    fn decide(
        options: ChannelOptions,
        channel: &str,
        decide: impl Fn(&ResolvedChannel<'_, '_>) -> Decision,
    ) -> Decision {
        let mut all = Plan::default();
        all.channel.without_namespace = options;
        let namespaces = Namespaces::new(&all).unwrap();
        decide(&namespaces.resolve(channel).unwrap())
    }

    /// Rows: what is on, channel, user, insecure, token; and what comes of it.
    #[test]
    fn subscribing_climbs_its_ladder() {
        use Decision::{Allow, AskProxy, AskStream, VerifyToken};
        let nothing = ChannelOptions::default;
        let client = || ChannelOptions { allow_subscribe_for_client: true, ..nothing() };
        let anonymous = || ChannelOptions { allow_subscribe_for_anonymous: true, ..nothing() };
        let both = || ChannelOptions { allow_subscribe_for_anonymous: true, ..client() };
        let limited = || ChannelOptions { allow_user_limited_channels: true, ..nothing() };
        let limited_all = || ChannelOptions {
            allow_user_limited_channels: true,
            subscribe_proxy_enabled: true,
            ..both()
        };
        let proxy = || ChannelOptions { subscribe_proxy_enabled: true, ..both() };
        let stream = || ChannelOptions {
            subscribe_stream_proxy_enabled: true,
            allow_user_limited_channels: true,
            ..both()
        };
        let rows: Vec<(ChannelOptions, &str, &str, bool, bool, Decision)> = vec![
            // Nothing is allowed unless said otherwise.
            (nothing(), "x", "42", false, false, DENIED),
            (nothing(), "x", "", false, false, DENIED),
            (nothing(), "x", "", true, false, Allow),
            (nothing(), "x#42", "42", false, false, DENIED),
            (nothing(), "x#42", "41", true, false, Allow),
            // The gate of private channels.
            (nothing(), "$x", "42", false, false, DENIED),
            (nothing(), "$x", "42", true, false, DENIED),
            (both(), "$x", "42", false, false, DENIED),
            (proxy(), "$x", "42", false, false, DENIED),
            (limited(), "$x#42", "42", false, false, DENIED),
            // A token decides wherever there is one.
            (nothing(), "$x", "42", false, true, VerifyToken),
            (nothing(), "x", "", false, true, VerifyToken),
            (both(), "x", "42", true, true, VerifyToken),
            (proxy(), "x", "42", false, true, VerifyToken),
            (limited(), "x#42", "41", false, true, VerifyToken),
            // The list of users; options and proxies do not count then, insecure does.
            (limited(), "x#42", "42", false, false, Allow),
            (limited(), "x#42", "41", false, false, DENIED),
            (limited(), "x#42", "", false, false, DENIED),
            (limited(), "x#42", "41", true, false, Allow),
            (limited_all(), "x#42", "41", false, false, DENIED),
            (limited_all(), "x#42", "42", false, false, Allow),
            (limited_all(), "x#", "", false, false, DENIED),
            (limited(), "x", "42", false, false, DENIED),
            // The proxy comes before the options and before insecure.
            (limited_all(), "x", "42", false, false, AskProxy),
            (proxy(), "x", "", false, false, AskProxy),
            (proxy(), "x", "42", true, false, AskProxy),
            // So does the one that feeds what it allows.
            (stream(), "x", "", true, false, AskStream),
            (stream(), "x", "42", false, true, VerifyToken),
            (stream(), "$x", "42", false, false, DENIED),
            (stream(), "x#42", "42", false, false, Allow),
            (stream(), "x#42", "41", false, false, DENIED),
            // The options.
            (client(), "x", "42", false, false, Allow),
            (client(), "x", "", false, false, DENIED),
            (client(), "x", "", true, false, Allow),
            (anonymous(), "x", "", false, false, DENIED),
            (anonymous(), "x", "42", false, false, DENIED),
            (both(), "x", "", false, false, Allow),
            (both(), "x", "42", false, false, Allow),
            // Without the option the marker means nothing.
            (client(), "x#42", "41", false, false, Allow),
        ];
        for (n, (options, channel, user, insecure, token, expected)) in rows.into_iter().enumerate()
        {
            let asker = Subject { user, insecure, subscribed: false };
            let found = decide(options, channel, |place| place.subscribe(asker, token));
            assert_eq!(found, expected, "row {n}: {channel} {user} {insecure} {token}");
        }
    }

    /// Publish, presence and history have the same three switches. All of their combinations, with
    /// every kind of asker, against the rule in words.
    #[test]
    fn the_three_switches_mean_the_same_everywhere() {
        for bits in 0..64 {
            let bit = |n: u32| bits >> n & 1 == 1;
            let (client, subscriber, anonymous) = (bit(0), bit(1), bit(2));
            let asker = Subject {
                user: if bit(3) { "42" } else { "" },
                subscribed: bit(4),
                insecure: bit(5),
            };
            let options = ChannelOptions {
                presence: true,
                history_size: 1,
                history_ttl: std::time::Duration::from_secs(1),
                allow_publish_for_client: client,
                allow_publish_for_subscriber: subscriber,
                allow_publish_for_anonymous: anonymous,
                allow_presence_for_client: client,
                allow_presence_for_subscriber: subscriber,
                allow_presence_for_anonymous: anonymous,
                allow_history_for_client: client,
                allow_history_for_subscriber: subscriber,
                allow_history_for_anonymous: anonymous,
                ..ChannelOptions::default()
            };
            let named = asker.user == "42";
            let expected = match (client, subscriber, anonymous) {
                _ if asker.insecure => true,
                (true, _, _) if named => true,
                (true, _, true) => true,
                (_, true, _) if named && asker.subscribed => true,
                (_, true, true) if asker.subscribed => true,
                _ => false,
            };
            let expected = if expected { Decision::Allow } else { DENIED };
            let found = |ladder: fn(&ResolvedChannel<'_, '_>, Subject<'_>) -> Decision| {
                decide(options.clone(), "x", |place| ladder(place, asker))
            };
            assert_eq!(found(|place, asker| place.publish(asker, false)), expected, "{bits:b}");
            assert_eq!(found(|place, asker| place.presence(asker)), expected, "{bits:b}");
            assert_eq!(found(|place, asker| place.history(asker)), expected, "{bits:b}");
        }
    }

    /// One switch of one permission opens that permission only.
    #[test]
    fn switches_do_not_open_what_they_do_not_name() {
        let base = ChannelOptions {
            presence: true,
            history_size: 1,
            history_ttl: std::time::Duration::from_secs(1),
            ..ChannelOptions::default()
        };
        type Switch = fn(&mut ChannelOptions);
        let switches: [(Switch, [bool; 4]); 4] = [
            (|o| o.allow_subscribe_for_client = true, [true, false, false, false]),
            (|o| o.allow_publish_for_client = true, [false, true, false, false]),
            (|o| o.allow_presence_for_client = true, [false, false, true, false]),
            (|o| o.allow_history_for_client = true, [false, false, false, true]),
        ];
        let asker = Subject { user: "42", insecure: false, subscribed: true };
        for (switch, expected) in switches {
            let mut options = base.clone();
            switch(&mut options);
            let found = [
                decide(options.clone(), "x", |place| place.subscribe(asker, false)),
                decide(options.clone(), "x", |place| place.publish(asker, false)),
                decide(options.clone(), "x", |place| place.presence(asker)),
                decide(options, "x", |place| place.history(asker)),
            ];
            assert_eq!(found.map(|decision| decision == Decision::Allow), expected);
        }
    }

    #[test]
    fn the_publish_proxy_comes_first() {
        let options = ChannelOptions { publish_proxy_enabled: true, ..ChannelOptions::default() };
        for insecure in [false, true] {
            let asker = Subject { insecure, ..Subject::default() };
            let found = decide(options.clone(), "x", |place| place.publish(asker, true));
            assert_eq!(found, Decision::AskProxy);
        }
    }

    #[test]
    fn what_is_fed_takes_publications_on_the_same_stream() {
        let options = ChannelOptions {
            subscribe_stream_proxy_enabled: true,
            allow_publish_for_client: true,
            ..ChannelOptions::default()
        };
        for insecure in [false, true] {
            let asker = Subject { user: "42", insecure, subscribed: true };
            for (fed, expected) in [(true, Decision::AskStream), (false, OFF)] {
                let found = decide(options.clone(), "x", |place| place.publish(asker, fed));
                assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn what_is_not_kept_is_not_available_even_to_the_insecure() {
        let asker = Subject { user: "42", insecure: true, subscribed: true };
        let open = ChannelOptions {
            allow_presence_for_client: true,
            allow_history_for_client: true,
            ..ChannelOptions::default()
        };
        assert_eq!(decide(open.clone(), "x", |place| place.presence(asker)), OFF);
        assert_eq!(decide(open.clone(), "x", |place| place.history(asker)), OFF);
        let sized = ChannelOptions { history_size: 1, ..open };
        assert_eq!(decide(sized, "x", |place| place.history(asker)), OFF);
    }
}
