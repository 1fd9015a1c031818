//! Taking over from a process that still runs, and being taken over from: the sockets of
//! [`gateway::handover`](crate::gateway::handover).
//!
//! A process that orders its channels has a door, a unix socket at `shutdown.takeover_path`, where
//! an heir may knock (`elder`); one that is started with `--takeover` knocks there (`heir`) and
//! has a door of its own when it has taken over. Words go over `wire`.

pub(super) mod elder;
mod heir;
mod wire;

pub(super) use heir::{Follower, queue};
pub use heir::{Found, knock};

use crate::gateway::broker::Limits;
use crate::gateway::handover::words::WORD_MAX;
use crate::gateway::state::PIECE;

/// What is under way between two processes at most, on either side: what waits to be sent, twice,
/// requests of the cores, a word that is not whole, and pieces of state for each core.
pub(crate) fn bytes(cores: u64) -> u64 {
    let requests = Limits::default().bytes as u64;
    let pieces = heir::PIECES as u64 * 2 * PIECE as u64;
    4 * wire::OUT_MAX as u64 + WORD_MAX as u64 + cores * (requests + pieces)
}
