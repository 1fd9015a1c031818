//! The numbers by which clients decide what to do next: errors in replies, ends of subscriptions,
//! ends of connections.
//!
//! Owns the codes and texts of the protocol. The invariant: a reason fits into a close frame.

use std::borrow::Cow;
use std::fmt;

use super::messages::{DisconnectPush, ErrorReply, UnsubscribePush};

/// The longest reason of a disconnect: what a close frame has room for (RFC 6455 section 5.5).
pub const REASON_MAX: usize = 123;

/// Why a command failed. Applications have codes from 400 to 1999.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The code.
    pub code: u32,
    /// In words.
    pub message: Cow<'static, str>,
    /// The client tries again by itself.
    pub temporary: bool,
}

impl Error {
    /// 100: something is wrong with the server.
    pub const INTERNAL: Self = Self::known(100, "internal server error", true);
    /// 101: whoever it is may not.
    pub const UNAUTHORIZED: Self = Self::known(101, "unauthorized", false);
    /// 102: the channel's namespace does not exist.
    pub const UNKNOWN_CHANNEL: Self = Self::known(102, "unknown channel", false);
    /// 103: the client may not.
    pub const PERMISSION_DENIED: Self = Self::known(103, "permission denied", false);
    /// 104: there is no such method.
    pub const METHOD_NOT_FOUND: Self = Self::known(104, "method not found", false);
    /// 105: the connection already has this subscription.
    pub const ALREADY_SUBSCRIBED: Self = Self::known(105, "already subscribed", false);
    /// 106: some limit is reached.
    pub const LIMIT_EXCEEDED: Self = Self::known(106, "limit exceeded", false);
    /// 107: the request makes no sense.
    pub const BAD_REQUEST: Self = Self::known(107, "bad request", false);
    /// 108: the feature is not switched on.
    pub const NOT_AVAILABLE: Self = Self::known(108, "not available", false);
    /// 109: the token expired; clients get a new one and try again.
    pub const TOKEN_EXPIRED: Self = Self::known(109, "token expired", false);
    /// 110: the connection or subscription expired, without a token.
    pub const EXPIRED: Self = Self::known(110, "expired", false);
    /// 111: too often.
    pub const TOO_MANY_REQUESTS: Self = Self::known(111, "too many requests", true);
    /// 112: the stream does not have what was asked for (any more).
    pub const UNRECOVERABLE_POSITION: Self = Self::known(112, "unrecoverable position", false);
    /// 113: another page of the same channel is being read.
    pub const CONCURRENT_PAGINATION: Self = Self::known(113, "concurrent pagination", true);

    const fn known(code: u32, message: &'static str, temporary: bool) -> Self {
        Self { code, message: Cow::Borrowed(message), temporary }
    }

    /// An error of the application's.
    pub fn new(code: u32, message: impl Into<Cow<'static, str>>, temporary: bool) -> Self {
        Self { code, message: message.into(), temporary }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Error {}

impl From<Error> for ErrorReply {
    fn from(error: Error) -> Self {
        let Error { code, message, temporary } = error;
        Self { code, message: message.into_owned(), temporary }
    }
}

/// Why the server ended a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe {
    /// The code.
    pub code: u32,
    /// In words.
    pub reason: Cow<'static, str>,
}

impl Unsubscribe {
    /// 2000: it was told to.
    pub const SERVER: Self = Self::known(2000, "server unsubscribe");
    /// 2500: publications were lost between the stream and the subscriber.
    pub const INSUFFICIENT_STATE: Self = Self::known(2500, "insufficient state");
    /// 2501: nobody refreshed it.
    pub const EXPIRED: Self = Self::known(2501, "subscription expired");
    /// 2502: the client shall forget its token and its position.
    pub const STATE_INVALIDATED: Self = Self::known(2502, "state invalidated");

    const fn known(code: u32, reason: &'static str) -> Self {
        Self { code, reason: Cow::Borrowed(reason) }
    }

    /// A code of the application's.
    pub fn new(code: u32, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { code, reason: reason.into() }
    }

    /// Whether clients subscribe again by themselves.
    pub fn resubscribes(&self) -> bool {
        self.code >= 2500
    }
}

impl From<Unsubscribe> for UnsubscribePush {
    fn from(unsubscribe: Unsubscribe) -> Self {
        Self { code: unsubscribe.code, reason: unsubscribe.reason.into_owned() }
    }
}

/// Why the server ends a connection: code and reason of the close frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect {
    /// The code.
    pub code: u16,
    /// In words, at most [`REASON_MAX`] bytes.
    pub reason: Cow<'static, str>,
}

