//! Outgoing connections, until they are open: asked for by the application, connected by the ring,
//! answered by a server.
//!
//! Owns what is known of them until then. The invariant: the application hears of each dial once,
//! that it opens or why it does not.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use super::core::Core;
use super::handler::Handler;
use super::phase::Event;
use super::ring::Ring;
use super::slots::{Flags, Phase};
use super::token::{Op, Token};
use super::value::{Cause, DialTarget};
use super::worker::Worker;
use crate::protocol::response;
use crate::tls;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Dials {
    /// To be made.
    asked: VecDeque<Request>,
    /// By slot.
    begun: HashMap<u32, Dial>,
}

/// An outgoing connection that is to be made.
#[derive(Debug)]
struct Request {
    target: Arc<DialTarget>,
    local: Option<IpAddr>,
    tag: u64,
}

/// An outgoing connection before it is open.
#[derive(Debug)]
struct Dial {
    request: Request,
    key: [u8; 16],
    /// Why it will not open; empty as long as it may.
    failure: &'static str,
}

impl Dials {
    /// The application asks for a connection.
    pub(super) fn ask(&mut self, target: Arc<DialTarget>, local: Option<IpAddr>, tag: u64) {
        self.asked.push_back(Request { target, local, tag });
    }

    /// Appends the request of a dial, if it is one.
    pub(super) fn write_request(&self, slot: u32, out: &mut Vec<u8>) {
        let Some(dial) = self.begun.get(&slot) else { return };
        let target = &dial.request.target;
        let offer = target.compression.then(response::compression_offer);
        let headers: Vec<_> = target.headers.iter().cloned().chain(offer).collect();
        response::write_request(out, &target.host, &target.target, dial.key, &headers);
    }

    /// Whether connections are to be made.
    pub(super) fn are_asked(&self) -> bool {
        !self.asked.is_empty()
    }

    /// Whether nothing is asked for and nothing has begun.
    pub(super) fn is_empty(&self) -> bool {
        self.asked.is_empty() && self.begun.is_empty()
    }

    pub(super) fn shrink(&mut self) {
        self.asked.shrink_to_fit();
        self.begun.shrink_to_fit();
    }
}

impl<R: Ring, H: Handler> Worker<R, H> {
    /// Makes the request connections the application asked for.
    pub(super) fn dial(&mut self) {
        if !self.core.dials.are_asked() {
            return;
        }
        if self.drain.is_some() {
            // A server that goes away opens nothing, also if it is asked to again on being told so.
            for request in std::mem::take(&mut self.core.dials.asked) {
                let tag = request.tag;
                self.call_cx(|handler, cx| handler.on_dial_failed(cx, tag, "this side goes away"));
            }
            self.core.dials.asked.clear();
            return;
        }
        for _ in 0..DIALS_PER_TURN {
            let Some(request) = self.core.dials.asked.pop_front() else { return };
            let tag = request.tag;
            let peer = request.target.peer;
            if request.target.tls.is_some() && !self.core.secure.dials() {
                self.core.counted.connect_errors += 1;
                let text = "no TLS is set up for outgoing connections";
                self.call_cx(|handler, cx| handler.on_dial_failed(cx, tag, text));
                continue;
            }
            match self.ring.socket(peer, request.local) {
                Ok(slot) => {
                    self.vacate(slot);
                    let token = self.core.begin_dial(slot, request);
                    self.ring.connect(token, peer);
                }
                Err(error) => {
                    self.core.counted.connect_errors += 1;
                    let text = error.to_string();
                    self.call_cx(|handler, cx| handler.on_dial_failed(cx, tag, &text));
                }
            }
        }
    }

