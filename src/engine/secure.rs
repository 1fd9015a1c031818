//! TLS on the connections of a core: whose records are opened and sealed here.
//!
//! Owns the record layer of each connection that has one, and what is not complete: handshakes
//! under way and records of which only a part is there. Never receives or sends. The invariant: a
//! connection with [`Flags::TLS`] has at most one of a handshake and a record layer, what is not
//! complete is in the account of [`Inbound`], and nothing here is left of one that is closed.
//!
//! Records are opened in the receive arena, behind what was there of the first, and what they carry
//! is moved together, so that the steps above see one range of plaintext. What leaves is plaintext
//! until the flush, which seals it ([`Secure::seal`]): limits and drops know nothing of records.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use bytes::Bytes;

use super::core::Core;
use super::handler::Handler;
use super::inbound::{Inbound, Place};
use super::outgoing::{Outgoing, Share};
use super::ring::{Ring, Send};
use super::slots::{Flags, Hot, Phase, Slots};
use super::table::SlotTable;
use super::value::Cause;
use super::worker::Worker;
use crate::protocol::request::Refusal;
use crate::tls::keys::{ClientSetup, ServerSetup};
use crate::tls::{Fault, Greeting, Limits, Opened, RECORD_MAX, Record, Step, greet, length};

/// See the module's text.
#[derive(Default)]
pub(crate) struct Secure {
    setup: Option<ServerSetup>,
    dials: Option<ClientSetup>,
    limits: Limits,
    /// Handshakes that may be under way.
    greetings_max: usize,
    records: SlotTable<Record>,
    unfinished: HashMap<u32, Unfinished>,
    /// Handshakes under way, and those among them and those that have ended by age: slots, and what
    /// number each was.
    greetings: usize,
    ages: VecDeque<(u32, u64)>,
    next_number: u64,
    /// Records sealed by the flush at hand, in the order of their connections' marks.
    staging: Vec<u8>,
    sealed: Vec<Sealed>,
    /// Connections of the flush at hand of which nothing can be sealed any more.
    worn_out: Vec<u32>,
    /// When something was last sealed.
    sealed_ns: u64,
}

/// A connection's handshake under way, or a record that came in part.
#[derive(Default)]
struct Unfinished {
    /// Its handshake, and what number that is.
    greeting: Option<Box<Greeting>>,
    number: u64,
    /// A record that came in part.
    bytes: Vec<u8>,
    /// When that began.
    since_ns: u64,
    /// Where both are accounted.
    place: Place,
}

impl Unfinished {
    /// Bytes of memory, its place in a table included.
    fn memory(&self) -> usize {
        let greeting = self.greeting.as_ref().map_or(0, |greeting| greeting.memory());
        let places = 2 * size_of::<(u32, Self)>() + 4 * size_of::<(u32, u64)>();
        greeting + self.bytes.capacity() + places
    }
}

/// The records sealed for a connection.
#[derive(Clone, Debug)]
pub(super) struct Sealed {
    pub(super) slot: u32,
    /// Where in the staging buffer.
    pub(super) range: Range<usize>,
    /// How much of the outbox it is.
    pub(super) plain: usize,
    /// Nothing was sealed: what was before waits in the outbox.
    pub(super) older: bool,
}

/// One round of sealing.
pub(super) struct Portion {
    /// Up to which mark.
    pub(super) to: usize,
    /// Somebody has to wait for the next round.
    pub(super) hurry: bool,
}

/// The plaintext of a received range.
pub(super) struct Plaintext {
    /// Where it lies.
    pub(super) range: Range<usize>,
    /// What ended the connection behind it.
    pub(super) end: Option<End>,
}

/// An end of a connection below its messages.
pub(super) enum End {
    /// The peer's close_notify.
    Closed,
    Fault(Fault),
}

