//! Something for a connection, by slot: in chunks that come and go with their use, so that memory
//! follows the number of entries both ways.
//!
//! Owns its entries. Never knows what they are. The invariant: a chunk exists if and only if it has
//! an entry, so a table that only few connections need costs what these few take.
//!
//! An entry is an `Option`: a type with a niche costs its own size, which tables of every
//! connection assert.

use std::fmt;

/// See the module's text. `N` entries are a chunk.
pub(crate) struct SlotTable<T, const N: usize = CHUNK> {
    chunks: Vec<Option<Chunk<T, N>>>,
    used: u32,
}

struct Chunk<T, const N: usize> {
    entries: Box<[Option<T>; N]>,
    used: u32,
}

impl<T, const N: usize> Default for Chunk<T, N> {
    fn default() -> Self {
        // Collected, so that it is never on the stack.
        let entries: Box<[Option<T>]> = (0..N).map(|_| None).collect();
        match entries.try_into() {
            Ok(entries) => Self { entries, used: 0 },
            Err(_) => unreachable!("there are as many as were collected"),
        }
    }
}

impl<T, const N: usize> Default for SlotTable<T, N> {
    fn default() -> Self {
        Self { chunks: Vec::new(), used: 0 }
    }
}

impl<T, const N: usize> fmt::Debug for SlotTable<T, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlotTable").field("used", &self.used).finish_non_exhaustive()
    }
}

impl<T, const N: usize> SlotTable<T, N> {
    /// Entries there are.
    pub(crate) fn used(&self) -> u32 {
        self.used
    }

    /// Puts an entry in, where none is.
    pub(crate) fn insert(&mut self, slot: u32, entry: T) -> &mut T {
        debug_assert!(self.get(slot).is_none(), "slot {slot} has an entry");
        self.occupy(slot).insert(entry)
    }

    /// The entry of a slot, which is made if there is none.
    #[cfg(feature = "gateway")]
    pub(crate) fn get_or_insert_with(&mut self, slot: u32, make: impl FnOnce() -> T) -> &mut T {
        self.occupy(slot).get_or_insert_with(make)
    }

    /// The place of a slot, which counts as one with an entry: the caller puts one in.
    fn occupy(&mut self, slot: u32) -> &mut Option<T> {
        let (chunk, at) = Self::split(slot);
        if self.chunks.len() <= chunk {
            self.chunks.resize_with(chunk + 1, || None);
        }
        let chunk = self.chunks[chunk].get_or_insert_default();
        let place = &mut chunk.entries[at];
        let new = u32::from(place.is_none());
        chunk.used += new;
        self.used += new;
        place
    }

    /// Takes the entry of a slot out.
    pub(crate) fn remove(&mut self, slot: u32) -> Option<T> {
        let (index, at) = Self::split(slot);
        let chunk = self.chunks.get_mut(index)?.as_mut()?;
        let entry = chunk.entries[at].take()?;
        self.used -= 1;
        chunk.used -= 1;
        if chunk.used == 0 {
            self.chunks[index] = None;
        }
        Some(entry)
    }

    /// The entry of a slot.
    #[inline]
    pub(crate) fn get(&self, slot: u32) -> Option<&T> {
        let (chunk, at) = Self::split(slot);
        self.chunks.get(chunk)?.as_ref()?.entries[at].as_ref()
    }

    /// The entry of a slot.
    #[inline]
    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        let (chunk, at) = Self::split(slot);
        self.chunks.get_mut(chunk)?.as_mut()?.entries[at].as_mut()
    }

    /// Every entry, in slot order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.chunks.iter().enumerate().flat_map(|(index, chunk)| {
            let entries = chunk.iter().flat_map(|chunk| chunk.entries.iter());
            entries
                .enumerate()
                .filter_map(move |(at, entry)| Some(((index * N + at) as u32, entry.as_ref()?)))
        })
    }

    /// Visits the entries of one chunk, and returns which chunk is next.
    pub(crate) fn sweep(&mut self, chunk: usize, visit: impl FnMut(&mut T)) -> usize {
        if let Some(chunk) = self.chunks.get_mut(chunk).and_then(Option::as_mut) {
            chunk.entries.iter_mut().flatten().for_each(visit);
        }
        (chunk + 1) % self.chunks.len().max(1)
    }

    /// One past the highest slot that may have an entry.
    pub(crate) fn end(&self) -> u32 {
        (self.chunks.len() * N) as u32
    }

    /// Gives back the table of chunks behind the last one in use.
    pub(crate) fn shrink(&mut self) {
        self.chunks.truncate(self.chunks.iter().rposition(Option::is_some).map_or(0, |at| at + 1));
        self.chunks.shrink_to_fit();
    }

    #[inline]
    fn split(slot: u32) -> (usize, usize) {
        (slot as usize / N, slot as usize % N)
    }
}

