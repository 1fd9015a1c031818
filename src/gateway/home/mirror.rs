//! Channels that a broker orders: their streams follow the server's, and what lies here is answered
//! here.
//!
//! Gives no offset and draws no epoch.

use std::sync::Arc;
use std::time::Duration;

use super::Home;
use super::line::{BEHIND, DUE, FORKED, HEARD, KNOWN, PATCHED};
use super::subscribe::Departed;
use crate::gateway::delivery::{Delivery, Happening, Item};
use crate::gateway::letters::{
    ChannelId, ClientId, RecoverMode, Recovered, SubscribeLetter, SubscribedLetter,
    UnsubscribeLetter, Who,
};
use crate::gateway::presence::{Left, Roster};
use crate::gateway::stream::{Position, Read, Stream, StreamOptions};
use crate::gateway::wire::Error;

/// What a channel's stream has for somebody who reads it.
pub(in crate::gateway) type Past = Result<(Position, Vec<Arc<Item>>), Error>;

impl Home {
    /// One more subscriber, whom publications reach from here on, and who is not answered yet.
    pub(in crate::gateway) fn expect(&mut self, letter: &SubscribeLetter) -> u32 {
        let key = self.intern(&letter.channel);
        self.arrive(key, letter);
        let line = self.draw_line(key);
        if letter.delta {
            line.set(PATCHED, true);
        }
        key
    }

    /// Whether what is retained here decides what this subscriber gets.
    pub(in crate::gateway) fn settles(
        &mut self,
        key: u32,
        letter: &SubscribeLetter,
        now: Duration,
    ) -> bool {
        self.expire(key, now);
        let Some(stream) = &self.channels[key].stream else { return false };
        let Some(recover) = letter.recover.as_ref().filter(|_| letter.stream.is_some()) else {
            return true;
        };
        let (since, top) = (&recover.since, stream.position());
        match recover.mode {
            RecoverMode::Cache => {
                stream.newest(since, recover.limit, letter.filter.as_deref()).is_some()
            }
            RecoverMode::Stream => {
                let Some(missed) = top.offset.checked_sub(since.offset) else { return false };
                let too_many = recover.limit > 0 && missed > u64::from(recover.limit);
                since.is_of(&top.epoch) && (too_many || missed <= stream.len() as u64)
            }
        }
    }

    /// Answers a subscriber by what is retained here.
    pub(in crate::gateway) fn welcome(
        &mut self,
        key: u32,
        letter: SubscribeLetter,
        now: Duration,
    ) -> (SubscribedLetter, Option<(ClientId, Who)>) {
        self.expire(key, now);
        let top = letter.stream.and_then(|_| self.position(key));
        let recovered = match &letter.recover {
            Some(recover) if letter.stream.is_some() => Some(self.recover(key, recover, &letter)),
            _ => None,
        };
        self.admit(key, letter, top, recovered)
    }

    /// Tells a subscriber that it cannot be had now.
    pub(in crate::gateway) fn refuse(
        &mut self,
        key: u32,
        letter: SubscribeLetter,
        error: Error,
    ) -> SubscribedLetter {
        let letter = SubscribeLetter { member: None, ..letter };
        let (answer, _) = self.admit(key, letter, None, None::<Recovered>);
        SubscribedLetter { refused: Some(Box::new(error)), ..answer }
    }

    /// One subscriber less. Gives who it was, if others could see it, and whether it was the last
    /// one; a stream is kept then.
    pub(in crate::gateway) fn dismiss(
        &mut self,
        letter: &UnsubscribeLetter,
    ) -> Option<(Option<Left>, bool)> {
        let key = self.find(&letter.channel)?;
        let Departed { left, idle } = self.depart(key, letter)?;
        if idle {
            self.change(key, |channel| {
                channel.listeners = Vec::new();
                channel.last = None;
            });
            self.tidy(key);
        }
        Some((left, idle))
    }

