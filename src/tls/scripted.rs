//! Handshakes that a simulation does in rustls' place, whose secrets come from a seed.
//!
//! Only with the feature `simulation`, which tests have and the program does not; without it
//! `unscripted.rs` stands here, and the types have no value. The records that follow are sealed and
//! opened as all others are.

use std::sync::Arc;

use super::fault::Fault;
use super::keys::{ClientSetup, ServerSetup, Way};
use super::layer::Record;
use super::record::Role;

/// One side of one handshake.
pub trait Script: Send {
    /// Takes a whole record, and appends what is to be sent. The record layer, with the last one.
    fn feed(&mut self, record: &[u8], out: &mut Vec<u8>) -> Result<Option<Record>, Fault>;
}

/// Begins handshakes.
#[derive(Clone)]
pub struct Scripts(Arc<Begin>);

/// A client appends what it says first.
type Begin = dyn Fn(Role, &mut Vec<u8>) -> Box<dyn Script> + Send + Sync;

/// A handshake under way.
pub(super) struct Scripted(Box<dyn Script>);

impl Scripts {
    /// A client's script appends what it says first.
    pub fn new(
        begin: impl Fn(Role, &mut Vec<u8>) -> Box<dyn Script> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(begin))
    }

    /// Setups of both roles.
    pub fn setups(&self) -> (ServerSetup, ClientSetup) {
        let server = ServerSetup::of(Way::Scripted(self.clone()));
        (server, ClientSetup::of(Way::Scripted(self.clone())))
    }

    pub(super) fn begin(&self, role: Role, out: &mut Vec<u8>) -> Scripted {
        Scripted(self.0(role, out))
    }
}

impl Scripted {
    pub(super) fn feed(
        &mut self,
        record: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Record>, Fault> {
        self.0.feed(record, out)
    }
}
