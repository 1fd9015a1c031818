//! Channels over a restart: from what the process before has left to what this one leaves.
//!
//! Made in steps, like the control plane: [`Keeper::begin`] before there are cores,
//! [`Keeper::started`] or [`Keeper::undo`] when it is known whether they run, [`Keeper::drain`]
//! when the server begins to go away, [`Keeper::finish`] after the last core has ended. Whatever
//! fails here costs what is kept, with one line in the log, and nothing else.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::closing::{Closing, see_off};
use super::counts::Counts;
use super::state::{FileVault, Left, Mark, Place};
use crate::gateway::farewell::{Farewell, Keeping};
use crate::gateway::options::Options;

/// See the module's text.
pub struct Keeper {
    mark: Option<Mark>,
    left: Option<Arc<Left>>,
    keeping: Keeping,
    deadline: Duration,
    vault: Mutex<Option<Arc<FileVault>>>,
}

impl Keeper {
    /// Looks for what there is, and marks the place where this process will leave something.
    pub fn begin(options: &Options, cores: usize, counts: &Counts) -> Self {
        let mut keeper = Self {
            mark: None,
            left: None,
            keeping: Keeping::default(),
            deadline: options.shutdown.timeout,
            vault: Mutex::new(None),
        };
        let Some(place) = Place::of(options) else { return keeper };
        let path = place.path().display().to_string();
        let mut left = None;
        match place.open() {
            Ok(Some(found)) => {
                counts.state_bytes.set(found.bytes());
                left = Some(found);
            }
            Ok(None) => tracing::debug!(path, "no channels are kept here"),
            Err(unusable) => {
                let reason = unusable.name();
                counts.state_ignored(reason);
                tracing::warn!(path, reason, error = %unusable, "kept channels are not read");
            }
        }
        match place.mark() {
            Ok(mark) => {
                keeper.mark = Some(mark);
                keeper.left = left.map(Arc::new);
                let chest = keeper.left.clone();
                keeper.keeping = Keeping {
                    chest: chest.map(|left| left as _),
                    restored: counts.state_restored.clone(),
                    farewell: Some(Farewell::new(cores)),
                };
            }
            // What was found must not be found once more, so it is not read either.
            Err(error) => {
                tracing::error!(path, %error, "channels are not kept over the end of this process");
            }
        }
        keeper
    }

    /// For the cores.
    pub fn keeping(&self) -> Keeping {
        self.keeping.clone()
    }

    /// The cores run, and have taken what there was.
    pub fn started(&self) {
        let Some(mark) = &self.mark else { return };
        mark.settle();
        if let Some(left) = &self.left {
            left.close();
            let restored = &self.keeping.restored;
            let [channels, publications, keys] = restored.get();
            tracing::info!(channels, publications, keys, "channels go on where they were");
        }
    }

    /// The server does not start.
    pub fn undo(&self) {
        if let Some(mark) = &self.mark {
            mark.undo();
        }
    }

    /// The server goes away. Within the control thread's runtime.
    pub fn drain(&self, closing: &Closing, counts: &Arc<Counts>) {
        let (Some(mark), Some(farewell)) = (&self.mark, &self.keeping.farewell) else { return };
        match mark.vault() {
            Ok(vault) => {
                let held = &mut *self.vault.lock().unwrap_or_else(PoisonError::into_inner);
                *held = Some(vault.clone());
                farewell.begin(vault, self.deadline);
                tokio::spawn(see_off(farewell.clone(), closing.clone(), counts.clone()));
            }
            Err(error) => tracing::error!(%error, "channels are not kept"),
        }
    }

    /// The last core has ended.
    pub fn finish(&self) {
        let vault = self.vault.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (Some(mark), Some(vault)) = (&self.mark, vault) else { return };
        let whole = self.keeping.farewell.as_ref().is_some_and(|farewell| farewell.is_whole());
        mark.finish(&vault, whole);
    }
}
