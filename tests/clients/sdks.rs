//! Suites of SDKs: how they run, and the turns of their crowds.

use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::support::{count_of, run};

/// A suite needs a minute, and a registry of packages to be set up.
pub(crate) const LIMIT: Duration = Duration::from_secs(1800);

/// The turn of a crowd of SDK clients, which one thread of its program serves: beside other crowds
/// it gets so little of few processors that the server gives its clients up, and their return makes
/// it worse.
pub(crate) fn crowd() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs checks of a suite, each of which has to hold so often at least.
pub(crate) fn check(suite: &mut Command, checks: &[(&str, u64)]) {
    let names: Vec<_> = checks.iter().map(|(name, _)| *name).collect();
    let suite = run(suite.env("CHECKS", names.join(",")), LIMIT);
    suite.assert_success();
    for (check, count) in checks {
        assert!(count_of(&suite.stdout, check) >= *count, "{check}: {}", suite.stdout);
    }
}
