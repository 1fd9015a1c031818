//! From readable connections to messages.
//!
//! Who is ready waits in `inbox`. Each turn receives once from everyone who became readable and
//! from a few of those who left input behind, and a receive is sized so that it brings few
//! messages: a flood costs its sender time, not its neighbours. All is received into one arena,
//! which stays in the cache; only what a message still misses at the end of its receive makes it
//! move.

use std::io;
use std::ops::Range;

use super::clock::since;
use super::conn::{Body, Message};
use super::core::Core;
use super::counters::Counters;
use super::guard;
use super::handler::Handler;
use super::inbound::Holding;
use super::inbox::{APPETITE_STEPS, BATCH_BYTES, Chosen, Timing, receive_size};
use super::limits::Allowance;
use super::ring::{Recv, Ring};
use super::slots::{Flags, Hot, Phase};
use super::sys;
use super::value::Cause;
use super::worker::Worker;
use crate::protocol::frame::Opcode;
use crate::protocol::request::Refusal;
use crate::protocol::{Arrival, CloseCode, Event, Kind, Payload};

/// Receive memory of one core: one buffer, cut anew for each batch.
pub(super) struct Arena {
    pub(super) bytes: Vec<u8>,
    batch: Vec<Recv>,
}

impl Default for Arena {
    fn default() -> Self {
        let mut bytes = vec![0; ARENA];
        // Not resident until it is received into, also where the allocator has had this memory
        // before and has just zeroed it by hand.
        sys::discard(&mut bytes);
        Self { bytes, batch: Vec::new() }
    }
}

impl Arena {
    pub(super) fn shrink(&mut self) {
        self.batch.shrink_to_fit();
    }
}

/// Where the payload of a message lies.
enum Source<'a> {
    /// As it came, in the arena behind this byte or assembled.
    Frames(Payload, usize),
    /// Where it was inflated to.
    Inflated(&'a [u8]),
}

/// The measurement of a batch.
struct Watch {
    timing: Timing,
    /// When the one before was done.
    last: u64,
}

impl<R: Ring, H: Handler> Worker<R, H> {
    /// Receives once from as many ready connections as the arena has room for.
    pub(super) fn receive(&mut self) -> io::Result<()> {
        if self.core.inbox.is_empty() {
            return Ok(());
        }
        let Arena { bytes, batch } = &mut self.arena;
        let Core { inbox, slots, secure, leftovers, compressor, .. } = &mut self.core;
        let chosen = inbox.choose(slots, secure, leftovers, batch);
        compressor.begin_turn();
        self.reclaim.note_turn(chosen.bytes);
        self.ring.recv(bytes, batch)?;
        self.work_off(chosen);
        for at in chosen.messages..self.arena.batch.len() {
            self.on_received(self.arena.batch[at]);
            self.deliver_notices();
        }
        self.arena.batch.clear();
        Ok(())
    }

    /// Acts on what was chosen but for handshakes, and finds out whose input takes long if the
    /// others have to wait for it.
    fn work_off(&mut self, chosen: Chosen) {
        let Chosen { early, messages, .. } = chosen;
        let resumed = self.core.inbox.resumed().len();
        let timing = self.core.inbox.timing(messages + resumed);
        let began = if timing == Timing::None { 0 } else { self.ring.now() };
        let mut watch = Watch { timing, last: began };
        for at in 0..early {
            self.work_off_one(&mut watch, self.core.inbox.resumed()[at], Self::resume);
        }
        for at in 0..messages {
            self.work_off_one(&mut watch, self.arena.batch[at], Self::on_received);
        }
        for at in early..resumed {
            self.work_off_one(&mut watch, self.core.inbox.resumed()[at], Self::resume);
        }
        if timing == Timing::Whole {
            watch.last = self.ring.now();
        }
        self.core.inbox.note_time(watch.last - began);
    }

    #[inline]
    fn work_off_one(&mut self, watch: &mut Watch, one: Recv, act: impl Fn(&mut Self, Recv)) {
        act(self, one);
        self.deliver_notices();
        if watch.timing == Timing::Each {
            let now = self.ring.now();
            self.core.weigh(&one, now - watch.last);
            watch.last = now;
        }
    }

