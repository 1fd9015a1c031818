//! Connections of plain HTTP that stay: for another request, or for an answer that comes later.
//!
//! Owns who stays and whose answer is awaited. Never parses a request. The invariant: a connection
//! that stays is in [`Phase::Handshake`], since none of its requests has opened anything; while an
//! answer is awaited, or one before it has not left, nothing is read of it, and what was received
//! behind its request waits in `leftovers`. So what it can make a core hold is one receive and the
//! answers to [`REQUESTS_AT_ONCE`] requests.

use std::collections::HashMap;

use bytes::Bytes;

use super::config::Via;
use super::core::Core;
use super::opening::Asked;
use super::queueing::CORK_MAX;
use super::slots::{Flags, Hot, Phase};
use super::value::{Cause, ConnId, Data, SendError};
use crate::protocol::HttpResponse;
use crate::protocol::request::{Refusal, Request};

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Requests {
    kept: HashMap<u32, Kept>,
    /// No answer keeps its connection any more.
    ending: bool,
    /// The connection whose request the application decides about.
    asking: Option<ConnId>,
}

/// A connection that stays.
#[derive(Clone, Copy, Debug)]
struct Kept {
    /// Which way its requests come.
    via: Via,
    awaits: Option<Awaits>,
}

/// A request whose answer the application owes.
#[derive(Clone, Copy, Debug)]
struct Awaits {
    /// The answer is the last thing on the connection.
    last: bool,
    bodiless: bool,
}

impl Requests {
    /// How many connections stay.
    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether a connection stays.
    #[inline]
    pub(super) fn keeps(&self, slot: u32) -> bool {
        !self.kept.is_empty() && self.kept.contains_key(&slot)
    }

    /// Which way the requests of a connection come that stays.
    #[inline]
    pub(super) fn via(&self, slot: u32) -> Option<Via> {
        if self.kept.is_empty() {
            return None;
        }
        self.kept.get(&slot).map(|kept| kept.via)
    }

    /// Whether the application owes a connection an answer.
    pub(super) fn awaits(&self, slot: u32) -> bool {
        self.kept.get(&slot).is_some_and(|kept| kept.awaits.is_some())
    }

    /// A connection stays no longer.
    #[inline]
    pub(super) fn forget(&mut self, slot: u32) {
        if !self.kept.is_empty() {
            self.kept.remove(&slot);
        }
    }

    /// Answers are the last thing on their connections from now on.
    pub(super) fn end(&mut self) {
        self.ending = true;
    }

    /// The connection whose request the application is asked about.
    pub(super) fn asking(&self) -> Option<ConnId> {
        self.asking
    }

    pub(super) fn ask(&mut self, about: Option<ConnId>) {
        self.asking = about;
    }

    pub(super) fn shrink(&mut self) {
        self.kept.shrink_to_fit();
    }
}

impl Core {
    /// Where a request ends in what was received, if another one may follow it: all of it has come,
    /// its client goes on, and there is room for one more that stays.
    pub(super) fn end_to_go_on(&mut self, asked: &Asked<'_>) -> Option<usize> {
        let Asked { request, bytes, len, .. } = asked;
        let size = usize::try_from(request.body_len().ok()?).ok()?;
        let end = len.checked_add(size).filter(|end| *end <= bytes.len())?;
        if self.requests.ending || !request.goes_on() || request.check_plain().is_err() {
            return None;
        }
        let room = self.requests.len() < self.config.max_kept as usize;
        if !room && !self.requests.keeps(asked.slot) {
            self.counted.kept_refused += 1;
            return None;
        }
        Some(end)
    }

    /// Sends an answer whose head is written, and waits for the next request.
    pub(super) fn answer_and_stay(&mut self, slot: u32, via: Via, status: u16, body: Bytes) {
        if !self.has_room_for(&body) {
            self.counted.refused_application += 1;
            return self.refuse(slot, Refusal::Unavailable(self.config.retry_after));
        }
        self.count_answer(status);
        let short = body.len() < CORK_MAX;
        let answer = self.handshakes.answer();
        let head = self.outgoing.write(|cork| {
            cork.extend_from_slice(answer);
            cork.extend_from_slice(if short { &body } else { b"" });
        });
        self.with_outbox(slot, |outbox| outbox.push_head(head));
        if !short {
            self.outgoing.note_own(body.len());
            self.with_outbox(slot, |outbox| outbox.push_head(Data::Shared(body, 0)));
        }
        self.requests.kept.insert(slot, Kept { via, awaits: None });
        self.await_request(slot);
    }

