//! The simulated server: what Redis does with the requests of all nodes, simple enough to be
//! believed, and a log of everything that was ever published.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;

use super::moves::Moves;
use ringhold::gateway::broker::{
    Entry, History, Message, Outcome, Past, Present, Publish, Renew, Request, Top, TopOf,
};
use ringhold::gateway::letters::ClientId;
use ringhold::gateway::stream::Epoch;
use ringhold::gateway::wire::messages::Publication;

/// A place in a stream.
pub type Place = (Epoch, u64);

/// Node, and the number that the node's core gave.
pub type Mark = (usize, u64);

#[derive(Clone, Debug)]
struct Stored {
    offset: u64,
    data: Bytes,
    mark: Mark,
}

#[derive(Clone, Debug)]
struct Meta {
    epoch: Epoch,
    top: u64,
    version: (u64, String),
    until: Duration,
}

#[derive(Clone, Debug, Default)]
struct Stream {
    entries: VecDeque<Stored>,
    until: Duration,
}

#[derive(Clone, Debug)]
struct Shown {
    user: String,
    info: Bytes,
    until: Duration,
}

/// What a server has and could lose.
#[derive(Clone, Debug, Default)]
pub struct State {
    metas: BTreeMap<String, Meta>,
    streams: BTreeMap<String, Stream>,
    results: HashMap<(String, String), (Duration, Option<Place>)>,
    presence: BTreeMap<String, BTreeMap<ClientId, Shown>>,
}

/// Somebody has come to a channel, or was removed from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Move {
    /// How often it has happened.
    times: u64,
    /// It was removed.
    pub left: bool,
}

/// A publication in the log.
#[derive(Clone, Debug)]
pub struct Logged {
    /// The payload at the offset before it, if that was retained.
    pub before: Option<Bytes>,
    /// The payload.
    pub data: Bytes,
}

#[derive(Default)]
pub struct Server {
    /// Which life it is.
    pub run: u64,
    pub state: State,
    subscribers: BTreeMap<Arc<str>, BTreeSet<usize>>,
    /// By channel, epoch and offset: one, or several after a fork.
    pub log: HashMap<(String, Epoch, u64), Vec<Logged>>,
    /// Payloads of publications without a history.
    pub passed: BTreeSet<(String, Bytes)>,
    attempts: u32,
    /// Epochs that were ended.
    pub renewals: u64,
    /// What it had before the last renewal of an epoch.
    pub before_renewal: Option<State>,
    /// Epochs that nodes have ended.
    pub ended: HashSet<(usize, String, Epoch)>,
    moves: HashMap<(String, ClientId), Move>,
    /// How long members live.
    pub presence_ttl: Duration,
    /// Publications that were trimmed or expired.
    pub trimmed: u64,
    /// Where channels are.
    pub slots: Moves,
}

fn payload(data: &Bytes) -> Bytes {
    Publication::decode(data.clone()).expect("a publication").data
}

impl Server {
    /// An empty one, whose members live so long.
    pub fn new(presence_ttl: Duration) -> Self {
        Self { presence_ttl, ..Self::default() }
    }

