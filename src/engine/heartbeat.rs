//! When a silent peer is asked, and when it is given up. Pure decisions over [`Pulse`]; the wheel
//! calls, the worker acts.
//!
//! Any inbound byte is proof of life, so a busy connection is never pinged. Silence of one
//! interval brings a ping; unanswered, the peer becomes *suspect*, is *probed*, and is *dead*,
//! each at its own deadline counted from the first ping of that silence. Answers lengthen the
//! interval by a quarter, a missed deadline halves it. The deadlines run from when the ping has
//! left ([`super::patience`]): a peer still busy with what was sent before it is not silent.
//!
//! Steady pings ([`Heartbeat::steady`]) are counted from the last ping and not from the last sign
//! of life.

use std::time::Duration;

use super::clock::{is_after, since};
use super::config::{Heartbeat, ticks};
use super::patience::glance;
use super::slots::{Ping, Pulse};
use crate::common::rng::Rng;

/// [`Heartbeat`] in ticks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) enabled: bool,
    pub(super) steady: bool,
    start: u16,
    floor: u16,
    ceiling: u16,
    suspect: u32,
    probe: u32,
    dead: u32,
    /// When to look whether a ping has left.
    pub(super) glance: u32,
}

/// What a due heartbeat asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing; there was life since.
    Wait,
    /// The first ping of a silence.
    Ping,
    /// A deadline passed in silence; ping again.
    PingAgain,
    /// The last deadline passed.
    Dead,
}

impl Plan {
    pub(super) fn new(config: &Heartbeat, tick: Duration) -> Self {
        let short = |duration| ticks(duration, tick).clamp(1, u32::from(u16::MAX)) as u16;
        Self {
            enabled: config.enabled,
            steady: config.steady,
            start: short(config.start),
            floor: short(config.floor),
            ceiling: short(config.ceiling),
            suspect: ticks(config.suspect, tick),
            probe: ticks(config.probe, tick),
            dead: ticks(config.dead, tick),
            glance: glance(ticks(config.suspect, tick)),
        }
    }

    /// A new connection. Its first ping comes at a random point between half an interval and one,
    /// so that clients that came together are not asked together.
    pub(super) fn begin(&self, now: u32, rng: &mut Rng) -> Pulse {
        let head_start = rng.below(u32::from(self.start) / 2 + 1);
        let begun = now.wrapping_sub(head_start);
        let pinged = if self.steady { begun } else { 0 };
        Pulse { seen: begun, pinged, interval: self.start, ..Pulse::default() }
    }

    /// The tick at which [`Self::on_due`] has something to say, if nothing arrives until then.
    pub(super) fn due(&self, pulse: &Pulse) -> u32 {
        match pulse.level {
            0 if self.steady => pulse.pinged.wrapping_add(u32::from(pulse.interval) + 1),
            0 => pulse.seen.wrapping_add(u32::from(pulse.interval) + 1),
            1 => pulse.pinged.wrapping_add(self.suspect + 1),
            2 => pulse.pinged.wrapping_add(self.probe + 1),
            _ => pulse.pinged.wrapping_add(self.dead + 1),
        }
    }

    /// The deadline came.
    pub(super) fn on_due(&self, pulse: &mut Pulse, now: u32) -> Verdict {
        if is_after(self.due(pulse), now) {
            return Verdict::Wait;
        }
        if pulse.level == 0 {
            pulse.level = 1;
            pulse.pinged = now;
            pulse.ping = Ping::Waiting;
            return Verdict::Ping;
        }
        pulse.interval = (pulse.interval / 2).max(self.floor);
        if since(now, pulse.pinged) > self.dead {
            return Verdict::Dead;
        }
        pulse.level += 1;
        Verdict::PingAgain
    }

    /// A byte arrived while an answer was awaited. Returns whether it came in time.
    pub(super) fn on_answer(&self, pulse: &mut Pulse) -> bool {
        let in_time = pulse.level == 1;
        pulse.level = 0;
        if in_time {
            let longer = pulse.interval.saturating_add(pulse.interval / 4).max(self.floor);
            pulse.interval = longer.min(self.ceiling);
        }
        in_time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan::new(&Heartbeat::default(), Duration::from_millis(100))
    }

