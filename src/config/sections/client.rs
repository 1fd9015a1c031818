//! `client`: what connections may do, tokens, and questions to the backend about connections.

use super::proxies::ClientProxies;
use crate::config::schema::{keys, section, tables};
use crate::gateway::plan::{
    ClientPlan, OneWayDisconnect, OneWayDisconnects, PersonalChannel, SubscriptionToken,
    ToDisconnect, Token,
};

section! {
    /// `client`: what connections may do.
    pub struct Client {
        ...
        /// What the gateway is told.
        plan: ClientPlan,
        /// Connections of this server; one more is answered with 503. 0: as `engine` says.
        connection_limit: u32 = 0,
        /// Connections that all workers accept per second; others wait in the accept queue. 0: no
        /// limit. Each worker has its share, and `engine.accept_rate` where that is less.
        connection_rate_limit: u32 = 0,
        /// Questions about connections to the application's backend.
        proxy: ClientProxies = ClientProxies::default(),
    }
}

keys! {
    ClientPlan {
        insecure, allow_anonymous_connect_without_token, disallow_anonymous_connection_tokens,
        user_id_http_header, allowed_origins, ping_interval, pong_timeout, stale_close_delay,
        expired_close_delay, expired_sub_close_delay, channel_limit, hook_limit, queue_max_size,
        concurrency, command_queue_max_size, answer_rate, delivery_rate, failed_token_limit,
        max_session_memory, user_connection_limit, channel_position_check_delay,
        channel_position_max_time_lag, history_max_publication_limit,
        recovery_max_publication_limit, connect_include_server_time,
        connect_code_to_unidirectional_disconnect, subscribe_to_user_personal_channel, token,
        subscription_token,
    }
}

keys! {
    OneWayDisconnects {
        enabled, transforms,
    }
}

keys! {
    OneWayDisconnect {
        code, to,
    }
}

keys! {
    ToDisconnect {
        code, reason,
    }
}

keys! {
    PersonalChannel {
        enabled, personal_channel_namespace, single_connection,
    }
}

keys! {
    Token {
        hmac_secret_key, hmac_previous_secret_key, hmac_previous_secret_key_valid_until,
        rsa_public_key, ecdsa_public_key, jwks_public_endpoint, jwks_file, audience,
        audience_regex, issuer, issuer_regex, user_id_claim,
    }
}

keys! {
    SubscriptionToken {
        enabled, ..token,
    }
}

tables!(OneWayDisconnect);
