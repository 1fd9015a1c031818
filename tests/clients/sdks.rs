//! What the suites of SDKs share.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The turn of a crowd of SDK clients, which one thread of its program serves: beside other crowds
/// it gets so little of few processors that the server gives its clients up, and their return makes
/// it worse.
pub(crate) fn crowd() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The names of checks as a suite wants them.
pub(crate) fn names(checks: &[(&str, u64)]) -> String {
    checks.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(",")
}