    fn on_received(&mut self, received: Recv) {
        let Recv { slot, generation, result, .. } = received;
        let core = &mut self.core;
        core.counted.receives += 1;
        match result {
            Ok(count) if count > 0 => self.on_input(received, count as usize),
            outcome => {
                let Some(hot) = core.slots.lookup(slot, generation) else { return };
                match outcome {
                    Ok(_) => self.on_end(slot),
                    Err(error) if error.would_block() => {
                        core.counted.receives_empty += 1;
                        core.work.await_input(slot, hot);
                    }
                    Err(error) if error.is_transient() => core.mark_eager(slot),
                    Err(error) => core.drop_connection(slot, Cause::of_error(error)),
                }
            }
        }
    }

    /// Something was received. What is done for one message looks its connection up here, for the
    /// application's callback, and behind that.
    fn on_input(&mut self, received: Recv, count: usize) {
        let Recv { slot, generation, .. } = received;
        let core = &mut self.core;
        // Before the moment of the last input moves.
        let allowance = core.charge(slot, generation, count);
        let Some(hot) = core.slots.lookup(slot, generation) else { return };
        core.counted.bytes_in += count as u64;
        let tick = core.clock.tick();
        hot.pace.note_input(since(tick, hot.pulse.seen) <= core.limits.lively);
        if hot.has(Flags::DEFLATE) {
            core.compressor.begin_portion(hot);
        }
        // The error behind the last byte was announced together with it.
        let full = count == received.room as usize;
        let again = received.more || full || hot.has(Flags::BROKEN);
        let before = progress(&core.counted, hot);
        if !hot.has(Flags::STREAM) {
            hot.pulse.seen = tick;
            if hot.pulse.level > 0 {
                core.on_answer(slot);
            }
        }
        let start = received.range().start;
        self.climb(slot, generation, start..start + count, again);
        let core = &mut self.core;
        let Some(hot) = core.slots.lookup(slot, generation) else { return };
        let frames = frames_between(before, progress(&core.counted, hot), count);
        adapt_appetite(hot, count, received.room as usize, frames);
        let hot = match allowance {
            Allowance::Granted => hot,
            _ => {
                core.hold_back(slot, generation, allowance);
                let Some(held) = core.slots.lookup(slot, generation) else { return };
                held
            }
        };
        // What comes next is to be received, too.
        match again {
            _ if core.leftovers.len(slot) > 0 => core.mark_ready(slot),
            true => core.mark_eager(slot),
            false => core.work.await_input(slot, hot),
        }
    }

    pub(super) fn on_end(&mut self, slot: u32) {
        let Some(hot) = self.core.slots.get(slot) else { return };
        if self.core.requests.keeps(slot) {
            // It has nothing more to ask, and may still hear its answers.
            return self.core.part(slot);
        }
        let cause = match hot.phase() {
            // There is no other way for its client to say goodbye.
            Phase::Open if hot.has(Flags::STREAM) => {
                self.core.counted.closed_clean += 1;
                Cause::Peer
            }
            // The client's half of section 7.1.1: the server closed first.
            Phase::Lingering | Phase::Closing => Cause::Application,
            _ => Cause::Abrupt,
        };
        if hot.has(Flags::TLS) {
            self.core.count_truncation(slot);
        }
        self.core.drop_connection(slot, cause);
    }

    /// Decodes every event in a piece of the arena that was just received; what takes too long is
    /// left for a later turn.
    #[inline]
    pub(super) fn read(&mut self, slot: u32, generation: u32, range: Range<usize>, again: bool) {
        let done = self.decode(slot, generation, range.clone(), again);
        if done < range.len() {
            self.core.leave_over(slot, &self.arena.bytes[range.start + done..range.end]);
        }
    }

