//! What one connection may ask of its core: how much at once, and how much per second.
//!
//! Owns two accounts. `Pace` cuts the commands of one turn, so that a connection with many lets the
//! others in between. `Debts` make who has used up its share wait: answers, deliveries to others
//! and signatures are time that has to pass before the next command, apart from a burst. The
//! invariant: who owes nothing has no entry.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::gateway::hub_port::Link;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// What this turn's commands have cost so far, in bytes: see [`COMMAND`].
    spent: usize,
    /// Of that, the last connection's.
    slice: Option<(Link, usize)>,
    /// Connections whose commands go on in the next turn.
    backlog: VecDeque<Link>,
}

impl Pace {
    /// A connection's command, or the bytes of an answer.
    pub(super) fn spend(&mut self, link: Link, cost: usize) {
        self.spent += cost;
        match &mut self.slice {
            Some((of, spent)) if *of == link => *spent += cost,
            slice => *slice = Some((link, cost)),
        }
    }

    /// Whether a connection has to wait for the next turn.
    pub(super) fn is_spent(&self, link: Link) -> bool {
        let most = if self.backlog.len() < CROWD { SLICE } else { SLICE_OF_MANY };
        let own = self.slice.is_some_and(|(of, spent)| of == link && spent >= most);
        own || self.spent >= TURN
    }

    /// A connection goes on in the next turn. It must not wait for that already.
    pub(super) fn wait(&mut self, link: Link) {
        self.backlog.push_back(link);
    }

    /// Who waits now: so many may go on, one after the other, with [`Self::next`].
    pub(super) fn begin(&mut self) -> usize {
        self.end();
        self.backlog.len()
    }

    /// The next one, if this turn has something left.
    pub(super) fn next(&mut self) -> Option<Link> {
        self.slice = None;
        (self.spent < TURN).then(|| self.backlog.pop_front()).flatten()
    }

    /// The turn is over. Returns whether somebody waits for the next one.
    pub(super) fn end(&mut self) -> bool {
        (self.spent, self.slice) = (0, None);
        if self.backlog.is_empty() && self.backlog.capacity() > KEPT {
            self.backlog = VecDeque::new();
        }
        !self.backlog.is_empty()
    }
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Debts {
    /// When all is paid, in nanoseconds of the monotonic clock.
    paid: HashMap<Link, u64>,
    /// When to look for those who have paid.
    sweep_at: u64,
}

impl Debts {
    /// A connection has used so much of its time.
    pub(super) fn owe(&mut self, now: Duration, link: Link, cost: Duration) {
        if cost.is_zero() {
            return;
        }
        let now = nanos(now);
        if self.paid.is_empty() {
            self.sweep_at = now + nanos(BURST);
        }
        let paid = self.paid.entry(link).or_insert(now);
        *paid = (*paid).max(now).saturating_add(nanos(cost)).min(now + nanos(BURST + WAIT_MAX));
    }

    /// Until when a connection has to wait with its next command, if it has to.
    pub(super) fn wait(&self, now: Duration, link: Link) -> Option<Duration> {
        let until = self.paid.get(&link)?.saturating_sub(nanos(BURST));
        (until > nanos(now)).then(|| Duration::from_nanos(until))
    }

    /// A connection is gone.
    pub(super) fn forget(&mut self, link: Link) {
        self.paid.remove(&link);
    }

