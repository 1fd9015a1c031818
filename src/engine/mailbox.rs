//! How other threads reach a core: a queue that is bounded in letters and in bytes, and a doorbell
//! that is rung only if the core sleeps.
//!
//! Two classes of letters share the queue, so that all arrive in order, and nothing else: one has
//! room reserved, which no flood of the other uses up. The owner takes letters in bulk and works
//! them off over as many turns as it needs; until then they count.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::ring::Doorbell;

/// A bounded queue into one core. Any thread posts, the owner takes.
pub struct Mailbox<T> {
    queue: Mutex<VecDeque<(T, Postage)>>,
    /// The queue is not empty. Written under its lock; spares a turn without letters that lock.
    waiting: AtomicBool,
    capacity: Capacity,
    common: Account,
    reserved: Account,
    asleep: AtomicBool,
    closed: AtomicBool,
    doorbell: Box<dyn Doorbell>,
}

/// Letters of one class that were posted and are not worked off. Grows under the queue's lock.
#[derive(Default)]
struct Account {
    letters: AtomicUsize,
    /// Bytes of memory that they take.
    bytes: AtomicUsize,
}

impl Account {
    fn takes(&self, size: usize, capacity: Capacity) -> bool {
        let letters = self.letters.load(Ordering::Relaxed);
        let bytes = self.bytes.load(Ordering::Relaxed).saturating_add(size);
        letters < capacity.letters && (letters == 0 || bytes <= capacity.bytes)
    }

    fn enter(&self, size: usize) {
        self.letters.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(size, Ordering::Relaxed);
    }

    fn leave(&self, size: usize) {
        self.letters.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(size, Ordering::Relaxed);
    }
}

/// Letters that are worked off within a few milliseconds, if each concerns a few connections.
const MANY: usize = 1024;

/// What a letter counts, and in which account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Postage {
    /// The lowest bit: its room is reserved. The others: bytes.
    bits: usize,
}

impl Postage {
    fn new(bytes: usize, reserved: bool) -> Self {
        Self { bits: bytes << 1 | usize::from(reserved) }
    }

    /// Bytes of memory.
    pub fn bytes(self) -> usize {
        self.bits >> 1
    }

    fn is_reserved(self) -> bool {
        self.bits & 1 == 1
    }
}

