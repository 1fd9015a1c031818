//! One question to the server's history per channel at a time, for all that needs it: to begin, to
//! fill a gap, to recover what does not lie here.
//!
//! The answer is merged with what came meanwhile, by offset; nothing rests on the order of answers
//! and messages.

use std::sync::Arc;

use super::messages::{fingerprint, item};
use super::{Again, Hub, Pending};
use crate::gateway::broker::{Fault, History, Past, Renew, Request, Ticket};
use crate::gateway::delivery::Item;
use crate::gateway::home::line::{
    BEHIND, FORKED, Held, KNOWN, RETRIES, Reading, VERIFY, Wait, Waiting,
};
use crate::gateway::hub_port::HubPort;
use crate::gateway::letters::{Letter, RecoverMode};
use crate::gateway::stream::{Epoch, Position, StreamOptions};

/// A publication on its way into a stream.
struct Next {
    item: Item,
    print: u64,
    /// Those who listen have it, or need not have it.
    told: bool,
}

/// What an answer does to a stream.
struct Merge {
    /// Publications, by offset, of its epoch.
    items: Vec<Next>,
    /// The server's top.
    top: u64,
    /// What is missing up to here is not there any more; 0 if the answer cannot tell.
    covered: u64,
    /// Something came that the answer does not know.
    again: bool,
}

impl Hub {
    /// Asks for a part of a channel's history, if something waits for it and nothing is asked.
    pub(super) fn read(&mut self, out: &mut dyn HubPort, key: u32) {
        let (Some(options), Some(name)) = (self.options(key), self.home.name(key).cloned()) else {
            return;
        };
        let at = self.home.position(key).map(|top| (top.epoch, top.offset));
        let Some(line) = self.home.line(key) else { return };
        let (known, behind) = (line.is(KNOWN), line.is(BEHIND) && line.is_certain());
        if line.is_reading() || line.is(FORKED) {
            return;
        }
        let at = at.filter(|_| known);
        let wait = line.wait.as_deref();
        let needed = behind || wait.is_some_and(|wait| wait.subscribers.iter().any(is_positioned));
        if !needed {
            return;
        }
        let (since, limit) = range(wait, at.map(|(_, top)| top).filter(|_| behind), &options);
        let request = History {
            channel: name.clone(),
            since,
            limit,
            reverse: since.is_none(),
            meta_ttl: options.meta_ttl,
            fresh: Epoch::new(out.random()),
        };
        let pending = Pending::Read { channel: name.clone() };
        let asked =
            self.ask_broker(out, pending, |ticket| Request::History(ticket, Box::new(request)));
        let Ok(ticket) = asked else {
            return self.repeat_read(out, key);
        };
        self.mirror().counters.reads += 1;
        let wait = self.home.wait(key);
        let heard = wait.highest;
        wait.reading = Some(Reading { ticket, since, limit, at, heard });
        for waiting in &mut wait.subscribers {
            if is_positioned(waiting) && covers(since, waiting) {
                waiting.settled_by = Some(ticket);
            }
        }
    }

    /// The answer, or none.
    pub(super) fn past(
        &mut self,
        out: &mut dyn HubPort,
        channel: &Arc<str>,
        ticket: Ticket,
        past: Result<Past, Fault>,
    ) {
        let Some((key, line)) = self.home.line_of(channel) else { return };
        let Some(wait) = line.wait.as_mut() else { return };
        let Some(reading) = wait.reading.take_if(|reading| reading.ticket == ticket) else {
            return;
        };
        match past {
            Ok(past) => {
                if !line.is(FORKED) {
                    self.merge(out, key, &reading, past);
                }
                let Some(line) = self.home.line(key) else { return };
                let certain = line.is_certain();
                let settles = certain && !line.is(BEHIND | FORKED);
                self.let_in_by(out, key, Some(ticket).filter(|_| settles));
                self.home.tidy_wait(key);
                // What came meanwhile may need more.
                match certain {
                    true => self.read(out, key),
                    false => self.read_again(out, channel),
                }
            }
            Err(_) => {
                self.home.tidy_wait(key);
                self.read_again(out, channel);
            }
        }
    }

