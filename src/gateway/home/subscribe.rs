//! Subscribers come and go.

use std::sync::Arc;
use std::time::Duration;

use super::{Home, Listener};
use crate::gateway::delivery::{Delivery, Happening, Item};
use crate::gateway::letters::{
    ClientId, InformLetter, Recover, RecoverMode, Recovered, SubscribeLetter, SubscribedLetter,
    UnsubscribeLetter, Who,
};
use crate::gateway::presence::Left;
use crate::gateway::stream::Position;

impl Home {
    /// One more subscriber. Gives the answer, and what the others and it are to be told after it.
    pub(in crate::gateway) fn subscribe(
        &mut self,
        letter: SubscribeLetter,
        random: u64,
        now: Duration,
    ) -> (SubscribedLetter, Option<(u32, Arc<Delivery>)>) {
        let key = self.intern(&letter.channel);
        let (top, recovered) = self.look_back(key, &letter, random, now);
        self.arrive(key, &letter);
        self.let_in(key, letter, (top, recovered))
    }

    /// Where a subscriber begins, and what it has missed.
    pub(super) fn look_back(
        &mut self,
        key: u32,
        letter: &SubscribeLetter,
        random: u64,
        now: Duration,
    ) -> (Option<Position>, Option<Recovered>) {
        let top = letter.stream.map(|options| self.stream(key, &options, random, now).position());
        let recovered = match (&letter.recover, letter.stream) {
            (Some(recover), Some(_)) => Some(self.recover(key, recover, letter)),
            _ => None,
        };
        (top, recovered)
    }

    /// The answer to a subscriber who has arrived, and what others are told.
    pub(super) fn let_in(
        &mut self,
        key: u32,
        letter: SubscribeLetter,
        (top, recovered): (Option<Position>, Option<Recovered>),
    ) -> (SubscribedLetter, Option<(u32, Arc<Delivery>)>) {
        let (answer, joined) = self.admit(key, letter, top, recovered);
        let joined = joined.filter(|_| answer.told > 0);
        let join = joined.map(|(client, who)| self.delivery(key, Happening::Join(client, who)));
        self.make_room();
        (answer, join.map(|join| (key, join)))
    }

    /// One more subscriber, whom publications reach from here on.
    pub(super) fn arrive(&mut self, key: u32, letter: &SubscribeLetter) {
        self.listen(key, letter.core);
        self.channels[key].hears += u32::from(letter.hears);
    }

    /// The answer to a subscriber who has arrived, and who it is if others shall be told.
    pub(super) fn admit(
        &mut self,
        key: u32,
        letter: SubscribeLetter,
        top: Option<Position>,
        recovered: Option<Recovered>,
    ) -> (SubscribedLetter, Option<(ClientId, Who)>) {
        let is_in = recovered.as_ref().is_none_or(|it| !it.or_reject || it.items.is_some());
        if letter.member.is_some() {
            self.forget_copies(key);
        }
        let channel = &mut self.channels[key];
        let (seq, hears) = (channel.seq, channel.hears);
        let member = letter.member.filter(|_| is_in);
        let client = member.as_ref().map(|member| member.client);
        let joined = member.and_then(|it| channel.roster.get_or_insert_default().enter(it));
        let joined = client.zip(joined);
        let told = if joined.is_some() { hears } else { 0 };
        let SubscribeLetter { sub, nonce, ticket, .. } = letter;
        let (channel, refused) = (self.id(key), None);
        let answer =
            SubscribedLetter { channel, sub, nonce, ticket, seq, top, told, recovered, refused };
        (answer, joined)
    }

