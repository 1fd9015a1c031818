//! What a simulation needs from inside the engine: workers on any ring, and an audit of their
//! books.
//!
//! Owns the list of invariants that hold between two steps of any worker, each a relation between
//! two places that keep the same fact, one of them perhaps shared by all workers. Never changes
//! anything. Not part of the public interface.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::Receiver;

use super::addresses::{AddressPlace, Addresses, address_key};
use super::clock::{earlier, is_after, later};
use super::config::Config;
use super::core::Core;
use super::counters::Stats;
use super::handler::Handler;
use super::inbound::Holding;
use super::ledger::UNRANKED;
use super::links::{Command, Handle, Network, Post, SlowPeer};
use super::outbox::Offer;
use super::ring::{Completion, Doorbell, LANES_MAX, Ring};
use super::slots::{Flags, Hot, Marks, NO_SUBSCRIPTION, Phase};
use super::timing::FORGIVEN;
use super::worker::{Turn, Worker};
use crate::common::rng::Rng;

/// What the workers of one server share; made before them.
pub struct Shared<H: Handler> {
    config: Arc<Config>,
    network: Arc<Network<H::Event>>,
    total: Arc<AtomicU32>,
    addresses: Arc<Addresses>,
}

impl<H: Handler> Shared<H> {
    /// For as many workers as there are doorbells.
    pub fn new(config: Config, doorbells: Vec<Box<dyn Doorbell>>) -> Self {
        let post = |bell| Arc::new(Post::new::<H>(&config, bell));
        let network = Arc::new(Network { posts: doorbells.into_iter().map(post).collect() });
        Self { config: Arc::new(config), network, total: Arc::default(), addresses: Arc::default() }
    }

    /// Reaches the workers, also before they are made.
    pub fn handle(&self) -> Handle<H> {
        Handle::new(self.network.clone())
    }

    /// One of the workers, on the given ring, with a table of `table` direct descriptors.
    pub fn worker<R: Ring>(
        &self,
        index: u16,
        ring: R,
        handler: H,
        table: u32,
        seed: u64,
    ) -> Worker<R, H> {
        let (total, addresses) = (self.total.clone(), self.addresses.clone());
        let (config, network) = (self.config.clone(), self.network.clone());
        let core = Core::new(config, index, network, total, addresses, Rng::new(seed));
        Worker::new(ring, core, handler, self.network.posts[usize::from(index)].clone(), table)
    }

    /// Checks what the workers share against what was found at all of them together.
    pub fn audit(&self, books: &Books) -> Result<(), String> {
        let total = self.total.load(Ordering::Relaxed);
        check(total == books.counted, &format!("total: {total} kept, {} found", books.counted))?;
        let (seats, all) = self.addresses.all();
        check(seats == books.addresses, "the table of addresses is wrong")?;
        check(all == books.present, "the table of addresses forgets who is leaving")?;
        let most = self.config.max_connections;
        check(books.admitted <= most, &format!("{} are open of {most}", books.admitted))?;
        let per = self.config.max_per_address;
        let crowd = books.admitted_by.values().max().copied().unwrap_or(0);
        check(per == 0 || crowd <= per, &format!("{crowd} are open from an address, of {per}"))
    }
}

/// Puts a question to every worker, as [`Handle::stats_by_core`] does, without waiting.
pub fn ask_stats<H: Handler>(handle: &Handle<H>) -> Receiver<(u16, Stats)> {
    handle.put(Command::Stats)
}

/// As [`Handle::slow_peers`], likewise.
pub fn ask_slow<H: Handler>(handle: &Handle<H>) -> Receiver<Vec<SlowPeer>> {
    handle.put(Command::Slow)
}

/// Sums over the connections of several workers.
#[derive(Debug, Default)]
pub struct Books {
    counted: u32,
    addresses: HashMap<u64, u32>,
    /// By address, those included that are leaving.
    present: HashMap<u64, u32>,
    admitted: u32,
    admitted_by: HashMap<u64, u32>,
}

impl Books {
    /// Enters a connection that left the engine.
    pub fn enter(&mut self, place: &AddressPlace) {
        if let Some(key) = place.key() {
            *self.addresses.entry(key).or_default() += 1;
            *self.present.entry(key).or_default() += 1;
        }
    }
}

