//! What a peer can do wrong after the handshake, each with the close code it earns.
//!
//! Owns the names of the faults and their answers. Never holds bytes of the peer, so a fault is
//! cheap to copy, count and log. The invariant: each fault is the peer's doing, never ours.

use super::CloseCode;

/// A violation of RFC 6455, RFC 7692 or of a limit by the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// A reserved bit is set that no extension gave a meaning there (section 5.2).
    ReservedBits,
    /// Opcodes 3-7 and 11-15 (section 5.2).
    ReservedOpcode,
    /// A control frame without FIN (section 5.5).
    FragmentedControl,
    /// A control frame with more than 125 bytes (section 5.5).
    ControlTooLong,
    /// A length that would fit a shorter form (section 5.2).
    LengthNotMinimal,
    /// The top bit of a 64-bit length is set (section 5.2).
    LengthTopBit,
    /// A client frame without a mask (section 5.1).
    Unmasked,
    /// A server frame with a mask (section 5.1).
    Masked,
    /// A continuation with no message to continue (section 5.4).
    LoneContinuation,
    /// A new data message before the last one ended (section 5.4).
    InterleavedMessage,
    /// Text that is not UTF-8 (section 8.1).
    InvalidUtf8,
    /// A compressed message that is no deflate stream (RFC 7692 section 7.2.2).
    BadDeflate,
    /// A close payload of one byte (section 5.5.1).
    CloseLength,
    /// A close code that may not be on the wire (section 7.4).
    CloseCode,
    /// A close reason that is not UTF-8 (section 5.5.1).
    CloseReason,
    /// A message over the configured limit of bytes.
    MessageTooBig,
    /// A message over the configured limit of fragments.
    TooManyFragments,
    /// A compressed message in more blocks than one of the limit may have.
    TooManyBlocks,
}

impl Fault {
    /// Every fault, for counters and tables.
    pub const ALL: [Self; 18] = [
        Self::ReservedBits,
        Self::ReservedOpcode,
        Self::FragmentedControl,
        Self::ControlTooLong,
        Self::LengthNotMinimal,
        Self::LengthTopBit,
        Self::Unmasked,
        Self::Masked,
        Self::LoneContinuation,
        Self::InterleavedMessage,
        Self::InvalidUtf8,
        Self::BadDeflate,
        Self::CloseLength,
        Self::CloseCode,
        Self::CloseReason,
        Self::MessageTooBig,
        Self::TooManyFragments,
        Self::TooManyBlocks,
    ];

    /// The close code that answers this fault: 1002, 1007 or 1009 (section 7.4.1).
    pub fn close_code(self) -> CloseCode {
        match self {
            Self::InvalidUtf8 | Self::BadDeflate | Self::CloseReason => CloseCode::INVALID_DATA,
            Self::MessageTooBig | Self::TooManyFragments | Self::TooManyBlocks => {
                CloseCode::TOO_BIG
            }
            _ => CloseCode::PROTOCOL_ERROR,
        }
    }

    /// A short reason for the close frame and the logs.
    pub fn reason(self) -> &'static str {
        match self {
            Self::ReservedBits => "reserved bit set",
            Self::ReservedOpcode => "reserved opcode",
            Self::FragmentedControl => "fragmented control frame",
            Self::ControlTooLong => "control frame over 125 bytes",
            Self::LengthNotMinimal => "length not in its shortest form",
            Self::LengthTopBit => "top bit of length set",
            Self::Unmasked => "frame without a mask",
            Self::Masked => "frame with a mask",
            Self::LoneContinuation => "continuation of no message",
            Self::InterleavedMessage => "message inside a message",
            Self::InvalidUtf8 => "text is not UTF-8",
            Self::BadDeflate => "compressed message is no deflate stream",
            Self::CloseLength => "close payload of one byte",
            Self::CloseCode => "close code not allowed",
            Self::CloseReason => "close reason is not UTF-8",
            Self::MessageTooBig => "message too big",
            Self::TooManyFragments => "too many fragments",
            Self::TooManyBlocks => "too many blocks in a compressed message",
        }
    }

    /// Whether the frame boundaries after this fault can still be trusted. They can after 1007 and
    /// 1009 and bad close payloads, because the header that was read obeyed the rules.
    ///
    /// It says how sane the peer is, not that decoding may go on: after any fault the connection
    /// is failed and its further bytes are not interpreted (section 7.1.7).
    pub fn keeps_framing(self) -> bool {
        matches!(
            self,
            Self::InvalidUtf8
                | Self::BadDeflate
                | Self::CloseLength
                | Self::CloseCode
                | Self::CloseReason
                | Self::MessageTooBig
                | Self::TooManyFragments
                | Self::TooManyBlocks
        )
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.reason())
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::close::{CloseFrame, write_payload};

    #[test]
    fn every_fault_makes_a_close_frame() {
        for (index, fault) in Fault::ALL.into_iter().enumerate() {
            assert_eq!(fault as usize, index, "ALL is in order and complete");
            let mut out = [0; 125];
            let used = write_payload(&mut out, fault.close_code(), fault.reason());
            let frame = CloseFrame::parse(&out[..used]).unwrap();
            assert_eq!(frame.reason, fault.reason());
            assert_eq!(fault.to_string(), fault.reason());
            assert!(matches!(frame.code.0, 1002 | 1007 | 1009));
        }
    }

    #[test]
    fn boundaries_survive_faults_of_content_and_size() {
        for fault in Fault::ALL {
            if fault.close_code() != CloseCode::PROTOCOL_ERROR {
                assert!(fault.keeps_framing(), "{fault:?}");
            }
        }
        assert!(Fault::CloseLength.keeps_framing() && Fault::CloseCode.keeps_framing());
        assert!(!Fault::ReservedBits.keeps_framing() && !Fault::Unmasked.keeps_framing());
    }
}
