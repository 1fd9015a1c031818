//! From a token's text to its claims: header, key, signature, demands, time.

use std::borrow::Cow;

use regex::Regex;
use serde::Deserialize;

use super::claims::{Registered, decode_url, parse, user_of};
use super::keys::{Algorithm, Key};
use super::{
    ConnectionClaims, Endpoints, KeySet, KeySetError, SubscriptionClaims, TokenError, invalid,
};
use crate::gateway::channels::pattern_of;
use crate::gateway::plan::{ClientPlan, Token};

/// Verifies the tokens of one kind: its keys, and what it demands. One per core, or one shared.
#[derive(Clone, Debug)]
pub struct Verifier {
    keys: Keys,
    audience: Demand,
    issuer: Demand,
    /// The claim that names the user; empty: `sub`.
    user_claim: Box<str>,
}

#[derive(Clone, Debug)]
enum Keys {
    Fixed(Box<FixedKeys>),
    /// Of a file.
    Set(KeySet),
    /// Each of an endpoint. Unknown keys can be had by fetching the set again.
    Fetched(Endpoints, Vec<KeySet>),
}

/// Keys that stand in the configuration.
#[derive(Clone, Debug)]
struct FixedKeys {
    hmac: Option<Key>,
    /// The secret before, and until when it counts.
    previous: Option<(Key, i64)>,
    rsa: Option<Key>,
    ec: Option<Key>,
}

/// What a claim must be.
#[derive(Clone, Debug)]
enum Demand {
    Anything,
    Exactly(Box<str>),
    Matching(Regex),
}

impl Demand {
    fn holds(&self, claim: &str) -> bool {
        match self {
            Self::Anything => true,
            Self::Exactly(text) => **text == *claim,
            Self::Matching(pattern) => pattern.is_match(claim),
        }
    }

    /// What a group of the pattern matches in a claim.
    fn group<'c>(&self, claim: &'c str, name: &str) -> Option<&'c str> {
        let Self::Matching(pattern) = self else { return None };
        Some(pattern.captures(claim)?.name(name)?.as_str())
    }
}

/// An option that no verifier can be made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyMistake {
    /// Its key within `client.token`.
    pub key: &'static str,
    /// What is wrong.
    pub what: String,
}