    /// Forgets a channel that nobody listens to, and whose messages do not come any more. False if
    /// somebody does.
    pub(in crate::gateway) fn abandon(&mut self, name: &str) -> bool {
        let Some(key) = self.find(name) else { return true };
        let idle = self.channels[key].is_idle();
        if idle {
            self.forget(key);
        }
        idle
    }

    /// The name of a channel.
    pub(in crate::gateway) fn name(&self, key: u32) -> Option<&Arc<str>> {
        self.channels.get(key).map(|channel| &channel.name)
    }

    /// The number of a channel.
    pub(in crate::gateway) fn number(&self, key: u32) -> ChannelId {
        self.id(key)
    }

    /// How many subscribers a channel has here.
    pub(in crate::gateway) fn audience(&self, name: &str) -> u32 {
        self.find(name).map_or(0, |key| self.channels[key].receivers())
    }

    /// Whether a channel has subscribers beside those who wait for an answer.
    pub(in crate::gateway) fn has_others(&mut self, key: u32) -> bool {
        let Some(line) = self.line(key) else { return false };
        let waiting = line.wait.as_ref().map_or(0, |wait| wait.subscribers.len());
        self.channels[key].receivers() as usize > waiting
    }

    /// Who is in a channel on this node.
    pub(in crate::gateway) fn roster(&self, key: u32) -> Option<&Roster> {
        self.channels.get(key)?.roster.as_deref()
    }

    /// How far a stream is followed here.
    pub(in crate::gateway) fn position(&self, key: u32) -> Option<Position> {
        let stream = self.channels.get(key)?.stream.as_ref()?;
        Some(stream.position())
    }

    /// The stream is this one from here on, and nothing of it is retained.
    pub(in crate::gateway) fn adopt(
        &mut self,
        key: u32,
        position: Position,
        options: &StreamOptions,
        now: Duration,
    ) {
        self.change(key, |channel| {
            channel.at_top = false;
            channel.stream = Some(Box::new(Stream::at(position, options, now)));
        });
        let line = self.draw_line(key);
        line.print = 0;
        line.set(KNOWN, true);
        // The server has told this after what it has told of publications.
        if let Some(wait) = &mut line.wait {
            wait.promised = None;
        }
    }

    /// The publication after the top, for its listeners if there are any.
    pub(in crate::gateway) fn follow(
        &mut self,
        key: u32,
        (item, print): (Item, u64),
        options: &StreamOptions,
        now: Duration,
    ) -> Option<(u32, Arc<Delivery>)> {
        let item = self.take(key, (item, print), options, now)?;
        let patched = self.line(key).is_some_and(|line| line.is(PATCHED));
        self.deliver(key, item, patched, false)
    }

    /// The publication after the top, which those who listen have already.
    pub(in crate::gateway) fn absorb(
        &mut self,
        key: u32,
        item: (Item, u64),
        options: &StreamOptions,
        now: Duration,
    ) {
        self.take(key, item, options, now);
        self.channels[key].at_top = false;
    }

    fn take(
        &mut self,
        key: u32,
        (item, print): (Item, u64),
        options: &StreamOptions,
        now: Duration,
    ) -> Option<Arc<Item>> {
        let follow = |stream: &mut Box<Stream>| stream.follow(item, options, now);
        let item = self.change(key, |channel| channel.stream.as_mut().map(follow));
        if let Some(line) = self.line(key) {
            line.print = print;
        }
        item
    }

    /// A publication that does not follow a stream here, for its listeners.
    pub(in crate::gateway) fn pass(
        &mut self,
        key: u32,
        item: Item,
    ) -> Option<(u32, Arc<Delivery>)> {
        let patched = self.line(key).is_some_and(|line| line.is(PATCHED));
        let delivery = self.deliver(key, Arc::new(item), patched, false);
        self.channels[key].at_top = false;
        delivery
    }

    /// A publication that is in the stream already, for those who need no position. It may be older
    /// than the last one they got, so no patch is based on it.
    pub(in crate::gateway) fn pass_late(
        &mut self,
        key: u32,
        item: Item,
    ) -> Option<(u32, Arc<Delivery>)> {
        let delivery = self.deliver(key, Arc::new(item), false, false);
        self.channels[key].at_top = false;
        delivery
    }

