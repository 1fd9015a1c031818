//! Sessions of operators: a signed token with the time of its end, and nothing kept.
//!
//! The invariant: a token holds only if it was made with this password and this secret, for this
//! page, and its time is not over.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use crate::options::Secret;

#[derive(Serialize, Deserialize)]
struct Claims {
    /// What it is for, so that no other token with the same secret passes.
    aud: String,
    /// Unix time in seconds.
    exp: u64,
}

/// Makes sessions, and knows its own.
pub(super) struct AdminSessions {
    sign: EncodingKey,
    verify: DecodingKey,
    time: Duration,
}

impl AdminSessions {
    /// Signed with both; without a secret, with something random instead.
    pub(super) fn new(password: &Secret, secret: &Secret, time: Duration) -> Self {
        let random = uuid::Uuid::new_v4().into_bytes();
        let secret = match secret.reveal().as_bytes() {
            b"" => &random[..],
            secret => secret,
        };
        // The length keeps "ab" and "c" apart from "a" and "bc".
        let length = secret.len().to_le_bytes();
        let key = [&length[..], secret, password.reveal().as_bytes()].concat();
        Self { sign: EncodingKey::from_secret(&key), verify: DecodingKey::from_secret(&key), time }
    }

    /// A new session's token.
    pub(super) fn begin(&self) -> Option<String> {
        let claims = Claims { aud: AUDIENCE.to_owned(), exp: unix() + self.time.as_secs() };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.sign).ok()
    }

    /// Whether a token is one of ours, and its time is not over.
    pub(super) fn holds(&self, token: &str) -> bool {
        let mut rules = Validation::new(Algorithm::HS256);
        rules.set_audience(&[AUDIENCE]);
        // Our own clock made it.
        rules.leeway = 0;
        let claims = jsonwebtoken::decode::<Claims>(token, &self.verify, &rules);
        claims.is_ok_and(|data| data.claims.exp > unix())
    }
}

fn unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

const AUDIENCE: &str = "ringhold-admin";

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn sessions(password: &str, secret: &str, time: Duration) -> AdminSessions {
        AdminSessions::new(&Secret::new(password), &Secret::new(secret), time)
    }

    #[test]
    fn a_session_holds_for_its_password_secret_and_time() {
        let token = sessions("p", "s", HOUR).begin().unwrap();
        assert!(sessions("p", "s", HOUR).holds(&token));
        for other in [("q", "s"), ("p", "t"), ("p", ""), ("", "sp"), ("sp", "")] {
            assert!(!sessions(other.0, other.1, HOUR).holds(&token), "{other:?}");
        }
        let over = sessions("p", "s", Duration::ZERO);
        assert!(!over.holds(&over.begin().unwrap()));
        let one = sessions("p", "", HOUR);
        let token = one.begin().unwrap();
        assert!(one.holds(&token) && !sessions("p", "", HOUR).holds(&token));
    }

    #[test]
    fn what_is_forged_does_not_hold() {
        let sessions = sessions("p", "s", HOUR);
        let token = sessions.begin().unwrap();
        let parts: Vec<_> = token.split('.').collect();
        for forged in [
            String::new(),
            ".".to_owned(),
            "..".to_owned(),
            format!("{}.{}.", parts[0], parts[1]),
            format!("eyJhbGciOiJub25lIn0.{}.", parts[1]),
            format!("{}.{}.{}", parts[0], parts[1], &parts[2][1..]),
            format!("{token}."),
        ] {
            assert!(!sessions.holds(&forged), "{forged}");
        }
        let other = Claims { aud: "else".to_owned(), exp: unix() + 60 };
        let header = Header::new(Algorithm::HS256);
        let other = jsonwebtoken::encode(&header, &other, &sessions.sign).unwrap();
        assert!(!sessions.holds(&other));
        let longer = Header::new(Algorithm::HS512);
        let claims = Claims { aud: AUDIENCE.to_owned(), exp: unix() + 60 };
        let other = jsonwebtoken::encode(&longer, &claims, &sessions.sign).unwrap();
        assert!(!sessions.holds(&other));
    }
}
