//! Slots of a cluster that move: a channel is apart for a while, then with another server, and each
//! node hears of it in its own time.
//!
//! While the keys are apart, requests of the channel come back and are asked again, in their order.
//! Once they have moved, requests are sent on; what is published then reaches nobody who listens at
//! the old place, or all of them, which is how sharded and classic messages differ. A node that
//! hears of the move listens anew, and what comes from the old place still is dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ringhold::gateway::broker::{Life, Part, Scope};

/// One channel, as cores are told of it.
#[derive(Debug)]
struct One(Arc<str>);

impl Part for One {
    fn has(&self, channel: &str) -> bool {
        *self.0 == *channel
    }

    fn passes(&self) -> bool {
        true
    }
}

/// A scope of its own for this channel.
pub fn scope(channel: &str) -> Scope {
    Scope::Part(Arc::new(One(channel.into())))
}

/// How far a channel has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Some of its keys are here, some there: nothing is done.
    Apart,
    /// With the other server, as the old one says to who asks.
    SentOn,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Moves {
    stages: BTreeMap<String, Stage>,
    /// Nodes that have not heard that a channel is elsewhere by now.
    unaware: BTreeMap<String, BTreeSet<usize>>,
    /// Messages of a channel that is elsewhere do not come to who listens at the old place.
    pub sharded: bool,
    /// How often one has moved.
    pub count: u64,
}

impl Moves {
    /// The next thing that happens to a channel. Whether it has another server now.
    pub fn go_on(&mut self, channel: &str, nodes: usize) -> bool {
        match self.stages.get(channel) {
            None => _ = self.stages.insert(channel.to_owned(), Stage::Apart),
            Some(Stage::Apart) => _ = self.stages.insert(channel.to_owned(), Stage::SentOn),
            Some(Stage::SentOn) => {
                self.stages.remove(channel);
                self.unaware.entry(channel.to_owned()).or_default().extend(0..nodes);
                self.count += 1;
                return true;
            }
        }
        false
    }

    /// Channels that are on their way.
    pub fn under_way(&self) -> Vec<String> {
        self.stages.keys().cloned().collect()
    }

    /// Whether requests of a channel come back.
    pub fn is_apart(&self, channel: &str) -> bool {
        self.stages.get(channel) == Some(&Stage::Apart)
    }

    /// Whether what is published now reaches a node that listens where the channel was.
    pub fn reaches(&self, channel: &str, node: usize) -> bool {
        let elsewhere = self.stages.get(channel) == Some(&Stage::SentOn);
        let unaware = self.unaware.get(channel).is_some_and(|nodes| nodes.contains(&node));
        !self.sharded || !(elsewhere || unaware)
    }

    /// Whether there is a move of which a node has not heard.
    pub fn is_behind(&self, node: usize) -> bool {
        self.unaware.values().any(|nodes| nodes.contains(&node))
    }

    /// A node hears of one move, if there is one of which it has not.
    pub fn hear(&mut self, node: usize) -> Option<String> {
        let (channel, nodes) = self.unaware.iter_mut().find(|(_, nodes)| nodes.contains(&node))?;
        nodes.remove(&node);
        let channel = channel.clone();
        self.unaware.retain(|_, nodes| !nodes.is_empty());
        Some(channel)
    }
}

/// A channel of a node that has moved, and of which the cores have not heard that it is listened to
/// at its new place.
#[derive(Debug)]
struct Gained {
    channel: Arc<str>,
    scope: Scope,
    life: Life,
    /// It has not moved on since.
    is_last: bool,
}

/// All of them. Servers are connected to in their own time, so the cores hear of one before the
/// other in any order.
#[derive(Debug, Default)]
pub struct Deaf(Vec<Gained>);

impl Deaf {
    /// One more; what is said of it.
    pub fn add(&mut self, channel: &str, life: Life) -> Scope {
        self.0.iter_mut().filter(|it| *it.channel == *channel).for_each(|it| it.is_last = false);
        let scope = scope(channel);
        let gained = Gained { channel: channel.into(), scope: scope.clone(), life, is_last: true };
        self.0.push(gained);
        scope
    }

    /// Whether there is no connection to where a channel is.
    pub fn has(&self, channel: &str) -> bool {
        self.0.iter().any(|it| it.is_last && *it.channel == *channel)
    }

    /// The cores hear of one of them, by a number.
    pub fn end(&mut self, number: usize) -> Option<(Scope, Life)> {
        let place = number.checked_rem(self.0.len())?;
        let Gained { scope, life, .. } = self.0.remove(place);
        Some((scope, life))
    }

    /// The connection is lost, and with it all that was special.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}
