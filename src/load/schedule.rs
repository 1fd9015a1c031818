//! When things are due: connections to open, messages to send.
//!
//! Owns the arithmetic of a fixed rate that several threads share. Never looks at a clock. The
//! invariant: what is due, and when, depends only on the rate, never on how late anything before
//! it was, so that a stall shows in the latencies instead of hiding in a lower rate.

use std::time::Duration;

/// One thread's part of a common rate: of the events numbered 0, 1, 2... every `stride`-th.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    start_ns: u64,
    /// Events per second over all parts. Never 0.
    rate: u64,
    stride: u64,
    next: u64,
}

impl Schedule {
    /// Part `part` of `parts`; `None` if the rate is 0, which means unlimited.
    pub(crate) fn new(start_ns: u64, rate: u64, part: usize, parts: usize) -> Option<Self> {
        let (next, stride) = (part as u64, parts.max(1) as u64);
        (rate > 0).then_some(Self { start_ns, rate, stride, next })
    }

    /// When the next event is due.
    fn due_ns(&self) -> u64 {
        let offset = u128::from(self.next) * NS_PER_SECOND / u128::from(self.rate);
        self.start_ns.saturating_add(offset as u64)
    }

    /// The time at which the next event was due, if that time has come; then the one after it is
    /// next.
    pub(crate) fn take(&mut self, now_ns: u64) -> Option<u64> {
        let due = self.due_ns();
        if due > now_ns {
            return None;
        }
        self.next += self.stride;
        Some(due)
    }

    /// How long nothing is due.
    pub(crate) fn wait(&self, now_ns: u64) -> Duration {
        Duration::from_nanos(self.due_ns().saturating_sub(now_ns))
    }
}

/// How many of `total` fall to part `part` of `parts`, as evenly as can be.
pub(crate) fn share(total: u32, part: usize, parts: usize) -> u32 {
    let (part, parts) = (part as u64, parts.max(1) as u64);
    let total = u64::from(total);
    (total / parts + u64::from(part < total % parts)) as u32
}

const NS_PER_SECOND: u128 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_interleave_to_the_whole_rate() {
        let parts = 3;
        let mut all: Vec<u64> = (0..parts)
            .flat_map(|part| {
                let mut schedule = Schedule::new(100, 1000, part, parts).unwrap();
                std::iter::from_fn(move || schedule.take(1_000_000_099))
            })
            .collect();
        all.sort_unstable();
        let expected: Vec<u64> = (0..1000).map(|n| 100 + n * 1_000_000).collect();
        assert_eq!(all, expected);
    }

    #[test]
    fn a_stall_moves_no_due_time() {
        let mut schedule = Schedule::new(0, 10, 0, 1).unwrap();
        assert_eq!(schedule.take(0), Some(0));
        assert_eq!(schedule.take(99_999_999), None);
        assert_eq!(schedule.wait(90_000_000), Duration::from_millis(10));
        // Nothing for a second, then all that was due, at its own times.
        let late: Vec<u64> = std::iter::from_fn(|| schedule.take(1_000_000_000)).collect();
        assert_eq!(late, (1..=10).map(|n| n * 100_000_000).collect::<Vec<_>>());
        assert_eq!(schedule.wait(5_000_000_000), Duration::ZERO);
    }

    #[test]
    fn no_rate_is_no_schedule() {
        assert!(Schedule::new(0, 0, 0, 1).is_none());
    }

    #[test]
    fn shares_add_up() {
        for (total, parts) in [(0, 3), (1, 3), (200, 7), (100_000, 6), (u32::MAX, 4096)] {
            let shares: Vec<u64> =
                (0..parts).map(|part| u64::from(share(total, part, parts))).collect();
            assert_eq!(shares.iter().sum::<u64>(), u64::from(total));
            assert!(shares[0] - shares[parts - 1] <= 1);
        }
    }
}