    /// Asks again in a while, if anything waits for it. What only waits for a connection does not.
    fn read_again(&mut self, out: &mut dyn HubPort, channel: &Arc<str>) {
        let Some((key, line)) = self.home.line_of(channel) else { return };
        let waits = line.wait.as_ref().is_some_and(|wait| !wait.subscribers.is_empty());
        if waits || line.is(BEHIND) && line.is_certain() {
            self.repeat_read(out, key);
        }
    }

    fn repeat_read(&mut self, out: &mut dyn HubPort, key: u32) {
        let Some(channel) = self.home.name(key).cloned() else { return };
        let Some(line) = self.home.line(key).filter(|line| !line.is(RETRIES)) else { return };
        line.set(RETRIES, true);
        self.repeat(out, Again::Read(channel));
    }

    fn merge(&mut self, out: &mut dyn HubPort, key: u32, reading: &Reading, past: Past) {
        let now = out.now();
        let Some(options) = self.options(key) else { return };
        let known = self.home.line(key).is_some_and(|line| line.is(KNOWN));
        let ours = self.home.position(key).filter(|_| known);
        let certain = self.home.line(key).is_some_and(|line| line.is_certain());
        if ours.is_some_and(|ours| self.is_fork(key, ours, reading, &past)) {
            return self.fork(out, key);
        }
        if self.has_left(key, &past.epoch) {
            self.mirror().counters.returned += 1;
            return self.renew(out, key, past.epoch);
        }
        let (held, dropped) = self.home.release(key);
        let Past { epoch, top, mut entries } = past;
        if reading.since.is_none() {
            entries.reverse();
        }
        let last = entries.last().map_or(0, |entry| entry.offset);
        let end = if entries.len() >= reading.limit as usize { last } else { top };
        let mut malformed = 0;
        let mut items = Vec::with_capacity(entries.len());
        for entry in &entries {
            match item(&entry.data, entry.offset, now) {
                Some(item) => {
                    items.push(Next { item, print: fingerprint(&entry.data), told: true });
                }
                None => malformed += 1,
            }
        }
        self.mirror().counters.malformed += malformed;
        let foreign = held.iter().any(|held| held.epoch != epoch);
        let held: Vec<_> = held.into_iter().filter(|held| held.epoch == epoch).collect();
        let mut merge = Merge { items, top, covered: 0, again: dropped || foreign };
        match ours {
            Some(ours) if ours.epoch == epoch => {
                if reading.since.is_some_and(|since| since <= ours.offset) {
                    merge.covered = end;
                }
                let newer = merge.items.partition_point(|next| next.item.offset <= ours.offset);
                let newer = merge.items.split_off(newer);
                let older = std::mem::replace(&mut merge.items, newer);
                merge.items.iter_mut().for_each(|next| next.told = false);
                let older = older.into_iter().map(|next| next.item).collect();
                self.home.prepend(key, older, &options, now);
                if !certain {
                    // Whether these follow is found out with the next connection.
                    return held.into_iter().for_each(|held| _ = self.home.hold(key, held));
                }
            }
            ours => {
                if let Some(ours) = ours {
                    self.mirror().counters.epochs += 1;
                    self.leave(key, &ours.epoch);
                    self.tell_lost(out, key, u64::MAX);
                }
                let base = lead(&merge.items, top);
                let heard = self.home.line(key).map_or(0, |line| line.print);
                if ours.is_none() && heard < top && self.home.has_others(key) {
                    self.home.wait(key).untold = Some((heard, top));
                }
                merge.items.retain(|next| next.item.offset > base);
                self.home.adopt(key, Position { offset: base, epoch }, &options, now);
                // What came of it before it was known is for those who need no position.
                for held in held.iter().filter(|held| !held.told && held.item.offset <= base) {
                    self.pass_on(out, key, held.item.clone());
                }
            }
        }
        add_held(&mut merge.items, held);
        self.advance(out, key, merge, &options);
    }

