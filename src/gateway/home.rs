//! The channels whose home this core is: their order, their history, who is in them, and which
//! cores have subscribers.
//!
//! Owns one record per channel, which exists as long as somebody listens, is a member, or may
//! recover. Sends nothing itself: its methods give deliveries and answers to the hub. The
//! invariants: a channel's publications are counted without gaps while somebody listens; a record
//! that nothing needs does not exist.
//!
//! Memory is bounded: retained publications of all channels by bytes, records that nobody listens
//! to by number. Over a bound the oldest of a few looked at goes, which comes close to the oldest
//! of all and needs no order over channels. What goes that way is counted, and a client that wanted
//! to recover it is told so like after any other expiry.

mod publish;
mod subscribe;
mod sweep;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashTable;
use slab::Slab;

use super::delivery::{Delivery, Happening, Item};
use super::idempotency::Results;
use super::letters::ChannelId;
use super::local::NONE;
use super::placement::Placement;
use super::presence::Roster;
use super::stream::{Epoch, Stream, StreamOptions};

use sweep::Sweep;

/// How much the channels of one core may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HomeLimits {
    /// Bytes of retained publications. Over it, old ones are dropped before their time.
    pub history_bytes: usize,
    /// Channels that only have a history, or had one. Over it, the longest unused are forgotten.
    pub idle_channels: usize,
    /// Bytes of tag filters of subscriptions on this core. One more is refused.
    pub filter_bytes: usize,
    /// Idempotency keys. Over it, the oldest are forgotten.
    pub idempotency_keys: usize,
    /// `channel_position_check_delay`: how often subscribers' positions are compared with the top,
    /// and idle channels are looked at.
    pub position_check: Duration,
}

impl Default for HomeLimits {
    /// 256 MiB, 1,000,000 channels, 64 MiB of filters, 100,000 keys, 40 s.
    fn default() -> Self {
        Self {
            history_bytes: 256 << 20,
            idle_channels: 1_000_000,
            filter_bytes: 64 << 20,
            idempotency_keys: 100_000,
            position_check: Duration::from_secs(40),
        }
    }
}

/// What happened to the channels of one core so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HomeCounters {
    /// Publications.
    pub published: u64,
    /// Publications that an idempotency key or a version kept back.
    pub suppressed: u64,
    /// Recoveries that gave everything.
    pub recovered: u64,
    /// Recoveries that could not.
    pub unrecovered: u64,
    /// Publications dropped from histories because of [`HomeLimits::history_bytes`].
    pub history_dropped: u64,
    /// Channels forgotten because of [`HomeLimits::idle_channels`].
    pub channels_dropped: u64,
    /// Deliveries that another core's full mailbox did not take.
    pub deliveries_refused: u64,
}

/// Subscribers on one core.
#[derive(Clone, Copy, Debug)]
struct Listener {
    core: u16,
    /// A publication with an offset did not get there, and nobody told the core so far.
    missed: bool,
    count: u32,
}

#[derive(Debug)]
struct Channel {
    name: Arc<str>,
    /// Counts publications, of whatever kind.
    seq: u64,
    listeners: Vec<Listener>,
    stream: Option<Box<Stream>>,
    roster: Option<Box<Roster>>,
    /// The publication before, where patches are made. One per channel with deltas is kept beyond
    /// its history.
    last: Option<Arc<Item>>,
    /// How many subscribers want joins and leaves.
    hears: u32,
    /// Place in the list of channels with retained publications.
    stored: u32,
    /// The last publication is the stream's top.
    at_top: bool,
}

const _: () = assert!(size_of::<Option<Channel>>() <= 88);

impl Channel {
    fn is_idle(&self) -> bool {
        self.listeners.is_empty()
    }

    fn is_needed(&self) -> bool {
        !self.is_idle() || self.stream.is_some()
    }
}

/// The channels of one core.
#[derive(Debug)]
pub struct Home {
    core: u16,
    placement: Placement,
    limits: HomeLimits,
    channels: Slab<Channel>,
    names: HashTable<u32>,
    results: Results,
    /// Retained publications.
    bytes: usize,
    /// Keys of channels with retained publications.
    stored: Vec<u32>,
    /// One more than the highest key of a channel so far.
    keys: usize,
    /// Where the last look for something to drop ended: in `stored`, and in `channels`.
    hands: [usize; 2],
    /// Channels that nobody listens to.
    idle: usize,
    /// Channels with listeners that missed something. May name channels that have gone.
    missed: Vec<u32>,
    sweep: Sweep,
    counters: HomeCounters,
}

