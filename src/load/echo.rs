//! The workload `echo`: what is sent comes back, once, unchanged and in order.
//!
//! Either each connection keeps a number of messages on their way (closed loop), or all connections
//! together send at a fixed rate, in turn. Latency counts from when a message was due. Large
//! messages may be among small ones ([`Mix`]). The invariant: messages of a connection are
//! numbered, and what comes again, after a later one or not at all counts as that and nothing else.

use std::collections::VecDeque;
use std::time::Duration;

use ringhold::{ConnId, Connection, Context, Kind};

use super::content::{Stamp, Wrong};
use super::driver::{Seat, Workload};
use super::mix::{Mix, Sizes};
use super::schedule::Schedule;
use super::sequence::{Arrival, Gaps};
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

#[derive(Clone, Debug, Default)]
struct Peer {
    /// `None` before it opens and after it is lost.
    id: Option<ConnId>,
    sent: u32,
    /// The highest number that came back.
    last: u32,
    gaps: Gaps,
}

impl Peer {
    /// Messages that may still come back.
    fn waiting(&self) -> u32 {
        self.sent.saturating_sub(self.last)
    }
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
    fn send(&mut self, cx: &mut Context<'_>, index: usize, due_ns: u64) {
        let from = self.seat.global(index as u32);
        let peer = &mut self.peers[index];
        let Some(id) = peer.id else { return };
        let stamp = Stamp { at_ns: due_ns, from, number: peer.sent + 1 };
        if cx.send_message_to(id, Kind::Binary, self.mix.write(stamp)).is_ok() {
            peer.sent = stamp.number;
            self.traffic.sent += 1;
        }
    }

