//! What can go wrong in TLS: each fault with its text, its name for a counter, and the alert that
//! tells the peer.
//!
//! Invariant: every fault is final for its connection; nothing is opened or sealed after it but the
//! alert.

use std::error::Error;
use std::fmt;

/// Why a TLS connection ends early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The first byte is not that of a handshake record: plain HTTP, a scanner, another protocol.
    NotTls,
    /// A record of a type that has no place here.
    RecordType(u8),
    /// A record whose header names another version.
    RecordVersion(u16),
    /// A record longer than TLS allows, on the wire or in the clear.
    RecordLength,
    /// A record that its key does not open: damaged, replayed, out of order or forged.
    BadRecord,
    /// A record of padding only; or one of alerts or of handshake messages that holds none.
    NoContent,
    /// An alert that is none.
    AlertForm,
    /// More warnings than a connection may send.
    Warnings,
    /// A handshake message that has no place after the handshake.
    HandshakeMessage(u8),
    /// A KeyUpdate of a wrong length.
    KeyUpdateForm,
    /// A KeyUpdate that asks for something unknown.
    KeyUpdateRequest(u8),
    /// A KeyUpdate that does not end its record: what follows would be under the next key.
    KeyUpdatePlace,
    /// More KeyUpdates in a row than make sense.
    KeyUpdates,
    /// More empty records in a row than make sense.
    EmptyRecords,
    /// A second attempt to negotiate anew.
    Renegotiation,
    /// The peer's own fatal alert.
    Alert(u8),
    /// All records that a TLS 1.2 key may protect are sent: that version cannot change it.
    KeyWornOut,
    /// The connection is closed for what was attempted, by an alert of either side.
    Closed,
    /// A handshake of more bytes than it may have.
    GreetingLength,
    /// An authority has seen the certificate by which it checks a name: all it came for (RFC 8737).
    Validated,
    /// A handshake that failed, and rustls' reason.
    Greeting(Reason, String),
}

/// Why a handshake failed, in kinds that a counter can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The peer sent a fatal alert.
    Alert,
    /// The peer's certificate is missing or not trusted.
    Certificate,
    /// No version, suite, group or application protocol in common.
    Incompatible,
    /// A message that cannot be read, or in a wrong place.
    Malformed,
    /// A record or a binder that its key does not open.
    Decrypt,
    /// Nothing of the peer's doing.
    Internal,
}

impl Fault {
    /// The alert for the peer; none where the peer is gone or the alert is sent already.
    pub fn alert(&self) -> Option<u8> {
        Some(match self {
            Self::RecordType(_)
            | Self::RecordVersion(_)
            | Self::NoContent
            | Self::Warnings
            | Self::HandshakeMessage(_)
            | Self::KeyUpdatePlace
            | Self::KeyUpdates
            | Self::EmptyRecords
            | Self::GreetingLength
            | Self::Renegotiation => UNEXPECTED_MESSAGE,
            Self::BadRecord => BAD_RECORD_MAC,
            Self::RecordLength => RECORD_OVERFLOW,
            Self::AlertForm | Self::KeyUpdateForm => DECODE_ERROR,
            // RFC 8446 section 4.6.3.
            Self::KeyUpdateRequest(_) => ILLEGAL_PARAMETER,
            Self::NotTls | Self::Alert(_) | Self::Closed | Self::KeyWornOut | Self::Validated => {
                return None;
            }
            // rustls writes the alerts of its handshakes.
            Self::Greeting(..) => return None,
        })
    }

    /// The name a counter gives it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::NotTls => "not_tls",
            Self::RecordType(_) => "record_type",
            Self::RecordVersion(_) => "record_version",
            Self::RecordLength => "record_length",
            Self::BadRecord => "bad_record",
            Self::NoContent => "no_content",
            Self::AlertForm => "alert_form",
            Self::Warnings => "warnings",
            Self::HandshakeMessage(_) => "handshake_message",
            Self::KeyUpdateForm => "key_update_form",
            Self::KeyUpdateRequest(_) => "key_update_request",
            Self::KeyUpdatePlace => "key_update_place",
            Self::KeyUpdates => "key_updates",
            Self::EmptyRecords => "empty_records",
            Self::Renegotiation => "renegotiation",
            Self::Alert(_) => "alert",
            Self::KeyWornOut => "key_worn_out",
            Self::Closed => "closed",
            Self::GreetingLength => "greeting_length",
            Self::Validated => "validated",
            Self::Greeting(reason, _) => reason.name(),
        }
    }
}

impl Reason {
    /// The name a counter gives it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Alert => "greeting_alert",
            Self::Certificate => "greeting_certificate",
            Self::Incompatible => "greeting_incompatible",
            Self::Malformed => "greeting_malformed",
            Self::Decrypt => "greeting_decrypt",
            Self::Internal => "greeting_internal",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotTls => f.write_str("the peer does not speak TLS"),
            Self::RecordType(kind) => write!(f, "a record of type {kind} has no place here"),
            Self::RecordVersion(version) => write!(f, "a record names version {version:#06x}"),
            Self::RecordLength => f.write_str("a record is longer than TLS allows"),
            Self::BadRecord => f.write_str("a record is damaged, replayed, out of order or forged"),
            Self::NoContent => f.write_str("a record that may not be empty is empty"),
            Self::AlertForm => f.write_str("an alert is malformed"),
            Self::Warnings => f.write_str("the peer sends too many warnings"),
            Self::HandshakeMessage(kind) => {
                write!(f, "handshake message {kind} has no place after the handshake")
            }
            Self::KeyUpdateForm => f.write_str("a KeyUpdate is malformed"),
            Self::KeyUpdateRequest(request) => {
                write!(f, "a KeyUpdate asks for {request}, which has no meaning")
            }
            Self::KeyUpdatePlace => f.write_str("a KeyUpdate does not end its record"),
            Self::KeyUpdates => f.write_str("the peer sends KeyUpdates without data between them"),
            Self::EmptyRecords => f.write_str("the peer sends empty records without data between"),
            Self::Renegotiation => f.write_str("the peer insists on renegotiation"),
            Self::Alert(code) => write!(f, "the peer sent the fatal alert {code}"),
            Self::KeyWornOut => f.write_str("a TLS 1.2 key has protected all it may"),
            Self::Closed => f.write_str("TLS is closed"),
            Self::GreetingLength => f.write_str("the handshake has too many bytes"),
            Self::Validated => f.write_str("a certificate authority has checked a name"),
            Self::Greeting(_, text) => write!(f, "the handshake failed: {text}"),
        }
    }
}

impl Error for Fault {}

/// RFC 8446 section 6: the end of what the sender sends.
pub(super) const CLOSE_NOTIFY: u8 = 0;
/// The sender gave up for a reason that is not TLS'; close_notify follows.
pub(super) const USER_CANCELED: u8 = 90;
/// TLS 1.2: no handshake but the first.
pub(super) const NO_RENEGOTIATION: u8 = 100;
pub(super) const UNEXPECTED_MESSAGE: u8 = 10;
const BAD_RECORD_MAC: u8 = 20;
pub(super) const RECORD_OVERFLOW: u8 = 22;
const ILLEGAL_PARAMETER: u8 = 47;
pub(super) const DECODE_ERROR: u8 = 50;
pub(super) const INTERNAL_ERROR: u8 = 80;
