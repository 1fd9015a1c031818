//! What an operator may look into on one core: which channels and users there are, who a user's
//! connections are, and who does not read what is sent.
//!
//! Owns the questions and their answers, and the memory of the last connections that were closed
//! as slow. Never changes anything else. The invariant: an answer has at most as many entries as
//! were asked for, however many there are, and one question is one pass over a table.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::sync::Arc;

use globset::GlobMatcher;

use super::app::Gateway;
use super::letters::{ClientId, Reply};
use super::outside::ClientKey;
use super::users::Client;
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
    /// So many at most.
    pub limit: usize,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Names, with the number of subscribers or connections.
    pub list: Vec<(Arc<str>, u32)>,
    /// How many match, those left out included.
    pub matched: usize,
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
    fn push(&mut self, end: SlowEnd) {
        if self.0.len() == SLOW_ENDS {
            self.0.pop_front();
        }
        self.0.push_back(end);
    }
}

impl Found {
    /// The first of all that match, in this order, without sorting the others.
    fn collect<'a>(
        all: impl Iterator<Item = (&'a Arc<str>, u32)>,
        search: &Search,
        order: Order,
    ) -> Self {
        let mut found = Self::default();
        let limit = search.limit;
        for (name, count) in all {
            if search.pattern.as_ref().is_some_and(|pattern| !pattern.is_match(name.as_ref())) {
                continue;
            }
            found.matched += 1;
            found.list.push((name.clone(), count));
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
    pub fn channels(parts: impl IntoIterator<Item = Self>, limit: usize) -> Self {
        let mut sum = Self::default();
        for part in parts {
            sum.matched += part.matched;
            sum.list.extend(part.list);
        }
        sum.keep(limit, by_count);
        sum
    }

    /// What cores found of users, each added up over its cores. By name, so that who is among the
    /// first of all is among the first of each core, and no number is too small. How many match is
    /// exact if all are told; otherwise a user is counted on every core.
    pub fn users(parts: impl IntoIterator<Item = Self>, limit: usize) -> Self {
        let mut sum = Self::default();
        let mut left_out = false;
        for part in parts {
            left_out |= part.list.len() < part.matched;
            sum.matched += part.matched;
            sum.list.extend(part.list);
        }
        sum.list.sort_unstable_by(by_name);
        sum.list.dedup_by(|next, first| {
            let same = next.0 == first.0;
            if same {
                first.1 += next.1;
            }
            same
        });
        if !left_out {
            sum.matched = sum.list.len();
        }
        sum.list.truncate(limit);
        sum
    }
}

type Order = fn(&(Arc<str>, u32), &(Arc<str>, u32)) -> Ordering;

fn by_count(a: &(Arc<str>, u32), b: &(Arc<str>, u32)) -> Ordering {
    b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0))
}

fn by_name(a: &(Arc<str>, u32), b: &(Arc<str>, u32)) -> Ordering {
    a.0.cmp(&b.0)
}

impl Gateway {
    /// Answers an operator.
    pub(super) fn inspect(&mut self, inspect: Inspect) {
        match inspect {
            Inspect::Channels(search, reply) => {
                reply.answer(Ok(Found::collect(self.hub.channels(), &search, by_count)));
            }
            Inspect::Users(search, reply) => {
                reply.answer(Ok(Found::collect(self.hub.users().names(), &search, by_name)));
            }
            Inspect::User(name, limit, reply) => {
                let of = self.hub.users().of(&name).take(limit);
                let all = of.map(|(key, client)| self.connection(key, client, CHANNELS_NAMED));
                reply.answer(Ok(all.collect()));
            }
            Inspect::Slow(ids, reply) => {
                let now = ids.into_iter().map(|id| {
                    let key = self.desk.sessions.get_mut(id).and_then(|session| session.client());
                    (id, key.and_then(|key| self.connection_of(key)))
                });
                let now = now.collect();
                reply.answer(Ok(Slow {
                    now,
                    ended: self.desk.slow_ends.0.iter().cloned().collect(),
                }));
            }
        }
    }

    /// Remembers a connection that is about to go, if it goes because it did not read.
    pub(super) fn remember_slow(&mut self, key: ClientKey, cause: Cause) {
        use Cause::{OutboxFull, Slow, Trickle, WriteTimeout};
        if !matches!(cause, Slow | WriteTimeout | Trickle | OutboxFull) {
            return;
        }
        let at = super::app::unix_now();
        if let Some(connection) = self.connection_of(key) {
            self.desk.slow_ends.push(SlowEnd { at, cause, connection });
        }
    }

    fn connection_of(&self, key: ClientKey) -> Option<Connection> {
        Some(self.connection(key, self.hub.users().get(key)?, 0))
    }

    fn connection(&self, key: ClientKey, client: &Client, named: usize) -> Connection {
        Connection {
            core: self.desk.core,
            client: client.id(),
            user: self.hub.users().name_of(key).cloned().unwrap_or_default(),
            encoding: client.format().encoding(),
            subscriptions: client.subscriptions(),
            channels: self.hub.subscriptions(key).take(named).map(|s| s.channel.clone()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(found: &Found) -> Vec<(&str, u32)> {
        found.list.iter().map(|(name, count)| (name.as_ref(), *count)).collect()
    }

    fn search(pattern: Option<&str>, limit: usize) -> Search {
        let compile = |pattern: &str| globset::Glob::new(pattern).unwrap().compile_matcher();
        Search { pattern: pattern.map(compile), limit }
    }

    #[test]
    fn the_first_are_found_and_all_are_counted() {
        let all: Vec<(Arc<str>, u32)> =
            (0..1000_u32).map(|n| (format!("c{:03}", n * 7 % 1000).into(), n % 10)).collect();
        let list = || all.iter().map(|(name, count)| (name, *count));
        for limit in [0, 1, 3, 99, 100, 1000, usize::MAX] {
            for order in [by_count as Order, by_name] {
                let mut sorted = all.clone();
                sorted.sort_unstable_by(order);
                sorted.truncate(limit);
                let found = Found::collect(list(), &search(None, limit), order);
                assert_eq!((found.list, found.matched), (sorted, 1000), "{limit}");
            }
        }
        let found = Found::collect(list(), &search(Some("*99*"), 2), by_name);
        assert_eq!((names(&found)[0].0, names(&found).len(), found.matched), ("c099", 2, 19));
    }

    #[test]
    fn users_on_several_cores_are_one() {
        let part = |list: &[(&str, u32)], matched| Found {
            list: list.iter().map(|(name, count)| ((*name).into(), *count)).collect(),
            matched,
        };
        let whole = [part(&[("ann", 1), ("bob", 2)], 2), part(&[("bob", 3)], 1)];
        let sum = Found::users(whole.clone(), 10);
        assert_eq!((names(&sum), sum.matched), (vec![("ann", 1), ("bob", 5)], 2));
        let sum = Found::users(whole, 1);
        assert_eq!((names(&sum), sum.matched), (vec![("ann", 1)], 2));
        let cut = Found::users([part(&[("ann", 1)], 9), part(&[("bob", 3)], 1)], 1);
        assert_eq!((names(&cut), cut.matched), (vec![("ann", 1)], 10));
        let channels = Found::channels([part(&[("a", 1)], 1), part(&[("b", 3)], 5)], 1);
        assert_eq!((names(&channels), channels.matched), (vec![("b", 3)], 6));
    }
}
