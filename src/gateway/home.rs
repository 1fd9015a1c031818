//! The channels whose home this core is: their order, their history, who is in them, and which
//! cores have subscribers.
//!
//! Owns one record per channel, which exists as long as somebody listens, is a member, or may
//! recover. Sends nothing itself: its methods give deliveries and answers to the hub. The
//! invariants: a channel's publications are counted without gaps while somebody listens; a record
//! that nothing needs does not exist.
//!
//! Memory is bounded: publications of all channels, records that nobody listens to and idempotency
//! keys have one account in bytes, as the allocator takes them; the records are counted, too. Over
//! a bound the oldest of a few looked at goes, which comes close to the oldest of all and needs no
//! order over channels. Publications and records may have half of the account each before the other
//! has to give. What goes that way is counted, and a client that wanted
//! to recover it is told so like after any other expiry.

mod handover;
#[cfg(test)]
mod handover_tests;
mod keep;
#[cfg(test)]
mod keep_tests;
pub(super) mod line;
mod mirror;
#[cfg(test)]
mod mirror_tests;
mod publish;
mod subscribe;
mod sweep;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::account::{heap, shared};
use super::delivery::{Delivery, Happening, Item};
use super::handover::HEIR;
use super::idempotency::{Capacity, Results};
use super::interned::{Interned, Named};
use super::letters::ChannelId;
use super::local::NONE;
use super::placement::Placement;
use super::presence::Roster;
use super::stream::{Epoch, Stream, StreamOptions};

pub(super) use handover::told;
pub(super) use keep::Restoring;
use line::Lines;
pub(crate) use publish::COPIES_MAX;
pub(in crate::gateway) use publish::Published;
use sweep::Sweep;

/// How much the channels of one core may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HomeLimits {
    /// Bytes of publications kept (for recovery, or to make patches of), of channels that nobody
    /// listens to, and of idempotency keys. Over it, old ones are dropped before their time.
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
    /// `channel_position_max_time_lag`: a publication that a broker passes on later than this has
    /// its channel's position compared with the broker's at once. Zero: none has.
    pub position_lag: Duration,
    /// Deliveries of publications of one call of the server API to subscribers of this core, after
    /// which the rest of the call waits for the next turn: publications that leave together cost a
    /// subscriber one send, and others wait meanwhile.
    pub turn_deliveries: u64,
}

impl Default for HomeLimits {
    /// 256 MiB, 1,000,000 channels, 64 MiB of filters, 100,000 keys, 40 s, no lag, 131,072
    /// deliveries.
    fn default() -> Self {
        Self {
            history_bytes: 256 << 20,
            idle_channels: 1_000_000,
            filter_bytes: 64 << 20,
            idempotency_keys: 100_000,
            position_check: Duration::from_secs(40),
            position_lag: Duration::ZERO,
            turn_deliveries: 128 << 10,
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
    /// Never changed.
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

impl Named for Channel {
    fn name(&self) -> &Arc<str> {
        &self.name
    }
}

impl Channel {
    fn is_idle(&self) -> bool {
        self.listeners.is_empty()
    }

    /// Subscribers, on all cores. How many an heir has is not known.
    fn receivers(&self) -> u32 {
        let here = self.listeners.iter().filter(|listener| listener.core != HEIR);
        here.map(|listener| listener.count).sum()
    }

    fn is_needed(&self) -> bool {
        !self.is_idle() || self.stream.is_some()
    }

    /// The publication that only patches need.
    fn stray(&self) -> Option<&Arc<Item>> {
        let retained =
            |last: &&Arc<Item>| self.stream.as_ref().is_some_and(|stream| stream.retains(last));
        self.last.as_ref().filter(|last| !retained(last))
    }

    /// When the oldest publication was published that is kept here.
    fn oldest(&self) -> Option<Duration> {
        let retained = self.stream.as_ref().and_then(|stream| stream.oldest());
        retained.or_else(|| self.last.as_ref().map(|last| last.at))
    }

    fn drop_oldest(&mut self) {
        match &mut self.stream {
            Some(stream) if !stream.is_empty() => stream.drop_oldest(),
            // The next publication goes to everybody whole.
            _ => self.last = None,
        }
    }

    fn share(&self) -> Share {
        let retained = self.stream.as_ref().map_or(0, |stream| stream.bytes());
        let record = match self.is_idle() {
            true => {
                let stream = self.stream.as_ref().map_or(0, |stream| stream.overhead());
                shared(self.name.len()) + stream
            }
            false => 0,
        };
        Share { items: retained + self.stray().map_or(0, |last| last.cost()), record }
    }
}

/// What a channel takes of the account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Share {
    /// Of publications.
    items: usize,
    /// Of what is remembered of it while nobody listens.
    record: usize,
}

/// The channels of one core.
#[derive(Debug)]
pub struct Home {
    core: u16,
    placement: Placement,
    limits: HomeLimits,
    channels: Interned<Channel>,
    results: Results,
    /// The sum of all channels' shares.
    held: Share,
    /// Keys of channels with publications.
    stored: Vec<u32>,
    /// One more than the highest key of a channel so far.
    keys: usize,
    /// Where the last look for something to drop ended: in `stored`, and in `channels`.
    hands: [usize; 2],
    /// Channels that nobody listens to.
    idle: usize,
    /// Bytes of answers to `presence` that are kept.
    copies: usize,
    /// Keys of channels with such answers, the oldest first.
    copied: VecDeque<u32>,
    /// Channels with listeners that missed something. May name channels that have gone.
    missed: Vec<u32>,
    /// Of channels that a broker orders.
    lines: Lines,
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
            channels: Interned::new(placement),
            results: Results::new(
                placement,
                Capacity { keys: limits.idempotency_keys, bytes: limits.history_bytes / 8 },
            ),
            held: Share::default(),
            stored: Vec::new(),
            keys: 0,
            hands: [0; 2],
            idle: 0,
            copies: 0,
            copied: VecDeque::new(),
            missed: Vec::new(),
            lines: Lines::default(),
            sweep: Sweep::default(),
            counters: HomeCounters::default(),
        }
    }

