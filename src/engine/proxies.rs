//! Whose connection it is, where proxies stand in front: a PROXY header before the first request,
//! `X-Forwarded-For` in it.
//!
//! Owns the step from the address that connected to the client's. Never parses: the protocol layer
//! does. The invariant: a connection's address changes only while it is not known, and it is known,
//! and counted, from its first request on at the latest.

use std::ops::Range;

use super::config::{ProxyHeaders, Via};
use super::core::Core;
use super::handler::Handler;
use super::opening::Head;
use super::ring::Ring;
use super::slots::{Flags, Phase};
use super::worker::Worker;
use crate::protocol::forwarded;
use crate::protocol::proxy_header::{self, Start};
use crate::protocol::request::{Refusal, Request};

/// What becomes of the first bytes of a connection.
enum Greeting {
    /// They may be the beginning of a header.
    Wait,
    /// So many of them are a header; what is behind is the connection's own.
    Pass(usize),
    /// The connection is refused.
    Refuse(GreetingFault),
}

/// What is wrong with the beginning of a connection.
#[derive(Clone, Copy)]
enum GreetingFault {
    Unexpected,
    Untrusted,
    Missing,
    Malformed(&'static str),
}

impl<R: Ring, H: Handler> Worker<R, H> {
    /// Takes a PROXY header off the beginning of a connection. Returns which part of what was just
    /// received is behind it; `None` if nothing is yet, or the connection is refused.
    ///
    /// A header that comes whole, as they do, is read where it lies.
    pub(super) fn after_proxy_header(
        &mut self,
        slot: u32,
        range: Range<usize>,
    ) -> Option<Range<usize>> {
        let core = &mut self.core;
        let received = &self.arena.bytes[range.clone()];
        let mut head = core.take_head(slot);
        let before = head.bytes.len();
        let greeting = if before == 0 {
            core.greet(slot, received)
        } else {
            head.bytes.extend_from_slice(received);
            core.greet(slot, &head.bytes)
        };
        match greeting {
            Greeting::Wait => {
                if before == 0 {
                    head.bytes.extend_from_slice(received);
                }
                core.keep_head(slot, head);
                None
            }
            Greeting::Pass(0) => {
                // What looked like a header until now belongs to the request.
                if before > 0 {
                    head.bytes.truncate(before);
                    core.keep_head(slot, Head::of(head.bytes));
                    let stays = core.slots.get(slot)?.phase() == Phase::Handshake;
                    return stays.then_some(range);
                }
                Some(range)
            }
            // The last byte of the header is among those just received.
            Greeting::Pass(len) => {
                let start = range.start + len.saturating_sub(before);
                let stays = core.slots.get(slot).is_some_and(|hot| hot.phase() == Phase::Handshake);
                (stays && start < range.end).then_some(start..range.end)
            }
            Greeting::Refuse(fault) => {
                core.refuse_greeting(slot, fault);
                None
            }
        }
    }
}

impl Core {
    /// Judges the first bytes of a connection, and learns from a header who the client is.
    fn greet(&mut self, slot: u32, bytes: &[u8]) -> Greeting {
        let Some(proxy) = self.slots.cold(slot).map(|cold| cold.peer()) else {
            return Greeting::Wait;
        };
        let proxies = &self.config.proxies;
        let trusted = forwarded::is_trusted(&proxies.trusted, proxy.ip());
        let expected = proxies.headers != ProxyHeaders::Off;
        let header = match proxy_header::parse(bytes) {
            Ok(Start::Undecided) => return Greeting::Wait,
            Ok(Start::Plain) if proxies.headers == ProxyHeaders::Required => {
                return Greeting::Refuse(GreetingFault::Missing);
            }
            Ok(Start::Plain) => None,
            // Else it would be taken for strange HTTP, and nobody would know what to switch on.
            _ if !expected => return Greeting::Refuse(GreetingFault::Unexpected),
            _ if !trusted => return Greeting::Refuse(GreetingFault::Untrusted),
            Ok(Start::Header(header)) => Some(header),
            Err(malformed) => {
                return Greeting::Refuse(GreetingFault::Malformed(malformed.reason()));
            }
        };
        if let Some(hot) = self.slots.get_mut(slot) {
            hot.set(Flags::GREETED);
        }
        let Some(header) = header else { return Greeting::Pass(0) };
        let client = header.source.unwrap_or(proxy);
        if let Some(cold) = self.slots.cold(slot) {
            cold.set_peer(client);
        }
        // A proxy that names a proxy may say more in the request. One that names nobody may not:
        // what follows is not said by it.
        let more = header.source.is_some() && self.config.proxies.believe(client.ip());
        if !more && self.refusal_of(slot).is_none() && !self.count_client(slot, client) {
            self.turn_away(slot);
        }
        Greeting::Pass(header.len)
    }

