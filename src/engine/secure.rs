//! TLS on the connections of a core: whose records are opened and sealed here.
//!
//! Owns the record layer of each connection that has one, and what is not complete: handshakes
//! under way and records of which only a part is there. Never receives or sends. The invariant: a
//! connection with [`Flags::TLS`] has at most one of a handshake and a record layer, what is not
//! complete is in the account of [`Inbound`], and nothing here is left of one that is closed.
//!
//! Records are opened in the receive arena, behind what was there of the first, and what they carry
//! is moved together, so that the steps above see one range of plaintext. What leaves is plaintext
//! until the flush, which seals it (`secure_sealing.rs`): limits and drops know nothing of records.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use super::config::Config;
use super::core::Core;
use super::handler::Handler;
use super::inbound::{Holding, Inbound};
use super::ring::Ring;
use super::slots::{Flags, Hot, Phase};
use super::value::Cause;
use super::worker::Worker;
use crate::common::table::{self, SlotTable};
use crate::protocol::request::Refusal;
use crate::tls::keys::{ClientSetup, ServerSetup};
use crate::tls::{Fault, Greeting, Limits, Opened, Record, Step, Ticket, greet, length};

#[path = "secure_audit.rs"]
mod audit;
#[path = "secure_sealing.rs"]
mod sealing;

use sealing::Sealed;
pub(super) use sealing::{Portion, SEALED_MAX, STAGING_BYTES};

/// See the module's text.
#[derive(Default)]
pub(super) struct Secure {
    setup: Option<ServerSetup>,
    dials: Option<ClientSetup>,
    limits: Limits,
    /// Handshakes that may be under way.
    greetings_max: usize,
    /// See [`Config::around_handshake`](super::Config::around_handshake).
    around_handshake: Option<fn(bool)>,
    records: SlotTable<Record, { table::entries(RECORD_BYTES) }>,
    unfinished: HashMap<u32, Unfinished>,
    /// Handshakes under way, and those among them and those that have ended by age: slots, and what
    /// number each was.
    greetings: usize,
    ages: VecDeque<(u32, u64)>,
    last_number: u64,
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
    /// Its handshake, and what number that is; 0: of a dial.
    greeting: Option<Box<Greeting>>,
    number: u64,
    /// Behind the handshake of a dial, up to the first data: waits for a ticket.
    ticket: Option<Ticket>,
    /// A record that came in part.
    bytes: Vec<u8>,
    /// When that began.
    since_ns: u64,
    /// Where both are accounted.
    place: Holding,
}

impl Unfinished {
    /// Bytes of memory, its place in a table included.
    fn memory(&self) -> usize {
        let greeting = self.greeting.as_ref().map_or(0, |greeting| greeting.memory());
        let ticket = self.ticket.as_ref().map_or(0, Ticket::memory);
        let places = 2 * size_of::<(u32, Self)>() + 4 * size_of::<(u32, u64)>();
        greeting + ticket + self.bytes.capacity() + places
    }
}

/// The plaintext of a received range.
pub(super) struct Plaintext {
    /// Where it lies.
    pub(super) range: Range<usize>,
    /// What ended the connection behind it.
    pub(super) end: Option<End>,
    /// The first record had come in part.
    was_partial: bool,
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
    /// The handshake went on with an earlier session.
    resumed: bool,
}

impl Secure {
    /// With what handshakes need, if there are any, of accepted connections and of dials.
    pub(super) fn new(
        setup: Option<ServerSetup>,
        dials: Option<ClientSetup>,
        config: &Config,
    ) -> Self {
        let (greetings_max, around_handshake) =
            (config.max_tls_handshakes, config.around_handshake);
        Self { setup, dials, greetings_max, around_handshake, ..Self::default() }
    }

