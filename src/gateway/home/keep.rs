//! What a home core keeps over the end of its process, out of its tables and into them.
//!
//! Subscribers and members are not kept: they are gone when a process ends, and come back by
//! themselves. The invariant: a stream that is taken in is whole, from the first publication that
//! it retains to its top, or empty; and an offset that somebody was told is given to nobody else.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Channel, Home};
use crate::gateway::delivery::Item;
use crate::gateway::letters::IDEMPOTENCY_TTL;
use crate::gateway::state::{
    ItemsWriter, Kept, KeptResult, LeftOut, Malformed, PIECE, Record, Vault,
};
use crate::gateway::stream::Stream;

/// Bytes of a channel's record besides its name and its version's epoch, at most.
const CHANNEL_BYTES: usize = 80;

impl Home {
    /// Writes down all channels that have a stream, and all results.
    pub(in crate::gateway) fn keep(&mut self, now: Duration, vault: &dyn Vault) {
        self.results.expire(now);
        let mut piece = Vec::with_capacity(PIECE + PIECE / 4);
        let mut out = LeftOut::default();
        for (_, channel) in self.channels.iter() {
            channel.keep(now, vault, &mut piece, &mut out);
        }
        for (channel, key, position, until) in self.results.all() {
            let left = until.saturating_sub(now);
            if !vault.claim(CHANNEL_BYTES + channel.len() + key.len()) {
                break;
            }
            let result = KeptResult { channel: channel.into(), key: key.into(), position, left };
            Record::Result(result).write(now, &mut piece);
            hand_on(vault, &mut piece, PIECE);
        }
        hand_on(vault, &mut piece, 1);
        vault.left_out(out);
    }
}

impl Channel {
    fn keep(&self, now: Duration, vault: &dyn Vault, piece: &mut Vec<u8>, out: &mut LeftOut) {
        let Some(stream) = self.stream.as_ref().filter(|stream| !stream.is_over(now)) else {
            return;
        };
        let mut kept = stream.kept(&self.name, now);
        kept.at_top = self.at_top;
        let version = kept.version.as_ref().map_or(0, |(_, epoch)| epoch.len());
        if !vault.claim(CHANNEL_BYTES + self.name.len() + version) {
            out.channels += 1;
            return;
        }
        // What a publication takes of memory is more than its record does.
        if kept.items > 0 && !vault.claim(stream.bytes() + self.name.len()) {
            out.publications += kept.items;
            (kept.items, kept.at_top) = (0, false);
        }
        let items = kept.items;
        Record::Channel(kept).write(now, piece);
        if items > 0 {
            let mut writer = ItemsWriter::new(&self.name);
            for item in stream.items() {
                if writer.add(item, now) {
                    writer.finish(piece);
                    hand_on(vault, piece, PIECE);
                }
            }
            writer.finish(piece);
        }
        hand_on(vault, piece, PIECE);
    }
}

pub(super) fn hand_on(vault: &dyn Vault, piece: &mut Vec<u8>, from: usize) {
    if piece.len() >= from {
        vault.put(piece);
        piece.clear();
        // A large publication needs its room once.
        piece.shrink_to(2 * PIECE);
    }
}

/// Channels on their way into a home core.
#[derive(Debug)]
pub(in crate::gateway) struct Restoring {
    now: Duration,
    age: Duration,
    /// Channels whose publications are not all here, and what the top is when they are.
    begun: HashMap<u32, u64>,
    results: Vec<KeptResult>,
    channels: u64,
    publications: u64,
}

impl Restoring {
    /// What was kept `age` ago.
    pub(in crate::gateway) fn new(now: Duration, age: Duration) -> Self {
        let (begun, results) = (HashMap::new(), Vec::new());
        Self { now, age, begun, results, channels: 0, publications: 0 }
    }

