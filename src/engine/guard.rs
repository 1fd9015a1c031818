//! The guard around the application: a panic of it goes no further.
//!
//! Owns the one place where panics of callbacks are caught and counted.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::conn::{Connection, Context};
use super::core::Core;
use super::value::Cause;
use crate::protocol::CloseCode;

/// Calls the application outside of any connection; `None` if it panicked. `states` is the table of
/// all connections' states.
pub(super) fn call<T>(
    core: &mut Core,
    states: &mut dyn Any,
    callback: impl FnOnce(&mut Context<'_>) -> T,
) -> Option<T> {
    let outcome =
        catch_unwind(AssertUnwindSafe(|| callback(&mut Context { core, states: Some(states) })));
    if outcome.is_err() {
        core.counted.panics += 1;
    }
    outcome.ok()
}

/// Asks the application something that it answers without a context; `None` if it panicked.
pub(super) fn ask<T>(core: &mut Core, question: impl FnOnce() -> T) -> Option<T> {
    let outcome = catch_unwind(AssertUnwindSafe(question));
    if outcome.is_err() {
        core.counted.panics += 1;
    }
    outcome.ok()
}

/// Calls the application for a connection; a panic closes that with 1011.
#[inline(always)]
pub(super) fn call_for<T>(
    core: &mut Core,
    slot: u32,
    generation: u32,
    callback: impl FnOnce(&mut Connection<'_>) -> T,
) -> Option<T> {
    let outcome =
        catch_unwind(AssertUnwindSafe(|| callback(&mut Connection::new(core, slot, generation))));
    if outcome.is_err() {
        core.counted.panics += 1;
        core.fail(slot, Cause::Panic, CloseCode::INTERNAL, "internal error");
    }
    outcome.ok()
}
