//! A home core's channels on their way from one process to another, while both have subscribers.
//!
//! For the elder: what its heir asks, which is a listener like any core. For the heir: channels
//! that were mirrored become its own. The invariant: a subscriber that is not told so has missed
//! nothing, and no offset of an epoch is given twice.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;

use super::line::{KNOWN, Lines, PATCHED};
use super::{Channel, Home, Listener};
use crate::gateway::broker::{Entry, Fault, Past, Top, TopOf};
use crate::gateway::delivery::{Delivery, Happening, Item};
use crate::gateway::handover::HEIR;
use crate::gateway::handover::words::WORD_MAX;
use crate::gateway::letters::{ClientId, Member, SubscribeLetter, SubscribedLetter, Who};
use crate::gateway::stream::{Position, Read, StreamOptions};
use crate::gateway::wire::messages::Publication;

/// A publication as one process tells it to another: the same bytes whenever it is told.
pub(in crate::gateway) fn told(item: &Arc<Item>) -> Bytes {
    Publication { offset: 0, ..item.wire() }.encode_to_vec().into()
}

/// The elder's side.
impl Home {
    /// The heir hears of a channel from here on.
    pub(in crate::gateway) fn listen_heir(&mut self, name: &Arc<str>) {
        let key = self.intern(name);
        if !self.hears_heir(key) {
            self.listen(key, HEIR);
        }
    }

    fn hears_heir(&self, key: u32) -> bool {
        let listeners = &self.channels[key].listeners;
        listeners.iter().any(|listener| listener.core == HEIR)
    }

    /// Whether the heir hears of a channel.
    pub(in crate::gateway) fn is_heard(&self, name: &str) -> bool {
        self.find(name).is_some_and(|key| self.hears_heir(key))
    }

    /// It does not any more.
    pub(in crate::gateway) fn ignore_heir(&mut self, name: &str, now: Duration) {
        if let Some(key) = self.find(name) {
            self.drop_heir(key, now);
        }
    }

    fn drop_heir(&mut self, key: u32, now: Duration) {
        let listeners = &mut self.channels[key].listeners;
        let of = |listener: &Listener| listener.core == HEIR;
        let Some(place) = listeners.iter().position(of) else { return };
        match listeners.len() {
            1 => self.rest(key, now),
            _ => _ = listeners.swap_remove(place),
        }
    }

    /// There is no heir any more: nobody listens for it, and its members have gone without a word.
    pub(in crate::gateway) fn forget_heir(&mut self, now: Duration) {
        let keys: Vec<u32> = self.channels.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.forget_copies(key);
            let channel = &mut self.channels[key];
            if let Some(roster) = &mut channel.roster {
                roster.drop_guests();
            }
            self.tidy_roster(key);
            self.drop_heir(key, now);
            if self.channels.contains(key) {
                self.tidy(key);
            }
        }
    }

    /// Somebody is in a channel who has a connection of the heir.
    pub(in crate::gateway) fn add_guest(&mut self, name: &Arc<str>, client: ClientId, info: Who) {
        let key = self.intern(name);
        self.forget_copies(key);
        let roster = self.channels[key].roster.get_or_insert_default();
        let member = Member { client, info, present: true, announced: false };
        roster.enter_guest(member);
    }

    /// Somebody is not any more.
    pub(in crate::gateway) fn remove_guest(&mut self, name: &str, client: ClientId) {
        let Some(key) = self.find(name) else { return };
        self.forget_copies(key);
        if let Some(roster) = &mut self.channels[key].roster {
            roster.leave(client);
        }
        self.tidy_roster(key);
        self.tidy(key);
    }

    fn tidy_roster(&mut self, key: u32) {
        let channel = &mut self.channels[key];
        if channel.roster.as_ref().is_some_and(|roster| roster.is_empty()) {
            channel.roster = None;
        }
    }

    /// Whether somebody is in a channel, and shown.
    pub(in crate::gateway) fn is_present(&self, name: &str, client: ClientId) -> bool {
        let roster = self.find(name).and_then(|key| self.channels[key].roster.as_ref());
        roster.is_some_and(|roster| roster.who(client).is_some())
    }

    /// The channel of something that somebody tells all who listen, if anybody does.
    pub(in crate::gateway) fn spread(
        &self,
        name: &str,
        happening: Happening,
    ) -> Option<(u32, Arc<Delivery>)> {
        let key = self.find(name).filter(|key| !self.channels[*key].is_idle())?;
        Some((key, self.delivery(key, happening)))
    }

    /// A part of the history, as the heir asks for it. Asking begins a life.
    pub(in crate::gateway) fn past(
        &mut self,
        name: &Arc<str>,
        (read, meta_ttl): (&Read, Duration),
        random: u64,
        now: Duration,
    ) -> Result<Past, Fault> {
        let key = self.intern(name);
        let options = StreamOptions { size: 1, ttl: Duration::ZERO, meta_ttl };
        let stream = self.stream(key, &options, random, now);
        let Position { offset: top, epoch } = stream.position();
        let items = stream.read(read);
        self.make_room();
        let items = items.map_err(|_| Fault::Denied)?;
        if items.iter().map(|item| item.cost()).sum::<usize>() > WORD_MAX / 2 {
            return Err(Fault::Denied);
        }
        let entry = |item: &Arc<Item>| Entry { offset: item.offset, data: told(item) };
        Ok(Past { epoch, top, entries: items.iter().map(entry).collect() })
    }

    /// A channel's position, as the heir asks for it. Asking begins no life.
    pub(in crate::gateway) fn top_of(&mut self, of: &TopOf, now: Duration) -> Option<Top> {
        let key = self.find(&of.channel)?;
        self.expire(key, now);
        let stream = self.channels[key].stream.as_mut()?;
        if let Some(meta_ttl) = of.meta_ttl {
            stream.touch(&StreamOptions { size: 1, ttl: Duration::ZERO, meta_ttl }, now);
        }
        let Position { offset: top, epoch } = stream.position();
        let len = stream.len() as u64;
        let wanted = of.entry > 0;
        let first = if wanted && len > 0 { top + 1 - len } else { 0 };
        let entry = wanted.then(|| stream.get(of.entry)).flatten().map(told);
        Some(Top { epoch, top, first, entry, count: of.count.then_some(len) })
    }
}

