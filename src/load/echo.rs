//! The workload `echo`: what is sent comes back, once, unchanged and in order.
//!
//! Either each connection keeps a number of messages on their way (closed loop), or all connections
//! together send at a fixed rate, in turn. Latency counts from when a message was due. Large
//! messages may be among small ones ([`Mix`]). The invariant: messages of a connection are
//! numbered, and its echoes must come in that order.

use std::collections::VecDeque;
use std::time::Duration;

use ringhold::{Conn, ConnId, Cx, Kind};

use super::content::{Stamp, Wrong};
use super::driver::{Seat, Workload};
use super::mix::{Mix, Sizes};
use super::schedule::Schedule;
use super::tally::Traffic;

/// What one thread does.
pub(crate) struct Echo {
    seat: Seat,
    mix: Mix,
    /// Bytes of a message, on average.
    size: usize,
    /// Messages per second over all threads; 0: closed loop.
    rate: u64,
    /// Messages each connection keeps on their way, in a closed loop.
    pipeline: u32,
    peers: Vec<Peer>,
    schedule: Option<Schedule>,
    /// The next connection in turn.
    cursor: usize,
    /// Connections whose closed loop is to be started.
    fresh: VecDeque<usize>,
    sending: bool,
    traffic: Traffic,
}

#[derive(Clone, Copy, Debug, Default)]
struct Peer {
    /// `None` before it opens and after it is lost.
    id: Option<ConnId>,
    sent: u32,
    seen: u32,
}

impl Echo {
    pub(crate) fn new(seat: Seat, sizes: Sizes, rate: u64, pipeline: u32) -> Self {
        Self {
            seat,
            mix: Mix::new(sizes),
            size: sizes.mean(),
            rate,
            pipeline,
            peers: vec![Peer::default(); seat.share as usize],
            schedule: None,
            cursor: 0,
            fresh: VecDeque::new(),
            sending: false,
            traffic: Traffic::default(),
        }
    }

    /// Sends one message that was due at `due_ns`.
    fn send(&mut self, cx: &mut Cx<'_>, index: usize, due_ns: u64) {
        let from = self.seat.global(index as u32);
        let peer = &mut self.peers[index];
        let Some(id) = peer.id else { return };
        let stamp = Stamp { at_ns: due_ns, from, number: peer.sent.wrapping_add(1) };
        if cx.send_message_to(id, Kind::Binary, self.mix.write(stamp)).is_ok() {
            peer.sent = stamp.number;
            self.traffic.sent += 1;
        }
    }

    /// The closed loop's first messages, some of them per turn.
    fn start_loops(&mut self, cx: &mut Cx<'_>) -> Option<Duration> {
        let mut budget = Budget::new(self.size);
        while !budget.is_spent() {
            let index = self.fresh.pop_front()?;
            for _ in 0..self.pipeline {
                let now_ns = self.seat.clock.now_ns();
                self.send(cx, index, now_ns);
                budget.spend();
            }
        }
        Some(Duration::ZERO)
    }

    /// What the rate makes due, by connections in turn.
    fn keep_rate(&mut self, cx: &mut Cx<'_>, now_ns: u64) -> Option<Duration> {
        let mut budget = Budget::new(self.size);
        loop {
            if budget.is_spent() {
                return Some(Duration::ZERO);
            }
            let schedule = self.schedule.as_mut()?;
            let Some(due_ns) = schedule.take(now_ns) else { return Some(schedule.wait(now_ns)) };
            budget.spend();
            let index = self.next_open()?;
            let peer = &self.peers[index];
            let waiting = peer.sent.wrapping_sub(peer.seen) as usize;
            if waiting > BACKLOG_MAX / self.size {
                self.traffic.unsent += 1;
                continue;
            }
            self.traffic.lag_ns = self.traffic.lag_ns.max(now_ns - due_ns);
            self.send(cx, index, due_ns);
        }
    }

