//! What is true of channels: who published what and when, and what of it a stream holds.

use std::collections::BTreeMap;

use serde_json::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nobody knows yet, or ever.
    Open,
    Out,
    /// It is not published.
    Not,
}

/// A publication, by its number.
#[derive(Clone, Debug)]
pub struct Publication {
    pub channel: String,
    pub data: Value,
    /// What filters look at.
    pub even: bool,
    /// Steps: when it was sent off, and when that was answered.
    pub posted: u64,
    pub done: Option<u64>,
    pub fate: Fate,
    /// The connection that published it.
    pub from: Option<usize>,

    /// How many have seen it.
    pub seen: u64,
}

/// A channel's stream.
#[derive(Clone, Debug, Default)]
pub struct Channel {
    pub epoch: String,
    /// As far as anybody has seen.
    pub top: u64,
    pub places: BTreeMap<u64, usize>,
    /// What was at this offset or below was removed.
    pub removed: u64,
    /// When the last publication was made.
    pub last_ms: u64,
    /// When it was used last, at the earliest.
    pub used_ms: u64,
    /// Something is being removed.
    pub removing: bool,
    /// More may have been published.
    pub unsure: bool,
    /// It has grown since the last rest.
    pub grown: bool,
    /// Nobody saw when its last publication was made.
    pub soft: bool,
    /// How long publications are kept after the last of them.
    pub ttl_ms: u64,
}

/// What a recovery must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    Yes,
    No,
    Either,
}

impl Channel {
    /// Something that happened since then shows this epoch. Whether another life has ended by
    /// itself, as it may where nobody holds on to the stream.
    pub fn shows(&mut self, epoch: &str, (since, now): (u64, u64), meta_seconds: u64) -> bool {
        let mut ended = false;
        if self.epoch != epoch {
            if !self.epoch.is_empty() && !self.unsure {
                let over = meta_seconds > 0 && now + 50 >= self.used_ms + meta_seconds * 1000;
                assert!(over, "a life ended too soon: used at {}", self.used_ms);
                ended = true;
            }
            let unsure = self.unsure || self.epoch.is_empty();
            let ttl_ms = self.ttl_ms;
            *self = Self { epoch: epoch.to_owned(), unsure, ttl_ms, ..Self::default() };
        }
        self.used_ms = self.used_ms.max(since);
        ended
    }

    /// A publication has this place.
    pub fn place(&mut self, offset: u64, number: usize, now: u64) {
        let there = *self.places.entry(offset).or_insert(number);
        assert_eq!(there, number, "two publications at offset {offset}");
        if offset > self.top {
            let until = self.last_ms + self.ttl_ms;
            if self.top > 0 && now >= until {
                self.removed = self.top;
            }
            self.unsure |= self.top > 0 && now.abs_diff(until) < 1100;
            (self.top, self.last_ms, self.grown) = (offset, now, true);
        }
    }

    /// It is the next one.
    pub fn grows(&mut self, number: usize, now: u64) {
        if !self.places.values().any(|it| *it == number) {
            self.place(self.top + 1, number, now);
        }
    }

    pub fn at(&self, offset: u64) -> Option<usize> {
        self.places.get(&offset).copied()
    }

    pub fn remove(&mut self) {
        self.removed = self.top;
    }

    /// How many are retained: at least, at most.
    fn kept(&self, now: u64, (size, ttl): (u64, u64)) -> (u64, u64) {
        let most = (self.top - self.removed).min(size);
        let until = self.last_ms + ttl * 1000;
        match () {
            () if self.removing || now.abs_diff(until) < 1100 => (0, most),
            () if now >= until => (0, 0),
            () => (most, most),
        }
    }

    /// What comes of a recovery from there, where nothing else is under way.
    pub fn recovers(
        &self,
        (offset, epoch): &(u64, String),
        now: u64,
        history: (u64, u64),
    ) -> Recovery {
        if self.unsure {
            return Recovery::Either;
        }
        if !epoch.is_empty() && *epoch != self.epoch || *offset > self.top {
            return Recovery::No;
        }
        let (least, most) = self.kept(now, history);
        match self.top - offset {
            0 => Recovery::Yes,
            _ if self.soft => Recovery::Either,
            missed if missed <= least => Recovery::Yes,
            missed if missed > most => Recovery::No,
            _ => Recovery::Either,
        }
    }
}