/// What becomes of a mirrored channel for those who listen.
#[derive(Debug, Default)]
pub(in crate::gateway) struct Inherited {
    /// Channels with what their listeners have not got, in order.
    pub(in crate::gateway) missing: Vec<(u32, Arc<Delivery>)>,
    /// Channels whose positioned listeners have lost something.
    pub(in crate::gateway) lost: Vec<u32>,
}

/// The heir's side.
impl Home {
    /// Takes those who wait for an answer out of the lines.
    pub(in crate::gateway) fn take_waiting(&mut self) -> Vec<SubscribeLetter> {
        let mut letters = Vec::new();
        for key in 0..self.lines_end() {
            let Some(line) = self.line(key) else { continue };
            let Some(wait) = &mut line.wait else { continue };
            letters.extend(wait.subscribers.drain(..).map(|waiting| *waiting.letter));
        }
        letters
    }

    /// Mirrored channels go on by what another process has kept of them, or anew.
    pub(in crate::gateway) fn inherit(&mut self, kept: Option<Self>) -> Inherited {
        let mut inherited = Inherited::default();
        let mut taken = Vec::new();
        if let Some(kept) = kept {
            self.results = kept.results;
            for channel in kept.channels.into_things() {
                taken.extend(self.inherit_one(channel, &mut inherited));
            }
        }
        taken.sort_unstable();
        self.lines = Lines::default();
        let keys: Vec<u32> = self.channels.iter().map(|(key, _)| key).collect();
        for key in keys {
            if taken.binary_search(&key).is_err() {
                let had = self.change(key, |channel| {
                    channel.at_top = false;
                    channel.stream.take().is_some()
                });
                if had {
                    inherited.lost.push(key);
                }
            }
        }
        inherited
    }

    fn inherit_one(&mut self, kept: Channel, inherited: &mut Inherited) -> Option<u32> {
        let Channel { name, stream, at_top, .. } = kept;
        let stream = stream?;
        let key = self.intern(&name);
        let line = self.line(key).map(|line| (line.is(KNOWN), line.is(PATCHED)));
        let (known, patched) = line.unwrap_or_default();
        let ours = self.position(key).filter(|_| known);
        let theirs = stream.position();
        let mut missing = Vec::new();
        match ours {
            Some(ours) if ours.epoch == theirs.epoch && ours.offset <= theirs.offset => {
                let newer = |item: &&Arc<Item>| item.offset > ours.offset;
                missing.extend(stream.items().filter(newer).cloned());
                if missing.len() as u64 != theirs.offset - ours.offset {
                    inherited.lost.push(key);
                    missing.clear();
                }
            }
            Some(_) => inherited.lost.push(key),
            None => {}
        }
        let was_idle = self.channels[key].is_idle();
        self.change(key, |channel| {
            channel.stream = Some(stream);
            channel.at_top = if was_idle { at_top } else { channel.at_top && missing.is_empty() };
        });
        for item in missing {
            inherited.missing.extend(self.deliver(key, item, patched, false));
        }
        Some(key)
    }

    /// Lets somebody in who has arrived and waited.
    pub(in crate::gateway) fn settle(
        &mut self,
        letter: SubscribeLetter,
        random: u64,
        now: Duration,
    ) -> (SubscribedLetter, Option<(u32, Arc<Delivery>)>) {
        let key = self.intern(&letter.channel);
        let past = self.look_back(key, &letter, random, now);
        self.let_in(key, letter, past)
    }

    /// What is left without listeners and without a past is forgotten.
    pub(in crate::gateway) fn tidy_all(&mut self) {
        let keys: Vec<u32> = self.channels.iter().map(|(key, _)| key).collect();
        keys.into_iter().for_each(|key| self.tidy(key));
        self.make_room();
    }
}
