//! The sessions of one core, and the memory that they take.
//!
//! Owns the records, by the number of their connections. The invariant: a session is found by
//! exactly the address that it was put in with, and the account is the sum of what
//! [`SessionTable::weigh`] has seen last of each.

use super::Session;
use crate::common::table::SlotTable;
use crate::gateway::hub_port::Link;

/// The sessions of one core.
#[derive(Default)]
pub(super) struct SessionTable {
    table: SlotTable<Session>,
    /// What sessions take besides their records.
    bytes: usize,
}

impl SessionTable {
    /// A connection opened, at this Unix time in seconds.
    pub(super) fn insert(&mut self, link: Link, mut session: Session, unix: i64) {
        session.generation = generation(link);
        session.since = u32::try_from(unix).unwrap_or(u32::MAX);
        self.table.insert(index(link), session);
    }

    /// The session of exactly this connection.
    pub(super) fn get_mut(&mut self, link: Link) -> Option<&mut Session> {
        self.table.get_mut(index(link)).filter(|session| session.generation == generation(link))
    }

    /// What sessions take besides their records.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Something of a session grew or shrank: the account follows.
    pub(super) fn weigh(&mut self, link: Link) {
        let Some(more) = self.get_mut(link).and_then(|session| session.more.as_mut()) else {
            return;
        };
        let (before, after) = (more.charged, more.bytes());
        more.charged = after;
        self.bytes = self.bytes + after - before;
        if let Some(session) = self.get_mut(link) {
            session.tidy();
        }
    }

    /// A connection is gone.
    pub(super) fn remove(&mut self, link: Link) -> Option<Session> {
        let charged = self.get_mut(link)?.charged();
        self.bytes -= charged;
        self.table.remove(index(link))
    }
}

fn generation(link: Link) -> u32 {
    (link.0 >> 32) as u32
}

/// Which of the connections that are there now: an address is this and a generation, as that of
/// the engine's connection is.
fn index(link: Link) -> u32 {
    link.0 as u32
}
