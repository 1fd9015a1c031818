//! What was published under which idempotency key, for five minutes.
//!
//! Owns the results of one core's channels. All live equally long, so the order in which they came
//! is the order in which they go. Bounded in number and in bytes: the oldest goes before its time.

use std::collections::VecDeque;
use std::time::Duration;

use hashbrown::HashTable;

use super::account::heap;
use super::letters::IDEMPOTENCY_TTL;
use super::placement::Placement;
use super::stream::Position;

/// How many results are known, and how many bytes they may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Capacity {
    pub(super) keys: usize,
    pub(super) bytes: usize,
}

/// The results of one core.
#[derive(Debug)]
pub(super) struct Results {
    placement: Placement,
    /// Numbers of results; the first in `order` is `first`.
    known: HashTable<u32>,
    order: VecDeque<Entry>,
    first: u32,
    /// Bytes of names.
    names: usize,
    capacity: Capacity,
}

#[derive(Debug)]
struct Entry {
    until: Duration,
    name: Box<str>,
    result: Option<Position>,
}

/// An entry and its place in the table.
const ENTRY: usize = size_of::<Entry>() + 2 * (size_of::<u32>() + 1);

impl Results {
    pub(super) fn new(placement: Placement, capacity: Capacity) -> Self {
        let (known, order) = (HashTable::new(), VecDeque::new());
        Self { placement, known, order, first: 0, names: 0, capacity }
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// The memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        let order = heap(self.order.capacity() * size_of::<Entry>());
        self.names + order + self.known.allocation_size()
    }

    /// The result of a publication that has been made.
    pub(super) fn get(
        &mut self,
        channel: &str,
        key: &str,
        now: Duration,
    ) -> Option<Option<Position>> {
        self.expire(now);
        let name = name(channel, key);
        let Self { placement, known, order, first, .. } = self;
        let entry = |number: &u32| &order[number.wrapping_sub(*first) as usize];
        let number = known.find(placement.hash(&name), |number| *entry(number).name == *name)?;
        Some(entry(number).result)
    }

    /// Remembers a result. The key must not be known.
    pub(super) fn put(
        &mut self,
        channel: &str,
        key: &str,
        result: Option<Position>,
        now: Duration,
    ) {
        self.put_until(channel, key, result, now + IDEMPOTENCY_TTL);
    }

    /// The same, for as long as is said; no result that is known lives longer.
    pub(super) fn put_until(
        &mut self,
        channel: &str,
        key: &str,
        result: Option<Position>,
        until: Duration,
    ) {
        let name = name(channel, key).into_boxed_str();
        let names = heap(name.len());
        let Capacity { keys, bytes } = self.capacity;
        let full = |it: &Self| {
            it.order.len() >= keys.max(1) || it.names + names + (it.order.len() + 1) * ENTRY > bytes
        };
        while !self.order.is_empty() && full(self) {
            self.drop_oldest();
        }
        if full(self) {
            return;
        }
        if self.order.len() == self.order.capacity() {
            self.order.reserve_exact(self.order.len() / 4 + 8);
        }
        self.names += names;
        let number = self.first.wrapping_add(self.order.len() as u32);
        let hash = self.placement.hash(&name);
        self.order.push_back(Entry { until, name, result });
        let Self { placement, known, order, first, .. } = self;
        let rehash =
            |number: &u32| placement.hash(&order[number.wrapping_sub(*first) as usize].name);
        known.insert_unique(hash, number, rehash);
    }

    /// All results, the oldest first: channel, key, result, and until when it is known.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &str, Option<Position>, Duration)> {
        self.order.iter().filter_map(|entry| {
            let (length, rest) = entry.name.split_once(':')?;
            let (channel, key) = rest.split_at_checked(length.parse().ok()?)?;
            Some((channel, key, entry.result, entry.until))
        })
    }

    /// Forgets what is old enough. When the next is, if there is one.
    pub(super) fn expire(&mut self, now: Duration) -> Option<Duration> {
        while self.order.front().is_some_and(|entry| entry.until <= now) {
            self.drop_oldest();
        }
        if self.order.is_empty() && self.order.capacity() > 0 {
            *self = Self::new(self.placement, self.capacity);
        }
        self.order.front().map(|entry| entry.until)
    }

    fn drop_oldest(&mut self) {
        let Some(entry) = self.order.pop_front() else { return };
        let (hash, first) = (self.placement.hash(&entry.name), self.first);
        if let Ok(known) = self.known.find_entry(hash, |number| *number == first) {
            known.remove();
        }
        self.names -= heap(entry.name.len());
        self.first = first.wrapping_add(1);
    }
}

/// Names one pair only, whatever characters they have.
fn name(channel: &str, key: &str) -> String {
    format!("{}:{channel}{key}", channel.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(keys: usize, bytes: usize) -> Results {
        Results::new(Placement::new(1, 1), Capacity { keys, bytes })
    }

    #[test]
    fn results_are_known_for_five_minutes_per_channel() {
        let mut results = results(8, usize::MAX);
        let start = Duration::from_secs(7);
        assert_eq!(results.get("a", "k", start), None);
        results.put("a", "k", None, start);
        assert_eq!(results.get("b", "k", start), None);
        let last = start + IDEMPOTENCY_TTL - Duration::from_millis(1);
        assert_eq!(results.get("a", "k", last), Some(None));
        assert_eq!(results.get("a", "k", start + IDEMPOTENCY_TTL), None);
        assert_eq!((results.len(), results.order.capacity()), (0, 0));
    }

    #[test]
    fn the_oldest_makes_room() {
        let mut results = results(2, usize::MAX);
        for key in ["1", "2", "3"] {
            results.put("a", key, None, Duration::ZERO);
        }
        let mut known = |key| results.get("a", key, Duration::ZERO).is_some();
        assert_eq!([known("1"), known("2"), known("3")], [false, true, true]);
        assert_eq!(results.len(), 2);
    }

    #[test]
    fn long_keys_make_room_sooner_and_numbers_may_wrap() {
        let mut results = results(1000, 10 * ENTRY + 4 * 1024);
        results.first = u32::MAX - 20;
        let key = |n: usize| format!("{n:0>1000}");
        for n in 0..50 {
            results.put("a", &key(n), None, Duration::ZERO);
            assert!(results.names <= 4 * 1024 + 10 * ENTRY && results.len() <= 5);
        }
        let mut known = |n: &usize| results.get("a", &key(*n), Duration::ZERO).is_some();
        assert_eq!((0..50).filter(|n| known(n)).collect::<Vec<_>>(), [46, 47, 48, 49]);
        results.put("a", &"k".repeat(10_000), None, Duration::ZERO);
        assert_eq!((results.len(), results.names), (0, 0), "larger than all there may be");
        assert!(results.known.is_empty());
    }
}
