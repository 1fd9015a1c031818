//! How a connection leaves the engine alive: to whoever answers plain HTTP.
//!
//! Owns what was received on connections on their way out. Never looks at the bytes. The invariant:
//! a connection has its bytes here if and only if it is [`Phase::Passing`].

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;

use bytes::Bytes;

use super::addresses::AddressPlace;
use super::config::Via;
use super::core::Core;
use super::handler::Handler;
use super::inbound::Holding;
use super::phase::Event;
use super::ring::Ring;
use super::slots::{Flags, Phase};
use super::token::Token;
use super::worker::Worker;
use crate::protocol::request::Refusal;
use crate::tls::Parts;

/// A connection that left the engine, which has forgotten it.
#[derive(Debug)]
pub struct Detached {
    /// The socket, in blocking mode.
    pub socket: OwnedFd,
    /// What was read from it, in the clear: it begins with the request's head. A PROXY header is
    /// not among it.
    pub received: Bytes,
    /// Whose each request is, the one in `received` included,
    /// [`Proxies::client`](super::Proxies::client) says.
    pub via: Via,
    /// Drop it with the socket: until then it counts for
    /// [`Config::max_per_address`](super::Config::max_per_address).
    pub place: AddressPlace,
    /// Where the connection speaks TLS: what goes on with it. Nothing may be written to the socket
    /// in the clear.
    pub tls: Option<Box<Parts>>,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Handover {
    passing: HashMap<u32, Passing>,
}

/// What was received on a connection that is being handed over, and which way it came.
#[derive(Debug)]
struct Passing {
    received: Vec<u8>,
    via: Via,
    /// The socket, where answers before the request have to leave first.
    socket: Option<OwnedFd>,
    /// Whether there may be such.
    stayed: bool,
    /// Where it is accounted.
    place: Holding,
}

impl Passing {
    /// Bytes of memory, its place in a table included.
    fn memory(&self) -> usize {
        self.received.capacity() + 2 * size_of::<(u32, Self)>()
    }
}

impl Handover {
    /// Memory of what was received on one, and where it is accounted.
    pub(super) fn held(&self, slot: u32) -> Option<(Holding, usize)> {
        self.passing.get(&slot).map(|passing| (passing.place, passing.memory()))
    }

    /// Whether nobody is on the way out.
    pub(super) fn is_empty(&self) -> bool {
        self.passing.is_empty()
    }

    pub(super) fn shrink(&mut self) {
        self.passing.shrink_to_fit();
    }
}

impl<R: Ring, H: Handler> Worker<R, H> {
    #[inline(never)]
    pub(super) fn on_installed(&mut self, token: Token, result: io::Result<OwnedFd>) {
        self.on_detached(token, Flags::INSTALL);
        let (slot, core) = (token.slot(), &mut self.core);
        let Some(hot) = core.slots.lookup(slot, token.generation()) else { return };
        if hot.phase() != Phase::Passing {
            // Given up meanwhile; closing the second descriptor is all there is to do.
            return;
        }
        match (result, core.handover.passing.get_mut(&slot)) {
            (Ok(socket), Some(passing)) => {
                passing.socket = Some(socket);
                self.pass_on(slot, token.generation());
            }
            _ => {
                core.counted.refused_not_websocket += 1;
                core.drop_passing(slot);
                core.refuse(slot, Refusal::Unavailable(core.config.retry_after));
            }
        }
    }

    /// Hands a connection over, unless it waits for its descriptor or for answers to leave.
    pub(super) fn pass_on(&mut self, slot: u32, generation: u32) {
        let core = &mut self.core;
        let Some(hot) = core.slots.lookup(slot, generation) else { return };
        let sending = hot.outbox.is_some();
        let passing = core.handover.passing.get(&slot).filter(|it| it.socket.is_some());
        if passing.is_none_or(|passing| passing.stayed && sending) {
            return;
        }
        let Some(Passing { received, via, socket: Some(socket), .. }) = core.take_passing(slot)
        else {
            return;
        };
        core.counted.passed += 1;
        let place = core.take_place(slot);
        let tls = core.take_parts(slot).map(Box::new);
        let port = core.adopted.of(slot).map_or(0, |(port, _)| port);
        core.release(slot);
        let passed = Detached { socket, received: received.into(), via, place, tls };
        self.give_back_detached(port, passed);
    }
}

impl Core {
    /// Starts to hand a connection over, with what was received on it so far.
    pub(super) fn begin_pass(&mut self, slot: u32, received: Vec<u8>, via: Via) {
        let stayed = self.requests.keeps(slot);
        self.drop_head(slot);
        let (socket, place) = (None, Holding::default());
        let mut passing = Passing { received, via, socket, stayed, place };
        let memory = passing.memory();
        self.inbound.set(&mut passing.place, slot, memory);
        self.handover.passing.insert(slot, passing);
        if let Some(hot) = self.slots.get_mut(slot) {
            self.work.install(slot, hot);
        }
        self.enter(slot, Event::Passed);
        self.enforce_inbound();
    }

    /// What goes with a connection that speaks TLS.
    fn take_parts(&mut self, slot: u32) -> Option<Parts> {
        let (record, received) = self.secure.part(slot, &mut self.inbound)?;
        let outbox = self.slots.get(slot).and_then(|hot| hot.outbox.as_ref());
        let unsent = outbox.map(|outbox| outbox.sealed_bytes()).unwrap_or_default();
        Some(Parts { record, received, unsent })
    }

    /// What was received of a connection that is being handed over, which is no longer kept.
    fn take_passing(&mut self, slot: u32) -> Option<Passing> {
        let passing = self.handover.passing.remove(&slot)?;
        self.inbound.clear(passing.place);
        Some(passing)
    }

    /// Forgets what was received of a connection that is handed over no more.
    pub(super) fn drop_passing(&mut self, slot: u32) {
        drop(self.take_passing(slot));
    }
}