    /// Does a node's request. Gives the result, and what is to be passed on.
    pub fn execute(
        &mut self,
        request: &Request,
        node: usize,
        now: Duration,
    ) -> (Outcome, Option<(Arc<str>, Message)>) {
        match request {
            Request::Publish(_, publish) => self.publish(publish, node, now),
            Request::Join(channel, info) => {
                (Outcome::Done, Some((channel.clone(), Message::Join(info.clone()))))
            }
            Request::Leave(channel, info) => {
                (Outcome::Done, Some((channel.clone(), Message::Leave(info.clone()))))
            }
            Request::History(_, history) => (self.history(history, now), None),
            Request::HistoryRemove(_, channel) => {
                self.state.streams.remove(&**channel);
                (Outcome::Done, Some((channel.clone(), Message::Removed)))
            }
            Request::Positions(_, tops) => {
                let tops = tops.iter().map(|top| self.top(top, now)).collect();
                (Outcome::Positions(tops), None)
            }
            Request::Renew(_, renew) => (self.renew(renew, node, now), None),
            Request::PresenceAdd(_, channel, members) => {
                let until = now + self.presence_ttl;
                self.moved(channel, members.iter().map(|member| member.client), false);
                let shown = self.state.presence.entry(channel.to_string()).or_default();
                for Present { client, user, info } in members {
                    let (user, info) = (user.to_string(), info.clone());
                    shown.insert(*client, Shown { user, info, until });
                }
                (Outcome::Done, None)
            }
            Request::PresenceRemove(_, channel, members) => {
                let shown = self.state.presence.entry(channel.to_string()).or_default();
                members.iter().for_each(|member| _ = shown.remove(&member.client));
                self.moved(channel, members.iter().map(|member| member.client), true);
                (Outcome::Done, None)
            }
            Request::PresenceRenew(_, channel, members) => {
                self.expire_presence(channel, now);
                let until = now + self.presence_ttl;
                let shown = self.state.presence.entry(channel.to_string()).or_default();
                let missing = members.iter().filter(|client| match shown.get_mut(client) {
                    Some(shown) => {
                        shown.until = until;
                        false
                    }
                    None => true,
                });
                (Outcome::Missing(missing.copied().collect()), None)
            }
            Request::Presence(_, channel) => {
                self.expire_presence(channel, now);
                let shown = self.state.presence.get(&**channel).into_iter().flatten();
                (Outcome::Presence(shown.map(|(_, shown)| shown.info.clone()).collect()), None)
            }
            Request::PresenceStats(_, channel) => {
                self.expire_presence(channel, now);
                let shown = self.state.presence.get(&**channel);
                let users: BTreeSet<_> =
                    shown.into_iter().flatten().map(|(_, shown)| &shown.user).collect();
                let clients = shown.map_or(0, BTreeMap::len) as u32;
                (Outcome::PresenceStats { clients, users: users.len() as u32 }, None)
            }
            Request::Listen(_) | Request::Ignore(_) => panic!("the link does that"),
        }
    }

    fn expire(&mut self, channel: &str, now: Duration) {
        if self.state.metas.get(channel).is_some_and(|meta| meta.until <= now) {
            self.state.metas.remove(channel);
        }
        if let Some(stream) = self.state.streams.get(channel)
            && stream.until <= now
        {
            self.trimmed += stream.entries.len() as u64;
            self.state.streams.remove(channel);
        }
    }

    fn expire_presence(&mut self, channel: &str, now: Duration) {
        if let Some(shown) = self.state.presence.get_mut(channel) {
            shown.retain(|_, shown| shown.until > now);
        }
    }

