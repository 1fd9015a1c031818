//! Who is to be received from, and how much at once.
//!
//! Owns the queues of connections: those that became readable; those that left input behind when
//! they were last received from, or whose input takes long; those in a TLS handshake. Never
//! receives. The invariant: a connection with [`Flags::READY`] is in one of them, where its first
//! entry stands for it; entries of others, who have left, are passed over, and taken out where they
//! are many. Of whom input was received that had to wait, that is taken up in place of a receive.

use std::collections::VecDeque;

use super::leftovers::{Leftovers, RESUMED_MAX};
use super::ring::Recv;
use super::secure::Secure;
use super::slots::{Flags, Hot, Pace, Phase, Slots};

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    /// Slots that became readable.
    ready: VecDeque<u32>,
    /// Slots that were read from and have more, and those whose input takes long.
    eager: VecDeque<u32>,
    /// Slots whose TLS handshake is not complete.
    greeting: VecDeque<u32>,
    /// The last batch took longer than a turn should.
    slow: bool,
    /// The batch that was chosen has somebody whose input takes long.
    costly: bool,
    /// Connections in place of whose receives something is taken up that waits.
    resumed: Vec<Recv>,
}

/// What a turn works off, in this order: the `early` first of [`Inbox::resumed`], the `messages`
/// first receives, the rest of those resumed, the rest of the receives, which are of TLS
/// handshakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) early: usize,
    pub(super) messages: usize,
    /// Bytes of the arena that all of it takes.
    pub(super) bytes: usize,
}

/// The measurement of a batch's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timing {
    /// Not at all.
    None,
    /// Of the whole batch.
    Whole,
    /// Of each receive.
    Each,
}

/// What a batch uses of its turn's share.
struct Taken<'a> {
    secure: &'a Secure,
    leftovers: &'a Leftovers,
    resumed: &'a mut Vec<Recv>,
    /// Bytes of the arena, gaps included.
    arena: usize,
    /// Bytes in all.
    bytes: usize,
    /// How many they may become.
    limit: usize,
    /// Connections that it may be.
    most: usize,
    /// Whether somebody's input takes long.
    costly: bool,
}

