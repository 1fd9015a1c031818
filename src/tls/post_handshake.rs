//! Handshake messages of TLS 1.3 that come after the handshake, in whatever pieces they come:
//! KeyUpdate, and to a client session tickets, which it does not use.
//!
//! Keeps none of their bytes: a KeyUpdate has one that says something, and a ticket is passed over.
//!
//! Invariant: a key changes with the last byte of a record (RFC 8446 section 5.1), and at most one
//! message is begun.

use super::fault::Fault;

/// How much is there of a message: three bytes of each connection.
#[derive(Clone, Copy, Default)]
pub(super) struct PostHandshake {
    /// Bytes of its header, and [`TICKET`].
    begun: u8,
    /// The length in its header, less what was passed over.
    left: [u8; 2],
}

const TICKET: u8 = 1 << 7;

pub(super) const NEW_SESSION_TICKET: u8 = 4;
pub(super) const KEY_UPDATE: u8 = 24;

impl PostHandshake {
    /// Whether a message is begun: nothing but more of it may come.
    pub(super) fn is_begun(self) -> bool {
        self.begun > 0
    }

    /// Takes the content of one record. With the end of a KeyUpdate, whether it asks for ours.
    pub(super) fn take(&mut self, client: bool, content: &[u8]) -> Result<Option<bool>, Fault> {
        let mut rest = content;
        while let Some((&byte, behind)) = rest.split_first() {
            let is_ticket = self.begun & TICKET != 0;
            match self.begun & !TICKET {
                0 => {
                    self.begun = match byte {
                        KEY_UPDATE => 0,
                        NEW_SESSION_TICKET if client => TICKET,
                        kind => return Err(Fault::HandshakeMessage(kind)),
                    };
                }
                1 if byte == 0 => {}
                1 if is_ticket => return Err(Fault::HandshakeMessage(NEW_SESSION_TICKET)),
                place @ (2 | 3) => self.left[usize::from(place) - 2] = byte,
                4 if is_ticket => {
                    rest = self.pass_over(rest);
                    continue;
                }
                4 => {
                    *self = Self::default();
                    return match (byte, behind) {
                        (0 | 1, []) => Ok(Some(byte == 1)),
                        (0 | 1, _) => Err(Fault::KeyUpdatePlace),
                        (request, _) => Err(Fault::KeyUpdateRequest(request)),
                    };
                }
                _ => return Err(Fault::KeyUpdateForm),
            }
            self.begun += 1;
            if self.begun == 4 && self.left != [0, 1] {
                return Err(Fault::KeyUpdateForm);
            }
            rest = behind;
            if self.begun == TICKET | 4 {
                rest = self.pass_over(rest);
            }
        }
        Ok(None)
    }

    /// Passes over what there is of a ticket.
    fn pass_over<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let left = u16::from_be_bytes(self.left);
        let passed = bytes.len().min(usize::from(left));
        // At most what was left.
        let left = left - passed as u16;
        self.left = left.to_be_bytes();
        if left == 0 {
            *self = Self::default();
        }
        &bytes[passed..]
    }
}
