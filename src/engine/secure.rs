//! TLS on the connections of a core: whose records are opened and sealed here.
//!
//! Owns the record layer of each connection that has one, handshakes under way, and records of
//! which only a part is there. Never receives or sends. The invariant: a connection with
//! [`Flags::TLS`] has at most one of a handshake and a record layer, and nothing here is left of
//! one that is closed.
//!
//! Records are opened in the receive arena, behind what was there of the first, and what they carry
//! is moved together, so that the steps above see one range of plaintext. What leaves is plaintext
//! until the flush, which seals it ([`Secure::seal`]): limits and drops know nothing of records.

use std::collections::HashMap;
use std::ops::Range;

use bytes::Bytes;

use super::core::Core;
use super::handler::Handler;
use super::inbound::{Inbound, Place};
use super::outgoing::Outgoing;
use super::ring::{Ring, Send};
use super::slots::{Flags, Phase, Slots};
use super::table::SlotTable;
use super::value::Cause;
use super::worker::Worker;
use crate::protocol::request::Refusal;
use crate::tls::keys::ServerSetup;
use crate::tls::{Fault, Greeting, Limits, Opened, Reason, Record, Step, greet, length};

/// See the module's text.
#[derive(Default)]
pub(crate) struct Secure {
    setup: Option<ServerSetup>,
    limits: Limits,
    records: SlotTable<Record>,
    greetings: HashMap<u32, Box<Greeting>>,
    partial: HashMap<u32, PartialRecord>,
    /// What the flush at hand has sealed, and of whom, in the order of their marks.
    staging: Vec<u8>,
    sealed: Vec<Sealed>,
}

/// A record that came in part.
struct PartialRecord {
    bytes: Vec<u8>,
    /// Where it is accounted.
    place: Place,
}

/// What was sealed of a connection.
#[derive(Clone, Debug)]
pub(super) struct Sealed {
    pub(super) slot: u32,
    /// Where in the staging buffer.
    pub(super) range: Range<usize>,
    /// How much of the outbox it is.
    pub(super) plain: usize,
}

/// What a received range came to.
pub(super) struct Plaintext {
    /// Where it lies.
    pub(super) range: Range<usize>,
    /// What ended the connection behind it.
    pub(super) end: Option<End>,
}

/// What ends a connection below its messages.
pub(super) enum End {
    /// The peer's close_notify.
    Closed,
    Fault(Fault),
}

impl Secure {
    /// With what handshakes need, if there are any.
    pub(super) fn new(setup: Option<ServerSetup>) -> Self {
        Self { setup, ..Self::default() }
    }

    /// Whether accepted connections speak TLS.
    pub(super) fn is_on(&self) -> bool {
        self.setup.is_some()
    }

    /// Bytes that are there of a record.
    pub(super) fn partial_len(&self, slot: u32) -> usize {
        self.partial.get(&slot).map_or(0, |partial| partial.bytes.len())
    }

    /// What was sealed in the flush at hand.
    pub(super) fn sealed(&self) -> &[Sealed] {
        &self.sealed
    }

    pub(super) fn staged(&self, sealed: &Sealed) -> &[u8] {
        &self.staging[sealed.range.clone()]
    }

    /// Forgets a record that came in part.
    pub(super) fn drop_partial(&mut self, slot: u32, inbound: &mut Inbound) {
        if let Some(partial) = self.partial.remove(&slot) {
            inbound.clear(partial.place);
        }
    }

    /// Forgets a connection that is closed.
    pub(super) fn forget(&mut self, slot: u32, inbound: &mut Inbound) {
        self.drop_partial(slot, inbound);
        self.greetings.remove(&slot);
        self.records.remove(slot);
    }

    pub(super) fn shrink(&mut self) {
        self.records.shrink();
        self.greetings.shrink_to_fit();
        self.partial.shrink_to_fit();
        self.staging = Vec::new();
        self.sealed = Vec::new();
    }

    /// Puts what is there of a record in front of `start`, where room was left for it.
    fn unite(&mut self, slot: u32, arena: &mut [u8], start: usize, inbound: &mut Inbound) -> usize {
        let Some(partial) = self.partial.remove(&slot) else { return start };
        inbound.clear(partial.place);
        let begin = start - partial.bytes.len();
        arena[begin..start].copy_from_slice(&partial.bytes);
        begin
    }