/// The range that is opened, and what is told of it.
struct Opening<'a> {
    arena: &'a mut [u8],
    inbound: &'a mut Inbound,
    /// The protocol's answers.
    out: Vec<u8>,
    now_ns: u64,
    /// Until when a record may come that has just begun, and what a byte of it is worth.
    grace_ns: u64,
    byte_ns: u64,
    /// A handshake that makes room for this one.
    evicted: Option<u32>,
}

impl Secure {
    /// With what handshakes need, if there are any, of accepted connections, of which so many may
    /// be under way, and of dials.
    pub(super) fn new(
        setup: Option<ServerSetup>,
        dials: Option<ClientSetup>,
        greetings_max: usize,
    ) -> Self {
        Self { setup, dials, greetings_max, ..Self::default() }
    }

    /// Whether there may be connections that speak TLS.
    #[inline]
    pub(super) fn is_on(&self) -> bool {
        self.setup.is_some() || self.dials.is_some()
    }

    /// Whether accepted connections speak TLS.
    pub(super) fn accepts(&self) -> bool {
        self.setup.is_some()
    }

    /// Whether outgoing connections may speak TLS.
    pub(super) fn dials(&self) -> bool {
        self.dials.is_some()
    }

    /// Begins the handshake of a dial with the server of this name. Returns what is said first.
    /// Nobody's handshake makes room for it, and it makes room for nobody's: the application has
    /// asked for it.
    pub(super) fn greet(
        &mut self,
        slot: u32,
        name: &str,
        inbound: &mut Inbound,
    ) -> Result<Vec<u8>, Fault> {
        let mut out = Vec::new();
        let setup = self.dials.as_ref().ok_or(Fault::Closed)?;
        let greeting = Box::new(Greeting::client(setup, name, &mut out)?);
        let mut unfinished = Unfinished { greeting: Some(greeting), ..Unfinished::default() };
        let memory = unfinished.memory();
        inbound.set(&mut unfinished.place, slot, memory);
        self.greetings += 1;
        self.unfinished.insert(slot, unfinished);
        Ok(out)
    }

    /// Handshakes go on with these keys; connections that are open keep theirs.
    pub(super) fn replace_setup(&mut self, setup: ServerSetup) {
        if self.setup.is_some() {
            self.setup = Some(setup);
        }
    }

    /// Handshakes under way.
    pub(super) fn greetings(&self) -> usize {
        self.greetings
    }

    /// Record layers there are.
    pub(super) fn records(&self) -> u32 {
        self.records.used()
    }

    /// Whether a connection's handshake is done.
    pub(super) fn has_record(&self, slot: u32) -> bool {
        self.records.get(slot).is_some()
    }

    /// Bytes that are there of a record.
    pub(super) fn partial_len(&self, slot: u32) -> usize {
        self.unfinished.get(&slot).map_or(0, |it| it.bytes.len())
    }

    /// Where a record that came in part is accounted, and when it began.
    pub(super) fn partial(&self, slot: u32) -> Option<(Place, u64)> {
        let unfinished = self.unfinished.get(&slot).filter(|it| !it.bytes.is_empty())?;
        Some((unfinished.place, unfinished.since_ns))
    }

    /// Memory of what is not complete, and where it is accounted.
    pub(super) fn held(&self, slot: u32) -> Option<(Place, usize)> {
        self.unfinished.get(&slot).map(|it| (it.place, it.memory()))
    }

    /// Connections of which something is not complete.
    pub(super) fn unfinished(&self) -> usize {
        self.unfinished.len()
    }

    /// The records sealed in the flush at hand.
    pub(super) fn sealed(&self) -> &[Sealed] {
        &self.sealed
    }

    pub(super) fn staged(&self, sealed: &Sealed) -> &[u8] {
        &self.staging[sealed.range.clone()]
    }

    /// Forgets a handshake under way and a record that came in part.
    pub(super) fn drop_unfinished(&mut self, slot: u32, inbound: &mut Inbound) {
        if let Some(unfinished) = self.unfinished.remove(&slot) {
            inbound.clear(unfinished.place);
            self.greetings -= usize::from(unfinished.greeting.is_some());
        }
    }

