//! What holds of TLS between two steps of a core, as a simulation checks it.

use super::Secure;
use crate::engine::slots::{Flags, Hot};

impl Secure {
    /// Checks what is kept of one connection, which speaks TLS or not.
    pub(in crate::engine) fn audit(&self, slot: u32, hot: &Hot) -> Result<(), &'static str> {
        let unfinished = self.unfinished.get(&slot);
        let greeting = unfinished.is_some_and(|it| it.greeting.is_some());
        let record = self.has_record(slot);
        match unfinished {
            _ if !hot.has(Flags::TLS) && self.keeps(slot) => Err("TLS of one without it"),
            _ if greeting && record => Err("a handshake beside the record layer"),
            // A dial has no age: it makes room for nobody.
            Some(it) if greeting && !hot.has(Flags::CLIENT) => {
                match self.ages.contains(&(slot, it.number)) {
                    true => Ok(()),
                    false => Err("a handshake without an age"),
                }
            }
            Some(it) if !greeting && it.bytes.is_empty() && it.ticket.is_none() => {
                Err("nothing is unfinished")
            }
            _ => Ok(()),
        }
    }

    /// Whether anything is kept of a connection.
    pub(in crate::engine) fn keeps(&self, slot: u32) -> bool {
        self.has_record(slot) || self.unfinished.contains_key(&slot)
    }

    /// Checks the number of handshakes.
    pub(in crate::engine) fn audit_count(&self) -> Result<(), &'static str> {
        let under_way = || self.unfinished.values().filter(|it| it.greeting.is_some());
        // A dial makes room for nobody, and nobody for it.
        let accepted = under_way().filter(|it| it.number > 0).count();
        match under_way().count() == self.greetings {
            true if accepted <= self.greetings_max.max(1) => Ok(()),
            true => Err("more handshakes than there may be"),
            false => Err("handshakes are counted wrongly"),
        }
    }
}
