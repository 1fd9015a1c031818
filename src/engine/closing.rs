//! How connections end: the close handshake from either side, the end of a stream, faults,
//! refusals, and plain drops.
//!
//! The order is always the same. The application is told once ([`Core::conclude`]), topics and
//! messages in progress go in the same step; it is asked for what it says last (`farewell`); then
//! what is queued leaves, then the descriptor is closed, and when the kernel confirms that, the
//! slot is free. Each step has a deadline.

use super::core::Core;
use super::inbound::Holding;
use super::notices::Notice;
use super::phase::Event;
use super::slots::{Flags, Marks, Phase, Ping};
use super::value::{Cause, Closed, Data, SendError};
use crate::protocol::request::Refusal;
use crate::protocol::{CloseCode, CloseFrame, Fault, HttpResponse};

impl Core {
    /// The application closes: our close frame, then the peer's (RFC 6455 section 7.1.2).
    pub(super) fn close_by_application(
        &mut self,
        slot: u32,
        generation: u32,
        code: CloseCode,
        reason: &str,
    ) -> Result<(), SendError> {
        if self.slots.lookup(slot, generation).is_none_or(|hot| hot.phase() != Phase::Open) {
            return Err(SendError::Gone);
        }
        self.begin_close(slot, Cause::Application, code, reason);
        Ok(())
    }

    /// Sends a close frame behind what is queued and waits for the peer's. A stream ends as soon as
    /// all is sent, since its client has nothing to say.
    pub(super) fn begin_close(&mut self, slot: u32, cause: Cause, code: CloseCode, reason: &str) {
        let Some(hot) = self.slots.get(slot).filter(|hot| hot.phase() == Phase::Open) else {
            return;
        };
        if hot.has(Flags::STREAM) {
            return self.fail(slot, cause, code, reason);
        }
        self.begin_farewell(slot);
        self.conclude(slot, cause, code, ("", reason));
        self.enter(slot, Event::CloseBegun);
        if self.slots.get(slot).is_some_and(|hot| hot.has(Flags::HELD)) {
            // The peer's close frame may be in the input that was left in the kernel.
            self.mark_ready(slot);
        }
    }

    /// The peer's close frame came. Not inlined: messages come by the same loop.
    #[inline(never)]
    pub(super) fn on_close_frame(&mut self, slot: u32, frame: &CloseFrame, more_input: bool) {
        let Some(hot) = self.slots.get(slot) else { return };
        match hot.phase() {
            Phase::Open => {
                // Section 5.5.1: the answer echoes the status code.
                self.begin_farewell(slot);
                self.counted.closed_clean += 1;
                self.conclude(slot, Cause::Peer, frame.code, (&frame.reason, ""));
            }
            Phase::Closing => self.counted.closed_clean += 1,
            _ => return,
        }
        self.leave(slot, more_input);
    }

    /// The peer broke a rule: the close frame that says so, then the end (section 7.1.7).
    pub(super) fn on_fault(&mut self, slot: u32, fault: Fault) {
        let cause = match fault.close_code() {
            CloseCode::INVALID_DATA => Cause::InvalidData,
            CloseCode::TOO_BIG => Cause::TooBig,
            _ => Cause::Protocol,
        };
        self.fail(slot, cause, fault.close_code(), fault.reason());
    }

    /// Ends a connection with a close frame, without waiting for the peer's: its further input is
    /// discarded.
    pub(super) fn fail(&mut self, slot: u32, cause: Cause, code: CloseCode, reason: &str) {
        let Some(hot) = self.slots.get_mut(slot) else { return };
        if !matches!(hot.phase(), Phase::Open | Phase::Closing) {
            return;
        }
        hot.set(Flags::DEAF);
        self.begin_farewell(slot);
        self.conclude(slot, cause, code, ("", reason));
        self.leave(slot, true);
    }

    /// Ends a connection that reads too slowly: what is not partly sent is dropped, so that the
    /// close frame is next.
    pub(super) fn give_up(&mut self, slot: u32, cause: Cause) {
        if let Some(hot) = self.slots.get_mut(slot) {
            self.counted.dropped_full += self.outgoing.cut(hot);
            self.outgoing.enter(slot, hot);
        }
        let (code, reason) = match cause {
            Cause::Slow => self.config.slow_close,
            _ => (CloseCode::TRY_AGAIN, "out of outbox memory"),
        };
        self.fail(slot, cause, code, reason);
        // It was too slow already: what it has begun to take may not stay for long.
        if let Some(hot) = self.slots.get_mut(slot).filter(|hot| hot.phase() == Phase::Flushing) {
            hot.pulse.ping = Ping::Left;
            self.arm(slot);
        }
    }

