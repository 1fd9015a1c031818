//! What a simulation needs from inside the engine: a worker on any ring, and an audit of its books.
//!
//! Owns the list of invariants that hold between two turns, each a relation between two places that
//! keep the same fact. Never changes anything. Not part of the public interface.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::addresses::{Addresses, address_key};
use super::config::Config;
use super::core::Core;
use super::handler::Handler;
use super::links::{Handle, Network, Post};
use super::mailbox::Mailbox;
use super::ring::{Doorbell, Ring};
use super::rng::Rng;
use super::slots::{Flags, Hot, NO_SUBSCRIPTION, Phase};
use super::timing::FORGIVEN;
use super::worker::Worker;

/// The only worker of a server, on the given ring, with a table of `table` direct descriptors.
pub fn assemble<R: Ring, H: Handler>(
    ring: R,
    config: Config,
    handler: H,
    table: u32,
    seed: u64,
    doorbell: Box<dyn Doorbell>,
) -> (Worker<R, H>, Handle<H>) {
    let config = Arc::new(config);
    let post = Arc::new(Post { mailbox: Mailbox::new(config.mailbox, doorbell) });
    let network = Arc::new(Network { posts: vec![post.clone()] });
    let total = Arc::new(AtomicU32::new(0));
    let addresses = Arc::new(Addresses::default());
    let core = Core::new(config, 0, network.clone(), total, addresses, Rng::new(seed));
    (Worker::new(ring, core, handler, post, table), Handle::new(network))
}

impl<R: Ring, H: Handler> Worker<R, H> {
    /// Checks every invariant that holds between two turns; describes the first one broken.
    pub fn audit(&mut self) -> Result<(), String> {
        let mut tally = Tally::default();
        let live: Vec<u32> = self.core.slots.iter().map(|(slot, _)| slot).collect();
        for slot in &live {
            let stated = self.states.get_mut(*slot).is_some();
            self.core.audit_connection(*slot, stated).map_err(|what| {
                let hot = self.core.slots.get(*slot);
                format!("slot {slot}: {what}\n  {hot:?}")
            })?;
            self.core.tally(*slot, &mut tally);
        }
        self.core.audit_sums(&tally)?;
        check(self.states.used() == tally.announced, "a state outlived its connection")?;
        check(self.core.notices.is_empty(), "a notice was not delivered")
    }

    /// Whether nothing is held for anybody: how a worker has to be when it has finished.
    pub fn audit_end(&mut self) -> Result<(), String> {
        self.audit()?;
        let core = &self.core;
        check(core.slots.used() == 0, "connections are left")?;
        check(core.topics.is_empty() && core.topics.subscriptions() == 0, "topics are left")?;
        check(core.heads.is_empty() && core.dials.is_empty(), "handshakes are left")?;
        check(core.passing.is_empty(), "connections on their way out are left")?;
        check(core.wheel.armed() == 0, "timers are left")?;
        check(core.addresses.all().is_empty(), "addresses are left")?;
        check(core.inbound_held == 0 && core.outbox_held == 0, "bytes are held for nobody")
    }

    /// Whether the connection in this slot relies on the ring to announce its next input.
    pub fn awaits_input(&self, slot: u32) -> bool {
        self.core.slots.get(slot).is_some_and(|hot| match hot.phase {
            Phase::Open => !hot.has(Flags::HELD | Flags::READY),
            Phase::Handshake | Phase::Closing | Phase::Lingering => !hot.has(Flags::READY),
            _ => false,
        })
    }

    /// Whether the connection in this slot has been told to leave its input unread.
    pub fn is_held(&self, slot: u32) -> bool {
        self.core.slots.get(slot).is_some_and(|hot| hot.has(Flags::HELD))
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
    counted: u32,
    settled: usize,
    partial: usize,
    subscriptions: usize,
    heads: usize,
    addresses: HashMap<u64, u32>,
}

impl Core {
    fn audit_connection(&self, slot: u32, stated: bool) -> Result<(), String> {
        let Some(hot) = self.slots.get(slot) else { return Err("not there".to_owned()) };
        let (open, gone) = (hot.phase == Phase::Open, hot.phase == Phase::Closed);
        check(hot.has(Flags::ANNOUNCED) == open, "announced if and only if open")?;
        check(stated == open, "has a state if and only if open")?;
        check(open || hot.subscriptions == NO_SUBSCRIPTION, "only the open subscribe")?;
        check(!(open && hot.has(Flags::CLOSE_SENT)), "open behind its close frame")?;
        let queued = self.ready.contains(&slot) || self.eager.contains(&slot);
        check(!hot.has(Flags::READY) || queued, "READY in no queue")?;
        let stream = hot.has(Flags::STREAM);
        check(!stream || hot.partial.is_none(), "a message on a stream")?;
        check(!stream || !hot.has(Flags::PAUSED), "a stream that does not hear its end")?;
        check(!stream || hot.phase != Phase::Closing, "a stream awaits a close frame")?;
        let marks = self.dirty.iter().filter(|dirty| **dirty == slot).count();
        check(marks == usize::from(hot.has(Flags::DIRTY)), "DIRTY and the list disagree")?;
        check(
            !hot.has(Flags::THROTTLED)
                || self.throttled.iter().any(|(s, g, _)| (*s, *g) == (slot, hot.generation)),
            "throttled for ever",
        )?;
        let head = self.heads.contains_key(&slot);
        check(!head || hot.phase == Phase::Handshake, "a head after the handshake")?;
        let passing = self.passing.contains_key(&slot);
        check(passing == (hot.phase == Phase::Passing), "passes without its bytes, or they stay")?;
        let unheard =
            matches!(hot.phase, Phase::Connecting | Phase::Passing | Phase::Flushing) || gone;
        let looked_at = hot.has(Flags::READY | Flags::HELD);
        check(unheard || looked_at || hot.has(Flags::POLL), "nobody listens")?;
        self.audit_timer(hot)?;
        if gone {
            check(hot.outbox.is_none() && hot.partial.is_none(), "memory of the gone")?;
            return check(!hot.has(Flags::BLOCKED | Flags::SURPLUS), "counted though gone");
        }
        self.audit_outbox(hot)
    }