    /// Keeps what is there of a record.
    fn keep(&mut self, slot: u32, bytes: &[u8], inbound: &mut Inbound) {
        if bytes.is_empty() {
            return;
        }
        let mut partial = PartialRecord { bytes: bytes.to_vec(), place: Place::default() };
        let memory = bytes.len() + 2 * size_of::<(u32, PartialRecord)>();
        inbound.set(&mut partial.place, slot, memory);
        self.partial.insert(slot, partial);
    }

    /// Opens every whole record of a range. What the protocol has to answer is appended to `out`.
    fn open(
        &mut self,
        slot: u32,
        arena: &mut [u8],
        range: Range<usize>,
        inbound: &mut Inbound,
        out: &mut Vec<u8>,
    ) -> Plaintext {
        let begin = self.unite(slot, arena, range.start, inbound);
        let mut at = begin;
        // Where the plaintext lies that was found so far.
        let mut found = begin..begin;
        let end = loop {
            let rest = &arena[at..range.end];
            let len = match self.records.get(slot) {
                Some(_) => length(rest),
                None => greet::length(rest, !self.greetings.contains_key(&slot))
                    .inspect_err(|fault| greet::alert(fault, out)),
            };
            let record = match len {
                Ok(Some(len)) if len <= rest.len() => &mut arena[at..at + len],
                Ok(_) => break None,
                Err(fault) => break Some(End::Fault(fault)),
            };
            let next = at + record.len();
            match self.take(slot, record, out) {
                Ok(Opened::Data(place)) => {
                    let place = at + place.start..at + place.end;
                    if found.is_empty() {
                        found = place;
                    } else {
                        let end = found.end + place.len();
                        arena.copy_within(place, found.end);
                        found.end = end;
                    }
                }
                Ok(Opened::Nothing) => {}
                Ok(Opened::Closed) => break Some(End::Closed),
                Err(fault) => break Some(End::Fault(fault)),
            }
            at = next;
        };
        if end.is_none() {
            self.keep(slot, &arena[at..range.end], inbound);
        }
        Plaintext { range: found, end }
    }

    /// Takes one whole record.
    fn take(&mut self, slot: u32, record: &mut [u8], out: &mut Vec<u8>) -> Result<Opened, Fault> {
        if let Some(layer) = self.records.get_mut(slot) {
            let opened = layer.open(&self.limits, record)?;
            layer.settle(out)?;
            return Ok(opened);
        }
        let under_way = self.greetings.len();
        let greeting = match self.greetings.entry(slot) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(_) if under_way >= GREETINGS_MAX => {
                let text = "too many handshakes are under way".to_owned();
                return Err(Fault::Greeting(Reason::Internal, text));
            }
            std::collections::hash_map::Entry::Vacant(entry) => {
                let setup = self.setup.as_ref().ok_or(Fault::Closed)?;
                entry.insert(Box::new(Greeting::server(setup)?))
            }
        };
        if let Step::Done(welcome) = greeting.feed(record, out)? {
            self.greetings.remove(&slot);
            self.records.insert(slot, welcome.record);
        }
        Ok(Opened::Nothing)
    }

    /// Seals what the marked connections have to send, up to [`SEALED_MAX`] bytes of each. One
    /// whose kernel has not taken all of what was sealed before waits with the rest.
    fn seal(&mut self, slots: &mut Slots, outgoing: &Outgoing, arena: &[u8]) {
        self.staging.clear();
        self.sealed.clear();
        let mut parts = Vec::new();
        for slot in outgoing.marked() {
            let Some(hot) = slots.get(*slot) else { continue };
            if !hot.has(Flags::TLS) || hot.phase() == Phase::Closed {
                continue;
            }
            let (Some(outbox), Some(record)) = (&hot.outbox, self.records.get_mut(*slot)) else {
                continue;
            };
            if outbox.has_sealed() || record.is_shut() {
                continue;
            }
            parts.clear();
            let plain = outbox.gather_plain(outgoing.turn(arena), &mut parts, SEALED_MAX);
            let start = self.staging.len();
            if record.seal(&self.limits, &parts, &mut self.staging).is_err() {
                self.staging.truncate(start);
                continue;
            }
            if hot.phase() == Phase::Flushing && plain == outbox.bytes() {
                record.close(&mut self.staging);
            }
            let range = start..self.staging.len();
            if range.is_empty() {
                continue;
            }
            self.sealed.push(Sealed { slot: *slot, range, plain });
        }
    }
}

