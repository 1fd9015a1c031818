//! What a connection's one deadline means in each phase, and what happens when it comes.

use super::core::{Core, Notice};
use super::handler::Cause;
use super::heartbeat::Verdict;
use super::slots::{Flags, Hot, Phase};
use crate::protocol::CloseCode;
use crate::protocol::frame::Opcode;
use crate::protocol::request::Refusal;

impl Core {
    /// Moves time to `now_ns`, so that what begins now is counted from now and not from before the
    /// wait.
    pub(crate) fn set_now(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        // 2^32 ticks of 100 ms are 13 years.
        self.tick = (TICK_ORIGIN_U64 + now_ns / self.limits.tick_ns) as u32;
    }

    /// Handles every deadline that has come by now.
    #[inline]
    pub(crate) fn on_time(&mut self, fired: &mut Vec<(u32, u32)>) {
        if self.wheel.now() != self.tick {
            self.on_tick(fired);
        }
    }

    fn on_tick(&mut self, fired: &mut Vec<(u32, u32)>) {
        let (now_ns, tick) = (self.now_ns, self.tick);
        self.wheel.advance(&mut self.slots, tick, fired);
        // After a stall of the core or the host, deadlines and what would have met them are found
        // together. Once, what has arrived is read and written before it is judged.
        let late = fired.iter().any(|(_, due)| tick > due + LATE);
        self.forgave = late && !self.forgave;
        for (slot, due) in fired.drain(..) {
            let due_ns = u64::from(due - super::core::TICK_ORIGIN) * self.limits.tick_ns;
            let drift_us = now_ns.saturating_sub(due_ns) / 1000;
            let _ = self.drift_us.record(drift_us.max(1));
            if self.forgave {
                self.wheel.schedule(&mut self.slots, slot, tick + FORGIVEN);
            } else {
                self.on_deadline(slot);
            }
        }
        self.release_throttled();
    }

    /// When the next deadline comes; `u64::MAX` if there is none.
    pub(crate) fn next_deadline_ns(&self) -> u64 {
        let due = match (self.wheel.next_due(), self.throttled.is_empty()) {
            (Some(due), true) => due,
            (Some(due), false) => due.min(self.tick + 1),
            (None, false) => self.tick + 1,
            (None, true) => return u64::MAX,
        };
        u64::from(due - super::core::TICK_ORIGIN) * self.limits.tick_ns
    }

    /// Arms the next deadline of an open connection.
    pub(crate) fn arm(&mut self, slot: u32) {
        let Some(hot) = self.slots.get(slot) else { return };
        if hot.phase != Phase::Open {
            return;
        }
        match self.open_deadline(hot) {
            Some(due) => self.wheel.schedule(&mut self.slots, slot, due),
            None => self.wheel.cancel(&mut self.slots, slot),
        }
    }

    pub(super) fn open_deadline(&self, hot: &Hot) -> Option<u32> {
        let limits = &self.limits;
        let heartbeat = limits.heartbeat.enabled.then(|| limits.heartbeat.due(&hot.pulse));
        let idle = (limits.idle > 0).then(|| hot.active + limits.idle + 1);
        let write = match (&hot.outbox, hot.has(Flags::BLOCKED)) {
            (Some(outbox), true) => Some(outbox.progress + limits.write + 1),
            _ => None,
        };
        let upload = hot.partial.as_ref().and_then(|partial| self.upload_due(partial.place));
        [heartbeat, idle, write, upload].into_iter().flatten().min()
    }

