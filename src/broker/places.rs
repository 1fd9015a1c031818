//! Where the channels of a cluster lie: in which slot, at which node, and what the cores are told
//! of as one part.
//!
//! Owns the map of slots that the cores see, too. Knows no connection. With sharded messages the
//! members of a channel lie in another slot than the rest of it, and so their requests have an
//! order of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::layout::{Layout, shard};
use super::slots::{Map, Node, Set, Shared};
use super::work::Job;
use crate::gateway::broker::{self, Request};

/// Requests that take effect in their order: those of a channel, and apart from them those of its
/// members where they lie elsewhere.
pub(super) type Lane = (Arc<str>, bool);

/// See the module's text.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub(super) layout: Layout,
    pub(super) map: Arc<Shared>,
    /// Which of several clusters this is, and of how many.
    pub(super) share: Option<(usize, usize)>,
}

impl Places {
    /// Whether a channel is in this cluster at all.
    pub(super) fn has(&self, channel: &str) -> bool {
        self.share.is_none_or(|(index, shards)| shard(channel, shards) == index)
    }

    /// The slot of a channel, but for its members.
    pub(super) fn slot(&self, channel: &str) -> u16 {
        self.layout.slot(channel)
    }

    /// The slot that a request needs, or the first of several.
    pub(super) fn slot_of(&self, job: &Job, channel: &str) -> u16 {
        match self.is_apart(job.request()) {
            true => self.layout.slot_of_members(channel),
            false => self.slot(channel),
        }
    }

    /// The lane in whose order a request takes effect.
    pub(super) fn lane(&self, job: &Job, channel: &Arc<str>) -> Lane {
        (channel.clone(), self.is_apart(job.request()))
    }

    fn is_apart(&self, request: &Request) -> bool {
        self.layout.is_sharded() && request.is_of_members()
    }
}

/// Slots of a node, as the map has them by now.
#[derive(Debug)]
pub(super) struct Owned {
    places: Places,
    node: Node,
    /// The node has left the cluster.
    pub(super) ended: AtomicBool,
}

impl Owned {
    pub(super) fn new(places: Places, node: Node) -> Self {
        Self { places, node, ended: AtomicBool::new(false) }
    }

    fn owns(&self, slot: u16) -> bool {
        let owner = |map: &Map| map.owner(slot) == Some(&self.node);
        owner(&self.places.map.get())
    }

    /// Whether a request is for this node.
    pub(super) fn takes(&self, job: &Job) -> bool {
        job.channel().is_none_or(|channel| self.owns(self.places.slot_of(job, channel)))
    }
}

impl broker::Part for Owned {
    fn has(&self, channel: &str) -> bool {
        self.places.has(channel) && self.owns(self.places.slot(channel))
    }

    fn passes(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

/// Slots that have another owner, or have to be listened to anew.
#[derive(Debug)]
pub(super) struct Moved {
    pub(super) places: Places,
    pub(super) slots: Set,
}

impl broker::Part for Moved {
    fn has(&self, channel: &str) -> bool {
        self.places.has(channel) && self.slots.has(self.places.slot(channel))
    }

    fn passes(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::Tags;
    use super::super::queue::Queue;
    use super::*;
    use crate::gateway::broker::{Broker, Limits, Ticket};

    fn job(request: Request) -> Box<Job> {
        let queue = Queue::new(1, Limits::default());
        queue.request(0, request).expect("there is room");
        let mut taken = std::collections::VecDeque::new();
        queue.take(&mut taken);
        Job::new(taken.pop_front().expect("one"), None)
    }

    #[test]
    fn members_are_apart_where_messages_are_sharded() {
        let channel = || Arc::<str>::from("a");
        let members = job(Request::Presence(Ticket(1), channel()));
        let rest = job(Request::HistoryRemove(Ticket(2), channel()));
        let both = |tags| {
            let places =
                Places { layout: Layout::new("p", tags), map: Arc::default(), share: None };
            [&members, &rest].map(|job| (places.slot_of(job, "a"), places.lane(job, &channel())))
        };
        // 15495 is the slot of {a}, and 5649 that of {2}, its partition of four.
        let [one, other] = both(Tags::Braces);
        assert_eq!(((one.0, other.0), one.1), ((15_495, 15_495), other.1));
        let [one, other] = both(Tags::Partitions(4));
        assert_eq!((one.0, other.0), (15_495, 5649));
        assert_ne!(one.1, other.1);
    }
}