    /// Takes in those records of a piece that concern channels whose home this core is. The home is
    /// the same each time.
    pub(in crate::gateway) fn take(
        &mut self,
        home: &mut Home,
        mut piece: &[u8],
    ) -> Result<(), Malformed> {
        let core = usize::from(home.core);
        // Ages are of the time of writing.
        let at = self.now.saturating_sub(self.age);
        while !piece.is_empty() {
            let record = Record::read(&mut piece, at)?;
            let name: &str = match &record {
                Record::Channel(kept) => &kept.name,
                Record::Items(name, _) => name,
                Record::Result(result) => &result.channel,
            };
            if home.placement.home(name) != core {
                continue;
            }
            match record {
                Record::Channel(kept) => self.channel(home, kept),
                Record::Items(name, items) => self.items(home, &name, items),
                Record::Result(result) if self.results.len() < home.limits.idempotency_keys => {
                    self.results.push(result);
                }
                Record::Result(_) => {}
            }
        }
        Ok(())
    }

    fn channel(&mut self, home: &mut Home, kept: Kept) {
        let (now, age) = (self.now, self.age);
        let Kept { name, position, at_top, .. } = &kept;
        let (at_top, top) = (*at_top, position.offset);
        let stream = Stream::of_kept(&kept, now, age);
        let items = top - stream.position().offset;
        if items == 0 && stream.is_over(now) {
            return;
        }
        let key = home.intern(name);
        home.change(key, |channel| {
            channel.stream = Some(Box::new(stream));
            channel.at_top = at_top && items > 0;
        });
        home.make_room();
        self.channels += 1;
        // The number may have been another channel's that had to make room.
        self.begun.remove(&key);
        if items > 0 {
            self.begun.insert(key, top);
        }
    }

    fn items(&mut self, home: &mut Home, name: &Arc<str>, items: Vec<Item>) {
        // It may have been forgotten to make room for others.
        let Some(key) = home.find(name).filter(|key| self.begun.contains_key(key)) else { return };
        self.publications += items.len() as u64;
        let position = home.change(key, |channel| {
            let stream = channel.stream.as_mut()?;
            for item in items {
                // Anything else would leave a gap.
                if item.offset == stream.position().offset + 1 {
                    stream.append(item);
                }
            }
            Some(stream.position().offset)
        });
        if position == self.begun.get(&key).copied() {
            self.begun.remove(&key);
            home.change(key, |channel| {
                if let Some(stream) = &mut channel.stream {
                    stream.settle();
                }
            });
        }
        home.make_room();
    }

    /// All that there is was taken in. Gives how many channels, publications and keys.
    pub(in crate::gateway) fn finish(self, home: &mut Home) -> (u64, u64, u64) {
        let Self { now, age, begun, mut results, channels, publications } = self;
        for (key, top) in begun {
            if !home.channels.contains(key) {
                continue;
            }
            // Some are missing: then all are, and the position holds.
            home.change(key, |channel| {
                channel.at_top = false;
                if let Some(stream) = &mut channel.stream {
                    stream.skip_to(top);
                }
            });
        }
        results.sort_by_key(|result| result.left);
        let mut keys = 0;
        for KeptResult { channel, key, position, left } in results {
            let left = left.min(IDEMPOTENCY_TTL);
            let Some(left) = left.checked_sub(age).filter(|left| !left.is_zero()) else { continue };
            if home.results.get(&channel, &key, now).is_none() {
                home.results.put_until(&channel, &key, position, now + left);
                keys += 1;
            }
        }
        home.make_room();
        (channels, publications, keys)
    }
}

#[cfg(test)]
impl Home {
    /// Whether a channel exists.
    pub(in crate::gateway) fn knows(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// What is known of an idempotency key.
    pub(in crate::gateway) fn result(
        &mut self,
        channel: &str,
        key: &str,
        now: Duration,
    ) -> Option<crate::gateway::stream::Position> {
        self.results.get(channel, key, now).flatten()
    }

    /// How many publications are retained.
    pub(in crate::gateway) fn history_items(&self, name: &str) -> usize {
        let stream = self.find(name).and_then(|key| self.channels[key].stream.as_ref());
        stream.map_or(0, |stream| stream.len())
    }
}
