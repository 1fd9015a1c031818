//! What a running server can take over from a changed configuration, and what it cannot.

use super::schema::{Field, Secrets, join};
use super::{Options, Tls};
use crate::gateway::plan::{ClientPlan, Token};
use crate::gateway::tokens;

impl Options {
    /// Keys whose values differ and that only a restart brings into effect, by path.
    pub fn restart_needed(&self, new: &Self) -> Vec<String> {
        let mut changed = Vec::new();
        differences(self, new, "", &mut changed);
        changed.retain(|path| !is_reloadable(path) || self.is_fixed(path));
        changed
    }

    /// Whether a pattern is part of where keys are fetched.
    fn is_fixed(&self, path: &str) -> bool {
        let tokens = [
            ("client.token.", &self.client.plan.token),
            ("client.subscription_token.", &self.client.plan.subscription_token.token),
        ];
        let is_fixed = |(table, token): (&str, &Token)| {
            let key = path.strip_prefix(table);
            key.is_some_and(|key| key.ends_with("_regex"))
                && tokens::is_template(&token.jwks_public_endpoint)
        };
        tokens.into_iter().any(is_fixed)
    }

    /// Whether a key that a reload brings into effect differs.
    pub fn reload_needed(&self, new: &Self) -> bool {
        let mut changed = Vec::new();
        differences(self, new, "", &mut changed);
        changed.iter().any(|path| is_reloadable(path))
    }

    /// Takes over what a reload brings into effect: channel options, token keys, the API key, and
    /// certificates.
    pub fn reload(&mut self, new: &Self) {
        self.channel.plan = new.channel.plan.clone();
        // Whoever fetches key sets was told where at the start.
        let ClientPlan { token, subscription_token, .. } = new.client.plan.clone();
        take_over(&mut self.client.plan.token, token);
        self.client.plan.subscription_token.enabled = subscription_token.enabled;
        take_over(&mut self.client.plan.subscription_token.token, subscription_token.token);
        self.http_api.key = new.http_api.key.clone();
        self.grpc_api.key = new.grpc_api.key.clone();
        // Whether there is TLS was decided at the start.
        let (old, server) = (&mut self.http_server, &new.http_server);
        for (old, new) in [
            (&mut old.tls, &server.tls),
            (&mut old.internal_tls, &server.internal_tls),
            (&mut self.grpc_api.tls, &new.grpc_api.tls),
        ] {
            *old = Tls { enabled: old.enabled, ..new.clone() };
        }
    }
}

/// Takes over all of a token's options but where its keys are fetched.
fn take_over(old: &mut Token, mut new: Token) {
    new.jwks_public_endpoint = std::mem::take(&mut old.jwks_public_endpoint);
    if tokens::is_template(&new.jwks_public_endpoint) {
        new.issuer_regex = std::mem::take(&mut old.issuer_regex);
        new.audience_regex = std::mem::take(&mut old.audience_regex);
    }
    *old = new;
}

fn is_reloadable(path: &str) -> bool {
    let below = |table: &str| path == table || path.starts_with(&format!("{table}."));
    let reloadable = [
        "channel",
        "client.token",
        "client.subscription_token",
        "http_api.key",
        "http_server.tls",
        "http_server.internal_tls",
        "grpc_api.key",
        "grpc_api.tls",
    ];
    reloadable.iter().any(|table| below(table))
        && !below("channel.proxy")
        && !path.ends_with("tls.enabled")
        && !path.ends_with(".jwks_public_endpoint")
}

fn differences(old: &dyn Field, new: &dyn Field, path: &str, changed: &mut Vec<String>) {
    if old.takes_text() {
        if old.show(Secrets::Plain) != new.show(Secrets::Plain) {
            changed.push(path.to_owned());
        }
        return;
    }
    for ((key, old), (_, new)) in old.children().into_iter().zip(new.children()) {
        differences(old, new, &join(path, &key), changed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::plan::Namespace;
    use crate::options::Secret;

    #[test]
    fn channels_and_keys_are_taken_over_and_the_rest_is_named() {
        let old = Options::default();
        let mut new = old.clone();
        assert!(old.restart_needed(&new).is_empty() && !old.reload_needed(&new));
        new.channel.plan.namespaces.push(Namespace { name: "chat".into(), ..Namespace::default() });
        new.channel.plan.max_length = 100;
        new.client.plan.token.hmac_secret_key = Secret::new("new");
        new.client.plan.subscription_token.enabled = true;
        new.http_api.key = Secret::new("key");
        assert!(old.restart_needed(&new).is_empty() && old.reload_needed(&new));
        let mut running = old.clone();
        running.reload(&new);
        assert_eq!(running, new);

        // What addresses of keys are made of stays.
        let mut old = old;
        old.client.plan.token.jwks_public_endpoint = "https://a/{{realm}}".into();
        new.client.plan.token.jwks_public_endpoint = "https://a/{{realm}}".into();
        new.client.plan.token.issuer_regex = "(?P<realm>a|b)".into();
        new.client.plan.subscription_token.token.issuer_regex = "b".into();
        let mut running = old.clone();
        assert_eq!(old.restart_needed(&new), ["client.token.issuer_regex"]);
        running.reload(&new);
        assert!(running.client.plan.token.issuer_regex.is_empty());
        assert_eq!(running.client.plan.subscription_token.token.issuer_regex, "b");

        new.http_server.port = 1;
        new.channel.proxy.publish.endpoint = "http://b".into();
        new.client.plan.ping_interval *= 2;
        let expected = [
            "http_server.port",
            "client.ping_interval",
            "client.token.issuer_regex",
            "channel.proxy.publish.endpoint",
        ];
        assert_eq!(old.restart_needed(&new), expected);
        running.reload(&new);
        assert_ne!(running, new);
        assert_eq!(running.http_server.port, 8000);
        assert_eq!(running.channel.proxy, old.channel.proxy);
    }

    /// Changes each key in turn: a reload takes it over exactly if no restart is needed for it.
    #[test]
    fn every_key_is_either_taken_over_or_named() {
        let old = Options::default();
        let mut paths = Vec::new();
        super::super::schema::leaves(&old, "", &mut paths);
        let mut tried = 0;
        for path in paths {
            let values = ["true", "false", "77", "7s", "127.0.0.9", "/x", "cache", "json", "pause"];
            let set = |value: &&str| format!("{path}={value}");
            let mut changed = values.iter().map(set).filter_map(|set| {
                let mut new = old.clone();
                let mut reader = super::super::schema::Reader::default();
                super::super::load::read_set(&mut new, &set, &mut reader);
                (reader.mistakes.is_empty() && new != old).then_some(new)
            });
            let Some(new) = changed.next() else { continue };
            tried += 1;
            let mut running = old.clone();
            running.reload(&new);
            assert_eq!(running == new, old.restart_needed(&new).is_empty(), "{path}");
        }
        assert!(tried > 90, "{tried}");
    }
}
