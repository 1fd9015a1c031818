//! What a home core knows besides of a channel that a broker orders: whether it hears of it, how
//! sure its position is, who waits for what, and what came before its turn.
//!
//! Owns one line per channel that is in use, by the channel's key, and the account of what is held
//! back. Without a broker there are none. The invariant: a line's channel exists.

use std::num::NonZeroU16;
use std::time::Duration;

use super::Home;
use crate::common::table::SlotTable;
use crate::gateway::broker::Ticket;
use crate::gateway::delivery::Item;
use crate::gateway::hub_port::SubKey;
use crate::gateway::letters::SubscribeLetter;
use crate::gateway::stream::Epoch;

/// Messages that one channel holds back until a gap is filled.
pub(in crate::gateway) const HELD_MESSAGES: usize = 64;

/// Bytes of them.
pub(in crate::gateway) const HELD_BYTES: usize = 64 << 10;

/// Bytes that all channels of a core hold back.
pub(in crate::gateway) const HELD_TOTAL: usize = 16 << 20;

/// `Listen` is to be asked for in this life of the connection, or was.
pub(in crate::gateway) const ASKED: u16 = 1;
/// The server has acknowledged it.
pub(in crate::gateway) const HEARD: u16 = 2;
/// The stream is the server's, as far as this core has heard.
pub(in crate::gateway) const KNOWN: u16 = 4;
/// Something is missing after the top: what comes is held back.
pub(in crate::gateway) const BEHIND: u16 = 8;
/// A check is due.
pub(in crate::gateway) const DUE: u16 = 16;
/// The next check compares what is at the top, and until then what comes is held back.
pub(in crate::gateway) const VERIFY: u16 = 32;
/// The stream has forked, and a new epoch is asked for.
pub(in crate::gateway) const FORKED: u16 = 64;
/// A question for its history is to be repeated.
pub(in crate::gateway) const RETRIES: u16 = 256;
/// A subscriber takes patches.
pub(in crate::gateway) const PATCHED: u16 = 128;
/// `Listen` is on its way to the server.
pub(in crate::gateway) const SENT: u16 = 512;

/// What is known of one channel.
#[derive(Debug)]
pub(in crate::gateway) struct Line {
    /// The last time its position was right, in seconds.
    pub(in crate::gateway) checked: u32,
    /// The last time the life of its history began anew, in seconds.
    pub(in crate::gateway) prolonged: u32,
    /// Which of the options that the core has met; [`NO_STREAM`] is none.
    pub(in crate::gateway) options: u16,
    /// With [`IN_USE`], so that a vacant place in the table needs no byte of its own.
    flags: NonZeroU16,
    /// Of the publication at the top; 0 if nobody here has seen it. Of a stream that is not known:
    /// the highest offset that came.
    pub(in crate::gateway) print: u64,
    pub(in crate::gateway) wait: Option<Box<Wait>>,
}

/// No positioned subscriber was here so far.
pub(in crate::gateway) const NO_STREAM: u16 = u16::MAX;

/// No fact about a channel: always set.
const IN_USE: NonZeroU16 = NonZeroU16::new(1 << 15).unwrap();

const _: () = assert!(size_of::<Option<Line>>() <= 32);

impl Line {
    pub(in crate::gateway) fn is(&self, flag: u16) -> bool {
        self.flags.get() & flag != 0
    }

    pub(in crate::gateway) fn set(&mut self, flag: u16, on: bool) {
        let flags = self.flags.get();
        self.flags = IN_USE | if on { flags | flag } else { flags & !flag };
    }

    /// Whether what the server says leads on from what is here: messages come, and from the server
    /// that was there before, or one that is found to have the same stream.
    pub(in crate::gateway) fn is_certain(&self) -> bool {
        self.is(HEARD) && !self.is(VERIFY)
    }

    /// A question to the server about its history is under way.
    pub(in crate::gateway) fn is_reading(&self) -> bool {
        self.wait.as_ref().is_some_and(|wait| wait.reading.is_some())
    }
}

