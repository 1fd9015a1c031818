//! What a connection's one deadline means in each phase, and what happens when it comes.
//!
//! Owns the wheel of deadlines, and what is measured of time: how late deadlines were found, how
//! long answers took. The invariant: a phase that could last for ever has a deadline.

use super::clock::{earlier, is_after, kept_young, later, since};
use super::core::Core;
use super::distribution::Distribution;
use super::heartbeat::Verdict;
use super::notices::Notice;
use super::phase::Event;
use super::slots::{Flags, Hot, Marks, Phase, Ping, Slots};
use super::value::{Cause, HeartbeatAction};
use super::wheel::Wheel;
use crate::protocol::CloseCode;
use crate::protocol::frame::Opcode;
use crate::protocol::request::Refusal;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Timing {
    wheel: Wheel,
    /// Deadlines were found late, and moved, when they were last looked at.
    forgave: bool,
    /// When records were last swept, and which chunk of them is next.
    swept: u32,
    sweeping: usize,
    rtt_us: Distribution,
    drift_us: Distribution,
}

impl Timing {
    /// Arms, or moves, the deadline of a connection.
    pub(super) fn schedule(&mut self, slots: &mut Slots, slot: u32, due: u32) {
        self.wheel.schedule(slots, slot, due);
    }

    /// Disarms it.
    pub(super) fn cancel(&mut self, slots: &mut Slots, slot: u32) {
        self.wheel.cancel(slots, slot);
    }

    /// Deadlines that are armed.
    pub(super) fn armed(&self) -> u32 {
        self.wheel.armed()
    }

    /// The tick up to which deadlines were looked at.
    pub(super) fn looked_at(&self) -> u32 {
        self.wheel.now()
    }

    /// The earliest tick at which something may be due.
    pub(super) fn next_due(&self) -> Option<u32> {
        self.wheel.next_due()
    }

    /// Copies of what was measured: round trips, and lateness.
    pub(super) fn measured(&self) -> (Distribution, Distribution) {
        (self.rtt_us.clone(), self.drift_us.clone())
    }
}

impl Core {
    /// Moves time to `now_ns`, so that what begins now is counted from now and not from before the
    /// wait.
    pub(super) fn set_now(&mut self, now_ns: u64) {
        self.clock.set(now_ns);
    }

    /// Sets the clock for the first time.
    pub(super) fn begin_time(&mut self, now_ns: u64) {
        self.set_now(now_ns);
        self.timing.wheel.begin(self.clock.tick());
        self.timing.swept = self.clock.tick();
    }

    /// Handles every deadline that has come by now.
    #[inline]
    pub(super) fn on_time(&mut self, fired: &mut Vec<(u32, u32)>) {
        if self.timing.wheel.now() != self.clock.tick() {
            self.on_tick(fired);
        }
    }

    fn on_tick(&mut self, fired: &mut Vec<(u32, u32)>) {
        let tick = self.clock.tick();
        self.timing.wheel.advance(&mut self.slots, tick, fired);
        // After a stall of the core or the host, deadlines and what would have met them are found
        // together. Once, what has arrived is read and written before it is judged.
        let late = fired.iter().any(|(_, due)| since(tick, *due) > LATE);
        self.timing.forgave = late && !self.timing.forgave;
        for (slot, due) in fired.drain(..) {
            let drift_us = self.clock.now_ns().saturating_sub(self.clock.ns_of(due)) / 1000;
            self.timing.drift_us.record(drift_us.max(1));
            if self.timing.forgave {
                self.timing.schedule(&mut self.slots, slot, tick.wrapping_add(FORGIVEN));
            } else {
                self.on_deadline(slot);
            }
        }
        self.release_throttled();
        if since(tick, self.timing.swept) >= SWEEP {
            self.timing.swept = tick;
            self.sweep();
        }
    }

    /// Keeps the moments that a part of the records remembers from looking young again.
    fn sweep(&mut self) {
        let tick = self.clock.tick();
        self.timing.sweeping = self.slots.sweep(self.timing.sweeping, |hot| {
            hot.active = kept_young(tick, hot.active);
            hot.pulse.seen = kept_young(tick, hot.pulse.seen);
            hot.pulse.pinged = kept_young(tick, hot.pulse.pinged);
            if let Some(outbox) = &mut hot.outbox {
                outbox.progress = kept_young(tick, outbox.progress);
            }
        });
        self.watches.age(tick);
    }

