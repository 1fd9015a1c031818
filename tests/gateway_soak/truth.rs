//! What was published where: every client's sight is compared with it.
//!
//! A publication has a number in its channel, and its content follows from both. Where a stream
//! orders publications, the first who hears of one says its offset, and everybody else must agree;
//! elsewhere one publisher makes them one after the other, and the number is the order.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

/// What a channel is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Stream,
    Delta,
    /// Without history; with presence, joins and leaves.
    Plain,
    /// The backend is asked who may subscribe and publish.
    Ask,
    /// With subscription tokens.
    Private,
    /// Server-side, by the connection's token or the backend.
    Given,
    /// Server-side, by the server API.
    Order,
}

const KINDS: [(Kind, &str); 7] = [
    (Kind::Stream, "stream:"),
    (Kind::Delta, "delta:"),
    (Kind::Plain, "plain:"),
    (Kind::Ask, "ask:"),
    (Kind::Private, "$private:"),
    (Kind::Given, "given:"),
    (Kind::Order, "order:"),
];

impl Kind {
    pub(crate) fn is_server_side(self) -> bool {
        matches!(self, Self::Given | Self::Order)
    }

    /// Whether publications have offsets.
    pub(crate) fn has_stream(self) -> bool {
        self != Self::Plain
    }
}

/// What became of a publication, for who sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Unknown,
    Accepted,
    Refused,
}

#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) epoch: Option<String>,
    /// Publications by offset.
    log: BTreeMap<u64, usize>,
    /// By number, which begins with 1: fate and offset.
    fates: Vec<(Fate, u64)>,
    /// The newest offset that somebody was told.
    pub(crate) top: u64,
    /// Its history was removed by the server API.
    pub(crate) removed: Option<Instant>,
}

#[derive(Debug, Default)]
pub(crate) struct Truth {
    pub(crate) channels: Vec<Channel>,
    names: HashMap<String, usize>,
}