    fn audit_timer(&self, hot: &Hot) -> Result<(), String> {
        let due = hot.timer.due();
        match hot.phase {
            Phase::Closed => check(due.is_none(), "a timer of the gone"),
            Phase::Open => match self.open_deadline(hot) {
                // Earlier is lazy, later is a bug, but for the ticks that a stalled core forgives.
                Some(limit) => check(
                    due.is_some_and(|due| due <= limit.max(self.wheel.now() + FORGIVEN)),
                    "a deadline that nobody watches",
                ),
                None => Ok(()),
            },
            _ => check(due.is_some(), "a phase without end"),
        }
    }

    fn audit_outbox(&self, hot: &Hot) -> Result<(), String> {
        let blocked = hot.has(Flags::BLOCKED);
        check(!blocked || hot.has(Flags::POLL_OUT), "blocked, and nobody waits for room")?;
        let Some(outbox) = &hot.outbox else {
            check(!blocked, "blocked with nothing to send")?;
            check(!hot.has(Flags::PAUSED), "paused with nothing to send")?;
            let leaving = hot.phase == Phase::Flushing;
            return check(!leaving || hot.has(Flags::DIRTY), "leaves, and nobody looks");
        };
        outbox.audit(self.cork.len(), hot.has(Flags::DIRTY))?;
        check(blocked || hot.has(Flags::DIRTY), "something to send, and nobody does")
    }

    fn tally(&mut self, slot: u32, tally: &mut Tally) {
        let peer = self.slots.cold(slot).map(|cold| cold.peer());
        let Some(hot) = self.slots.get(slot) else { return };
        tally.connections += 1;
        tally.timers += u32::from(hot.timer.due().is_some());
        tally.first_due = tally.first_due.into_iter().chain(hot.timer.due()).min();
        tally.announced += u32::from(hot.has(Flags::ANNOUNCED));
        tally.blocked += u64::from(hot.has(Flags::BLOCKED));
        tally.surplus += u32::from(hot.has(Flags::SURPLUS));
        tally.settled += hot.outbox.as_ref().map_or(0, |outbox| outbox.settled);
        tally.partial += hot.partial.as_ref().map_or(0, |partial| partial.memory());
        tally.subscriptions += self.topics.audit(slot, hot.subscriptions);
        tally.heads += usize::from(self.heads.contains_key(&slot));
        tally.partial += self.heads.get(&slot).map_or(0, |head| head.held());
        tally.streams += u64::from(hot.phase == Phase::Open && hot.has(Flags::STREAM));
        if hot.has(Flags::COUNTED) {
            tally.counted += 1;
            let limited = self.config.max_per_address > 0 && hot.has(Flags::KNOWN);
            if let (Some(peer), true) = (peer, limited) {
                *tally.addresses.entry(address_key(peer.ip())).or_default() += 1;
            }
        }
    }

    fn audit_sums(&self, tally: &Tally) -> Result<(), String> {
        let pairs = [
            ("slots used", u64::from(self.slots.used()), u64::from(tally.connections)),
            ("timers armed", u64::from(self.wheel.armed()), u64::from(tally.timers)),
            ("open", self.open, u64::from(tally.announced)),
            ("opened - closed", self.counted.opened - self.counted.closed, self.open),
            ("streams", self.streams, tally.streams),
            ("blocked", self.blocked, tally.blocked),
            ("surplus", u64::from(self.surplus), u64::from(tally.surplus)),
            ("total", u64::from(self.total.load(Ordering::Relaxed)), u64::from(tally.counted)),
            ("outbox bytes", self.outbox_held as u64, tally.settled as u64),
            ("inbound bytes", self.inbound_held as u64, tally.partial as u64),
            ("subscriptions", self.topics.subscriptions() as u64, tally.subscriptions as u64),
            ("heads", self.heads.len() as u64, tally.heads as u64),
        ];
        for (name, kept, summed) in pairs {
            check(kept == summed, &format!("{name}: {kept} kept, {summed} found"))?;
        }
        let in_time = match (self.wheel.next_due(), tally.first_due) {
            (Some(next), Some(first)) => next <= first,
            (next, first) => next.is_none() && first.is_none(),
        };
        check(in_time, "would sleep beyond a deadline")?;
        check(self.addresses.all() == tally.addresses, "the table of addresses is wrong")?;
        let queued =
            !(self.polls.is_empty() && self.releases.is_empty() && self.installs.is_empty());
        check(!queued && self.shutdowns.is_empty(), "ring work was not handed over")
    }
}

fn check(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}
