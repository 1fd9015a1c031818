//! Session tickets: stateless, under keys that follow from one secret and the time, so that cores,
//! restarts and nodes with the same secret take each other's.
//!
//! Invariant: every ticket has a key and nonce of its own, drawn from the epoch's key by a random
//! salt of 16 bytes; a ticket of another epoch than the last, this and the next is nobody's.

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use rustls::server::ProducesTickets;
use rustls::time_provider::TimeProvider;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// The secret that all keys of tickets follow from.
#[derive(Clone, ZeroizeOnDrop)]
pub struct TicketSecret([u8; 32]);

/// What rustls asks to seal and open tickets.
pub(super) struct Tickets {
    secret: TicketSecret,
    clock: Arc<dyn TimeProvider>,
}

/// How long tickets are sealed under one key.
const EPOCH: u64 = 6 * 3600;
/// Of the epoch, then of the ticket.
const NAME: usize = 8;
const SALT: usize = 16;
const KEY: usize = 32;
const TAG: usize = 16;

impl TicketSecret {
    /// From what an operator writes down: any bytes, at least 32 of them.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < 32 {
            return None;
        }
        let prk = Salt::new(HKDF_SHA256, b"ringhold tickets").extract(bytes);
        let mut secret = [0; 32];
        expand(&prk, &[b"secret"], &mut secret);
        Some(Self(secret))
    }

    /// One of this process alone.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)?;
        Ok(Self(secret))
    }
}

impl std::fmt::Debug for TicketSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TicketSecret")
    }
}

impl Tickets {
    pub(super) fn new(secret: TicketSecret, clock: Arc<dyn TimeProvider>) -> Self {
        Self { secret, clock }
    }

    fn epoch(&self) -> Option<u64> {
        self.clock.current_time().map(|now| now.as_secs() / EPOCH)
    }

    /// The key and nonce of one ticket.
    fn key(&self, name: [u8; NAME], salt: &[u8; SALT]) -> (LessSafeKey, Nonce) {
        let prk = Prk::new_less_safe(HKDF_SHA256, &self.secret.0);
        let mut bytes = [0; KEY + NONCE_LEN];
        expand(&prk, &[b"ticket", &name, salt], &mut bytes);
        let (key, nonce) = bytes.split_at(KEY);
        let nonce = Nonce::try_assume_unique_for_key(nonce).expect("twelve bytes");
        let key = UnboundKey::new(&AES_256_GCM, key).expect("a key of the right length");
        bytes.zeroize();
        (LessSafeKey::new(key), nonce)
    }

    fn seal(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let name = self.epoch()?.to_be_bytes();
        let mut salt = [0; SALT];
        getrandom::fill(&mut salt).ok()?;
        let (key, nonce) = self.key(name, &salt);
        let mut ticket = Vec::with_capacity(NAME + SALT + plain.len() + TAG);
        ticket.extend_from_slice(&name);
        ticket.extend_from_slice(&salt);
        ticket.extend_from_slice(plain);
        let sealed = &mut ticket[NAME + SALT..];
        let tag = key.seal_in_place_separate_tag(nonce, Aad::from(name), sealed).ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn open(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME>()?;
        let (salt, sealed) = rest.split_first_chunk::<SALT>()?;
        // The next one: a node's clock may be ahead.
        if u64::from_be_bytes(*name).abs_diff(self.epoch()?) > 1 {
            return None;
        }
        let (key, nonce) = self.key(*name, salt);
        let mut plain = sealed.to_vec();
        let len = key.open_in_place(nonce, Aad::from(*name), &mut plain).ok()?.len();
        plain.truncate(len);
        Some(plain)
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    /// A ticket lives at least one epoch, and less than two.
    fn lifetime(&self) -> u32 {
        EPOCH as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(cipher)
    }
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tickets")
    }
}

fn expand(prk: &Prk, info: &[&[u8]], out: &mut [u8]) {
    struct Length(usize);
    impl KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    // Refused are only lengths beyond 255 hashes.
    prk.expand(info, Length(out.len()))
        .and_then(|bytes| bytes.fill(out))
        .expect("a length HKDF can give");
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use rustls::pki_types::UnixTime;

    use super::*;

    #[derive(Debug, Default)]
    struct Clock(AtomicU64);

    impl TimeProvider for Clock {
        fn current_time(&self) -> Option<UnixTime> {
            Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.load(Ordering::Relaxed))))
        }
    }

    fn two_nodes(secret: &[u8], other: &[u8]) -> (Arc<Clock>, Tickets, Tickets) {
        let clock = Arc::new(Clock::default());
        clock.0.store(100 * EPOCH, Ordering::Relaxed);
        let of = |secret| {
            Tickets::new(TicketSecret::from_bytes(secret).unwrap(), Arc::clone(&clock) as _)
        };
        (Arc::clone(&clock), of(secret), of(other))
    }

    #[test]
    fn nodes_with_one_secret_take_each_others_tickets() {
        let (_, one, other) = two_nodes(&[7; 32], &[7; 32]);
        let ticket = one.encrypt(b"session").unwrap();
        assert_eq!(other.decrypt(&ticket).unwrap(), b"session");
        assert_ne!(other.encrypt(b"session").unwrap(), ticket);
    }

    #[test]
    fn another_secret_opens_nothing() {
        let (_, one, other) = two_nodes(&[7; 32], &[8; 32]);
        assert_eq!(other.decrypt(&one.encrypt(b"session").unwrap()), None);
    }

    #[test]
    fn a_ticket_is_taken_in_its_epoch_and_beside_it() {
        let (clock, one, _) = two_nodes(&[7; 32], &[7; 32]);
        let ticket = one.encrypt(b"session").unwrap();
        for (epoch, taken) in [(98, false), (99, true), (100, true), (101, true), (102, false)] {
            clock.0.store(epoch * EPOCH + EPOCH - 1, Ordering::Relaxed);
            assert_eq!(one.decrypt(&ticket).is_some(), taken, "epoch {epoch}");
        }
    }

    #[test]
    fn a_ticket_with_any_bit_flipped_or_any_end_missing_is_refused() {
        let (_, one, _) = two_nodes(&[7; 32], &[7; 32]);
        let ticket = one.encrypt(b"session").unwrap();
        for bit in 0..8 * ticket.len() {
            let mut flipped = ticket.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(one.decrypt(&flipped), None, "bit {bit}");
        }
        for len in 0..ticket.len() {
            assert_eq!(one.decrypt(&ticket[..len]), None, "{len} bytes");
        }
    }

    #[test]
    fn a_short_secret_is_refused() {
        assert!(TicketSecret::from_bytes(&[7; 31]).is_none());
    }
}
