//! One message to many: topics of this core, and the way to the other cores.
//!
//! Owns who listens to what here, and the links to those who listen elsewhere. Never looks into a
//! frame. The invariant: a publication reaches each subscriber of a core once, in the order in
//! which that core heard of it.

use std::sync::Arc;

use super::core::Core;
use super::slots::{Hot, Phase};
use super::topics::Topics;
use super::value::{ConnId, Frame, SendError};
use crate::protocol::CloseCode;

/// The other cores, as seen from one.
pub(super) trait Links: Send + Sync {
    fn send(&self, id: ConnId, frame: &Frame) -> Result<(), SendError>;
    fn close(&self, id: ConnId, code: CloseCode, reason: &str) -> Result<(), SendError>;
    /// Subscribes a connection, or ends that.
    fn subscribe(&self, id: ConnId, topic: &str, joins: bool) -> Result<(), SendError>;
    /// Returns how many cores could not take it.
    fn publish(&self, from: u16, topic: &Arc<str>, frame: &Frame) -> u64;
    fn workers(&self) -> usize;
}

/// See the module's text.
pub(super) struct Fanout {
    topics: Topics,
    /// Kept between publications for its memory.
    receivers: Vec<u32>,
    links: Arc<dyn Links>,
}

impl Fanout {
    pub(super) fn new(links: Arc<dyn Links>) -> Self {
        Self { topics: Topics::default(), receivers: Vec::new(), links }
    }

    /// The topics of this core.
    pub(super) fn topics(&self) -> &Topics {
        &self.topics
    }

    /// Ends all subscriptions of a connection.
    pub(super) fn unsubscribe_all(&mut self, hot: &mut Hot) {
        self.topics.unsubscribe_all(&mut hot.subscriptions);
    }

    pub(super) fn shrink(&mut self) {
        self.receivers.shrink_to_fit();
    }
}

impl Core {
    pub(super) fn subscribe(&mut self, slot: u32, topic: &str) -> bool {
        match self.slots.get_mut(slot) {
            Some(hot) if hot.phase() == Phase::Open => {
                self.fanout.topics.subscribe(slot, &mut hot.subscriptions, topic)
            }
            _ => false,
        }
    }

    pub(super) fn unsubscribe(&mut self, slot: u32, topic: &str) -> bool {
        match self.slots.get_mut(slot) {
            Some(hot) => self.fanout.topics.unsubscribe(&mut hot.subscriptions, topic),
            None => false,
        }
    }

    /// Subscribes any connection to a topic, or ends that.
    pub(super) fn subscribe_at(
        &mut self,
        id: ConnId,
        topic: &str,
        joins: bool,
    ) -> Result<(), SendError> {
        if id.core != self.number {
            let sent = self.fanout.links.subscribe(id, topic, joins);
            return self.count_busy(sent);
        }
        let hot = self.slots.lookup(id.slot, id.generation);
        if hot.is_none_or(|hot| hot.phase() != Phase::Open) {
            return Err(SendError::Gone);
        }
        match joins {
            true => self.subscribe(id.slot, topic),
            false => self.unsubscribe(id.slot, topic),
        };
        Ok(())
    }

    /// Queues a frame for this core's subscribers.
    pub(super) fn publish_local(&mut self, topic: &str, frame: &Frame, except: Option<u32>) {
        self.counted.published += 1;
        // The subscribers may change while the frame is queued (a slow one is closed), so their
        // slots are copied: 4 bytes each, once per publication.
        let mut slots = std::mem::take(&mut self.fanout.receivers);
        slots.extend(self.fanout.topics.subscribers(topic));
        // Made once for all who need it in the other shape.
        let mut other = None;
        for slot in &slots {
            if Some(*slot) == except {
                continue;
            }
            let Some(hot) = self.slots.get(*slot) else { continue };
            let generation = hot.generation;
            let frame = match frame.suits(hot.framing()) {
                true => frame,
                false => other.get_or_insert_with(|| frame.reshaped()),
            };
            // A receiver that is gone or full is counted where that is found out.
            let _ = self.queue_frame(*slot, generation, frame);
        }
        slots.clear();
        self.fanout.receivers = slots;
    }

    /// Sends a publication to the other cores.
    pub(super) fn publish_remote(&mut self, topic: &str, frame: &Frame) {
        if self.fanout.links.workers() > 1 {
            let missed = self.fanout.links.publish(self.number, &topic.into(), frame);
            self.counted.mailbox_full += missed;
        }
    }

    /// Sends a frame to a connection of another core.
    pub(super) fn send_remote(&mut self, id: ConnId, frame: &Frame) -> Result<(), SendError> {
        let sent = self.fanout.links.send(id, frame);
        self.count_busy(sent)
    }

    /// Closes a connection of another core.
    pub(super) fn close_remote(
        &mut self,
        id: ConnId,
        code: CloseCode,
        reason: &str,
    ) -> Result<(), SendError> {
        let sent = self.fanout.links.close(id, code, reason);
        self.count_busy(sent)
    }

    fn count_busy(&mut self, sent: Result<(), SendError>) -> Result<(), SendError> {
        self.counted.mailbox_full += u64::from(sent == Err(SendError::Busy));
        sent
    }
}