    /// The same with other limits of records.
    #[cfg(feature = "simulation")]
    pub(super) fn limited(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
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
        resume: bool,
        inbound: &mut Inbound,
    ) -> Result<Vec<u8>, Fault> {
        let mut out = Vec::new();
        let setup = self.dials.as_ref().ok_or(Fault::Closed)?;
        let _apart = Apart::begin(self.around_handshake);
        let greeting = Box::new(Greeting::client(setup, name, resume, &mut out)?);
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
    #[inline(never)]
    pub(super) fn partial_len(&self, slot: u32) -> usize {
        self.unfinished.get(&slot).map_or(0, |it| it.bytes.len())
    }

    /// Bytes that are missing of a record of which the header has come (RFC 8446 section 5.1).
    #[inline(never)]
    pub(super) fn missing(&self, slot: u32) -> Option<usize> {
        let bytes = &self.unfinished.get(&slot)?.bytes;
        let [_, _, _, high, low, ..] = bytes[..] else { return None };
        let whole = 5 + usize::from(u16::from_be_bytes([high, low]));
        whole.checked_sub(bytes.len()).filter(|missing| *missing > 0)
    }

    /// Where a record that came in part is accounted, and when it began.
    pub(super) fn partial(&self, slot: u32) -> Option<(Holding, u64)> {
        let unfinished = self.unfinished.get(&slot).filter(|it| !it.bytes.is_empty())?;
        Some((unfinished.place, unfinished.since_ns))
    }

    /// Memory of what is not complete, and where it is accounted.
    pub(super) fn held(&self, slot: u32) -> Option<(Holding, usize)> {
        self.unfinished.get(&slot).map(|it| (it.place, it.memory()))
    }

    /// Connections of which something is not complete.
    pub(super) fn unfinished(&self) -> usize {
        self.unfinished.len()
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
                    // Servers send theirs before anything else.
                    unfinished.ticket = None;
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
                Ok(Opened::Messages(place)) => {
                    let content = &opening.arena[at + place.start..at + place.end];
                    if unfinished.ticket.as_mut().is_some_and(|it| it.take(content)) {
                        unfinished.ticket = None;
                    }
                }
                Ok(Opened::Closed) => break Some(End::Closed),
                Err(fault) => break Some(End::Fault(fault)),
            }
            at = next;
        };
        let rest = if end.is_none() { at..range.end } else { range.end..range.end };
        let goes_on = at == begin && before > 0;
        self.keep(slot, rest, unfinished, goes_on.then_some(range.len()), opening);
        Plaintext { range: found, end, was_partial: before > 0 }
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
        if rest.is_empty() && unfinished.greeting.is_none() && unfinished.ticket.is_none() {
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
        let Opening { arena, out, evicted, resumed, .. } = opening;
        let record = &mut arena[record];
        if let Some(layer) = self.records.get_mut(slot) {
            return layer.open(&self.limits, record);
        }
        let greeting = match &mut unfinished.greeting {
            Some(greeting) => greeting,
            none => {
                let setup = self.setup.as_ref().ok_or(Fault::Closed)?;
                let apart = Apart::begin(self.around_handshake);
                let greeting = Box::new(Greeting::server(setup)?);
                drop(apart);
                if self.greetings >= self.greetings_max.max(1) {
                    *evicted = oldest(&mut self.ages, &self.unfinished);
                }
                self.last_number += 1;
                unfinished.number = self.last_number;
                if self.ages.len() > 2 * self.greetings + ENDED_KEPT {
                    let waits = |it: &Unfinished| it.greeting.as_ref().map(|_| it.number);
                    let all = &self.unfinished;
                    self.ages
                        .retain(|(slot, number)| all.get(slot).and_then(waits) == Some(*number));
                }
                self.ages.push_back((slot, unfinished.number));
                self.greetings += 1;
                none.insert(greeting)
            }
        };
        let apart = Apart::begin(self.around_handshake);
        let step = greeting.feed(record, out);
        drop(apart);
        if !matches!(step, Ok(Step::More)) {
            unfinished.greeting = None;
            self.greetings -= 1;
        }
        if let Step::Done(welcome) = step? {
            (*resumed, unfinished.ticket) = (welcome.resumed, welcome.ticket);
            self.records.insert(slot, welcome.record);
        }
        Ok(Opened::Nothing)
    }
}

/// While it lives, a handshake allocates: see [`Config::around_handshake`].
struct Apart(Option<fn(bool)>);

impl Apart {
    fn begin(hook: Option<fn(bool)>) -> Self {
        if let Some(hook) = hook {
            hook(true);
        }
        Self(hook)
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        if let Some(hook) = self.0 {
            hook(false);
        }
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
            resumed: false,
        };
        let greeting = core.slots.get(slot).is_some_and(|hot| hot.has(Flags::GREETING));
        let mut plaintext = core.secure.open(slot, range, &mut opening);
        let Opening { mut out, evicted, resumed, .. } = opening;
        let outbox = core.slots.get(slot).and_then(|hot| hot.outbox.as_ref());
        // One answer stands for many. A peer that reads none gets it with the next record, so
        // that answers never add up.
        if plaintext.end.is_none() && !outbox.is_some_and(|outbox| outbox.has_sealed()) {
            plaintext.end = core.secure.settle(slot, &mut out).err().map(End::Fault);
        }
        if greeting && core.secure.has_record(slot) {
            core.counted.tls_handshakes += 1;
            core.counted.tls_handshakes_resumed += u64::from(resumed);
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
        core.watch_record(slot, plaintext.was_partial);
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
            None if *fault == Fault::Validated => self.counted.tls_validations += 1,
            None => self.counted.tls_handshake_failures += 1,
        }
        self.end_secure(slot, alert);
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

/// Bytes of a connection's record layer.
pub(super) const RECORD_BYTES: usize = size_of::<Option<Record>>();

/// Entries of handshakes that have ended which may be among the ages.
const ENDED_KEPT: usize = 64;

#[cfg(feature = "tls")]
const _: () = assert!(RECORD_BYTES == 176, "a table of them has no gaps");