    /// Forgets a connection that is closed.
    pub(super) fn forget(&mut self, slot: u32, inbound: &mut Inbound) {
        self.drop_unfinished(slot, inbound);
        self.records.remove(slot);
    }

    /// Takes out what goes with a connection that leaves the engine: its record layer, and what is
    /// there of a record.
    pub(super) fn part(&mut self, slot: u32, inbound: &mut Inbound) -> Option<(Record, Vec<u8>)> {
        let record = self.records.remove(slot)?;
        let unfinished = self.unfinished.remove(&slot).unwrap_or_default();
        inbound.clear(unfinished.place);
        Some((record, unfinished.bytes))
    }

    pub(super) fn shrink(&mut self) {
        self.records.shrink();
        self.unfinished.shrink_to_fit();
        self.ages.shrink_to_fit();
        self.release();
    }

    /// Gives the staging buffer back when nothing was sealed for a while. Every turn asks.
    #[inline]
    pub(super) fn rest(&mut self, now_ns: u64) {
        if self.staging.capacity() > 0 && now_ns.saturating_sub(self.sealed_ns) > REST_NS {
            self.release();
        }
    }

    fn release(&mut self) {
        self.staging = Vec::new();
        self.sealed = Vec::new();
        self.worn_out = Vec::new();
    }

    /// Appends the record layer's answer to what was opened, if it owes one.
    fn settle(&mut self, slot: u32, out: &mut Vec<u8>) -> Result<(), Fault> {
        self.records.get_mut(slot).map_or(Ok(()), |record| record.settle(out))
    }

    /// Opens every whole record of a range.
    fn open(&mut self, slot: u32, range: Range<usize>, opening: &mut Opening<'_>) -> Plaintext {
        // Mostly there is none, and the table is not looked into.
        let mut unfinished = match self.unfinished.is_empty() {
            true => Unfinished::default(),
            false => self.unfinished.remove(&slot).unwrap_or_default(),
        };
        // In front of what was received, where room was left for it.
        let before = unfinished.bytes.len();
        let begin = range.start - before;
        opening.arena[begin..range.start].copy_from_slice(&unfinished.bytes);
        let mut at = begin;
        // Where the plaintext lies that was found so far.
        let mut found = begin..begin;
        let end = loop {
            let rest = &opening.arena[at..range.end];
            let len = match (self.records.get(slot), &mut unfinished.greeting) {
                (Some(_), _) => length(rest),
                // The dialled server speaks something else.
                (None, Some(greeting)) if greeting.is_new() => {
                    greet::length(rest, false).map_err(|_| Fault::NotTls)
                }
                (None, Some(greeting)) => greet::length(rest, false)
                    .inspect_err(|fault| greeting.refuse(fault, &mut opening.out)),
                (None, None) => greet::length(rest, true)
                    .inspect_err(|fault| greet::alert(fault, &mut opening.out)),
            };
            let next = match len {
                Ok(Some(len)) if len <= rest.len() => at + len,
                Ok(_) => break None,
                Err(fault) => break Some(End::Fault(fault)),
            };
            match self.take(slot, at..next, &mut unfinished, opening) {
                Ok(Opened::Data(place)) => {
                    let place = at + place.start..at + place.end;
                    if found.is_empty() {
                        found = place;
                    } else {
                        let end = found.end + place.len();
                        opening.arena.copy_within(place, found.end);
                        found.end = end;
                    }
                }
                Ok(Opened::Nothing) => {}
                Ok(Opened::Closed) => break Some(End::Closed),
                Err(fault) => break Some(End::Fault(fault)),
            }
            at = next;
        };
        let rest = if end.is_none() { at..range.end } else { range.end..range.end };
        let goes_on = at == begin && before > 0;
        self.keep(slot, rest, unfinished, goes_on.then_some(range.len()), opening);
        Plaintext { range: found, end }
    }

