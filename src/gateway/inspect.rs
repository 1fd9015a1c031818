//! What an operator may look into on one core: which channels and users there are, who a user's
//! connections are, and who does not read what is sent.
//!
//! Owns the questions, how answers are put together, and the memory of the last connections that
//! were closed as slow; sessions answer. The invariant: an answer has at most as many entries as
//! were asked for, however many there are, and one question is one pass over a table.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use globset::GlobMatcher;

use super::format::Transport;
use super::letters::{ClientId, Reply};
use super::wire::Encoding;
use crate::engine::{Cause, ConnId};

/// A question to one core.
#[derive(Debug)]
pub enum Inspect {
    /// Channels whose home the core is, those with the most subscribers first.
    Channels(Search, Reply<Found>),
    /// Users with connections on the core, by name.
    Users(Search, Reply<Found>),
    /// A user's connections on the core, the newest first: so many at most.
    User(Box<str>, usize, Reply<Vec<Connection>>),
    /// Who these connections are, and who was closed as slow.
    Slow(Vec<ConnId>, Reply<Slow>),
}

/// What is searched for.
#[derive(Clone, Debug)]
pub struct Search {
    /// Only names that match; `None` is any.
    pub pattern: Option<GlobMatcher>,
    /// So many are left out, the first.
    pub skip: usize,
    /// So many at most of the others.
    pub limit: usize,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Those of the page.
    pub list: Vec<Named>,
    /// How many match, those left out included.
    pub matched: usize,
}

/// A channel or user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its name.
    pub name: Arc<str>,
    /// Subscribers or connections.
    pub count: u32,
    /// How often something was published in a channel since it is known.
    pub published: u64,
}

/// A connection, as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Its core.
    pub core: u16,
    /// Its id, as clients see it.
    pub client: ClientId,
    /// Whose it is.
    pub user: Arc<str>,
    /// From where, as the session is told; `None`: it is going.
    pub peer: Option<SocketAddr>,
    /// By which transport.
    pub transport: Transport,
    /// When it was opened, in Unix seconds.
    pub since: i64,
    /// How its messages are encoded.
    pub encoding: Encoding,
    /// Subscriptions.
    pub subscriptions: usize,
    /// Names of some of the channels it is subscribed to; of the slow none is told.
    pub channels: Vec<Arc<str>>,
}

/// Who does not read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slow {
    /// Who the connections are that were asked about; `None`: gone, or not past its connect
    /// command.
    pub now: Vec<(ConnId, Option<Connection>)>,
    /// The last that were closed as slow, the newest last.
    pub ended: Vec<SlowEnd>,
}

/// A connection that was closed because it did not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlowEnd {
    /// Unix time in seconds.
    pub at: i64,
    /// Why.
    pub cause: Cause,
    /// Who it was.
    pub connection: Connection,
}

/// The last connections of a core that were closed as slow: at most [`SLOW_ENDS`].
#[derive(Debug, Default)]
pub(super) struct SlowEnds(VecDeque<SlowEnd>);

/// How many connections that were closed as slow a core remembers. Each is some 100 bytes and
/// keeps the name of its user.
pub const SLOW_ENDS: usize = 32;

/// How many channels of a connection are named.
pub const CHANNELS_NAMED: usize = 20;

impl SlowEnds {
    /// The newest last.
    pub(super) fn iter(&self) -> impl Iterator<Item = &SlowEnd> {
        self.0.iter()
    }

    pub(super) fn push(&mut self, end: SlowEnd) {
        if self.0.len() == SLOW_ENDS {
            self.0.pop_front();
        }
        self.0.push_back(end);
    }
}

impl Found {
    /// Those with the most subscribers, of channels that match.
    pub(super) fn of_channels<'a>(
        all: impl Iterator<Item = (&'a Arc<str>, u32, u64)>,
        search: &Search,
    ) -> Self {
        Self::collect(all, search, by_count)
    }

    /// The first by name of users that match, with their connections.
    pub(super) fn of_users<'a>(
        all: impl Iterator<Item = (&'a Arc<str>, u32)>,
        search: &Search,
    ) -> Self {
        Self::collect(all.map(|(name, count)| (name, count, 0)), search, by_name)
    }

    /// The first of all that match, in this order, without sorting the others.
    fn collect<'a>(
        all: impl Iterator<Item = (&'a Arc<str>, u32, u64)>,
        search: &Search,
        order: Order,
    ) -> Self {
        let mut found = Self::default();
        // What is left out of all may be any core's.
        let limit = search.skip.saturating_add(search.limit);
        for (name, count, published) in all {
            if search.pattern.as_ref().is_some_and(|pattern| !pattern.is_match(name.as_ref())) {
                continue;
            }
            found.matched += 1;
            found.list.push(Named { name: name.clone(), count, published });
            // Twice as many are kept, so that each is moved a few times only.
            if found.list.len() > limit.saturating_mul(2) {
                found.keep(limit, order);
            }
        }
        found.keep(limit, order);
        found
    }