/// A worker whose turns are taken in halves, so that others run while it sleeps. The sends of a
/// turn are settled before the wait, which a real ring lets end at once if one fell short.
impl<R: Ring, H: Handler> Worker<R, H> {
    /// The first half of a turn: up to where the ring waits.
    pub fn fall_asleep(&mut self) -> io::Result<()> {
        self.flush_and_wait()
    }

    /// The second half: with what completed during the wait.
    pub fn wake_up(&mut self, completed: &mut VecDeque<Completion>) -> io::Result<Turn> {
        self.done.append(completed);
        self.wake();
        self.act()
    }

    /// Takes no more letters, as a worker's thread at its end.
    pub fn retire(&self) {
        drop(self.post.mailbox.close());
    }

    /// How many letters wait, in the mailbox or taken out of it.
    pub fn letters(&self) -> Result<usize, String> {
        Ok(self.post.mailbox.audit()? + self.letters.len())
    }

    /// Checks every invariant of this worker that holds while no step of it runs; describes the
    /// first one broken. Enters its connections in the books.
    pub fn audit(&mut self, books: &mut Books) -> Result<(), String> {
        let mut tally = Tally::default();
        let live: Vec<u32> = self.core.slots.iter().map(|(slot, _)| slot).collect();
        for slot in &live {
            // Who has just closed keeps its state until the application is told.
            let stated = self.states.get_mut(*slot).is_some();
            let stated = stated && !self.core.notices.closed().any(|of| of == *slot);
            self.core.audit_connection(*slot, stated, &mut tally).map_err(|what| {
                let hot = self.core.slots.get(*slot);
                format!("slot {slot}: {what}\n  {hot:?}")
            })?;
            self.core.tally(*slot, &mut tally, books);
        }
        self.core.audit_sums(&tally)?;
        self.letters()?;
        let taken: usize = self.letters.iter().map(|(_, postage)| postage.bytes()).sum();
        let letters = taken + self.post.mailbox.queued_bytes();
        check(self.post.mailbox.bytes() == letters, "the account of letters is wrong")?;
        let states = tally.announced as usize + self.core.notices.closed().count();
        check(self.states.used() as usize == states, "a state outlived its connection")
    }

    /// Checks what holds between two turns.
    pub fn audit_turn(&self) -> Result<(), String> {
        let core = &self.core;
        check(core.notices.is_empty(), "a notice was not delivered")?;
        check(!core.has_ring_work(), "ring work was not handed over")
    }

    /// Checks that a worker that sleeps has nothing to do until then.
    pub fn audit_sleep(&self, until: u64) -> Result<(), String> {
        let core = &self.core;
        check(
            until <= core.next_deadline_ns().max(core.clock.now_ns()),
            "sleeps beyond a deadline",
        )?;
        check(
            core.appointments.next_ns().is_none_or(|due| until <= due.max(core.clock.now_ns())),
            "sleeps beyond a timer",
        )?;
        check(
            !core.outgoing.is_unoffered() && !core.notices.has_postponed(),
            "sleeps over what a flush left",
        )?;
        check(
            core.outgoing.ledger().total() <= core.config.max_outboxes,
            "sleeps over too much memory",
        )?;
        check(core.inbox.is_empty(), "sleeps over input")?;
        check(core.outgoing.marked().is_empty(), "sleeps over something to send")?;
        check(!core.dials.are_asked(), "sleeps over a dial")?;
        check(self.done.is_empty() && self.letters.is_empty(), "sleeps over what a turn left")?;
        self.audit_turn()
    }

    /// Whether nothing is held for anybody: how a worker has to be when it has finished.
    pub fn audit_end(&mut self) -> Result<(), String> {
        self.audit(&mut Books::default())?;
        self.audit_turn()?;
        let core = &self.core;
        check(core.slots.used() == 0, "connections are left")?;
        check(self.states.used() == 0, "states are left")?;
        check(
            core.fanout.topics().is_empty() && core.fanout.topics().subscriptions() == 0,
            "topics are left",
        )?;
        check(core.handshakes.len() == 0 && core.dials.is_empty(), "handshakes are left")?;
        check(core.secure.unfinished() == 0, "handshakes or records of TLS are left")?;
        check(core.leftovers.count() == 0, "input is left")?;
        check(core.secure.records() == 0, "record layers are left")?;
        check(core.handover.is_empty(), "connections on their way out are left")?;
        check(core.requests.len() == 0, "connections stay that are gone")?;
        check(core.adopted.len() == 0, "ports of connections that are gone")?;
        check(core.timing.armed() == 0, "timers are left")?;
        check(core.watches.len() == 0, "watches are left")?;
        let gauges = [
            core.census.open(),
            core.census.streams(),
            core.outgoing.blocked(),
            u64::from(core.census.surplus()),
        ];
        check(gauges == [0; 4], "nobody is left, and some are counted")?;
        check(
            core.inbound.is_empty() && core.outgoing.ledger().is_empty(),
            "bytes are held for nobody",
        )?;
        check(!core.notices.has_postponed(), "a notice was postponed for ever")
    }