    /// When the next deadline comes; `u64::MAX` if there is none.
    pub(super) fn next_deadline_ns(&self) -> u64 {
        let soon = self.clock.tick().wrapping_add(1);
        let due = match (self.timing.next_due(), !self.rates.hold_anybody()) {
            (Some(due), true) => due,
            (Some(due), false) => earlier(due, soon),
            (None, false) => soon,
            (None, true) => return u64::MAX,
        };
        self.clock.ns_of(due)
    }

    /// Moves a connection to its next phase: the one place where a phase begins.
    pub(super) fn enter(&mut self, slot: u32, event: Event) {
        if self.slots.get_mut(slot).is_some_and(|hot| hot.advance(event)) {
            self.begin_phase(slot);
        }
    }

    /// Begins the deadline of a phase; of one in which something is still to be sent, from when
    /// that has left (see `patience`).
    pub(super) fn begin_phase(&mut self, slot: u32) {
        let tick = self.clock.tick();
        let Some(hot) = self.slots.get_mut(slot) else { return };
        match hot.phase() {
            Phase::Connecting | Phase::Handshake | Phase::Passing => {
                // Who is here only to be refused needs no more than that.
                let surplus = hot.has(Flags::SURPLUS);
                let limit = if surplus { self.limits.linger } else { self.limits.handshake };
                self.timing.schedule(&mut self.slots, slot, self.clock.after(limit + 1));
            }
            Phase::Open => {
                hot.active = tick;
                hot.pulse = self.limits.heartbeat.begin(tick, &mut self.rng);
                self.arm(slot);
            }
            Phase::Closing | Phase::Flushing | Phase::Lingering => {
                (hot.pulse.pinged, hot.pulse.ping) = (tick, Ping::Waiting);
                self.watches.restart(slot, hot);
                self.arm(slot);
            }
            Phase::Closed => self.timing.cancel(&mut self.slots, slot),
        }
    }

    /// Arms the next deadline of a connection that is open or being closed.
    pub(super) fn arm(&mut self, slot: u32) {
        let Some(hot) = self.slots.get(slot) else { return };
        let due = match hot.phase() {
            Phase::Open => self.open_deadline(slot, hot),
            phase if phase.is_leaving() => Some(self.leaving_due(slot, hot)),
            _ => return,
        };
        match due {
            Some(due) => self.timing.schedule(&mut self.slots, slot, due),
            None => self.timing.cancel(&mut self.slots, slot),
        }
    }

    pub(super) fn open_deadline(&self, slot: u32, hot: &Hot) -> Option<u32> {
        let limits = &self.limits;
        let heartbeat = limits.heartbeat.enabled.then(|| limits.heartbeat.due(&hot.pulse));
        let idle = (limits.idle > 0).then(|| hot.active.wrapping_add(limits.idle + 1));
        let upload = self.progress_due(slot, hot);
        let due = [heartbeat, idle, self.look_due(slot, hot), upload];
        due.into_iter().flatten().reduce(earlier)
    }

    fn on_deadline(&mut self, slot: u32) {
        let Some(hot) = self.slots.get(slot) else { return };
        let (client, greets) = (hot.has(Flags::CLIENT), hot.has(Flags::GREETING));
        match hot.phase() {
            Phase::Open => self.on_open_deadline(slot),
            Phase::Handshake if self.requests.keeps(slot) => self.on_late(slot),
            Phase::Handshake if self.is_unread(slot) => {
                // Where many wait to be read from, a request that came in time is read first.
                self.timing.schedule(&mut self.slots, slot, self.clock.after(1));
            }
            Phase::Handshake => {
                self.counted.handshake_timeouts += 1;
                if client {
                    let failure = match greets {
                        true => "no TLS handshake within the handshake timeout",
                        false => "no answer to the request within the handshake timeout",
                    };
                    self.blame_dial(slot, failure);
                    self.drop_connection(slot, Cause::Broken);
                } else {
                    self.refuse(slot, Refusal::Timeout);
                }
            }
            Phase::Connecting => {
                self.counted.handshake_timeouts += 1;
                self.blame_dial(slot, "no TCP connection within the handshake timeout");
                self.drop_connection(slot, Cause::Broken);
            }
            Phase::Closing | Phase::Flushing | Phase::Lingering => self.on_leaving_deadline(slot),
            Phase::Passing => self.drop_connection(slot, Cause::Abrupt),
            Phase::Closed => {}
        }
    }

