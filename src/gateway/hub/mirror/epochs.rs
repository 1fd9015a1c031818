//! Epochs that have ended: a server that goes on in one has lost the renewal with its end, and has
//! a history in it that is not the one its readers knew.
//!
//! Owns a mark of each, [`LEFT_MAX`] per core; over it the oldest are forgotten, and counted.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};

use crate::gateway::stream::Epoch;

/// Epochs that one core remembers: 1.6 MB at most.
pub(super) const LEFT_MAX: usize = 1 << 16;

/// Epochs that channels have left.
#[derive(Debug, Default)]
pub(super) struct LeftEpochs {
    /// Servers may draw short epochs, so the channel counts, too. Two with one mark cost a renewal.
    marks: HashSet<u64>,
    /// The oldest first.
    order: VecDeque<u64>,
    hasher: RandomState,
}

impl LeftEpochs {
    /// A channel has left this epoch for good. False if another one was forgotten for it.
    pub(super) fn leave(&mut self, channel: &str, epoch: &Epoch) -> bool {
        let mark = self.mark(channel, epoch);
        if !self.marks.insert(mark) {
            return true;
        }
        self.order.push_back(mark);
        if self.order.len() <= LEFT_MAX {
            return true;
        }
        if let Some(oldest) = self.order.pop_front() {
            self.marks.remove(&oldest);
        }
        false
    }

    /// Whether a channel has left this epoch.
    pub(super) fn has(&self, channel: &str, epoch: &Epoch) -> bool {
        !self.marks.is_empty() && self.marks.contains(&self.mark(channel, epoch))
    }

    fn mark(&self, channel: &str, epoch: &Epoch) -> u64 {
        self.hasher.hash_one((channel, epoch.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten_and_the_others_are_not() {
        let mut left = LeftEpochs::default();
        let epoch = |number: usize| Epoch::parse(&format!("e{number}")).expect("an epoch");
        for number in 0..LEFT_MAX {
            assert!(left.leave("a", &epoch(number)));
        }
        assert!(left.leave("a", &epoch(7)), "it is known");
        assert!(left.has("a", &epoch(0)) && !left.has("b", &epoch(0)));
        assert!(!left.leave("b", &epoch(0)));
        assert!(!left.has("a", &epoch(0)) && left.has("b", &epoch(0)));
        assert!(left.has("a", &epoch(1)) && left.has("a", &epoch(LEFT_MAX - 1)));
        assert_eq!((left.marks.len(), left.order.len()), (LEFT_MAX, LEFT_MAX));
    }
}
