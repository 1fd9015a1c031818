//! JSON Web Key Sets (RFC 7517): public keys by name, replaced as a whole.

use std::fmt;
use std::sync::Arc;

use serde::Deserialize;

use super::claims::decode_url;
use super::keys::{Algorithm, Key};

/// Public keys by `kid`. Cheap to clone: clones share the keys.
#[derive(Clone, Debug, Default)]
pub struct KeySet(Arc<[Named]>);

#[derive(Debug)]
struct Named {
    kid: String,
    /// The only algorithm it may be used with, if it says so.
    algorithm: Option<Algorithm>,
    key: Key,
}

/// A text that is no key set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySetError(pub String);

impl fmt::Display for KeySetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for KeySetError {}

impl KeySet {
    /// Reads a set. Keys that are not for verifying signatures, or of kinds that are not supported,
    /// are passed over; a set without a usable key is an error.
    pub fn parse(json: &[u8]) -> Result<Self, KeySetError> {
        let text: Text = serde_json::from_slice(json)
            .map_err(|error| KeySetError(format!("is no JSON Web Key Set: {error}")))?;
        if text.keys.len() > KEYS_MAX {
            let count = text.keys.len();
            return Err(KeySetError(format!("has {count} keys; at most {KEYS_MAX} are read")));
        }
        let mut keys = Vec::new();
        let mut passed_over = String::new();
        for key in text.keys {
            match Named::new(key) {
                Ok(key) => keys.push(key),
                Err(what) if passed_over.is_empty() => passed_over = format!(": {what}"),
                Err(_) => {}
            }
        }
        match keys.is_empty() {
            true => Err(KeySetError(format!("has no usable key{passed_over}"))),
            false => Ok(Self(keys.into())),
        }
    }

    /// Takes the keys of another set instead, and says how many there are. If the text is wrong
    /// the old keys stay.
    pub fn replace(&mut self, json: &[u8]) -> Result<usize, KeySetError> {
        *self = Self::parse(json)?;
        Ok(self.len())
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none yet.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether there is a key of that name.
    pub fn contains(&self, kid: &str) -> bool {
        self.0.iter().any(|named| named.kid == kid)
    }

    /// The keys of that name that may be used with that algorithm. Usually there is one.
    pub(super) fn find(&self, kid: &str, algorithm: Algorithm) -> impl Iterator<Item = &Key> {
        let fits = move |named: &&Named| named.algorithm.is_none_or(|only| only == algorithm);
        self.0.iter().filter(move |named| named.kid == kid).filter(fits).map(|named| &named.key)
    }
}

impl Named {
    fn new(text: KeyText) -> Result<Self, String> {
        let kid = text.kid.clone().filter(|kid| !kid.is_empty()).ok_or("a key has no kid")?;
        let fault = |what: String| format!("key \"{kid}\" {what}");
        if text.purpose.as_deref().is_some_and(|purpose| purpose != "sig") {
            return Err(fault("is not for signatures".to_owned()));
        }
        let algorithm = match text.alg.as_deref() {
            None => None,
            Some(name) => {
                let known = Algorithm::named(name);
                Some(known.ok_or_else(|| fault(format!("is for {name}")))?)
            }
        };
        let key = text.key().map_err(&fault)?;
        if algorithm.is_some_and(|algorithm| !key.is_for(algorithm)) {
            return Err(fault("is not for the algorithm it names".to_owned()));
        }
        Ok(Self { kid, algorithm, key })
    }
}

#[derive(Deserialize)]
struct Text {
    keys: Vec<KeyText>,
}

#[derive(Deserialize)]
struct KeyText {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeyText {
    fn key(&self) -> Result<Key, String> {
        let number = |text: &Option<String>, name: &str| {
            let text = text.as_deref().ok_or_else(|| format!("lacks {name}"))?;
            decode_url(text).map_err(|_| format!("has no base64 in {name}"))
        };
        match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => Key::rsa(&number(&self.n, "n")?, &number(&self.e, "e")?),
            ("EC", Some(curve)) => {
                let length = match curve {
                    "P-256" => 32,
                    "P-384" => 48,
                    "P-521" => 66,
                    _ => return Err(format!("is on the curve {curve}")),
                };
                let (x, y) = (number(&self.x, "x")?, number(&self.y, "y")?);
                if x.len() != length || y.len() != length {
                    return Err("has coordinates of the wrong length".to_owned());
                }
                // SEC1's mark of an uncompressed point.
                Key::ec(&[&[4][..], &x, &y].concat())
            }
            ("OKP", Some("Ed25519")) => Key::ed25519(&number(&self.x, "x")?),
            // A symmetric key in a public place is a leak, not a key.
            (kind, _) => Err(format!("is of type {kind}, which is not supported")),
        }
    }
}

/// More than any issuer rotates through.
const KEYS_MAX: usize = 256;
