//! A hashed timer wheel (Varghese and Lauck, scheme 6), intrusive by slot: one deadline per entry,
//! 12 bytes in the entry's own record, no allocation ever.
//!
//! Ticks go around modulo 2^32 (`clock`); a deadline is less than 2^31 of them away.
//!
//! The invariant: an entry is linked into bucket `due % BUCKETS` if and only if its `prev` is not
//! `UNARMED`. Cancelling unlinks at once, so a dead connection has no timer by construction.
//!
//! Doubly linked on purpose: buckets of `Vec<u32>` with lazy removal walk faster (7.5 against 52
//! ns per entry at a million), but leave entries of the dead behind, and their slack and re-check
//! stamp cost the 8 bytes that the links do. At 25 s heartbeats a million entries are walked at
//! 40,000 a second: 0.2 % of a core.

use super::clock::{earlier, is_after};

/// The links of one entry. Lives in the record it times.
#[derive(Clone, Copy, Debug)]
pub struct Timer {
    next: u32,
    prev: u32,
    due: u32,
}

impl Default for Timer {
    fn default() -> Self {
        Self { next: NONE, prev: UNARMED, due: 0 }
    }
}

impl Timer {
    /// The tick this entry is armed for, if any.
    pub fn due(&self) -> Option<u32> {
        (self.prev != UNARMED).then_some(self.due)
    }
}

/// Gives the wheel access to the entries by index.
pub trait Timers {
    /// The timer of an entry that exists.
    fn timer(&mut self, index: u32) -> &mut Timer;
}

/// Buckets of one tick each. Deadlines beyond a rotation stay in their bucket and are skipped once
/// a rotation.
#[derive(Debug)]
pub struct Wheel {
    heads: Box<[u32; BUCKETS]>,
    /// One bit per bucket that is not empty, so that an idle core sleeps until the next entry.
    occupied: [u64; BUCKETS / 64],
    /// The last tick that was advanced to.
    now: u32,
    armed: u32,
    /// No entry is due before this tick, if there is one.
    soonest: u32,
}

impl Default for Wheel {
    fn default() -> Self {
        Self {
            heads: Box::new([NONE; BUCKETS]),
            occupied: [0; BUCKETS / 64],
            now: 0,
            armed: 0,
            soonest: 0,
        }
    }
}

impl Wheel {
    /// Entries armed.
    pub fn armed(&self) -> u32 {
        self.armed
    }

    /// The last tick that was advanced to.
    pub fn now(&self) -> u32 {
        self.now
    }

    /// Starts at a tick other than 0, while nothing is armed.
    pub fn begin(&mut self, now: u32) {
        debug_assert_eq!(self.armed, 0);
        self.now = now;
    }

    /// Arms, or moves, an entry. A tick that has passed fires at the next one.
    pub fn schedule(&mut self, timers: &mut impl Timers, index: u32, due: u32) {
        let due = if is_after(due, self.now) { due } else { self.now.wrapping_add(1) };
        if timers.timer(index).due() == Some(due) {
            return;
        }
        self.cancel(timers, index);
        let bucket = due as usize % BUCKETS;
        let next = std::mem::replace(&mut self.heads[bucket], index);
        if next != NONE {
            timers.timer(next).prev = index;
        }
        *timers.timer(index) = Timer { next, prev: NONE, due };
        self.occupied[bucket / 64] |= 1 << (bucket % 64);
        self.soonest = if self.armed == 0 { due } else { earlier(self.soonest, due) };
        self.armed += 1;
    }

    /// Disarms an entry. Harmless if it is not armed.
    pub fn cancel(&mut self, timers: &mut impl Timers, index: u32) {
        let Timer { next, prev, due } = std::mem::take(timers.timer(index));
        if prev == UNARMED {
            return;
        }
        if next != NONE {
            timers.timer(next).prev = prev;
        }
        if prev != NONE {
            timers.timer(prev).next = next;
        } else {
            let bucket = due as usize % BUCKETS;
            debug_assert_eq!(self.heads[bucket], index);
            self.heads[bucket] = next;
            if next == NONE {
                self.occupied[bucket / 64] &= !(1 << (bucket % 64));
            }
        }
        self.armed -= 1;
    }

    /// Moves time forward to `tick` and appends every entry that is due, disarmed, with its tick.
    pub fn advance(&mut self, timers: &mut impl Timers, tick: u32, fired: &mut Vec<(u32, u32)>) {
        if !is_after(tick, self.now) {
            return;
        }
        // After a long sleep each bucket needs one walk, not one per rotation.
        let steps = tick.wrapping_sub(self.now).min(BUCKETS as u32);
        self.now = tick;
        for back in (0..steps).rev() {
            let bucket = tick.wrapping_sub(back) as usize % BUCKETS;
            if self.occupied[bucket / 64] & 1 << (bucket % 64) == 0 {
                continue;
            }
            let mut index = self.heads[bucket];
            while index != NONE {
                let Timer { next, due, .. } = *timers.timer(index);
                if !is_after(due, tick) {
                    self.cancel(timers, index);
                    fired.push((index, due));
                }
                index = next;
            }
        }
        if self.armed > 0 && !is_after(self.soonest, tick) {
            self.soonest = self.first_occupied();
        }
    }

    /// The earliest tick at which something may be due: never later than the first deadline. Who
    /// waits for it may find that what was due has been disarmed.
    pub fn next_due(&self) -> Option<u32> {
        (self.armed > 0).then_some(self.soonest)
    }

