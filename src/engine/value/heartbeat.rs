//! Who sends a heartbeat.

/// The application's decision about a heartbeat that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeartbeatAction {
    /// The engine sends its ping. On a stream, where no ping can be sent, as [`Self::Quiet`].
    Ping,
    /// The application has sent its own, and awaits an answer in the time that
    /// [`Heartbeat`](crate::Heartbeat) gives.
    Sent,
    /// No answer is awaited, whether something was sent or not.
    Quiet,
}
