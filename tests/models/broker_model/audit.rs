//! Questions of the server API, and whether their answers are what the server had.
//!
//! What an answer must be: publications that were published there, without a hole, up to the top
//! that is told; and all that the same node has told its callers before, be it a publication, a
//! removal, or who came and went. A node may be behind what other nodes have done by as much as a
//! message takes.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use ringhold::gateway::letters::{Answer, ClientId};
use ringhold::gateway::stream::{Epoch, Position, Read};
use ringhold::gateway::wire::messages::HistoryResult;

use super::run::Covered;
use super::server::{Move, Server};
use super::world::Asked;

/// A place in the life of a server.
#[derive(Clone, Copy, Debug)]
struct Known {
    run: u64,
    epoch: Epoch,
    offset: u64,
}

impl Known {
    /// The offset, if it counts for this stream still.
    fn of(self, run: u64, epoch: &str) -> Option<u64> {
        (self.run == run && self.epoch.as_str() == epoch).then_some(self.offset)
    }
}

pub enum What {
    History(Read),
    /// Forget the history.
    Remove,
    Presence,
    /// Presence in another form.
    Other,
}

struct Open {
    node: usize,
    channel: &'static str,
    what: What,
    asked: Asked,
    run: u64,
    /// What this node had said to be published before, and to be removed.
    published: Option<Known>,
    removed: Option<Known>,
    /// This node's members that the server had when it was asked, and those that had been removed
    /// there by then; with what each had done last.
    there: Vec<(ClientId, Move)>,
    gone: Vec<(ClientId, Move)>,
}

