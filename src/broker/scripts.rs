//! The scripts that Redis runs for us, each in one atomic step.
//!
//! Owns their texts and digests. A server that has forgotten one answers `NOSCRIPT`; then all are
//! loaded again. All keys of a call, and the name of the messages that it sends, belong to one
//! channel, so that a cluster finds them in one slot.

use sha1::{Digest, Sha1};

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    /// Publish with a history.
    Publish,
    /// Several of the plain kind.
    PublishMany,
    /// Publish without one, once per idempotency key.
    PublishOnce,
    /// Read a history.
    History,
    /// Forget a history.
    Remove,
    /// A new epoch.
    Renew,
    /// Who is there?
    Presence,
}

impl Script {
    /// All of them, in the order of [`Digests`].
    pub const ALL: [Self; 7] = [
        Self::Publish,
        Self::PublishMany,
        Self::PublishOnce,
        Self::History,
        Self::Remove,
        Self::Renew,
        Self::Presence,
    ];

    /// Its text.
    pub fn text(self) -> &'static str {
        match self {
            Self::Publish => include_str!("scripts/publish.lua"),
            Self::PublishMany => include_str!("scripts/publish_many.lua"),
            Self::PublishOnce => include_str!("scripts/publish_once.lua"),
            Self::History => include_str!("scripts/history.lua"),
            Self::Remove => include_str!("scripts/remove.lua"),
            Self::Renew => include_str!("scripts/renew.lua"),
            Self::Presence => include_str!("scripts/presence.lua"),
        }
    }
}

/// The names by which a server knows the scripts.
#[derive(Clone, Debug)]
pub struct Digests([String; Script::ALL.len()]);

impl Digests {
    /// Of their texts.
    pub fn new() -> Self {
        Self(Script::ALL.map(|script| {
            let digest = Sha1::digest(script.text().as_bytes());
            digest.iter().map(|byte| format!("{byte:02x}")).collect()
        }))
    }

    /// Of one.
    pub fn of(&self, script: Script) -> &str {
        &self.0[script as usize]
    }
}

impl Default for Digests {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_script_has_the_digest_that_redis_gives_it() {
        let digests = Digests::new();
        for script in Script::ALL {
            let digest = digests.of(script);
            assert!(digest.len() == 40 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()));
            assert_eq!(Script::ALL.iter().filter(|other| digests.of(**other) == digest).count(), 1);
        }
        // Of RFC 3174: the same function as the server's.
        let known: String = Sha1::digest(b"abc").iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(known, "a9993e364706816aba3e25717850c26c9cd0d89d");
    }
}
