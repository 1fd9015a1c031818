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
pub(super) struct Rates {
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
    use crate::engine::config::Config;

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
        assert_eq!(spend(&mut account, 4_000_000_000, u64::MAX), 60_000_000, "a minute");
        assert_eq!(ahead_of(account, 4_000_000_000), AHEAD_MAX, "the most that is debt");
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

    const START_NS: u64 = 1_000_000_000_000;

    fn core(change: impl FnOnce(&mut Config)) -> Core {
        let mut config = Config { rate_policy: RatePolicy::Pause, ..Config::default() };
        change(&mut config);
        Core::alone(config, START_NS, 0)
    }

    fn paid(core: &mut Core) -> (u32, u32) {
        let now = core.clock.now_us();
        let cold = core.slots.cold(0).unwrap();
        (cold.messages.wrapping_sub(now), cold.bytes.wrapping_sub(now))
    }

    #[test]
    fn the_burst_is_a_seconds_worth_to_the_message_and_to_the_byte() {
        let mut core = core(|config| (config.message_rate, config.byte_rate) = (10, 1000));
        assert!((0..10).all(|_| core.spend_message(0) == Allowance::Granted));
        assert_eq!(core.spend_message(0), Allowance::Wait(100_000));
        assert_eq!(core.charge(0, 1, 1000), Allowance::Granted);
        assert_eq!(core.charge(0, 1, 2), Allowance::Wait(2000));
        assert_eq!(paid(&mut core), (1_100_000, 1_002_000));
        assert_eq!(core.charge(0, 2, 9), Allowance::Granted, "another tenant of the slot");
        assert_eq!(paid(&mut core), (1_100_000, 1_002_000));
    }

    #[test]
    fn where_there_is_no_rate_nothing_is_booked() {
        let mut none = core(|_| {});
        assert_eq!(none.spend_message(0), Allowance::Granted);
        assert_eq!(none.charge(0, 1, 1 << 30), Allowance::Granted);
        assert_eq!(paid(&mut none), (0, 0));
        none.set_now(START_NS + 5_000_000_000);
        none.settle_accounts(0);
        assert_eq!(paid(&mut none).0 as i32, -5_000_000, "nor moved");
        for (messages, bytes) in [(10, 0), (0, 10)] {
            let mut one =
                core(|config| (config.message_rate, config.byte_rate) = (messages, bytes));
            one.set_now(START_NS + 5_000_000_000);
            assert_eq!(one.charge(0, 1, 10), Allowance::Granted);
            let spent = if bytes > 0 { 1_000_000 } else { 0 };
            assert_eq!(paid(&mut one), (0, spent), "both moved on");
            assert_eq!(one.spend_message(0), Allowance::Granted);
            let spent = (if messages > 0 { 100_000 } else { 0 }, spent);
            assert_eq!(paid(&mut one), spent);
            assert_eq!(one.charge(0, 1, 1) == Allowance::Granted, bytes == 0);
        }
    }

    #[test]
    fn the_policy_says_what_is_beyond() {
        let mut closes = core(|config| {
            (config.message_rate, config.rate_policy) = (1, RatePolicy::Close);
        });
        assert_eq!(closes.spend_message(0), Allowance::Granted);
        let beyond = closes.spend_message(0);
        assert_eq!(beyond, Allowance::Exceeded);
        closes.hold_back(0, 1, Allowance::Granted);
        assert_eq!(closes.slots.get(0).unwrap().phase(), Phase::Open);
        closes.hold_back(0, 1, beyond);
        assert_eq!(closes.slots.get(0).unwrap().phase(), Phase::Flushing);
        assert_eq!(closes.counted.closed_rate, 1);
    }

    #[test]
    fn what_is_owed_is_the_larger_account_in_whole_ticks() {
        let mut core = core(|config| (config.message_rate, config.byte_rate) = (10, 1000));
        assert_eq!(core.owed_ticks(0), 0);
        let now = core.clock.now_us();
        let owe = |core: &mut Core, messages, bytes| {
            let cold = core.slots.cold(0).unwrap();
            (cold.messages, cold.bytes) = (now + messages, now + bytes);
            core.owed_ticks(0)
        };
        assert_eq!(owe(&mut core, SECOND_US, SECOND_US), 0);
        assert_eq!(owe(&mut core, SECOND_US + 1, 0), 1);
        assert_eq!(owe(&mut core, SECOND_US + 100_000, SECOND_US + 250_000), 3);
        let mut one = self::core(|config| config.message_rate = 10);
        assert_eq!(owe(&mut one, SECOND_US + 1, 9 * SECOND_US), 1, "the other account is none");
    }

