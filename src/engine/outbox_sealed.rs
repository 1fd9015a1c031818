//! Records of TLS in an outbox: what is sealed lies before all that is not.
//!
//! Owns that order. Never seals. The invariant: records are in the order in which they were sealed,
//! nothing drops one, and nothing overtakes it.

use std::io::IoSlice;

use bytes::{Buf as _, Bytes};

use super::{Class, Data, Ledger, Outbox, SLICES_MAX, Segment, TurnBuffers};

impl Outbox {
    /// Whether records of TLS are queued.
    pub(in crate::engine) fn has_sealed(&self) -> bool {
        self.queue.front().is_some_and(|first| first.class == Class::Sealed)
    }

    /// Queues records of TLS behind others, and before all that is not sealed.
    pub(in crate::engine) fn push_sealed(&mut self, bytes: Bytes, ledger: &mut Ledger) {
        let at = self.queue.iter().take_while(|it| it.class == Class::Sealed).count();
        if at == 0 && self.sent > 0 {
            self.cut_sent(ledger);
        }
        self.bytes += bytes.len();
        let glued = at > 0;
        let segment = Segment { glued, ..Segment::new(Data::Own(bytes), Class::Sealed, 0) };
        self.queue.insert(at, segment);
    }

    /// Drops all that is not sealed, also what is left of a message that is partly sent. Returns
    /// how many messages that were.
    pub(in crate::engine) fn keep_sealed(&mut self, ledger: &mut Ledger) -> u64 {
        let mut messages = 0;
        while self.queue.back().is_some_and(|last| last.class != Class::Sealed) {
            let Some(segment) = self.queue.pop_back() else { break };
            // What was sent of the first is counted off already.
            let sent = if self.queue.is_empty() { std::mem::take(&mut self.sent) } else { 0 };
            self.bytes -= segment.data.len() - sent;
            self.unbook(&segment, ledger);
            messages += u64::from(segment.class == Class::Message);
        }
        messages
    }

    /// A copy of the records that are not sent.
    pub(in crate::engine) fn sealed_bytes(&self) -> Vec<u8> {
        let (mut bytes, mut skip) = (Vec::new(), self.sent);
        for segment in self.queue.iter().take_while(|it| it.class == Class::Sealed) {
            // Records are made for one connection, and never lie in a turn's buffers.
            bytes.extend_from_slice(
                &segment.data.resolve(TurnBuffers { cork: &[], arena: &[] })[skip..],
            );
            skip = 0;
        }
        bytes
    }

    /// Makes the rest of what is partly sent a segment, which nothing may come before but records.
    fn cut_sent(&mut self, ledger: &mut Ledger) {
        let sent = std::mem::take(&mut self.sent);
        let Some(first) = self.queue.front_mut() else { return };
        if std::mem::take(&mut first.booked) {
            self.booked -= 1;
            self.own -= first.data.leave(ledger);
        }
        match &mut first.data {
            Data::Cork(range) | Data::Arena(range) => range.start += sent,
            Data::Own(bytes) => bytes.advance(sent),
            Data::Shared(bytes, _) => {
                first.data = Data::Own(Bytes::copy_from_slice(&bytes[sent..]));
            }
        }
        first.glued = true;
        if first.class == Class::Message {
            first.class = Class::Run;
        }
    }

    /// The slices of records that are queued, as [`Self::gather`] does.
    pub(in crate::engine) fn gather_sealed<'a>(
        &'a self,
        turn: TurnBuffers<'a>,
        slices: &mut Vec<IoSlice<'a>>,
    ) -> (u32, usize) {
        let (mut count, mut bytes, mut skip) = (0, 0, self.sent);
        let sealed = self.queue.iter().take_while(|it| it.class == Class::Sealed);
        for segment in sealed.take(SLICES_MAX) {
            let slice = &segment.data.resolve(turn)[skip..];
            skip = 0;
            bytes += slice.len();
            count += 1;
            slices.push(IoSlice::new(slice));
        }
        (count, bytes)
    }

    /// What is to be sealed next, at most `max` bytes of it. Returns how much it is.
    pub(in crate::engine) fn gather_plain<'a>(
        &'a self,
        turn: TurnBuffers<'a>,
        parts: &mut Vec<&'a [u8]>,
        max: usize,
    ) -> usize {
        let (mut bytes, mut skip) = (0, self.sent);
        for segment in &self.queue {
            let part = &segment.data.resolve(turn)[skip..];
            skip = 0;
            let part = &part[..part.len().min(max - bytes)];
            if part.is_empty() {
                break;
            }
            bytes += part.len();
            parts.push(part);
        }
        bytes
    }
}
