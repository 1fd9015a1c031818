//! What goes with a connection that is handed from one owner to another: its record layer, and the
//! bytes on either side of it.
//!
//! Invariant: the record layer has opened and sealed all bytes before these, and none of them.

use super::layer::Record;
use super::record::Limits;

/// See the module's text.
pub struct Parts {
    /// The record layer.
    pub record: Record,
    /// Bytes of a record that is not whole.
    pub received: Vec<u8>,
    /// Records that are sealed and not sent; nothing may come before them.
    pub unsent: Vec<u8>,
}

impl Parts {
    /// All that is left to send where `text` is the last that is said.
    pub fn last_words(mut self, text: &[u8]) -> Vec<u8> {
        let mut out = std::mem::take(&mut self.unsent);
        // Fails where a key is worn out: the peer hears the end only.
        let _ = self.record.seal(&Limits::default(), &[text], &mut out);
        self.record.close(&mut out);
        out
    }
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("received", &self.received.len()).finish_non_exhaustive()
    }
}
