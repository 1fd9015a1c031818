//! What `user_data` of an asynchronous operation carries: operation, slot, generation.
//!
//! The invariant: a generation is never given to two connections of a core, so a completion that
//! comes after its connection is gone cannot be mistaken for one of the slot's next tenant.

/// Kinds of operations that outlive the turn that submits them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    /// One-shot accept; the slot field holds the lane it was armed in.
    Accept = 1,
    /// Poll for input: for one event, or multishot on a lively connection.
    Poll = 2,
    /// One-shot poll for room in the send buffer, armed while a peer reads too slowly.
    PollOut = 3,
    /// Gives the descriptor back.
    Close = 4,
    /// Half-close after the last byte, on the error path only.
    Shutdown = 5,
    /// Cancels one of the above; its own result is of no interest.
    Cancel = 6,
    /// Poll of the eventfd by which other threads wake this one.
    Wake = 7,
    /// Outgoing connection.
    Connect = 8,
    /// Send of this turn; the low bits index the turn's batch.
    Send = 9,
    /// Receive of this turn; likewise.
    Recv = 10,
    /// Puts a dialled socket into the direct table.
    Enter = 11,
    /// Gives a direct descriptor's socket a file descriptor of the process.
    Install = 12,
    /// Ends a wait when a deadline comes.
    Alarm = 13,
    /// Asks what a peer has not acknowledged.
    Look = 14,
}

impl Op {
    const ALL: [Op; 14] = [
        Op::Accept,
        Op::Poll,
        Op::PollOut,
        Op::Close,
        Op::Shutdown,
        Op::Cancel,
        Op::Wake,
        Op::Connect,
        Op::Send,
        Op::Recv,
        Op::Enter,
        Op::Install,
        Op::Alarm,
        Op::Look,
    ];
}

/// Operation (8 bits), slot (24 bits), generation (32 bits).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

/// Slots a core can have: 24 bits, and the kernel allows 2^20 direct descriptors per ring.
pub const SLOTS_MAX: u32 = 1 << 20;

impl Token {
    /// Packs the three parts. `slot` must be below 2^24.
    pub const fn new(op: Op, slot: u32, generation: u32) -> Self {
        debug_assert!(slot < 1 << 24);
        Self((op as u64) << 56 | (slot as u64) << 32 | generation as u64)
    }

    /// The operation; `None` for a value this engine never submits.
    pub fn op(self) -> Option<Op> {
        let byte = (self.0 >> 56) as usize;
        Op::ALL.get(byte.wrapping_sub(1)).copied()
    }

    /// Index of the connection in its core's table, and of its direct descriptor.
    pub const fn slot(self) -> u32 {
        (self.0 >> 32) as u32 & 0xff_ffff
    }

    /// Which tenant of the slot.
    pub const fn generation(self) -> u32 {
        self.0 as u32
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}/{}#{}", self.op(), self.slot(), self.generation())
    }
}

const _: () = assert!(SLOTS_MAX < 1 << 24);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_survive_packing() {
        for op in Op::ALL {
            let token = Token::new(op, 0xab_cdef, 0xdead_beef);
            assert_eq!(token.op(), Some(op));
            assert_eq!(token.slot(), 0xab_cdef);
            assert_eq!(token.generation(), 0xdead_beef);
        }
        assert_eq!(Token(0).op(), None);
        assert_eq!(Token(u64::MAX).op(), None);
    }
}