    /// Whether the connection in this slot relies on the ring to announce its next input.
    pub fn awaits_input(&self, slot: u32) -> bool {
        self.core.slots.get(slot).is_some_and(|hot| match hot.phase() {
            Phase::Open => !hot.has(Flags::HELD | Flags::READY),
            Phase::Handshake => !hot.has(Flags::HELD | Flags::READY),
            Phase::Closing | Phase::Lingering => !hot.has(Flags::READY),
            _ => false,
        })
    }

    /// Whether the connection in this slot has been told to leave its input unread.
    pub fn is_held(&self, slot: u32) -> bool {
        self.core.slots.get(slot).is_some_and(|hot| hot.has(Flags::HELD))
    }
}

#[cfg(feature = "simulation")]
impl<R: Ring, H: Handler> Worker<R, H> {
    /// Lets connections speak TLS from now on, accepted ones and dials that ask for it, over
    /// handshakes that are scripted.
    pub fn speak_tls(
        &mut self,
        scripts: &crate::tls::scripted::Scripts,
        limits: crate::tls::Limits,
    ) {
        let (server, client) = scripts.setups();
        let secure = super::secure::Secure::new(Some(server), Some(client), &self.core.config);
        self.core.secure = secure.limited(limits);
    }
}

/// Sums over all connections.
#[derive(Default)]
struct Tally {
    connections: u32,
    timers: u32,
    first_due: Option<u32>,
    announced: u32,
    streams: u64,
    blocked: u64,
    surplus: u32,
    /// Of outboxes: what each was entered with, who shares what, who stands where.
    entered: usize,
    shared: HashMap<usize, u32>,
    ranks: BTreeSet<(i64, u32)>,
    partial: usize,
    subscriptions: usize,
    heads: usize,
    kept: u64,
    unfinished: usize,
    left: usize,
    records: u64,
    watches: usize,
}

impl Core {
    fn audit_connection(&self, slot: u32, stated: bool, tally: &mut Tally) -> Result<(), String> {
        let Some(hot) = self.slots.get(slot) else { return Err("not there".to_owned()) };
        let (open, gone) = (hot.phase() == Phase::Open, hot.phase() == Phase::Closed);
        check(hot.has(Flags::ANNOUNCED) == open, "announced if and only if open")?;
        check(stated == open, "has a state if and only if open")?;
        check(open || hot.subscriptions == NO_SUBSCRIPTION, "only the open subscribe")?;
        check(!(open && hot.has(Flags::CLOSE_SENT)), "open behind its close frame")?;
        let queued = self.inbox.contains(slot);
        check(!hot.has(Flags::READY) || queued, "READY in no queue")?;
        let leaves = hot.phase().is_leaving();
        check(!(hot.has(Flags::COUNTED) && (leaves || gone)), "takes a seat and leaves")?;
        check(!hot.has(Flags::COUNTED) || !hot.has(Flags::SURPLUS), "takes a seat to be refused")?;
        let stream = hot.has(Flags::STREAM);
        check(!stream || hot.partial.is_none(), "a message on a stream")?;
        check(!stream || !hot.has(Flags::PAUSED), "a stream that does not hear its end")?;
        check(!stream || hot.phase() != Phase::Closing, "a stream awaits a close frame")?;
        let marks = self.outgoing.marked().iter().filter(|dirty| **dirty == slot).count();
        check(marks == usize::from(hot.has(Flags::DIRTY)), "DIRTY and the list disagree")?;
        self.outgoing.audit_line(slot, hot)?;
        check(
            !hot.has(Flags::THROTTLED) || self.rates.hold(slot, hot.generation),
            "throttled for ever",
        )?;
        let head = self.handshakes.held(slot).is_some();
        check(!head || hot.phase() == Phase::Handshake, "a head after the handshake")?;
        let passing = self.handover.held(slot).is_some();
        check(
            passing == (hot.phase() == Phase::Passing),
            "passes without its bytes, or they stay",
        )?;
        let unheard =
            matches!(hot.phase(), Phase::Connecting | Phase::Passing | Phase::Flushing) || gone;
        let looked_at = hot.has(Flags::READY | Flags::HELD);
        check(unheard || looked_at || hot.has(Flags::POLL), "nobody listens")?;
        self.audit_timer(slot, hot)?;
        let left = self.leftovers.held(slot).is_some();
        check(!left || looked_at, "input waits, and nobody takes it up")?;
        let stays = self.requests.keeps(slot);
        let heard = matches!(hot.phase(), Phase::Open | Phase::Closing) || stays;
        check(!left || heard, "input of the gone")?;
        check(!stays || hot.phase() == Phase::Handshake, "stays and is elsewhere")?;
        let owed = self.requests.awaits(slot);
        check(!owed || hot.has(Flags::AWAITED), "owes an answer, and reads on")?;
        let watched = hot.is(Marks::WATCHED);
        check(watched == self.watches.contains(slot), "watched, or not")?;
        let ends = self.notices.closed().any(|of| of == slot);
        check(!hot.is(Marks::PARTING) || ends, "takes leave, and nobody is asked for its words")?;
        if gone {
            check(hot.outbox.is_none() && hot.partial.is_none(), "memory of the gone")?;
            check(!self.secure.keeps(slot), "TLS of the gone")?;
            return check(!hot.has(Flags::BLOCKED | Flags::SURPLUS), "counted though gone");
        }
        self.audit_inbound(slot, hot)?;
        self.secure.audit(slot, hot)?;
        self.audit_outbox(slot, hot, tally)
    }

