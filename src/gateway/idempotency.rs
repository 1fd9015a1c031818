//! What was published under which idempotency key, for five minutes.
//!
//! Owns the results of one core's channels. All live equally long, so the order in which they came
//! is the order in which they go. Bounded in number: the oldest goes before its time.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::letters::IDEMPOTENCY_TTL;
use super::stream::Position;

/// The results of one core.
#[derive(Debug)]
pub(super) struct Results {
    known: HashMap<Arc<str>, Option<Position>>,
    order: VecDeque<(Duration, Arc<str>)>,
    capacity: usize,
}

impl Results {
    pub(super) fn new(capacity: usize) -> Self {
        Self { known: HashMap::new(), order: VecDeque::new(), capacity }
    }

    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// The result of a publication that has been made.
    pub(super) fn get(
        &mut self,
        channel: &str,
        key: &str,
        now: Duration,
    ) -> Option<Option<Position>> {
        self.expire(now);
        self.known.get(name(channel, key).as_str()).copied()
    }

    /// Remembers a result. The key must not be known.
    pub(super) fn put(
        &mut self,
        channel: &str,
        key: &str,
        result: Option<Position>,
        now: Duration,
    ) {
        while self.order.len() >= self.capacity.max(1) {
            self.drop_oldest();
        }
        let name: Arc<str> = name(channel, key).into();
        self.known.insert(name.clone(), result);
        self.order.push_back((now + IDEMPOTENCY_TTL, name));
    }

    /// Forgets what is old enough. When the next is, if there is one.
    pub(super) fn expire(&mut self, now: Duration) -> Option<Duration> {
        while self.order.front().is_some_and(|(until, _)| *until <= now) {
            self.drop_oldest();
        }
        if self.order.is_empty() && self.order.capacity() > 0 {
            *self = Self::new(self.capacity);
        }
        self.order.front().map(|(until, _)| *until)
    }

    fn drop_oldest(&mut self) {
        if let Some((_, name)) = self.order.pop_front() {
            self.known.remove(&name);
        }
    }
}

/// Names one pair only, whatever characters they have.
fn name(channel: &str, key: &str) -> String {
    format!("{}:{channel}{key}", channel.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_known_for_five_minutes_per_channel() {
        let mut results = Results::new(8);
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
        let mut results = Results::new(2);
        for key in ["1", "2", "3"] {
            results.put("a", key, None, Duration::ZERO);
        }
        let mut known = |key| results.get("a", key, Duration::ZERO).is_some();
        assert_eq!([known("1"), known("2"), known("3")], [false, true, true]);
        assert_eq!(results.len(), 2);
    }
}