    fn next_open(&mut self) -> Option<usize> {
        let count = self.peers.len();
        let open = |at: &usize| self.peers[*at].id.is_some();
        let found = (0..count).map(|step| (self.cursor + step) % count).find(open)?;
        self.cursor = (found + 1) % count;
        Some(found)
    }

    fn judge(&self, index: usize, data: &[u8]) -> Result<(Stamp, bool), Wrong> {
        let expected = self.peers[index].seen.wrapping_add(1);
        let (stamp, is_large) = self.mix.read(data)?;
        if stamp.from != self.seat.global(index as u32) {
            return Err(Wrong::Stranger);
        }
        if stamp.number != expected {
            return Err(Wrong::Order);
        }
        Ok((stamp, is_large))
    }
}

impl Workload for Echo {
    fn on_open(&mut self, index: u32, id: ConnId) {
        self.peers[index as usize].id = Some(id);
        // One that comes back.
        if self.sending && self.rate == 0 {
            self.fresh.push_back(index as usize);
        }
    }

    fn on_message(&mut self, conn: &mut Conn<'_>, index: u32, data: &[u8]) {
        let now_ns = self.seat.clock.now_ns();
        let index = index as usize;
        match self.judge(index, data) {
            Ok((stamp, is_large)) => {
                match is_large {
                    false => self.traffic.on_message(stamp.at_ns, now_ns),
                    true => self.traffic.on_large_message(stamp.at_ns, now_ns),
                }
                self.peers[index].seen = stamp.number;
            }
            Err(how) => {
                self.traffic.on_wrong(how);
                // It stands for the one that was expected, so that one fault counts once.
                let peer = &mut self.peers[index];
                if peer.seen != peer.sent {
                    peer.seen = peer.seen.wrapping_add(1);
                    self.traffic.forfeited += 1;
                }
            }
        }
        if self.sending && self.rate == 0 {
            self.send(conn, index, now_ns);
        }
    }

    fn on_lost(&mut self, index: u32) {
        let peer = &mut self.peers[index as usize];
        peer.id = None;
        self.traffic.forfeited += u64::from(peer.sent.wrapping_sub(peer.seen));
    }

    fn on_left(&mut self, index: u32) {
        let peer = &mut self.peers[index as usize];
        self.traffic.withdraw(peer.sent.wrapping_sub(peer.seen));
        *peer = Peer { id: None, sent: peer.seen, ..*peer };
    }

    fn begin(&mut self, start_ns: u64) {
        self.sending = true;
        let open = self.peers.iter().enumerate().filter(|(_, peer)| peer.id.is_some());
        self.fresh = open.map(|(index, _)| index).collect();
        self.schedule = Schedule::new(start_ns, self.rate, self.seat.worker, self.seat.workers);
    }

    fn turn(&mut self, cx: &mut Cx<'_>, now_ns: u64) -> Option<Duration> {
        match (self.sending, self.rate) {
            (false, _) => None,
            (true, 0) => self.start_loops(cx),
            (true, _) => self.keep_rate(cx, now_ns),
        }
    }

    fn end(&mut self) {
        self.sending = false;
    }

    fn traffic(&mut self) -> &mut Traffic {
        &mut self.traffic
    }
}

/// What may be sent in one turn beside the answers, so that a thread also receives.
pub(crate) struct Budget {
    messages: usize,
}

impl Budget {
    pub(crate) fn new(size: usize) -> Self {
        Self { messages: (TURN_BYTES / size).clamp(1, TURN_MESSAGES) }
    }

    pub(crate) fn is_spent(&self) -> bool {
        self.messages == 0
    }

    pub(crate) fn spend(&mut self) {
        self.messages = self.messages.saturating_sub(1);
    }
}

/// Bytes of one connection that may wait for their echo at a fixed rate: far beyond what socket
/// buffers hold, so that reaching it means that the server does not keep up.
pub(crate) const BACKLOG_MAX: usize = 16 * 1024 * 1024;

/// Fits the L2 cache.
const TURN_BYTES: usize = 1024 * 1024;

/// About a millisecond of sends.
const TURN_MESSAGES: usize = 256;