#[derive(Default)]
pub struct Audit {
    open: Vec<Open>,
    published: HashMap<(usize, &'static str), Known>,
    removed: HashMap<(usize, &'static str), Known>,
    /// Channels of which a history was removed.
    pub cleared: BTreeSet<&'static str>,
    /// Where each connection is or was.
    pub homes: HashMap<ClientId, usize>,
}

impl Audit {
    pub fn ask(
        &mut self,
        (node, channel): (usize, &'static str),
        (what, asked): (What, Asked),
        server: &mut Server,
        now: Duration,
    ) {
        if matches!(what, What::Remove) {
            self.cleared.insert(channel);
        }
        let members = server.members(channel, now);
        let ours = self.homes.iter().filter(|(_, home)| **home == node);
        let ours: Vec<_> = ours.map(|(id, _)| (*id, server.last_move(channel, *id))).collect();
        let there = ours.iter().filter(|(id, _)| members.contains(id)).copied().collect();
        // A server that lost its end has such as had left, until their time is over.
        let gone = ours.into_iter().filter(|(id, last)| last.left && !members.contains(id));
        let gone = gone.collect();
        let place = (node, channel);
        let (published, removed) = (self.published.get(&place), self.removed.get(&place));
        let (published, removed) = (published.copied(), removed.copied());
        let run = server.run;
        self.open.push(Open { node, channel, what, asked, run, published, removed, there, gone });
    }

    /// A node has told its caller where a publication is.
    pub fn published(&mut self, node: usize, channel: &'static str, run: u64, at: &Position) {
        let known = Known { run, epoch: at.epoch, offset: at.offset };
        let before = self.published.entry((node, channel)).or_insert(known);
        let same = before.run == run && before.epoch == at.epoch;
        if !same || before.offset < at.offset {
            *before = known;
        }
    }

    /// Looks at what has been answered.
    pub fn look(&mut self, server: &mut Server, now: Duration, covered: &mut Covered) {
        for open in std::mem::take(&mut self.open) {
            let Some(answer) = open.asked.get() else {
                self.open.push(open);
                continue;
            };
            match answer {
                Ok(answer) => self.judge(&open, answer, server, now, covered),
                Err(_) => covered.failed += 1,
            }
        }
    }

    /// Everything has been answered.
    pub fn settled(&self) {
        assert!(self.open.is_empty(), "every question is answered");
    }

    fn judge(
        &mut self,
        open: &Open,
        answer: Answer,
        server: &mut Server,
        now: Duration,
        covered: &mut Covered,
    ) {
        match (&open.what, answer) {
            (What::History(read), Answer::History(history)) => {
                covered.histories += 1;
                open.history(read, &history, server);
            }
            (What::Remove, Answer::Done) => {
                let Some((epoch, top)) = server.position(open.channel, now) else { return };
                // Others may have published since.
                let offset = open.published.and_then(|at| at.of(server.run, epoch.as_str()));
                let offset = offset.unwrap_or(0).min(top);
                let known = Known { run: server.run, epoch, offset };
                if open.run == server.run {
                    self.removed.insert((open.node, open.channel), known);
                }
            }
            (What::Presence, Answer::Presence(members)) => {
                covered.presences += 1;
                let members: BTreeSet<_> = members.into_iter().map(|(id, _)| id).collect();
                let channel = open.channel;
                let there = server.members(channel, now);
                for (id, _) in open.unmoved(&open.there, server).filter(|it| there.contains(&it.0))
                {
                    assert!(members.contains(&id), "{channel}: {id} is left out");
                }
                for (id, _) in open.unmoved(&open.gone, server) {
                    assert!(!members.contains(&id), "{channel}: {id} had gone before");
                }
                assert!(members.iter().all(|id| self.homes.contains_key(id)));
            }
            (What::Other, Answer::PresenceStats(stats)) => {
                let members = server.members(open.channel, now);
                let there = open.unmoved(&open.there, server).filter(|it| members.contains(&it.0));
                assert!(stats.num_clients as usize >= there.count());
                assert!(stats.num_users <= stats.num_clients);
            }
            (What::Other, Answer::Members(_)) => {}
            (_, answer) => panic!("{answer:?}"),
        }
    }
}

impl Open {
    /// Those of whom the server has heard nothing since the question.
    fn unmoved<'a>(
        &'a self,
        of: &'a [(ClientId, Move)],
        server: &'a Server,
    ) -> impl Iterator<Item = (ClientId, Move)> + 'a {
        let same = |it: &(ClientId, Move)| server.last_move(self.channel, it.0) == it.1;
        of.iter().copied().filter(move |it| self.run == server.run && same(it))
    }

    fn history(&self, read: &Read, history: &HistoryResult, server: &Server) {
        let HistoryResult { publications, epoch, offset: top } = history;
        let channel = self.channel;
        let mut last = None;
        for publication in publications {
            let offset = publication.offset;
            let place = (channel.to_owned(), Epoch::parse(epoch).expect("an epoch"), offset);
            let log = server.log.get(&place).into_iter().flatten();
            let known = log.into_iter().any(|logged| logged.data == publication.data);
            assert!(known, "{channel} at {offset}: it was never published there");
            let next = match (last, read.reverse) {
                (None, true) => *top,
                (None, false) => offset,
                (Some(last), true) => last - 1,
                (Some(last), false) => last + 1,
            };
            assert_eq!(offset, next, "{channel}: a history with a hole");
            last = Some(offset);
        }
        if read.limit < 0 && !read.reverse && publications.len() < 300 {
            assert!(last.is_none_or(|last| last == *top), "{channel}: the newest are left out");
        }
        if self.run != server.run {
            return;
        }
        let published = self.published.and_then(|known| known.of(server.run, epoch));
        assert!(published.is_none_or(|at| at <= *top), "{channel}: older than what was told");
        let removed = self.removed.and_then(|known| known.of(server.run, epoch)).unwrap_or(0);
        let oldest = publications.iter().map(|it| it.offset).min();
        assert!(oldest.is_none_or(|oldest| oldest > removed), "{channel}: it was removed");
    }
}

/// Whether a node's answer is exactly what the server has.
pub fn agrees(channel: &str, history: &HistoryResult, server: &mut Server, now: Duration) {
    let place = (history.epoch.clone(), history.offset);
    let (epoch, top) = server.position(channel, now).expect("asking begins its life");
    assert_eq!(place, (epoch.as_str().to_owned(), top), "{channel}: not the server's position");
    let told = history.publications.iter().map(|it| (it.offset, it.data.clone()));
    let told: Vec<_> = told.collect();
    assert_eq!(told, server.entries(channel), "{channel}: not the server's history");
}