    /// Decodes events in a piece of the arena, as many as the connection's portion of this turn
    /// allows. Returns how much of it that is.
    #[inline]
    pub(super) fn decode(
        &mut self,
        slot: u32,
        generation: u32,
        range: Range<usize>,
        again: bool,
    ) -> usize {
        let mut at = 0;
        loop {
            let core = &mut self.core;
            let Some(hot) = core.slots.get_mut(slot) else { return range.len() };
            if !matches!(hot.phase(), Phase::Open | Phase::Closing) || hot.has(Flags::DEAF) {
                return range.len();
            }
            if core.compressor.is_spent(hot) {
                break;
            }
            let decoder = if hot.has(Flags::CLIENT) { &core.client } else { &core.server };
            let input = &mut self.arena.bytes[range.clone()];
            // The account is right at every event: what follows from one may end the message.
            let before = hot.partial.as_ref().map(|partial| (partial.place, partial.filled()));
            let deflates = hot.has(Flags::DEFLATE);
            let outcome = decoder.decode_either(deflates, &mut hot.partial, input, &mut at);
            let open = hot.phase() == Phase::Open;
            if open && outcome.as_ref().is_ok_and(|it| it.as_ref().is_some_and(Arrival::is_message))
            {
                hot.active = core.clock.tick();
            }
            if before.is_some() || hot.partial.is_some() {
                core.account_partial(slot, before);
            }
            match outcome {
                Ok(None) => break,
                Ok(Some(event)) => {
                    self.core.counted.events_in += 1;
                    let more_input = again || at < range.len();
                    // Messages that crossed our close frame are discarded (section 7.1.6).
                    if open || !event.is_message() {
                        self.on_arrival(slot, generation, event, range.start, more_input);
                    }
                    if at == range.len() {
                        break;
                    }
                }
                Err(fault) => {
                    self.core.on_fault(slot, fault);
                    at = range.len();
                    break;
                }
            }
        }
        self.core.enforce_inbound();
        at
    }

    #[inline(always)]
    fn on_arrival(
        &mut self,
        slot: u32,
        generation: u32,
        arrival: Arrival,
        base: usize,
        more_input: bool,
    ) {
        let event = match arrival {
            Arrival::Event(event) => event,
            Arrival::Deflated(kind, payload) => {
                return self.on_deflated(slot, generation, kind, &payload, base);
            }
        };
        match event {
            Event::Message(kind, payload) => {
                self.on_message(slot, generation, kind, Source::Frames(payload, base));
            }
            Event::Ping(payload) => {
                let mut copy = [0; 125];
                let len = self.copy_control(&payload, base, &mut copy);
                self.core.on_ping(slot, generation, &copy[..len]);
            }
            Event::Pong(payload) => {
                let mut copy = [0; 125];
                let len = self.copy_control(&payload, base, &mut copy);
                self.core.on_pong(slot, &copy[..len]);
            }
            Event::Close(frame) => self.core.on_close_frame(slot, &frame, more_input),
        }
    }

    fn copy_control(&self, payload: &Payload, base: usize, out: &mut [u8; 125]) -> usize {
        let bytes = match payload {
            Payload::Inline(range) => &self.arena.bytes[base + range.start..base + range.end],
            Payload::Assembled(bytes) => bytes,
        };
        let len = bytes.len().min(out.len());
        out[..len].copy_from_slice(&bytes[..len]);
        len
    }

    /// A compressed message: what it is inflated to counts, where memory and time are bounded.
    #[inline(never)]
    fn on_deflated(
        &mut self,
        slot: u32,
        generation: u32,
        kind: Kind,
        payload: &Payload,
        base: usize,
    ) {
        let core = &mut self.core;
        let payload = match payload {
            Payload::Inline(range) => &self.arena.bytes[base + range.start..base + range.end],
            Payload::Assembled(bytes) => bytes,
        };
        let mut inflater = core.take_inflater();
        match core.inflate(&mut inflater, kind, payload) {
            Ok(message) => {
                let more = message.len().saturating_sub(payload.len());
                let allowance = core.charge(slot, generation, more);
                self.on_message(slot, generation, kind, Source::Inflated(message));
                if allowance != Allowance::Granted {
                    self.core.hold_back(slot, generation, allowance);
                }
            }
            Err(fault) => core.on_fault(slot, fault),
        }
        self.core.put_inflater(inflater);
    }