    #[test]
    fn silence_escalates_at_its_deadlines() {
        let plan = plan();
        let mut pulse = Pulse { seen: 100, interval: 250, ..Pulse::default() };
        assert_eq!(plan.on_due(&mut pulse, 350), Verdict::Wait);
        assert_eq!(plan.due(&pulse), 351);
        assert_eq!(plan.on_due(&mut pulse, 351), Verdict::Ping);
        assert_eq!(plan.on_due(&mut pulse, 351 + 151), Verdict::PingAgain);
        assert_eq!((pulse.interval, plan.due(&pulse)), (125, 351 + 301));
        assert_eq!(plan.on_due(&mut pulse, 351 + 301), Verdict::PingAgain);
        assert_eq!(plan.due(&pulse), 351 + 601);
        assert_eq!(plan.on_due(&mut pulse, 351 + 600), Verdict::Wait);
        assert_eq!(plan.on_due(&mut pulse, 351 + 601), Verdict::Dead);
    }

    #[test]
    fn the_last_deadline_decides_however_late_it_is_found() {
        let plan = plan();
        let asked = Pulse { pinged: 100, level: 1, interval: 250, ..Pulse::default() };
        assert_eq!(plan.on_due(&mut asked.clone(), 100 + 600), Verdict::PingAgain);
        assert_eq!(plan.on_due(&mut asked.clone(), 100 + 601), Verdict::Dead);
    }

    #[test]
    fn the_applications_pings_are_steady() {
        let second = Duration::from_secs(8);
        let start = Duration::from_secs(25);
        let config = Heartbeat {
            steady: true,
            start,
            floor: start,
            ceiling: start,
            suspect: second,
            probe: second,
            dead: second,
            ..Heartbeat::default()
        };
        let plan = Plan::new(&config, Duration::from_millis(100));
        let mut pulse = plan.begin(1000, &mut Rng::new(1));
        let mut due = plan.due(&pulse);
        assert!((1126..=1251).contains(&due), "the first comes early: {due}");
        for _ in 0..5 {
            // Life in between does not postpone it.
            pulse.seen = due - 1;
            assert_eq!(plan.on_due(&mut pulse, due), Verdict::Ping);
            assert!(plan.on_answer(&mut pulse));
            assert_eq!(plan.due(&pulse), due + 251);
            due += 251;
        }
        assert_eq!(plan.on_due(&mut pulse, due), Verdict::Ping);
        assert_eq!(plan.due(&pulse), due + 81);
        assert_eq!(plan.on_due(&mut pulse, due + 81), Verdict::Dead);
    }

    #[test]
    fn one_deadline_for_all_levels_closes_at_once() {
        let second = Duration::from_secs(8);
        let config =
            Heartbeat { suspect: second, probe: second, dead: second, ..Heartbeat::default() };
        let plan = Plan::new(&config, Duration::from_millis(100));
        let mut pulse = Pulse { interval: 250, ..Pulse::default() };
        assert_eq!(plan.on_due(&mut pulse, 251), Verdict::Ping);
        assert_eq!(plan.on_due(&mut pulse, 251 + 81), Verdict::Dead);
    }

    #[test]
    fn answers_lengthen_and_misses_shorten_within_bounds() {
        let plan = plan();
        let mut pulse = plan.begin(0, &mut Rng::new(1));
        for _ in 0..40 {
            pulse.level = 1;
            assert!(plan.on_answer(&mut pulse));
        }
        assert_eq!(pulse.interval, 600);
        for _ in 0..40 {
            pulse.level = 1;
            pulse.pinged = 1000;
            assert_eq!(plan.on_due(&mut pulse, 1000 + 151), Verdict::PingAgain);
            assert!(!plan.on_answer(&mut pulse));
        }
        assert_eq!(pulse.interval, 50);
    }

    #[test]
    fn an_answer_in_time_lengthens_the_interval_by_a_quarter() {
        let plan = plan();
        let mut pulse = Pulse { interval: 250, level: 1, ..Pulse::default() };
        assert!(plan.on_answer(&mut pulse));
        assert_eq!((pulse.interval, pulse.level), (312, 0));
        pulse.level = 2;
        assert!(!plan.on_answer(&mut pulse));
        assert_eq!((pulse.interval, pulse.level), (312, 0));
        // Below the floor, as no ping leaves it: up to it at once.
        pulse = Pulse { interval: 3, level: 1, ..Pulse::default() };
        assert!(plan.on_answer(&mut pulse));
        assert_eq!(pulse.interval, 50);
    }

    #[test]
    fn first_pings_are_spread_over_half_an_interval() {
        let plan = plan();
        let mut rng = Rng::new(5);
        let now = 10_000;
        let due: Vec<u32> = (0..2000).map(|_| plan.due(&plan.begin(now, &mut rng)) - now).collect();
        assert_eq!((due.iter().min(), due.iter().max()), (Some(&126), Some(&251)));
        let early = due.iter().filter(|d| **d < 188).count();
        assert!((800..1200).contains(&early), "{early} of 2000 in the first half");
    }
}
