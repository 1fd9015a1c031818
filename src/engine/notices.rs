//! What the application has to be told, once its present callback has returned.
//!
//! Owns the order of notices. Never calls the application. The invariant: between two turns none is
//! left, but those that would have more queued in a turn that has queued enough; these come first
//! in the next one.

use std::collections::VecDeque;

use super::value::Closed;

/// One of them.
#[derive(Debug)]
pub(super) enum Notice {
    Closed {
        slot: u32,
        generation: u32,
        closed: Closed,
        /// This side's reason, where something is to be said last.
        own: Box<str>,
    },
    Writable {
        slot: u32,
        generation: u32,
    },
    /// All is sent on a connection that is on its way out.
    Sent {
        slot: u32,
        generation: u32,
    },
    /// It is time for the application's heartbeat.
    Heartbeat {
        slot: u32,
        generation: u32,
    },
}

const _: () = assert!(size_of::<Notice>() <= 64, "what the module's table of memory says");

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Notices {
    queue: VecDeque<Notice>,
    /// Those that would have more queued, of a turn that has queued enough.
    postponed: Vec<Notice>,
}

impl Notices {
    /// One more.
    pub(super) fn push(&mut self, notice: Notice) {
        self.queue.push_back(notice);
    }

    /// The next one.
    pub(super) fn pop(&mut self) -> Option<Notice> {
        self.queue.pop_front()
    }

    /// Whether there is none for this turn.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Puts one off until what was queued is offered to the kernel.
    pub(super) fn postpone(&mut self, notice: Notice) {
        self.postponed.push(notice);
    }

    /// What was queued is offered to the kernel.
    #[inline]
    pub(super) fn resume(&mut self) {
        if self.postponed.is_empty() {
            return;
        }
        self.queue.extend(self.postponed.drain(..));
    }

    /// Whether some are put off.
    pub(super) fn has_postponed(&self) -> bool {
        !self.postponed.is_empty()
    }

    /// Slots of connections of whose end the application has to be told.
    pub(super) fn closed(&self) -> impl Iterator<Item = u32> {
        self.queue.iter().filter_map(|notice| match notice {
            Notice::Closed { slot, .. } => Some(*slot),
            _ => None,
        })
    }

    pub(super) fn shrink(&mut self) {
        self.queue.shrink_to_fit();
        self.postponed.shrink_to_fit();
    }
}
