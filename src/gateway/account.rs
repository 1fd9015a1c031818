//! What memory costs, and budgets of it that several threads share.
//!
//! Owns the rounding of the allocator, and the counting of bytes that wait for another thread. The
//! invariant: a budget never gives more than it has, and who holds a part of it gives that back by
//! ending.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What an allocation of so many bytes takes of the heap: the program's allocator has classes of 16
/// bytes up to 64, and four for each doubling beyond; what is huge comes in pages.
pub(super) fn heap(bytes: usize) -> usize {
    match bytes {
        0 => 0,
        1..=64 => bytes.next_multiple_of(16),
        HUGE.. => bytes.next_multiple_of(4096),
        _ => bytes.next_multiple_of(1 << ((bytes - 1).ilog2() - 2)),
    }
}

const HUGE: usize = 4 << 20;

/// What an `Arc` of something of this size takes.
pub(super) fn shared(bytes: usize) -> usize {
    heap(bytes + 2 * size_of::<usize>())
}

/// What a core keeps for each place of a session.
pub(crate) const SESSION_BYTES: usize = size_of::<Option<super::session::Session>>();

/// Bytes that may be held at once, by whatever threads.
#[derive(Debug)]
pub struct Budget {
    held: AtomicUsize,
    max: usize,
}

impl Budget {
    /// Of so many.
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { held: AtomicUsize::new(0), max })
    }

    /// Takes some until the result is dropped. `None`: there are not so many.
    pub fn take(self: &Arc<Self>, bytes: usize) -> Option<Held> {
        self.claim(bytes).then(|| Held { budget: self.clone(), bytes })
    }

    /// Bytes that are held now.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    fn claim(&self, bytes: usize) -> bool {
        let more = |held: usize| held.checked_add(bytes).filter(|held| *held <= self.max);
        self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }
}

/// A part of a budget.
#[derive(Debug)]
pub struct Held {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Held {
    /// Takes more. False: there are not so many, and nothing is taken.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let grown = self.budget.claim(bytes);
        self.bytes += if grown { bytes } else { 0 };
        grown
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_the_allocators() {
        for (bytes, class) in [
            (0, 0),
            (1, 16),
            (16, 16),
            (17, 32),
            (64, 64),
            (65, 80),
            (112, 112),
            (128, 128),
            (129, 160),
            (1000, 1024),
            (1025, 1280),
            (65_536, 65_536),
            (HUGE + 1, HUGE + 4096),
        ] {
            assert_eq!(heap(bytes), class, "{bytes}");
        }
    }

    #[test]
    fn a_budget_gives_what_it_has_and_gets_it_back() {
        let budget = Budget::new(10);
        let mut one = budget.take(6).unwrap();
        assert!(budget.take(5).is_none() && !one.grow(5) && budget.take(usize::MAX).is_none());
        assert!(one.grow(4) && budget.take(1).is_none());
        assert_eq!(budget.held(), 10);
        drop(one);
        assert_eq!(budget.held(), 0);
        assert!(budget.take(10).is_some());
    }
}