    fn publish(
        &mut self,
        publish: &Publish,
        node: usize,
        now: Duration,
    ) -> (Outcome, Option<(Arc<str>, Message)>) {
        let name = publish.channel.to_string();
        self.expire(&name, now);
        let key = (name.clone(), publish.idempotency_key.clone());
        if !publish.idempotency_key.is_empty()
            && let Some((until, position)) = self.state.results.get(&key)
            && *until > now
        {
            return (Outcome::Published { position: *position, suppressed: true }, None);
        }
        let mut position = None;
        let message = match publish.stream {
            None => {
                self.passed.insert((name.clone(), payload(&publish.data)));
                Message::Passed(publish.data.clone())
            }
            Some(kept) => {
                let far = |ttl: Duration| match ttl {
                    Duration::ZERO => Duration::MAX,
                    ttl => now + ttl + ttl / 10,
                };
                let life = far(kept.meta_ttl);
                let fresh =
                    Meta { epoch: kept.fresh, top: 0, version: Default::default(), until: life };
                let meta = self.state.metas.entry(name.clone()).or_insert(fresh);
                if kept.renew {
                    meta.until = life;
                }
                let (number, of) = &meta.version;
                let same = publish.version_epoch.is_empty() || publish.version_epoch == *of;
                if publish.version > 0 && same && publish.version <= *number {
                    let position = Some((meta.epoch, meta.top));
                    return (Outcome::Published { position, suppressed: true }, None);
                }
                if publish.version > 0 {
                    meta.version = (publish.version, publish.version_epoch.clone());
                }
                meta.top += 1;
                let (epoch, offset) = (meta.epoch, meta.top);
                let renew = kept.renew;
                if offset == 1 {
                    self.state.streams.remove(&name);
                }
                let stream = self.state.streams.entry(name.clone()).or_default();
                if renew || stream.entries.is_empty() {
                    stream.until = far(kept.ttl);
                }
                let before = stream.entries.back().filter(|it| it.offset + 1 == offset);
                let before = before.map(|it| payload(&it.data));
                // As the broker's thread does: each attempt says so.
                self.attempts += 1;
                let mut data = publish.data.to_vec();
                data.extend([0xfd, 0x7f]);
                data.extend(self.attempts.to_le_bytes());
                let data = Bytes::from(data);
                let mark = (node, publish.sequence);
                stream.entries.push_back(Stored { offset, data: data.clone(), mark });
                while stream.entries.len() > kept.size as usize {
                    stream.entries.pop_front();
                    self.trimmed += 1;
                }
                let logged = Logged { before, data: payload(&data) };
                self.log.entry((name.clone(), epoch, offset)).or_default().push(logged);
                position = Some((epoch, offset));
                Message::Published { epoch, offset, data }
            }
        };
        if !publish.idempotency_key.is_empty() {
            let until = now + publish.idempotency_ttl;
            self.state.results.insert(key, (until, position));
        }
        let passed = Some((publish.channel.clone(), message));
        (Outcome::Published { position, suppressed: false }, passed)
    }

    /// Publications that are retained.
    pub fn kept(&mut self, channel: &str, now: Duration) -> usize {
        self.expire(channel, now);
        self.state.streams.get(channel).map_or(0, |stream| stream.entries.len())
    }

    /// The offset of a publication that may have been made, if it is retained.
    pub fn find(&mut self, channel: &str, mark: Mark, now: Duration) -> Option<(Epoch, u64)> {
        self.expire(channel, now);
        let stream = self.state.streams.get(channel)?;
        let found = stream.entries.iter().find(|stored| stored.mark == mark)?;
        Some((self.state.metas.get(channel)?.epoch, found.offset))
    }

    fn history(&mut self, history: &History, now: Duration) -> Outcome {
        let name = history.channel.to_string();
        self.expire(&name, now);
        let until = match history.meta_ttl {
            Duration::ZERO => Duration::MAX,
            ttl => now + ttl,
        };
        let fresh = Meta { epoch: history.fresh, top: 0, version: Default::default(), until };
        let meta = self.state.metas.entry(name.clone()).or_insert(fresh);
        meta.until = meta.until.max(until);
        let entries = self.state.streams.get(&name).into_iter().flat_map(|it| &it.entries);
        let wanted = entries.filter(|stored| match (history.since, history.reverse) {
            (None, _) => true,
            (Some(since), false) => stored.offset > since,
            (Some(since), true) => stored.offset < since,
        });
        let entry = |stored: &Stored| Entry { offset: stored.offset, data: stored.data.clone() };
        let mut entries: Vec<_> = wanted.map(entry).collect();
        if history.reverse {
            entries.reverse();
        }
        entries.truncate(history.limit as usize);
        Outcome::History(Past { epoch: meta.epoch, top: meta.top, entries })
    }

