//! How a core goes away: at the pace that the drain's plan asks for, and at once at its deadline.
//!
//! Owns the progress of a drain. Never waits. The invariant: from its beginning on nobody is
//! accepted but who already knocked, and it ends when no connection is left and no operation is
//! outstanding.

use std::time::Duration;

use super::clock::since;
use super::config::Drain;
use super::core::Core;
use super::handler::Handler;
use super::ring::Ring;
use super::slots::{Flags, Phase};
use super::value::Cause;
use super::worker::Worker;

/// A drain in progress.
pub(super) struct Draining {
    plan: Drain,
    started_ns: u64,
    /// Connections there were when it started.
    population: u32,
    /// Closed so far, by pace.
    closed: u32,
    /// Where to look for the next one.
    cursor: u32,
}

impl<R: Ring, H: Handler> Worker<R, H> {
    pub(super) fn begin_drain(&mut self, plan: Drain) {
        if self.drain.is_some() {
            return;
        }
        self.stop_accepting();
        self.core.requests.end();
        self.drain = Some(Draining {
            plan,
            started_ns: self.core.clock.now_ns(),
            population: self.core.slots.used(),
            closed: 0,
            cursor: 0,
        });
    }

    /// Closes as many connections as the drain's pace asks for by now.
    pub(super) fn pace_drain(&mut self) {
        let Some(drain) = &mut self.drain else { return };
        let elapsed = self.core.clock.now_ns().saturating_sub(drain.started_ns);
        if elapsed >= drain.plan.deadline.as_nanos() as u64 {
            self.cut_all();
            return;
        }
        let window = drain.plan.window.as_nanos() as u64;
        let target = match u64::from(drain.population) * elapsed {
            _ if elapsed >= window => u32::MAX,
            share => (share / window) as u32,
        };
        // What is said to all of them leaves in portions.
        while self.core.turn_size() <= self.core.limits.turn_soft && self.close_next(target) {
            self.deliver_notices();
        }
    }

    /// Closes one more connection, if fewer than so many are closed. False if there is none.
    fn close_next(&mut self, target: u32) -> bool {
        let Some(drain) = self.drain.as_mut().filter(|drain| drain.closed < target) else {
            return false;
        };
        let slots = &self.core.slots;
        let next = (drain.cursor..slots.end()).find_map(|slot| {
            let phase = slots.get(slot)?.phase();
            let found = matches!(phase, Phase::Open | Phase::Handshake | Phase::Connecting);
            found.then_some((slot, phase))
        });
        let Some((slot, phase)) = next else {
            // Connections that open from now on are found by starting over.
            drain.cursor = 0;
            return false;
        };
        drain.cursor = slot + 1;
        drain.closed = drain.closed.saturating_add(1);
        match phase {
            Phase::Open => {
                let Drain { code, reason, .. } = &drain.plan;
                self.core.begin_close(slot, Cause::Drain, *code, reason);
            }
            Phase::Connecting => self.core.drop_connection(slot, Cause::Drain),
            // Whoever has another request connects anew.
            Phase::Handshake if self.core.is_idle(slot) => self.core.part(slot),
            // Browsers connect in advance and then say nothing; nobody waits for these.
            Phase::Handshake if self.core.is_silent(slot) => {
                self.core.drop_connection(slot, Cause::Drain);
            }
            // A handshake in progress completes, and is closed in its turn.
            _ => {}
        }
        true
    }

    /// Ends every connection now.
    pub(super) fn cut_all(&mut self) {
        if self.drain.is_none() {
            let plan = Drain {
                window: Duration::ZERO,
                deadline: Duration::ZERO,
                ..self.core.config.drain.clone()
            };
            self.begin_drain(plan);
        }
        self.stop_listening_now();
        let slots: Vec<u32> = self.core.slots.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            self.core.drop_connection(slot, Cause::Drain);
        }
        self.deliver_notices();
    }

    /// Begins a drain without window, as the application asks for.
    pub(super) fn stop(&mut self) {
        let plan = Drain { window: Duration::ZERO, ..self.core.config.drain.clone() };
        self.begin_drain(plan);
    }

    /// Whether a drain has come to its end.
    pub(super) fn is_finished(&self) -> bool {
        self.drain.is_some()
            && self.core.slots.used() == 0
            && self.admission.is_quiet()
            && !self.core.dials.are_asked()
            && self.letters.is_empty()
            && self.done.is_empty()
    }
}

impl Core {
    /// Whether a connection was accepted a while ago and has not begun its request.
    fn is_silent(&self, slot: u32) -> bool {
        let hot = self.slots.get(slot);
        if self.requests.keeps(slot) {
            return false;
        }
        // What has arrived is read later in this turn; closing before that resets the peer.
        let begun =
            self.handshakes.held(slot).is_some() || hot.is_some_and(|hot| hot.has(Flags::READY));
        let due = hot.and_then(|hot| hot.timer.due());
        let wait = (SILENT_NS / self.limits.tick_ns) as u32;
        let accepted = due.map(|due| due.wrapping_sub(self.limits.handshake + 1));
        !begun && accepted.is_some_and(|at| since(self.clock.tick(), at) >= wait)
    }
}

/// A request follows its connection within the round trip that both need anyway; one that is lost
/// is repeated within 3 s also where the connection itself took a second try (RFC 6298, 5.7).
const SILENT_NS: u64 = 3_000_000_000;

/// How often a drain looks at its pace.
pub(super) const STEP_NS: u64 = 10_000_000;
