//! How a kind of server is spoken to: what [`super::work`] needs to know of its language.

use std::fmt;
use std::time::Duration;

use crate::gateway::broker::{Fault, Request};

/// Who asks, and when.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The core.
    pub core: u16,
    /// Unix time.
    pub unix: Duration,
    /// It was sent before, and what became of it is unknown.
    pub again: bool,
}

/// A request that may be written together with others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Joins {
    /// Bytes that the request adds.
    pub(super) bytes: usize,
    /// Slot of the request's names, which all that join share; 0 where there is no cluster.
    pub(super) slot: u16,
}

/// How a server is spoken to.
pub(super) trait Tongue: fmt::Debug {
    /// Writes a request. Returns how many replies come; 0: nothing was to be asked.
    ///
    /// # Errors
    /// It is not to be asked of this server.
    fn write(&self, out: &mut Vec<u8>, request: &Request, asked: Asked) -> Result<usize, Fault>;

    /// Whether a request that was not sent before may be written together with others of that kind
    /// and slot that follow it.
    fn joins(&self, request: &Request) -> Option<Joins> {
        let _ = request;
        None
    }

    /// Writes requests that join. One reply comes, a list with one of each.
    fn write_joined(&self, out: &mut Vec<u8>, requests: &[(&Request, Asked)]) {
        let _ = (out, requests);
    }

    /// Writes a message to other nodes. False: the server would not take it.
    fn tell(&self, out: &mut Vec<u8>, to: Option<&str>, data: &[u8]) -> bool;

    /// Whether a request may be sent again after the connection on which it was sent broke, when it
    /// may have been done already.
    fn may_repeat(&self, request: &Request) -> bool;
}