    fn top(&mut self, of: &TopOf, now: Duration) -> Option<Top> {
        self.expire(&of.channel, now);
        let meta = self.state.metas.get_mut(&*of.channel)?;
        if let Some(ttl) = of.meta_ttl {
            meta.until = now + ttl + ttl / 10;
        }
        let (epoch, top) = (meta.epoch, meta.top);
        let stream = self.state.streams.get(&*of.channel);
        let count = of.count.then_some(stream.map_or(0, |it| it.entries.len() as u64));
        let stream = stream.filter(|_| of.entry > 0);
        let entries = stream.map(|stream| &stream.entries);
        let first = entries.and_then(|it| it.front()).map_or(0, |stored| stored.offset);
        let found = entries.into_iter().flatten().find(|stored| stored.offset == of.entry);
        Some(Top { epoch, top, first, entry: found.map(|stored| stored.data.clone()), count })
    }

    fn renew(&mut self, renew: &Renew, node: usize, now: Duration) -> Outcome {
        let name = renew.channel.to_string();
        self.expire(&name, now);
        let before = self.state.clone();
        let Some(meta) = self.state.metas.get_mut(&name) else { return Outcome::Renewed(None) };
        if meta.epoch == renew.old {
            self.before_renewal = Some(before);
            self.renewals += 1;
            self.ended.insert((node, name.clone(), meta.epoch));
            meta.epoch = renew.fresh;
            // What is there is there in the new epoch.
            for stored in self.state.streams.get(&name).into_iter().flat_map(|it| &it.entries) {
                let (before, data) = (None, payload(&stored.data));
                let logged = Logged { before, data };
                let place = (name.clone(), meta.epoch, stored.offset);
                self.log.entry(place).or_default().push(logged);
            }
        }
        Outcome::Renewed(Some((meta.epoch, meta.top)))
    }

    pub fn subscribe(&mut self, channel: &Arc<str>, node: usize) {
        self.subscribers.entry(channel.clone()).or_default().insert(node);
    }

    pub fn unsubscribe(&mut self, channel: &str, node: usize) {
        if let Some(nodes) = self.subscribers.get_mut(channel) {
            nodes.remove(&node);
        }
    }

    /// A node's connection is lost.
    pub fn forget(&mut self, node: usize) {
        self.subscribers.values_mut().for_each(|nodes| _ = nodes.remove(&node));
    }

    /// The nodes that listen to a channel, and hear of it.
    pub fn listeners(&self, channel: &str) -> Vec<usize> {
        let all = self.subscribers.get(channel).into_iter().flatten().copied();
        all.filter(|node| self.slots.reaches(channel, *node)).collect()
    }

    /// How many subscriptions there are.
    pub fn subscriptions(&self) -> usize {
        self.subscribers.values().map(BTreeSet::len).sum()
    }

    /// Another server takes over, with this state.
    pub fn fail_over(&mut self, state: State) {
        self.run += 1;
        self.before_renewal = None;
        self.state = state;
        self.subscribers.clear();
    }

    /// The position of a channel, if it has one.
    pub fn position(&mut self, channel: &str, now: Duration) -> Option<(Epoch, u64)> {
        self.expire(channel, now);
        self.state.metas.get(channel).map(|meta| (meta.epoch, meta.top))
    }

    /// What is retained of a channel.
    pub fn entries(&self, channel: &str) -> Vec<(u64, Bytes)> {
        let entries = self.state.streams.get(channel).into_iter().flat_map(|it| &it.entries);
        entries.map(|stored| (stored.offset, payload(&stored.data))).collect()
    }

    fn moved(&mut self, channel: &str, ids: impl Iterator<Item = ClientId>, left: bool) {
        for id in ids {
            let last = self.moves.entry((channel.to_owned(), id)).or_default();
            *last = Move { times: last.times + 1, left };
        }
    }

    /// The last time that somebody came to a channel or was removed from it.
    pub fn last_move(&self, channel: &str, id: ClientId) -> Move {
        self.moves.get(&(channel.to_owned(), id)).copied().unwrap_or_default()
    }

    /// Who is in a channel.
    pub fn members(&mut self, channel: &str, now: Duration) -> BTreeSet<ClientId> {
        self.expire_presence(channel, now);
        self.state.presence.get(channel).into_iter().flatten().map(|(id, _)| *id).collect()
    }
}
