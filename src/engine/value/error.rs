//! Why something was not queued.

/// Why something was not queued for a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// The connection is closing or gone. Counted.
    Gone,
    /// The outbox is full and the policy dropped the message. Counted.
    Dropped,
    /// The outbox is full and the policy closes the connection, or the core's memory for outboxes
    /// is used up.
    Slow,
    /// The mailbox of the connection's core is full. Counted.
    Busy,
    /// A control frame's payload is over 125 bytes.
    TooLong,
    /// The connection is a stream, which has no control frames.
    Stream,
}

impl std::fmt::Display for SendError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Gone => "the connection is gone",
            Self::Dropped => "the outbox is full; the message was dropped",
            Self::Slow => "the outbox is full; the connection is being closed",
            Self::Busy => "the mailbox of the connection's core is full",
            Self::TooLong => "a control frame carries at most 125 bytes",
            Self::Stream => "a stream has no control frames",
        })
    }
}

impl std::error::Error for SendError {}
