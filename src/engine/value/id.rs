//! Which connection: its core, its slot, and which tenant of the slot.

/// Names a connection for as long as the process lives, also after it is gone: a stale identifier
/// is refused and never reaches another connection. Copy it, keep it, send it to other threads.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    pub(in crate::engine) core: u16,
    pub(in crate::engine) slot: u32,
    pub(in crate::engine) generation: u32,
}

impl ConnId {
    /// The core the connection lives on.
    pub fn core(self) -> usize {
        usize::from(self.core)
    }

    /// A small number that no other live connection of its core has: an index for tables of the
    /// application's own. Handed out again once the connection is gone.
    pub fn index(self) -> u32 {
        self.slot
    }

    /// All of it but the core, for where that is known: see [`Self::from_bits`].
    pub fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }

    /// What [`Self::to_bits`] was called on. Any other bits name no connection.
    pub fn from_bits(core: u16, bits: u64) -> Self {
        Self { core, slot: bits as u32, generation: (bits >> 32) as u32 }
    }
}

impl std::fmt::Debug for ConnId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}#{}", self.core, self.slot, self.generation)
    }
}
