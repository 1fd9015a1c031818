//! JSON Web Tokens: who a connection is, and what it may subscribe to.
//!
//! Owns keys, signatures and claims. Never reads a clock or a network: the time is passed in, and a
//! key that is not known yet is asked for by [`TokenError::NeedKey`]. The invariant: what a claim
//! says is only looked at once the signature holds, but for which of the configured sets of keys is
//! meant; and a signature only holds under the algorithm that the key is for, whatever the token's
//! header wishes.

mod claims;
mod endpoints;
mod keys;
mod make;
mod set;
mod verifier;

pub use claims::{ConnectionClaims, ServerSubscription, SubscriptionClaims};
pub use endpoints::Endpoints;
pub(crate) use endpoints::is_template;
pub use make::{MakeError, TokenRequest};
pub use set::{KeySet, KeySetError};
pub use verifier::{KeyMistake, Verifier};

use std::borrow::Cow;
use std::fmt;

/// Why a token is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// Its time is over, or has not come: error 109, and the client gets a new one.
    Expired,
    /// It is not one of ours; says why, for the log. Never shown to the client.
    Invalid(Cow<'static, str>),
    /// It names a key that the set does not have (yet): the set may be fetched again, not more
    /// often than the caller allows, and the token be tried once more.
    NeedKey(String),
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired => f.write_str("the token expired"),
            Self::Invalid(reason) => f.write_str(reason),
            Self::NeedKey(kid) => write!(f, "no key {kid:?} in the key set"),
        }
    }
}

impl std::error::Error for TokenError {}

/// Shorthand for a reason that is known in advance.
fn invalid(reason: &'static str) -> TokenError {
    TokenError::Invalid(Cow::Borrowed(reason))
}
