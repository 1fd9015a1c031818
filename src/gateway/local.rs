//! The subscribers of one core: who listens here, how far each has come, and what goes to whom.
//!
//! Owns the subscriptions, and for each channel with subscribers here its name and their list.
//! Knows no history and no other core. The invariant: a subscription is in its connection's list,
//! and in its channel's members once the home core has let it in; a channel without subscriptions
//! does not exist here.
//!
//! Letters from a home core arrive in order, so what comes before a subscription's answer is not
//! for it, and what comes after it is: there is nothing to merge.

mod deliver;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use slab::Slab;

use super::account::shared;
use super::filter::Filter;
use super::format::Format;
use super::hub_port::{ClientKey, Link, SubKey};
use super::interned::{Interned, Named};
use super::letters::{ChannelId, SubscribedLetter};
use super::placement::Placement;
use super::users::Client;

pub(super) use deliver::Loss;

/// No key of a slab.
pub(super) const NONE: u32 = u32::MAX;

/// What a subscription wants of its channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// Publications must not be missed.
    pub positioned: bool,
    /// The client may recover.
    pub recoverable: bool,
    /// Publications as patches.
    pub delta: bool,
    /// The channel's number instead of its name in pushes.
    pub compact: bool,
    /// Joins and leaves.
    pub joins: bool,
    /// It was not the client that asked for it.
    pub server_side: bool,
    /// A connection token did.
    pub by_token: bool,
}

/// A subscription, as others see it.
#[derive(Clone, Debug)]
pub struct Subscription<'a> {
    /// Its key.
    pub key: SubKey,
    /// Its channel.
    pub channel: &'a Arc<str>,
    /// What it wants.
    pub wants: Wants,
    /// The home core has not answered yet.
    pub pending: bool,
}

const COMPACT: u16 = 2;
const POSITIONED: u16 = 4;
const RECOVERABLE: u16 = 8;
const JOINS: u16 = 16;
const SERVER_SIDE: u16 = 32;
const FILTERED: u16 = 64;
/// The home core keeps who it is.
const MEMBER: u16 = 128;
const DELTA: u16 = 256;
/// It has the channel's last publication, so it can apply a patch.
const PRIMED: u16 = 512;
/// A connection token grants it.
const BY_TOKEN: u16 = 1024;
/// Where the three bits of its format begin.
const FORMAT_SHIFT: u16 = 13;

#[derive(Clone, Debug)]
struct Sub {
    /// A copy of the connection's, so that a delivery looks at one record per subscriber.
    link: Link,
    /// The last offset that was sent to it. While it is pending: its nonce.
    last: u64,
    client: ClientKey,
    channel: u32,
    /// Next of the same connection.
    next: u32,
    /// Position in the channel's members.
    place: u32,
    flags: u16,
    /// A type with spare values, where the slab keeps its own mark.
    pending: bool,
}

// With 4 bytes in the channel's list this is what one more subscriber costs.
const _: () = assert!(size_of::<Sub>() <= 40 && size_of::<Option<Sub>>() == 40);

impl Sub {
    fn is(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    fn set(&mut self, flag: u16, on: bool) {
        self.flags = if on { self.flags | flag } else { self.flags & !flag };
    }
}

#[derive(Debug)]
struct Channel {
    name: Arc<str>,
    /// As the home core calls it, while there are members.
    id: Option<ChannelId>,
    /// The last publication that came, while there are members.
    seq: u64,
    /// Keys of subscriptions.
    members: Vec<u32>,
    /// Subscriptions that are not members yet.
    pending: u32,
}

impl Named for Channel {
    fn name(&self) -> &Arc<str> {
        &self.name
    }
}

/// What there is to know of a subscription that ended.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    pub(super) sub: SubKey,
    pub(super) channel: Arc<str>,
    pub(super) server_side: bool,
    pub(super) joins: bool,
    pub(super) member: bool,
}

/// A subscription that begins.
pub(super) struct Begin {
    pub(super) wants: Wants,
    pub(super) member: bool,
    pub(super) filter: Option<Arc<Filter>>,
}

/// A subscription that began.
pub(super) struct Begun {
    pub(super) sub: SubKey,
    pub(super) nonce: u64,
    pub(super) channel: Arc<str>,
}

/// A subscription that the home core has let in.
pub(super) struct Confirmed {
    pub(super) link: Link,
    pub(super) channel: Arc<str>,
    pub(super) format: Format,
    pub(super) wants: Wants,
}

/// The subscriptions of one core.
#[derive(Debug)]
pub struct Locals {
    placement: Placement,
    channels: Interned<Channel>,
    ids: HashMap<ChannelId, u32>,
    subs: Slab<Sub>,
    /// Few subscriptions have one.
    filters: HashMap<u32, Arc<Filter>>,
    /// What they take.
    filter_bytes: usize,
    /// What subscriptions take besides, here and at home.
    bytes: usize,
    nonce: u64,
}