    /// The answer to a request comes later: nothing is read until then.
    pub(super) fn await_answer(&mut self, slot: u32, via: Via, last: bool, bodiless: bool) {
        self.requests.kept.insert(slot, Kept { via, awaits: Some(Awaits { last, bodiless }) });
        let due = self.clock.after(self.limits.answer + 1);
        self.timing.schedule(&mut self.slots, slot, due);
        if let Some(hot) = self.slots.get_mut(slot) {
            hot.set(Flags::AWAITED);
        }
    }

    /// The application answers a request that it owes an answer.
    pub(super) fn answer_later(
        &mut self,
        slot: u32,
        generation: u32,
        response: &HttpResponse,
    ) -> Result<(), SendError> {
        let here = self.slots.lookup(slot, generation);
        here.filter(|hot| hot.phase() == Phase::Handshake).ok_or(SendError::Gone)?;
        let kept = self.requests.kept.get_mut(&slot).ok_or(SendError::Gone)?;
        let Awaits { last, bodiless } = kept.awaits.take().ok_or(SendError::Gone)?;
        let via = kept.via;
        if let Some(hot) = self.slots.get_mut(slot) {
            hot.clear(Flags::AWAITED);
        }
        let last = last || self.requests.ending;
        let body = self.handshakes.write(response, bodiless, last);
        if last {
            self.answer(slot, response.status(), body);
            return Ok(());
        }
        self.answer_and_stay(slot, via, response.status(), body);
        // Something may have come behind the request.
        self.mark_ready(slot);
        Ok(())
    }

    /// The next request has so much time to begin.
    fn await_request(&mut self, slot: u32) {
        let due = self.clock.after(self.limits.keep_alive + 1);
        self.timing.schedule(&mut self.slots, slot, due);
    }

    /// The next request of a connection that stays has begun: it has as much time as the first one
    /// had.
    pub(super) fn on_request_begun(&mut self, slot: u32) {
        if self.requests.keeps(slot) {
            let due = self.clock.after(self.limits.handshake + 1);
            self.timing.schedule(&mut self.slots, slot, due);
        }
    }

    /// Whether the next request of a connection may be looked at. If answers before it have not
    /// left, it is read on when they have.
    #[inline]
    pub(super) fn takes_request(&mut self, slot: u32) -> bool {
        if !self.requests.keeps(slot) {
            return true;
        }
        let Some(hot) = self.slots.get_mut(slot) else { return false };
        if hot.outbox.is_some() && !hot.has(Flags::HELD) {
            hot.set(Flags::PAUSED);
            self.counted.read_pauses += 1;
        }
        !hot.has(Flags::HELD)
    }

    /// Whether a connection goes on with what it has sent behind a request.
    #[inline]
    pub(super) fn goes_on(&mut self, slot: u32, generation: u32) -> bool {
        self.slots
            .lookup(slot, generation)
            .is_some_and(|hot| hot.phase() == Phase::Handshake && !hot.has(Flags::HELD))
    }

    /// Learns the client of the next request: a proxy's connection may carry another client's.
    pub(super) fn learn_next_client(&mut self, slot: u32, request: &Request<'_>) {
        let Some(via) = self.requests.via(slot).filter(|via| via.forwards) else { return };
        if self.adopted.of(slot).is_some() {
            return;
        }
        self.follow_client(slot, via, request);
    }

    /// The deadline of a connection that stays has come.
    pub(super) fn on_late(&mut self, slot: u32) {
        if self.requests.awaits(slot) {
            self.counted.answers_late += 1;
            return self.refuse(slot, Refusal::Unavailable(self.config.retry_after));
        }
        let Some(hot) = self.slots.get(slot) else { return };
        if hot.has(Flags::READY) && !hot.has(Flags::HELD) {
            // After a stall: what has arrived is read before it is judged.
            let soon = self.clock.after(1);
            return self.timing.schedule(&mut self.slots, slot, soon);
        }
        if hot.outbox.is_some() {
            // It does not take its answers.
            self.counted.kept_late += 1;
            return self.drop_connection(slot, Cause::WriteTimeout);
        }
        if self.is_idle(slot) {
            self.counted.kept_late += 1;
            return self.part(slot);
        }
        self.counted.handshake_timeouts += 1;
        self.refuse(slot, Refusal::Timeout);
    }

    /// Whether a connection that stays has nothing to say, and nothing to hear.
    pub(super) fn is_idle(&self, slot: u32) -> bool {
        let quiet = |hot: &Hot| !hot.has(Flags::READY | Flags::HELD) && hot.outbox.is_none();
        self.requests.keeps(slot)
            && self.slots.get(slot).is_some_and(quiet)
            && self.handshakes.held(slot).is_none()
            && self.leftovers.len(slot) == 0
    }
}

/// Requests of one connection that are worked off in one turn; the others wait for the next one.
pub(super) const REQUESTS_AT_ONCE: usize = 16;
