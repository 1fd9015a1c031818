//! How other threads reach a core: a bounded queue and a doorbell that is rung only if the core
//! sleeps.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::ring::Doorbell;

/// A bounded queue into one core. Any thread posts, the owner takes.
pub struct Mailbox<T> {
    queue: Mutex<VecDeque<T>>,
    /// The queue is not empty. Written under its lock; spares a turn without letters that lock.
    waiting: AtomicBool,
    capacity: usize,
    asleep: AtomicBool,
    closed: AtomicBool,
    doorbell: Box<dyn Doorbell>,
}

/// Why a letter was not taken; it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused<T> {
    /// The mailbox is at its capacity; the core is overloaded. Try later, or drop.
    Full(T),
    /// The core has ended.
    Closed(T),
}

impl<T> Mailbox<T> {
    /// A mailbox for at most `capacity` letters.
    pub fn new(capacity: usize, doorbell: Box<dyn Doorbell>) -> Self {
        Self {
            queue: Mutex::default(),
            waiting: AtomicBool::new(false),
            capacity,
            asleep: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            doorbell,
        }
    }

    /// Puts a letter in, in order with the caller's earlier ones. Never blocks for long.
    pub fn post(&self, letter: T) -> Result<(), Refused<T>> {
        self.put(letter, self.capacity)
    }

    /// As [`Self::post`], for the few letters that control the core itself: they are taken
    /// beyond the capacity.
    pub fn post_urgent(&self, letter: T) -> Result<(), Refused<T>> {
        self.put(letter, usize::MAX)
    }

    fn put(&self, letter: T, capacity: usize) -> Result<(), Refused<T>> {
        {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            if self.closed.load(Ordering::Relaxed) {
                return Err(Refused::Closed(letter));
            }
            if queue.len() >= capacity {
                return Err(Refused::Full(letter));
            }
            queue.push_back(letter);
            self.waiting.store(true, Ordering::SeqCst);
        }
        // Both sides store one flag and then look at the other's, in one order that all agree on:
        // either this sees the core asleep, or the core sees the letter before it sleeps.
        if self.asleep.swap(false, Ordering::SeqCst) {
            self.doorbell.ring();
        }
        Ok(())
    }

    /// Owner: takes all letters, swapping with `into`, which must be empty. False if there is none.
    pub fn take(&self, into: &mut VecDeque<T>) -> bool {
        debug_assert!(into.is_empty());
        if !self.waiting.load(Ordering::Acquire) {
            return false;
        }
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut *queue, into);
        self.waiting.store(false, Ordering::Relaxed);
        true
    }

    /// Owner: announces that it is about to sleep. False if there is a letter: do not sleep.
    pub fn sleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        !self.waiting.load(Ordering::SeqCst)
    }

    /// Owner: announces that it is awake, so that nobody rings for nothing. Who has not heard of
    /// it yet does, once, which is harmless.
    pub fn awake(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// How many letters are in it; the flag has to agree.
    pub(super) fn audit(&self) -> Result<usize, String> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        match self.waiting.load(Ordering::SeqCst) == !queue.is_empty() {
            true => Ok(queue.len()),
            false => Err(format!("{} letters, and the flag says otherwise", queue.len())),
        }
    }

    /// Owner: takes no more letters, and returns those that were in.
    pub fn close(&self) -> VecDeque<T> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        self.closed.store(true, Ordering::Relaxed);
        std::mem::take(&mut *queue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;

    struct Bell(Arc<AtomicU32>);

    impl Doorbell for Bell {
        fn ring(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn full_and_closed_give_the_letter_back() {
        let rung = Arc::new(AtomicU32::new(0));
        let mailbox = Mailbox::new(2, Box::new(Bell(rung.clone())));
        assert_eq!(mailbox.post(1), Ok(()));
        assert_eq!(mailbox.post(2), Ok(()));
        assert_eq!(mailbox.post(3), Err(Refused::Full(3)));
        assert_eq!(mailbox.post_urgent(4), Ok(()));
        assert_eq!(mailbox.close(), [1, 2, 4]);
        assert_eq!(mailbox.post(5), Err(Refused::Closed(5)));
        assert_eq!(rung.load(Ordering::SeqCst), 0, "an awake core is not rung");
    }

    #[test]
    fn a_sleeper_is_rung_once() {
        let rung = Arc::new(AtomicU32::new(0));
        let mailbox = Mailbox::new(8, Box::new(Bell(rung.clone())));
        assert!(mailbox.sleep());
        mailbox.post(1).unwrap();
        mailbox.post(2).unwrap();
        assert_eq!(rung.load(Ordering::SeqCst), 1);
        assert!(!mailbox.sleep(), "there are letters");
        let mut letters = VecDeque::new();
        assert!(mailbox.take(&mut letters));
        assert_eq!(letters, [1, 2]);
        letters.clear();
        assert!(mailbox.sleep() && !mailbox.take(&mut letters), "there are none");
        mailbox.post(3).unwrap();
        assert_eq!(rung.load(Ordering::SeqCst), 2, "asleep again, rung again");
    }

    #[test]
    fn who_sleeps_is_woken_for_every_letter() {
        const LETTERS: u32 = 20_000;
        let rung = Arc::new(AtomicU32::new(0));
        let mailbox = Mailbox::new(LETTERS as usize, Box::new(Bell(rung.clone())));
        std::thread::scope(|scope| {
            scope.spawn(|| (0..LETTERS).for_each(|n| mailbox.post(n).unwrap()));
            let mut letters = VecDeque::new();
            let mut next = 0;
            let mut heard = 0;
            while next < LETTERS {
                if mailbox.sleep() {
                    // Without a bell for the letter that is to come this never ends.
                    while rung.load(Ordering::SeqCst) == heard {
                        std::thread::yield_now();
                    }
                }
                heard = rung.load(Ordering::SeqCst);
                mailbox.awake();
                mailbox.take(&mut letters);
                for n in letters.drain(..) {
                    assert_eq!(n, next);
                    next += 1;
                }
            }
        });
    }

    #[test]
    fn nothing_is_lost_between_threads() {
        const LETTERS: u32 = 100_000;
        let rung = Arc::new(AtomicU32::new(0));
        let mailbox = Mailbox::new(LETTERS as usize * 2, Box::new(Bell(rung)));
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let mailbox = &mailbox;
                scope.spawn(move || {
                    for n in 0..LETTERS {
                        mailbox.post((thread, n)).unwrap();
                    }
                });
            }
            let mut next = [0; 2];
            let mut letters = VecDeque::new();
            while next != [LETTERS; 2] {
                mailbox.take(&mut letters);
                for (thread, n) in letters.drain(..) {
                    assert_eq!(n, next[thread as usize], "order of one sender is kept");
                    next[thread as usize] += 1;
                }
                std::thread::yield_now();
            }
        });
    }
}
