//! A trial of what the kernel allows: a ring, made as a worker makes its own, and given back.

use std::sync::Arc;

use ringhold::internals::sys::{self, EventFd};
use ringhold::internals::uring::{Setup, Uring};

/// What the trial showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// Another host's files were read, so there was no trial.
    None,
    /// A ring with this many direct descriptors was made.
    Works(u32),
    /// No ring could be made; the engine's words, which name the remedy.
    Fails(String),
}

impl Probe {
    /// Makes a ring with a table of this size, or of what this process may have.
    pub(crate) fn run(table: u32) -> Self {
        let allowed = u32::try_from(sys::raise_open_files_limit()).unwrap_or(u32::MAX);
        let table = table.min(allowed);
        let doorbell = match EventFd::new() {
            Ok(doorbell) => Arc::new(doorbell),
            Err(error) => return Self::Fails(format!("eventfd: {error}")),
        };
        match Uring::new(Setup {
            table,
            lanes: 1,
            listener: None,
            user_timeout: std::time::Duration::ZERO,
            doorbell,
        }) {
            Ok(_) => Self::Works(table),
            Err(error) => Self::Fails(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trial_ends_in_a_ring_or_in_words() {
        match Probe::run(1024) {
            Probe::Works(table) => assert!((1..=1024).contains(&table)),
            Probe::Fails(why) => assert!(why.len() > 10, "{why}"),
            Probe::None => panic!("there was no trial"),
        }
    }
}