    /// Keeps what is not complete. `more` is how many bytes came of a record that was there in
    /// part; one that has just begun has its grace.
    fn keep(
        &mut self,
        slot: u32,
        rest: Range<usize>,
        mut unfinished: Unfinished,
        more: Option<usize>,
        opening: &mut Opening<'_>,
    ) {
        let Opening { arena, inbound, now_ns, grace_ns, byte_ns, .. } = opening;
        let rest = &arena[rest];
        if rest.is_empty() && unfinished.greeting.is_none() {
            return inbound.clear(unfinished.place);
        }
        if more.is_none() {
            unfinished.since_ns = *now_ns;
        }
        unfinished.bytes.clear();
        // Exactly so much: many wait, and few bytes are missing of most.
        if unfinished.bytes.capacity() > 2 * rest.len() {
            unfinished.bytes = Vec::new();
        }
        unfinished.bytes.reserve_exact(rest.len());
        unfinished.bytes.extend_from_slice(rest);
        let memory = unfinished.memory();
        inbound.set(&mut unfinished.place, slot, memory);
        let limit_ns = *now_ns + *grace_ns;
        let paid = more.map_or(u64::MAX, |more| more as u64 * *byte_ns);
        inbound.pay(unfinished.place, paid, limit_ns);
        self.unfinished.insert(slot, unfinished);
    }

    /// Takes one whole record.
    fn take(
        &mut self,
        slot: u32,
        record: Range<usize>,
        unfinished: &mut Unfinished,
        opening: &mut Opening<'_>,
    ) -> Result<Opened, Fault> {
        let Opening { arena, out, evicted, .. } = opening;
        let record = &mut arena[record];
        if let Some(layer) = self.records.get_mut(slot) {
            return layer.open(&self.limits, record);
        }
        let greeting = match &mut unfinished.greeting {
            Some(greeting) => greeting,
            none => {
                let setup = self.setup.as_ref().ok_or(Fault::Closed)?;
                let greeting = Greeting::server(setup)?;
                if self.greetings >= self.greetings_max.max(1) {
                    *evicted = oldest(&mut self.ages, &self.unfinished);
                }
                unfinished.number = self.next_number;
                self.next_number += 1;
                if self.ages.len() > 2 * self.greetings + ENDED_KEPT {
                    let waits = |it: &Unfinished| it.greeting.as_ref().map(|_| it.number);
                    let all = &self.unfinished;
                    self.ages
                        .retain(|(slot, number)| all.get(slot).and_then(waits) == Some(*number));
                }
                self.ages.push_back((slot, unfinished.number));
                self.greetings += 1;
                none.insert(Box::new(greeting))
            }
        };
        let step = greeting.feed(record, out);
        if !matches!(step, Ok(Step::More)) {
            unfinished.greeting = None;
            self.greetings -= 1;
        }
        if let Step::Done(welcome) = step? {
            self.records.insert(slot, welcome.record);
        }
        Ok(Opened::Nothing)
    }

    /// Seals what the marked connections have to send, from the mark at `from` on, up to
    /// [`SEALED_MAX`] bytes of each and [`STAGING`] in all: of those that are offered to the kernel
    /// in this round. One whose kernel has not taken all of what was sealed before waits with the
    /// rest.
    fn seal(
        &mut self,
        slots: &mut Slots,
        outgoing: &Outgoing,
        arena: &[u8],
        marks: Range<usize>,
        share: &mut Share<'_>,
    ) -> Portion {
        self.staging.clear();
        self.sealed.clear();
        let mut hurry = false;
        let mut parts = Vec::new();
        for (at, slot) in outgoing.marked()[..marks.end].iter().enumerate().skip(marks.start) {
            if self.staging.len() >= STAGING {
                return Portion { to: at, hurry };
            }
            let Some(hot) = slots.get(*slot) else { continue };
            if !hot.has(Flags::TLS) || hot.phase() == Phase::Closed {
                continue;
            }
            let Some(outbox) = &hot.outbox else { continue };
            if !share.offers(outbox, SEALED_MAX, &mut hurry) {
                continue;
            }
            if outbox.has_sealed() {
                self.sealed.push(Sealed { slot: *slot, range: 0..0, plain: 0, older: true });
                continue;
            }
            let Some(record) = self.records.get_mut(*slot).filter(|it| !it.is_shut()) else {
                continue;
            };
            parts.clear();
            let plain = outbox.gather_plain(outgoing.turn(arena), &mut parts, SEALED_MAX);
            let start = self.staging.len();
            if record.seal(&self.limits, &parts, &mut self.staging).is_err() {
                self.staging.truncate(start);
                self.worn_out.push(*slot);
                continue;
            }
            if hot.phase() == Phase::Flushing && plain == outbox.bytes() {
                record.close(&mut self.staging);
            }
            let range = start..self.staging.len();
            if range.is_empty() {
                continue;
            }
            self.sealed.push(Sealed { slot: *slot, range, plain, older: false });
        }
        Portion { to: marks.end, hurry }
    }
}