/// Entries of a chunk: 64 KiB of hot records, small enough to be given back soon after a mass
/// disconnect, large enough that the table of chunks of a million connections fits the L1 cache.
const CHUNK: usize = 1024;

/// Entries of this size that make a chunk without a gap: no more than [`CHUNK`], and a chunk is as
/// large as a block of the allocator's, of which there are four to a power of two up to
/// [`BLOCK_MAX`]. 1,024 records of 176 bytes would take 192 KiB.
pub(crate) const fn entries(size: usize) -> usize {
    if size == 0 {
        return CHUNK;
    }
    let bytes = if CHUNK * size < BLOCK_MAX { CHUNK * size } else { BLOCK_MAX };
    let step = 1 << (bytes.ilog2() - 2);
    bytes / step * step / size
}

/// Most bytes of a chunk that [`entries`] measures. Half of a table's last chunk is empty on
/// average, and resident: with 128 KiB that was 64 KiB of every core.
const BLOCK_MAX: usize = 32 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: u32 = super::CHUNK as u32;

    #[test]
    fn empty_chunks_are_given_back() {
        let mut table = SlotTable::<_>::default();
        for slot in 0..3 * CHUNK {
            table.insert(slot, slot);
        }
        assert_eq!(table.iter().count() as u32, 3 * CHUNK);
        assert!(table.iter().all(|(slot, entry)| slot == *entry));
        for slot in CHUNK..2 * CHUNK {
            assert_eq!(table.remove(slot), Some(slot));
        }
        assert!(table.chunks[0].is_some() && table.chunks[1].is_none());
        assert_eq!(table.used(), 2 * CHUNK);
        assert!(table.get(CHUNK + 7).is_none() && table.remove(CHUNK + 7).is_none());
    }

    #[test]
    fn a_sparse_table_has_one_chunk_for_its_entry() {
        let mut table = SlotTable::<_>::default();
        table.insert(9 * CHUNK + 3, Box::new('a'));
        assert_eq!(table.chunks.iter().flatten().count(), 1);
        assert_eq!(table.get(9 * CHUNK + 3).map(|entry| **entry), Some('a'));
        assert_eq!((table.get(0), table.get(9 * CHUNK), table.get(99 * CHUNK)), (None, None, None));
    }

    #[test]
    fn the_table_of_chunks_ends_behind_the_last_in_use() {
        let mut table = SlotTable::<_>::default();
        table.insert(7, 'a');
        table.insert(20 * CHUNK, 'b');
        table.shrink();
        assert_eq!(table.end(), 21 * CHUNK);
        assert_eq!(table.remove(20 * CHUNK), Some('b'));
        table.shrink();
        assert_eq!((table.end(), table.get_mut(7).copied()), (CHUNK, Some('a')));
        assert!(table.get(20 * CHUNK).is_none());
        assert_eq!((table.remove(7), table.used()), (Some('a'), 0));
        table.shrink();
        assert_eq!((table.end(), table.chunks.capacity()), (0, 0));
        table.insert(3 * CHUNK, 'c');
        assert_eq!(table.get(3 * CHUNK), Some(&'c'));
    }

    #[test]
    fn chunks_fill_the_blocks_of_the_allocator() {
        assert_eq!([64, 28, 176].map(entries), [512, 1024, 186]);
        for size in 8..400 {
            let (count, bytes) = (entries(size), entries(size) * size);
            let most = (1024 * size).min(BLOCK_MAX);
            assert!(count <= 1024 && bytes > most * 4 / 5, "{count} of {size}");
            let step = 1 << (most.ilog2() - 2);
            let over = bytes.next_multiple_of(step) - bytes;
            assert!(over < size, "{count} of {size}: another one fits");
        }
        let mut table = SlotTable::<u32, 930>::default();
        (0..2000).for_each(|slot| _ = table.insert(slot, slot));
        assert!(table.iter().all(|(slot, entry)| slot == *entry));
        assert_eq!((table.iter().count(), table.end()), (2000, 3 * 930));
    }
}
