//! Taking over from a process that still runs, and being taken over from: the sockets of
//! [`gateway::handover`](crate::gateway::handover).
//!
//! A process that orders its channels has a door, a unix socket at `shutdown.takeover_path`, where
//! an heir may knock (`elder`); one that is started with `--takeover` knocks there (`heir`) and
//! has a door of its own when it has taken over. Words go over `wire`.

pub(super) mod elder;
mod heir;
mod wire;

use std::path::PathBuf;

pub(super) use heir::{Follower, queue};
pub use heir::{Found, knock};

use crate::config::{Options, Orderer};
use crate::gateway::broker::Limits;
use crate::gateway::handover::words::WORD_MAX;
use crate::gateway::state::PIECE;

/// Where the door is, if there shall be one: where the options, or systemd (`RuntimeDirectory=`),
/// want it.
pub fn path(options: &Options) -> Option<PathBuf> {
    let folder = std::env::var("RUNTIME_DIRECTORY").unwrap_or_default();
    // systemd separates several by colons.
    let folder = folder.split(':').next().unwrap_or_default();
    let path = match options.shutdown.takeover_path.as_str() {
        "none" => return None,
        "" if folder.is_empty() => return None,
        "" => PathBuf::from(folder).join("takeover"),
        path => path.into(),
    };
    (options.orderer() == Orderer::Process).then_some(path)
}

/// What is under way between two processes at most, on either side: what waits to be sent, twice,
/// requests of the cores, a word that is not whole, and pieces of state for each core.
pub(super) fn bytes(cores: u64) -> u64 {
    let requests = Limits::default().bytes as u64;
    let pieces = heir::PIECES as u64 * 2 * PIECE as u64;
    4 * wire::OUT_MAX as u64 + WORD_MAX as u64 + cores * (requests + pieces)
}