    /// Whether a whole request may wait: something has come, and nothing was read yet.
    fn is_unread(&self, slot: u32) -> bool {
        let waits =
            |hot: &Hot| hot.has(Flags::READY) && !hot.has(Flags::HELD | Flags::TLS | Flags::CLIENT);
        self.slots.get(slot).is_some_and(waits) && self.handshakes.held(slot).is_none()
    }

    fn on_open_deadline(&mut self, slot: u32) {
        let (tick, idle) = (self.clock.tick(), self.limits.idle);
        let Some(hot) = self.slots.get(slot) else { return };
        if self.look_due(slot, hot).is_some_and(|due| !is_after(due, tick)) {
            self.look(slot);
        }
        let Some(hot) = self.slots.get_mut(slot) else { return };
        let stream = hot.has(Flags::STREAM);
        if hot.has(Flags::READY) && !stream {
            // After a stall of the core or the host, answers and deadlines are found together:
            // what has arrived is read before it is judged.
            self.timing.schedule(&mut self.slots, slot, tick.wrapping_add(1));
            return;
        }
        if self.is_upload_slow(slot) {
            let reason = "message takes too long";
            self.fail(slot, Cause::SlowUpload, CloseCode::POLICY, reason);
            return;
        }
        let Some(hot) = self.slots.get_mut(slot) else { return };
        if hot.has(Flags::HELD) {
            // We do not read, so that nothing comes says nothing.
            hot.active = tick;
        } else if hot.partial.is_some() {
            // The bytes of a message on its way are activity.
            hot.active = later(hot.active, hot.pulse.seen);
        }
        if idle > 0 && since(tick, hot.active) > idle {
            self.begin_close(slot, Cause::Idle, CloseCode::GOING_AWAY, "idle");
            return;
        }
        // What may still wait behind other bytes is judged by the look.
        if hot.pulse.level == 0 || hot.pulse.ping == Ping::Left {
            self.on_heartbeat_due(slot);
        }
        self.arm(slot);
    }

    /// Asks a silent peer, or gives it up, if its time has come.
    pub(super) fn on_heartbeat_due(&mut self, slot: u32) {
        let (tick, plan) = (self.clock.tick(), self.limits.heartbeat);
        let Some(hot) = self.slots.get_mut(slot) else { return };
        if !plan.enabled {
            return;
        }
        if hot.has(Flags::STREAM) {
            // Nothing that comes on it is an answer.
        } else if hot.has(Flags::HELD) {
            // We do not read, so silence says nothing; the write deadline watches instead.
            self.settle_accounts(slot);
        } else if hot.has(Flags::READY) {
            return;
        }
        let Some(hot) = self.slots.get_mut(slot) else { return };
        if hot.has(Flags::HELD) && !hot.has(Flags::STREAM) {
            hot.pulse.seen = tick;
            hot.pulse.level = 0;
        }
        let generation = hot.generation;
        let verdict = plan.on_due(&mut hot.pulse, tick);
        if verdict == Verdict::Ping {
            self.watches.restart(slot, hot);
        }
        self.act_on(slot, generation, verdict);
    }

    fn act_on(&mut self, slot: u32, generation: u32, verdict: Verdict) {
        match verdict {
            Verdict::Wait => {}
            Verdict::Ping | Verdict::PingAgain => {
                self.counted.heartbeats_missed += u64::from(verdict == Verdict::PingAgain);
                match self.limits.heartbeat.steady || self.is_stream(slot) {
                    true => self.notices.push(Notice::Heartbeat { slot, generation }),
                    false => self.send_ping(slot, generation),
                }
            }
            Verdict::Dead => {
                self.counted.heartbeats_missed += 1;
                match self.config.heartbeat.close {
                    Some((code, reason)) => self.begin_close(slot, Cause::Heartbeat, code, reason),
                    None => self.drop_connection(slot, Cause::Heartbeat),
                }
            }
        }
    }