/// What a mailbox has room for, of each class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Letters.
    pub letters: usize,
    /// Bytes of memory. The first letter of a class may have any size.
    pub bytes: usize,
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
    /// A mailbox with room for so much.
    pub fn new(capacity: Capacity, doorbell: Box<dyn Doorbell>) -> Self {
        Self {
            queue: Mutex::default(),
            waiting: AtomicBool::new(false),
            capacity,
            common: Account::default(),
            reserved: Account::default(),
            asleep: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            doorbell,
        }
    }

    /// Puts a letter in that holds `size` bytes besides itself, in order with the caller's earlier
    /// ones. Never blocks for long.
    pub fn post(&self, letter: T, size: usize) -> Result<(), Refused<T>> {
        self.put(letter, size, false, self.capacity)
    }

    /// As [`Self::post`], for what has to arrive whoever fills the mailbox with questions. The
    /// same room once more is reserved for it.
    pub fn post_reserved(&self, letter: T, size: usize) -> Result<(), Refused<T>> {
        self.put(letter, size, true, self.capacity)
    }

    /// Whether so much of the reserved room is used that others have to wait for its owner: who
    /// has more for it should wait, too.
    pub fn is_behind(&self) -> bool {
        self.is_much(&self.reserved)
    }

    /// The same of all other letters: who has some there should wait with more.
    pub fn is_crowded(&self) -> bool {
        self.is_much(&self.common)
    }

    fn is_much(&self, account: &Account) -> bool {
        let Capacity { letters, bytes } = self.capacity;
        account.letters.load(Ordering::Relaxed) > (letters / 4).min(MANY)
            || account.bytes.load(Ordering::Relaxed) > bytes / 4
    }

    /// As [`Self::post`], for the few letters that control the core itself: they are taken
    /// beyond the capacity, and count.
    pub fn post_urgent(&self, letter: T, size: usize) -> Result<(), Refused<T>> {
        self.put(letter, size, false, Capacity { letters: usize::MAX, bytes: usize::MAX })
    }

    fn put(
        &self,
        letter: T,
        size: usize,
        reserved: bool,
        capacity: Capacity,
    ) -> Result<(), Refused<T>> {
        // Its place is there twice: the queue that is worked off keeps its own.
        let size = size + 2 * size_of::<(T, Postage)>();
        let account = self.account(reserved);
        {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            if self.closed.load(Ordering::Relaxed) {
                return Err(Refused::Closed(letter));
            }
            if !account.takes(size, capacity) {
                return Err(Refused::Full(letter));
            }
            account.enter(size);
            queue.push_back((letter, Postage::new(size, reserved)));
            self.waiting.store(true, Ordering::SeqCst);
        }
        // Both sides store one flag and then look at the other's, in one order that all agree on:
        // either this sees the core asleep, or the core sees the letter before it sleeps.
        if self.asleep.swap(false, Ordering::SeqCst) {
            self.doorbell.ring();
        }
        Ok(())
    }

    fn account(&self, reserved: bool) -> &Account {
        if reserved { &self.reserved } else { &self.common }
    }

    /// Owner: takes all letters, each with what it counts, swapping with `into`, which must be
    /// empty. False if there is none.
    #[inline]
    pub fn take(&self, into: &mut VecDeque<(T, Postage)>) -> bool {
        debug_assert!(into.is_empty());
        self.waiting.load(Ordering::Acquire) && self.take_waiting(into)
    }

    #[inline(never)]
    fn take_waiting(&self, into: &mut VecDeque<(T, Postage)>) -> bool {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut *queue, into);
        self.waiting.store(false, Ordering::Relaxed);
        true
    }

    /// Owner: a letter that was taken is worked off.
    pub fn done(&self, postage: Postage) {
        self.account(postage.is_reserved()).leave(postage.bytes());
    }

    /// Bytes of memory of letters that are not worked off.
    pub fn bytes(&self) -> usize {
        [&self.common, &self.reserved].iter().map(|it| it.bytes.load(Ordering::Relaxed)).sum()
    }

    /// The same, of those that were not taken, by adding them up.
    pub fn queued_bytes(&self) -> usize {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.iter().map(|(_, postage)| postage.bytes()).sum()
    }

    /// Whether every letter is worked off.
    pub fn is_empty(&self) -> bool {
        let mut accounts = [&self.common, &self.reserved].into_iter();
        accounts.all(|it| it.letters.load(Ordering::Relaxed) == 0) && self.bytes() == 0
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
        match self.waiting.load(Ordering::SeqCst) != queue.is_empty() {
            true => Ok(queue.len()),
            false => Err(format!("{} letters, and the flag says otherwise", queue.len())),
        }
    }

    /// Owner: takes no more letters, and returns those that were in.
    pub fn close(&self) -> VecDeque<(T, Postage)> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        self.closed.store(true, Ordering::Relaxed);
        queue.iter().for_each(|(_, postage)| self.done(*postage));
        self.waiting.store(false, Ordering::Relaxed);
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

    fn room(letters: usize) -> Capacity {
        Capacity { letters, bytes: usize::MAX }
    }

    #[test]
    fn bytes_count_until_a_letter_is_worked_off() {
        let own = 2 * size_of::<(u8, Postage)>();
        let capacity = Capacity { letters: 100, bytes: 1000 + 2 * own };
        let bell = || Box::new(Bell(Arc::default()));
        let mailbox = Mailbox::new(capacity, bell());
        assert_eq!(mailbox.post(1, 5000), Ok(()), "the first may have any size");
        assert_eq!(mailbox.post(2, 0), Err(Refused::Full(2)));
        mailbox.done(Postage::new(5000 + own, false));
        assert!(mailbox.is_empty());

        let mailbox = Mailbox::new(capacity, bell());
        assert_eq!(mailbox.post(1, 600), Ok(()));
        assert_eq!(mailbox.post(2, 401), Err(Refused::Full(2)));
        assert_eq!(mailbox.post(2, 400), Ok(()));
        assert_eq!(mailbox.bytes(), 1000 + 2 * own);
        assert_eq!(mailbox.post_urgent(5, 1000), Ok(()));
        let mut letters = VecDeque::new();
        assert!(mailbox.take(&mut letters));
        assert_eq!(mailbox.post(6, 0), Err(Refused::Full(6)), "taken is not worked off");
        while let Some((_, postage)) = letters.pop_front() {
            mailbox.done(postage);
        }
        assert!(mailbox.is_empty());
    }

    #[test]
    fn a_flood_leaves_reserved_room_alone() {
        let own = 2 * size_of::<(u8, Postage)>();
        let capacity = Capacity { letters: 3, bytes: 1000 + 2 * own };
        let mailbox = Mailbox::new(capacity, Box::new(Bell(Arc::default())));
        assert_eq!(mailbox.post(1, 900), Ok(()));
        assert_eq!(mailbox.post(2, 200), Err(Refused::Full(2)));
        assert!(!mailbox.is_behind() && mailbox.is_crowded(), "by questions");
        assert_eq!(mailbox.post_reserved(3, 900), Ok(()), "questions do not fill it");
        assert!(mailbox.is_behind());
        assert_eq!(mailbox.post_reserved(4, 200), Err(Refused::Full(4)), "which is bounded, too");
        assert_eq!(mailbox.post(5, 0), Ok(()), "it does not fill theirs");
        assert_eq!(mailbox.post_reserved(6, 0), Ok(()));
        assert_eq!(mailbox.post_urgent(7, 5000), Ok(()));
        assert_eq!(mailbox.post(8, 0), Err(Refused::Full(8)), "what is urgent counts");
        assert_eq!(mailbox.post_reserved(9, 200), Err(Refused::Full(9)), "in bytes");
        let mut letters = VecDeque::new();
        assert!(mailbox.take(&mut letters));
        let order: Vec<u8> = letters.iter().map(|(letter, _)| *letter).collect();
        assert_eq!(order, [1, 3, 5, 6, 7], "all arrive in order");
        letters.iter().for_each(|(_, postage)| mailbox.done(*postage));
        assert!(mailbox.is_empty() && !mailbox.is_behind());
        assert_eq!((1..4).map(|n| mailbox.post_reserved(n, 0)).filter(Result::is_ok).count(), 3);
        assert_eq!(mailbox.post_reserved(4, 0), Err(Refused::Full(4)), "and in letters");
        mailbox.close();
        assert!(mailbox.is_empty());
    }

    #[test]
    fn full_and_closed_give_the_letter_back() {
        let rung = Arc::new(AtomicU32::new(0));
        let mailbox = Mailbox::new(room(2), Box::new(Bell(rung.clone())));
        assert_eq!(mailbox.post(1, 0), Ok(()));
        assert_eq!(mailbox.post(2, 0), Ok(()));
        assert_eq!(mailbox.post(3, 0), Err(Refused::Full(3)));
        assert_eq!(mailbox.post_urgent(4, 0), Ok(()));
        let left: Vec<i32> = mailbox.close().into_iter().map(|(letter, _)| letter).collect();
        assert_eq!(left, [1, 2, 4]);
        assert_eq!(mailbox.post(5, 0), Err(Refused::Closed(5)));
        assert_eq!(rung.load(Ordering::SeqCst), 0, "an awake core is not rung");
    }

    #[test]
    fn a_sleeper_is_rung_once() {
        let rung = Arc::new(AtomicU32::new(0));
        let mailbox = Mailbox::new(room(8), Box::new(Bell(rung.clone())));
        assert!(mailbox.sleep());
        mailbox.post(1, 0).unwrap();
        mailbox.post(2, 0).unwrap();
        assert_eq!(rung.load(Ordering::SeqCst), 1);
        assert!(!mailbox.sleep(), "there are letters");
        let mut letters = VecDeque::new();
        assert!(mailbox.take(&mut letters));
        assert!(letters.iter().map(|(letter, _)| *letter).eq([1, 2]));
        letters.clear();
        assert!(mailbox.sleep() && !mailbox.take(&mut letters), "there are none");
        mailbox.post(3, 0).unwrap();
        assert_eq!(rung.load(Ordering::SeqCst), 2, "asleep again, rung again");
    }

    #[test]
    fn who_sleeps_is_woken_for_every_letter() {
        const LETTERS: u32 = 20_000;
        let rung = Arc::new(AtomicU32::new(0));
        let mailbox = Mailbox::new(room(LETTERS as usize), Box::new(Bell(rung.clone())));
        std::thread::scope(|scope| {
            scope.spawn(|| (0..LETTERS).for_each(|n| mailbox.post(n, 0).unwrap()));
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
                for (n, postage) in letters.drain(..) {
                    mailbox.done(postage);
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
        let mailbox = Mailbox::new(room(LETTERS as usize * 2), Box::new(Bell(rung)));
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let mailbox = &mailbox;
                scope.spawn(move || {
                    for n in 0..LETTERS {
                        mailbox.post((thread, n), 0).unwrap();
                    }
                });
            }
            let mut next = [0; 2];
            let mut letters = VecDeque::new();
            while next != [LETTERS; 2] {
                mailbox.take(&mut letters);
                for ((thread, n), postage) in letters.drain(..) {
                    mailbox.done(postage);
                    assert_eq!(n, next[thread as usize], "order of one sender is kept");
                    next[thread as usize] += 1;
                }
                std::thread::yield_now();
            }
        });
    }
}