    #[test]
    fn a_silence_as_long_as_the_account_ends_it() {
        let mut core = core(|config| config.message_rate = 10);
        let tick_ns = core.limits.tick_ns;
        let mut after = |silence: u32| {
            core.set_now(START_NS);
            let now = core.clock.now_us();
            let hot = core.slots.get_mut(0).unwrap();
            hot.pulse.seen = (START_NS / tick_ns) as u32 - silence;
            let cold = core.slots.cold(0).unwrap();
            (cold.messages, cold.bytes) = (now + 7, now.wrapping_sub(7));
            core.settle_accounts(0);
            paid(&mut core)
        };
        assert_eq!(after(599), (7, 0), "what is owed stays owed");
        assert_eq!(after(600), (0, 0), "a minute");
    }

    #[test]
    fn who_is_held_back_is_read_when_all_is_paid() {
        let mut core = core(|config| config.message_rate = 10);
        let granted = (0..12).map(|_| core.spend_message(0)).last().unwrap();
        assert_eq!(granted, Allowance::Wait(200_000));
        core.hold_back(0, 2, granted);
        assert!(!core.rates.hold_anybody(), "another tenant of the slot");
        core.hold_back(0, 1, granted);
        core.hold_back(0, 1, granted);
        let until = core.clock.tick() + 2;
        assert_eq!(
            (&core.rates.throttled[..], core.counted.read_pauses),
            (&[(0, 1, until)][..], 1)
        );
        assert!(core.rates.hold(0, 1) && !core.rates.hold(0, 2) && !core.rates.hold(1, 1));
        let held = |core: &Core| core.slots.get(0).unwrap().has(Flags::THROTTLED);
        let pass = |core: &mut Core, ms: u64| {
            core.set_now(START_NS + ms * 1_000_000);
            core.release_throttled();
        };
        pass(&mut core, 100);
        assert!(held(&core));
        // Another message of the same receive.
        let _ = core.spend_message(0);
        pass(&mut core, 200);
        assert!(held(&core), "it came behind the first excess");
        pass(&mut core, 300);
        assert!(!held(&core) && !core.rates.hold_anybody());
        assert!(core.slots.get(0).unwrap().has(Flags::READY));
        core.rates.shrink();
        assert_eq!(core.rates.throttled.capacity(), 0);
    }

    #[test]
    fn who_is_gone_or_closing_is_not_held_back() {
        let mut core = core(|config| config.message_rate = 10);
        core.begin_close(0, Cause::Application, CloseCode::NORMAL, "");
        core.hold_back(0, 1, Allowance::Wait(1));
        assert!(!core.rates.hold_anybody());
        // One that goes while it waits leaves the list in time, and others go on waiting.
        core.rates.throttled.push((7, 1, core.clock.tick()));
        core.slots.open(8, Phase::Open).set(Flags::THROTTLED);
        let late = core.clock.tick().wrapping_add(9);
        core.rates.throttled.push((8, 2, late));
        core.release_throttled();
        assert_eq!(core.rates.throttled, [(8, 2, late)]);
    }

    #[test]
    fn the_list_has_no_more_entries_than_so_many_for_each_connection() {
        let mut core = core(|config| config.message_rate = 10);
        let most = core.slots.most_entries();
        let gone = |count: usize| (0..count).map(|n| (100 + n as u32, 1, 0));
        core.rates.throttled.extend(gone(most - 1));
        core.hold_back(0, 1, Allowance::Wait(1));
        assert_eq!(core.rates.throttled.len(), most);
        core.slots.get_mut(0).unwrap().clear(Flags::THROTTLED);
        core.hold_back(0, 1, Allowance::Wait(1));
        assert_eq!(core.rates.throttled.len(), 2, "those of the gone are taken out");
    }
}
