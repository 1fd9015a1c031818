//! Who is to be received from, and how much at once.
//!
//! Owns the two queues of connections: those that became readable, and those that left input behind
//! when they were last received from. Never receives. The invariant: a connection with
//! [`Flags::READY`] is in one of them, where its first entry stands for it; entries of others, who
//! have left, are passed over, and taken out where they are many.

use std::collections::VecDeque;

use super::ring::Recv;
use super::secure::Secure;
use super::slots::{Flags, Hot, Pace, Phase, Slots};

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    /// Slots that became readable.
    ready: VecDeque<u32>,
    /// Slots that were read from and have more.
    eager: VecDeque<u32>,
    /// Slots whose TLS handshake is not complete.
    greeting: VecDeque<u32>,
}

/// What a batch uses of its turn's share.
#[derive(Default)]
struct Taken {
    /// Bytes of the arena, gaps included.
    arena: usize,
    /// Bytes in all.
    bytes: usize,
    /// How many they may become.
    limit: usize,
}

impl Inbox {
    /// Puts a connection into its queue for the next batch of receives. Returns how long that is.
    #[inline]
    pub(super) fn mark_ready(&mut self, slot: u32, hot: &mut Hot) -> usize {
        let queue = match hot.flags.0 & (Flags::CHATTY | Flags::GREETING) {
            0 => &mut self.ready,
            Flags::CHATTY => &mut self.eager,
            _ => &mut self.greeting,
        };
        if !hot.set(Flags::READY) {
            queue.push_back(slot);
            return queue.len();
        }
        0
    }

    /// The same for one that left input behind: it waits for its turn among those that do.
    pub(super) fn mark_eager(&mut self, slot: u32, hot: &mut Hot) -> usize {
        if !hot.set(Flags::READY) {
            let queue = if hot.has(Flags::GREETING) { &mut self.greeting } else { &mut self.eager };
            queue.push_back(slot);
            return queue.len();
        }
        0
    }

    /// Whether nobody is to be received from.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.eager.is_empty() && self.greeting.is_empty()
    }

    /// Whether a connection is in a queue.
    pub(super) fn contains(&self, slot: u32) -> bool {
        [&self.ready, &self.eager, &self.greeting].iter().any(|queue| queue.contains(&slot))
    }

    pub(super) fn shrink(&mut self) {
        self.ready.shrink_to_fit();
        self.eager.shrink_to_fit();
        self.greeting.shrink_to_fit();
    }

    /// Takes those out of the queues that have left: where many come and go, they would add up.
    #[cold]
    pub(super) fn prune(&mut self, slots: &mut Slots) {
        for queue in [&mut self.ready, &mut self.eager, &mut self.greeting] {
            // The first entry of each stands for it.
            queue.retain(|slot| slots.get_mut(*slot).is_some_and(|hot| hot.clear(Flags::READY)));
        }
        for slot in self.ready.iter().chain(&self.eager).chain(&self.greeting) {
            if let Some(hot) = slots.get_mut(*slot) {
                hot.set(Flags::READY);
            }
        }
    }

    /// Takes connections from the queues as long as the arena has room.
    pub(super) fn choose(&mut self, slots: &mut Slots, secure: &Secure, batch: &mut Vec<Recv>) {
        // What is ready now; those put back during the batch wait for the next one. Last come a few
        // of those that have more to say, with a share that is kept for them: neither kind keeps
        // out the other, and who says little is answered first.
        let eager = self.eager.len().min(EAGER_MAX);
        let kept = if eager == 0 { 0 } else { EAGER_MAX };
        let mut taken = Taken {
            limit: if eager == 0 { TURN_BYTES } else { TURN_BYTES / 2 },
            ..Taken::default()
        };
        for _ in 0..self.ready.len() {
            let Some(slot) = self.ready.pop_front() else { break };
            if batch.len() + kept == BATCH_MAX
                || !taken.add(slots.get_mut(slot), slot, secure, batch)
            {
                self.ready.push_front(slot);
                break;
            }
        }
        taken.limit = TURN_BYTES;
        for _ in 0..eager {
            let Some(slot) = self.eager.pop_front() else { break };
            if !taken.add(slots.get_mut(slot), slot, secure, batch) {
                self.eager.push_front(slot);
                break;
            }
        }
        // After everybody else: each may cost 0.1 ms, for which all others wait.
        let most = if batch.is_empty() { GREETING_ALONE_MAX } else { GREETING_MAX };
        for _ in 0..self.greeting.len().min(most) {
            let Some(slot) = self.greeting.pop_front() else { break };
            if !taken.add(slots.get_mut(slot), slot, secure, batch) {
                self.greeting.push_front(slot);
                break;
            }
        }
    }
}

impl Taken {
    /// Puts a connection into the batch if it is to be read. False if the batch has no room left
    /// for it.
    fn add(
        &mut self,
        hot: Option<&mut Hot>,
        slot: u32,
        secure: &Secure,
        batch: &mut Vec<Recv>,
    ) -> bool {
        let Some(hot) = hot else { return true };
        if !hot.clear(Flags::READY) {
            return true;
        }
        match hot.phase() {
            Phase::Closed | Phase::Connecting => return true,
            Phase::Flushing | Phase::Passing => return true,
            // Left in the kernel; resuming puts it back.
            Phase::Open if hot.has(Flags::HELD) => return true,
            _ => {}
        }
        let size = match hot.has(Flags::CHATTY) {
            true => CHATTY_SIZE,
            false => receive_size(hot.pace.appetite()),
        };
        // In front of what is received lies what is there of a record.
        let lead = if hot.has(Flags::TLS) { secure.partial_len(slot) } else { 0 };
        if self.bytes + lead + size > self.limit {
            hot.set(Flags::READY);
            return false;
        }
        self.bytes += lead + size;
        self.arena += lead;
        let (generation, start, room) = (hot.generation, self.arena as u32, size as u32);
        // Equal offsets would compete for the same cache sets.
        self.arena += size + STAGGER;
        batch.push(Recv { slot, generation, start, room, result: Ok(0), more: false });
        true
    }
}

/// Bytes of a receive: doubled `appetite` times for connections that fill theirs, and room for
/// headers, so that a payload of a power of two is received whole.
pub(super) const fn receive_size(appetite: u8) -> usize {
    (2048 << appetite) + 64
}

/// 2 KiB to 256 KiB.
pub(super) const APPETITE_STEPS: u8 = Pace::APPETITE_MAX;

/// Bytes of the largest receive.
pub(super) const RECEIVE_MAX: usize = receive_size(APPETITE_STEPS);

/// Three cache lines.
const STAGGER: usize = 192;

/// Bytes that one turn may receive over all connections: what is received is still in the L2 cache
/// when it is decoded and sent, and a turn, for which everybody waits, takes well below a
/// millisecond.
const TURN_BYTES: usize = 2 * RECEIVE_MAX;

/// Connections with input left behind that a turn takes up again.
const EAGER_MAX: usize = 4;

/// Connections in a TLS handshake that a turn takes up.
const GREETING_MAX: usize = 4;

/// The same in a turn that has nobody else.
const GREETING_ALONE_MAX: usize = 32;

/// What a chatty connection is received from at once, in bytes: at most 85 frames.
const CHATTY_SIZE: usize = 512;

/// Receives per batch.
const BATCH_MAX: usize = 240;

/// Bytes of the arena that a batch takes at most.
pub(super) const BATCH_BYTES: usize = TURN_BYTES + BATCH_MAX * STAGGER;
