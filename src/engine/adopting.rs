//! Connections that were accepted elsewhere, on a port that the engine does not know, and that the
//! application has served here: it hands their sockets in.
//!
//! Owns those that wait to be taken, and which port each that is served came by. Never reads. The
//! invariant: a connection has an entry from its adoption until it is released, and takes no seat
//! of [`Config::max_connections`](super::Config::max_connections): who accepted it has limits of
//! its own, and [`Config::max_adopted`](super::Config::max_adopted) bounds how many are here.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use bytes::Bytes;

use super::addresses::AddressPlace;
use super::config::Via;
use super::core::Core;
use super::handler::Handler;
use super::handover::Detached;
use super::ring::Ring;
use super::slots::{Flags, Phase};
use super::worker::Worker;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Adopted {
    asked: VecDeque<Adoption>,
    here: HashMap<u32, (u8, Via)>,
    /// By which port the connection came that the application is called about.
    at_hand: u8,
}

/// A connection that is to be taken.
#[derive(Debug)]
struct Adoption {
    socket: OwnedFd,
    peer: SocketAddr,
    port: u8,
}

impl Adopted {
    /// The application hands one in.
    pub(super) fn ask(&mut self, socket: OwnedFd, peer: SocketAddr, port: u8) {
        self.asked.push_back(Adoption { socket, peer, port });
    }

    /// How many are here.
    pub(super) fn len(&self) -> usize {
        self.here.len()
    }

    /// Which port a connection came by, and which way its requests come; `None` if it was accepted
    /// here.
    #[inline]
    pub(super) fn of(&self, slot: u32) -> Option<(u8, Via)> {
        // Mostly there are none, and the table is not looked into.
        if self.here.is_empty() {
            return None;
        }
        self.here.get(&slot).copied()
    }

    /// The application is called about a connection that came by this port.
    #[inline]
    pub(super) fn turn_to(&mut self, port: u8) {
        self.at_hand = port;
    }

    /// By which port the connection at hand came.
    pub(super) fn at_hand(&self) -> u8 {
        self.at_hand
    }

    /// One is gone.
    #[inline]
    pub(super) fn forget(&mut self, slot: u32) {
        if !self.here.is_empty() {
            self.here.remove(&slot);
        }
    }

    pub(super) fn shrink(&mut self) {
        self.asked.shrink_to_fit();
        self.here.shrink_to_fit();
    }
}

impl<R: Ring, H: Handler> Worker<R, H> {
    /// Takes the connections that were handed in, and gives back those that there is no room for.
    pub(super) fn adopt(&mut self) {
        while let Some(Adoption { socket, peer, port }) = self.core.adopted.asked.pop_front() {
            let few = self.core.adopted.len() < self.core.config.max_adopted as usize;
            let room = self.drain.is_none() && few && self.has_room();
            let entered = match room {
                true => self.ring.adopt(socket),
                false => Err(socket),
            };
            match entered {
                Ok(slot) => {
                    self.vacate(slot);
                    self.core.begin_adopted(slot, peer, port);
                }
                Err(socket) => {
                    self.core.counted.adopt_refused += 1;
                    let via = self.core.config.proxies.via(peer);
                    let (received, place) = (Bytes::new(), AddressPlace::default());
                    let passed = Detached { socket, received, via, place, tls: None };
                    self.give_back_detached(port, passed);
                }
            }
        }
    }

    /// Tells the application that a connection left, or was not taken.
    pub(super) fn give_back_detached(&mut self, port: u8, passed: Detached) {
        self.core.adopted.turn_to(port);
        self.call_cx(|handler, cx| handler.on_detach(cx, passed));
        self.core.adopted.turn_to(0);
    }
}

impl Core {
    fn begin_adopted(&mut self, slot: u32, peer: SocketAddr, port: u8) {
        self.counted.adopted += 1;
        let tick = self.clock.tick();
        let hot = self.slots.open(slot, Phase::Handshake);
        hot.pulse.seen = tick;
        // Whoever accepted it knows no PROXY header.
        hot.set(Flags::GREETED);
        if let Some(cold) = self.slots.cold(slot) {
            cold.set_peer(peer);
            let now_us = self.clock.now_us();
            (cold.messages, cold.bytes) = (now_us, now_us);
        }
        self.adopted.here.insert(slot, (port, self.config.proxies.via(peer)));
        self.begin_phase(slot);
        self.mark_ready(slot);
    }
}
