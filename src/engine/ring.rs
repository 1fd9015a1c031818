//! The kernel as the engine sees it: a small trait with two implementations,
//! [`super::uring::Uring`] over io_uring and the simulated kernel of `tests/simulation.rs`.
//!
//! Two kinds of operations. *Asynchronous* ones (accept, poll, close...) carry a [`Token`] and
//! complete in some later [`Ring::enter`]. *Batched* ones (receive, send) never wait: they are
//! issued with `MSG_DONTWAIT`, are done when the call returns, and therefore only borrow their
//! buffers. No buffer of the engine is ever owned by the kernel between two calls.
//!
//! What a batch consists of are plain values, so that its lists are kept from turn to turn: a turn
//! for a single message costs little more than that message.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::OwnedFd;

use super::token::Token;

/// What a poll reports, and why it was armed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Input, end of input, or an error to be fetched by a receive.
    pub readable: bool,
    /// Room in the send buffer, or an error to be fetched by a send.
    pub writable: bool,
    /// Among it an error or a hang-up, which a receive of what came before does not show.
    pub broken: bool,
}

/// The end of, or a report from, an asynchronous operation.
#[derive(Debug)]
pub enum Completion {
    /// A connection is in the direct table at this slot, or accepting failed.
    Accepted {
        /// The lane whose one-shot accept this was; it has to be armed again.
        lane: u32,
        /// Slot and peer address.
        result: io::Result<(u32, SocketAddr)>,
    },
    /// An outgoing connection is established, or failed.
    Connected {
        /// As given to [`Ring::connect`].
        token: Token,
        /// How it went.
        result: io::Result<()>,
    },
    /// A poll fired or ended.
    Polled {
        /// As given to [`Ring::poll`].
        token: Token,
        /// What is ready, or the error that ended it.
        result: io::Result<Readiness>,
        /// Whether the poll is still armed. The kernel may end a multishot at any time.
        more: bool,
    },
    /// The descriptor is closed and its slot may be handed out again by the kernel.
    Closed {
        /// As given to [`Ring::close`].
        token: Token,
    },
    /// The sending half is shut down.
    ShutDown {
        /// As given to [`Ring::shutdown`].
        token: Token,
    },
    /// The slot's socket has a file descriptor of the process, or could not get one.
    Installed {
        /// As given to [`Ring::install`].
        token: Token,
        /// The same socket; closing the slot's descriptor does not end it.
        result: io::Result<OwnedFd>,
    },
    /// What the peer has not acknowledged, as of the submission.
    Unacknowledged {
        /// As given to [`Ring::unacknowledged`].
        token: Token,
        /// Bytes that the kernel took and holds; an error where it cannot tell.
        result: io::Result<u32>,
    },
    /// Another thread rang the [`Doorbell`].
    Woken,
}

/// An error number of the kernel (errno(3)), as a plain value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// Nothing was there, or no room.
    pub fn would_block(self) -> bool {
        self.0 == libc::EAGAIN
    }

    /// Says nothing about the connection: it may work the next time.
    pub fn is_transient(self) -> bool {
        matches!(self.0, libc::EINTR | libc::ENOBUFS | libc::ENOMEM | libc::EAGAIN)
    }
}

/// One receive of a batch, into a part of the arena that goes with it.
#[derive(Clone, Copy, Debug)]
pub struct Recv {
    /// Which direct descriptor.
    pub slot: u32,
    /// Which tenant of the slot; for the caller.
    pub generation: u32,
    /// Where to: offset into the arena.
    pub start: u32,
    /// How many bytes fit. Not 0.
    pub room: u32,
    /// Bytes received; 0 is the end of the stream.
    pub result: Result<u32, Errno>,
    /// The kernel says that more input is queued (`IORING_CQE_F_SOCK_NONEMPTY`, Linux 5.19).
    pub more: bool,
}

impl Recv {
    /// Where to, as a range of the arena.
    pub fn range(&self) -> Range<usize> {
        let start = self.start as usize;
        start..start + self.room as usize
    }
}