/// What waits for the server.
#[derive(Debug, Default)]
pub(in crate::gateway) struct Wait {
    /// Subscribers that are not answered.
    pub(in crate::gateway) subscribers: Vec<Waiting>,
    /// Messages that came before their turn, by epoch in the order of arrival and then by offset.
    pub(in crate::gateway) held: Vec<Held>,
    /// Bytes of these.
    bytes: usize,
    /// There were more.
    pub(in crate::gateway) dropped: bool,
    /// The highest place among all of them; of the last epoch, if there are several.
    pub(in crate::gateway) highest: Option<(Epoch, u64)>,
    /// The question under way.
    pub(in crate::gateway) reading: Option<Reading>,
    /// What was published above the one offset and up to the other was in the answer that made the
    /// stream known, and may still be on its way to those who listened before.
    pub(in crate::gateway) untold: Option<(u64, u64)>,
    /// The place of a publication that its publisher knows to be made, and that has not come.
    pub(in crate::gateway) promised: Option<(Epoch, u64)>,
}

impl Wait {
    /// Whether somebody waits for the channel's position.
    pub(in crate::gateway) fn wants_position(&self) -> bool {
        self.reading.is_some() || self.subscribers.iter().any(|it| it.letter.stream.is_some())
    }

    fn is_empty(&self) -> bool {
        self.subscribers.is_empty()
            && self.held.is_empty()
            && !self.dropped
            && self.reading.is_none()
            && self.untold.is_none()
            && self.promised.is_none()
    }
}

/// A subscriber that waits.
#[derive(Debug)]
pub(in crate::gateway) struct Waiting {
    pub(in crate::gateway) letter: Box<SubscribeLetter>,
    /// The question whose answer settles it.
    pub(in crate::gateway) settled_by: Option<Ticket>,
}

/// A message that waits for those before it.
#[derive(Debug)]
pub(in crate::gateway) struct Held {
    pub(in crate::gateway) epoch: Epoch,
    pub(in crate::gateway) item: Item,
    pub(in crate::gateway) print: u64,
    /// Subscribers that need no position have it already.
    pub(in crate::gateway) told: bool,
}

/// A question to the server about a history.
#[derive(Clone, Copy, Debug)]
pub(in crate::gateway) struct Reading {
    pub(in crate::gateway) ticket: Ticket,
    /// What is above this; `None`: the newest.
    pub(in crate::gateway) since: Option<u64>,
    /// Publications at most.
    pub(in crate::gateway) limit: u32,
    /// Where the stream was when it was asked.
    pub(in crate::gateway) at: Option<(Epoch, u64)>,
    /// How far messages had come then: the server had published that much.
    pub(in crate::gateway) heard: Option<(Epoch, u64)>,
}

/// All lines of a core.
#[derive(Debug, Default)]
pub(in crate::gateway) struct Lines {
    table: SlotTable<Line>,
    /// Bytes of messages held back.
    held: usize,
}

impl Lines {
    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.table.used() == 0 && self.held == 0
    }

    /// Forgets the line of a channel, if it has one.
    pub(super) fn remove(&mut self, key: u32) {
        let line = self.table.remove(key);
        self.held -= line.and_then(|line| line.wait).map_or(0, |wait| wait.bytes);
        if self.table.used() == 0 {
            self.table = SlotTable::default();
        }
    }
}

impl Home {
    /// The line of a channel.
    pub(in crate::gateway) fn line(&mut self, key: u32) -> Option<&mut Line> {
        self.lines.table.get_mut(key)
    }

    /// The channel of this name, and its line.
    pub(in crate::gateway) fn line_of(&mut self, name: &str) -> Option<(u32, &mut Line)> {
        let key = self.find(name)?;
        Some((key, self.line(key)?))
    }

    /// The line of a channel, which it has from here on.
    pub(in crate::gateway) fn draw_line(&mut self, key: u32) -> &mut Line {
        debug_assert!(self.channels.contains(key), "a line of no channel");
        self.lines.table.get_or_insert_with(key, || Line {
            checked: 0,
            prolonged: 0,
            options: NO_STREAM,
            flags: IN_USE,
            print: 0,
            wait: None,
        })
    }

    /// One past the highest key of a channel that may have a line.
    pub(in crate::gateway) fn lines_end(&self) -> u32 {
        self.lines.table.end()
    }

    /// What waits in a channel, which something does from here on.
    pub(in crate::gateway) fn wait(&mut self, key: u32) -> &mut Wait {
        self.draw_line(key).wait.get_or_insert_default()
    }