    fn keep(&mut self, limit: usize, order: Order) {
        if self.list.len() > limit {
            if limit > 0 {
                self.list.select_nth_unstable_by(limit - 1, order);
            }
            self.list.truncate(limit);
        }
        self.list.sort_unstable_by(order);
    }

    /// What cores found of channels: each is on one core.
    pub fn channels(parts: impl IntoIterator<Item = Self>, search: &Search) -> Self {
        let mut sum = Self::default();
        for part in parts {
            sum.matched += part.matched;
            sum.list.extend(part.list);
        }
        sum.keep(search.skip.saturating_add(search.limit), by_count);
        sum.skip(search.skip);
        sum
    }

    fn skip(&mut self, skip: usize) {
        self.list.drain(..skip.min(self.list.len()));
    }

    /// What cores found of users, each added up over its cores. By name, so that who is among the
    /// first of all is among the first of each core, and no number is too small. How many match is
    /// exact if all are told; otherwise a user is counted on every core.
    pub fn users(parts: impl IntoIterator<Item = Self>, search: &Search) -> Self {
        let mut sum = Self::default();
        let mut left_out = false;
        for part in parts {
            left_out |= part.list.len() < part.matched;
            sum.matched += part.matched;
            sum.list.extend(part.list);
        }
        sum.list.sort_unstable_by(by_name);
        sum.list.dedup_by(|next, first| {
            let same = next.name == first.name;
            if same {
                first.count += next.count;
            }
            same
        });
        if !left_out {
            sum.matched = sum.list.len();
        }
        sum.list.truncate(search.skip.saturating_add(search.limit));
        sum.skip(search.skip);
        sum
    }
}

type Order = fn(&Named, &Named) -> Ordering;

fn by_count(a: &Named, b: &Named) -> Ordering {
    b.count.cmp(&a.count).then_with(|| a.name.cmp(&b.name))
}

fn by_name(a: &Named, b: &Named) -> Ordering {
    a.name.cmp(&b.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(found: &Found) -> Vec<(&str, u32)> {
        found.list.iter().map(|one| (one.name.as_ref(), one.count)).collect()
    }

    fn search(pattern: Option<&str>, skip: usize, limit: usize) -> Search {
        let compile = |pattern: &str| globset::Glob::new(pattern).unwrap().compile_matcher();
        Search { pattern: pattern.map(compile), skip, limit }
    }

    fn named(name: &str, count: u32) -> Named {
        Named { name: name.into(), count, published: count.into() }
    }

    #[test]
    fn the_first_are_found_and_all_are_counted() {
        let all: Vec<Named> =
            (0..1000_u32).map(|n| named(&format!("c{:03}", n * 7 % 1000), n % 10)).collect();
        let list = || all.iter().map(|one| (&one.name, one.count, one.published));
        for (skip, limit) in [(0, 0), (0, 1), (2, 1), (0, 99), (50, 50), (0, 1000), (1, usize::MAX)]
        {
            let search = search(None, skip, limit);
            for order in [by_count as Order, by_name] {
                let mut sorted = all.clone();
                sorted.sort_unstable_by(order);
                sorted.truncate(limit.saturating_add(skip));
                let found = Found::collect(list(), &search, order);
                assert_eq!((&found.list, found.matched), (&sorted, 1000), "{skip} {limit}");
                let page = Found::users([found], &search);
                sorted.sort_unstable_by(by_name);
                assert_eq!(page.list, sorted[skip.min(sorted.len())..], "{skip} {limit}");
            }
        }
        let found = Found::collect(list(), &search(Some("*99*"), 0, 2), by_name);
        assert_eq!((names(&found)[0].0, names(&found).len(), found.matched), ("c099", 2, 19));
    }

    #[test]
    fn users_on_several_cores_are_one() {
        let part = |list: &[(&str, u32)], matched| Found {
            list: list.iter().map(|(name, count)| named(name, *count)).collect(),
            matched,
        };
        let whole = [part(&[("ann", 1), ("bob", 2)], 2), part(&[("bob", 3)], 1)];
        let sum = Found::users(whole.clone(), &search(None, 0, 10));
        assert_eq!((names(&sum), sum.matched), (vec![("ann", 1), ("bob", 5)], 2));
        let sum = Found::users(whole.clone(), &search(None, 0, 1));
        assert_eq!((names(&sum), sum.matched), (vec![("ann", 1)], 2));
        let sum = Found::users(whole, &search(None, 1, 1));
        assert_eq!((names(&sum), sum.matched), (vec![("bob", 5)], 2));
        let cut = [part(&[("ann", 1)], 9), part(&[("bob", 3)], 1)];
        let cut = Found::users(cut, &search(None, 0, 1));
        assert_eq!((names(&cut), cut.matched), (vec![("ann", 1)], 10));
        let parts = || [part(&[("a", 1)], 1), part(&[("b", 3)], 5)];
        let channels = Found::channels(parts(), &search(None, 0, 1));
        assert_eq!((names(&channels), channels.matched), (vec![("b", 3)], 6));
        let channels = Found::channels(parts(), &search(None, 1, 1));
        assert_eq!((names(&channels), channels.matched), (vec![("a", 1)], 6));
    }
}