    #[inline(always)]
    fn on_message(&mut self, slot: u32, generation: u32, kind: Kind, source: Source<'_>) {
        let core = &mut self.core;
        core.counted.messages_in += 1;
        let len = match &source {
            Source::Frames(Payload::Inline(range), _) => range.len(),
            Source::Frames(Payload::Assembled(bytes), _) => bytes.len(),
            Source::Inflated(bytes) => bytes.len(),
        };
        core.counted.payload_in += len as u64;
        let allowance = core.spend_message(slot);
        if allowance == Allowance::Exceeded {
            core.fail(slot, Cause::Rate, CloseCode::POLICY, "too many messages");
            return;
        }
        let Some(state) = self.states.get_mut(slot) else { return };
        let body = match source {
            Source::Frames(Payload::Inline(range), base) => {
                let range = base + range.start..base + range.end;
                Body::Arena(&mut self.arena.bytes, range)
            }
            Source::Frames(Payload::Assembled(bytes), _) => Body::Owned(bytes),
            Source::Inflated(bytes) => Body::Inflated(bytes),
        };
        let message = Message::new(kind, body);
        let handler = &mut self.handler;
        guard::call_for(&mut self.core, slot, generation, |conn| {
            handler.on_message(conn, state, message);
        });
        if allowance != Allowance::Granted {
            self.core.hold_back(slot, generation, allowance);
        }
        self.deliver_notices();
        self.relieve();
    }
}

impl Core {
    #[cold]
    fn weigh(&mut self, received: &Recv, ns: u64) {
        let Some(hot) = self.slots.lookup(received.slot, received.generation) else { return };
        self.counted.reads_costly += u64::from(self.inbox.weigh(hot, ns));
    }

    /// The application wants no more input of a connection for now. A stream's client has none, but
    /// its end must be heard.
    pub(super) fn hold(&mut self, slot: u32, generation: u32) {
        let Some(hot) = self.slots.lookup(slot, generation) else { return };
        if hot.phase() == Phase::Open && !hot.has(Flags::STREAM) && !hot.set(Flags::AWAITED) {
            self.counted.read_pauses += 1;
        }
    }

    /// The application wants input again.
    pub(super) fn resume(&mut self, slot: u32, generation: u32) {
        let Some(hot) = self.slots.lookup(slot, generation) else { return };
        if hot.clear(Flags::AWAITED) {
            // Something may have come that nobody looked at.
            self.mark_ready(slot);
        }
    }

    fn on_ping(&mut self, slot: u32, generation: u32, payload: &[u8]) {
        self.counted.pings_in += 1;
        // An answer is work, too.
        let allowance = self.spend_message(slot);
        if allowance == Allowance::Exceeded {
            return self.fail(slot, Cause::Rate, CloseCode::POLICY, "too many pings");
        }
        self.hold_back(slot, generation, allowance);
        // Nothing follows our close frame, so a ping that crossed it stays unanswered.
        let _ = self.queue_control(slot, generation, Opcode::Pong, payload);
    }

    /// Enters what a message in progress holds now, and how far it came; `before` is where it was
    /// entered, and how much of it there was.
    #[inline(never)]
    fn account_partial(&mut self, slot: u32, before: Option<(u32, usize)>) {
        let limit_ns = self.clock.now_ns() + self.limits.upload_grace_ns;
        let Some(hot) = self.slots.get_mut(slot) else { return };
        let Some(partial) = &mut hot.partial else {
            self.inbound.clear(before.map_or(Holding::default(), |(place, _)| Holding(place)));
            return;
        };
        let mut place = Holding(partial.place);
        self.inbound.set(&mut place, slot, partial.memory());
        partial.place = place.0;
        match before {
            Some((_, filled)) => {
                let more = partial.filled().saturating_sub(filled) as u64;
                self.inbound.pay(place, more * self.limits.upload_byte_ns, limit_ns);
            }
            None => {
                self.inbound.pay(place, limit_ns, limit_ns);
                self.watch_upload(slot);
            }
        }
    }