    /// Takes publications into the stream and delivers them, as far as they lead on.
    fn advance(&mut self, out: &mut dyn HubPort, key: u32, merge: Merge, options: &StreamOptions) {
        let now = out.now();
        let was_behind = self.home.line(key).is_some_and(|line| line.is(BEHIND));
        let Merge { items, top, covered, mut again } = merge;
        let (mut lost, mut repaired) = (false, 0);
        for Next { item, print, told } in items {
            let Some(ours) = self.home.position(key) else { return };
            if item.offset <= ours.offset {
                continue;
            }
            if item.offset > ours.offset + 1 {
                // Lost, or not asked for.
                if item.offset > covered {
                    again = true;
                    let epoch = ours.epoch;
                    self.home.hold(key, Held { epoch, item, print, told });
                    continue;
                }
                lost = true;
                self.home.skip_to(key, item.offset - 1);
            }
            match told {
                true => self.home.absorb(key, (item, print), options, now),
                false => {
                    repaired += 1;
                    self.go_on(out, key, (item, print));
                }
            }
        }
        let Some(ours) = self.home.position(key) else { return };
        if ours.offset < top {
            match covered >= top {
                true => {
                    lost = true;
                    self.home.skip_to(key, top);
                    self.tell_lost(out, key, top);
                }
                false => again = true,
            }
        }
        let counters = &mut self.mirror().counters;
        if was_behind || lost {
            counters.repaired_publications += repaired;
            counters.repaired += u64::from(!lost && !again);
            counters.unrepaired += u64::from(lost);
        }
        self.is_right(key, now);
        self.home.keep_promise(key);
        if let Some(line) = self.home.line(key) {
            line.set(BEHIND, again);
        }
    }

    /// Whether the server has lost what it had given us, or has something else in its place.
    fn is_fork(&mut self, key: u32, ours: Position, reading: &Reading, past: &Past) -> bool {
        if past.epoch != ours.epoch {
            return false;
        }
        let print = self.home.line(key).map_or(0, |line| line.print);
        let had = [reading.at, reading.heard].into_iter().flatten();
        let lower = had.into_iter().any(|(epoch, at)| epoch == ours.epoch && past.top < at);
        let top = past.entries.iter().find(|entry| entry.offset == ours.offset);
        lower || print != 0 && top.is_some_and(|entry| fingerprint(&entry.data) != print)
    }

    /// A stream has forked: its epoch must end, on all nodes.
    pub(super) fn fork(&mut self, out: &mut dyn HubPort, key: u32) {
        if self.home.line(key).is_some_and(|line| !line.is(FORKED)) {
            self.mirror().counters.forks += 1;
            self.renew_ours(out, key);
        }
    }

    /// Asks for a new epoch after the one that is followed here.
    pub(super) fn renew_ours(&mut self, out: &mut dyn HubPort, key: u32) {
        match self.home.position(key) {
            Some(ours) => self.renew(out, key, ours.epoch),
            // What the server has decides.
            None => {
                self.home.draw_line(key).set(FORKED | VERIFY, false);
                self.read(out, key);
            }
        }
    }

    /// Asks for a new epoch after this one, in which nobody here goes on.
    fn renew(&mut self, out: &mut dyn HubPort, key: u32, old: Epoch) {
        let (Some(options), Some(channel)) = (self.options(key), self.home.name(key).cloned())
        else {
            return;
        };
        self.leave(key, &old);
        let line = self.home.draw_line(key);
        line.set(BEHIND, true);
        line.set(FORKED, true);
        let fresh = Epoch::new(out.random());
        let renew = Renew { channel: channel.clone(), old, fresh, meta_ttl: options.meta_ttl };
        let pending = Pending::Renew { channel: channel.clone() };
        let asked = self.ask_broker(out, pending, |ticket| Request::Renew(ticket, Box::new(renew)));
        if asked.is_err() {
            self.repeat(out, Again::Renew(channel));
        }
    }