/// One send of a batch: the next few of the pieces that go with it.
#[derive(Clone, Copy, Debug)]
pub struct Send {
    /// Which direct descriptor.
    pub slot: u32,
    /// How many pieces, for one gathering send. Not 0.
    pub pieces: u32,
    /// Bytes in these pieces. Not 0.
    pub len: usize,
    /// Bytes taken by the kernel, fewer than `len` when its buffer is full (`Ok(0)`: none).
    pub result: Result<usize, Errno>,
}

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Submit and look, do not sleep.
    No,
    /// Sleep until a completion, at most until this moment of [`Ring::now`]; may end before.
    Until(u64),
}

/// Wakes a worker from any thread.
pub trait Doorbell: std::marker::Send + Sync + 'static {
    /// Makes the worker's current or next wait end with [`Completion::Woken`]. Idempotent.
    fn ring(&self);
}

/// Most accepts that a core has in flight at once.
pub const LANES_MAX: u32 = 64;

/// One core's way into the kernel. Called only by the thread that owns it.
pub trait Ring {
    /// Monotonic time in nanoseconds.
    fn now(&self) -> u64;

    /// Arms a one-shot accept in `lane` (below [`Self::lanes`]); the lane must not be armed.
    fn accept(&mut self, lane: u32);

    /// How many accepts may be in flight at once: at most [`LANES_MAX`].
    fn lanes(&self) -> u32;

    /// Cancels the accept in `lane`; it still completes, with an error or with a connection.
    fn cancel_accept(&mut self, lane: u32);

    /// Lets no further connection begin, without refusing it: what is in the accept queue, or on
    /// its way there, is still accepted.
    fn stop_listening(&mut self) {}

    /// Ends listening for good: whatever is in the accept queue and not yet accepted is lost.
    fn close_listener(&mut self);

    /// Arms a poll: for input if the token is of [`super::token::Op::Poll`], for output if it is of
    /// [`super::token::Op::PollOut`]; for one event, or multishot.
    fn poll(&mut self, token: Token, multishot: bool);

    /// Closes the slot's descriptor after cancelling the operations named (at most two).
    fn close(&mut self, token: Token, polls: &[Token]);

    /// Shuts down the sending half. Goes through a kernel worker thread: error path only.
    fn shutdown(&mut self, token: Token);

    /// Asks how many bytes that were sent the peer has not acknowledged (`SIOCOUTQ`; Linux 6.7). Is
    /// answered before any send that follows takes effect.
    fn unacknowledged(&mut self, token: Token);

    /// Asks for a file descriptor of the process for the slot's socket (Linux 6.8).
    fn install(&mut self, token: Token);

    /// Makes a socket towards `peer`, from `local` if given, and returns its slot. Fails at once
    /// when the table or the address range is exhausted.
    fn socket(&mut self, peer: SocketAddr, local: Option<IpAddr>) -> io::Result<u32>;

    /// Takes a connected socket of the process, and returns its slot. Gives it back where there is
    /// no room, or where [`Self::install`] would not work.
    fn adopt(&mut self, socket: OwnedFd) -> Result<u32, OwnedFd> {
        Err(socket)
    }

    /// Starts connecting the socket in the token's slot.
    fn connect(&mut self, token: Token, peer: SocketAddr);

    /// Gives back memory that a burst needed, between two turns.
    fn shrink(&mut self) {}

    /// Times that completions did not fit into their queue. The kernel keeps them and
    /// [`Self::enter`] returns them all, in their order; but multishot polls end by it.
    fn overflows(&self) -> u64 {
        0
    }

    /// Performs all receives of a batch, without waiting. They have different parts of the arena,
    /// all of them inside it.
    fn recv(&mut self, arena: &mut [u8], batch: &mut [Recv]) -> io::Result<()>;

    /// Performs all sends of a batch, whose pieces follow each other in `pieces`, submits what was
    /// queued, waits, and appends what completed.
    fn enter(
        &mut self,
        batch: &mut [Send],
        pieces: &[IoSlice<'_>],
        wait: Wait,
        done: &mut VecDeque<Completion>,
    ) -> io::Result<()>;
}
