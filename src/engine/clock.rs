//! Moments of a core: ticks modulo 2^32, which at the finest tick go around in 49 days.
//!
//! Owns the present moment, which is read from the ring once per turn. The invariant: moments that
//! are compared lie less than 2^31 ticks apart. Deadlines are at most 2^30 ticks ahead
//! (`config::ticks`); what a record remembers is moved up when it is older than [`OLDEST`]
//! (`Core::sweep`), long before it would look young again.

/// The present, as of this turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    now_ns: u64,
    tick: u32,
    tick_ns: u64,
}

impl Clock {
    /// At the beginning of time, in ticks of so many nanoseconds.
    pub(super) fn new(tick_ns: u64) -> Self {
        Self { now_ns: 0, tick: 0, tick_ns }
    }

    /// Moves time on.
    pub(super) fn set(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        self.tick = (now_ns / self.tick_ns) as u32;
    }

    /// Monotonic time in nanoseconds.
    #[inline]
    pub(super) fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// The same in microseconds, modulo 2^32.
    pub(super) fn now_us(&self) -> u32 {
        (self.now_ns / 1000) as u32
    }

    /// The present tick, modulo 2^32.
    #[inline]
    pub(super) fn tick(&self) -> u32 {
        self.tick
    }

    /// The tick after so many.
    pub(super) fn after(&self, ticks: u32) -> u32 {
        self.tick.wrapping_add(ticks)
    }

    /// When a tick begins.
    pub(super) fn ns_of(&self, tick: u32) -> u64 {
        let ahead = i64::from(tick.wrapping_sub(self.tick) as i32);
        let count = (self.now_ns / self.tick_ns).saturating_add_signed(ahead);
        count.saturating_mul(self.tick_ns)
    }
}

/// Ticks from `then` to `now`; 0 if that is yet to come.
#[inline]
pub(super) fn since(now: u32, then: u32) -> u32 {
    let ago = now.wrapping_sub(then);
    if ago > HALF { 0 } else { ago }
}

/// Whether `a` comes after `b`.
#[inline]
pub(super) fn is_after(a: u32, b: u32) -> bool {
    a != b && a.wrapping_sub(b) <= HALF
}

/// The earlier of two moments.
#[inline]
pub(super) fn earlier(a: u32, b: u32) -> u32 {
    if is_after(a, b) { b } else { a }
}

/// The later of two moments.
#[inline]
pub(super) fn later(a: u32, b: u32) -> u32 {
    if is_after(a, b) { a } else { b }
}

/// `then`, or the oldest moment that is told apart from those to come.
pub(super) fn kept_young(now: u32, then: u32) -> u32 {
    // Beyond half the circle it would be one to come, and a deadline is never further ahead.
    if now.wrapping_sub(then) > OLDEST && then.wrapping_sub(now) > OLDEST {
        now.wrapping_sub(OLDEST)
    } else {
        then
    }
}

const HALF: u32 = u32::MAX / 2;

/// The age at which a moment stops growing older: beyond every deadline.
pub(super) const OLDEST: u32 = (1 << 30) + (1 << 29);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_keep_their_order_across_the_wrap() {
        for now in [5, 1 << 20, (1 << 31) - 3, (1 << 31) + 3, u32::MAX - 2, u32::MAX, 0] {
            for apart in [1, 1000, 1 << 30] {
                let (before, after) = (now.wrapping_sub(apart), now.wrapping_add(apart));
                assert_eq!((since(now, before), since(now, after)), (apart, 0));
                assert!(is_after(after, now) && !is_after(before, now) && !is_after(now, now));
                assert_eq!((earlier(before, now), later(before, now)), (before, now));
            }
        }
    }

    #[test]
    fn what_is_old_stays_old() {
        for now in [7, 1 << 31, u32::MAX] {
            assert_eq!(kept_young(now, now.wrapping_sub(OLDEST)), now.wrapping_sub(OLDEST));
            assert_eq!(kept_young(now, now.wrapping_sub(OLDEST + 9)), now.wrapping_sub(OLDEST));
            assert_eq!(kept_young(now, now.wrapping_add(1 << 30)), now.wrapping_add(1 << 30));
        }
    }
}