impl<R: Ring, H: Handler> Worker<R, H> {
    /// Turns records into what they carry.
    pub(super) fn open_records(&mut self, slot: u32, range: Range<usize>) -> Plaintext {
        let Self { core, arena, .. } = self;
        let mut out = Vec::new();
        let before = core.secure.records.get(slot).is_some();
        let plaintext =
            core.secure.open(slot, &mut arena.bytes, range, &mut core.inbound, &mut out);
        if !before && core.secure.records.get(slot).is_some() {
            core.counted.tls_handshakes += 1;
            if let Some(hot) = core.slots.get_mut(slot) {
                hot.clear(Flags::GREETING);
            }
        }
        if let Some(hot) = core.slots.get_mut(slot) {
            core.outgoing.push_sealed(slot, hot, out, &core.clock);
        }
        core.enforce_inbound();
        plaintext
    }
}

impl Core {
    /// Seals what is to be sent, where there is TLS.
    pub(super) fn seal(&mut self, arena: &[u8]) {
        let Self { slots, outgoing, secure, .. } = self;
        secure.seal(slots, outgoing, arena);
    }

    /// The peer, or what came of it, ended a connection below its messages.
    pub(super) fn on_secure_fault(&mut self, slot: u32, fault: &Fault) {
        if *fault == Fault::NotTls {
            // In its own language.
            self.counted.tls_not_tls += 1;
            if let Some(hot) = self.slots.get_mut(slot) {
                hot.clear(Flags::TLS | Flags::GREETING);
            }
            return self.refuse(slot, Refusal::BadRequest("this port speaks TLS"));
        }
        let mut alert = Vec::new();
        match self.secure.records.get_mut(slot) {
            Some(record) => {
                self.counted.tls_bad_records += 1;
                record.refuse(fault, &mut alert);
            }
            None => self.counted.tls_handshake_failures += 1,
        }
        self.end_secure(slot, alert);
    }

    /// The kernel took something of what is sealed, or nothing. `next` is the next entry of what
    /// the flush has sealed; who was offered older records has none.
    pub(super) fn on_sealed_sent(&mut self, sent: &Send, next: &mut usize) {
        let Send { slot, len, result, .. } = *sent;
        let at = self.secure.sealed.get(*next).filter(|it| it.slot == slot).map(|_| *next);
        *next += usize::from(at.is_some());
        self.counted.sends += 1;
        let Self { slots, outgoing, secure, watches, clock, counted, work, .. } = self;
        let Some(hot) = slots.get_mut(slot) else { return };
        if hot.outbox.is_none() {
            return;
        }
        let taken = match result {
            Ok(taken) => taken,
            Err(error) if error.is_transient() => 0,
            Err(error) => return self.drop_connection(slot, Cause::of_error(error)),
        };
        counted.bytes_out += taken as u64;
        // What is sealed is no longer plaintext, whether it is taken or not.
        let plain = at.map_or(taken, |at| secure.sealed[at].plain);
        if taken > 0 {
            watches.note_taken(slot, hot, taken);
            outgoing.note_sent(slot, hot, plain, clock);
        } else {
            outgoing.consume(slot, hot, plain);
        }
        if taken < len {
            if let Some(at) = at {
                let rest = &secure.staging[secure.sealed[at].range.clone()][taken..];
                outgoing.put_back(hot, Bytes::copy_from_slice(rest));
            }
            counted.sends_short += 1;
            outgoing.block(hot);
            work.arm_poll_out(slot, hot);
        }
    }

    /// A connection speaks TLS, and its end came without close_notify.
    pub(super) fn count_truncation(&mut self, slot: u32) {
        let record = self.secure.records.get(slot);
        self.counted.tls_truncated += u64::from(record.is_some_and(|it| !it.is_ended()));
    }
}

/// Handshakes under way: about 6 MiB. Who is silent has none.
const GREETINGS_MAX: usize = 1024;

/// Plaintext of one connection that a flush seals: four records.
const SEALED_MAX: usize = 4 << 14;

const _: () = assert!(size_of::<Option<Record>>() == 176, "a table of them has no gaps");
