//! How fast a message must come once it has begun, so that nobody holds its memory for ever by
//! answering pings.
//!
//! Owns that deadline; what is paid for it is kept with the memory, in `inbound`. A message may
//! rest for [`Config::upload_grace`](super::Config::upload_grace), and each byte of it prolongs
//! that by what it may take at [`Config::min_upload_rate`](super::Config::min_upload_rate); no
//! message is ever further ahead than the grace. Control frames and empty fragments are no
//! progress.
//!
//! The same holds for a record of TLS, whose bytes cannot be looked at before it is whole: a
//! message is not judged while a record is on its way that began in the message's time.

use super::clock::{earlier, is_after};
use super::core::Core;
use super::inbound::Holding;
use super::slots::{Flags, Hot, Phase};

impl Core {
    /// The tick at which the message accounted at `place` has come too slowly.
    pub(super) fn upload_due(&self, place: u32) -> Option<u32> {
        if self.limits.upload_grace_ns == 0 || Holding(place).is_empty() {
            return None;
        }
        let ticks = self.inbound.paid_ns(Holding(place)) / self.limits.tick_ns;
        // Modulo 2^32, as the core's tick.
        Some((ticks as u32).wrapping_add(2))
    }

    /// The tick at which what is in progress on a connection has come too slowly: a record of TLS,
    /// or a message.
    pub(super) fn progress_due(&self, slot: u32, hot: &Hot) -> Option<u32> {
        let message = hot.partial.as_ref().and_then(|partial| self.upload_due(partial.place));
        let record = match hot.has(Flags::TLS) {
            true => self.secure.partial(slot),
            false => None,
        };
        let Some((place, since_ns)) = record else { return message };
        let record = self.upload_due(place.0);
        let since = (since_ns / self.limits.tick_ns) as u32;
        match (message, record) {
            (Some(message), Some(record)) if is_after(since, message) => {
                Some(earlier(message, record))
            }
            (message, record) => record.or(message),
        }
    }

    /// Arms the deadline of a record that has just begun, if none is armed before it. With the end
    /// of one that was there in part, that of the message before it holds again.
    pub(super) fn watch_record(&mut self, slot: u32, was_partial: bool) {
        if was_partial || self.secure.partial(slot).is_some() {
            self.watch_upload(slot);
        }
    }

    /// Arms the deadline of a message that has just begun, if none is armed before it. What comes
    /// of the message only moves it away.
    pub(super) fn watch_upload(&mut self, slot: u32) {
        let Some(hot) = self.slots.get(slot).filter(|hot| hot.phase() == Phase::Open) else {
            return;
        };
        let due = self.progress_due(slot, hot);
        if due.is_some_and(|due| hot.timer.due().is_none_or(|armed| is_after(armed, due))) {
            self.arm(slot);
        }
    }

    /// Whether a message in progress has come too slowly. Not its sender's fault is what was not
    /// read; what has arrived is read before it is judged.
    pub(super) fn is_upload_slow(&mut self, slot: u32) -> bool {
        let Some(hot) = self.slots.get(slot) else { return false };
        let Some(due) = self.progress_due(slot, hot) else { return false };
        if is_after(due, self.clock.tick()) {
            return false;
        }
        if hot.has(Flags::HELD | Flags::READY) {
            self.forgive_upload(slot);
            return false;
        }
        true
    }

    /// A message in progress gets its grace anew: this side did not read.
    pub(super) fn forgive_upload(&mut self, slot: u32) {
        let limit_ns = self.clock.now_ns() + self.limits.upload_grace_ns;
        if let Some(partial) = self.slots.get(slot).and_then(|hot| hot.partial.as_ref()) {
            self.inbound.pay(Holding(partial.place), u64::MAX, limit_ns);
        }
        if let Some((place, _)) = self.secure.partial(slot) {
            self.inbound.pay(place, u64::MAX, limit_ns);
        }
    }
}
