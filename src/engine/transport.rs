//! The ladder that what was received climbs: PROXY header, TLS, HTTP, frames.
//!
//! Owns the order of these steps, and nothing else. Each takes what is its own off the front and
//! leaves the rest, which lies in the receive arena all the way up.

use std::ops::Range;

use super::handler::Handler;
use super::ring::Ring;
use super::secure::{End, Plaintext};
use super::slots::{Flags, Hot, Phase};
use super::worker::Worker;

/// Who reads what was received, above the PROXY header.
enum Step {
    /// The answer to the request of this side.
    Response,
    /// A request.
    Request,
    /// Frames, also those that cross our close frame.
    Frames,
    /// Nobody: what still comes is discarded.
    Nobody,
}

impl Step {
    #[inline]
    fn of(hot: &Hot) -> Self {
        match hot.phase() {
            // The request was all that a stream's client had to say.
            Phase::Open if hot.has(Flags::STREAM) => Self::Nobody,
            Phase::Open | Phase::Closing => Self::Frames,
            Phase::Handshake if hot.has(Flags::CLIENT) => Self::Response,
            Phase::Handshake => Self::Request,
            _ => Self::Nobody,
        }
    }
}

impl<R: Ring, H: Handler> Worker<R, H> {
    /// Passes a received part of the arena upwards, step by step. `again` says that more may have
    /// come behind it.
    pub(super) fn climb(&mut self, slot: u32, generation: u32, range: Range<usize>, again: bool) {
        let Some(mut hot) = self.core.slots.get(slot) else { return };
        let mut range = range;
        // Before anything else, in the clear: who the client is.
        if hot.phase() == Phase::Handshake && !hot.has(Flags::CLIENT | Flags::GREETED) {
            match self.after_proxy_header(slot, range) {
                Some(rest) => range = rest,
                None => return,
            }
            let Some(greeted) = self.core.slots.get(slot) else { return };
            hot = greeted;
        }
        if hot.has(Flags::TLS) {
            return self.climb_secure(slot, generation, range, again);
        }
        self.take(Step::of(hot), slot, generation, range, again);
    }

    /// Records of TLS become what they carry, where they lie.
    #[inline(never)]
    fn climb_secure(&mut self, slot: u32, generation: u32, range: Range<usize>, again: bool) {
        if !self.core.slots.get(slot).is_some_and(listens) {
            return;
        }
        let Plaintext { range, end, .. } = self.open_records(slot, range);
        let hot = self.core.slots.get(slot).filter(|_| !range.is_empty());
        if let Some(step) = hot.map(Step::of) {
            self.take(step, slot, generation, range, again);
        }
        if let Some(end) = end.and_then(|end| self.core.end_now(slot, end)) {
            self.on_secure_end(slot, generation, end);
        }
    }

    /// The record layer's end of a connection, behind all that came before.
    pub(super) fn on_secure_end(&mut self, slot: u32, generation: u32, end: End) {
        let Some(hot) = self.core.slots.lookup(slot, generation) else { return };
        let listens = listens(hot);
        // Who takes a connection over could not tell the peer of a fault behind its request: the
        // record layer tells of each once.
        let tells = listens || hot.phase() == Phase::Passing;
        match end {
            End::Closed if listens => self.on_end(slot),
            End::Fault(fault) if tells => {
                self.fail_dial(slot, &fault.to_string());
                self.core.on_secure_fault(slot, &fault);
            }
            _ => {}
        }
    }

    #[inline(always)]
    fn take(&mut self, step: Step, slot: u32, generation: u32, range: Range<usize>, again: bool) {
        match step {
            Step::Response => self.on_response(slot, range),
            Step::Request => {
                let done = self.on_request(slot, generation, range.clone());
                if done < range.len() {
                    self.core.leave_over(slot, &self.arena.bytes[range.start + done..range.end]);
                }
            }
            Step::Frames => self.read(slot, generation, range, again),
            Step::Nobody => {}
        }
    }
}

/// Whether somebody reads what was received of a connection.
fn listens(hot: &Hot) -> bool {
    matches!(hot.phase(), Phase::Handshake | Phase::Open | Phase::Closing)
}
