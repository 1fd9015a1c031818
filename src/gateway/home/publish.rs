//! Publications, and questions about a channel.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Channel, Home};
use crate::gateway::delivery::{Delivery, Happening, Item};
use crate::gateway::letters::{Answer, ClientId, Publish, Who};
use crate::gateway::stream::{Added, Position, Read, StreamOptions};
use crate::gateway::wire::messages::{HistoryResult, PresenceStatsResult};
use crate::gateway::wire::{self, Encoding, Error};

/// What became of a publication.
#[derive(Debug)]
pub(in crate::gateway) struct Published {
    pub(in crate::gateway) answer: Answer,
    /// The channel's key and what its listeners get, if there are any.
    pub(in crate::gateway) delivery: Option<(u32, Arc<Delivery>)>,
}

impl Published {
    fn suppressed(position: Option<Position>) -> Self {
        Self {
            answer: Answer::Published { position, suppressed: true, receivers: 0 },
            delivery: None,
        }
    }
}

impl Home {
    /// Publishes, or finds that it was published before.
    pub(in crate::gateway) fn publish(
        &mut self,
        name: &Arc<str>,
        publish: Publish,
        random: u64,
        now: Duration,
    ) -> Published {
        let id = publish.idempotency_key.clone();
        if !id.is_empty()
            && let Some(position) = self.results.get(name, &id, now)
        {
            self.counters.suppressed += 1;
            return Published::suppressed(position);
        }
        let published = match publish.stream {
            // Nobody listens, and nothing is kept.
            None if self.find(name).is_none() => Published {
                answer: Answer::Published { position: None, suppressed: false, receivers: 0 },
                delivery: None,
            },
            _ => self.publish_in(name, publish, random, now),
        };
        match published.answer {
            Answer::Published { position, suppressed: false, .. } => {
                self.counters.published += 1;
                if !id.is_empty() {
                    self.results.put(name, &id, position, now);
                }
            }
            _ => self.counters.suppressed += 1,
        }
        // The key counts, too.
        self.make_room();
        published
    }

    fn publish_in(
        &mut self,
        name: &Arc<str>,
        publish: Publish,
        random: u64,
        now: Duration,
    ) -> Published {
        let Publish { data, info, tags, stream, version, version_epoch, .. } = publish;
        let key = self.intern(name);
        let item = Item::new(now, data, info, tags, version);
        let (item, position) = match stream {
            None => (Arc::new(item), None),
            Some(options) => {
                self.stream(key, &options, random, now);
                let add = |channel: &mut Channel| {
                    let stream = channel.stream.as_mut()?;
                    Some((stream.add(item, &version_epoch, &options, now), stream.position()))
                };
                match self.change(key, add) {
                    Some((Added::Top(item), position)) => (item, Some(position)),
                    Some((Added::Stale, position)) => return Published::suppressed(Some(position)),
                    None => return Published::suppressed(None),
                }
            }
        };
        let delivery = self.deliver(key, item, publish.delta, publish.is_json);
        let receivers = self.channels[key].receivers();
        self.tidy(key);
        Published { answer: Answer::Published { position, suppressed: false, receivers }, delivery }
    }

    /// The next publication of a channel, for its listeners if there are any.
    pub(super) fn deliver(
        &mut self,
        key: u32,
        item: Arc<Item>,
        delta: bool,
        is_json: bool,
    ) -> Option<(u32, Arc<Delivery>)> {
        let channel = &mut self.channels[key];
        channel.seq += 1;
        channel.at_top = item.offset > 0;
        let seq = channel.seq;
        if channel.is_idle() {
            return None;
        }
        let mut base = None;
        if delta || channel.last.is_some() {
            let last = self.change(key, |channel| {
                std::mem::replace(&mut channel.last, delta.then(|| item.clone()))
            });
            base = last.filter(|_| delta).map(|last| last.payload());
        }
        let happening = Happening::Published { item, seq, base };
        let name = self.channels[key].name.clone();
        let delivery = Delivery::new(self.id(key), name, happening);
        Some((key, Arc::new(if is_json { delivery.of_json() } else { delivery })))
    }

    /// A part of the history. A stream without publications begins its life.
    pub(in crate::gateway) fn history(
        &mut self,
        name: &Arc<str>,
        options: &StreamOptions,
        read: &Read,
        random: u64,
        now: Duration,
    ) -> Result<HistoryResult, Error> {
        let key = self.intern(name);
        let stream = self.stream(key, options, random, now);
        let position = stream.position();
        let items = stream.read(read);
        self.make_room();
        let items = items?;
        Ok(HistoryResult {
            publications: items.iter().map(|item| item.wire()).collect(),
            epoch: position.epoch.as_str().to_owned(),
            offset: position.offset,
        })
    }

    /// Forgets what was published; the position stays.
    pub(in crate::gateway) fn remove_history(&mut self, name: &str) {
        if let Some(key) = self.find(name) {
            self.change(key, |channel| {
                if let Some(stream) = &mut channel.stream {
                    stream.clear();
                }
            });
        }
    }

    /// Who is in a channel.
    pub(in crate::gateway) fn presence(&self, name: &str) -> Vec<(ClientId, Who)> {
        let roster = self.find(name).and_then(|key| self.channels[key].roster.as_ref());
        roster.map(|roster| roster.presence()).unwrap_or_default()
    }

    /// The same, ready to be sent to a client that takes so many bytes. It is made once per change
    /// of the members, and kept for a while.
    pub(in crate::gateway) fn members(
        &mut self,
        name: &str,
        encoding: Encoding,
        max: usize,
    ) -> Result<Bytes, Error> {
        let key = self.find(name);
        let roster = key.and_then(|key| self.channels[key].roster.as_mut());
        let (Some(key), Some(roster)) = (key, roster) else {
            return Ok(wire::encode_members(encoding, std::iter::empty()).into());
        };
        let before = roster.copied();
        let copy = roster.copy(encoding, max);
        self.copies += roster.copied() - before;
        if before == 0 && roster.copied() > 0 {
            self.copied.push_back(key);
        }
        while self.copies > COPIES_MAX
            && let Some(key) = self.copied.pop_front()
        {
            self.forget_copies(key);
        }
        copy.ok_or(Error::LIMIT_EXCEEDED)
    }

    /// A channel's members change, or its copies have to go.
    pub(super) fn forget_copies(&mut self, key: u32) {
        let channel = self.channels.get_mut(key);
        if let Some(roster) = channel.and_then(|channel| channel.roster.as_mut())
            && roster.copied() > 0
        {
            self.copies -= roster.copied();
            roster.forget_copies();
            self.copied.retain(|of| *of != key);
        }
    }

    /// How many are in a channel.
    pub(in crate::gateway) fn presence_stats(&self, name: &str) -> PresenceStatsResult {
        let roster = self.find(name).and_then(|key| self.channels[key].roster.as_ref());
        roster.map(|roster| roster.stats()).unwrap_or_default()
    }
}

/// Bytes of answers to `presence` that are kept for those who ask next.
pub(crate) const COPIES_MAX: usize = 16 << 20;