impl Locals {
    /// Nobody subscribes to anything.
    pub fn new(placement: Placement) -> Self {
        Self {
            placement,
            channels: Interned::new(placement),
            ids: HashMap::new(),
            subs: Slab::new(),
            filters: HashMap::new(),
            filter_bytes: 0,
            bytes: 0,
            nonce: 0,
        }
    }

    /// Subscriptions.
    pub fn len(&self) -> usize {
        self.subs.len()
    }

    /// Whether nothing is left of anybody.
    pub fn is_empty(&self) -> bool {
        self.subs.is_empty()
            && self.channels.is_empty()
            && self.ids.is_empty()
            && self.filters.is_empty()
            && self.filter_bytes == 0
            && self.bytes == 0
    }

    /// What subscriptions take here and on the home cores of their channels, if no two are of the
    /// same channel. Filters have an account of their own.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What the filters of subscriptions take.
    pub fn filter_bytes(&self) -> usize {
        self.filter_bytes
    }

    /// Adds a subscription to a connection's list, to wait for the home core. `None` if the
    /// connection has one of this channel.
    pub(super) fn begin(
        &mut self,
        key: ClientKey,
        client: &mut Client,
        name: &str,
        begin: Begin,
    ) -> Option<Begun> {
        let channel = self.intern(name);
        if self.find_in(client.head, channel).is_some() {
            return None;
        }
        self.nonce += 1;
        let mut sub = Sub {
            link: client.link(),
            last: self.nonce,
            client: key,
            channel,
            next: client.head,
            place: NONE,
            flags: u16::from(client.format().bits()) << FORMAT_SHIFT,
            pending: true,
        };
        let Begin { wants, member, filter } = begin;
        sub.set(COMPACT, wants.compact);
        sub.set(POSITIONED, wants.positioned);
        sub.set(RECOVERABLE, wants.recoverable);
        sub.set(JOINS, wants.joins);
        sub.set(SERVER_SIDE, wants.server_side);
        sub.set(BY_TOKEN, wants.by_token);
        sub.set(DELTA, wants.delta);
        sub.set(FILTERED, filter.is_some());
        sub.set(MEMBER, member);
        let sub = self.subs.insert(sub) as u32;
        self.bytes += subscription_cost(name);
        client.head = sub;
        client.subscriptions += 1;
        if let Some(filter) = filter {
            self.filter_bytes += cost(&filter);
            self.filters.insert(sub, filter);
        }
        let channel = &mut self.channels[channel];
        channel.pending += 1;
        Some(Begun { sub: SubKey(sub), nonce: self.nonce, channel: channel.name.clone() })
    }

    /// A channel with a subscription; it must get one.
    fn intern(&mut self, name: &str) -> u32 {
        if let Some(channel) = self.find_channel(name) {
            return channel;
        }
        let name = name.into();
        let channel = Channel { name, id: None, seq: 0, members: Vec::new(), pending: 0 };
        self.channels.insert(channel)
    }

    fn find_channel(&self, name: &str) -> Option<u32> {
        self.channels.find(name)
    }

    fn find_in(&self, head: u32, channel: u32) -> Option<u32> {
        self.list(head).find(|key| self.subs[*key as usize].channel == channel)
    }

    /// The keys of a connection's subscriptions.
    fn list(&self, head: u32) -> impl Iterator<Item = u32> {
        let some = |key: u32| (key != NONE).then_some(key);
        std::iter::successors(some(head), move |key| some(self.subs[*key as usize].next))
    }

    /// A connection's subscription to a channel.
    pub(super) fn find(&self, client: &Client, name: &str) -> Option<SubKey> {
        let channel = self.find_channel(name)?;
        self.find_in(client.head, channel).map(SubKey)
    }

