//! A process takes over from another one, while both have connections.
//!
//! The old process, the *elder*, stays the home of every channel until its own connections are
//! gone: it alone orders. The new one, the *heir*, asks it whatever it would ask a broker (the same
//! requests, the same mirror of channels: [`broker`](super::broker)), over a socket. So
//! publications that either of them is given have one order, and reach the subscribers of both; and
//! nobody depends on the heir, which may fail without the elder's clients noticing. When the elder
//! has no connections left it tells the heir all that its channels hold, and orders nothing any
//! more: from there on the heir's home cores do, with the epochs, offsets and keys of before.
//!
//! ```text
//!  elder: home ◄── requests ── heir: mirror          elder: ended        heir: home
//!              ── messages ──►               ── state, final ──►
//! ```
//!
//! An heir whose elder ends before that cannot know what it published last. It begins anew, with
//! other epochs, and tells positioned subscribers so, as after any other sudden end.
//!
//! The words are in [`words`], the two sides in `hub/elder.rs` and `hub/heir.rs`; sockets are the
//! control plane's.

pub mod words;
#[cfg(test)]
mod words_tests;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::broker::{Fault, Message, Outcome, Request, Ticket, Top, TopOf};
use super::letters::Gather;

/// The way from the cores of the elder to its heir. Called by their threads; never waits.
pub trait Heir: Send + Sync + fmt::Debug {
    /// Something happened in a channel to which the heir listens. What finds no room is dropped,
    /// and the heir hears that the channel is suspect.
    fn message(&self, channel: &Arc<str>, message: Message);

    /// The heir hears of these channels from here on.
    fn listening(&self, channels: Vec<Arc<str>>);

    /// A request of one of its cores is answered.
    fn answer(&self, core: u16, ticket: Ticket, answer: Result<Outcome, Fault>);
}

/// By this number the elder's home cores know the heir among those that listen: no core has it.
pub const HEIR: u16 = u16::MAX;

/// What the control plane says to a core about it.
#[derive(Debug)]
pub enum Handover {
    /// Elder: there is an heir.
    Attach(Arc<dyn Heir>),
    /// Elder, home core: a core of the heir asks. Of several channels each is at home here.
    Ask(u16, Request),
    /// Elder: positions of channels that are at home on any core. It goes round, from the first
    /// core to the last, and each fills in what it knows.
    Positions {
        /// Who asks.
        core: u16,
        /// What it calls the question.
        ticket: Ticket,
        /// Of which channels.
        tops: Vec<TopOf>,
        /// What is known so far.
        found: Vec<Option<Top>>,
    },
    /// Elder: there is none any more.
    Detach,
    /// Heir: records of the elder's state, and what its sender counts those by that are under way.
    Records(Bytes, Arc<()>),
    /// Heir: this core orders its channels from here on, by the records that came; `whole`: they
    /// are all. The last core that has done so drops the last clone.
    Succeed(bool, Arc<Gather<()>>),
    /// Heir: a request of this core that the elder did not answer.
    Unanswered(Request),
}

impl Handover {
    /// Bytes of memory that it holds besides itself.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Ask(_, request) | Self::Unanswered(request) => request.size(),
            Self::Positions { tops, found, .. } => size_of_val(&tops[..]) + size_of_val(&found[..]),
            Self::Records(records, _) => records.len(),
            Self::Attach(_) | Self::Detach | Self::Succeed(..) => 0,
        }
    }
}