impl Verifier {
    /// Reads keys and demands; `jwks_file` is read from disk. Errors name every key that is wrong.
    /// Without any key the verifier refuses every token.
    pub fn new(options: &Token) -> Result<Self, Vec<KeyMistake>> {
        let mut mistakes = Vec::new();
        let keys = Keys::read(options, &mut mistakes);
        let mut demand = |exact: &str, pattern: &str, key: &'static str| match (exact, pattern) {
            ("", "") => Demand::Anything,
            (exact, "") => Demand::Exactly(exact.into()),
            ("", pattern) => match pattern_of(pattern) {
                Ok(pattern) => Demand::Matching(pattern),
                Err(what) => {
                    mistakes.push(KeyMistake { key, what });
                    Demand::Anything
                }
            },
            _ => {
                let what = "stands beside the exact value; keep one of them".to_owned();
                mistakes.push(KeyMistake { key, what });
                Demand::Anything
            }
        };
        let audience = demand(&options.audience, &options.audience_regex, "audience_regex");
        let issuer = demand(&options.issuer, &options.issuer_regex, "issuer_regex");
        let user_claim = options.user_id_claim.as_str().into();
        match mistakes.is_empty() {
            true => Ok(Self { keys, audience, issuer, user_claim }),
            false => Err(mistakes),
        }
    }

    /// The verifiers of connection tokens and of subscription tokens.
    pub fn pair(client: &ClientPlan) -> Result<(Self, Self), Vec<KeyMistake>> {
        let connection = Self::new(&client.token)?;
        let subscription = match client.subscription_token.enabled {
            true => Self::new(&client.subscription_token.token)?,
            false => connection.clone(),
        };
        Ok((connection, subscription))
    }

    /// Verifies a connection token at `now` (unix time in seconds).
    pub fn connection(&self, token: &str, now: i64) -> Result<ConnectionClaims, TokenError> {
        let (json, registered) = self.open(token, now)?;
        let claims = ConnectionClaims::read(&json, &registered, self.user(&json, &registered)?)?;
        if registered.is_current(now) { Ok(claims) } else { Err(TokenError::Expired) }
    }

    /// Verifies a subscription token at `now` (unix time in seconds). That channel, user and client
    /// are the connection's is for the caller to see: it closes the connection otherwise.
    pub fn subscription(&self, token: &str, now: i64) -> Result<SubscriptionClaims, TokenError> {
        let (json, registered) = self.open(token, now)?;
        if !registered.is_current(now) {
            return Err(TokenError::Expired);
        }
        SubscriptionClaims::read(&json, &registered, self.user(&json, &registered)?)
    }

    /// Takes the keys of a set that was fetched from this address. If the text is wrong the old
    /// keys stay.
    pub fn replace_keys(&mut self, url: &str, json: &[u8]) -> Result<usize, KeySetError> {
        match self.set_of(url) {
            Some(set) => set.replace(json),
            None => Err(KeySetError("no such key set is configured".to_owned())),
        }
    }

    /// The same with a set that is parsed already, for many verifiers that share it. No effect
    /// where no keys are fetched from this address.
    pub fn set_keys(&mut self, url: &str, keys: &KeySet) {
        if let Some(set) = self.set_of(url) {
            *set = keys.clone();
        }
    }

    fn set_of(&mut self, url: &str) -> Option<&mut KeySet> {
        let Keys::Fetched(endpoints, sets) = &mut self.keys else { return None };
        let place = endpoints.urls().iter().position(|known| known == url)?;
        sets.get_mut(place)
    }

    /// Takes over what another one has fetched, where both fetch from the same place.
    pub fn keep_fetched_keys(&mut self, old: &Self) {
        let Keys::Fetched(endpoints, sets) = &old.keys else { return };
        for (url, set) in endpoints.urls().iter().zip(sets) {
            self.set_keys(url, set);
        }
    }

    /// Whether its keys have to be fetched (`jwks_public_endpoint`).
    pub fn fetches_keys(&self) -> bool {
        matches!(self.keys, Keys::Fetched(..))
    }

    /// Checks everything but the time, and returns the claims' text.
    fn open(&self, token: &str, now: i64) -> Result<(Vec<u8>, Registered), TokenError> {
        let mut parts = token.split('.');
        let (Some(head), Some(body), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(invalid("it does not have three parts"));
        };
        let header: Header = parse(&decode_url(head)?)?;
        if header.crit.is_some() {
            return Err(invalid("it demands extensions (crit) that are not supported"));
        }
        let algorithm = Algorithm::named(&header.alg).ok_or_else(|| {
            TokenError::Invalid({
                // Quoted, so that it does not read as the log's own words.
                let alg: String = header.alg.chars().take(16).collect();
                format!("the algorithm {alg:?} is not supported").into()
            })
        })?;
        let message = &token.as_bytes()[..head.len() + 1 + body.len()];
        match &self.keys {
            Keys::Fixed(keys) => keys.verify(algorithm, message, signature, now)?,
            Keys::Set(set) => {
                let unknown = |_| TokenError::Invalid(Cow::Borrowed("it names an unknown key"));
                verify(set, algorithm, header.kid.as_deref(), message, signature, unknown)?;
            }
            Keys::Fetched(endpoints, sets) => {
                let place = match endpoints.is_template() {
                    // Its word, so far: it only chooses among what is configured.
                    true => self.place(endpoints, &parse(&decode_url(body)?)?)?,
                    false => 0,
                };
                let set = sets.get(place).ok_or(invalid("it has no keys"))?;
                let kid = header.kid.as_deref();
                verify(set, algorithm, kid, message, signature, TokenError::NeedKey)?;
            }
        }
        let json = decode_url(body)?;
        let registered: Registered = parse(&json)?;
        if !self.issuer.holds(registered.iss.as_deref().unwrap_or("")) {
            return Err(invalid("it is from another issuer"));
        }
        let for_us = match (&self.audience, &registered.aud) {
            (Demand::Anything, _) => true,
            (_, None) => false,
            (demand, Some(audience)) => audience.list().iter().any(|one| demand.holds(one)),
        };
        if !for_us {
            return Err(invalid("it is for another audience"));
        }
        Ok((json, registered))
    }

    /// The number of the address whose keys are those of a token.
    fn place(&self, endpoints: &Endpoints, registered: &Registered) -> Result<usize, TokenError> {
        let issuer = registered.iss.as_deref().unwrap_or("");
        let audiences = registered.aud.iter().flat_map(|audience| audience.list());
        let audience = audiences.map(String::as_str).find(|one| self.audience.holds(one));
        let value = |name: &str| {
            let group = audience.and_then(|audience| self.audience.group(audience, name));
            group.or_else(|| self.issuer.group(issuer, name))
        };
        endpoints.find(value).ok_or(invalid("no keys are for its issuer and audience"))
    }

    fn user(&self, json: &[u8], registered: &Registered) -> Result<String, TokenError> {
        match &*self.user_claim {
            "" => Ok(registered.sub.clone().unwrap_or_default()),
            claim => user_of(json, claim),
        }
    }
}

