//! Who gets in: one-shot accepts, never more in flight than there is room for, so that the kernel
//! never has to throw away a connection it has accepted.
//!
//! A connection over a limit that still gets a slot (the reserve of each table) is told so: its
//! request is answered with 503. When even the reserve is used up, accepting stops and the rest
//! waits in the listener's queue. A served connection takes a seat: see `census`.

use std::io;
use std::net::SocketAddr;

use super::config::Config;
use super::core::Core;
use super::handler::Handler;
use super::ring::{LANES_MAX, Ring};
use super::slots::{Flags, Phase};
use super::worker::Worker;

/// The state of accepting on one core.
pub(super) struct Admission {
    /// Lanes that are not armed.
    idle: Lanes,
    lanes: u32,
    table: u32,
    /// Connections in the table that are not surplus: all but the reserve.
    share: u32,
    accepting: bool,
    listening: bool,
    /// Going away, and when somebody came last: accepting ends when nobody came for a while.
    leaving_ns: Option<u64>,
    /// Accepts per second, and what is left of them in millionths.
    rate: u32,
    tokens: u64,
    refilled_ns: u64,
    /// After an error of the host (no memory, no files), accepting rests until then.
    rest_until_ns: u64,
    paused: bool,
}

/// A set of accept lanes, as bits: a list would be a small block on the heap for life, and its
/// like, of which a burst needs hundreds, would leave a page of the allocator behind with it.
#[derive(Clone, Copy)]
struct Lanes(u64);

impl Lanes {
    fn all(count: u32) -> Self {
        assert!(count <= LANES_MAX, "{count} lanes");
        Self(if count == 0 { 0 } else { u64::MAX >> (LANES_MAX - count) })
    }

    fn len(self) -> u32 {
        self.0.count_ones()
    }

    fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn contains(self, lane: u32) -> bool {
        self.0 & 1 << lane != 0
    }

    fn put(&mut self, lane: u32) {
        debug_assert!(!self.contains(lane));
        self.0 |= 1 << lane;
    }

    /// The lowest.
    fn take(&mut self) -> Option<u32> {
        let lane = (!self.is_empty()).then(|| self.0.trailing_zeros())?;
        self.0 &= self.0 - 1;
        Some(lane)
    }
}

impl Admission {
    pub(super) fn new(config: &Config, lanes: u32, table: u32) -> Self {
        Self {
            idle: Lanes::all(lanes),
            lanes,
            table,
            share: table.saturating_sub(config.reserve),
            accepting: lanes > 0,
            listening: lanes > 0,
            leaving_ns: None,
            rate: config.accept_rate,
            tokens: u64::from(config.accept_rate) * MILLION,
            refilled_ns: 0,
            rest_until_ns: 0,
            paused: false,
        }
    }

    /// No accept is in flight.
    pub(super) fn is_quiet(&self) -> bool {
        self.idle.len() == self.lanes && !self.listening
    }

    /// Accepting waits for time to pass.
    pub(super) fn wants_tick(&self) -> bool {
        self.accepting && !self.idle.is_empty() && (self.rate > 0 || self.rest_until_ns > 0)
    }

    /// Whether a connection that is not accepted finds a slot beside those to come and the reserve.
    fn has_room(&self, used: u32, reserve: u32) -> bool {
        let armed = self.lanes - self.idle.len();
        used.saturating_add(armed).saturating_add(reserve) < self.table
    }

    fn refill(&mut self, now_ns: u64) {
        let elapsed_us = now_ns.saturating_sub(self.refilled_ns) / 1000;
        self.refilled_ns += elapsed_us * 1000;
        let burst = u64::from(self.rate) * MILLION;
        self.tokens = (self.tokens + elapsed_us * u64::from(self.rate)).min(burst);
    }
}

impl<R: Ring, H: Handler> Worker<R, H> {
    /// Arms as many accepts as there are free slots, tokens and lanes.
    pub(super) fn arm_accepts(&mut self) {
        let admission = &mut self.admission;
        let is_full = admission.idle.is_empty() && admission.leaving_ns.is_none();
        if !admission.listening || is_full && admission.accepting {
            return;
        }
        if !admission.accepting {
            if admission.idle.len() == admission.lanes {
                admission.listening = false;
                self.ring.close_listener();
            }
            return;
        }
        let now = self.core.clock.now_ns();
        let armed = admission.lanes - admission.idle.len();
        // Lanes that stayed armed for so long prove that the queue is empty.
        if armed > 0 && admission.leaving_ns.is_some_and(|at| now >= at + QUIET_NS) {
            self.stop_listening_now();
            return;
        }
        if now < admission.rest_until_ns {
            return;
        }
        admission.rest_until_ns = 0;
        let mut free = admission.table.saturating_sub(self.core.slots.used() + armed);
        if self.core.is_full() || self.core.slots.used() + armed >= admission.share {
            // Who comes now is here only to be refused; more than the reserve wait their turn.
            free = free
                .min(self.core.config.reserve.saturating_sub(self.core.census.surplus() + armed));
        }
        let mut allowed = free.min(admission.idle.len());
        if free == 0 && armed == 0 && !admission.paused {
            admission.paused = true;
            self.core.counted.accept_pauses += 1;
        }
        if free > 0 {
            admission.paused = false;
        }
        if admission.rate > 0 {
            admission.refill(now);
            let tokens = (admission.tokens / MILLION) as u32;
            if allowed > 0 && tokens <= armed {
                self.core.counted.accept_rate_pauses += 1;
            }
            allowed = allowed.min(tokens.saturating_sub(armed));
        }
        for _ in 0..allowed {
            let Some(lane) = admission.idle.take() else { return };
            self.ring.accept(lane);
        }
    }

