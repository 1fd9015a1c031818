//! Sealing: what leaves connections that speak TLS becomes records when it is flushed.
//!
//! Owns the records sealed for the flush at hand, and what becomes of those that the kernel does
//! not take. The invariant: what is sealed leaves the outbox as plaintext in the same step, so that
//! it is neither sealed twice nor dropped.

use std::ops::Range;

use bytes::Bytes;

use super::Secure;
use crate::engine::core::Core;
use crate::engine::outgoing::{Outgoing, Share};
use crate::engine::ring::Send;
use crate::engine::slots::{Flags, Marks, Phase, Slots};
use crate::engine::value::Cause;
use crate::tls::RECORD_MAX;

/// The records sealed for a connection.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Sealed {
    pub(in crate::engine) slot: u32,
    /// Where in the staging buffer.
    pub(in crate::engine) range: Range<usize>,
    /// How much of the outbox it is.
    pub(in crate::engine) plain: usize,
    /// Nothing was sealed: what was before waits in the outbox.
    pub(in crate::engine) older: bool,
}

/// One round of sealing.
pub(in crate::engine) struct Portion {
    /// Up to which mark.
    pub(in crate::engine) to: usize,
    /// Somebody has to wait for the next round.
    pub(in crate::engine) hurry: bool,
}

impl Secure {
    /// The records sealed in the flush at hand.
    pub(in crate::engine) fn sealed(&self) -> &[Sealed] {
        &self.sealed
    }

    pub(in crate::engine) fn staged(&self, sealed: &Sealed) -> &[u8] {
        &self.staging[sealed.range.clone()]
    }

    /// Gives the staging buffer back when nothing was sealed for a while. Every turn asks.
    #[inline]
    pub(in crate::engine) fn rest(&mut self, now_ns: u64) {
        if self.staging.capacity() > 0 && now_ns.saturating_sub(self.sealed_ns) > REST_NS {
            self.release();
        }
    }

    pub(super) fn release(&mut self) {
        self.staging = Vec::new();
        self.sealed = Vec::new();
        self.worn_out = Vec::new();
    }

    /// Seals what the marked connections have to send, from the mark at `from` on, up to
    /// [`SEALED_MAX`] bytes of each and [`STAGING`] in all: of those that are offered to the kernel
    /// in this round. One whose kernel has not taken all of what was sealed before waits with the
    /// rest.
    fn seal(
        &mut self,
        slots: &mut Slots,
        outgoing: &Outgoing,
        arena: &[u8],
        marks: Range<usize>,
        share: &mut Share<'_>,
    ) -> Portion {
        self.staging.clear();
        self.sealed.clear();
        let mut hurry = false;
        let mut parts = Vec::new();
        for (at, slot) in outgoing.marked()[..marks.end].iter().enumerate().skip(marks.start) {
            if self.staging.len() >= STAGING {
                return Portion { to: at, hurry };
            }
            let Some(hot) = slots.get(*slot) else { continue };
            if !hot.has(Flags::TLS) || hot.phase() == Phase::Closed {
                continue;
            }
            let Some(outbox) = &hot.outbox else { continue };
            if !share.offers(outbox, SEALED_MAX, &mut hurry) {
                continue;
            }
            if outbox.has_sealed() {
                self.sealed.push(Sealed { slot: *slot, range: 0..0, plain: 0, older: true });
                continue;
            }
            let Some(record) = self.records.get_mut(*slot).filter(|it| !it.is_shut()) else {
                continue;
            };
            parts.clear();
            let plain = outbox.gather_plain(outgoing.turn(arena), &mut parts, SEALED_MAX);
            let start = self.staging.len();
            if record.seal(&self.limits, &parts, &mut self.staging).is_err() {
                self.staging.truncate(start);
                self.worn_out.push(*slot);
                continue;
            }
            let last = hot.phase() == Phase::Flushing && !hot.is(Marks::PARTING);
            if last && plain == outbox.bytes() {
                record.close(&mut self.staging);
            }
            let range = start..self.staging.len();
            if range.is_empty() {
                continue;
            }
            self.sealed.push(Sealed { slot: *slot, range, plain, older: false });
        }
        Portion { to: marks.end, hurry }
    }
}

impl Core {
    /// Seals what is to be sent, where there is TLS.
    pub(in crate::engine) fn seal(
        &mut self,
        arena: &[u8],
        marks: Range<usize>,
        share: &mut Share<'_>,
    ) -> Portion {
        let Self { slots, outgoing, secure, clock, .. } = self;
        let portion = secure.seal(slots, outgoing, arena, marks, share);
        if !secure.sealed.is_empty() {
            secure.sealed_ns = clock.now_ns();
        }
        portion
    }

    /// Ends the connections of the flush at hand of which nothing can be sealed any more. Nothing
    /// of their messages may be sent in part.
    pub(in crate::engine) fn end_worn_out(&mut self) {
        while let Some(slot) = self.secure.worn_out.pop() {
            self.counted.tls_keys_worn_out += 1;
            let mut words = Vec::new();
            if let Some(record) = self.secure.records.get_mut(slot) {
                record.close(&mut words);
            }
            self.end_secure(slot, words);
        }
    }

    /// The kernel took something of what is sealed, or nothing. `next` is the next entry of what
    /// the flush has sealed; who was offered older records has none.
    pub(in crate::engine) fn on_sealed_sent(&mut self, sent: &Send, next: &mut usize) {
        let Send { slot, len, result, .. } = *sent;
        let entry = self.secure.sealed.get(*next).filter(|it| it.slot == slot);
        let at = entry.filter(|it| !it.older).map(|_| *next);
        *next += usize::from(entry.is_some());
        self.counted.sends += 1;
        let Self { slots, outgoing, secure, watches, clock, counted, work, .. } = self;
        let Some(hot) = slots.get_mut(slot) else { return };
        if hot.outbox.is_none() {
            return;
        }
        let taken = match result {
            Ok(taken) => taken,
            Err(error) if error.is_transient() => 0,
            Err(error) => return self.drop_connection(slot, Cause::of_error(error)),
        };
        counted.bytes_out += taken as u64;
        // Sealed bytes leave the outbox even if the kernel does not take them.
        let plain = at.map_or(taken, |at| secure.sealed[at].plain);
        if taken > 0 {
            watches.note_taken(slot, hot, taken);
            outgoing.note_sent(slot, hot, plain, clock);
        } else {
            outgoing.consume(slot, hot, plain);
        }
        if taken < len {
            if let Some(at) = at {
                let rest = &secure.staging[secure.sealed[at].range.clone()][taken..];
                outgoing.put_back(hot, Bytes::copy_from_slice(rest));
            }
            counted.sends_short += 1;
            outgoing.block(hot);
            work.arm_poll_out(slot, hot);
        }
    }
}

/// What a turn's sealed bytes take at most, and room for one more connection's: they stay in the L2
/// cache from sealing to sending.
const STAGING: usize = 256 << 10;

/// Plaintext of one connection that a flush seals: four records.
pub(in crate::engine) const SEALED_MAX: usize = 4 << 14;

/// Bytes that TLS takes of a core besides its connections: what is sealed and of whom, twice since
/// lists double; each record has at least 22 bytes.
pub(in crate::engine) const STAGING_BYTES: usize =
    2 * (STAGING + 4 * RECORD_MAX) + 2 * STAGING / 22 * size_of::<Sealed>();

/// Nothing is sealed for so long before memory is given back.
const REST_NS: u64 = 2_000_000_000;
