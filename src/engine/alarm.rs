//! Ends a ring's waits in time without a timer of its own for each of them.
//!
//! A limit given with the wait costs the kernel a timer to start and to cancel, also where a
//! message ends the wait at once; and most waits end that way, long before a deadline. So one
//! timeout operation is armed for the deadline and outlives the waits before it.

use std::time::Duration;

use io_uring::{opcode, squeue, types::Timespec};

use super::token::{Op, Token};

/// The timeout that is armed, if any. Times are those of [`super::ring::Ring::now`].
#[derive(Debug)]
pub(super) struct Alarm {
    /// When it ends a wait; [`NEVER`] if none is armed.
    due_ns: u64,
    /// Tells it from those that were armed for later, which end a wait once for nothing.
    number: u32,
    /// Boxed: the kernel reads it when the entry is submitted.
    time: Box<Timespec>,
}

impl Default for Alarm {
    fn default() -> Self {
        Self { due_ns: NEVER, number: 0, time: Box::default() }
    }
}

/// What makes a wait end in time.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WaitPlan {
    /// What is armed already.
    Armed,
    /// The entry that [`Alarm::entry`] gives.
    Entry,
    /// A limit of its own: it is too soon for more.
    Limit(Duration),
}

impl Alarm {
    /// Decides how a wait until `until_ns` is to end. `now_ns` is asked only if it matters.
    pub(super) fn arm(&mut self, until_ns: u64, now_ns: impl FnOnce() -> u64) -> WaitPlan {
        if self.due_ns <= until_ns {
            return WaitPlan::Armed;
        }
        let left = Duration::from_nanos(until_ns.saturating_sub(now_ns()));
        if left < SOON {
            return WaitPlan::Limit(left);
        }
        self.due_ns = until_ns;
        self.number = self.number.wrapping_add(1);
        *self.time = left.into();
        WaitPlan::Entry
    }

    /// The timeout to be submitted before the next call of [`Self::arm`].
    pub(super) fn entry(&self) -> squeue::Entry {
        let token = Token::new(Op::Alarm, 0, self.number);
        opcode::Timeout::new(&raw const *self.time).build().user_data(token.0)
    }

    /// A timeout is over.
    pub(super) fn rang(&mut self, token: Token) {
        if token.generation() == self.number {
            self.due_ns = NEVER;
        }
    }
}

const NEVER: u64 = u64::MAX;

/// An application that paces itself more finely than this would leave a trail of timeouts.
const SOON: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn one_alarm_serves_all_waits_that_may_last_as_long() {
        let mut alarm = Alarm::default();
        assert_eq!(alarm.arm(100 * MS, || 0), WaitPlan::Entry);
        for until in [100, 101, 5000] {
            let means = alarm.arm(until * MS, || unreachable!("the clock is not asked"));
            assert_eq!(means, WaitPlan::Armed);
        }
        let first = Token::new(Op::Alarm, 0, alarm.number);
        assert_eq!(alarm.arm(99 * MS, || 90 * MS), WaitPlan::Entry, "sooner needs another");
        alarm.rang(first);
        assert_eq!(alarm.arm(99 * MS, || 90 * MS), WaitPlan::Armed, "that was the other one");
        alarm.rang(Token::new(Op::Alarm, 0, alarm.number));
        assert_eq!(alarm.arm(200 * MS, || 99 * MS), WaitPlan::Entry);
    }

    #[test]
    fn a_short_wait_has_a_limit_of_its_own() {
        let mut alarm = Alarm::default();
        assert_eq!(alarm.arm(12 * MS, || 10 * MS), WaitPlan::Limit(Duration::from_millis(2)));
        assert_eq!(alarm.arm(12 * MS, || 13 * MS), WaitPlan::Limit(Duration::ZERO));
        assert_eq!(alarm.arm(100 * MS, || 13 * MS), WaitPlan::Entry);
    }
}