    /// Holds a message back until those before it are here; all go if it becomes too much. False if
    /// one with the same place is there already.
    pub(in crate::gateway) fn hold(&mut self, key: u32, held: Held) -> bool {
        let total = self.lines.held;
        let wait = self.wait(key);
        let place = (held.epoch, held.item.offset);
        wait.highest = match wait.highest {
            Some((epoch, offset)) if epoch == place.0 => Some((epoch, offset.max(place.1))),
            _ => Some(place),
        };
        let (before, cost) = (wait.bytes, held.item.cost());
        let full = wait.held.len() >= HELD_MESSAGES
            || wait.bytes + cost > HELD_BYTES
            || total + cost > HELD_TOTAL;
        if full {
            wait.held.clear();
            (wait.bytes, wait.dropped) = (0, true);
        } else {
            let same = |it: &Held| it.epoch == held.epoch;
            let end = wait.held.iter().rposition(same).map_or(wait.held.len(), |last| last + 1);
            let start = wait.held.iter().position(same).unwrap_or(end);
            let offset = |it: &Held| it.item.offset;
            let place = wait.held[start..end].partition_point(|it| offset(it) < offset(&held));
            if wait.held[start..end].get(place).is_some_and(|it| offset(it) == offset(&held)) {
                return false;
            }
            wait.bytes += cost;
            wait.held.insert(start + place, held);
        }
        self.lines.held = total + self.wait(key).bytes - before;
        true
    }

    /// The messages that were held back, and whether there were more.
    pub(in crate::gateway) fn release(&mut self, key: u32) -> (Vec<Held>, bool) {
        let Some(wait) = self.line(key).and_then(|line| line.wait.as_mut()) else {
            return (Vec::new(), false);
        };
        let bytes = std::mem::take(&mut wait.bytes);
        wait.highest = None;
        let released = (std::mem::take(&mut wait.held), std::mem::take(&mut wait.dropped));
        self.lines.held -= bytes;
        released
    }

    /// A publisher hears of a place: no older history is told from here on.
    pub(in crate::gateway) fn promise(&mut self, key: u32, place: (Epoch, u64)) {
        let promised = &mut self.wait(key).promised;
        match promised {
            Some((epoch, offset)) if *epoch == place.0 => *offset = (*offset).max(place.1),
            promised => *promised = Some(place),
        }
    }

    /// The stream has come so far.
    pub(in crate::gateway) fn keep_promise(&mut self, key: u32) {
        let Some(ours) = self.position(key) else { return };
        let Some(wait) = self.line(key).and_then(|line| line.wait.as_mut()) else { return };
        let kept =
            |(epoch, offset): &mut (Epoch, u64)| *epoch == ours.epoch && *offset <= ours.offset;
        if wait.promised.take_if(kept).is_some() {
            self.tidy_wait(key);
        }
    }

    /// Gives up what nothing waits in.
    pub(in crate::gateway) fn tidy_wait(&mut self, key: u32) {
        if let Some(line) = self.line(key)
            && line.wait.as_ref().is_some_and(|wait| wait.is_empty())
        {
            line.wait = None;
        }
    }

    /// A subscriber does not wait any more. `None` if it did not.
    pub(in crate::gateway) fn stop_waiting(
        &mut self,
        key: u32,
        core: u16,
        sub: SubKey,
    ) -> Option<Box<SubscribeLetter>> {
        let subscribers = &mut self.line(key)?.wait.as_mut()?.subscribers;
        let is_it = |it: &Waiting| it.letter.core == core && it.letter.sub == sub;
        let place = subscribers.iter().position(is_it)?;
        let letter = subscribers.swap_remove(place).letter;
        // What was held for those who wait is nobody's.
        let line = self.line(key)?;
        if !line.is(KNOWN) && line.wait.as_ref().is_some_and(|wait| !wait.wants_position()) {
            self.release(key);
        }
        self.tidy_wait(key);
        Some(letter)
    }
}

/// A time as lines keep it.
pub(in crate::gateway) fn seconds(now: Duration) -> u32 {
    u32::try_from(now.as_secs()).unwrap_or(u32::MAX)
}
