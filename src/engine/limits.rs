//! Rates per connection, as virtual scheduling (GCRA): one number per rate, the time until which
//! what was received is paid for.
//!
//! These are microseconds modulo 2^32, which go around in 71 minutes. The invariant: while input
//! comes, an account is never more than [`AHEAD_MAX`] behind, since whatever comes moves both up,
//! also what neither books; and after a longer silence both begin anew.

use super::clock::{is_after, since};
use super::config::RatePolicy;
use super::core::Core;
use super::slots::{Flags, Phase};
use super::value::Cause;
use crate::protocol::CloseCode;

/// What a rate says about one more message or byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Allowance {
    /// Go on.
    Granted,
    /// Close (policy `close`).
    Exceeded,
    /// Do not read before this many microseconds (policy `pause`).
    Wait(u32),
}

/// Connections held back by a rate.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    /// Slot, generation, and the tick at which to look again.
    throttled: Vec<(u32, u32, u32)>,
}

impl Rates {
    /// Whether somebody is held back.
    pub(super) fn hold_anybody(&self) -> bool {
        !self.throttled.is_empty()
    }

    /// Whether this connection is to be looked at again.
    pub(super) fn hold(&self, slot: u32, generation: u32) -> bool {
        self.throttled.iter().any(|(s, g, _)| (*s, *g) == (slot, generation))
    }

    pub(super) fn shrink(&mut self) {
        self.throttled.shrink_to_fit();
    }
}

impl Core {
    pub(super) fn spend_message(&mut self, slot: u32) -> Allowance {
        let rate = self.config.message_rate;
        if rate == 0 {
            return Allowance::Granted;
        }
        let now = self.clock.now_us();
        let Some(cold) = self.slots.cold(slot) else { return Allowance::Granted };
        let ahead = spend(&mut cold.messages, now, u64::from(SECOND_US) / u64::from(rate));
        self.judge(ahead)
    }

    /// Charges bytes to the rate, and moves the accounts on; where there is no rate, nothing is
    /// looked at.
    #[inline]
    pub(super) fn charge(&mut self, slot: u32, generation: u32, count: usize) -> Allowance {
        if self.config.message_rate == 0 && self.config.byte_rate == 0
            || self.slots.lookup(slot, generation).is_none()
        {
            return Allowance::Granted;
        }
        self.settle_accounts(slot);
        self.spend_bytes(slot, count)
    }

    fn spend_bytes(&mut self, slot: u32, count: usize) -> Allowance {
        let rate = u64::from(self.config.byte_rate);
        if rate == 0 {
            return Allowance::Granted;
        }
        let now = self.clock.now_us();
        let Some(cold) = self.slots.cold(slot) else { return Allowance::Granted };
        let ahead = spend(&mut cold.bytes, now, count as u64 * u64::from(SECOND_US) / rate);
        self.judge(ahead)
    }

    fn judge(&self, ahead: u32) -> Allowance {
        match self.config.rate_policy {
            _ if ahead <= SECOND_US => Allowance::Granted,
            RatePolicy::Close => Allowance::Exceeded,
            RatePolicy::Pause => Allowance::Wait(ahead - SECOND_US),
        }
    }

    /// Ticks until what was received is paid for, apart from the burst.
    pub(super) fn owed_ticks(&mut self, slot: u32) -> u32 {
        let now = self.clock.now_us();
        let rates = [self.config.message_rate, self.config.byte_rate];
        let Some(cold) = self.slots.cold(slot) else { return 0 };
        let accounts = rates.into_iter().zip([cold.messages, cold.bytes]);
        let ahead = accounts.filter(|(rate, _)| *rate > 0).map(|(_, paid)| ahead_of(paid, now));
        let owed_us = ahead.max().unwrap_or(0).saturating_sub(SECOND_US);
        (u64::from(owed_us) * 1000).div_ceil(self.limits.tick_ns) as u32
    }

    /// Moves both accounts up to now, before a silence ends: what was paid an hour ago must not
    /// look like debt.
    pub(super) fn settle_accounts(&mut self, slot: u32) {
        if self.config.message_rate == 0 && self.config.byte_rate == 0 {
            return;
        }
        let silence =
            self.slots.get(slot).map_or(0, |hot| since(self.clock.tick(), hot.pulse.seen));
        let long = u64::from(silence) * self.limits.tick_ns >= u64::from(AHEAD_MAX) * 1000;
        let now = self.clock.now_us();
        if let Some(cold) = self.slots.cold(slot) {
            settle(&mut cold.messages, now, long);
            settle(&mut cold.bytes, now, long);
        }
    }