    fn audit_inbound(&self, slot: u32, hot: &Hot) -> Result<(), String> {
        let partial = hot.partial.as_ref().map(|it| (Holding(it.place), it.memory()));
        let head = self.handshakes.held(slot);
        let passing = self.handover.held(slot);
        let unfinished = self.secure.held(slot);
        let left = self.leftovers.held(slot);
        for (place, memory) in [partial, head, passing, unfinished, left].into_iter().flatten() {
            let held = self.inbound.held(place);
            check(held == memory, &format!("{memory} bytes of input, {held} accounted"))?;
        }
        Ok(())
    }

    fn audit_timer(&self, slot: u32, hot: &Hot) -> Result<(), String> {
        let due = hot.timer.due();
        match hot.phase() {
            Phase::Closed => check(due.is_none(), "a timer of the gone"),
            Phase::Open => match self.open_deadline(slot, hot) {
                // Earlier is lazy, later is a bug, but for the ticks that a stalled core forgives.
                Some(limit) => check(
                    due.is_some_and(|due| {
                        let last = later(limit, self.timing.looked_at().wrapping_add(FORGIVEN));
                        !is_after(due, last)
                    }),
                    "a deadline that nobody watches",
                ),
                None => Ok(()),
            },
            _ => check(due.is_some(), "a phase without end"),
        }
    }

    fn audit_outbox(&self, slot: u32, hot: &Hot, tally: &mut Tally) -> Result<(), String> {
        let blocked = hot.has(Flags::BLOCKED);
        check(!blocked || hot.has(Flags::POLL_OUT), "blocked, and nobody waits for room")?;
        let Some(outbox) = &hot.outbox else {
            check(!blocked, "blocked with nothing to send")?;
            check(!hot.has(Flags::PAUSED), "paused with nothing to send")?;
            let leaving = hot.phase() == Phase::Flushing;
            // Or the application is about to be asked what is last.
            let asks = hot.is(Marks::PARTING) && self.notices.closed().any(|it| it == slot);
            return check(!leaving || hot.has(Flags::DIRTY) || asks, "leaves, and nobody looks");
        };
        outbox.audit(self.outgoing.corked(), hot.has(Flags::DIRTY), &mut tally.shared)?;
        let waits = outbox.offer == Offer::Waits;
        check(blocked || waits || hot.has(Flags::DIRTY), "something to send, and nobody does")
    }