    fn send_ping(&mut self, slot: u32, generation: u32) {
        self.counted.heartbeats_sent += 1;
        let stamp = self.clock.now_ns().to_be_bytes();
        // The connection is open, so the ping is taken.
        let _ = self.queue_control(slot, generation, Opcode::Ping, &stamp);
    }

    /// The application was asked about a heartbeat that is due.
    pub(super) fn on_heartbeat_decided(
        &mut self,
        slot: u32,
        generation: u32,
        action: HeartbeatAction,
    ) {
        let (now_us, tick) = (self.clock.now_us(), self.clock.tick());
        let steady = self.limits.heartbeat.steady;
        let Some(hot) = self.slots.lookup(slot, generation) else { return };
        match action {
            HeartbeatAction::Sent => {
                hot.mark(Marks::ASKED);
                hot.pulse.rtt_us = now_us.max(1);
                self.counted.heartbeats_sent += 1;
            }
            HeartbeatAction::Ping if !hot.has(Flags::STREAM) => {
                hot.forget_asked();
                if hot.phase() == Phase::Open {
                    self.send_ping(slot, generation);
                }
            }
            HeartbeatAction::Ping | HeartbeatAction::Quiet => {
                hot.forget_asked();
                hot.pulse.level = 0;
                if !steady {
                    // The next one is due an interval after the last sign of life.
                    hot.pulse.seen = tick;
                }
                // No answer is awaited, so whether anybody is there shows by what is acknowledged.
                self.look(slot);
                self.arm(slot);
            }
        }
    }

    /// Something arrived: proof of life.
    pub(super) fn on_life(&mut self, slot: u32) {
        let Some(hot) = self.slots.get_mut(slot) else { return };
        hot.pulse.seen = self.clock.tick();
        if hot.pulse.level > 0 {
            self.on_answer(slot);
        }
    }

    /// Something arrived while an answer was awaited.
    #[cold]
    pub(super) fn on_answer(&mut self, slot: u32) {
        let plan = self.limits.heartbeat;
        let now_us = self.clock.now_us();
        let Some(hot) = self.slots.get_mut(slot) else { return };
        // Whose ping waited behind other bytes has no round trip to tell.
        if hot.unmark(Marks::ASKED) && hot.pulse.rtt_us > 0 {
            hot.pulse.rtt_us = now_us.wrapping_sub(hot.pulse.rtt_us).max(1);
            self.timing.rtt_us.record(u64::from(hot.pulse.rtt_us));
        }
        if plan.on_answer(&mut hot.pulse) {
            self.counted.heartbeats_answered += 1;
        } else {
            self.counted.heartbeats_late += 1;
        }
        self.arm(slot);
    }

    /// A pong came: if it is one of our stamps, it tells the round-trip time. Any other is legal
    /// and ignored (RFC 6455 section 5.5.3).
    pub(super) fn on_pong(&mut self, slot: u32, payload: &[u8]) {
        let Ok(stamp) = <[u8; 8]>::try_from(payload) else { return };
        let elapsed = self.clock.now_ns().saturating_sub(u64::from_be_bytes(stamp));
        let Some(hot) = self.slots.get_mut(slot) else { return };
        let pinged_ago = u64::from(since(self.clock.tick(), hot.pulse.pinged)) + 1;
        // A stamp from before the last silence began is not one of ours.
        if hot.pulse.ping == Ping::Never
            || elapsed == 0
            || elapsed > pinged_ago * self.limits.tick_ns
        {
            return;
        }
        let micros = (elapsed / 1000).clamp(1, u64::from(u32::MAX));
        hot.pulse.rtt_us = micros as u32;
        self.timing.rtt_us.record(micros);
    }
}

/// A deadline found more ticks than this after it came was not found because of a stall.
const LATE: u32 = 2;

/// Ticks by which deadlines move then: time for a turn or several.
pub(super) const FORGIVEN: u32 = 3;

/// Ticks after which the next part of the records is swept: a million connections are swept every
/// 2^22 ticks.
const SWEEP: u32 = 1 << 12;

#[cfg(test)]
#[path = "timing_tests.rs"]
mod tests;
