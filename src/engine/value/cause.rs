//! Why and how a connection ended.

use crate::engine::ring::Errno;
use crate::protocol::CloseCode;

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// The peer closed: with a close frame, or a stream by ending its connection.
    Peer,
    /// The peer closed its connection without a close frame.
    Abrupt,
    /// The connection broke: reset, unreachable.
    Broken,
    /// The peer acknowledged nothing for [`Config::user_timeout`](crate::Config::user_timeout), or
    /// the kernel gave it up (`ETIMEDOUT`).
    Unacknowledged,
    /// The peer broke the protocol (1002).
    Protocol,
    /// The peer sent text that is not UTF-8 (1007).
    InvalidData,
    /// The peer's message is over a limit (1009).
    TooBig,
    /// The peer sends faster than allowed (1008).
    Rate,
    /// The core's memory for messages in progress is used up (1013).
    InboundFull,
    /// The peer began a message and sends it too slowly (1008).
    SlowUpload,
    /// The peer reads too slowly for what is sent to it (1008).
    Slow,
    /// The core's memory for outboxes is used up (1013).
    OutboxFull,
    /// The peer acknowledged nothing of what waited for it for the write timeout.
    WriteTimeout,
    /// The peer acknowledged less of what waited for it than
    /// [`Config::min_read_rate`](crate::Config::min_read_rate).
    Trickle,
    /// No message for the idle timeout (1001).
    Idle,
    /// Heartbeats went unanswered.
    Heartbeat,
    /// The application panicked in a callback for this connection (1011).
    Panic,
    /// The application closed it.
    Application,
    /// The server goes away.
    Drain,
}

impl Cause {
    /// Of a failed receive or send.
    pub(in crate::engine) fn of_error(error: Errno) -> Self {
        match error.0 {
            libc::ETIMEDOUT => Self::Unacknowledged,
            _ => Self::Broken,
        }
    }
}

/// How a connection ends, for [`Handler::farewell`](crate::Handler::farewell).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ending<'a> {
    /// Who or what ends it.
    pub cause: Cause,
    /// The close code sent to the peer. A stream's client does not see it.
    pub code: CloseCode,
    /// The reason beside it; of a WebSocket the first 123 bytes of it are sent.
    pub reason: &'a str,
}

impl<'a> Ending<'a> {
    /// One as the engine tells it, for tests of what an application says.
    pub fn new(cause: Cause, code: CloseCode, reason: &'a str) -> Self {
        Self { cause, code, reason }
    }
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Closed {
    /// Who or what ended it.
    pub cause: Cause,
    /// The close code the peer sent, or the one sent to it; [`CloseCode::ABNORMAL`] if none was.
    pub code: CloseCode,
    /// The peer's reason, if it gave one.
    pub reason: String,
}

impl Closed {
    /// An end as the engine tells it, for tests of what an application makes of it.
    pub fn new(cause: Cause, code: CloseCode, reason: &str) -> Self {
        Self { cause, code, reason: reason.to_owned() }
    }
}
