//! Input that was received and has to wait for a later turn, since what it is inflated to takes
//! longer than a turn should, or since it is requests behind one that is not answered.
//!
//! Owns the bytes, by slot, as they are above the record layer, and an end of the connection that
//! came behind them. Never decodes. The invariant: a connection that has something here is open or
//! closing, or stays for more requests, and is not received from; all of it is in the account of
//! [`Inbound`].

use std::collections::HashMap;

use super::core::Core;
use super::handler::Handler;
use super::inbound::{Holding, Inbound};
use super::ring::{Recv, Ring};
use super::secure::End;
use super::slots::{Flags, Phase};
use super::worker::Worker;

/// See the module's text.
#[derive(Default)]
pub(super) struct Leftovers {
    waiting: HashMap<u32, Leftover>,
}

/// What waits of one connection.
struct Leftover {
    bytes: Vec<u8>,
    /// Those before are worked off.
    at: usize,
    /// How many behind that were copied last.
    copied: usize,
    /// What came behind them.
    end: Option<End>,
    place: Holding,
}

impl Leftover {
    /// Bytes of memory, its place in a table included.
    fn memory(&self) -> usize {
        self.bytes.capacity() + 2 * size_of::<(u32, Self)>()
    }
}

impl Leftovers {
    /// Bytes that wait of a connection.
    #[inline]
    pub(super) fn len(&self, slot: u32) -> usize {
        // Mostly there are none, and the table is not looked into.
        if self.waiting.is_empty() { 0 } else { self.len_in_table(slot) }
    }

    #[inline(never)]
    fn len_in_table(&self, slot: u32) -> usize {
        self.waiting.get(&slot).map_or(0, |left| left.bytes.len() - left.at)
    }

    /// Memory of what waits of a connection, and where it is accounted.
    pub(super) fn held(&self, slot: u32) -> Option<(Holding, usize)> {
        self.waiting.get(&slot).map(|left| (left.place, left.memory()))
    }

    /// Connections of which something waits.
    pub(super) fn count(&self) -> usize {
        self.waiting.len()
    }

    /// Keeps what was received and is not worked off.
    fn keep(&mut self, slot: u32, bytes: &[u8], inbound: &mut Inbound) {
        let bytes = bytes.to_vec();
        let mut left = Leftover { bytes, at: 0, copied: 0, end: None, place: Holding::default() };
        let memory = left.memory();
        inbound.set(&mut left.place, slot, memory);
        let before = self.waiting.insert(slot, left);
        debug_assert!(before.is_none(), "received while something was left");
    }

    /// Forgets what waits of a connection.
    pub(super) fn drop_of(&mut self, slot: u32, inbound: &mut Inbound) {
        if self.waiting.is_empty() {
            return;
        }
        if let Some(left) = self.waiting.remove(&slot) {
            inbound.clear(left.place);
        }
    }

    /// Copies the first of what waits, as much as there is room. Returns how much that is.
    fn copy(&mut self, slot: u32, room: &mut [u8]) -> usize {
        let Some(left) = self.waiting.get_mut(&slot) else { return 0 };
        let bytes = &left.bytes[left.at..];
        let count = bytes.len().min(room.len());
        room[..count].copy_from_slice(&bytes[..count]);
        left.copied = count;
        count
    }

    /// Takes what waits behind what was copied last, and forgets the rest.
    pub(super) fn take_rest(&mut self, slot: u32, inbound: &mut Inbound) -> Vec<u8> {
        let Some(left) = self.waiting.get(&slot) else { return Vec::new() };
        let rest = left.bytes[left.at + left.copied..].to_vec();
        self.drop_of(slot, inbound);
        rest
    }

    /// So many bytes are worked off. Returns the end that came behind them, if they were the last.
    fn advance(&mut self, slot: u32, count: usize, inbound: &mut Inbound) -> Option<End> {
        let left = self.waiting.get_mut(&slot)?;
        left.at += count;
        if left.at < left.bytes.len() {
            return None;
        }
        let end = left.end.take();
        self.drop_of(slot, inbound);
        end
    }

    pub(super) fn shrink(&mut self) {
        self.waiting.shrink_to_fit();
    }
}

impl Core {
    /// Keeps that rest, which is what was received from `bytes` on. Who has had its portion waits
    /// behind those who had nothing.
    #[cold]
    pub(super) fn leave_over(&mut self, slot: u32, bytes: &[u8]) {
        let had_its_portion = self.compressor.has_had_its_portion();
        let Some(hot) = self.slots.get_mut(slot) else { return };
        let heard = matches!(hot.phase(), Phase::Open | Phase::Closing | Phase::Handshake);
        if !heard || hot.has(Flags::DEAF) {
            return;
        }
        if had_its_portion && hot.phase() != Phase::Handshake {
            self.counted.reads_costly += u64::from(!hot.set(Flags::COSTLY));
        }
        self.counted.reads_left += 1;
        self.leftovers.keep(slot, bytes, &mut self.inbound);
        self.enforce_inbound();
    }

    /// The record layer found the end of a connection. `None` if that has to wait for what came
    /// before it.
    pub(super) fn end_now(&mut self, slot: u32, end: End) -> Option<End> {
        match self.leftovers.waiting.get_mut(&slot) {
            Some(left) => {
                left.end = Some(end);
                None
            }
            None => Some(end),
        }
    }
}

impl<R: Ring, H: Handler> Worker<R, H> {
    /// Works off some of what waits of a connection, in its part of the arena.
    pub(super) fn resume(&mut self, chosen: Recv) {
        let Recv { slot, generation, .. } = chosen;
        let core = &mut self.core;
        // It may have been closed meanwhile.
        let hot = core.slots.lookup(slot, generation);
        let Some(hot) = hot.filter(|_| core.leftovers.len(slot) > 0) else { return };
        core.compressor.begin_portion(hot);
        let part = chosen.range();
        let count = core.leftovers.copy(slot, &mut self.arena.bytes[part.clone()]);
        let requests = core.slots.get(slot).is_some_and(|hot| hot.phase() == Phase::Handshake);
        let part = part.start..part.start + count;
        let done = match requests {
            true => self.on_request(slot, generation, part),
            false => self.decode(slot, generation, part, true),
        };
        let core = &mut self.core;
        let end = core.leftovers.advance(slot, done, &mut core.inbound);
        if let Some(end) = end {
            self.on_secure_end(slot, generation, end);
        }
        if self.core.slots.lookup(slot, generation).is_some() {
            // What is left, or what the kernel has.
            self.core.mark_ready(slot);
        }
    }
}

/// Most bytes that wait and are taken up at once.
pub(super) const RESUMED_MAX: usize = super::inbox::receive_size(5);

#[cfg(test)]
#[path = "leftovers_tests.rs"]
mod tests;