/// The handshake that has been under way for longest.
fn oldest(ages: &mut VecDeque<(u32, u64)>, unfinished: &HashMap<u32, Unfinished>) -> Option<u32> {
    let waits = |(slot, number): &(u32, u64)| {
        let of = unfinished.get(slot).filter(|it| it.greeting.is_some());
        of.is_some_and(|it| it.number == *number)
    };
    while ages.front().is_some_and(|front| !waits(front)) {
        ages.pop_front();
    }
    ages.front().map(|(slot, _)| *slot)
}

impl<R: Ring, H: Handler> Worker<R, H> {
    /// Turns records into what they carry.
    pub(super) fn open_records(&mut self, slot: u32, range: Range<usize>) -> Plaintext {
        let Self { core, arena, .. } = self;
        let mut opening = Opening {
            arena: &mut arena.bytes,
            inbound: &mut core.inbound,
            out: Vec::new(),
            now_ns: core.clock.now_ns(),
            grace_ns: core.limits.upload_grace_ns,
            byte_ns: core.limits.upload_byte_ns,
            evicted: None,
        };
        let greeting = core.slots.get(slot).is_some_and(|hot| hot.has(Flags::GREETING));
        let mut plaintext = core.secure.open(slot, range, &mut opening);
        let Opening { mut out, evicted, .. } = opening;
        let outbox = core.slots.get(slot).and_then(|hot| hot.outbox.as_ref());
        // One answer stands for many. A peer that reads none gets it with the next record, so
        // that answers never add up.
        if plaintext.end.is_none() && !outbox.is_some_and(|outbox| outbox.has_sealed()) {
            plaintext.end = core.secure.settle(slot, &mut out).err().map(End::Fault);
        }
        if greeting && core.secure.has_record(slot) {
            core.counted.tls_handshakes += 1;
            if let Some(hot) = core.slots.get_mut(slot) {
                hot.clear(Flags::GREETING);
            }
            core.seal_request(slot, &mut out);
        }
        if let Some(hot) = core.slots.get_mut(slot) {
            core.outgoing.push_sealed(slot, hot, out, &core.clock);
        }
        if let Some(evicted) = evicted.filter(|evicted| *evicted != slot) {
            core.counted.tls_handshakes_evicted += 1;
            core.drop_connection(evicted, Cause::InboundFull);
        }
        core.watch_record(slot);
        core.enforce_inbound();
        plaintext
    }
}

impl Core {
    /// Appends the sealed request of a dial, so that it leaves with the end of the handshake.
    fn seal_request(&mut self, slot: u32, out: &mut Vec<u8>) {
        let mut request = Vec::new();
        self.dials.write_request(slot, &mut request);
        if let Some(record) = self.secure.records.get_mut(slot).filter(|_| !request.is_empty()) {
            // It is new, and has sealed nothing that could wear its key out.
            let _ = record.seal(&self.secure.limits, &[&request], out);
        }
    }

