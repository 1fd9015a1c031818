//! The history of one channel: what was published, at which offset, and what somebody missed.
//!
//! Owns offsets, epoch, versions and the retained publications. Knows no subscriber and no clock:
//! time is passed in. The invariant: the retained publications have consecutive offsets and the
//! last of them is the top, so a stream is whole from its first one on, or empty.
//!
//! A stream's publications vanish together, `ttl` after the last of them; top and epoch stay, for
//! `meta_ttl` after the last use. Nothing here has a timer: whoever uses a stream calls
//! [`Stream::expire`] first, and the home core looks at idle ones from time to time.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::account::heap;
use super::delivery::Item;
use super::filter::Filter;
use super::state::Kept;
use super::wire::Error;

/// One life of a stream: 8 letters where it began here, and up to 16 bytes of text where another
/// server began it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch([u8; Epoch::MAX]);

impl Epoch {
    /// Bytes of the longest; shorter ones are filled up with zeros.
    pub const MAX: usize = 16;

    /// From random bits; about 45 of them are used.
    pub fn new(mut random: u64) -> Self {
        const LETTERS: &[u8; 52] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let mut text = [0; Self::MAX];
        for letter in &mut text[..8] {
            *letter = LETTERS[(random % 52) as usize];
            random /= 52;
        }
        Self(text)
    }