impl Home {
    /// No channels.
    pub fn new(core: u16, placement: Placement, limits: HomeLimits) -> Self {
        Self {
            core,
            placement,
            limits,
            channels: Slab::new(),
            names: HashTable::new(),
            results: Results::new(limits.idempotency_keys),
            bytes: 0,
            stored: Vec::new(),
            keys: 0,
            hands: [0; 2],
            idle: 0,
            missed: Vec::new(),
            sweep: Sweep::default(),
            counters: HomeCounters::default(),
        }
    }

    /// Channels that exist, for whatever reason.
    pub fn len(&self) -> usize {
        self.channels.len()
    }

    /// Whether nothing is left of anything.
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty()
            && self.names.is_empty()
            && self.stored.is_empty()
            && self.results.len() == 0
            && self.bytes == 0
            && self.idle == 0
    }

    /// Channels with subscribers.
    pub fn active(&self) -> usize {
        self.channels.len() - self.idle
    }

    /// Bytes of retained publications.
    pub fn history_bytes(&self) -> usize {
        self.bytes
    }

    /// Idempotency keys that are remembered.
    pub fn idempotency_keys(&self) -> usize {
        self.results.len()
    }

    /// What happened so far.
    pub fn counters(&self) -> HomeCounters {
        self.counters
    }

    /// Channels with subscribers, and how many.
    pub fn channels(&self) -> impl Iterator<Item = (&Arc<str>, u32)> {
        let active = self.channels.iter().filter(|(_, channel)| !channel.is_idle());
        active.map(|(_, channel)| {
            (&channel.name, channel.listeners.iter().map(|listener| listener.count).sum())
        })
    }

    fn id(&self, key: u32) -> ChannelId {
        ChannelId(u64::from(key) * self.placement.cores() as u64 + u64::from(self.core) + 1)
    }

    fn find(&self, name: &str) -> Option<u32> {
        let is_it = |key: &u32| *self.channels[*key as usize].name == *name;
        self.names.find(self.placement.hash(name), is_it).copied()
    }

    /// The channel of this name, which exists from here on.
    fn intern(&mut self, name: &Arc<str>) -> u32 {
        if let Some(key) = self.find(name) {
            return key;
        }
        if self.idle >= self.limits.idle_channels.max(1) {
            self.forget_an_idle_one();
        }
        let key = self.channels.insert(Channel {
            name: name.clone(),
            seq: 0,
            listeners: Vec::new(),
            stream: None,
            roster: None,
            last: None,
            hears: 0,
            stored: NONE,
            at_top: false,
        }) as u32;
        self.idle += 1;
        self.keys = self.keys.max(key as usize + 1);
        let Self { placement, channels, names, .. } = self;
        let rehash = |key: &u32| placement.hash(&channels[*key as usize].name);
        names.insert_unique(placement.hash(name), key, rehash);
        key
    }

    /// The stream of a channel, which exists from here on; used, and with nothing expired in it.
    fn stream(
        &mut self,
        key: u32,
        options: &StreamOptions,
        random: u64,
        now: Duration,
    ) -> &mut Stream {
        if self.channels[key as usize].stream.as_ref().is_some_and(|stream| stream.is_over(now)) {
            self.end_idle_stream(key);
        }
        self.expire(key, now);
        let channel = &mut self.channels[key as usize];
        let stream = channel.stream.get_or_insert_with(|| {
            channel.at_top = false;
            Box::new(Stream::new(Epoch::new(random), options, now))
        });
        stream.touch(options, now);
        stream
    }

    /// Ends a stream whose time is over, so that the next use begins a new life, unless somebody
    /// listens: then the old life goes on.
    fn end_idle_stream(&mut self, key: u32) {
        let channel = &mut self.channels[key as usize];
        if channel.is_idle() {
            channel.stream = None;
        }
    }

    /// Lets a channel's publications vanish if it is time.
    fn expire(&mut self, key: u32, now: Duration) {
        self.change(key, |stream| stream.expire(now));
    }

    /// Does something to a channel's stream, if it has one, and keeps count of what it retains.
    fn change<T>(&mut self, key: u32, change: impl FnOnce(&mut Stream) -> T) -> Option<T> {
        let channel = &mut self.channels[key as usize];
        let stream = channel.stream.as_mut()?;
        self.bytes -= stream.bytes();
        let result = change(stream);
        self.bytes += stream.bytes();
        match (stream.is_empty(), channel.stored) {
            (false, NONE) => {
                channel.stored = self.stored.len() as u32;
                self.stored.push(key);
            }
            (true, place) if place != NONE => {
                channel.stored = NONE;
                self.stored.swap_remove(place as usize);
                if let Some(moved) = self.stored.get(place as usize) {
                    self.channels[*moved as usize].stored = place;
                }
            }
            _ => {}
        }
        Some(result)
    }

    /// Drops old publications until the rest is within the limit.
    fn make_room(&mut self) {
        while self.bytes > self.limits.history_bytes && !self.stored.is_empty() {
            let oldest = self.look(0, self.stored.len(), |home, place| {
                let key = home.stored[place];
                let stream = home.channels[key as usize].stream.as_ref()?;
                stream.oldest().map(|at| (at, key))
            });
            let Some(key) = oldest else { return };
            self.change(key, Stream::drop_oldest);
            self.counters.history_dropped += 1;
        }
    }

    /// Forgets the idle channel that was not used for longest, of those looked at.
    fn forget_an_idle_one(&mut self) {
        let unused = self.look(1, self.keys, |home, key| {
            let channel = home.channels.get(key).filter(|channel| channel.is_idle())?;
            channel.stream.as_ref().map(|stream| (stream.meta_until(), key as u32))
        });
        let Some(key) = unused else { return };
        self.forget(key);
        self.counters.channels_dropped += 1;
    }

    /// The least of the next few candidates after the hand. Looks at no more than 64 places.
    fn look<T: Ord>(
        &mut self,
        hand: usize,
        places: usize,
        candidate: impl Fn(&Self, usize) -> Option<(T, u32)>,
    ) -> Option<u32> {
        const CANDIDATES: usize = 8;
        const PLACES: usize = 64;
        let mut hand_at = self.hands[hand];
        let found = (0..places.min(PLACES)).filter_map(|_| {
            hand_at = (hand_at + 1) % places;
            candidate(self, hand_at)
        });
        let least = found.take(CANDIDATES).min();
        self.hands[hand] = hand_at;
        least.map(|(_, key)| key)
    }

    /// Forgets a channel if nothing needs it.
    fn tidy(&mut self, key: u32) {
        if !self.channels[key as usize].is_needed() {
            self.forget(key);
        }
    }

    /// Forgets a channel that nobody listens to.
    fn forget(&mut self, key: u32) {
        self.change(key, Stream::clear);
        let channel = self.channels.remove(key as usize);
        self.idle -= 1;
        let hash = self.placement.hash(&channel.name);
        if let Ok(entry) = self.names.find_entry(hash, |of| *of == key) {
            entry.remove();
        }
        if self.channels.is_empty() {
            self.channels = Slab::new();
            self.names = HashTable::new();
            self.stored = Vec::new();
            self.keys = 0;
        }
    }

    fn delivery(&self, key: u32, happening: Happening) -> Arc<Delivery> {
        let name = self.channels[key as usize].name.clone();
        Arc::new(Delivery::new(self.id(key), name, happening))
    }

    /// The core of the n-th listener of a channel.
    pub(super) fn listener(&self, key: u32, n: usize) -> Option<u16> {
        let channel = self.channels.get(key as usize)?;
        channel.listeners.get(n).map(|listener| listener.core)
    }

    /// A delivery did not get to the n-th listener.
    pub(super) fn refused(&mut self, key: u32, n: usize, delivery: &Delivery) {
        self.counters.deliveries_refused += 1;
        let Happening::Published { item, .. } = &delivery.happening else { return };
        let Some(channel) = self.channels.get_mut(key as usize) else { return };
        if item.offset == 0 {
            return;
        }
        if !channel.listeners.iter().any(|listener| listener.missed) {
            self.missed.push(key);
        }
        if let Some(listener) = channel.listeners.get_mut(n) {
            listener.missed = true;
        }
    }
}
