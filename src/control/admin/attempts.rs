//! How many logins may fail: from one address, and from all of them together.
//!
//! Failures fill a bucket that leaks with time. While that of an address is full, no password from
//! there is looked at, not even the right one. While that of all is full, an address without
//! failures has one attempt: whoever fails from many addresses does not lock out who does not fail.
//! The invariant: the table never has more than `ADDRESSES_MAX` buckets.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::control::room::network;

/// How many logins may fail, and how soon that is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptLimits {
    /// Of one IPv4 address or IPv6 /64. Default 5.
    pub address: u32,
    /// One failure of an address is forgotten after this time. Default 12 s.
    pub address_pause: Duration,
    /// Of all addresses together; beyond, each address has one. Default 100.
    pub all: u32,
    /// One failure of them is forgotten after this time. Default 1 s.
    pub all_pause: Duration,
}

impl Default for AttemptLimits {
    fn default() -> Self {
        Self {
            address: 5,
            address_pause: Duration::from_secs(12),
            all: 100,
            all_pause: Duration::from_secs(1),
        }
    }
}

/// The outcome of a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    Right,
    Wrong,
    /// Too many failed; try again after this time.
    Limited(Duration),
}

pub(super) struct Attempts {
    limits: AttemptLimits,
    /// Never held while something waits.
    buckets: Mutex<Buckets>,
}

#[derive(Default)]
struct Buckets {
    all: Bucket,
    addresses: HashMap<Option<IpAddr>, Bucket>,
}

/// When it is empty again. Later by one pause with each failure.
#[derive(Clone, Copy, Default)]
struct Bucket {
    empty_at: Option<Instant>,
}

impl Bucket {
    fn fill(&self, now: Instant) -> Duration {
        self.empty_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }

    /// How long until one more failure fits.
    fn wait(&self, now: Instant, number: u32, pause: Duration) -> Duration {
        (self.fill(now) + pause).saturating_sub(pause * number)
    }

    fn add(&mut self, now: Instant, pause: Duration) {
        self.empty_at = Some(now + self.fill(now) + pause);
    }
}

impl Attempts {
    pub(super) fn new(limits: AttemptLimits) -> Self {
        Self { limits, buckets: Mutex::default() }
    }

    /// A login from this address, whose password is right or not.
    pub(super) fn attempt(&self, from: Option<IpAddr>, now: Instant, right: bool) -> Attempt {
        let AttemptLimits { address, address_pause, all, all_pause } = self.limits;
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let buckets = &mut *buckets;
        let place = from.map(network);
        let own = buckets.addresses.get(&place).copied().unwrap_or_default();
        let crowd = buckets.all.wait(now, all, all_pause);
        let wait = match crowd.is_zero() {
            true => own.wait(now, address, address_pause),
            false => own.fill(now),
        };
        if !wait.is_zero() {
            return Attempt::Limited(wait.max(crowd));
        }
        if right {
            return Attempt::Right;
        }
        buckets.make_room(place, now);
        let own = buckets.addresses.entry(place).or_default();
        if crowd.is_zero() {
            own.add(now, address_pause);
            buckets.all.add(now, all_pause);
            return Attempt::Wrong;
        }
        // That was the one.
        own.empty_at = Some(now + address_pause * address);
        Attempt::Limited(own.fill(now).max(crowd))
    }
}

impl Buckets {
    /// Room for this one: forgets what is over, or else what would be forgotten next.
    fn make_room(&mut self, place: Option<IpAddr>, now: Instant) {
        if self.addresses.len() < ADDRESSES_MAX || self.addresses.contains_key(&place) {
            return;
        }
        self.addresses.retain(|_, bucket| !bucket.fill(now).is_zero());
        if self.addresses.len() >= ADDRESSES_MAX {
            let next = self.addresses.iter().max_by_key(|(_, bucket)| Reverse(bucket.empty_at));
            if let Some(next) = next.map(|(place, _)| *place) {
                self.addresses.remove(&next);
            }
        }
    }
}