impl Inbox {
    /// Puts a connection into its queue for the next batch of receives. Returns how long that is.
    #[inline]
    pub(super) fn mark_ready(&mut self, slot: u32, hot: &mut Hot) -> usize {
        let queue = match hot.flags.0 & (Flags::CHATTY | Flags::COSTLY | Flags::GREETING) {
            0 => &mut self.ready,
            late if late & Flags::GREETING == 0 => &mut self.eager,
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
        self.resumed.shrink_to_fit();
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
    #[inline]
    pub(super) fn choose(
        &mut self,
        slots: &mut Slots,
        secure: &Secure,
        leftovers: &Leftovers,
        batch: &mut Vec<Recv>,
    ) -> Chosen {
        // What is ready now; those put back during the batch wait for the next one. Last come a few
        // of those that have more to say, with a share that is kept for them: neither kind keeps
        // out the other, and who says little is answered first.
        let eager = self.eager.len().min(if self.slow { 1 } else { EAGER_MAX });
        let kept = if eager == 0 { 0 } else { EAGER_MAX };
        self.resumed.clear();
        let mut taken = Taken {
            secure,
            leftovers,
            resumed: &mut self.resumed,
            arena: 0,
            bytes: 0,
            limit: if eager == 0 { TURN_BYTES } else { TURN_BYTES / 2 },
            most: BATCH_MAX - kept,
            costly: false,
        };
        taken.fill(&mut self.ready, usize::MAX, slots, batch);
        let early = taken.resumed.len();
        if eager > 0 {
            (taken.limit, taken.most) = (TURN_BYTES, BATCH_MAX);
            taken.fill(&mut self.eager, eager, slots, batch);
        }
        self.costly = taken.costly;
        let messages = batch.len();
        if !self.greeting.is_empty() {
            // After everybody else: each may cost 0.1 ms, for which all others wait.
            let alone = batch.is_empty() && taken.resumed.is_empty();
            let count = if alone { GREETING_ALONE_MAX } else { GREETING_MAX };
            (taken.limit, taken.most) = (TURN_BYTES, usize::MAX);
            taken.fill(&mut self.greeting, count, slots, batch);
        }
        Chosen { early, messages, bytes: taken.arena }
    }

    /// Connections of which something is taken up that waits.
    pub(super) fn resumed(&self) -> &[Recv] {
        &self.resumed
    }

    /// Chooses the measurement for a batch of so many receives. A small batch delays nobody, so it
    /// reads no clock.
    pub(super) fn timing(&self, batch: usize) -> Timing {
        match batch {
            _ if self.slow || self.costly => Timing::Each,
            0..TIMED_MIN => Timing::None,
            _ => Timing::Whole,
        }
    }

    /// Notes the time of a whole batch in nanoseconds, 0 for a batch without a measurement.
    pub(super) fn note_time(&mut self, batch_ns: u64) {
        self.slow = batch_ns > BATCH_NS;
    }

    /// Notes the time that one connection's input took, in nanoseconds. In a slow batch, long input
    /// puts its connection behind the others; short input puts it back. Returns whether the
    /// connection has just become costly.
    pub(super) fn weigh(&mut self, hot: &mut Hot, ns: u64) -> bool {
        if ns < COSTLY_NS / 4 {
            hot.clear(Flags::COSTLY);
        }
        self.slow && ns > COSTLY_NS && !hot.set(Flags::COSTLY)
    }
}

impl Taken<'_> {
    /// Takes connections from the front of a queue, `count` at most, as long as there is room.
    fn fill(
        &mut self,
        queue: &mut VecDeque<u32>,
        count: usize,
        slots: &mut Slots,
        batch: &mut Vec<Recv>,
    ) {
        for _ in 0..queue.len().min(count) {
            let Some(slot) = queue.front().copied() else { break };
            let full = batch.len() + self.resumed.len() == self.most;
            if full || !self.add(slots.get_mut(slot), slot, batch) {
                break;
            }
            queue.pop_front();
        }
    }

    /// Puts a connection into the batch if it is to be read, or among those that are resumed. False
    /// if there is no room left for it.
    #[inline(never)]
    fn add(&mut self, hot: Option<&mut Hot>, slot: u32, batch: &mut Vec<Recv>) -> bool {
        let Some(hot) = hot else { return true };
        if !hot.clear(Flags::READY) {
            return true;
        }
        match hot.phase() {
            Phase::Closed | Phase::Connecting => return true,
            Phase::Flushing | Phase::Passing => return true,
            // Left in the kernel; resuming puts it back.
            Phase::Open | Phase::Handshake if hot.has(Flags::HELD) => return true,
            _ => {}
        }
        let left = self.leftovers.len(slot);
        let size = match left {
            // A record is opened whole: less of it would not be less work in one turn.
            0 if hot.has(Flags::CHATTY) => match self.secure.missing(slot) {
                Some(missing) => missing.max(CHATTY_SIZE),
                None => CHATTY_SIZE,
            },
            0 => receive_size(hot.pace.appetite()),
            left => left.min(RESUMED_MAX),
        };
        // In front of what is received lies what is there of a record.
        let receives = left == 0;
        let lead = if receives && hot.has(Flags::TLS) { self.secure.partial_len(slot) } else { 0 };
        if self.bytes + lead + size > self.limit {
            hot.set(Flags::READY);
            return false;
        }
        self.costly |= hot.has(Flags::COSTLY);
        self.bytes += lead + size;
        self.arena += lead;
        let (generation, start, room) = (hot.generation, self.arena as u32, size as u32);
        // Equal offsets would compete for the same cache sets.
        self.arena += size + STAGGER;
        let chosen = Recv { slot, generation, start, room, result: Ok(0), more: !receives };
        if receives {
            batch.push(chosen)
        } else {
            self.resumed.push(chosen)
        }
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

/// Time of a batch above which the next batch times each receive, in nanoseconds.
const BATCH_NS: u64 = 1_000_000;

/// Time of a receive above which its connection waits behind others, in nanoseconds: some dozen
/// messages. A batch whose receives each take less is done within 5 ms.
const COSTLY_NS: u64 = 20_000;

/// Fewest receives of a batch that is timed.
const TIMED_MIN: usize = 4;

/// Connections in a TLS handshake that a turn takes up.
const GREETING_MAX: usize = 4;

/// The same in a turn that has nobody else, who may come meanwhile.
const GREETING_ALONE_MAX: usize = 8;

/// What a chatty connection is received from at once, in bytes: at most 85 frames.
const CHATTY_SIZE: usize = 512;

/// Receives per batch.
const BATCH_MAX: usize = 240;

/// Bytes of the arena that a batch takes at most.
pub(super) const BATCH_BYTES: usize = TURN_BYTES + BATCH_MAX * STAGGER;

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(inbox: &mut Inbox, slots: &mut Slots) -> Vec<u32> {
        let mut batch = Vec::new();
        inbox.choose(slots, &Secure::default(), &Leftovers::default(), &mut batch);
        batch.iter().map(|recv| recv.slot).collect()
    }

    #[test]
    fn whose_input_takes_long_comes_last_and_few_at_a_time() {
        let (mut inbox, mut slots) = (Inbox::default(), Slots::default());
        for slot in 0..20 {
            slots.open(slot, Phase::Open);
        }
        let ready = |inbox: &mut Inbox, slots: &mut Slots, all: &[u32]| {
            for slot in all {
                inbox.mark_ready(*slot, slots.get_mut(*slot).unwrap());
            }
        };
        let everybody: Vec<u32> = (0..20).collect();
        ready(&mut inbox, &mut slots, &everybody);
        assert_eq!(choose(&mut inbox, &mut slots), everybody, "in the order in which they came");
        assert_eq!(inbox.timing(TIMED_MIN - 1), Timing::None, "nobody pays for few");
        assert_eq!(inbox.timing(20), Timing::Whole);

        assert!(!inbox.weigh(slots.get_mut(0).unwrap(), 1_000_000), "it keeps nobody waiting");
        inbox.note_time(BATCH_NS + 1);
        assert_eq!(inbox.timing(1), Timing::Each);
        for slot in 0..10 {
            assert!(inbox.weigh(slots.get_mut(slot).unwrap(), COSTLY_NS + 1));
            assert!(!inbox.weigh(slots.get_mut(slot).unwrap(), COSTLY_NS + 1), "known already");
        }
        assert!(!inbox.weigh(slots.get_mut(10).unwrap(), COSTLY_NS), "as quick as it should be");

        ready(&mut inbox, &mut slots, &everybody);
        let mut expected: Vec<u32> = (10..20).collect();
        expected.push(0);
        assert_eq!(choose(&mut inbox, &mut slots), expected, "the others first, then one of them");
        assert_eq!(inbox.timing(11), Timing::Each);
        inbox.note_time(BATCH_NS);
        assert_eq!(choose(&mut inbox, &mut slots), [1, 2, 3, 4], "some more of them");
        assert_eq!(inbox.timing(1), Timing::Each, "to find out whether it still takes long");

        inbox.weigh(slots.get_mut(1).unwrap(), COSTLY_NS / 4 - 1);
        ready(&mut inbox, &mut slots, &[1, 15]);
        let expected = [1, 15, 5, 6, 7, 8];
        assert_eq!(choose(&mut inbox, &mut slots), expected, "it does not any more");
    }
}
