//! Where queued bytes lie.

use std::ops::Range;

use bytes::Bytes;

/// Bytes of a segment, and who keeps them.
#[derive(Clone, Debug)]
pub enum Data {
    /// In the core's cork, this turn only.
    Cork(Range<usize>),
    /// In the core's receive arena, this turn only.
    Arena(Range<usize>),
    /// In a buffer of its own.
    Own(Bytes),
    /// Part of a buffer that others share, and how far behind the buffer's start.
    Shared(Bytes, u8),
}
