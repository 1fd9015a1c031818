//! How the cores of a server that goes away wait for each other, and for the control plane: what
//! the channels hold is written down when nothing changes it any more.
//!
//! Owns how far the end has come. A core whose last connection is gone waits until that is so of
//! all, and until the control plane has answered the requests that it took ([`Farewell::release`]);
//! then it writes, and ends. The invariant: no core waits longer than [`PATIENCE`] after the last
//! one could have had connections, whatever the others do, and none waits unless the end was asked
//! for by [`Farewell::begin`].

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::home::Restoring;
use super::hub::Hub;
use super::state::{Chest, Restored, Vault};

/// The control plane has so long for the requests that it took.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// See the module's text.
pub struct Farewell {
    cores: u32,
    /// Set when the end begins: how long connections may stay.
    begun: OnceLock<Duration>,
    /// Set when nothing is asked any more: where everything goes.
    vault: OnceLock<Arc<dyn Vault>>,
    /// Cores without connections.
    empty: AtomicU32,
    /// When the last of them said so, in nanoseconds; 0 before.
    all_empty_ns: AtomicU64,
    written: AtomicU32,
}

/// How a core goes on.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// It waits.
    Wait,
    /// It writes, and ends.
    Write(Arc<dyn Vault>),
    /// It ends.
    End,
}

impl Farewell {
    /// For so many cores.
    pub fn new(cores: usize) -> Arc<Self> {
        Arc::new(Self {
            cores: u32::try_from(cores).unwrap_or(u32::MAX),
            begun: OnceLock::new(),
            vault: OnceLock::new(),
            empty: AtomicU32::new(0),
            all_empty_ns: AtomicU64::new(0),
            written: AtomicU32::new(0),
        })
    }

    /// The server goes away, and what its channels hold is kept. Connections are cut after this
    /// time at the latest.
    pub fn begin(&self, deadline: Duration) {
        // The first one holds.
        let _ = self.begun.set(deadline);
    }

    /// Whether all cores are without connections.
    pub fn is_empty(&self) -> bool {
        self.empty.load(Ordering::Acquire) >= self.cores
    }

    /// Nothing is asked of the cores any more: what their channels hold goes there.
    pub fn release(&self, vault: Arc<dyn Vault>) {
        let _ = self.vault.set(vault);
    }

    /// Whether every core has written what it held.
    pub fn is_whole(&self) -> bool {
        self.written.load(Ordering::Acquire) >= self.cores
    }

    /// A core has no connections, since then.
    pub(super) fn step(&self, since: Option<Duration>, now: Duration) -> Step {
        let Some(deadline) = self.begun.get() else { return Step::End };
        if since.is_none() && self.empty.fetch_add(1, Ordering::AcqRel) + 1 >= self.cores {
            let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX).max(1);
            self.all_empty_ns.store(now, Ordering::Release);
        }
        let all = Duration::from_nanos(self.all_empty_ns.load(Ordering::Acquire));
        let late = match all.is_zero() {
            // One that failed never says so.
            true => now.saturating_sub(since.unwrap_or(now)) >= *deadline + PATIENCE,
            false => now.saturating_sub(all) >= PATIENCE,
        };
        match self.vault.get() {
            Some(vault) if !all.is_zero() || late => Step::Write(vault.clone()),
            None if late => Step::End,
            _ => Step::Wait,
        }
    }

    /// A core has written.
    pub(super) fn written(&self) {
        self.written.fetch_add(1, Ordering::AcqRel);
    }
}

/// What a server keeps over its end, and what it finds of the one before.
#[derive(Clone, Debug, Default)]
pub struct Keeping {
    /// What the process before has left.
    pub chest: Option<Arc<dyn Chest>>,
    /// What was taken out of it.
    pub restored: Arc<Restored>,
    /// Set if what there is in the end is kept.
    pub farewell: Option<Arc<Farewell>>,
}

impl Keeping {
    /// Of one core.
    pub(super) fn leaving(&self) -> Leaving {
        Leaving { farewell: self.farewell.clone(), empty_since: None }
    }
}

/// How one core ends.
#[derive(Debug)]
pub(super) struct Leaving {
    farewell: Option<Arc<Farewell>>,
    /// When its last connection was gone, if it waits for others.
    empty_since: Option<Duration>,
}

impl Keeping {
    /// Gives the hub of a core what the process before has left.
    pub(super) fn restore(&self, core: u16, hub: &mut Hub, now: Duration) {
        let Some(chest) = &self.chest else { return };
        let home = hub.home();
        let mut restoring = Restoring::new(now, chest.age());
        let mut fault = None;
        chest.open(&mut |piece| fault = fault.or(restoring.take(home, piece).err()));
        let (channels, publications, keys) = restoring.finish(home);
        self.restored.add(channels, publications, keys);
        if fault.is_some() {
            tracing::error!(core, "what was kept is no records: please report it");
        }
    }
}

impl Leaving {
    /// No connection is left. Whether this core waits for others; if not, what it holds is written
    /// by `keep`, where anything is kept.
    pub(super) fn wait(&mut self, now: Duration, keep: impl FnOnce(&dyn Vault)) -> bool {
        let Some(farewell) = self.farewell.clone() else { return false };
        match farewell.step(self.empty_since, now) {
            Step::Wait => {
                self.empty_since.get_or_insert(now);
                true
            }
            Step::Write(vault) => {
                keep(&*vault);
                farewell.written();
                false
            }
            Step::End => false,
        }
    }
}

impl fmt::Debug for Farewell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Farewell")
            .field("cores", &self.cores)
            .field("empty", &self.empty)
            .field("written", &self.written)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::state::LeftOut;

    #[derive(Debug)]
    struct Nowhere;

    impl Vault for Nowhere {
        fn claim(&self, _: usize) -> bool {
            false
        }

        fn put(&self, _: &[u8]) {}

        fn left_out(&self, _: LeftOut) {}
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn nobody_waits_unless_asked_to() {
        let farewell = Farewell::new(2);
        assert!(matches!(farewell.step(None, seconds(1)), Step::End));
    }

    #[test]
    fn all_wait_for_the_last_and_for_the_control_plane() {
        let farewell = Farewell::new(2);
        farewell.begin(seconds(30));
        let step = |since, now| farewell.step(since, now);
        assert!(matches!(step(None, seconds(1)), Step::Wait));
        farewell.release(Arc::new(Nowhere));
        assert!(matches!(step(Some(seconds(1)), seconds(20)), Step::Wait), "one has connections");
        assert!(!farewell.is_empty());
        assert!(matches!(step(None, seconds(21)), Step::Write(_)));
        assert!(farewell.is_empty() && !farewell.is_whole());
        (0..2).for_each(|_| farewell.written());
        assert!(farewell.is_whole());
    }

    #[test]
    fn nobody_waits_for_ever() {
        let farewell = Farewell::new(2);
        farewell.begin(seconds(30));
        farewell.step(None, seconds(1));
        assert!(matches!(farewell.step(Some(seconds(1)), seconds(35)), Step::Wait));
        let late = farewell.step(Some(seconds(1)), seconds(36));
        assert!(matches!(late, Step::End), "the other core has failed");
        farewell.step(None, seconds(40));
        assert!(matches!(farewell.step(Some(seconds(40)), seconds(44)), Step::Wait));
        let late = farewell.step(Some(seconds(40)), seconds(45));
        assert!(matches!(late, Step::End), "the control plane does not answer");
    }
}
