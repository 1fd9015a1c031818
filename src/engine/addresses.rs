//! How many connections each address has, over all cores: the one table that they share.
//!
//! Used at accepting and closing only, and only if `max_per_address` limits, so a lock per shard
//! costs nothing that matters. The invariant: an address without connections has no entry.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Connections per IPv4 address or IPv6 /64.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    shards: [Mutex<HashMap<u64, u32>>; SHARDS],
}

impl Addresses {
    /// Counts a connection in, and returns how many there are now.
    pub(crate) fn enter(&self, ip: IpAddr) -> u32 {
        let key = address_key(ip);
        let mut shard = self.shard(key);
        let count = shard.entry(key).or_insert(0);
        *count += 1;
        *count
    }

    /// Counts a connection out.
    pub(crate) fn leave(&self, ip: IpAddr) {
        let key = address_key(ip);
        let mut shard = self.shard(key);
        if let Some(count) = shard.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                shard.remove(&key);
            }
        }
    }

    /// A copy of the table.
    pub(super) fn all(&self) -> HashMap<u64, u32> {
        let shards = self.shards.iter().map(|shard| lock(shard));
        shards.flat_map(|shard| shard.iter().map(|(k, v)| (*k, *v)).collect::<Vec<_>>()).collect()
    }

    fn shard(&self, key: u64) -> MutexGuard<'_, HashMap<u64, u32>> {
        // Neighbouring addresses, and /64s of one provider, differ in their low bits.
        lock(&self.shards[(key ^ (key >> 32)) as usize % SHARDS])
    }
}

/// A panic under the lock cannot leave a table half changed.
fn lock(shard: &Mutex<HashMap<u64, u32>>) -> MutexGuard<'_, HashMap<u64, u32>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An IPv4 address, or an IPv6 /64: what one subscriber usually has.
pub(super) fn address_key(ip: IpAddr) -> u64 {
    match ip.to_canonical() {
        // Below 2^32, which of IPv6 only ::/32 is: no global addresses.
        IpAddr::V4(ip) => u64::from(u32::from(ip)),
        IpAddr::V6(ip) => ip.to_bits().wrapping_shr(64) as u64,
    }
}

const SHARDS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_64_is_one_address_and_the_last_to_leave_takes_the_entry() {
        let addresses = Addresses::default();
        let one: IpAddr = "2001:db8:1:2::3".parse().unwrap();
        let neighbour: IpAddr = "2001:db8:1:2:ffff::4".parse().unwrap();
        let other: IpAddr = "2001:db8:1:3::3".parse().unwrap();
        let mapped: IpAddr = "::ffff:127.0.0.1".parse().unwrap();
        assert_eq!([one, neighbour, other].map(|ip| addresses.enter(ip)), [1, 2, 1]);
        assert_eq!(addresses.enter(mapped), 1);
        assert_eq!(addresses.enter("127.0.0.1".parse().unwrap()), 2);
        for ip in [one, other, mapped, mapped] {
            addresses.leave(ip);
        }
        assert_eq!(addresses.all(), HashMap::from([(address_key(one), 1)]));
        addresses.leave(neighbour);
        assert!(addresses.all().is_empty());
    }
}