impl Disconnect {
    /// 3000: the connection ended without a word. Never sent.
    pub const CONNECTION_CLOSED: Self = Self::known(3000, "connection closed");
    /// 3001: the server goes away.
    pub const SHUTDOWN: Self = Self::known(3001, "shutdown");
    /// 3004: something is wrong with the server.
    pub const SERVER_ERROR: Self = Self::known(3004, "internal server error");
    /// 3005: nobody refreshed the connection.
    pub const EXPIRED: Self = Self::known(3005, "connection expired");
    /// 3006: nobody refreshed a server-side subscription.
    pub const SUBSCRIPTION_EXPIRED: Self = Self::known(3006, "subscription expired");
    /// 3008: the client does not take what is sent to it.
    pub const SLOW: Self = Self::known(3008, "slow");
    /// 3009: the client took nothing for too long.
    pub const WRITE_ERROR: Self = Self::known(3009, "write error");
    /// 3010: publications of a server-side subscription were lost.
    pub const INSUFFICIENT_STATE: Self = Self::known(3010, "insufficient state");
    /// 3011: the client shall connect anew.
    pub const FORCE_RECONNECT: Self = Self::known(3011, "force reconnect");
    /// 3012: a ping was not answered in time.
    pub const NO_PONG: Self = Self::known(3012, "no pong");
    /// 3013: too often.
    pub const TOO_MANY_REQUESTS: Self = Self::known(3013, "too many requests");
    /// 3014: the client shall forget its token and its positions.
    pub const STATE_INVALIDATED: Self = Self::known(3014, "state invalidated");
    /// 3500: the token is not ours, or not for this.
    pub const INVALID_TOKEN: Self = Self::known(3500, "invalid token");
    /// 3501: the client breaks the protocol.
    pub const BAD_REQUEST: Self = Self::known(3501, "bad request");
    /// 3502: the client did not open a session in time.
    pub const STALE: Self = Self::known(3502, "stale");
    /// 3503: the server was told to.
    pub const FORCE_NO_RECONNECT: Self = Self::known(3503, "force disconnect");
    /// 3504: too many connections.
    pub const CONNECTION_LIMIT: Self = Self::known(3504, "connection limit");
    /// 3505: too many channels.
    pub const CHANNEL_LIMIT: Self = Self::known(3505, "channel limit");
    /// 3506: a JSON client cannot be sent what is not JSON.
    pub const INAPPROPRIATE_PROTOCOL: Self = Self::known(3506, "inappropriate protocol");
    /// 3507: the client may not connect.
    pub const PERMISSION_DENIED: Self = Self::known(3507, "permission denied");
    /// 3508: the feature is not switched on.
    pub const NOT_AVAILABLE: Self = Self::known(3508, "not available");
    /// 3509: too many errors.
    pub const TOO_MANY_ERRORS: Self = Self::known(3509, "too many errors");

    const fn known(code: u16, reason: &'static str) -> Self {
        Self { code, reason: Cow::Borrowed(reason) }
    }

    /// A disconnect of the application's. A reason longer than [`REASON_MAX`] bytes is cut between
    /// two characters.
    pub fn new(code: u16, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { code, reason: cut(reason.into()) }
    }

    /// What a one-way client is closed with instead of an error reply to its connect request.
    pub fn instead_of(error: &Error) -> Self {
        match error.code {
            103 => Self::PERMISSION_DENIED,
            109 | 110 => Self::EXPIRED,
            111 => Self::TOO_MANY_REQUESTS,
            _ => Self::SERVER_ERROR,
        }
    }

    /// Whether clients connect again by themselves.
    pub fn reconnects(&self) -> bool {
        !matches!(self.code, 3500..=3999 | 4500..=4999)
    }
}

impl From<Disconnect> for DisconnectPush {
    fn from(disconnect: Disconnect) -> Self {
        let reconnect = disconnect.reconnects();
        Self { code: disconnect.code.into(), reason: disconnect.reason.into_owned(), reconnect }
    }
}

fn cut(mut reason: Cow<'static, str>) -> Cow<'static, str> {
    if reason.len() > REASON_MAX {
        let end = (0..=REASON_MAX).rev().find(|&end| reason.is_char_boundary(end)).unwrap_or(0);
        reason = Cow::Owned(reason[..end].to_owned());
    }
    reason
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_fit_into_close_frames() {
        assert_eq!(Disconnect::new(4000, "short").reason, "short");
        assert_eq!(Disconnect::new(4000, "x".repeat(123)).reason.len(), 123);
        assert_eq!(Disconnect::new(4000, "x".repeat(124)).reason.len(), 123);
        // 123 is no multiple of 2, so the character at the end goes as a whole.
        assert_eq!(Disconnect::new(4000, "ñ".repeat(90)).reason, "ñ".repeat(61));
    }

    #[test]
    fn codes_say_who_comes_back() {
        let reconnects = |code| Disconnect::new(code, "").reconnects();
        for code in [1000, 1006, 2999, 3000, 3499, 4000, 4499, 5000, u16::MAX] {
            assert!(reconnects(code), "{code}");
        }
        for code in [3500, 3999, 4500, 4999] {
            assert!(!reconnects(code), "{code}");
        }
        assert!(!Unsubscribe::SERVER.resubscribes() && Unsubscribe::EXPIRED.resubscribes());
    }
}
