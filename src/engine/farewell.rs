//! The last bytes of a connection: the application's farewell, and the close frame or the end of
//! the body.
//!
//! Owns the moment: an end is often decided while the application has the connection's state in its
//! hands, so it is asked when that callback, or the step of the engine, is over, and told of the
//! end behind that. Meanwhile the connection is [`Marks::PARTING`]. The invariant: nothing is
//! queued behind the decision but this, and nothing is released before it, unless the connection is
//! dropped, on which nothing can be said any more.

use super::core::Core;
use super::guard;
use super::handler::Handler;
use super::ring::Ring;
use super::slots::{Flags, Marks};
use super::value::{Closed, Ending, Framing};
use super::worker::Worker;
use crate::protocol::close::write_payload;
use crate::protocol::frame::{self, Opcode};
use crate::protocol::{CloseCode, Refusal, stream};

impl<R: Ring, H: Handler> Worker<R, H> {
    /// Asks the application what it says last on a connection, and queues that. A panic says
    /// nothing.
    pub(super) fn say_farewell(
        &mut self,
        slot: u32,
        generation: u32,
        closed: &Closed,
        reason: &str,
    ) {
        if !self.core.is_parting(slot, generation) {
            return;
        }
        let handler = &self.handler;
        let words = self.states.get(slot).and_then(|state| {
            let ending = Ending { cause: closed.cause, code: closed.code, reason };
            guard::ask(&mut self.core, || {
                let mut words = Vec::new();
                handler.farewell(state, &ending, &mut words);
                words
            })
        });
        self.core.queue_last(slot, closed.code, reason, &words.unwrap_or_default());
    }
}

impl Core {
    /// Nothing may be queued for a connection from now on, but what is last.
    pub(super) fn begin_farewell(&mut self, slot: u32) {
        let Some(hot) = self.slots.get_mut(slot) else { return };
        if hot.set(Flags::CLOSE_SENT) {
            return;
        }
        if !hot.is(Marks::UNANSWERED) {
            return hot.mark(Marks::PARTING);
        }
        let refusal = Refusal::Unavailable(self.config.retry_after);
        let answer = self.outgoing.write(|cork| refusal.write(cork));
        self.with_outbox(slot, |outbox| outbox.push_final(answer));
    }

    fn is_parting(&mut self, slot: u32, generation: u32) -> bool {
        self.slots.lookup(slot, generation).is_some_and(|hot| hot.is(Marks::PARTING))
    }

    /// Queues what is last on a connection: these words, and the close frame or the end of the
    /// body.
    fn queue_last(&mut self, slot: u32, code: CloseCode, reason: &str, words: &[u8]) {
        let Some(hot) = self.slots.get_mut(slot) else { return };
        hot.unmark(Marks::PARTING);
        let framing = hot.framing();
        let masked = framing == Framing::Masked;
        // In this order, as they are drawn.
        let mask = (masked && !words.is_empty()).then(|| self.mask());
        let last = masked.then(|| self.mask());
        let data = self.outgoing.write(|cork| match framing {
            Framing::Chunks => {
                stream::append_chunk(cork, words);
                cork.extend_from_slice(stream::END);
            }
            Framing::Bare => cork.extend_from_slice(words),
            Framing::Frames | Framing::Masked => {
                if !words.is_empty() {
                    frame::append(cork, Opcode::Text, words, mask);
                }
                let mut payload = [0; 125];
                let len = write_payload(&mut payload, code, reason);
                frame::append(cork, Opcode::Close, &payload[..len], last);
            }
        });
        match data.is_empty() {
            false => self.with_outbox(slot, |outbox| outbox.push_final(data)),
            // All that it waited for.
            true => self.mark_dirty(slot),
        }
    }

    /// Queues what is last on all connections whose application would be asked now, and has nothing
    /// to say. The notices stay.
    #[cfg(test)]
    pub(super) fn say_farewells(&mut self, words: &[u8]) {
        let notices: Vec<_> = std::iter::from_fn(|| self.notices.pop()).collect();
        for notice in notices {
            if let super::notices::Notice::Closed { slot, generation, closed, own } = &notice
                && self.is_parting(*slot, *generation)
            {
                self.queue_last(*slot, closed.code, own, words);
            }
            self.notices.push(notice);
        }
    }
}
