//! The configuration as the gateway uses it: compiled once, shared by all cores, replaced whole.

use crate::gateway::channels::Namespaces;
use crate::gateway::origins::Origins;
use crate::gateway::plan::Plan;
use crate::gateway::tokens::{KeySet, Verifier};

/// A plan and what was compiled from it. A reload makes a new one.
#[derive(Clone, Debug)]
pub struct Rulebook {
    /// As configured.
    pub options: Plan,
    /// Channels.
    pub namespaces: Namespaces,
    /// Verifies connection tokens.
    pub connection: Verifier,
    /// Verifies subscription tokens.
    pub subscription: Verifier,
    /// Whose pages may connect.
    pub origins: Origins,
}

impl Rulebook {
    /// Compiles a plan. The error names the option; a plan of checked options has none.
    pub fn new(options: Plan) -> Result<Self, String> {
        let namespaces = Namespaces::new(&options)?;
        let (connection, subscription) = Verifier::pair(&options.client).map_err(|mistakes| {
            let texts = mistakes.iter().map(|m| format!("client.token.{}: {}", m.key, m.what));
            texts.collect::<Vec<_>>().join("; ")
        })?;
        let origins = Origins::new(&options.client.allowed_origins)
            .map_err(|what| format!("client.allowed_origins: {what}"))?;
        Ok(Self { options, namespaces, connection, subscription, origins })
    }

    /// Whether the backend decides how long subscriptions to this channel last.
    pub fn refreshes(&self, channel: &str) -> bool {
        let place = self.namespaces.place(channel);
        place.is_ok_and(|place| place.rules.options.sub_refresh_proxy_enabled)
    }

    /// The same with other keys from this address for connection tokens, and for subscription
    /// tokens unless these have keys of their own.
    #[must_use]
    pub fn with_connection_keys(&self, url: &str, keys: &KeySet) -> Self {
        let mut new = self.clone();
        new.connection.set_keys(url, keys);
        if !new.options.client.subscription_token.enabled {
            new.subscription.set_keys(url, keys);
        }
        new
    }

    /// The same with the keys that another one has fetched, where both fetch them.
    #[must_use]
    pub fn keeping_fetched_keys(mut self, old: &Self) -> Self {
        self.connection.keep_fetched_keys(&old.connection);
        self.subscription.keep_fetched_keys(&old.subscription);
        self
    }

    /// The same with other keys from this address for subscription tokens.
    #[must_use]
    pub fn with_subscription_keys(&self, url: &str, keys: &KeySet) -> Self {
        let mut new = self.clone();
        new.subscription.set_keys(url, keys);
        new
    }
}