    /// Acts on an allowance after what was received is processed.
    pub(super) fn hold_back(&mut self, slot: u32, generation: u32, allowance: Allowance) {
        match allowance {
            Allowance::Granted => {}
            Allowance::Exceeded => {
                self.fail(slot, Cause::Rate, CloseCode::POLICY, "too many bytes");
            }
            Allowance::Wait(micros) => {
                let Some(hot) = self.slots.lookup(slot, generation) else { return };
                if hot.phase() != Phase::Open || hot.set(Flags::THROTTLED) {
                    return;
                }
                let ticks = (u64::from(micros) * 1000).div_ceil(self.limits.tick_ns) as u32;
                self.rates.throttled.push((
                    slot,
                    generation,
                    self.clock.tick().wrapping_add(ticks),
                ));
                if self.rates.throttled.len() > self.slots.most_entries() {
                    let Self { rates, slots, .. } = self;
                    rates.throttled.retain(|(slot, generation, _)| {
                        slots
                            .lookup(*slot, *generation)
                            .is_some_and(|hot| hot.has(Flags::THROTTLED))
                    });
                }
                self.counted.read_pauses += 1;
            }
        }
    }

    /// Lets those be read again whose time has come.
    pub(super) fn release_throttled(&mut self) {
        let mut index = 0;
        while let Some((slot, generation, until)) = self.rates.throttled.get(index).copied() {
            if is_after(until, self.clock.tick()) {
                index += 1;
                continue;
            }
            // What came in the same receive behind the first excess is on the account, too.
            let live = self.slots.lookup(slot, generation).is_some();
            let owed = if live { self.owed_ticks(slot) } else { 0 };
            if owed > 0 {
                self.rates.throttled[index].2 = self.clock.tick().wrapping_add(owed);
                index += 1;
                continue;
            }
            self.rates.throttled.swap_remove(index);
            if let Some(hot) = self.slots.lookup(slot, generation) {
                hot.clear(Flags::THROTTLED);
                self.forgive_upload(slot);
                self.mark_ready(slot);
            }
        }
    }
}

/// Books `cost` microseconds and returns how far ahead of now the account is.
fn spend(paid_until: &mut u32, now: u32, cost: u64) -> u32 {
    let before = u64::from(ahead_of(*paid_until, now));
    let ahead = before.saturating_add(cost).min(u64::from(AHEAD_MAX)) as u32;
    *paid_until = now.wrapping_add(ahead);
    ahead
}

/// Moves an account up that lies behind; after a long silence, whatever it says.
fn settle(paid_until: &mut u32, now: u32, long: bool) {
    if long || ahead_of(*paid_until, now) == 0 {
        *paid_until = now;
    }
}

fn ahead_of(paid_until: u32, now: u32) -> u32 {
    let ahead = paid_until.wrapping_sub(now);
    // Further ahead than any account can be: it lies in the past.
    if ahead > AHEAD_MAX { 0 } else { ahead }
}

/// The burst: one second's worth.
const SECOND_US: u32 = 1_000_000;

/// An account is never further ahead than this: a minute.
const AHEAD_MAX: u32 = 60 * SECOND_US;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_may_come_at_once_and_then_the_rate_holds() {
        let now = u32::MAX - 500_000;
        let mut account = now;
        let cost = 100_000;
        let granted = (0..20).filter(|_| spend(&mut account, now, cost) <= SECOND_US).count();
        assert_eq!(granted, 10);
        let mut account = now;
        for message in 0..100u32 {
            let at = now.wrapping_add(message * 100_000);
            assert!(spend(&mut account, at, cost) <= SECOND_US, "at the rate, across the wrap");
        }
    }

    #[test]
    fn silence_is_not_debt() {
        let mut account = 5_000_000;
        assert_eq!(spend(&mut account, 4_000_000_000, 7), 7);
    }

    #[test]
    fn an_account_that_only_pings_pass_by_is_never_in_debt() {
        // A message every three hours, a ping every 25 s: across each wrap there is.
        let (mut account, mut now) = (0u32, 0u32);
        for ping in 0..4000 {
            now = now.wrapping_add(25 * SECOND_US);
            settle(&mut account, now, false);
            assert_eq!(ahead_of(account, now), 0, "ping {ping}");
            if ping % 432 == 0 {
                assert_eq!(spend(&mut account, now, 9), 9, "ping {ping}");
            }
        }
        let mut busy = now.wrapping_add(5);
        settle(&mut busy, now, false);
        assert_eq!(ahead_of(busy, now), 5, "what is owed stays owed");
        settle(&mut busy, now, true);
        assert_eq!(ahead_of(busy, now), 0);
    }
}