    #[inline(never)]
    pub(super) fn on_connected(&mut self, token: Token, result: io::Result<()>) {
        let slot = token.slot();
        let Some(hot) = self.core.slots.lookup(slot, token.generation()) else {
            self.core.counted.stale_completions += 1;
            return;
        };
        hot.clear(Flags::CONNECT);
        if hot.phase() != Phase::Connecting {
            return;
        }
        let failure = match result {
            Ok(()) => self.core.on_tcp_established(slot).err().map(|fault| fault.to_string()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(failure) = failure {
            self.fail_dial(slot, &failure);
            self.core.drop_connection(slot, Cause::Broken);
        }
    }

    /// Tells the application that a dial will not open, if it has not.
    pub(super) fn fail_dial(&mut self, slot: u32, failure: &str) {
        if let Some(dial) = self.core.dials.begun.remove(&slot) {
            self.core.counted.connect_errors += 1;
            self.call_cx(|handler, cx| handler.on_dial_failed(cx, dial.request.tag, failure));
        }
    }

    #[inline(never)]
    pub(super) fn on_response(&mut self, slot: u32, range: Range<usize>) {
        let Some(dial) = self.core.dials.begun.get(&slot) else { return };
        let (key, tag) = (dial.key, dial.request.tag);
        let offered = dial.request.target.compression;
        let mut head = self.core.take_head(slot);
        let before = head.bytes.len();
        head.bytes.extend_from_slice(&self.arena.bytes[range.clone()]);
        match response::parse_offered(&head.bytes, key, self.core.config.max_head, offered) {
            Ok(None) => self.core.keep_head(slot, head),
            Ok(Some(response::Answer { len, compression, .. })) => {
                self.core.dials.begun.remove(&slot);
                let state = self.call_cx(|handler, cx| handler.on_dialled(cx, tag));
                let rest = range.start + len.saturating_sub(before)..range.end;
                match state {
                    Some(state) => {
                        self.core.agree(slot, compression);
                        self.on_upgraded(slot, state, rest);
                    }
                    None => self.core.drop_connection(slot, Cause::Application),
                }
            }
            Err(rejected) => {
                self.fail_dial(slot, &rejected.to_string());
                self.core.drop_connection(slot, Cause::Broken);
            }
        }
    }

    /// The slot of a dial is given back: if it has not opened, it never will.
    pub(super) fn end_dial(&mut self, slot: u32) {
        if let Some(Dial { request, failure, .. }) = self.core.dials.begun.remove(&slot) {
            let failure = if failure.is_empty() { "this side gave up" } else { failure };
            self.call_cx(|handler, cx| handler.on_dial_failed(cx, request.tag, failure));
        }
    }
}

impl Core {
    fn begin_dial(&mut self, slot: u32, request: Request) -> Token {
        let hot = self.slots.open(slot, Phase::Connecting);
        hot.set(Flags::CLIENT | Flags::CONNECT);
        let token = Token::new(Op::Connect, slot, hot.generation);
        if let Some(cold) = self.slots.cold(slot) {
            cold.set_peer(request.target.peer);
        }
        let mut key = [0; 16];
        key[..8].copy_from_slice(&self.rng.draw().to_ne_bytes());
        key[8..].copy_from_slice(&self.rng.draw().to_ne_bytes());
        self.dials.begun.insert(slot, Dial { request, key, failure: "" });
        self.begin_phase(slot);
        token
    }

    /// The request leaves, or before it the handshake of TLS.
    fn on_tcp_established(&mut self, slot: u32) -> Result<(), tls::Fault> {
        let Some(dial) = self.dials.begun.get(&slot) else { return Ok(()) };
        let Some(hot) = self.slots.get_mut(slot) else { return Ok(()) };
        let resume = dial.request.target.resume;
        if let Some(name) = &dial.request.target.tls {
            let hello = self.secure.greet(slot, name, resume, &mut self.inbound)?;
            hot.set(Flags::TLS | Flags::GREETING);
            self.outgoing.push_sealed(slot, hot, hello, &self.clock);
        } else {
            let data = self.outgoing.write(|cork| self.dials.write_request(slot, cork));
            self.with_outbox(slot, |outbox| outbox.push_head(data));
        }
        self.enter(slot, Event::Connected);
        if let Some(hot) = self.slots.get_mut(slot) {
            self.work.arm_poll(slot, hot);
        }
        // A handshake takes memory; whoever has most of it pays.
        self.enforce_inbound();
        Ok(())
    }

    /// Remembers why an outgoing connection will not open. The first reason counts.
    pub(super) fn blame_dial(&mut self, slot: u32, failure: &'static str) {
        if let Some(dial) = self.dials.begun.get_mut(&slot).filter(|dial| dial.failure.is_empty()) {
            dial.failure = failure;
        }
    }
}

/// Outgoing connections started per turn, so that a dialler still answers its pings.
const DIALS_PER_TURN: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Config;

    #[test]
    fn why_a_dial_failed_depends_on_what_ended_it_and_the_first_reason_counts() {
        let why = |ends: &[Cause]| {
            let mut core = Core::alone(Config::default(), 1_000_000_000, 0);
            let target = DialTarget {
                peer: ([127, 0, 0, 1], 9).into(),
                host: "localhost".to_owned(),
                target: "/".to_owned(),
                headers: Vec::new(),
                tls: None,
                resume: false,
                compression: false,
            };
            core.begin_dial(1, Request { target: Arc::new(target), local: None, tag: 7 });
            for cause in ends {
                core.drop_connection(1, *cause);
            }
            core.dials.begun[&1].failure
        };
        assert_eq!(why(&[]), "");
        assert_eq!(why(&[Cause::Broken]), "the connection broke before the server answered");
        let closed = "the server closed the connection before it answered";
        assert_eq!(why(&[Cause::Abrupt, Cause::Broken]), closed);
        assert_eq!(why(&[Cause::Drain]), "given up, because this side goes away");
    }
}
