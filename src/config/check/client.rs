//! `client` and its tokens.

use http::HeaderName;

use super::Check;
use super::proxies::{REASON_MAX, is_url};
use crate::gateway::origins::Origins;
use crate::gateway::plan::Token;
use crate::gateway::tokens::{Endpoints, Verifier};

impl Check<'_> {
    pub(super) fn client(&mut self) {
        let client = &self.options.client.plan;
        let (ping, pong) = (client.ping_interval, client.pong_timeout);
        let apart = ping.is_zero() || pong < ping;
        self.demand(apart, "client.pong_timeout", "must be less than client.ping_interval");
        self.demand(client.hook_limit > 0, "client.hook_limit", "must not be zero");
        let size = client.queue_max_size.0;
        self.demand(size >= 1024, "client.queue_max_size", "must be at least 1KiB");
        self.origins();
        self.vouching();
        self.warn(
            client.insecure && !self.options.http_server.address.is_loopback(),
            "client.insecure",
            "whoever reaches the port may do everything",
        );
        let personal = &client.subscribe_to_user_personal_channel;
        let (enabled, single) = (personal.enabled, personal.single_connection);
        let namespace = personal.personal_channel_namespace.clone();
        let table = "client.subscribe_to_user_personal_channel";
        if !enabled {
            return self.demand(
                !single,
                &format!("{table}.single_connection"),
                "needs `enabled` beside it",
            );
        }
        let channel = &self.options.channel.plan;
        let options = match namespace.as_str() {
            "" => Some(&channel.without_namespace),
            name => channel.namespaces.iter().find(|n| n.name == name).map(|n| &n.options),
        };
        match options {
            None => self.wrong(
                &format!("{table}.personal_channel_namespace"),
                format!("there is no namespace \"{namespace}\""),
            ),
            Some(options) => self.demand(
                !single || options.presence,
                &format!("{table}.single_connection"),
                "needs `presence` in the namespace of personal channels",
            ),
        }
        let bounded = !channel.user_boundary.is_empty();
        self.demand(bounded, &format!("{table}.enabled"), "needs channel.user_boundary");
    }

    /// The header that names users, and ends of one-way clients.
    fn vouching(&mut self) {
        let client = &self.options.client.plan;
        let header = client.user_id_http_header.as_str();
        let key = "client.user_id_http_header";
        if !header.is_empty() {
            let named = HeaderName::try_from(header).is_ok();
            self.demand(named, key, format!("\"{header}\" is no header name"));
            self.warn(
                true,
                key,
                "whoever reaches the port directly is whom the header names; the proxy in front \
                 must set it, whatever a client sends",
            );
        }
        let one_way = &client.connect_code_to_unidirectional_disconnect;
        for (index, transform) in one_way.transforms.iter().enumerate() {
            let table = "client.connect_code_to_unidirectional_disconnect.transforms";
            let key = |name: &str| format!("{table}[{index}].{name}");
            self.demand(transform.code > 0, &key("code"), "must be the code of an error");
            let code = matches!(transform.to.code, 3000..=4999);
            self.demand(code, &key("to.code"), "must be from 3000 to 4999");
            let reason = &transform.to.reason;
            let short = reason.is_ascii() && reason.len() <= REASON_MAX;
            self.demand(short, &key("to.reason"), "must be at most 123 bytes of ASCII");
        }
    }

    fn origins(&mut self) {
        let key = "client.allowed_origins";
        let origins = &self.options.client.plan.allowed_origins;
        for origin in origins {
            if let Err(what) = Origins::new(std::slice::from_ref(origin)) {
                self.wrong(key, what);
            }
        }
        for origin in origins.iter().filter(|origin| *origin != "*" && *origin != "null") {
            let rest = origin.split_once("://").map(|(_, rest)| rest);
            // A pattern may stand for the scheme as well.
            if rest.is_none() && !origin.starts_with('*') {
                self.wrong(key, format!("\"{origin}\" lacks its scheme, as in https://{origin}"));
            } else if rest.is_some_and(|rest| rest.contains('/')) {
                let what = "has a path, and origins end with host and port";
                self.wrong(key, format!("\"{origin}\" {what}"));
            }
        }
    }

    pub(super) fn tokens(&mut self) {
        let client = &self.options.client.plan;
        self.token("client.token", &client.token);
        let table = "client.subscription_token";
        if client.subscription_token.enabled {
            self.token(table, &client.subscription_token.token);
        } else if client.subscription_token.token != Token::default() {
            self.wrong(table, "has keys, but `enabled` is not set: they would not be used");
        }
    }

    fn token(&mut self, table: &str, token: &Token) {
        let key = |name: &str| format!("{table}.{name}");
        let given = [
            ("hmac_secret_key", !token.hmac_secret_key.is_empty()),
            ("rsa_public_key", !token.rsa_public_key.is_empty()),
            ("ecdsa_public_key", !token.ecdsa_public_key.is_empty()),
            ("jwks_file", !token.jwks_file.is_empty()),
        ];
        let (endpoint, file) =
            (!token.jwks_public_endpoint.is_empty(), !token.jwks_file.is_empty());
        for (name, given) in given {
            let by_set = endpoint || file && name != "jwks_file";
            let what = "stands beside a key set, which would be the only source of keys; keep one";
            self.demand(!(given && by_set), &key(name), what);
        }
        if endpoint {
            // A template that leads to no addresses is told of below.
            let endpoints = Endpoints::new(token).ok();
            let urls = endpoints.iter().flat_map(|endpoints| endpoints.urls());
            if let Some(what) = urls.filter_map(|url| is_url(url).err()).next() {
                self.wrong(&key("jwks_public_endpoint"), what);
            }
        }
        let previous = !token.hmac_previous_secret_key.is_empty();
        let secret = &token.hmac_secret_key;
        self.demand(
            !previous || !secret.is_empty(),
            &key("hmac_previous_secret_key"),
            "needs a new secret in hmac_secret_key",
        );
        self.demand(
            previous || token.hmac_previous_secret_key_valid_until == 0,
            &key("hmac_previous_secret_key_valid_until"),
            "needs hmac_previous_secret_key",
        );
        self.demand(
            token.hmac_previous_secret_key_valid_until >= 0,
            &key("hmac_previous_secret_key_valid_until"),
            "must be unix time in seconds",
        );
        if let Err(mistakes) = Verifier::new(token) {
            for mistake in mistakes {
                self.wrong(&key(mistake.key), mistake.what);
            }
        }
        let short = !secret.is_empty() && secret.reveal().len() < SECRET_MIN;
        self.warn(short, &key("hmac_secret_key"), "is short; 32 random characters are not guessed");
    }
}

/// Shorter secrets are worth a word.
const SECRET_MIN: usize = 16;