    fn tally(&mut self, slot: u32, tally: &mut Tally, books: &mut Books) {
        let peer = self.slots.cold(slot).map(|cold| cold.peer());
        let Some(hot) = self.slots.get(slot) else { return };
        tally.connections += 1;
        tally.timers += u32::from(hot.timer.due().is_some());
        tally.first_due = tally.first_due.into_iter().chain(hot.timer.due()).reduce(earlier);
        tally.watches += usize::from(hot.is(Marks::WATCHED));
        tally.announced += u32::from(hot.has(Flags::ANNOUNCED));
        tally.blocked += u64::from(hot.has(Flags::BLOCKED));
        tally.surplus += u32::from(hot.has(Flags::SURPLUS));
        if let Some(outbox) = &hot.outbox {
            tally.entered += outbox.entered;
            if outbox.ranked != UNRANKED {
                tally.ranks.insert((outbox.ranked, slot));
            }
        }
        tally.partial += hot.partial.as_ref().map_or(0, |partial| partial.memory());
        tally.subscriptions += self.fanout.topics().audit(slot, hot.subscriptions);
        tally.heads += usize::from(self.handshakes.held(slot).is_some());
        tally.kept += u64::from(self.requests.keeps(slot));
        tally.partial += self.handshakes.held(slot).map_or(0, |(_, memory)| memory);
        tally.partial += self.handover.held(slot).map_or(0, |(_, memory)| memory);
        tally.unfinished += usize::from(self.secure.held(slot).is_some());
        tally.partial += self.secure.held(slot).map_or(0, |(_, memory)| memory);
        tally.left += usize::from(self.leftovers.held(slot).is_some());
        tally.partial += self.leftovers.held(slot).map_or(0, |(_, memory)| memory);
        tally.records += u64::from(self.secure.has_record(slot));
        tally.streams += u64::from(hot.phase() == Phase::Open && hot.has(Flags::STREAM));
        let key = peer.map(|peer| address_key(peer.ip()));
        let key = key.filter(|_| self.config.max_per_address > 0 && hot.has(Flags::KNOWN));
        let enter = |count: &mut u32, by: &mut HashMap<u64, u32>| {
            *count += 1;
            if let Some(key) = key {
                *by.entry(key).or_default() += 1;
            }
        };
        if let Some(key) = key {
            *books.present.entry(key).or_default() += 1;
        }
        if hot.has(Flags::COUNTED) {
            enter(&mut books.counted, &mut books.addresses);
        }
        if hot.phase() == Phase::Open && !hot.has(Flags::CLIENT) {
            enter(&mut books.admitted, &mut books.admitted_by);
        }
    }

    fn audit_sums(&self, tally: &Tally) -> Result<(), String> {
        let pairs = [
            ("slots used", u64::from(self.slots.used()), u64::from(tally.connections)),
            ("timers armed", u64::from(self.timing.armed()), u64::from(tally.timers)),
            ("open", self.census.open(), u64::from(tally.announced)),
            ("opened - closed", self.counted.opened - self.counted.closed, self.census.open()),
            ("streams", self.census.streams(), tally.streams),
            ("blocked", self.outgoing.blocked(), tally.blocked),
            ("surplus", u64::from(self.census.surplus()), u64::from(tally.surplus)),
            ("inbound bytes", self.inbound.total() as u64, tally.partial as u64),
            (
                "subscriptions",
                self.fanout.topics().subscriptions() as u64,
                tally.subscriptions as u64,
            ),
            ("unfinished TLS", self.secure.unfinished() as u64, tally.unfinished as u64),
            ("waiting input", self.leftovers.count() as u64, tally.left as u64),
            ("record layers", u64::from(self.secure.records()), tally.records),
            ("heads", self.handshakes.len() as u64, tally.heads as u64),
            ("kept", self.requests.len() as u64, tally.kept),
            ("watches", self.watches.len() as u64, tally.watches as u64),
        ];
        for (name, kept, summed) in pairs {
            check(kept == summed, &format!("{name}: {kept} kept, {summed} found"))?;
        }
        self.secure.audit_count()?;
        self.outgoing.ledger().audit(tally.entered, &tally.shared, &tally.ranks)?;
        check(
            self.outgoing.ledger().total() <= self.config.max_outboxes,
            "outboxes beyond their limit",
        )?;
        check(self.inbound.total() <= self.config.max_inbound, "input beyond its limit")?;
        let in_time = match (self.timing.next_due(), tally.first_due) {
            (Some(next), Some(first)) => !is_after(next, first),
            (next, first) => next.is_none() && first.is_none(),
        };
        check(in_time, "would sleep beyond a deadline")?;
        let lanes = self.census.surplus() <= self.config.reserve + LANES_MAX;
        check(lanes, "more than the reserve are here to be refused")
    }
}

fn check(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}