    /// A subscription.
    pub fn get(&self, key: SubKey) -> Option<Subscription<'_>> {
        let sub = self.subs.get(key.0 as usize)?;
        Some(Subscription {
            key,
            channel: &self.channels[sub.channel].name,
            wants: sub.wants(),
            pending: sub.pending,
        })
    }

    /// Whether others can see who it is.
    pub(super) fn is_member(&self, key: SubKey) -> bool {
        self.subs.get(key.0 as usize).is_some_and(|sub| sub.is(MEMBER))
    }

    /// Whose a subscription is.
    pub(super) fn client(&self, key: SubKey) -> Option<ClientKey> {
        self.subs.get(key.0 as usize).map(|sub| sub.client)
    }

    /// A connection's subscriptions, the newest first.
    pub fn of(&self, client: &Client) -> impl Iterator<Item = Subscription<'_>> {
        self.list(client.head).filter_map(|key| self.get(SubKey(key)))
    }

    /// Makes a subscription a member of its channel. `None` if it ended before.
    pub(super) fn confirm(&mut self, letter: &SubscribedLetter) -> Option<Confirmed> {
        let key = letter.sub.0;
        let sub = self.subs.get_mut(key as usize)?;
        if !sub.pending || sub.last != letter.nonce {
            return None;
        }
        let channel = &mut self.channels[sub.channel];
        channel.pending -= 1;
        if channel.members.is_empty() {
            channel.id = Some(letter.channel);
            channel.seq = letter.seq;
            self.ids.insert(letter.channel, sub.channel);
            // Most channels of most servers have one subscriber; the second doubles as usual.
            channel.members.reserve_exact(1);
        }
        sub.pending = false;
        sub.place = channel.members.len() as u32;
        sub.last = letter.top.map_or(0, |top| top.offset);
        let primed = letter.recovered.as_ref().is_some_and(|recovered| recovered.primed);
        sub.set(PRIMED, primed && sub.is(DELTA));
        channel.members.push(key);
        let (link, format, wants) = (sub.link, sub.format(), sub.wants());
        Some(Confirmed { link, channel: channel.name.clone(), format, wants })
    }

    /// Ends a subscription of this connection.
    pub(super) fn end(&mut self, client: &mut Client, key: SubKey) -> Option<Ended> {
        self.subs.get(key.0 as usize)?;
        let before = self.list(client.head).find(|of| self.subs[*of as usize].next == key.0);
        let next = self.subs[key.0 as usize].next;
        match before {
            Some(before) => self.subs[before as usize].next = next,
            None if client.head == key.0 => client.head = next,
            None => return None,
        }
        client.subscriptions -= 1;
        Some(self.remove(key.0))
    }

    /// Ends one subscription after the other, of a connection that is gone.
    pub(super) fn end_first(&mut self, client: &mut Client) -> Option<Ended> {
        let first = client.head;
        client.head = self.subs.get(first as usize)?.next;
        Some(self.remove(first))
    }

    /// Takes a subscription out that is in no connection's list any more.
    fn remove(&mut self, key: u32) -> Ended {
        let sub = self.subs.remove(key as usize);
        if sub.is(FILTERED)
            && let Some(filter) = self.filters.remove(&key)
        {
            self.filter_bytes -= cost(&filter);
        }
        let channel = &mut self.channels[sub.channel];
        let name = channel.name.clone();
        self.bytes -= subscription_cost(&name);
        if sub.pending {
            channel.pending -= 1;
        } else {
            channel.members.swap_remove(sub.place as usize);
            if let Some(moved) = channel.members.get(sub.place as usize) {
                self.subs[*moved as usize].place = sub.place;
            }
            if channel.members.len() < channel.members.capacity() / 4 {
                channel.members.shrink_to(channel.members.len() * 2);
            }
        }
        self.tidy(sub.channel);
        Ended {
            sub: SubKey(key),
            channel: name,
            server_side: sub.is(SERVER_SIDE),
            joins: sub.is(JOINS),
            member: sub.is(MEMBER),
        }
    }

    /// Forgets of a channel what nobody needs.
    fn tidy(&mut self, key: u32) {
        let channel = &mut self.channels[key];
        if channel.members.is_empty()
            && let Some(id) = channel.id.take()
        {
            // The number may be another channel's by now: then the home core has forgotten this
            // one, which had no members, so the entry was replaced.
            if self.ids.get(&id) == Some(&key) {
                self.ids.remove(&id);
            }
        }
        if channel.members.is_empty() && channel.pending == 0 {
            self.channels.remove(key);
        }
        // A mass disconnect gives its memory back. Nonces go on: answers may be under way.
        if self.subs.is_empty() && self.channels.is_empty() {
            *self = Self { nonce: self.nonce, ..Self::new(self.placement) };
        }
    }
}

/// What a filter takes here, with its place in the table.
pub(super) fn cost(filter: &Filter) -> usize {
    const PLACE: usize = 2 * size_of::<(u32, Arc<Filter>)>();
    filter.cost() + PLACE
}

impl Sub {
    fn format(&self) -> Format {
        Format::of_bits((self.flags >> FORMAT_SHIFT) as u8)
    }

    fn wants(&self) -> Wants {
        Wants {
            positioned: self.is(POSITIONED),
            recoverable: self.is(RECOVERABLE),
            delta: self.is(DELTA),
            compact: self.is(COMPACT),
            joins: self.is(JOINS),
            server_side: self.is(SERVER_SIDE),
            by_token: self.is(BY_TOKEN),
        }
    }
}

/// What one more subscription takes: its record and its place among the members, a roster's entry,
/// and on both sides a channel with its name, its places in two tables and a list of one.
fn subscription_cost(name: &str) -> usize {
    const RECORDS: usize = size_of::<Sub>() + size_of::<u32>();
    const ROSTER: usize = 128;
    const CHANNEL: usize = size_of::<Channel>() + 128;
    RECORDS + ROSTER + 2 * (CHANNEL + shared(name.len()))
}