    fn on_deadline(&mut self, slot: u32) {
        let Some(hot) = self.slots.get_mut(slot) else { return };
        match hot.phase {
            Phase::Open => self.on_open_deadline(slot),
            Phase::Handshake => {
                self.counted.handshake_timeouts += 1;
                if hot.has(Flags::CLIENT) {
                    self.blame_dial(slot, "no answer to the request within the handshake timeout");
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
            Phase::Closing | Phase::Flushing => {
                self.counted.close_timeouts += 1;
                self.drop_connection(slot, Cause::Abrupt);
            }
            Phase::Lingering | Phase::Passing => self.drop_connection(slot, Cause::Abrupt),
            Phase::Free | Phase::Closed => {}
        }
    }

    fn on_open_deadline(&mut self, slot: u32) {
        let tick = self.tick;
        let limits = self.limits;
        let Some(hot) = self.slots.get_mut(slot) else { return };
        let generation = hot.generation;
        if let (Some(outbox), true) = (&hot.outbox, hot.has(Flags::BLOCKED))
            && tick > outbox.progress + limits.write
        {
            // It takes nothing, so a close frame would not be taken either.
            self.drop_connection(slot, Cause::WriteTimeout);
            return;
        }
        if self.is_upload_slow(slot) {
            let reason = "message takes too long";
            self.fail(slot, Cause::SlowUpload, CloseCode::POLICY, reason);
            return;
        }
        let Some(hot) = self.slots.get_mut(slot) else { return };
        if limits.idle > 0 && tick > hot.active + limits.idle {
            self.begin_close(slot, Cause::Idle, CloseCode::GOING_AWAY, "idle");
            return;
        }
        if limits.heartbeat.enabled {
            if hot.has(Flags::STREAM) {
                // Nothing that comes on it is an answer.
            } else if hot.has(Flags::HELD) {
                // We do not read, so silence says nothing; the write deadline watches instead.
                hot.pulse.seen = tick;
                hot.pulse.level = 0;
            } else if hot.has(Flags::READY) {
                // After a stall of the core or the host, answers and deadlines are found together:
                // what has arrived is read before it is judged.
                self.wheel.schedule(&mut self.slots, slot, tick + 1);
                return;
            }
            let verdict = limits.heartbeat.on_due(&mut hot.pulse, tick);
            self.act_on(slot, generation, verdict);
        }
        self.arm(slot);
    }

    fn act_on(&mut self, slot: u32, generation: u32, verdict: Verdict) {
        match verdict {
            Verdict::Wait => {}
            Verdict::Ping | Verdict::PingAgain => {
                self.counted.heartbeats_missed += u64::from(verdict == Verdict::PingAgain);
                let stream = self.is_stream(slot);
                if self.limits.heartbeat.application || stream {
                    self.notices.push_back(Notice::Heartbeat { slot, generation });
                    return;
                }
                self.counted.heartbeats_sent += 1;
                let stamp = self.now_ns.to_be_bytes();
                // The connection is open, so the ping is taken.
                let _ = self.queue_control(slot, generation, Opcode::Ping, &stamp);
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

    /// The application was asked for its heartbeat. If it sent none, none is awaited.
    pub(crate) fn on_application_heartbeat(&mut self, slot: u32, generation: u32, sent: bool) {
        let (now_us, tick) = (self.now_us(), self.tick);
        let steady = self.limits.heartbeat.application;
        let Some(hot) = self.slots.lookup(slot, generation) else { return };
        if sent {
            // Until the answer comes, the field holds when it was asked.
            hot.pulse.rtt_us = now_us;
            self.counted.heartbeats_sent += 1;
        } else {
            hot.pulse.level = 0;
            if !steady {
                // The next one is due an interval after the last sign of life.
                hot.pulse.seen = tick;
            }
            self.arm(slot);
        }
    }

    /// The clock in microseconds, modulo 2^32.
    fn now_us(&self) -> u32 {
        (self.now_ns / 1000) as u32
    }

    /// Bytes arrived: proof of life.
    pub(crate) fn on_life(&mut self, slot: u32) {
        let tick = self.tick;
        let plan = self.limits.heartbeat;
        let now_us = self.now_us();
        let Some(hot) = self.slots.get_mut(slot) else { return };
        hot.pulse.seen = tick;
        if hot.pulse.level == 0 {
            return;
        }
        if plan.application || hot.has(Flags::STREAM) {
            hot.pulse.rtt_us = now_us.wrapping_sub(hot.pulse.rtt_us).max(1);
            let _ = self.rtt_us.record(u64::from(hot.pulse.rtt_us));
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
    pub(crate) fn on_pong(&mut self, slot: u32, payload: &[u8]) {
        let Ok(stamp) = <[u8; 8]>::try_from(payload) else { return };
        let elapsed = self.now_ns.saturating_sub(u64::from_be_bytes(stamp));
        let Some(hot) = self.slots.get_mut(slot) else { return };
        let pinged_ago = u64::from(self.tick.saturating_sub(hot.pulse.pinged) + 1);
        // A stamp from before the last silence began is not one of ours.
        if hot.pulse.pinged == 0 || elapsed == 0 || elapsed > pinged_ago * self.limits.tick_ns {
            return;
        }
        let micros = (elapsed / 1000).clamp(1, u64::from(u32::MAX));
        hot.pulse.rtt_us = micros as u32;
        let _ = self.rtt_us.record(micros);
    }

    fn release_throttled(&mut self) {
        let mut index = 0;
        while let Some((slot, generation, until)) = self.throttled.get(index).copied() {
            if until > self.tick {
                index += 1;
                continue;
            }
            // What came in the same receive behind the first excess is on the account, too.
            let live = self.slots.lookup(slot, generation).is_some();
            let owed = if live { self.owed_ticks(slot) } else { 0 };
            if owed > 0 {
                self.throttled[index].2 = self.tick + owed;
                index += 1;
                continue;
            }
            self.throttled.swap_remove(index);
            if let Some(hot) = self.slots.lookup(slot, generation) {
                hot.clear(Flags::THROTTLED);
                self.forgive_upload(slot);
                self.mark_ready(slot);
            }
        }
    }
}

/// A deadline found more ticks than this after it came was not found because of a stall.
const LATE: u32 = 2;

/// Ticks by which deadlines move then: time for a turn or several.
pub(super) const FORGIVEN: u32 = 3;

const TICK_ORIGIN_U64: u64 = super::core::TICK_ORIGIN as u64;
