//! Channels: names, namespaces and what is allowed in them.

use std::time::Duration;

use crate::gateway::hooks::DEFAULT_PROXY;
use crate::options::options;

options! {
    /// Names, namespaces and what is allowed in them: of `channel` all but the backend.
    pub struct ChannelPlan {
        /// Bytes of a channel name; a longer one is answered with error 107.
        max_length: usize = 255,
        /// Channels with this prefix demand a subscription token. Empty: no such channels.
        private_prefix: String = "$".to_owned(),
        /// What ends the namespace in a channel name. Empty: no namespaces.
        namespace_boundary: String = ":".to_owned(),
        /// What begins the list of users in a channel name. Empty: no such channels.
        user_boundary: String = "#".to_owned(),
        /// What separates those users.
        user_separator: String = ",".to_owned(),
        /// How long a stream's offset and epoch outlive its last publication, where a namespace
        /// does not say.
        history_meta_ttl: Duration = Duration::from_secs(720 * 3600),
        /// What publications may hold, where a namespace does not say.
        publication_data_format: DataFormat = DataFormat::Default,
        /// Options of channels whose name has no namespace.
        without_namespace: ChannelOptions = ChannelOptions::default(),
        /// Options by namespace.
        namespaces: Vec<Namespace> = Vec::new(),
    }
}

options! {
    /// One namespace of `channel.namespaces`.
    pub struct Namespace {
        /// Letters, digits, `_`, `-` and `.`, at least two; unique.
        name: String = String::new(),
        ..
        /// What holds for its channels.
        options: ChannelOptions,
    }
}

options! {
    /// What holds for the channels of one namespace. Everything is off unless said otherwise.
    pub struct ChannelOptions {
        /// Keep who is subscribed.
        presence: bool = false,
        /// Tell who comes and goes, to subscribers that ask for it.
        join_leave: bool = false,
        /// Tell it also to subscribers that do not ask.
        force_push_join_leave: bool = false,
        /// Publications kept per channel; needs `history_ttl`. 0: no history.
        history_size: usize = 0,
        /// How long they are kept; needs `history_size`. Whole seconds.
        history_ttl: Duration = Duration::ZERO,
        /// How long offset and epoch outlive the last publication; zero:
        /// `channel.history_meta_ttl`.
        history_meta_ttl: Duration = Duration::ZERO,
        /// Watch every subscriber's position for gaps.
        force_positioning: bool = false,
        /// Let subscribers ask for that.
        allow_positioning: bool = false,
        /// Replay what a subscriber missed.
        force_recovery: bool = false,
        /// Let subscribers ask for that.
        allow_recovery: bool = false,
        /// Replay all that was missed, or the newest publication only.
        force_recovery_mode: RecoveryMode = RecoveryMode::Stream,
        /// With mode `cache`: give the newest publication at every subscribe, asked or not.
        auto_cache_recover: bool = false,
        /// Ways of sending only what changed that a subscriber may ask for.
        allowed_delta_types: Vec<DeltaType> = Vec::new(),
        /// Prepare every publication for them.
        delta_publish: bool = false,
        /// Let subscribers filter publications by tags.
        allow_tags_filter: bool = false,
        /// Users may subscribe without a token.
        allow_subscribe_for_client: bool = false,
        /// With it: so may connections without a user.
        allow_subscribe_for_anonymous: bool = false,
        /// Users may publish.
        allow_publish_for_client: bool = false,
        /// Users may publish where they are subscribed.
        allow_publish_for_subscriber: bool = false,
        /// With one of these: so may connections without a user.
        allow_publish_for_anonymous: bool = false,
        /// Users may read the history.
        allow_history_for_client: bool = false,
        /// Users may read the history where they are subscribed.
        allow_history_for_subscriber: bool = false,
        /// With one of these: so may connections without a user.
        allow_history_for_anonymous: bool = false,
        /// Users may ask who is there.
        allow_presence_for_client: bool = false,
        /// Users may ask who is there where they are subscribed.
        allow_presence_for_subscriber: bool = false,
        /// With one of these: so may connections without a user.
        allow_presence_for_anonymous: bool = false,
        /// `dialog#42,43` is for the users 42 and 43, and for nobody else.
        allow_user_limited_channels: bool = false,
        /// What follows the namespace boundary must match. Empty: any ASCII text.
        channel_regex: String = String::new(),
        /// What publications may hold.
        publication_data_format: DataFormat = DataFormat::Default,
        /// Ask the backend who may subscribe.
        subscribe_proxy_enabled: bool = false,
        /// Which one: of `proxies`, or `default`, which is `channel.proxy.subscribe`.
        subscribe_proxy_name: String = DEFAULT_PROXY.to_owned(),
        /// Ask the backend who may publish what.
        publish_proxy_enabled: bool = false,
        /// Which one: of `proxies`, or `default`, which is `channel.proxy.publish`.
        publish_proxy_name: String = DEFAULT_PROXY.to_owned(),
        /// Ask the backend whether a subscription that expires may stay; else clients refresh it
        /// with tokens.
        sub_refresh_proxy_enabled: bool = false,
        /// Which one: of `proxies`, or `default`, which is `channel.proxy.sub_refresh`.
        sub_refresh_proxy_name: String = DEFAULT_PROXY.to_owned(),
        /// Ask the backend who may subscribe, over gRPC, and let it tell each subscriber what it
        /// hears on a stream of its own. Not beside one of the three above.
        subscribe_stream_proxy_enabled: bool = false,
        /// Which one: of `proxies`, or `default`, which is `channel.proxy.subscribe_stream`.
        subscribe_stream_proxy_name: String = DEFAULT_PROXY.to_owned(),
        /// What subscribers publish goes to the backend on those streams, and nowhere else.
        subscribe_stream_proxy_bidirectional: bool = false,
        /// How subscribers get publications: only `stream` there is.
        subscription_type: SubscriptionType = SubscriptionType::Stream,
    }
}

impl ChannelOptions {
    /// Whether channels keep publications.
    pub fn has_history(&self) -> bool {
        self.history_size > 0 && !self.history_ttl.is_zero()
    }
}

/// What is replayed to a subscriber that comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryMode {
    /// All that it missed.
    Stream,
    /// The newest publication.
    Cache,
}

/// A way of sending only what changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeltaType {
    /// Fossil's format.
    Fossil,
}

/// What the data of a publication may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataFormat {
    /// As the section above says; JSON if nothing does.
    Default,
    /// JSON.
    Json,
    /// A JSON object.
    JsonObject,
    /// Anything, even nothing.
    Binary,
}

/// How subscribers get publications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubscriptionType {
    /// As they are published.
    Stream,
}

impl ChannelPlan {
    /// The name of a namespace's option, as mistakes have it.
    pub(crate) fn name_of(index: Option<usize>, option: &str) -> String {
        match index {
            Some(index) => format!("channel.namespaces[{index}].{option}"),
            None => format!("channel.without_namespace.{option}"),
        }
    }
}