    pub(super) fn recover(
        &mut self,
        key: u32,
        recover: &Recover,
        letter: &SubscribeLetter,
    ) -> Recovered {
        let Recover { since, mode, limit, max_bytes, or_reject } = recover;
        let filter = letter.filter.as_deref();
        let stream = self.channels[key].stream.as_ref();
        let items = stream.and_then(|stream| match mode {
            RecoverMode::Stream => stream.recover(since, *limit, *max_bytes, filter),
            RecoverMode::Cache => stream.newest(since, *limit, filter),
        });
        match items {
            Some(_) => self.counters.recovered += 1,
            None => self.counters.unrecovered += 1,
        }
        let newest = items.as_ref().and_then(|items| items.last());
        let primed = letter.delta && newest.is_some_and(|newest| self.prime(key, newest));
        Recovered { items, since: since.offset, or_reject: *or_reject, primed }
    }

    /// Lets the next patch be based on this publication of the stream, if it is what everybody
    /// else has last.
    fn prime(&mut self, key: u32, newest: &Arc<Item>) -> bool {
        let channel = &mut self.channels[key];
        let top = channel.stream.as_ref().map_or(0, |stream| stream.position().offset);
        if !channel.at_top || newest.offset != top {
            return false;
        }
        self.change(key, |channel| channel.last = Some(newest.clone()));
        true
    }

    pub(super) fn listen(&mut self, key: u32, core: u16) {
        let listeners = &mut self.channels[key].listeners;
        if let Some(listener) = listeners.iter_mut().find(|listener| listener.core == core) {
            listener.count += 1;
            return;
        }
        self.change(key, |channel| {
            // Most channels have one.
            channel.listeners.reserve_exact(1);
            channel.listeners.push(Listener { core, missed: false, count: 1 });
        });
    }

    /// What others see of a member has changed.
    pub(in crate::gateway) fn inform(&mut self, letter: InformLetter) {
        let InformLetter { channel, client, conn_info, chan_info } = letter;
        let Some(key) = self.find(&channel) else { return };
        let roster = self.channels[key].roster.as_mut();
        if roster.is_some_and(|roster| roster.inform(client, conn_info, chan_info)) {
            self.forget_copies(key);
        }
    }

    /// One subscriber less. Gives what the others are to be told.
    pub(in crate::gateway) fn unsubscribe(
        &mut self,
        letter: &UnsubscribeLetter,
        now: Duration,
    ) -> Option<(u32, Arc<Delivery>)> {
        let key = self.find(&letter.channel)?;
        let Departed { left, idle } = self.depart(key, letter)?;
        if idle {
            self.rest(key, now);
            return None;
        }
        let hears = self.channels[key].hears > 0;
        let Left { client, who, .. } = left.filter(|left| hears && left.announced)?;
        Some((key, self.delivery(key, Happening::Leave(client, who))))
    }

    /// One subscriber less. If it was the last one, [`Self::rest`] has to follow.
    pub(super) fn depart(&mut self, key: u32, letter: &UnsubscribeLetter) -> Option<Departed> {
        if letter.member.is_some() {
            self.forget_copies(key);
        }
        let channel = &mut self.channels[key];
        let of = |listener: &Listener| listener.core == letter.core;
        let place = channel.listeners.iter().position(of)?;
        channel.hears -= u32::from(letter.hears);
        channel.listeners[place].count -= 1;
        let gone = channel.listeners[place].count == 0;
        let roster = channel.roster.as_mut();
        let left = letter.member.and_then(|client| roster?.leave(client));
        if channel.roster.as_ref().is_some_and(|roster| roster.is_empty()) {
            channel.roster = None;
        }
        let idle = gone && channel.listeners.len() == 1;
        if gone && !idle {
            channel.listeners.swap_remove(place);
        }
        Some(Departed { left, idle })
    }

    /// Nobody listens to a channel any more.
    pub(super) fn rest(&mut self, key: u32, now: Duration) {
        self.change(key, |channel| {
            channel.listeners = Vec::new();
            channel.last = None;
            if channel.stream.as_ref().is_some_and(|stream| stream.is_over(now)) {
                channel.stream = None;
            }
        });
        self.tidy(key);
        self.make_room();
    }
}

/// What one subscriber less comes to.
pub(super) struct Departed {
    /// Who it was, if others could see it.
    pub(super) left: Option<Left>,
    /// It was the last one.
    pub(super) idle: bool,
}