    /// A join or a leave, for those who want to hear of it.
    pub(in crate::gateway) fn announce(
        &self,
        key: u32,
        happening: Happening,
    ) -> Option<Arc<Delivery>> {
        let hears = self.channels.get(key)?.hears > 0;
        hears.then(|| self.delivery(key, happening))
    }

    /// What is between the top and this offset cannot be had any more.
    pub(in crate::gateway) fn skip_to(&mut self, key: u32, top: u64) {
        self.change(key, |channel| {
            if let Some(stream) = &mut channel.stream {
                stream.skip_to(top);
            }
        });
        // Nobody here has seen what is there.
        if let Some(line) = self.line(key) {
            line.print = 0;
        }
    }

    /// What was published before that which is retained.
    pub(in crate::gateway) fn prepend(
        &mut self,
        key: u32,
        older: Vec<Item>,
        options: &StreamOptions,
        now: Duration,
    ) {
        self.change(key, |channel| {
            if let Some(stream) = &mut channel.stream {
                stream.prepend(older, options, now);
            }
        });
    }

    /// Publications of a channel that are retained here.
    pub(in crate::gateway) fn retained_len(&self, key: u32) -> u64 {
        let stream = self.channels.get(key).and_then(|channel| channel.stream.as_ref());
        stream.map_or(0, |stream| stream.len() as u64)
    }

    /// No more than so many are retained elsewhere: older ones go here, too.
    pub(in crate::gateway) fn retain_newest(&mut self, key: u32, count: u64) {
        self.change(key, |channel| {
            let Some(stream) = &mut channel.stream else { return };
            while stream.len() as u64 > count {
                stream.drop_oldest();
            }
        });
    }

    /// Whether the retained publication with this offset is another one. `None`: none is retained.
    pub(in crate::gateway) fn differs(&self, key: u32, item: &Item) -> Option<bool> {
        let stream = self.channels.get(key)?.stream.as_ref()?;
        stream.get(item.offset).map(|it| !it.says_as(item))
    }

    /// A part of the history, if all of it is retained here for sure.
    pub(in crate::gateway) fn retained(
        &mut self,
        name: &str,
        options: &StreamOptions,
        read: &Read,
        now: Duration,
    ) -> Option<Past> {
        let key = self.find(name)?;
        let line = self.line(key)?;
        if !line.is(KNOWN) || !line.is(HEARD) || line.is(BEHIND | DUE | FORKED) {
            return None;
        }
        let promised = line.wait.as_ref().and_then(|wait| wait.promised);
        self.expire(key, now);
        let stream = self.channels[key].stream.as_ref()?;
        let (position, len) = (stream.position(), stream.len() as u64);
        let is_older = |(epoch, offset)| epoch != position.epoch || position.offset < offset;
        if promised.is_some_and(is_older) {
            return None;
        }
        let since = match &read.since {
            Some(since) if !since.is_of(&position.epoch) => return None,
            since => since.as_ref().map(|since| since.offset),
        };
        // What the server retains is no more than this, whatever was trimmed.
        let all = len >= u64::from(options.size.max(1)) || len == position.offset;
        let before = position.offset - len;
        let limit = match (u64::try_from(read.limit).ok(), u64::from(read.max)) {
            (limit, 0) => limit,
            (limit, max) => Some(limit.unwrap_or(max).min(max)),
        };
        let lies_here = match (read.reverse, since) {
            _ if limit == Some(0) => true,
            (_, Some(since)) if since > position.offset => false,
            (false, Some(since)) => since >= before,
            (false, None) => all,
            (true, since) => {
                let from = since.unwrap_or(position.offset + 1);
                all || limit.is_some_and(|limit| before + limit < from)
            }
        };
        lies_here.then(|| Ok((position, stream.read(read)?)))
    }

    /// Counts a publication that the server has taken, or has not.
    pub(in crate::gateway) fn count_published(&mut self, suppressed: bool) {
        match suppressed {
            true => self.counters.suppressed += 1,
            false => self.counters.published += 1,
        }
    }
}