/// Addresses with failures that are remembered; some 400 KiB.
const ADDRESSES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: AttemptLimits = AttemptLimits {
        address: 3,
        address_pause: Duration::from_secs(10),
        all: 5,
        all_pause: Duration::from_secs(1),
    };

    fn from(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn failures_of_an_address_are_limited_and_forgotten() {
        let (attempts, start) = (Attempts::new(LIMITS), Instant::now());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let a = from("10.0.0.1");
        for _ in 0..3 {
            assert_eq!(attempts.attempt(a, at(0), false), Attempt::Wrong);
        }
        let limited = Attempt::Limited(Duration::from_secs(10));
        assert_eq!(attempts.attempt(a, at(0), false), limited);
        // The right one neither, or it would be told apart.
        assert_eq!(attempts.attempt(a, at(0), true), limited);
        assert_eq!(attempts.attempt(from("::ffff:10.0.0.1"), at(0), true), limited);
        assert_eq!(attempts.attempt(from("10.0.0.2"), at(0), true), Attempt::Right);
        assert_eq!(
            attempts.attempt(a, at(4), false),
            Attempt::Limited(Duration::from_secs(6)),
            "what is refused does not count"
        );
        assert_eq!(attempts.attempt(a, at(10), true), Attempt::Right);
        assert_eq!(attempts.attempt(a, at(10), false), Attempt::Wrong);
        assert_eq!(attempts.attempt(a, at(10), false), limited);
        for _ in 0..3 {
            assert_eq!(attempts.attempt(a, at(1000), false), Attempt::Wrong);
        }
    }

    #[test]
    fn many_addresses_are_limited_together() {
        let (attempts, now) = (Attempts::new(LIMITS), Instant::now());
        for n in 0..5 {
            let one = from(&format!("10.0.0.{n}"));
            assert_eq!(attempts.attempt(one, now, false), Attempt::Wrong);
        }
        // Who has not failed gets in, and may fail once.
        assert_eq!(attempts.attempt(from("10.0.0.9"), now, true), Attempt::Right);
        assert_eq!(attempts.attempt(None, now, true), Attempt::Right);
        let limited = |seconds| Attempt::Limited(Duration::from_secs(seconds));
        assert_eq!(attempts.attempt(from("10.0.0.9"), now, false), limited(30));
        assert_eq!(attempts.attempt(from("10.0.0.9"), now, true), limited(30));
        // Who has failed waits until that is forgotten.
        assert_eq!(attempts.attempt(from("10.0.0.1"), now, true), limited(10));
        // One failure less: one more may fail, and is the one that fills it again.
        let later = now + Duration::from_secs(1);
        assert_eq!(attempts.attempt(from("10.0.0.8"), later, false), Attempt::Wrong);
        assert_eq!(attempts.attempt(from("10.0.0.9"), later, true), limited(29));
    }

    #[test]
    fn a_network_of_ipv6_is_one_and_the_table_is_bounded() {
        let limits = AttemptLimits { all: u32::MAX, all_pause: Duration::ZERO, ..LIMITS };
        let (attempts, now) = (Attempts::new(limits), Instant::now());
        for n in 0..3 {
            let one = from(&format!("2001:db8::{n}"));
            assert_eq!(attempts.attempt(one, now, false), Attempt::Wrong);
        }
        let limited = Attempt::Limited(Duration::from_secs(10));
        assert_eq!(attempts.attempt(from("2001:db8::ffff"), now, true), limited);
        assert_eq!(attempts.attempt(from("2001:db8:0:1::"), now, true), Attempt::Right);
        for n in 0..10_000_u32 {
            attempts.attempt(Some(IpAddr::V4(n.into())), now, false);
        }
        let held = || attempts.buckets.lock().unwrap().addresses.len();
        assert_eq!(held(), ADDRESSES_MAX);
        // An address that is not in the table has not failed.
        assert_eq!(attempts.attempt(from("10.9.9.9"), now, true), Attempt::Right);
        // When all is forgotten, there is room.
        let later = now + Duration::from_secs(1000);
        assert_eq!(attempts.attempt(from("10.9.9.9"), later, false), Attempt::Wrong);
        assert_eq!(held(), 1);
    }
}
