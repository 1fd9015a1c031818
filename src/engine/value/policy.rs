//! What becomes of a message for a peer that reads too slowly.

/// What to do when a message would exceed the limit of an outbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Policy {
    /// Close the connection with 1008: a peer that misses a message must know.
    #[default]
    CloseSlow,
    /// Drop the new message.
    DropNewest,
    /// Drop the oldest messages that are not partly sent until the new one fits.
    DropOldest,
    /// As drop-oldest; and a message with a key replaces a queued one with the same key at any
    /// fill, so that a slow reader gets the newest state of each key.
    Conflate,
}