    /// Answers a request with an HTTP status and ends the connection.
    pub(super) fn refuse(&mut self, slot: u32, refusal: Refusal) {
        self.refuse_with(slot, refusal, false);
    }

    /// The same; without a body if the request wants none.
    pub(super) fn refuse_with(&mut self, slot: u32, refusal: Refusal, bodiless: bool) {
        let answer = self.outgoing.write(|cork| match bodiless {
            false => refusal.write(cork),
            true => refusal.write_head(cork),
        });
        self.end_with(slot, answer);
    }

    /// Ends a connection that never opened with an HTTP answer.
    pub(super) fn end_with(&mut self, slot: u32, answer: Data) {
        if self.is_greeting(slot) {
            // It could not be sealed.
            return self.end_secure(slot, Vec::new());
        }
        self.drop_head(slot);
        self.with_outbox(slot, |outbox| outbox.push_final(answer));
        if let Some(hot) = self.slots.get_mut(slot) {
            hot.set(Flags::DEAF);
        }
        self.leave(slot, true);
    }

    /// Ends a connection that stayed, behind the answers that it has.
    pub(super) fn part(&mut self, slot: u32) {
        self.drop_head(slot);
        if let Some(hot) = self.slots.get_mut(slot) {
            hot.set(Flags::DEAF);
        }
        self.leave(slot, false);
    }

    /// Answers the request of a stream that was accepted for later with something else, which is
    /// its end. A body without room is not sent, as of [`HttpAction::Respond`](super::HttpAction).
    pub(super) fn respond(
        &mut self,
        slot: u32,
        generation: u32,
        response: &HttpResponse,
    ) -> Result<(), SendError> {
        self.take_unanswered(slot, generation)?;
        let mut head = Vec::new();
        let body = response.write(&mut head, false);
        let last = match self.has_room_for(&body) {
            true => {
                self.count_answer(response.status());
                let head = self.outgoing.write(|cork| cork.extend_from_slice(&head));
                self.outgoing.note_own(body.len());
                self.with_outbox(slot, |outbox| outbox.push_head(head));
                Data::Shared(body, 0)
            }
            false => {
                self.counted.refused_application += 1;
                let refusal = Refusal::Unavailable(self.config.retry_after);
                self.outgoing.write(|cork| refusal.write(cork))
            }
        };
        self.with_outbox(slot, |outbox| outbox.push_final(last));
        if let Some(hot) = self.slots.get_mut(slot) {
            hot.set(Flags::DEAF | Flags::CLOSE_SENT);
        }
        self.conclude(slot, Cause::Application, CloseCode::ABNORMAL, ("", ""));
        self.leave(slot, true);
        Ok(())
    }

    /// Ends a connection below its messages: nothing can be said on it but the alert.
    pub(super) fn end_secure(&mut self, slot: u32, alert: Vec<u8>) {
        self.drop_head(slot);
        self.drop_passing(slot);
        let Some(hot) = self.slots.get_mut(slot) else { return };
        hot.set(Flags::DEAF);
        hot.unmark(Marks::PARTING);
        self.counted.dropped_gone += self.outgoing.keep_sealed(hot);
        self.outgoing.enter(slot, hot);
        self.outgoing.push_sealed(slot, hot, alert, &self.clock);
        self.conclude(slot, Cause::Protocol, CloseCode::ABNORMAL, ("", ""));
        self.leave(slot, true);
    }

    /// Ends a connection without a word: the peer is gone, or does not listen.
    pub(super) fn drop_connection(&mut self, slot: u32, cause: Cause) {
        let Some(hot) = self.slots.get(slot) else { return };
        match hot.phase() {
            Phase::Closed => return,
            Phase::Handshake if self.requests.keeps(slot) => {}
            Phase::Handshake | Phase::Passing => self.counted.handshake_aborts += 1,
            _ => {}
        }
        self.blame_dial(
            slot,
            match cause {
                Cause::Abrupt => "the server closed the connection before it answered",
                Cause::Drain => "given up, because this side goes away",
                _ => "the connection broke before the server answered",
            },
        );
        self.conclude(slot, cause, CloseCode::ABNORMAL, ("", ""));
        self.release(slot);
    }

