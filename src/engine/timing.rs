//! What a connection's one deadline means in each phase, and what happens when it comes.

use super::clock::{earlier, is_after, kept_young, later, since};
use super::core::{Core, Notice};
use super::handler::Cause;
use super::heartbeat::Verdict;
use super::slots::{Flags, Hot, Phase, Ping};
use crate::protocol::CloseCode;
use crate::protocol::frame::Opcode;
use crate::protocol::request::Refusal;

impl Core {
    /// Moves time to `now_ns`, so that what begins now is counted from now and not from before the
    /// wait.
    pub(crate) fn set_now(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        // Modulo 2^32: see `clock`.
        self.tick = (now_ns / self.limits.tick_ns) as u32;
    }

    /// Sets the clock for the first time.
    pub(crate) fn begin_time(&mut self, now_ns: u64) {
        self.set_now(now_ns);
        self.wheel.begin(self.tick);
        self.swept = self.tick;
    }

    /// Handles every deadline that has come by now.
    #[inline]
    pub(crate) fn on_time(&mut self, fired: &mut Vec<(u32, u32)>) {
        if self.wheel.now() != self.tick {
            self.on_tick(fired);
        }
    }

    fn on_tick(&mut self, fired: &mut Vec<(u32, u32)>) {
        let tick = self.tick;
        self.wheel.advance(&mut self.slots, tick, fired);
        // After a stall of the core or the host, deadlines and what would have met them are found
        // together. Once, what has arrived is read and written before it is judged.
        let late = fired.iter().any(|(_, due)| since(tick, *due) > LATE);
        self.forgave = late && !self.forgave;
        for (slot, due) in fired.drain(..) {
            let drift_us = self.now_ns.saturating_sub(self.ns_of(due)) / 1000;
            let _ = self.drift_us.record(drift_us.max(1));
            if self.forgave {
                self.wheel.schedule(&mut self.slots, slot, tick.wrapping_add(FORGIVEN));
            } else {
                self.on_deadline(slot);
            }
        }
        self.release_throttled();
        if since(tick, self.swept) >= SWEEP {
            self.swept = tick;
            self.sweep();
        }
    }

    /// Keeps the moments that a part of the records remembers from looking young again.
    fn sweep(&mut self) {
        let tick = self.tick;
        self.sweeping = self.slots.sweep(self.sweeping, |hot| {
            hot.active = kept_young(tick, hot.active);
            hot.pulse.seen = kept_young(tick, hot.pulse.seen);
            hot.pulse.pinged = kept_young(tick, hot.pulse.pinged);
            if let Some(outbox) = &mut hot.outbox {
                outbox.progress = kept_young(tick, outbox.progress);
            }
        });
        for watch in self.watches.values_mut() {
            watch.age(tick);
        }
    }

    /// When a tick begins.
    fn ns_of(&self, tick: u32) -> u64 {
        let ahead = i64::from(tick.wrapping_sub(self.tick) as i32);
        let count = (self.now_ns / self.limits.tick_ns).saturating_add_signed(ahead);
        count.saturating_mul(self.limits.tick_ns)
    }

    /// When the next deadline comes; `u64::MAX` if there is none.
    pub(crate) fn next_deadline_ns(&self) -> u64 {
        let soon = self.tick.wrapping_add(1);
        let due = match (self.wheel.next_due(), self.throttled.is_empty()) {
            (Some(due), true) => due,
            (Some(due), false) => earlier(due, soon),
            (None, false) => soon,
            (None, true) => return u64::MAX,
        };
        self.ns_of(due)
    }

    /// Arms the next deadline of a connection that is open or being closed.
    pub(crate) fn arm(&mut self, slot: u32) {
        let Some(hot) = self.slots.get(slot) else { return };
        let due = match hot.phase {
            Phase::Open => self.open_deadline(slot, hot),
            Phase::Closing | Phase::Flushing | Phase::Lingering => {
                Some(self.leaving_due(slot, hot))
            }
            _ => return,
        };
        match due {
            Some(due) => self.wheel.schedule(&mut self.slots, slot, due),
            None => self.wheel.cancel(&mut self.slots, slot),
        }
    }

    pub(super) fn open_deadline(&self, slot: u32, hot: &Hot) -> Option<u32> {
        let limits = &self.limits;
        let heartbeat = limits.heartbeat.enabled.then(|| limits.heartbeat.due(&hot.pulse));
        let idle = (limits.idle > 0).then(|| hot.active.wrapping_add(limits.idle + 1));
        let upload = hot.partial.as_ref().and_then(|partial| self.upload_due(partial.place));
        let due = [heartbeat, idle, self.look_due(slot, hot), upload];
        due.into_iter().flatten().reduce(earlier)
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
            Phase::Closing | Phase::Flushing | Phase::Lingering => self.on_leaving_deadline(slot),
            Phase::Passing => self.drop_connection(slot, Cause::Abrupt),
            Phase::Closed => {}
        }
    }

    fn on_open_deadline(&mut self, slot: u32) {
        let (tick, idle) = (self.tick, self.limits.idle);
        let Some(hot) = self.slots.get(slot) else { return };
        if self.look_due(slot, hot).is_some_and(|due| !is_after(due, tick)) {
            self.look(slot);
        }
        let Some(hot) = self.slots.get_mut(slot) else { return };
        let stream = hot.has(Flags::STREAM);
        if hot.has(Flags::READY) && !stream {
            // After a stall of the core or the host, answers and deadlines are found together:
            // what has arrived is read before it is judged.
            self.wheel.schedule(&mut self.slots, slot, tick.wrapping_add(1));
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
        let (tick, plan) = (self.tick, self.limits.heartbeat);
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
        if verdict == Verdict::Ping
            && let Some(watch) = self.watches.get_mut(&slot)
        {
            watch.restart();
        }
        self.act_on(slot, generation, verdict);
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
            hot.pulse.rtt_us = now_us.max(1);
            self.counted.heartbeats_sent += 1;
        } else {
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
        // Whose ping waited behind other bytes has no round trip to tell.
        if (plan.application || hot.has(Flags::STREAM)) && hot.pulse.rtt_us > 0 {
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
        let pinged_ago = u64::from(since(self.tick, hot.pulse.pinged)) + 1;
        // A stamp from before the last silence began is not one of ours.
        if hot.pulse.ping == Ping::Never
            || elapsed == 0
            || elapsed > pinged_ago * self.limits.tick_ns
        {
            return;
        }
        let micros = (elapsed / 1000).clamp(1, u64::from(u32::MAX));
        hot.pulse.rtt_us = micros as u32;
        let _ = self.rtt_us.record(micros);
    }

    fn release_throttled(&mut self) {
        let mut index = 0;
        while let Some((slot, generation, until)) = self.throttled.get(index).copied() {
            if is_after(until, self.tick) {
                index += 1;
                continue;
            }
            // What came in the same receive behind the first excess is on the account, too.
            let live = self.slots.lookup(slot, generation).is_some();
            let owed = if live { self.owed_ticks(slot) } else { 0 };
            if owed > 0 {
                self.throttled[index].2 = self.tick.wrapping_add(owed);
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

/// Ticks after which the next part of the records is swept: a million connections are swept every
/// 2^22 ticks.
const SWEEP: u32 = 1 << 12;