    /// Starts to close the listener without losing who already knocked: from here on the kernel
    /// drops requests to connect, which clients repeat after a second, and by then a listener of
    /// another process answers them. Handshakes in progress complete and are accepted.
    pub(super) fn stop_accepting(&mut self) {
        if self.admission.accepting && self.admission.leaving_ns.is_none() {
            self.admission.leaving_ns = Some(self.core.clock.now_ns());
            self.ring.stop_listening();
        }
    }

    /// Lets what is in flight finish and closes the listener.
    pub(super) fn stop_listening_now(&mut self) {
        if !self.admission.accepting {
            return;
        }
        self.admission.accepting = false;
        for lane in 0..self.admission.lanes {
            if !self.admission.idle.contains(lane) {
                self.ring.cancel_accept(lane);
            }
        }
    }

    #[inline(never)]
    pub(super) fn on_accepted(&mut self, lane: u32, result: io::Result<(u32, SocketAddr)>) {
        self.admission.idle.put(lane);
        match result {
            Ok((slot, peer)) => {
                if let Some(at) = &mut self.admission.leaving_ns {
                    *at = self.core.clock.now_ns();
                }
                self.admission.tokens = self.admission.tokens.saturating_sub(MILLION);
                self.vacate(slot);
                self.core.admit_connection(slot, peer, self.admission.share);
            }
            Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => {}
            Err(error) => {
                self.core.counted.accept_errors += 1;
                if !is_of_the_peer(&error) {
                    self.admission.rest_until_ns = self.core.clock.now_ns() + REST_NS;
                }
            }
        }
    }

    /// Whether there is a slot for a connection that was accepted elsewhere.
    pub(super) fn has_room(&self) -> bool {
        self.admission.has_room(self.core.slots.used(), self.core.config.reserve)
    }

    /// The kernel hands out a slot only after it closed the last tenant's descriptor; its
    /// completion may still be on the way.
    pub(super) fn vacate(&mut self, slot: u32) {
        if self.core.slots.get(slot).is_some() {
            self.core.counted.stale_completions += 1;
            self.forget(slot);
        }
    }
}

impl Core {
    fn admit_connection(&mut self, slot: u32, peer: SocketAddr, share: u32) {
        self.counted.accepted += 1;
        let tick = self.clock.tick();
        let hot = self.slots.open(slot, Phase::Handshake);
        hot.pulse.seen = tick;
        if self.secure.accepts() {
            hot.set(Flags::TLS | Flags::GREETING);
        }
        if let Some(cold) = self.slots.cold(slot) {
            cold.set_peer(peer);
            let now_us = self.clock.now_us();
            (cold.messages, cold.bytes) = (now_us, now_us);
        }
        let over_total = self.slots.used() > share || !self.take_seat(slot);
        // Who speaks for others is counted as the one it speaks for: see `proxies`.
        let known = !over_total && !self.config.proxies.believe(peer.ip());
        let over_address = known && !self.count_client(slot, peer);
        let over = if over_total {
            self.counted.refused_full += 1;
            true
        } else if over_address {
            self.counted.refused_per_address += 1;
            true
        } else {
            false
        };
        if over {
            if !over_total && self.census.surplus() >= self.config.reserve {
                // One address does not get all the room there is to say so.
                self.release(slot);
                return;
            }
            self.make_surplus(slot);
        }
        self.begin_phase(slot);
        // The request often came with the connection.
        self.mark_ready(slot);
    }
}

/// Errors of accept that concern one connection, which is gone (accept(2), "Error handling").
fn is_of_the_peer(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::EINTR
                | libc::EPROTO
                | libc::ENETDOWN
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::EHOSTUNREACH
                | libc::EOPNOTSUPP
                | libc::ENETUNREACH
                | libc::EPERM
        )
    )
}

const MILLION: u64 = 1_000_000;

/// How long accepting rests when the host is out of memory or files.
const REST_NS: u64 = 100_000_000;

/// How long a listener that goes away waits for the last step of handshakes in progress: most round
/// trips around the globe, and far from the second after which a dropped request is repeated.
const QUIET_NS: u64 = 500_000_000;

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