    /// The closed loop's first messages, some of them per turn.
    fn start_loops(&mut self, cx: &mut Context<'_>) -> Option<Duration> {
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
    fn keep_rate(&mut self, cx: &mut Context<'_>, now_ns: u64) -> Option<Duration> {
        let mut budget = Budget::new(self.size);
        loop {
            if budget.is_spent() {
                return Some(Duration::ZERO);
            }
            let schedule = self.schedule.as_mut()?;
            let Some(due_ns) = schedule.take(now_ns) else { return Some(schedule.wait(now_ns)) };
            budget.spend();
            let index = self.next_open()?;
            if self.peers[index].waiting() as usize > BACKLOG_MAX / self.size {
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
        let (stamp, is_large) = self.mix.read(data)?;
        match stamp.from == self.seat.global(index as u32) && stamp.number <= self.peers[index].sent
        {
            true => Ok((stamp, is_large)),
            false => Err(Wrong::Stranger),
        }
    }

    /// A message came. Whether it is one that was waited for.
    fn deliver(&mut self, index: usize, data: &[u8], now_ns: u64) -> bool {
        let (stamp, is_large) = match self.judge(index, data) {
            Ok(judged) => judged,
            Err(how) => {
                self.traffic.on_wrong(how);
                // It stands for the one that was expected, so that one fault counts once. One of
                // another connection stands for none of this one's.
                let peer = &mut self.peers[index];
                let stands = how != Wrong::Stranger && peer.waiting() > 0;
                if stands {
                    peer.last += 1;
                    self.traffic.forfeited += 1;
                }
                return stands;
            }
        };
        let peer = &mut self.peers[index];
        match peer.gaps.arrive(0, &mut peer.last, stamp.number) {
            Arrival::New => {}
            Arrival::Late => self.traffic.late += 1,
            Arrival::Again => {
                self.traffic.duplicates += 1;
                return false;
            }
        }
        match is_large {
            false => self.traffic.on_message(stamp.at_ns, now_ns),
            true => self.traffic.on_large_message(stamp.at_ns, now_ns),
        }
        true
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

    fn on_message(&mut self, conn: &mut Connection<'_>, index: u32, data: &[u8]) {
        let now_ns = self.seat.clock.now_ns();
        let index = index as usize;
        // What comes unasked must not make the loop grow.
        if self.deliver(index, data, now_ns) && self.sending && self.rate == 0 {
            self.send(conn, index, now_ns);
        }
    }

    fn on_lost(&mut self, index: u32) {
        let peer = &mut self.peers[index as usize];
        peer.id = None;
        self.traffic.forfeited += u64::from(peer.waiting()) + peer.gaps.close();
        peer.last = peer.sent;
    }

    fn on_left(&mut self, index: u32) {
        let peer = &mut self.peers[index as usize];
        self.traffic.withdraw(peer.waiting());
        self.traffic.forfeited += peer.gaps.close();
        *peer = Peer { id: None, sent: peer.last, last: peer.last, gaps: Gaps::default() };
    }

    fn begin(&mut self, start_ns: u64) {
        self.sending = true;
        let open = self.peers.iter().enumerate().filter(|(_, peer)| peer.id.is_some());
        self.fresh = open.map(|(index, _)| index).collect();
        self.schedule = Schedule::new(start_ns, self.rate, self.seat.worker, self.seat.workers);
    }

    fn turn(&mut self, cx: &mut Context<'_>, now_ns: u64) -> Option<Duration> {
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

#[cfg(test)]
mod tests {
    use super::super::board::Clock;
    use super::*;

    fn echo(sent: u32) -> Echo {
        let seat = Seat { worker: 0, workers: 1, share: 2, clock: Clock::start() };
        let mut echo = Echo::new(seat, Sizes::same(32), 0, 1);
        echo.peers[0].sent = sent;
        echo.traffic.sent = u64::from(sent);
        echo
    }

    fn came(echo: &mut Echo, from: u32, number: u32) -> bool {
        let mut mix = Mix::new(Sizes::same(32));
        let data = mix.write(Stamp { at_ns: 0, from, number }).to_vec();
        echo.deliver(0, &data, 1)
    }

    #[test]
    fn one_that_comes_twice_is_one_fault() {
        let mut echo = echo(5);
        let asked: Vec<_> = [1, 2, 2, 3, 4, 5].map(|number| came(&mut echo, 0, number)).to_vec();
        assert_eq!(asked, [true, true, false, true, true, true]);
        let traffic = &echo.traffic;
        assert_eq!(
            (traffic.seen, traffic.duplicates, traffic.late, traffic.forfeited),
            (5, 1, 0, 0)
        );
        assert!(traffic.wrong.is_empty());
    }

    #[test]
    fn one_that_is_lost_and_two_that_are_swapped_are_told_apart() {
        let mut echo = echo(6);
        for number in [1, 3, 5, 4, 6] {
            assert!(came(&mut echo, 0, number));
        }
        let traffic = &echo.traffic;
        assert_eq!((traffic.seen, traffic.duplicates, traffic.late), (5, 0, 1));
        // Number 2 does not come any more.
        echo.on_lost(0);
        assert_eq!(echo.traffic.forfeited, 1);
    }

    #[test]
    fn what_was_never_sent_here_and_what_is_broken_are_wrong() {
        let mut echo = echo(3);
        assert!(!came(&mut echo, 1, 1) && !came(&mut echo, 0, 4));
        assert_eq!(echo.traffic.wrong[&Wrong::Stranger], 2);
        assert!(echo.deliver(0, b"short", 1));
        assert!(came(&mut echo, 0, 2) && came(&mut echo, 0, 3));
        let traffic = &echo.traffic;
        assert_eq!((traffic.seen, traffic.forfeited, traffic.duplicates), (2, 1, 0));
        assert!(!echo.deliver(0, b"short", 1), "nothing is waited for");
        assert_eq!(echo.traffic.forfeited, 1);
    }

    #[test]
    fn what_is_on_its_way_when_we_leave_was_never_sent() {
        let mut echo = echo(5);
        assert!(came(&mut echo, 0, 1) && came(&mut echo, 0, 3));
        echo.on_left(0);
        let traffic = &echo.traffic;
        assert_eq!((traffic.sent, traffic.seen, traffic.forfeited), (3, 2, 1));
        assert_eq!((echo.peers[0].sent, echo.peers[0].last), (3, 3));
    }
}