    /// How much there may be.
    pub(super) fn limits(&self) -> &HomeLimits {
        &self.limits
    }

    /// Channels that exist, for whatever reason.
    pub fn len(&self) -> usize {
        self.channels.len()
    }

    /// Whether nothing is left of anything.
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty()
            && self.stored.is_empty()
            && self.results.len() == 0
            && self.held == Share::default()
            && self.idle == 0
            && self.copies == 0
            && self.copied.is_empty()
            && self.lines.is_empty()
    }

    /// Channels with subscribers.
    pub fn active(&self) -> usize {
        self.channels.len() - self.idle
    }

    /// What counts towards [`HomeLimits::history_bytes`].
    pub fn history_bytes(&self) -> usize {
        self.held.items + self.records() + self.results.bytes()
    }

    /// What channels that nobody listens to take, with their part of the tables.
    fn records(&self) -> usize {
        let records = self.channels.capacity() * size_of::<Option<Channel>>();
        let keys = (self.stored.capacity() + self.missed.capacity()) * size_of::<u32>();
        let tables = heap(records) + heap(keys) + self.channels.table_size();
        let part = match self.channels.len() {
            0 => 0,
            all => (tables as u128 * self.idle as u128 / all as u128) as usize,
        };
        self.held.record + part
    }

    /// Idempotency keys that are remembered.
    pub fn idempotency_keys(&self) -> usize {
        self.results.len()
    }

    /// What happened so far.
    pub fn counters(&self) -> HomeCounters {
        self.counters
    }

    /// Channels with subscribers, how many, and how often something was published in each.
    pub fn channels(&self) -> impl Iterator<Item = (&Arc<str>, u32, u64)> {
        let active = self.channels.iter().filter(|(_, channel)| !channel.is_idle());
        active.map(|(_, channel)| (&channel.name, channel.receivers(), channel.seq))
    }

    fn id(&self, key: u32) -> ChannelId {
        ChannelId(u64::from(key) * self.placement.cores() as u64 + u64::from(self.core) + 1)
    }

    fn find(&self, name: &str) -> Option<u32> {
        self.channels.find(name)
    }

    /// The channel of this name, which exists from here on.
    fn intern(&mut self, name: &Arc<str>) -> u32 {
        if let Some(key) = self.find(name) {
            return key;
        }
        if self.idle >= self.limits.idle_channels.max(1) {
            self.forget_an_idle_one(false);
        }
        self.channels.grow_by_a_quarter();
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
        });
        self.idle += 1;
        self.held.record += self.channels[key].share().record;
        self.keys = self.keys.max(key as usize + 1);
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
        let begin = || Box::new(Stream::new(Epoch::new(random), options, now));
        self.change(key, |channel| {
            // A new life, unless somebody listens: then the old one goes on.
            if channel.is_idle() && channel.stream.as_ref().is_some_and(|it| it.is_over(now)) {
                channel.stream = None;
            }
            if channel.stream.is_none() {
                channel.at_top = false;
            }
            let stream = channel.stream.get_or_insert_with(begin);
            stream.expire(now);
            stream.touch(options, now);
        });
        self.channels[key].stream.get_or_insert_with(begin)
    }

    /// Lets a channel's publications vanish if it is time.
    fn expire(&mut self, key: u32, now: Duration) {
        self.change(key, |channel| {
            if let Some(stream) = &mut channel.stream {
                stream.expire(now);
            }
        });
    }

    /// Does something to a channel, and keeps the account. Nothing else may change what it holds.
    fn change<T>(&mut self, key: u32, change: impl FnOnce(&mut Channel) -> T) -> T {
        let channel = &mut self.channels[key];
        let (before, was_idle) = (channel.share(), channel.is_idle());
        let result = change(channel);
        let (after, is_idle) = (channel.share(), channel.is_idle());
        self.held.items = self.held.items + after.items - before.items;
        self.held.record = self.held.record + after.record - before.record;
        self.idle = self.idle + usize::from(is_idle) - usize::from(was_idle);
        match (after.items > 0, channel.stored) {
            (true, NONE) => {
                channel.stored = self.stored.len() as u32;
                if self.stored.len() == self.stored.capacity() {
                    self.stored.reserve_exact(self.stored.len() / 4 + 8);
                }
                self.stored.push(key);
            }
            (false, place) if place != NONE => {
                channel.stored = NONE;
                self.stored.swap_remove(place as usize);
                if let Some(moved) = self.stored.get(place as usize) {
                    self.channels[*moved].stored = place;
                }
            }
            _ => {}
        }
        result
    }

    /// Drops old publications and records until the rest is within the limit.
    pub(super) fn make_room(&mut self) {
        let limit = self.limits.history_bytes;
        while self.history_bytes() > limit {
            let records_first = self.held.items <= limit / 2 && self.forget_an_idle_one(true);
            if !records_first && !self.drop_an_old_one() && !self.forget_an_idle_one(false) {
                return;
            }
        }
    }

    /// Drops the oldest publication, of those looked at. False if there is none.
    fn drop_an_old_one(&mut self) -> bool {
        let oldest = self.look(0, self.stored.len(), |home, place| {
            let key = home.stored[place];
            home.channels[key].oldest().map(|at| (at, key))
        });
        let Some(key) = oldest else { return false };
        self.change(key, Channel::drop_oldest);
        self.counters.history_dropped += 1;
        true
    }

    /// Forgets the idle channel that was not used for longest, of those looked at; `bare`: and that
    /// has no publications. False if none of them is.
    fn forget_an_idle_one(&mut self, bare: bool) -> bool {
        let unused = self.look(1, self.keys, |home, place| {
            let key = place as u32;
            let channel = home.channels.get(key).filter(|channel| channel.is_idle())?;
            let stream = channel.stream.as_ref().filter(|stream| !bare || stream.is_empty())?;
            Some((stream.meta_until(), key))
        });
        let Some(key) = unused else { return false };
        self.forget(key);
        self.counters.channels_dropped += 1;
        true
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
        if !self.channels[key].is_needed() {
            self.forget(key);
        }
    }

    /// Forgets a channel that nobody listens to.
    fn forget(&mut self, key: u32) {
        self.change(key, |channel| {
            channel.stream = None;
            channel.last = None;
        });
        let channel = self.channels.remove(key);
        self.held.record -= channel.share().record;
        self.idle -= 1;
        self.lines.remove(key);
        if self.channels.is_empty() {
            self.stored = Vec::new();
            self.keys = 0;
        }
    }

    fn delivery(&self, key: u32, happening: Happening) -> Arc<Delivery> {
        let name = self.channels[key].name.clone();
        Arc::new(Delivery::new(self.id(key), name, happening))
    }

    /// The core of the n-th listener of a channel.
    pub(super) fn listener(&self, key: u32, n: usize) -> Option<u16> {
        let channel = self.channels.get(key)?;
        channel.listeners.get(n).map(|listener| listener.core)
    }

    /// The cores with listeners of a channel.
    pub(super) fn listeners(&self, name: &str) -> impl Iterator<Item = u16> {
        let channel = self.find(name).and_then(|key| self.channels.get(key));
        channel.into_iter().flat_map(|channel| &channel.listeners).map(|listener| listener.core)
    }

    /// A delivery did not get to the n-th listener.
    pub(super) fn refused(&mut self, key: u32, n: usize, delivery: &Delivery) {
        self.counters.deliveries_refused += 1;
        let Happening::Published { item, .. } = &delivery.happening else { return };
        let Some(channel) = self.channels.get_mut(key) else { return };
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