/// A token's first part (RFC 7515 section 4.1), as far as we heed it.
#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    /// Extensions that must be understood; we understand none.
    #[serde(default)]
    crit: Option<serde::de::IgnoredAny>,
}

impl Keys {
    fn read(options: &Token, mistakes: &mut Vec<KeyMistake>) -> Self {
        let mut wrong = |key: &'static str, what: String| mistakes.push(KeyMistake { key, what });
        if !options.jwks_public_endpoint.is_empty() {
            return match Endpoints::new(options) {
                Ok(endpoints) => {
                    let sets = vec![KeySet::default(); endpoints.urls().len()];
                    Self::Fetched(endpoints, sets)
                }
                Err(what) => {
                    wrong("jwks_public_endpoint", what);
                    Self::Set(KeySet::default())
                }
            };
        }
        if !options.jwks_file.is_empty() {
            let text = std::fs::read(&options.jwks_file).map_err(|error| error.to_string());
            let set = text.and_then(|text| KeySet::parse(&text).map_err(|error| error.0));
            let set = set.unwrap_or_else(|what| {
                wrong("jwks_file", format!("{}: {what}", options.jwks_file));
                KeySet::default()
            });
            return Self::Set(set);
        }
        let secret = |secret: &crate::options::Secret| match secret.is_empty() {
            true => None,
            false => Some(Key::hmac(secret.reveal().as_bytes())),
        };
        let mut pem = |text: &str, key, read: fn(&str) -> Result<Key, String>| match text {
            "" => None,
            text => read(text).map_err(|what| wrong(key, what)).ok(),
        };
        let until = match options.hmac_previous_secret_key_valid_until {
            0 => i64::MAX,
            until => until,
        };
        Self::Fixed(Box::new(FixedKeys {
            hmac: secret(&options.hmac_secret_key),
            previous: secret(&options.hmac_previous_secret_key).map(|key| (key, until)),
            rsa: pem(&options.rsa_public_key, "rsa_public_key", Key::rsa_pem),
            ec: pem(&options.ecdsa_public_key, "ecdsa_public_key", Key::ec_pem),
        }))
    }
}

/// Verifies with the key of a set that a token names. `unknown`: the error where there is none of
/// that name.
fn verify(
    set: &KeySet,
    algorithm: Algorithm,
    kid: Option<&str>,
    message: &[u8],
    signature: &str,
    unknown: impl FnOnce(String) -> TokenError,
) -> Result<(), TokenError> {
    let kid = kid.filter(|kid| !kid.is_empty() && kid.len() <= KID_MAX);
    let kid = kid.ok_or(invalid("it names no key (kid)"))?;
    // A secret is no part of a public set, so its algorithms need no key looked up.
    if algorithm.is_hmac() {
        return Err(invalid("there is no key for its algorithm"));
    }
    if !set.contains(kid) {
        return Err(unknown(kid.to_owned()));
    }
    let none = "the key it names is not for its algorithm";
    any(set.find(kid, algorithm), none, algorithm, message, signature)
}

impl FixedKeys {
    fn verify(
        &self,
        algorithm: Algorithm,
        message: &[u8],
        signature: &str,
        now: i64,
    ) -> Result<(), TokenError> {
        let key = match algorithm {
            _ if algorithm.is_hmac() => &self.hmac,
            _ if algorithm.is_rsa() => &self.rsa,
            Algorithm::EdDsa => &None,
            _ => &self.ec,
        };
        let before = self.previous.as_ref().filter(|(_, until)| now <= *until);
        let before = before.map(|(key, _)| key).filter(|_| algorithm.is_hmac());
        let keys = key.iter().chain(before);
        any(keys, "there is no key for its algorithm", algorithm, message, signature)
    }
}

/// Whether the signature holds under one of the keys; otherwise why not under the last.
fn any<'k>(
    keys: impl Iterator<Item = &'k Key>,
    none: &'static str,
    algorithm: Algorithm,
    message: &[u8],
    signature: &str,
) -> Result<(), TokenError> {
    let mut last = invalid(none);
    for key in keys {
        match key.verify(algorithm, message, signature) {
            Ok(()) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Names of keys are thumbprints or shorter.
const KID_MAX: usize = 256;

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
