//! Close codes and the payload of close frames (RFC 6455 sections 5.5.1 and 7.4).
//!
//! Owns which codes may travel and how a reason is cut to fit. Never decides when to close. The
//! invariant: what [`write_payload`] produces, [`CloseFrame::parse`] accepts.

use super::Fault;

/// The longest reason: a control frame's 125 bytes less the code (section 5.5).
pub const REASON_MAX: usize = 123;

/// A status code of a close frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// 1000: the purpose of the connection is fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// 1001: the endpoint goes away.
    pub const GOING_AWAY: Self = Self(1001);
    /// 1002: the peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// 1003: a kind of data that cannot be accepted.
    pub const UNSUPPORTED: Self = Self(1003);
    /// 1005: no code was in the close frame. Never on the wire.
    pub const NO_STATUS: Self = Self(1005);
    /// 1006: the connection ended without a close frame. Never on the wire.
    pub const ABNORMAL: Self = Self(1006);
    /// 1007: text that is not UTF-8.
    pub const INVALID_DATA: Self = Self(1007);
    /// 1008: a policy was violated.
    pub const POLICY: Self = Self(1008);
    /// 1009: a message too big to process.
    pub const TOO_BIG: Self = Self(1009);
    /// 1011: an unexpected condition on this side.
    pub const INTERNAL: Self = Self(1011);
    /// 1012: the service restarts.
    pub const RESTART: Self = Self(1012);
    /// 1013: overload, try again later.
    pub const TRY_AGAIN: Self = Self(1013);

    /// Whether a peer may put this code into a close frame (RFC 6455 section 7.4 and the IANA
    /// registry: 1000-1003, 1007-1014, 3000-4999).
    pub fn is_sendable(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}

impl std::fmt::Display for CloseCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What a close frame says. `code` is [`CloseCode::NO_STATUS`] when its payload was empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseFrame {
    /// Why.
    pub code: CloseCode,
    /// In words, at most [`REASON_MAX`] bytes of UTF-8.
    pub reason: String,
}

impl CloseFrame {
    /// Parses the unmasked payload of a close frame.
    ///
    /// Fails with [`Fault::CloseLength`], [`Fault::CloseCode`] or [`Fault::CloseReason`], in the
    /// order of the bytes that are at fault.
    pub fn parse(payload: &[u8]) -> Result<Self, Fault> {
        let (code, reason) = match payload {
            [] => (CloseCode::NO_STATUS, &[][..]),
            [_] => return Err(Fault::CloseLength),
            [high, low, reason @ ..] => (CloseCode(u16::from_be_bytes([*high, *low])), reason),
        };
        if !payload.is_empty() && !code.is_sendable() {
            return Err(Fault::CloseCode);
        }
        let reason = std::str::from_utf8(reason).map_err(|_| Fault::CloseReason)?;
        Ok(Self { code, reason: reason.to_owned() })
    }
}

/// Writes the payload of a close frame: code, then `reason` cut at [`REASON_MAX`] bytes on a
/// character boundary. Returns the number of bytes used.
///
/// Nothing is written for a code that may not travel ([`CloseCode::is_sendable`]), such as
/// [`CloseCode::NO_STATUS`]: the frame then has an empty payload, which any peer accepts.
pub fn write_payload(out: &mut [u8; 125], code: CloseCode, reason: &str) -> usize {
    if !code.is_sendable() {
        return 0;
    }
    let mut cut = reason.len().min(REASON_MAX);
    while !reason.is_char_boundary(cut) {
        cut -= 1;
    }
    let reason = &reason.as_bytes()[..cut];
    let len = 2 + reason.len();
    out[..2].copy_from_slice(&code.0.to_be_bytes());
    out[2..len].copy_from_slice(reason);
    len
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "too slow there")]
    fn codes_on_the_wire() {
        let sendable = |code| CloseCode(code).is_sendable();
        let allowed = (0..=u16::MAX).filter(|&code| sendable(code)).count();
        assert_eq!(allowed, 4 + 8 + 2000);
        for code in [1000, 1003, 1007, 1014, 3000, 4999] {
            assert!(sendable(code), "{code}");
        }
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, u16::MAX] {
            assert!(!sendable(code), "{code}");
        }
    }

    #[test]
    fn parse_names_the_first_fault() {
        let empty = CloseFrame::parse(b"").unwrap();
        assert_eq!((empty.code, empty.reason.as_str()), (CloseCode::NO_STATUS, ""));
        let full = CloseFrame::parse(b"\x03\xe8bye").unwrap();
        assert_eq!((full.code, full.reason.as_str()), (CloseCode::NORMAL, "bye"));
        assert_eq!(CloseFrame::parse(b"\x03"), Err(Fault::CloseLength));
        assert_eq!(CloseFrame::parse(b"\x03\xed"), Err(Fault::CloseCode));
        assert_eq!(CloseFrame::parse(b"\x03\xed\xff"), Err(Fault::CloseCode));
        assert_eq!(CloseFrame::parse(b"\x03\xe8\xff"), Err(Fault::CloseReason));
        assert_eq!(CloseFrame::parse("\u{3e8}é".as_bytes().split_at(1).0), Err(Fault::CloseLength));
    }

    #[test]
    fn reasons_are_cut_between_characters() {
        let mut out = [0; 125];
        assert_eq!(write_payload(&mut out, CloseCode::NORMAL, "ok"), 4);
        assert_eq!(&out[..4], b"\x03\xe8ok");
        // 62 characters of two bytes are 124: the last one does not fit.
        let long = "é".repeat(62);
        let used = write_payload(&mut out, CloseCode::TOO_BIG, &long);
        assert_eq!(used, 2 + 122);
        assert_eq!(CloseFrame::parse(&out[..used]).unwrap().reason, "é".repeat(61));
        let used = write_payload(&mut out, CloseCode::TOO_BIG, &"x".repeat(500));
        assert_eq!(used, 125);
        assert!(CloseFrame::parse(&out[..used]).is_ok());
    }

    #[test]
    fn codes_that_may_not_travel_are_not_written() {
        let mut out = [0; 125];
        for code in [CloseCode::NO_STATUS, CloseCode::ABNORMAL, CloseCode(1015), CloseCode(7)] {
            assert_eq!(write_payload(&mut out, code, "why"), 0);
        }
        assert_eq!(out, [0; 125]);
    }
}