    /// Tells the application, once, and takes everything from the connection that belongs to an
    /// open one. `reasons`: the peer's and this side's.
    fn conclude(&mut self, slot: u32, cause: Cause, code: CloseCode, reasons: (&str, &str)) {
        self.free_seat(slot);
        let Some(hot) = self.slots.get_mut(slot) else { return };
        self.fanout.unsubscribe_all(hot);
        if !self.census.leave(hot) {
            return;
        }
        self.compressor.leave(hot);
        let generation = hot.generation;
        let own = if hot.is(Marks::PARTING) { reasons.1.into() } else { Box::default() };
        self.count_closed(cause);
        let closed = Closed { cause, code, reason: reasons.0.to_owned() };
        self.notices.push(Notice::Closed { slot, generation, closed, own });
    }

    fn count_closed(&mut self, cause: Cause) {
        let c = &mut self.counted;
        c.closed += 1;
        let counter = match cause {
            Cause::Peer => return,
            Cause::Abrupt => &mut c.closed_abrupt,
            Cause::Broken => &mut c.closed_error,
            Cause::Unacknowledged => &mut c.closed_unacknowledged,
            Cause::Protocol => &mut c.closed_protocol,
            Cause::InvalidData => &mut c.closed_invalid_data,
            Cause::TooBig => &mut c.closed_too_big,
            Cause::Rate => &mut c.closed_rate,
            Cause::InboundFull => &mut c.closed_inbound_full,
            Cause::SlowUpload => &mut c.closed_slow_upload,
            Cause::Slow => &mut c.closed_slow,
            Cause::OutboxFull => &mut c.closed_outbox_full,
            Cause::WriteTimeout => &mut c.closed_write_timeout,
            Cause::Trickle => &mut c.closed_trickle,
            Cause::Idle => &mut c.closed_idle,
            Cause::Heartbeat => &mut c.closed_heartbeat,
            Cause::Panic => &mut c.closed_panic,
            Cause::Application => &mut c.closed_application,
            Cause::Drain => &mut c.closed_drain,
        };
        *counter += 1;
    }

    /// Nothing more is awaited from the peer: send what is queued, then end.
    fn leave(&mut self, slot: u32, linger: bool) {
        let Some(hot) = self.slots.get_mut(slot) else { return };
        // A client leaves closing the connection to the server (section 7.1.1).
        if linger || hot.has(Flags::CLIENT) {
            // Closing a socket with unread input resets it, and a reset overtakes the close frame.
            hot.set(Flags::LINGER);
        }
        let secure = hot.has(Flags::TLS);
        self.free_seat(slot);
        self.drop_partial(slot);
        if secure {
            // For close_notify, where nothing else is to be sent.
            self.with_outbox(slot, |_| {});
        }
        self.enter(slot, Event::Left);
        self.mark_dirty(slot);
    }

    /// Called by the flush when a leaving connection has nothing left to send.
    pub(super) fn flushed(&mut self, slot: u32) {
        let Some(hot) = self.slots.get_mut(slot) else { return };
        if hot.phase() != Phase::Flushing || hot.is(Marks::PARTING) {
            return;
        }
        if !hot.clear(Flags::LINGER) {
            self.release(slot);
            return;
        }
        if !hot.has(Flags::CLIENT) {
            self.work.shut_down(slot, hot);
        }
        self.enter(slot, Event::Emptied);
        self.mark_ready(slot);
    }

    /// Takes all that is left from a connection and marks its descriptor for closing.
    pub(super) fn release(&mut self, slot: u32) {
        self.free_seat(slot);
        self.drop_partial(slot);
        self.unwatch(slot);
        if let Some(hot) = self.slots.get_mut(slot) {
            self.counted.dropped_gone += self.outgoing.cut(hot);
            self.outgoing.retire(slot, hot);
            hot.unmark(Marks::PARTING);
        }
        self.drop_head(slot);
        self.drop_passing(slot);
        let Some(hot) = self.slots.get_mut(slot) else { return };
        self.census.drop_surplus(hot);
        self.adopted.forget(slot);
        if hot.has(Flags::TLS) {
            self.secure.forget(slot, &mut self.inbound);
        }
        self.enter(slot, Event::Released);
        if let Some(hot) = self.slots.get(slot) {
            self.work.close_when_detached(slot, hot);
        }
    }

    /// Forgets a message in progress, and what was received behind it.
    pub(super) fn drop_partial(&mut self, slot: u32) {
        if let Some(partial) = self.slots.get_mut(slot).and_then(|hot| hot.partial.take()) {
            self.inbound.clear(Holding(partial.place));
        }
        self.leftovers.drop_of(slot, &mut self.inbound);
        if self.slots.get(slot).is_some_and(|hot| hot.has(Flags::TLS)) {
            self.secure.drop_unfinished(slot, &mut self.inbound);
        }
    }
}

#[cfg(test)]
#[path = "closing_tests.rs"]
mod tests;