    /// A channel has left an epoch, and does not come back to it.
    fn leave(&mut self, key: u32, epoch: &Epoch) {
        let Self { home, mirror: Some(mirror), .. } = self else { return };
        let Some(channel) = home.name(key) else { return };
        mirror.counters.forgotten += u64::from(!mirror.left.leave(channel, epoch));
    }

    /// Whether a channel has left this epoch.
    pub(super) fn has_left(&self, key: u32, epoch: &Epoch) -> bool {
        let Self { home, mirror: Some(mirror), .. } = self else { return false };
        home.name(key).is_some_and(|channel| mirror.left.has(channel, epoch))
    }

    /// The epoch is another one, or the server could not be asked.
    pub(super) fn renewed(&mut self, out: &mut dyn HubPort, channel: Arc<str>, done: bool) {
        let Some((key, line)) = self.home.line_of(&channel) else { return };
        match done {
            true => {
                line.set(FORKED | VERIFY, false);
                self.read(out, key);
            }
            false => self.repeat(out, Again::Renew(channel)),
        }
    }

    /// Those who must not miss anything up to here have.
    pub(in crate::gateway::hub) fn tell_lost(&mut self, out: &mut dyn HubPort, key: u32, top: u64) {
        let Some(name) = self.home.name(key).cloned() else { return };
        let cores: Vec<u16> = self.home.listeners(&name).collect();
        let tops = vec![(self.home.number(key), top)];
        for core in cores.iter().filter(|core| **core != self.core) {
            // One per channel and core, of which each has subscribers.
            out.post_urgent((*core).into(), Letter::Positions(tops.clone()));
        }
        if cores.contains(&self.core) {
            self.compare(out, &tops);
        }
    }
}

fn is_positioned(waiting: &Waiting) -> bool {
    waiting.letter.stream.is_some()
}

/// Whether an answer to this settles what a subscriber gets.
fn covers(since: Option<u64>, waiting: &Waiting) -> bool {
    let Some(recover) = &waiting.letter.recover else { return true };
    match recover.mode {
        RecoverMode::Stream => since.is_some_and(|since| since <= recover.since.offset),
        RecoverMode::Cache => since.is_none(),
    }
}

/// What to ask for: everything above an offset, or the newest; and how much of it.
fn range(wait: Option<&Wait>, gap: Option<u64>, options: &StreamOptions) -> (Option<u64>, u32) {
    let size = options.size.max(1);
    // One more shows that it was too many.
    let bound = |limit: u32| if limit == 0 { size } else { limit.saturating_add(1).min(size) };
    // The one at our top shows that it is the same stream.
    let gap = gap.map(|top| top.saturating_sub(1));
    let (mut since, mut limit) = (gap, if gap.is_some() { size } else { 1 });
    let waiting = wait.into_iter().flat_map(|wait| &wait.subscribers);
    let recovers =
        waiting.filter(|it| is_positioned(it)).filter_map(|it| it.letter.recover.as_ref());
    for recover in recovers {
        match recover.mode {
            RecoverMode::Stream => {
                since = Some(since.unwrap_or(u64::MAX).min(recover.since.offset));
                limit = limit.max(bound(recover.limit));
            }
            RecoverMode::Cache => limit = limit.max(bound(recover.limit)),
        }
    }
    (since, limit)
}

/// The offset before the publications that lead up to the top without a gap.
fn lead(items: &[Next], top: u64) -> u64 {
    let mut base = top;
    for next in items.iter().rev() {
        if next.item.offset != base {
            break;
        }
        base -= 1;
    }
    base
}

/// Adds what was held back to what the server has, by offset and each once.
fn add_held(items: &mut Vec<Next>, held: Vec<Held>) {
    for Held { item, print, told, .. } in held {
        let place = items.partition_point(|next| next.item.offset < item.offset);
        match items.get_mut(place).filter(|next| next.item.offset == item.offset) {
            Some(next) => next.told &= told,
            None => items.insert(place, Next { item, print, told }),
        }
    }
}