    /// Learns from the first request who the client is, unless that is known. Returns which way
    /// the connection's requests come; asked again, it knows the client only.
    pub(super) fn learn_client(&mut self, slot: u32, request: &Request<'_>) -> Option<Via> {
        if let Some((_, via)) = self.adopted.of(slot) {
            // Nobody's connections are counted who comes by another port.
            return Some(via);
        }
        let known = self.slots.get(slot)?.has(Flags::KNOWN);
        let peer = self.slots.cold(slot)?.peer();
        // Who is refused anyway is not counted.
        if known || self.refusal_of(slot).is_some() {
            return Some(Via { peer, forwards: false });
        }
        let proxies = &self.config.proxies;
        // What is not known yet is a trusted proxy's.
        let via = Via { peer, forwards: proxies.forwarded_for };
        let client = proxies.client(via, forwarded_for(request));
        self.slots.cold(slot)?.set_peer(client);
        if !self.count_client(slot, client) {
            // Its request is here, and needs no more room to be answered.
            self.counted.refused_per_address += 1;
            self.make_surplus(slot);
        }
        Some(via)
    }

    /// The next request of a connection that a proxy keeps is perhaps another client's, which the
    /// connection counts for from now on.
    pub(super) fn follow_client(&mut self, slot: u32, via: Via, request: &Request<'_>) {
        let client = self.config.proxies.client(via, forwarded_for(request));
        let Some(before) = self.slots.cold(slot).map(|cold| cold.peer()) else { return };
        if let Some(cold) = self.slots.cold(slot) {
            cold.set_peer(client);
        }
        if before.ip() == client.ip() {
            return;
        }
        self.change_client(slot, before);
        if !self.count_client(slot, client) {
            self.counted.refused_per_address += 1;
            self.make_surplus(slot);
        }
    }

    /// One connection too many of a client: here only to be told so, or not at all if there is no
    /// room even for that.
    fn turn_away(&mut self, slot: u32) {
        self.counted.refused_per_address += 1;
        if self.census.surplus() >= self.config.reserve {
            self.release(slot);
        } else {
            self.make_surplus(slot);
            // With less time than one that is served.
            self.begin_phase(slot);
        }
    }

    fn refuse_greeting(&mut self, slot: u32, fault: GreetingFault) {
        // One beyond a limit is told that, and is counted already.
        if let Some(refusal) = self.refusal_of(slot) {
            return self.refuse(slot, refusal);
        }
        let (counter, reason) = match fault {
            GreetingFault::Unexpected => (
                &mut self.counted.refused_proxy_untrusted,
                "a PROXY header, which this server does not expect",
            ),
            GreetingFault::Untrusted => (
                &mut self.counted.refused_proxy_untrusted,
                "a PROXY header from an address that is not trusted",
            ),
            GreetingFault::Missing => (&mut self.counted.refused_proxy_missing, "no PROXY header"),
            GreetingFault::Malformed(reason) => (&mut self.counted.refused_proxy_malformed, reason),
        };
        *counter += 1;
        self.refuse(slot, Refusal::BadRequest(reason));
    }
}

/// The lines of `X-Forwarded-For`.
fn forwarded_for<'r>(request: &'r Request<'_>) -> impl DoubleEndedIterator<Item = &'r [u8]> {
    let lines = request.headers().filter(|(name, _)| name.eq_ignore_ascii_case(FORWARDED_FOR));
    lines.map(|(_, value)| value).collect::<Vec<_>>().into_iter()
}

const FORWARDED_FOR: &str = "X-Forwarded-For";
