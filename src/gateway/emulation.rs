//! What an emulated session is called, so that its client's requests find it: `session` and `node`
//! of the connect reply.
//!
//! Owns the names and the key that seals them. A name is the connection's own number, sealed, so
//! nothing is kept for it, and none can be guessed. The invariant: a name that this process did not
//! give opens nothing.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::crypto::{sign, verify};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};

use super::hub_port::Link;

/// Names sessions, and knows them again.
#[derive(Clone)]
pub struct SessionNames {
    node: String,
    seal: EncodingKey,
    check: DecodingKey,
}

impl SessionNames {
    /// With a key of its own, for as long as this process lives. `node` names the process; it must
    /// differ from those of others that a client may be sent to.
    pub fn new(node: String) -> Self {
        // 244 random bits from the kernel.
        let halves = [uuid::Uuid::new_v4(), uuid::Uuid::new_v4()];
        let key: Vec<u8> = halves.iter().flat_map(|half| half.into_bytes()).collect();
        let (seal, check) = (EncodingKey::from_secret(&key), DecodingKey::from_secret(&key));
        Self { node, seal, check }
    }

    /// What this process is called.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The name of a connection of this core; 58 characters.
    pub fn name(&self, core: u16, link: Link) -> String {
        let number = [&core.to_be_bytes()[..], &link.0.to_be_bytes()].concat();
        let number = URL_SAFE_NO_PAD.encode(number);
        // HMAC takes keys of any length.
        let seal = sign(number.as_bytes(), &self.seal, Algorithm::HS256).unwrap_or_default();
        debug_assert!(!seal.is_empty());
        format!("{number}.{seal}")
    }

    /// The connection of that name and its core; it may be gone. `None`: the name is not ours.
    pub fn find(&self, name: &str) -> Option<(u16, Link)> {
        let (number, seal) = name.split_once('.')?;
        if !verify(seal, number.as_bytes(), &self.check, Algorithm::HS256).unwrap_or(false) {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(number).ok()?;
        let (core, bits) = bytes.split_first_chunk()?;
        let bits = u64::from_be_bytes(bits.try_into().ok()?);
        Some((u16::from_be_bytes(*core), Link(bits)))
    }
}

/// The key does not get into logs.
impl std::fmt::Debug for SessionNames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionNames").field("node", &self.node).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_again_and_others_are_not() {
        let names = SessionNames::new("a".to_owned());
        let link = Link(0xdead_beef_0000_0007);
        let name = names.name(3, link);
        assert_eq!((name.len(), names.find(&name)), (58, Some((3, link))));
        assert_eq!(SessionNames::new("a".to_owned()).find(&name), None, "another key");
        for at in 0..name.len() {
            let mut other = name.clone().into_bytes();
            other[at] = if other[at] == b'A' { b'B' } else { b'A' };
            let other = String::from_utf8(other).unwrap();
            // Of the last letter some bits carry nothing.
            let same = names.find(&other).is_some();
            assert!(!same || at == name.len() - 1, "{at}");
        }
        for name in ["", ".", "x", "x.y", "é.é", &name[..20]] {
            assert_eq!(names.find(name), None, "{name}");
        }
    }
}
