//! Messages that pass through the node of their slot only (`SSUBSCRIBE`), and what that node says
//! of its own accord.
//!
//! One command names channels of one slot; so what cores ask in one piece leaves in several. A
//! node that gives a slot away ends its subscriptions itself (`sunsubscribe`), and refuses the slot
//! from then on (`MOVED`). Both mean the same here: the slot is lost, and whoever knows the cluster
//! sees to it that it is listened to anew. Owns no state but [`Listening`]'s. The invariant: what a
//! node ends that was not asked to is a lost slot, and never an acknowledgement.
//!
//! The acknowledgement of an end looks like the other kind, and is followed by no error; so behind
//! each end stands a `PING` with a number, and its answer says that the end was done.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::answers::Trouble;
use super::layout::Layout;
use super::listening::{Listening, Piece, Sent};
use super::resp::{Command, Reply, command};

/// Slots that a node has stopped to pass on messages of.
#[derive(Debug, Default)]
pub(super) struct Shards {
    lost: Vec<u16>,
    /// The number of the last end.
    fence: u64,
}

/// Of one slot.
#[derive(Debug)]
pub(super) struct Part {
    slot: u16,
    /// The text of the PING behind an end: its answer says that the end is done.
    fence: Option<String>,
}

impl Listening {
    /// Slots that are lost since this was asked last.
    pub(super) fn take_lost(&mut self) -> Vec<u16> {
        std::mem::take(&mut self.shards.lost)
    }

    fn lose(&mut self, slot: u16) {
        if !self.shards.lost.contains(&slot) {
            self.shards.lost.push(slot);
        }
    }

    /// Writes a piece, slot by slot.
    pub(super) fn send_parts(
        &mut self,
        piece: Piece,
        out: &mut Vec<u8>,
        layout: &Layout,
        now: Instant,
    ) {
        let Piece { core, begins, names } = piece;
        let mut parts: BTreeMap<u16, Vec<Arc<str>>> = BTreeMap::new();
        for name in names {
            parts.entry(layout.slot(&name)).or_default().push(name);
        }
        let mut left = parts.len();
        for (slot, names) in parts {
            let mut command = Command::begin(out, 1 + names.len());
            command.part(if begins { "SSUBSCRIBE" } else { "SUNSUBSCRIBE" });
            names.iter().for_each(|name| _ = command.joined(&layout.messages(name)));
            drop(command);
            let fence = (!begins).then(|| self.fence(out));
            left -= 1;
            let part = Some(Part { slot, fence });
            self.asked_part(Piece { core, begins, names }, part, left == 0, now);
        }
    }

    fn fence(&mut self, out: &mut Vec<u8>) -> String {
        self.shards.fence += 1;
        let fence = format!("fence {}", self.shards.fence);
        command(out, &["PING", &fence]);
        fence
    }

    /// The PING behind the oldest end is answered: the end is done.
    pub(super) fn is_fence(&mut self, reply: &Reply<'_>) -> bool {
        let text = match reply.list() {
            // Version 2 of the protocol has it so where something is subscribed to.
            Some([_, text]) => text.str(),
            _ => reply.str(),
        };
        let waited = self.sent.front().and_then(|sent| sent.part.as_ref()?.fence.as_deref());
        let done = waited.is_some() && waited == text;
        if done {
            self.sent.pop_front();
        }
        done
    }

    /// The node says that it passes on no more of a channel, whether or not it was asked to.
    pub(super) fn ended(&mut self, layout: &Layout, name: &Reply<'_>) {
        let Some(channel) = name.text().and_then(|name| layout.channel(name)) else { return };
        if let Some(Sent { piece, acknowledged, .. }) = self.sent.front_mut()
            && !piece.begins
            && piece.names.get(*acknowledged).is_some_and(|name| **name == *channel)
        {
            *acknowledged += 1;
            return;
        }
        let asked = |sent: &Sent| {
            !sent.piece.begins && sent.piece.names.iter().any(|name| **name == *channel)
        };
        // What another node has by now is listened to there.
        if !self.sent.iter().any(asked) && self.is_own(channel) {
            self.lose(layout.slot(channel));
        }
    }

    /// Whether an error is about a slot that is elsewhere, and the connection goes on.
    pub(super) fn is_elsewhere(&mut self, what: &[u8]) -> bool {
        if Trouble::of(what) != Trouble::Elsewhere {
            return false;
        }
        let Some(sent) = self.sent.front() else { return false };
        let Some(Part { slot, fence }) = &sent.part else { return false };
        let slot = *slot;
        // An end that is refused is one; what stands behind it comes back.
        if fence.is_none() {
            let sent = self.sent.pop_front();
            let names = sent.map(|sent| sent.piece.names).unwrap_or_default();
            if names.iter().any(|name| self.is_own(name)) {
                self.lose(slot);
            }
        }
        true
    }
}

#[cfg(test)]
#[path = "sharded_tests.rs"]
mod tests;
