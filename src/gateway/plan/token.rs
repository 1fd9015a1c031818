//! Tokens: the keys that they are verified with, and what they must say.

use crate::options::{Secret, options};

options! {
    /// `client.token`: keys that tokens are verified with, and what tokens must say. Without any
    /// key no token is valid.
    pub struct Token {
        /// Secret of HS256, HS384 and HS512.
        hmac_secret_key: Secret = Secret::default(),
        /// Secret that was in use before, while tokens made with it live.
        hmac_previous_secret_key: Secret = Secret::default(),
        /// Unix time in seconds until which it is accepted. 0: until it is taken out.
        hmac_previous_secret_key_valid_until: i64 = 0,
        /// Public key (PEM) of RS256, RS384 and RS512.
        rsa_public_key: String = String::new(),
        /// Public key (PEM) of ES256, ES384 or ES512, by its curve.
        ecdsa_public_key: String = String::new(),
        /// URL of a JSON Web Key Set. `{{name}}` stands for what a group of `issuer_regex` or
        /// `audience_regex` matches, `(?P<name>one|two)`: a list of values, so that a token never
        /// leads anywhere else.
        jwks_public_endpoint: String = String::new(),
        /// File with a JSON Web Key Set. A relative name starts at the configuration file.
        jwks_file: String = String::new(),
        /// What `aud` must hold. Empty: anything.
        audience: String = String::new(),
        /// What one of `aud` must match.
        audience_regex: String = String::new(),
        /// What `iss` must be. Empty: anything.
        issuer: String = String::new(),
        /// What `iss` must match.
        issuer_regex: String = String::new(),
        /// The claim that names the user; dots lead into objects. Empty: `sub`.
        user_id_claim: String = String::new(),
    }
}

options! {
    /// `client.subscription_token`: the same for tokens of subscriptions.
    pub struct SubscriptionToken {
        /// Verify them with these keys instead of those in `client.token`.
        enabled: bool = false,
        ..
        /// The keys.
        token: Token,
    }
}