    /// When the first bucket is due that is not empty, at most one rotation ahead.
    fn first_occupied(&self) -> u32 {
        let start = self.now.wrapping_add(1) as usize % BUCKETS;
        let (word, bit) = (start / 64, start % 64);
        let words = self.occupied.len();
        for step in 0..=words {
            let at = (word + step) % words;
            let bits = match step {
                0 => self.occupied[at] & (!0 << bit),
                _ if step == words => self.occupied[at] & !(!0 << bit),
                _ => self.occupied[at],
            };
            if bits != 0 {
                let bucket = at * 64 + bits.trailing_zeros() as usize;
                let ahead = (bucket + BUCKETS - start) % BUCKETS;
                return self.now.wrapping_add(1 + ahead as u32);
            }
        }
        self.now.wrapping_add(1)
    }
}

/// At the default tick of 100 ms a rotation is 102 s: longer than every default deadline.
pub const BUCKETS: usize = 1024;

/// No entry.
const NONE: u32 = u32::MAX;
/// `prev` of an entry that is not armed.
const UNARMED: u32 = u32::MAX - 1;

const _: () = assert!(size_of::<Timer>() == 12);
const _: () = assert!(BUCKETS.is_power_of_two() && BUCKETS.is_multiple_of(64));

#[cfg(test)]
mod tests {
    use super::*;

    struct Entries(Vec<Timer>);

    impl Timers for Entries {
        fn timer(&mut self, index: u32) -> &mut Timer {
            &mut self.0[index as usize]
        }
    }

    fn fired(wheel: &mut Wheel, entries: &mut Entries, tick: u32) -> Vec<(u32, u32)> {
        let mut fired = Vec::new();
        wheel.advance(entries, tick, &mut fired);
        fired.sort_unstable();
        fired
    }

    #[test]
    fn fires_once_on_its_tick() {
        let mut entries = Entries(vec![Timer::default(); 4]);
        let mut wheel = Wheel::default();
        wheel.schedule(&mut entries, 2, 10);
        wheel.schedule(&mut entries, 3, 11);
        assert_eq!(wheel.next_due(), Some(10));
        assert_eq!(fired(&mut wheel, &mut entries, 9), []);
        assert_eq!(fired(&mut wheel, &mut entries, 10), [(2, 10)]);
        assert_eq!(fired(&mut wheel, &mut entries, 12), [(3, 11)]);
        assert_eq!(wheel.armed(), 0);
        assert_eq!(wheel.next_due(), None);
    }

    #[test]
    fn a_later_rotation_waits() {
        let mut entries = Entries(vec![Timer::default(); 2]);
        let mut wheel = Wheel::default();
        let far = 5 + 3 * BUCKETS as u32;
        wheel.schedule(&mut entries, 0, far);
        assert_eq!(fired(&mut wheel, &mut entries, 5), []);
        assert_eq!(fired(&mut wheel, &mut entries, far - 1), []);
        assert_eq!(fired(&mut wheel, &mut entries, far), [(0, far)]);
    }

    #[test]
    fn agrees_with_a_sorted_list_under_random_operations() {
        agrees_with_a_sorted_list(0);
    }

    #[test]
    fn deadlines_fire_across_the_wrap_of_ticks() {
        agrees_with_a_sorted_list(u64::from(u32::MAX) - 1_000_000);
        agrees_with_a_sorted_list((1 << 31) - 1_000_000);
        let mut entries = Entries(vec![Timer::default(); 3]);
        let mut wheel = Wheel::default();
        wheel.begin(u32::MAX - 2);
        wheel.schedule(&mut entries, 0, u32::MAX);
        wheel.schedule(&mut entries, 1, 0);
        wheel.schedule(&mut entries, 2, 1);
        assert_eq!(wheel.next_due(), Some(u32::MAX));
        assert_eq!(fired(&mut wheel, &mut entries, u32::MAX), [(0, u32::MAX)]);
        assert_eq!(entries.0[1].due(), Some(0), "tick 0 is one like any other");
        assert_eq!(fired(&mut wheel, &mut entries, 5), [(1, 0), (2, 1)]);
    }

    fn agrees_with_a_sorted_list(mut now: u64) {
        const ENTRIES: u32 = 64;
        let mut entries = Entries(vec![Timer::default(); ENTRIES as usize]);
        let mut wheel = Wheel::default();
        wheel.begin(now as u32);
        let mut model = vec![None::<u64>; ENTRIES as usize];
        let mut rng = crate::common::rng::Rng::new(7);
        for _ in 0..200_000 {
            let index = rng.below(ENTRIES);
            match rng.below(10) {
                0..5 => {
                    let due = now + 1 + u64::from(rng.below(3 * BUCKETS as u32));
                    wheel.schedule(&mut entries, index, due as u32);
                    model[index as usize] = Some(due);
                }
                5..7 => {
                    wheel.cancel(&mut entries, index);
                    model[index as usize] = None;
                }
                _ => {
                    now += u64::from(rng.below(200));
                    let mut expected = Vec::new();
                    for (index, due) in model.iter_mut().enumerate() {
                        if let Some(tick) = due.filter(|tick| *tick <= now) {
                            expected.push((index as u32, tick as u32));
                            *due = None;
                        }
                    }
                    let first = model.iter().flatten().min().copied();
                    assert_eq!(fired(&mut wheel, &mut entries, now as u32), expected);
                    let ahead = wheel.next_due().map(|due| u64::from(due.wrapping_sub(now as u32)));
                    assert_eq!(ahead.is_some(), first.is_some());
                    assert!(ahead <= first.map(|first| first - now), "never too late");
                    assert!(ahead.is_none_or(|ahead| ahead > 0), "it has been looked at");
                }
            }
            let armed = model.iter().flatten().count();
            assert_eq!(wheel.armed() as usize, armed);
        }
    }
}