impl Truth {
    /// So many channels of each kind.
    pub(crate) fn new(each: usize) -> Self {
        let mut truth = Self::default();
        for (kind, prefix) in KINDS {
            for number in 0..each {
                let name = format!("{prefix}{number}");
                truth.names.insert(name.clone(), truth.channels.len());
                truth.channels.push(Channel {
                    name,
                    kind,
                    epoch: None,
                    log: BTreeMap::new(),
                    fates: vec![(Fate::Unknown, 0)],
                    top: 0,
                    removed: None,
                });
            }
        }
        truth
    }

    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.names.get(name).copied()
    }

    /// The channels of a kind.
    pub(crate) fn of(&self, kind: Kind) -> Vec<usize> {
        let all = self.channels.iter().enumerate();
        all.filter(|(_, channel)| channel.kind == kind).map(|(at, _)| at).collect()
    }

    /// A new publication: its number and its content.
    pub(crate) fn publish(&mut self, channel: usize) -> (usize, String) {
        let fates = &mut self.channels[channel].fates;
        fates.push((Fate::Unknown, 0));
        (fates.len() - 1, content(channel, fates.len() - 1))
    }

    /// How many publications were begun.
    pub(crate) fn begun(&self, channel: usize) -> u64 {
        self.channels[channel].fates.len() as u64 - 1
    }

    /// Its publisher was told that it is there; by the server API, with its place.
    pub(crate) fn accepted(
        &mut self,
        channel: usize,
        number: usize,
        place: Option<(u64, &str)>,
    ) -> Result<(), String> {
        let of = &mut self.channels[channel];
        if of.fates[number].0 == Fate::Refused {
            return Err(format!("{} {number}: answered twice", of.name));
        }
        of.fates[number].0 = Fate::Accepted;
        if of.kind == Kind::Plain {
            of.top = of.top.max(number as u64);
        }
        if let Some((offset, epoch)) = place {
            self.epoch(channel, epoch)?;
            self.place(channel, number, offset)?;
        }
        Ok(())
    }

    /// Its publisher was told an error.
    pub(crate) fn refused(&mut self, channel: usize, number: usize) -> Result<(), String> {
        let Channel { name, fates, .. } = &mut self.channels[channel];
        if fates[number].1 > 0 {
            return Err(format!("{name} {number}: an error to its publisher, and yet published"));
        }
        fates[number].0 = Fate::Refused;
        Ok(())
    }

    /// Somebody is told an epoch.
    pub(crate) fn epoch(&mut self, channel: usize, epoch: &str) -> Result<(), String> {
        let of = &mut self.channels[channel];
        match &of.epoch {
            Some(known) if known != epoch => {
                Err(format!("{}: the epoch {known} became {epoch}", of.name))
            }
            Some(_) => Ok(()),
            None => {
                of.epoch = Some(epoch.to_owned());
                Ok(())
            }
        }
    }

    /// Somebody sees a publication with this content (which a patch was applied to) and offset.
    /// Returns its place in the channel's order.
    pub(crate) fn seen(&mut self, channel: usize, data: &[u8], offset: u64) -> Result<u64, String> {
        let name = &self.channels[channel].name;
        let shown = || String::from_utf8_lossy(&data[..data.len().min(80)]).into_owned();
        let number = number_of(data).ok_or_else(|| format!("{name}: strange data {}", shown()))?;
        let of = &self.channels[channel];
        if number == 0 || number >= of.fates.len() {
            return Err(format!("{name}: nobody published {}", shown()));
        }
        if data != content(channel, number).as_bytes() {
            return Err(format!("{name} {number}: other content: {}", shown()));
        }
        if of.fates[number].0 == Fate::Refused {
            return Err(format!("{name} {number}: seen, although its publisher got an error"));
        }
        if of.kind == Kind::Plain {
            return match offset {
                0 => Ok(number as u64),
                _ => Err(format!("{name} {number}: the offset {offset} without a stream")),
            };
        }
        self.place(channel, number, offset)?;
        Ok(offset)
    }

    fn place(&mut self, channel: usize, number: usize, offset: u64) -> Result<(), String> {
        let Channel { name, log, fates, top, .. } = &mut self.channels[channel];
        if offset == 0 {
            return Err(format!("{name} {number}: no offset"));
        }
        let known = log.get(&offset).copied().unwrap_or(number);
        let before = fates[number].1;
        if known != number || before != 0 && before != offset {
            return Err(format!(
                "{name}: {number} is at offset {offset}; there was {known} before, and {number} \
                 was at {before}"
            ));
        }
        log.insert(offset, number);
        fates[number].1 = offset;
        *top = offset.max(*top);
        Ok(())
    }

    /// The publication at an offset.
    pub(crate) fn number_at(&self, channel: usize, offset: u64) -> Option<usize> {
        self.channels[channel].log.get(&offset).copied()
    }

    /// Compares a stream's end with what was published.
    pub(crate) fn compare_top(&self, channel: usize, top: u64) -> Result<(), String> {
        let Channel { name, fates, log, .. } = &self.channels[channel];
        let count = |fate| fates.iter().skip(1).filter(|(it, _)| *it == fate).count() as u64;
        let (least, most) = (count(Fate::Accepted), count(Fate::Accepted) + count(Fate::Unknown));
        let last = log.keys().next_back().copied().unwrap_or(0);
        if !(least..=most).contains(&top) || last > top {
            return Err(format!(
                "{name}: {top} publications for the server, {least} to {most} for those who made \
                 them, {last} for those who saw them"
            ));
        }
        Ok(())
    }
}

/// The payload of a publication: like the one before it for the most part, so that patches of it
/// are short.
pub(crate) fn content(channel: usize, number: usize) -> String {
    let units = match number % 50 {
        0 => 600,
        1..10 => 60,
        other => other / 4,
    };
    let unit = format!("channel {channel} says it again; ");
    format!("{{\"n\":{number},\"text\":\"{}\"}}", unit.repeat(units))
}

fn number_of(data: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(data).ok()?.strip_prefix("{\"n\":")?;
    text.split_once(',')?.0.parse().ok()
}