    /// Forgets who has paid. Returns when to be called again.
    pub(super) fn sweep(&mut self, now: Duration) -> Option<Duration> {
        if self.paid.is_empty() {
            if self.paid.capacity() > KEPT {
                self.paid = HashMap::new();
            }
            return None;
        }
        let now = nanos(now);
        if now >= self.sweep_at {
            self.paid.retain(|_, paid| *paid > now);
            self.sweep_at = now + nanos(BURST);
        }
        Some(Duration::from_nanos(self.sweep_at))
    }
}

/// The time that so many of something take at a rate per second; none without a rate.
pub(super) fn at_rate(count: usize, rate: usize) -> Duration {
    match rate {
        0 => Duration::ZERO,
        rate => Duration::from_nanos((count as u64).saturating_mul(1_000_000_000) / rate as u64),
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What a command costs, in bytes of answers: a command and 2 KiB take a microsecond or two.
pub(super) const COMMAND: usize = 2048;

/// Cost of a delivery that a command causes, in the same bytes: a third of a microsecond.
pub(super) const DELIVERY: usize = 512;

/// What one connection may cost in a turn: 32 commands.
const SLICE: usize = 32 * COMMAND;

/// The same where many wait, so that each of them has its turn soon: 4 commands.
const SLICE_OF_MANY: usize = 4 * COMMAND;

/// Connections that wait for the next turn, which make many.
const CROWD: usize = 16;

/// What all may cost: about half a millisecond.
const TURN: usize = 512 * COMMAND;

/// What a signature costs who sends it: 200 a second, and 800 at once for a client with many
/// channels. The slowest kind (ECDSA with P-521) takes about a millisecond.
pub(super) const SIGNATURE: Duration = Duration::from_millis(5);

/// So much may be owed without waiting.
const BURST: Duration = Duration::from_secs(4);

/// Nobody waits longer, whatever it did.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Entries that there is always room for.
const KEPT: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const A: Link = Link(1);
    const B: Link = Link(2);

    #[test]
    fn a_turn_is_shared() {
        let mut pace = Pace::default();
        (0..31).for_each(|_| pace.spend(A, COMMAND));
        assert!(!pace.is_spent(A));
        pace.spend(A, COMMAND);
        assert!(pace.is_spent(A) && !pace.is_spent(B));
        pace.wait(A);
        pace.spend(B, TURN);
        assert!(pace.is_spent(B) && pace.is_spent(Link(3)), "the turn is over for all");
        pace.wait(B);
        assert_eq!((pace.begin(), pace.next()), (2, Some(A)));
        pace.spend(A, TURN);
        assert_eq!(pace.next(), None, "B has to wait once more");
        assert!(pace.end());
        assert_eq!((pace.begin(), pace.next(), pace.next()), (1, Some(B), None));
        assert!(!pace.end());
    }

    #[test]
    fn a_share_is_one_connections_and_begins_anew_behind_anothers() {
        let mut pace = Pace::default();
        (0..31).for_each(|_| pace.spend(A, COMMAND));
        pace.spend(B, COMMAND);
        assert!(!pace.is_spent(A) && !pace.is_spent(B));
        (0..31).for_each(|_| pace.spend(A, COMMAND));
        assert!(!pace.is_spent(A));
    }

    #[test]
    fn a_crowd_leaves_no_memory_behind_and_a_few_keep_theirs() {
        let mut pace = Pace::default();
        (0..1000).for_each(|number| pace.wait(Link(number)));
        assert!(pace.end());
        assert_eq!(pace.begin(), 1000, "nobody is forgotten");
        while pace.next().is_some() {}
        assert!(!pace.end());
        assert_eq!(pace.backlog.capacity(), 0);
        pace.backlog = VecDeque::with_capacity(KEPT);
        assert!(!pace.end());
        assert!(pace.backlog.capacity() > 0);
        let mut debts = Debts::default();
        let at = Duration::from_secs;
        debts.owe(at(0), A, at(1));
        assert_eq!((debts.sweep(at(4)), debts.sweep(at(8))), (Some(at(8)), None));
        assert!(debts.paid.capacity() > 0);
        (0..1000).for_each(|number| debts.owe(at(8), Link(number), at(1)));
        assert_eq!((debts.sweep(at(12)), debts.sweep(at(16))), (Some(at(16)), None));
        assert_eq!(debts.paid.capacity(), 0);
    }

    #[test]
    fn where_many_wait_each_has_its_turn_soon() {
        let mut pace = Pace::default();
        (0..CROWD as u64 + 1).for_each(|number| pace.wait(Link(number)));
        assert_eq!((pace.begin(), pace.next()), (CROWD + 1, Some(Link(0))));
        (0..3).for_each(|_| pace.spend(Link(0), COMMAND));
        assert!(!pace.is_spent(Link(0)));
        pace.spend(Link(0), COMMAND);
        assert!(pace.is_spent(Link(0)));
        assert_eq!(pace.next(), Some(Link(1)));
        (0..4).for_each(|_| pace.spend(Link(1), COMMAND));
        assert!(!pace.is_spent(Link(1)), "fewer wait now");
    }

    #[test]
    fn debts_are_paid_by_waiting() {
        let mut debts = Debts::default();
        let at = Duration::from_secs;
        debts.owe(at(10), A, at(4));
        assert_eq!((debts.wait(at(10), A), debts.wait(at(10), B)), (None, None), "a burst");
        debts.owe(at(10), A, at(3));
        assert_eq!(debts.wait(at(10), A), Some(at(13)));
        assert_eq!(debts.wait(at(13), A), None);
        debts.owe(at(13), A, at(1000));
        assert_eq!(debts.wait(at(13), A), Some(at(73)), "there is a bound");
        debts.owe(at(13), B, at(1));
        assert_eq!(debts.sweep(at(13)), Some(at(14)));
        assert_eq!((debts.sweep(at(14)), debts.paid.len()), (Some(at(18)), 1));
        assert_eq!(debts.wait(at(14), A), Some(at(73)), "who owes is not forgotten");
        assert_eq!((debts.sweep(at(77)), debts.paid.len()), (Some(at(81)), 0));
        assert_eq!(debts.sweep(at(81)), None);
        debts.owe(at(81), A, at(5));
        debts.forget(A);
        assert_eq!((debts.wait(at(81), A), debts.sweep(at(81))), (None, None));
    }

    #[test]
    fn rates_are_times() {
        assert_eq!(at_rate(500, 1000), Duration::from_millis(500));
        assert_eq!(at_rate(500, 0), Duration::ZERO);
    }
}
