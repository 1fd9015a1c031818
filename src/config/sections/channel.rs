//! `channel`: names, namespaces and what is allowed in them.

use super::proxies::ChannelProxies;
use crate::config::schema::{keys, lists, section, tables, words};
use crate::gateway::plan::{
    ChannelOptions, ChannelPlan, DataFormat, DeltaType, Namespace, RecoveryMode, SubscriptionType,
};

section! {
    /// `channel`: names, namespaces and what is allowed in them.
    pub struct Channel {
        ...
        /// What the gateway is told.
        plan: ChannelPlan,
        /// Questions about channels to the application's backend.
        proxy: ChannelProxies = ChannelProxies::default(),
    }
}

keys! {
    ChannelPlan {
        max_length, private_prefix, namespace_boundary, user_boundary, user_separator,
        history_meta_ttl, publication_data_format, without_namespace, namespaces,
    }
}

keys! {
    Namespace {
        name, ..options,
    }
}

keys! {
    ChannelOptions {
        presence, join_leave, force_push_join_leave, history_size, history_ttl, history_meta_ttl,
        force_positioning, allow_positioning, force_recovery, allow_recovery,
        force_recovery_mode, auto_cache_recover, allowed_delta_types, delta_publish,
        allow_tags_filter, allow_subscribe_for_client, allow_subscribe_for_anonymous,
        allow_publish_for_client, allow_publish_for_subscriber, allow_publish_for_anonymous,
        allow_history_for_client, allow_history_for_subscriber, allow_history_for_anonymous,
        allow_presence_for_client, allow_presence_for_subscriber, allow_presence_for_anonymous,
        allow_user_limited_channels, channel_regex, publication_data_format,
        subscribe_proxy_enabled, subscribe_proxy_name, publish_proxy_enabled, publish_proxy_name,
        sub_refresh_proxy_enabled, sub_refresh_proxy_name, subscribe_stream_proxy_enabled,
        subscribe_stream_proxy_name, subscribe_stream_proxy_bidirectional, subscription_type,
    }
}

tables!(Namespace by name);
lists!(DeltaType);

words! {
    RecoveryMode { Stream = "stream" | "", Cache = "cache", }
}

words! {
    DeltaType { Fossil = "fossil", }
}

words! {
    DataFormat { Default = "", Json = "json", JsonObject = "json_object", Binary = "binary", }
}

words! {
    SubscriptionType { Stream = "stream" | "", }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::schema::{Leaf, Value};

    #[test]
    fn unknown_deltas_are_named() {
        let read = Vec::<DeltaType>::parse(&Value::Raw("fossil vcdiff".to_owned()));
        assert!(read.unwrap_err().contains("vcdiff"));
    }
}
