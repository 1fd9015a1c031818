//! What the hub needs from the world around it, and what it tells the session layer.
//!
//! Owns no state. The hub calls [`HubPort`] while it works, so an implementation must not call the
//! hub back: what needs that is put aside until the hub's method has returned.

use std::sync::Arc;
use std::time::Duration;

use super::broker;
use super::letters::{Answer, Letter, UserOrder};
use super::wire::messages::SubscribeResult;
use super::wire::{Disconnect, Error, Unsubscribe};
use crate::engine::Frame;

/// The address of a connection of this core, as the session layer chose it. It must not be given
/// to another connection while the hub or a letter may know it, so it should hold a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Link(pub u64);

/// A connection within one hub, from [`connect`](super::hub::Hub::connect) to
/// [`disconnect`](super::hub::Hub::disconnect). Later it may name another connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientKey(pub u32);

/// A subscription within one hub, until it ends. Later it may name another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubKey(pub u32);

/// The letter was not taken: the other core's mailbox is full, or the core has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// The world around one core's hub.
pub trait HubPort {
    /// Monotonic time, the same during one call of the hub.
    fn now(&self) -> Duration;

    /// The time of day in milliseconds since 1970, for those who read it elsewhere.
    fn unix_millis(&self) -> i64 {
        0
    }

    /// 64 random bits. Epochs are made of them: two lives of a stream must not draw the same.
    fn random(&mut self) -> u64;

    /// Posts a letter to another core, if its mailbox has room. Letters from this core to that one
    /// arrive in the order of these calls and those of the two below.
    fn post(&mut self, core: usize, letter: Letter) -> Result<(), Refused>;

    /// As [`Self::post`], of what subscribers have to hear: it has room reserved, which no client's
    /// questions take.
    fn post_reserved(&mut self, core: usize, letter: Letter) -> Result<(), Refused>;

    /// Whether a core has much to work off of that: who makes more of it waits for it.
    fn is_behind(&self, core: usize) -> bool {
        let _ = core;
        false
    }

    /// Posts a letter to another core, or to this one for a later turn, beyond the capacity of its
    /// mailbox. There are no more of these than were asked for by letters that found room, or than
    /// there are subscriptions. A core that has ended drops it.
    fn post_urgent(&mut self, core: usize, letter: Letter);

    /// Asks the broker, where there is one. The answer comes as [`Letter::Batch`], never within the
    /// call.
    fn broker(&mut self, request: broker::Request) -> Result<(), Refused> {
        let _ = request;
        Err(Refused)
    }

    /// Queues a message for a connection of this core. If it cannot be queued the connection must
    /// be closed: the hub takes a message that it sent for delivered. So no policy that drops.
    fn send(&mut self, link: Link, frame: &Frame);

    /// As [`Self::send`], a publication of a recoverable channel to a client that is told its
    /// positions: this is its newest.
    fn publication(&mut self, link: Link, frame: &Frame, channel: &str, offset: u64) {
        let _ = (channel, offset);
        self.send(link, frame);
    }

    /// Something happened that the connection's session has to know.
    fn event(&mut self, link: Link, event: Event<'_>);
}

/// What a session is told. The `ticket` is what it gave with its request.
#[derive(Debug)]
pub enum Event<'a> {
    /// A subscription began, or could not. Pushes of the channel follow, so the reply has to be
    /// queued within the call. `expires`, `ttl` and `data` of the result are the session's to set.
    /// After an error the subscription is gone, and its key is free.
    Subscribed {
        /// Which.
        sub: SubKey,
        /// From the request.
        ticket: u64,
        /// Its channel.
        channel: &'a Arc<str>,
        /// How many others were told that it came.
        told: u32,
        /// What to reply.
        result: Result<SubscribeResult, Error>,
    },
    /// A subscription ended without the session asking for it; its key is free. A client-side one
    /// needs the push. A server-side one that ends with [`Unsubscribe::INSUFFICIENT_STATE`] needs
    /// the connection to be closed with [`Disconnect::INSUFFICIENT_STATE`].
    Unsubscribed {
        /// Which it was.
        sub: SubKey,
        /// Its channel.
        channel: &'a Arc<str>,
        /// Whether it was server-side.
        server_side: bool,
        /// Why.
        why: &'a Unsubscribe,
    },
    /// The answer to a question: publish, history, presence.
    Answered {
        /// From the request.
        ticket: u64,
        /// The answer.
        answer: Result<Answer, Error>,
    },
    /// The connection has its seat among those of its user; see
    /// [`enter`](super::hub::Hub::enter).
    Entered {
        /// From the request.
        ticket: u64,
    },
    /// The connection has to be closed. It stays known to the hub until `disconnect`.
    Close(&'a Disconnect),
    /// The server API wants something of this connection that its session has to do:
    /// [`Action::Subscribe`](super::letters::Action::Subscribe),
    /// [`Action::Refresh`](super::letters::Action::Refresh), or to end what is not answered yet of
    /// [`Action::Unsubscribe`](super::letters::Action::Unsubscribe). The API call is answered when
    /// the
    /// last clone of the order is dropped.
    Order(&'a Arc<UserOrder>),
}