    /// From its text. `None` if that is empty, longer than [`Self::MAX`] bytes or has a zero byte.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; Self::MAX];
        bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        (!text.is_empty() && !text.contains('\0')).then_some(Self(bytes))
    }

    /// As it travels.
    pub fn as_str(&self) -> &str {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(Self::MAX);
        std::str::from_utf8(&self.0[..end]).unwrap_or_default()
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A place in a stream. Clients name epochs by whatever text they like: `Position<String>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position<E = Epoch> {
    /// The last publication; 0 is the beginning.
    pub offset: u64,
    /// Which life of the stream.
    pub epoch: E,
}

impl Position<String> {
    /// An empty epoch is any.
    pub(super) fn is_of(&self, epoch: &Epoch) -> bool {
        self.epoch.is_empty() || self.epoch == epoch.as_str()
    }
}

/// How much of a channel is kept, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamOptions {
    /// `history_size`: publications at most; 0 is taken as 1.
    pub size: u32,
    /// `history_ttl`: the publications vanish so long after the last of them.
    pub ttl: Duration,
    /// `history_meta_ttl`: top and epoch vanish so long after their last use; 0 is never.
    pub meta_ttl: Duration,
}

/// Which part of a stream to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// After this place, or before it if `reverse`.
    pub since: Option<Position<String>>,
    /// So many: 0 is none, below 0 is as many as `max` allows.
    pub limit: i32,
    /// Newest first.
    pub reverse: bool,
    /// Never more than this; 0 is no limit.
    pub max: u32,
    /// Nor more than so many bytes, unless it is only one; 0 is no limit.
    pub max_bytes: usize,
}

/// What became of a publication.
#[derive(Clone, Debug)]
pub enum Added {
    /// It is the new top.
    Top(Arc<Item>),
    /// Its version is not higher than the last one.
    Stale,
}

/// A publication's version, given by whoever publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    number: u64,
    epoch: Box<str>,
}

/// One channel's history.
#[derive(Debug)]
pub struct Stream {
    epoch: Epoch,
    top: u64,
    items: VecDeque<Arc<Item>>,
    bytes: usize,
    /// In milliseconds, as are all times here.
    items_until: u64,
    meta_until: u64,
    /// Few streams have one.
    version: Option<Box<Version>>,
}

// Every positioned channel has one, and the heap has no class between 80 and 96.
const _: () = assert!(size_of::<Stream>() <= 96);

impl Stream {
    /// A new life: nothing was published yet.
    pub fn new(epoch: Epoch, options: &StreamOptions, now: Duration) -> Self {
        let mut stream = Self {
            epoch,
            top: 0,
            items: VecDeque::new(),
            bytes: 0,
            items_until: 0,
            meta_until: 0,
            version: None,
        };
        stream.touch(options, now);
        stream
    }

    /// The top.
    pub fn position(&self) -> Position {
        Position { offset: self.top, epoch: self.epoch }
    }

    /// The memory that the retained publications take.
    pub fn bytes(&self) -> usize {
        self.bytes + heap(self.items.capacity() * size_of::<Arc<Item>>())
    }

    /// The memory that it takes without any.
    pub(super) fn overhead(&self) -> usize {
        let version = self.version.as_ref();
        let version = version.map_or(0, |it| heap(size_of::<Version>()) + heap(it.epoch.len()));
        heap(size_of::<Self>()) + version
    }

    /// Whether this publication is retained here.
    pub(super) fn retains(&self, item: &Arc<Item>) -> bool {
        let place = item.offset.checked_sub(self.top - self.items.len() as u64 + 1);
        let at = place.and_then(|place| self.items.get(usize::try_from(place).ok()?));
        at.is_some_and(|it| Arc::ptr_eq(it, item))
    }

    /// Whether nothing is retained.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The last use, and the life that it gave: whoever has the least was not used for longest.
    pub(super) fn meta_until(&self) -> u64 {
        self.meta_until
    }

    /// When the oldest retained publication was published.
    pub fn oldest(&self) -> Option<Duration> {
        self.items.front().map(|item| item.at)
    }

    /// Prolongs the life of top and epoch.
    pub fn touch(&mut self, options: &StreamOptions, now: Duration) {
        self.meta_until = match options.meta_ttl {
            Duration::ZERO => u64::MAX,
            ttl => until(now, ttl),
        };
    }

    /// Lets the publications vanish if it is time.
    pub fn expire(&mut self, now: Duration) {
        if !self.items.is_empty() && millis(now) >= self.items_until {
            self.clear();
        }
    }

    /// Whether top and epoch have outlived their time. A stream with publications is alive.
    pub fn is_over(&self, now: Duration) -> bool {
        self.items.is_empty() && millis(now) >= self.meta_until
    }

    /// Publishes, unless the version is stale. The item's offset is set here.
    pub fn add(
        &mut self,
        mut item: Item,
        version_epoch: &str,
        options: &StreamOptions,
        now: Duration,
    ) -> Added {
        self.expire(now);
        self.touch(options, now);
        let version = item.version();
        if self.is_stale(version, version_epoch) {
            return Added::Stale;
        }
        if version > 0 {
            let version = Version { number: version, epoch: version_epoch.into() };
            self.version = Some(Box::new(version));
        }
        self.top += 1;
        item.offset = self.top;
        Added::Top(self.retain(item, options, now))
    }

    fn retain(&mut self, item: Item, options: &StreamOptions, now: Duration) -> Arc<Item> {
        let item = Arc::new(item);
        let size = options.size.max(1) as usize;
        while self.items.len() >= size {
            self.forget_oldest();
        }
        if self.items.len() == self.items.capacity() {
            // In small steps, and never more than can come.
            let len = self.items.len();
            self.items.reserve_exact((len / 2).clamp(1, size - len));
        }
        self.bytes += item.cost();
        self.items.push_back(item.clone());
        self.items_until = until(now, options.ttl);
        item
    }

    /// A stream as another server has it, of which nothing is retained here.
    pub fn at(position: Position, options: &StreamOptions, now: Duration) -> Self {
        Self { top: position.offset, ..Self::new(position.epoch, options, now) }
    }

    /// Takes the publication after the top, as another server has ordered it.
    pub fn follow(&mut self, mut item: Item, options: &StreamOptions, now: Duration) -> Arc<Item> {
        self.expire(now);
        self.top += 1;
        item.offset = self.top;
        self.retain(item, options, now)
    }

    /// The top is further on, and what is before it cannot be had.
    pub fn skip_to(&mut self, top: u64) {
        if top > self.top {
            self.clear();
            self.top = top;
        }
    }

    /// Takes publications that came before the first one that is retained, as far as they lead up
    /// to it without a gap and there is room for them.
    pub fn prepend(&mut self, older: Vec<Item>, options: &StreamOptions, now: Duration) {
        self.expire(now);
        if self.items.is_empty() {
            self.items_until = until(now, options.ttl);
        }
        let mut items: VecDeque<_> = std::mem::take(&mut self.items);
        for item in older.into_iter().rev() {
            let first = self.top + 1 - items.len() as u64;
            if items.len() >= options.size.max(1) as usize || item.offset + 1 > first {
                continue;
            }
            if item.offset + 1 < first {
                break;
            }
            let item = Arc::new(item);
            self.bytes += item.cost();
            items.push_front(item);
        }
        items.shrink_to_fit();
        self.items = items;
    }

    /// What is retained, the oldest first.
    pub(super) fn items(&self) -> impl Iterator<Item = &Arc<Item>> {
        self.items.iter()
    }

    /// As it is kept over the end of the process. What has expired has no publications.
    pub(super) fn kept(&self, name: &Arc<str>, now: Duration) -> Kept {
        let left = |until: u64| Duration::from_millis(until.saturating_sub(millis(now)));
        let items = if millis(now) < self.items_until { self.items.len() as u64 } else { 0 };
        Kept {
            name: name.clone(),
            position: self.position(),
            items,
            items_left: left(self.items_until),
            meta_left: (self.meta_until != u64::MAX).then(|| left(self.meta_until)),
            version: self.version.as_ref().map(|it| (it.number, it.epoch.clone())),
            at_top: false,
        }
    }

    /// One that was kept `age` ago, before the first of the publications that follow. Those that
    /// have outlived their time since do not.
    pub(super) fn of_kept(kept: &Kept, now: Duration, age: Duration) -> Self {
        let follow = if kept.items_left > age { kept.items } else { 0 };
        let ends = |left: Duration| until(now, left.saturating_sub(age));
        let version = kept.version.clone();
        Self {
            epoch: kept.position.epoch,
            top: kept.position.offset - follow,
            items: VecDeque::new(),
            bytes: 0,
            items_until: ends(kept.items_left),
            meta_until: kept.meta_left.map_or(u64::MAX, ends),
            version: version.map(|(number, epoch)| Box::new(Version { number, epoch })),
        }
    }

    /// Takes the publication after the top, as it was kept.
    pub(super) fn append(&mut self, mut item: Item) {
        self.top += 1;
        item.offset = self.top;
        self.bytes += item.cost();
        self.items.push_back(Arc::new(item));
    }

    /// All that was kept is here: no more room is needed.
    pub(super) fn settle(&mut self) {
        self.items.shrink_to_fit();
    }

    /// How many are retained.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// The retained publication with this offset.
    pub fn get(&self, offset: u64) -> Option<&Arc<Item>> {
        let place = (offset + self.items.len() as u64).checked_sub(self.top + 1)?;
        self.items.get(usize::try_from(place).ok()?)
    }

    fn is_stale(&self, version: u64, epoch: &str) -> bool {
        let Some(last) = &self.version else { return false };
        let same = epoch.is_empty() || *epoch == *last.epoch;
        version > 0 && same && version <= last.number
    }

    /// Gives up the oldest publication, and what room there is for more than four times as many as
    /// are left.
    pub fn drop_oldest(&mut self) {
        self.forget_oldest();
        if self.items.len() <= self.items.capacity() / 4 {
            self.items.shrink_to(self.items.len() * 2);
        }
    }

    fn forget_oldest(&mut self) {
        self.bytes -= self.items.pop_front().map_or(0, |item| item.cost());
    }

    /// Forgets what was published. Top and epoch stay.
    pub fn clear(&mut self) {
        self.items = VecDeque::new();
        self.bytes = 0;
    }

    /// A part of the history, in the order asked for.
    ///
    /// # Errors
    /// [`Error::BAD_REQUEST`] if it goes back from the beginning;
    /// [`Error::UNRECOVERABLE_POSITION`] if the place is in another epoch.
    pub fn read(&self, read: &Read) -> Result<Vec<Arc<Item>>, Error> {
        if let Some(since) = &read.since {
            if read.reverse && since.offset == 0 {
                return Err(Error::BAD_REQUEST);
            }
            if !since.is_of(&self.epoch) {
                return Err(Error::UNRECOVERABLE_POSITION);
            }
        }
        let max = if read.max == 0 { usize::MAX } else { read.max as usize };
        let limit = usize::try_from(read.limit).unwrap_or(usize::MAX).min(max);
        let since = read.since.as_ref().map(|since| since.offset);
        let mut room = if read.max_bytes == 0 { usize::MAX } else { read.max_bytes };
        let mut first = true;
        let mut fits = |item: &&Arc<Item>| {
            let fits = item.cost() <= room || first;
            (room, first) = (room.saturating_sub(item.cost()), false);
            fits
        };
        // There is nothing to go back from.
        let beyond = |since: u64| read.reverse && since > self.top.saturating_add(1);
        Ok(if since.is_some_and(beyond) {
            Vec::new()
        } else if read.reverse {
            let end = since.map_or(self.items.len(), |since| self.count_to(since - 1));
            self.items.range(..end).rev().take(limit).take_while(&mut fits).cloned().collect()
        } else {
            let start = since.map_or(0, |since| self.count_to(since));
            self.items.range(start..).take(limit).take_while(&mut fits).cloned().collect()
        })
    }

    /// How many of the retained publications have this offset or a lower one.
    fn count_to(&self, offset: u64) -> usize {
        let before = self.top - self.items.len() as u64;
        let count = offset.saturating_sub(before);
        usize::try_from(count).unwrap_or(usize::MAX).min(self.items.len())
    }

    /// Everything that was published since a place, oldest first, less what the filter skips.
    /// `None` if something of it is not retained, the place is in another epoch or beyond the top,
    /// or it is more than `limit` publications or `max_bytes`; a limit of 0 is none.
    pub fn recover(
        &self,
        since: &Position<String>,
        limit: u32,
        max_bytes: usize,
        filter: Option<&Filter>,
    ) -> Option<Vec<Arc<Item>>> {
        if !since.is_of(&self.epoch) {
            return None;
        }
        let missed = self.top.checked_sub(since.offset)?;
        let allowed = limit == 0 || missed <= u64::from(limit);
        if missed > self.items.len() as u64 || !allowed {
            return None;
        }
        let items = self.items.range(self.count_to(since.offset)..);
        let items: Vec<_> = items.filter(|item| passes(filter, item)).cloned().collect();
        let bytes: usize = items.iter().map(|item| item.cost()).sum();
        (max_bytes == 0 || bytes <= max_bytes).then_some(items)
    }

    /// The newest publication that the filter lets through, unless the client has the newest state
    /// already. `None` if there is none; `limit` as in [`Self::recover`].
    pub fn newest(
        &self,
        since: &Position<String>,
        limit: u32,
        filter: Option<&Filter>,
    ) -> Option<Vec<Arc<Item>>> {
        let is_top = since.offset == self.top && since.epoch == self.epoch.as_str();
        if is_top && since.offset > 0 {
            return Some(Vec::new());
        }
        let limit = if limit == 0 { usize::MAX } else { limit as usize };
        let newest = self.items.iter().rev().take(limit).find(|item| passes(filter, item))?;
        Some(vec![newest.clone()])
    }
}

fn passes(filter: Option<&Filter>, item: &Item) -> bool {
    filter.is_none_or(|filter| filter.matches(item.tags()))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn until(now: Duration, ttl: Duration) -> u64 {
    millis(now.saturating_add(ttl))
}
