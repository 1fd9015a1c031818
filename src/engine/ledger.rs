//! What the outboxes of a core hold of what outlived a turn, in memory, and who is to pay for it.
//!
//! Owns the account and the order of those that may have to pay. Never looks at a connection. The
//! invariant: the total is the sum of what each outbox was entered with, and of every shared buffer
//! once, however many outboxes hold it.
//!
//! Only who does not read is in here: it is entered when a turn leaves something behind, and taken
//! out when that is gone. All of it is constant or logarithmic in the number of such connections.

use std::collections::{BTreeSet, HashMap};

use super::outbox::Outbox;

/// See the module's text.
#[derive(Debug, Default)]
pub struct Ledger {
    total: usize,
    shared: HashMap<usize, Share>,
    /// Who holds something, by rank: the last holds most and reads least.
    ranks: BTreeSet<(i64, u32)>,
}

/// A buffer that is queued for several peers.
#[derive(Clone, Copy, Debug)]
struct Share {
    /// Segments that refer to it.
    count: u32,
    size: usize,
}

impl Ledger {
    /// Bytes of memory.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.total == 0 && self.shared.is_empty() && self.ranks.is_empty()
    }

    /// Whose end frees most for the least harm.
    pub fn worst(&self) -> Option<u32> {
        self.ranks.last().map(|(_, slot)| *slot)
    }

    /// One more segment refers to the buffer at `start`, which takes `size` bytes of memory.
    pub(super) fn share(&mut self, start: usize, size: usize) {
        let share = self.shared.entry(start).or_insert_with(|| {
            let size = size + SHARE;
            self.total += size;
            Share { count: 0, size }
        });
        share.count += 1;
    }

    /// One segment fewer refers to the buffer at `start`. Called while the segment still holds it,
    /// so that nobody else can have got its place.
    pub(super) fn unshare(&mut self, start: usize) {
        let Some(share) = self.shared.get_mut(&start) else {
            debug_assert!(false, "a buffer that was not entered");
            return;
        };
        share.count -= 1;
        if share.count == 0 {
            self.total -= share.size;
            self.shared.remove(&start);
            if self.shared.is_empty() && self.shared.capacity() > TABLE_KEPT {
                self.shared = HashMap::new();
            }
        }
    }

    /// Brings the account of an outbox up to date with what it holds, and its rank.
    #[inline(never)]
    pub(super) fn enter(&mut self, slot: u32, outbox: &mut Outbox) {
        let held = outbox.held();
        self.total = self.total + held - outbox.entered;
        outbox.entered = held;
        let rank = if held > 0 { outbox.rank() } else { UNRANKED };
        if rank != outbox.ranked {
            self.ranks.remove(&(outbox.ranked, slot));
            if rank != UNRANKED {
                self.ranks.insert((rank, slot));
            }
            outbox.ranked = rank;
        }
    }

    pub(super) fn shrink(&mut self) {
        self.shared.shrink_to_fit();
    }

    /// Compares the account with what was found: the sum over outboxes, how many segments refer to
    /// each buffer, and who has a rank.
    pub(super) fn audit(
        &self,
        entered: usize,
        shared: &HashMap<usize, u32>,
        ranks: &BTreeSet<(i64, u32)>,
    ) -> Result<(), String> {
        let counts: HashMap<usize, u32> =
            self.shared.iter().map(|(start, share)| (*start, share.count)).collect();
        if counts != *shared {
            return Err(format!("shared buffers: {counts:?} kept, {shared:?} found"));
        }
        let sizes: usize = self.shared.values().map(|share| share.size).sum();
        if self.total != entered + sizes {
            return Err(format!("outbox bytes: {} kept, {entered} + {sizes} found", self.total));
        }
        if self.ranks != *ranks {
            return Err(format!("ranks: {:?} kept, {ranks:?} found", self.ranks));
        }
        Ok(())
    }
}

/// What an allocation of `len` bytes takes.
pub(super) fn allocated(len: usize) -> usize {
    // Classes of size are an eighth apart, and a page from some size on.
    let step = if len < 128 { 16 } else { (len.next_power_of_two() / 16).min(4096) };
    len.next_multiple_of(step)
}

/// Sixteen times the binary logarithm, exact to one of sixteen.
pub(super) fn log2_16(value: u64) -> i64 {
    let value = value.max(1);
    let whole = value.ilog2();
    let part = if whole >= 4 { value >> (whole - 4) } else { value << (4 - whole) };
    i64::from(whole) * 16 + (part & 15) as i64
}

/// Of an outbox that holds nothing.
pub(super) const UNRANKED: i64 = i64::MIN;

/// What a shared buffer takes besides its bytes: the header of its frame and what counts its
/// owners (64), its entry here (64).
const SHARE: usize = 128;

/// Entries whose memory is kept when the last one is gone.
const TABLE_KEPT: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logarithm_grows_with_its_value() {
        assert_eq!((log2_16(0), log2_16(1), log2_16(2), log2_16(3)), (0, 0, 16, 24));
        assert_eq!(log2_16(1 << 40), 640);
        let all: Vec<i64> = (1..100_000).map(log2_16).collect();
        assert!(all.is_sorted());
    }

    #[test]
    fn an_allocation_is_an_eighth_larger_at_most() {
        for len in (1..100_000).chain([1 << 20, 123_456_789]) {
            let size = allocated(len);
            assert!(size >= len && size <= len + (len / 8).max(15), "{len}: {size}");
        }
    }

    #[test]
    fn a_buffer_counts_once_until_the_last_has_left() {
        let mut ledger = Ledger::default();
        ledger.share(4096, 1000);
        ledger.share(4096, 1000);
        assert_eq!(ledger.total(), 1000 + SHARE);
        ledger.unshare(4096);
        assert_eq!(ledger.total(), 1000 + SHARE);
        ledger.unshare(4096);
        assert!(ledger.is_empty());
    }
}
