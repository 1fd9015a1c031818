//! The workload `idle`: holds connections and says nothing. Pings are answered below it.

use std::time::Duration;

use ringhold::{ConnId, Connection, Context};

use super::driver::Workload;
use super::tally::Traffic;

/// Counts what comes unasked.
#[derive(Default)]
pub(crate) struct Idle {
    traffic: Traffic,
}

impl Workload for Idle {
    fn on_open(&mut self, _: u32, _: ConnId) {}

    fn on_message(&mut self, _: &mut Connection<'_>, _: u32, _: &[u8]) {
        self.traffic.seen += 1;
    }

    fn on_lost(&mut self, _: u32) {}

    fn on_left(&mut self, _: u32) {}

    fn begin(&mut self, _: u64) {}

    fn turn(&mut self, _: &mut Context<'_>, _: u64) -> Option<Duration> {
        None
    }

    fn end(&mut self) {}

    fn traffic(&mut self) -> &mut Traffic {
        &mut self.traffic
    }
}