    /// Frees memory if there is more input in progress than there is memory for it: the largest
    /// pays first, and of those that are as large the oldest. Who is to pay is told.
    #[inline]
    pub(super) fn enforce_inbound(&mut self) {
        if self.inbound.total() > self.config.max_inbound {
            self.free_inbound();
        }
    }

    #[cold]
    fn free_inbound(&mut self) {
        while self.inbound.total() > self.config.max_inbound {
            let Some(slot) = self.inbound.worst() else { return };
            let Some(hot) = self.slots.get(slot) else { return };
            if hot.phase() == Phase::Closed {
                // It holds nothing any more. An error of the account must not become a stall.
                debug_assert!(false, "a closed connection is to pay for memory");
                return;
            }
            match hot.phase() {
                Phase::Open | Phase::Closing => {
                    let reason = "out of message memory";
                    self.fail(slot, Cause::InboundFull, CloseCode::TRY_AGAIN, reason);
                }
                Phase::Handshake if !hot.has(Flags::CLIENT) => {
                    self.counted.refused_inbound_full += 1;
                    self.refuse(slot, Refusal::Unavailable(self.config.retry_after));
                }
                _ => {
                    self.counted.refused_inbound_full += 1;
                    self.drop_connection(slot, Cause::InboundFull);
                }
            }
        }
    }
}

/// Messages and control frames of the core, and payload bytes, of messages and of this connection's
/// message in progress: see [`frames_between`].
#[inline]
fn progress(counted: &Counters, hot: &Hot) -> (u64, u64) {
    let filled = hot.partial.as_ref().map_or(0, |partial| partial.filled() as u64);
    (counted.events_in, counted.payload_in + filled)
}

/// Lets the next receive be larger where this one was filled, smaller where it was not, and small
/// and late where it brought more messages than a neighbour should wait for.
#[inline]
fn adapt_appetite(hot: &mut Hot, count: usize, room: usize, frames: u64) {
    let appetite = hot.pace.appetite();
    if frames > CHATTY_FRAMES {
        hot.set(Flags::CHATTY);
        hot.pace.set_appetite(0);
    } else if hot.has(Flags::CHATTY) {
        if frames < CHATTY_FRAMES / 4 {
            hot.clear(Flags::CHATTY);
        }
    } else if count == room {
        let missing = hot.partial.as_ref().map_or(0, |partial| partial.missing());
        let enough = (0..APPETITE_STEPS).find(|step| receive_size(*step) >= missing);
        hot.pace.set_appetite((appetite + 2).max(enough.unwrap_or(APPETITE_STEPS)));
    } else if appetite > 0 && count < room / 4 {
        hot.pace.set_appetite(appetite - 1);
    }
}

/// Roughly how many frames were decoded between two looks at `count` bytes. What is no payload is
/// headers of 6 to 14 bytes, also those of fragments, of which nobody else hears. What is more
/// payload than was received was inflated, and each [`INFLATED`] bytes of it are as much work as a
/// frame.
#[inline]
fn frames_between(before: (u64, u64), after: (u64, u64), count: usize) -> u64 {
    let payload = after.1.saturating_sub(before.1);
    let headers = (count as u64).saturating_sub(payload);
    let inflated = payload.saturating_sub(count as u64);
    (after.0 - before.0).max(headers / 8) + inflated / INFLATED
}

/// Receive memory per core: fits the L2 cache, so that what the kernel copies in is still there
/// when it is parsed.
const ARENA: usize = 640 * 1024;

/// Bytes that are inflated in the time that a frame takes.
const INFLATED: u64 = 1024;

/// Frames in one receive that make a connection chatty.
const CHATTY_FRAMES: u64 = 64;

const _: () = assert!(BATCH_BYTES <= ARENA && ARENA <= u32::MAX as usize);
