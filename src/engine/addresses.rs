//! How many connections each address has, over all cores: the one table that they share.
//!
//! Used at accepting and closing only, and only if `max_per_address` limits, so a lock per shard
//! costs nothing that matters. The invariant: an address without connections has no entry.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Connections per IPv4 address or IPv6 /64.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    shards: [Mutex<HashMap<u64, Present>>; SHARDS],
}

/// The connections of one address.
#[derive(Clone, Copy, Debug, Default)]
struct Present {
    /// Those that the limit counts.
    seats: u32,
    /// Those besides that are being closed.
    leaving: u32,
}

impl Addresses {
    /// Counts a connection in, unless `limit` are. Returns whether it did. Those that are being
    /// closed count only when they are many: nobody fills the table with what it leaves behind.
    pub(super) fn enter(&self, ip: IpAddr, limit: u32) -> bool {
        let key = address_key(ip);
        let mut shard = self.shard(key);
        let present = shard.get(&key).copied().unwrap_or_default();
        let fits = present.seats < limit && present.leaving <= limit.saturating_add(LEAVING_MIN);
        if fits {
            shard.insert(key, Present { seats: present.seats + 1, ..present });
        }
        fits
    }

    /// A connection's close is decided.
    pub(super) fn start_leaving(&self, ip: IpAddr) {
        if let Some(present) = self.shard(address_key(ip)).get_mut(&address_key(ip)) {
            present.seats -= 1;
            present.leaving += 1;
        }
    }

    /// A connection is gone whose close was decided.
    pub(super) fn leave(&self, ip: IpAddr) {
        let key = address_key(ip);
        let mut shard = self.shard(key);
        if let Some(present) = shard.get_mut(&key) {
            present.leaving -= 1;
            if present.seats + present.leaving == 0 {
                shard.remove(&key);
            }
        }
    }

    /// Copies of the table: who is counted, and who is there.
    pub(super) fn all(&self) -> (HashMap<u64, u32>, HashMap<u64, u32>) {
        let (mut seats, mut all) = (HashMap::new(), HashMap::new());
        for shard in self.shards.iter().map(|shard| lock(shard)) {
            all.extend(shard.iter().map(|(key, it)| (*key, it.seats + it.leaving)));
            let counted = shard.iter().filter(|(_, it)| it.seats > 0);
            seats.extend(counted.map(|(key, it)| (*key, it.seats)));
        }
        (seats, all)
    }

    fn shard(&self, key: u64) -> MutexGuard<'_, HashMap<u64, Present>> {
        // Neighbouring addresses, and /64s of one provider, differ in their low bits.
        lock(&self.shards[(key ^ (key >> 32)) as usize % SHARDS])
    }
}

/// A connection that left the engine ([`super::Handler::on_detach`]): `max_per_address` counts it
/// until this is dropped, so keep it as long as the socket. The default counts nothing.
#[derive(Debug, Default)]
pub struct AddressPlace(Option<(Arc<Addresses>, IpAddr)>);

impl AddressPlace {
    /// Takes over what a connection is counted as.
    pub(super) fn new(addresses: Arc<Addresses>, ip: IpAddr) -> Self {
        Self(Some((addresses, ip)))
    }

    pub(super) fn key(&self) -> Option<u64> {
        self.0.as_ref().map(|(_, ip)| address_key(*ip))
    }
}

impl Drop for AddressPlace {
    fn drop(&mut self) {
        if let Some((addresses, ip)) = self.0.take() {
            addresses.start_leaving(ip);
            addresses.leave(ip);
        }
    }
}

/// A panic under the lock cannot leave a table half changed.
fn lock(shard: &Mutex<HashMap<u64, Present>>) -> MutexGuard<'_, HashMap<u64, Present>> {
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

/// Connections of one address that may be leaving besides as many as it may have.
const LEAVING_MIN: u32 = 16;

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
        for (ip, fits) in [(one, true), (neighbour, true), (neighbour, false), (other, true)] {
            assert_eq!(addresses.enter(ip, 2), fits);
        }
        assert!(addresses.enter(mapped, 2));
        assert!(addresses.enter("127.0.0.1".parse().unwrap(), 2));
        for ip in [one, other, mapped, mapped] {
            addresses.start_leaving(ip);
            addresses.leave(ip);
        }
        let only = HashMap::from([(address_key(one), 1)]);
        assert_eq!(addresses.all(), (only.clone(), only));
        addresses.start_leaving(neighbour);
        assert_eq!(addresses.all(), (HashMap::new(), HashMap::from([(address_key(one), 1)])));
        addresses.leave(neighbour);
        assert_eq!(addresses.all().1, HashMap::new());
    }

    #[test]
    fn who_leaves_makes_room_but_not_without_end() {
        let addresses = Addresses::default();
        let ip: IpAddr = "10.0.0.1".parse().unwrap();
        let mut came = 0;
        while came < 1000 && addresses.enter(ip, 2) {
            addresses.start_leaving(ip);
            came += 1;
        }
        assert_eq!(came, 2 + LEAVING_MIN + 1);
        addresses.leave(ip);
        assert!(addresses.enter(ip, 2));
    }

    #[test]
    fn a_place_counts_until_it_is_dropped() {
        let addresses = Arc::new(Addresses::default());
        let ip: IpAddr = "10.0.0.1".parse().unwrap();
        assert!(addresses.enter(ip, 1));
        let place = AddressPlace::new(addresses.clone(), ip);
        assert!(!addresses.enter(ip, 1));
        drop(place);
        assert!(addresses.enter(ip, 1));
    }
}
