//! Who on this core listens to what: topics with their subscribers, and each connection's list of
//! subscriptions, linked through the same records so that leaving is constant time from either
//! side.
//!
//! The invariant: a subscription is in its topic's members and in its connection's list, or in
//! neither; a topic without members does not exist.

use std::collections::HashMap;
use std::sync::Arc;

use slab::Slab;

use super::slots::NO_SUBSCRIPTION;

#[derive(Debug)]
struct Topic {
    name: Arc<str>,
    /// Keys of subscriptions.
    members: Vec<u32>,
}

/// 16 bytes, and 4 in its topic.
#[derive(Debug)]
struct Subscription {
    slot: u32,
    topic: u32,
    /// Position in the topic's members.
    place: u32,
    /// Next of the same connection.
    next: u32,
}

/// The topics of one core.
#[derive(Debug, Default)]
pub struct Topics {
    names: HashMap<Arc<str>, u32>,
    topics: Slab<Topic>,
    subscriptions: Slab<Subscription>,
}

impl Topics {
    /// Topics with subscribers.
    pub fn len(&self) -> usize {
        self.topics.len()
    }

    /// Whether nobody listens to anything.
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Subscriptions over all topics.
    pub fn subscriptions(&self) -> usize {
        self.subscriptions.len()
    }

    /// Subscribes a connection whose list starts at `head`. False if it already was.
    pub fn subscribe(&mut self, slot: u32, head: &mut u32, name: &str) -> bool {
        if self.find(*head, name).is_some() {
            return false;
        }
        let topic = match self.names.get(name) {
            Some(topic) => *topic,
            None => {
                let name: Arc<str> = name.into();
                let topic = Topic { name: name.clone(), members: Vec::new() };
                let key = self.topics.insert(topic) as u32;
                self.names.insert(name, key);
                key
            }
        };
        let members = &mut self.topics[topic as usize].members;
        let place = members.len() as u32;
        let key =
            self.subscriptions.insert(Subscription { slot, topic, place, next: *head }) as u32;
        members.push(key);
        *head = key;
        true
    }

    /// Ends one subscription of a connection. False if there was none.
    pub fn unsubscribe(&mut self, head: &mut u32, name: &str) -> bool {
        let Some((key, before)) = self.find(*head, name) else { return false };
        let next = self.subscriptions[key as usize].next;
        match before {
            Some(before) => self.subscriptions[before as usize].next = next,
            None => *head = next,
        }
        self.remove(key);
        true
    }

    /// Ends all subscriptions of a connection.
    pub fn unsubscribe_all(&mut self, head: &mut u32) {
        let mut key = std::mem::replace(head, NO_SUBSCRIPTION);
        while key != NO_SUBSCRIPTION {
            let next = self.subscriptions[key as usize].next;
            self.remove(key);
            key = next;
        }
    }

    /// How many are subscribed to a topic.
    pub fn count(&self, name: &str) -> usize {
        self.names.get(name).map_or(0, |key| self.topics[*key as usize].members.len())
    }

    /// The slots subscribed to a topic.
    pub fn subscribers(&self, name: &str) -> impl Iterator<Item = u32> + '_ {
        let members = self.names.get(name).map(|key| self.topics[*key as usize].members.as_slice());
        members.unwrap_or_default().iter().map(|key| self.subscriptions[*key as usize].slot)
    }

    /// The length of a connection's list, whose entries must all be that connection's and in their
    /// topic's members.
    pub(super) fn audit(&self, slot: u32, head: u32) -> usize {
        let some = |key: u32| (key != NO_SUBSCRIPTION).then_some(key);
        std::iter::successors(some(head), |key| some(self.subscriptions[*key as usize].next))
            .filter(|key| {
                let entry = &self.subscriptions[*key as usize];
                let members = &self.topics[entry.topic as usize].members;
                entry.slot == slot && members[entry.place as usize] == *key
            })
            .count()
    }

    fn find(&self, head: u32, name: &str) -> Option<(u32, Option<u32>)> {
        let topic = *self.names.get(name)?;
        let (mut key, mut before) = (head, None);
        while key != NO_SUBSCRIPTION {
            let subscription = &self.subscriptions[key as usize];
            if subscription.topic == topic {
                return Some((key, before));
            }
            before = Some(key);
            key = subscription.next;
        }
        None
    }

    fn remove(&mut self, key: u32) {
        let Subscription { topic, place, .. } = self.subscriptions.remove(key as usize);
        let members = &mut self.topics[topic as usize].members;
        members.swap_remove(place as usize);
        if let Some(moved) = members.get(place as usize) {
            self.subscriptions[*moved as usize].place = place;
        }
        if members.is_empty() {
            let topic = self.topics.remove(topic as usize);
            self.names.remove(&topic.name);
        }
        // A mass disconnect gives its memory back.
        if self.subscriptions.is_empty() {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn agrees_with_sets_under_random_operations() {
        const SLOTS: u32 = 24;
        const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
        let mut topics = Topics::default();
        let mut heads = vec![NO_SUBSCRIPTION; SLOTS as usize];
        let mut model = BTreeSet::new();
        let mut rng = crate::common::rng::Rng::new(3);
        for _ in 0..50_000 {
            let slot = rng.below(SLOTS);
            let head = &mut heads[slot as usize];
            let name = NAMES[rng.below(5) as usize];
            match rng.below(8) {
                0..4 => {
                    assert_eq!(topics.subscribe(slot, head, name), model.insert((name, slot)));
                }
                4..7 => {
                    assert_eq!(topics.unsubscribe(head, name), model.remove(&(name, slot)));
                }
                _ => {
                    topics.unsubscribe_all(head);
                    model.retain(|(_, s)| *s != slot);
                }
            }
            let subscribers: BTreeSet<u32> = topics.subscribers(name).collect();
            let expected: BTreeSet<u32> =
                model.iter().filter(|(n, _)| *n == name).map(|(_, s)| *s).collect();
            assert_eq!(subscribers, expected);
            assert_eq!(topics.count(name), expected.len());
            assert_eq!(topics.subscriptions(), model.len());
        }
        for head in &mut heads {
            topics.unsubscribe_all(head);
        }
        assert!(topics.is_empty());
    }
}