    /// Seals what is to be sent, where there is TLS.
    pub(super) fn seal(
        &mut self,
        arena: &[u8],
        marks: Range<usize>,
        share: &mut Share<'_>,
    ) -> Portion {
        let Self { slots, outgoing, secure, clock, .. } = self;
        let portion = secure.seal(slots, outgoing, arena, marks, share);
        if !secure.sealed.is_empty() {
            secure.sealed_ns = clock.now_ns();
        }
        portion
    }

    /// Whether a connection speaks TLS and nothing can be sealed on it yet.
    pub(super) fn is_greeting(&self, slot: u32) -> bool {
        self.slots.get(slot).is_some_and(|hot| hot.has(Flags::TLS)) && !self.secure.has_record(slot)
    }

    /// The peer, or what came of it, ended a connection below its messages.
    pub(super) fn on_secure_fault(&mut self, slot: u32, fault: &Fault) {
        let dialled = self.slots.get(slot).is_some_and(|hot| hot.has(Flags::CLIENT));
        if *fault == Fault::NotTls && !dialled {
            // In its own language.
            self.counted.tls_not_tls += 1;
            self.secure.forget(slot, &mut self.inbound);
            if let Some(hot) = self.slots.get_mut(slot) {
                hot.clear(Flags::TLS | Flags::GREETING);
            }
            return self.refuse(slot, Refusal::BadRequest("this port speaks TLS"));
        }
        tracing::debug!(slot, fault = fault.name(), "TLS: {fault}");
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

    /// Ends the connections of the flush at hand of which nothing can be sealed any more. Nothing
    /// of their messages may be sent in part.
    pub(super) fn end_worn_out(&mut self) {
        while let Some(slot) = self.secure.worn_out.pop() {
            self.counted.tls_keys_worn_out += 1;
            let mut words = Vec::new();
            if let Some(record) = self.secure.records.get_mut(slot) {
                record.close(&mut words);
            }
            self.end_secure(slot, words);
        }
    }

    /// The kernel took something of what is sealed, or nothing. `next` is the next entry of what
    /// the flush has sealed; who was offered older records has none.
    pub(super) fn on_sealed_sent(&mut self, sent: &Send, next: &mut usize) {
        let Send { slot, len, result, .. } = *sent;
        let entry = self.secure.sealed.get(*next).filter(|it| it.slot == slot);
        let at = entry.filter(|it| !it.older).map(|_| *next);
        *next += usize::from(entry.is_some());
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
        // Sealed bytes leave the outbox even if the kernel does not take them.
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

    /// A connection speaks TLS, and its end came: without close_notify, it may be anybody's doing.
    /// Behind the peer's close frame nothing could be missing, and nothing is read.
    pub(super) fn count_truncation(&mut self, slot: u32) {
        let awaited = |hot: &&Hot| matches!(hot.phase(), Phase::Open | Phase::Closing);
        let hot = self.slots.get(slot).filter(awaited);
        let record = hot.and_then(|_| self.secure.records.get(slot));
        self.counted.tls_truncated += u64::from(record.is_some_and(|it| !it.is_ended()));
    }
}

/// What a turn's sealed bytes take at most, and room for one more connection's: they stay in the L2
/// cache from sealing to sending.
const STAGING: usize = 256 << 10;

/// Plaintext of one connection that a flush seals: four records.
pub(super) const SEALED_MAX: usize = 4 << 14;

/// Bytes that TLS takes of a core besides its connections: what is sealed and of whom, twice since
/// lists double; each record has at least 22 bytes.
pub(super) const STAGING_BYTES: usize =
    2 * (STAGING + 4 * RECORD_MAX) + 2 * STAGING / 22 * size_of::<Sealed>();

/// Bytes of a connection's record layer.
pub(super) const RECORD_BYTES: usize = size_of::<Option<Record>>();

/// Nothing is sealed for so long before memory is given back.
const REST_NS: u64 = 2_000_000_000;

/// Entries of handshakes that have ended which may be among the ages.
const ENDED_KEPT: usize = 64;

#[cfg(feature = "tls")]
const _: () = assert!(RECORD_BYTES == 176, "a table of them has no gaps");
