//! Counts of a core's connections: the open, the streams among them, those to be refused; and the
//! server's counts, against `max_connections` and `max_per_address`.
//!
//! Owns these counts. Never decides about an accept. The invariant: a connection takes a seat from
//! its accept until its close is decided. Connections to be refused and connections on their way
//! out take none: the table bounds both.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::addresses::{AddressPlace, Addresses};
use super::core::Core;
use super::slots::{Flags, Hot};

/// See the module's text.
pub(super) struct Census {
    open: u64,
    /// Streams among the open.
    streams: u64,
    /// Connections that are here only to be refused.
    surplus: u32,
    /// Connections of the whole server.
    total: Arc<AtomicU32>,
    /// Where the whole server's connections come from.
    addresses: Arc<Addresses>,
}

impl Census {
    pub(super) fn new(total: Arc<AtomicU32>, addresses: Arc<Addresses>) -> Self {
        Self { open: 0, streams: 0, surplus: 0, total, addresses }
    }

    /// A connection opens.
    pub(super) fn enter(&mut self, hot: &mut Hot) {
        hot.set(Flags::ANNOUNCED);
        self.open += 1;
        self.streams += u64::from(hot.has(Flags::STREAM));
    }

    /// A connection closes. False if it was not open.
    pub(super) fn leave(&mut self, hot: &mut Hot) -> bool {
        let was = hot.clear(Flags::ANNOUNCED);
        if was {
            self.open -= 1;
            self.streams -= u64::from(hot.has(Flags::STREAM));
        }
        was
    }

    /// One that is here only to be refused is gone.
    pub(super) fn drop_surplus(&mut self, hot: &mut Hot) {
        self.surplus -= u32::from(hot.clear(Flags::SURPLUS));
    }

    /// Connections that are open.
    pub(super) fn open(&self) -> u64 {
        self.open
    }

    /// Streams among them.
    pub(super) fn streams(&self) -> u64 {
        self.streams
    }

    /// Connections that are here only to be refused.
    pub(super) fn surplus(&self) -> u32 {
        self.surplus
    }
}

impl Core {
    /// Whether the next connection is one too many.
    pub(super) fn is_full(&self) -> bool {
        self.census.total.load(Ordering::Relaxed) >= self.config.max_connections
    }

    /// Takes one of the server's seats for a connection. False if there is none.
    pub(super) fn take_seat(&mut self, slot: u32) -> bool {
        let most = self.config.max_connections;
        let free = |seats: u32| (seats < most).then(|| seats + 1);
        let taken =
            self.census.total.fetch_update(Ordering::Relaxed, Ordering::Relaxed, free).is_ok();
        if let (Some(hot), true) = (self.slots.get_mut(slot), taken) {
            hot.set(Flags::COUNTED);
        }
        taken
    }

    /// Enters a connection, whose client's address is now known, into the table of addresses.
    /// False if that one has as many as it may have: then it is not entered.
    pub(super) fn count_client(&mut self, slot: u32, client: SocketAddr) -> bool {
        let limit = self.config.max_per_address;
        let fits = limit == 0 || self.census.addresses.enter(client.ip(), limit);
        if let (Some(hot), true) = (self.slots.get_mut(slot), fits) {
            hot.set(Flags::KNOWN);
        }
        fits
    }

    /// A connection no longer counts for its former client.
    pub(super) fn change_client(&mut self, slot: u32, before: SocketAddr) {
        let known = self.slots.get_mut(slot).is_some_and(|hot| hot.clear(Flags::KNOWN));
        if known && self.config.max_per_address > 0 {
            drop(AddressPlace::new(self.census.addresses.clone(), before.ip()));
        }
    }

    /// Here only to be refused, so it takes no seat.
    pub(super) fn make_surplus(&mut self, slot: u32) {
        self.free_seat(slot);
        if self.slots.get_mut(slot).is_some_and(|hot| !hot.set(Flags::SURPLUS)) {
            self.census.surplus += 1;
        }
    }

    /// Gives the seat of a connection to the next: when its close is decided, which may take as
    /// long as its peer likes.
    pub(super) fn free_seat(&mut self, slot: u32) {
        let Some(hot) = self.slots.get_mut(slot) else { return };
        if !hot.clear(Flags::COUNTED) {
            return;
        }
        self.census.total.fetch_sub(1, Ordering::Relaxed);
        let limited = hot.has(Flags::KNOWN) && self.config.max_per_address > 0;
        if let (Some(cold), true) = (self.slots.cold(slot), limited) {
            self.census.addresses.start_leaving(cold.peer().ip());
        }
    }

    /// Takes a connection out of the table of addresses, when its slot is given back.
    pub(super) fn uncount(&mut self, slot: u32) {
        self.free_seat(slot);
        let known = self.slots.get_mut(slot).is_some_and(|hot| hot.clear(Flags::KNOWN));
        if !known || self.config.max_per_address == 0 {
            return;
        }
        let Some(peer) = self.slots.cold(slot).map(|cold| cold.peer()) else { return };
        self.census.addresses.leave(peer.ip());
    }

    /// What a connection that leaves the engine goes on to be counted as.
    pub(super) fn take_place(&mut self, slot: u32) -> AddressPlace {
        let Some(hot) = self.slots.get_mut(slot) else { return AddressPlace::default() };
        if !hot.has(Flags::COUNTED) || !hot.clear(Flags::KNOWN) {
            return AddressPlace::default();
        }
        match self.slots.cold(slot).filter(|_| self.config.max_per_address > 0) {
            Some(cold) => AddressPlace::new(self.census.addresses.clone(), cold.peer().ip()),
            None => AddressPlace::default(),
        }
    }
}
