//! The workload `fanout`: what one connection publishes comes to all of them, once and in order.
//!
//! The first connections are the publishers; all connections are subscribers. Latency counts from
//! when a message was due to each delivery. The invariant: of each publisher, a connection is
//! expected to see the numbers 1, 2, 3... without a gap.

use std::time::Duration;

use ringhold::{Conn, ConnId, Cx, Kind, Message};

use super::content::{Content, Stamp, Wrong};
use super::driver::{Seat, Workload};
use super::echo::Budget;
use super::schedule::Schedule;
use super::tally::Traffic;

/// What one thread does.
pub(crate) struct Fanout {
    seat: Seat,
    content: Content,
    size: usize,
    /// Messages per second over all publishers; 0: each sends when its own message came back.
    rate: u64,
    /// Messages each publisher keeps on their way, if there is no rate.
    pipeline: u32,
    /// Publishers of all threads: the connections with the lowest numbers.
    publishers: u32,
    /// Those of this thread, by connection.
    mine: Vec<Publisher>,
    /// The last number seen by each connection from each publisher.
    last: Vec<u32>,
    /// Numbers each connection has skipped so far.
    gaps: Vec<u32>,
    sending: bool,
    traffic: Traffic,
}

#[derive(Clone, Debug, Default)]
struct Publisher {
    id: Option<ConnId>,
    sent: u32,
    /// What it may still send to begin with, if there is no rate.
    credit: u32,
    schedule: Option<Schedule>,
}

impl Fanout {
    pub(crate) fn new(seat: Seat, size: usize, rate: u64, pipeline: u32, publishers: u32) -> Self {
        let mine = super::schedule::share(publishers, seat.worker, seat.workers);
        let connections = seat.share as usize;
        Self {
            seat,
            content: Content::new(size),
            size,
            rate,
            pipeline,
            publishers,
            mine: vec![Publisher::default(); mine as usize],
            last: vec![0; connections * publishers as usize],
            gaps: vec![0; connections],
            sending: false,
            traffic: Traffic::default(),
        }
    }

    fn publish(&mut self, cx: &mut Cx<'_>, index: usize, due_ns: u64) {
        let from = self.seat.global(index as u32);
        let publisher = &mut self.mine[index];
        let Some(id) = publisher.id else { return };
        let stamp = Stamp { at_ns: due_ns, from, number: publisher.sent.wrapping_add(1) };
        if cx.send_message_to(id, Kind::Binary, self.content.write(stamp)).is_ok() {
            publisher.sent = stamp.number;
            self.traffic.sent += 1;
        }
    }

    fn spend_credit(&mut self, cx: &mut Cx<'_>) -> Option<Duration> {
        let mut budget = Budget::new(self.size);
        for index in 0..self.mine.len() {
            while self.mine[index].credit > 0 {
                if budget.is_spent() {
                    return Some(Duration::ZERO);
                }
                budget.spend();
                self.mine[index].credit -= 1;
                let now_ns = self.seat.clock.now_ns();
                self.publish(cx, index, now_ns);
            }
        }
        None
    }

    fn keep_rate(&mut self, cx: &mut Cx<'_>, now_ns: u64) -> Option<Duration> {
        let mut budget = Budget::new(self.size);
        for index in 0..self.mine.len() {
            while let Some(due_ns) = self.mine[index].schedule.as_mut()?.take(now_ns) {
                self.traffic.lag_ns = self.traffic.lag_ns.max(now_ns - due_ns);
                self.publish(cx, index, due_ns);
                budget.spend();
                if budget.is_spent() {
                    return Some(Duration::ZERO);
                }
            }
        }
        let schedules = self.mine.iter().filter_map(|publisher| publisher.schedule.as_ref());
        schedules.map(|schedule| schedule.wait(now_ns)).min()
    }

    /// Counts a message, and says whether it is the connection's own.
    fn deliver(&mut self, index: usize, stamp: Stamp, now_ns: u64) -> Result<bool, Wrong> {
        if stamp.from >= self.publishers {
            return Err(Wrong::Stranger);
        }
        let at = index * self.publishers as usize + stamp.from as usize;
        let (last, gaps) = (&mut self.last[at], &mut self.gaps[index]);
        if stamp.number > *last {
            *gaps += stamp.number - *last - 1;
            *last = stamp.number;
        } else if *gaps > 0 {
            // One that was skipped comes after all; which one is not remembered.
            *gaps -= 1;
            self.traffic.late += 1;
        } else {
            self.traffic.duplicates += 1;
            return Ok(false);
        }
        self.traffic.on_message(stamp.at_ns, now_ns);
        Ok(stamp.from == self.seat.global(index as u32))
    }
}

impl Workload for Fanout {
    fn on_open(&mut self, index: u32, id: ConnId) {
        if let Some(publisher) = self.mine.get_mut(index as usize) {
            publisher.id = Some(id);
        }
    }

    fn on_message(&mut self, conn: &mut Conn<'_>, index: u32, message: &Message<'_>) {
        let now_ns = self.seat.clock.now_ns();
        let index = index as usize;
        let delivered =
            self.content.read(message.data()).and_then(|it| self.deliver(index, it, now_ns));
        match delivered {
            Ok(true) if self.sending && self.rate == 0 => self.publish(conn, index, now_ns),
            Ok(_) => {}
            Err(how) => self.traffic.on_wrong(how),
        }
    }

    fn on_lost(&mut self, index: u32) {
        if let Some(publisher) = self.mine.get_mut(index as usize) {
            publisher.id = None;
        }
    }

    fn on_left(&mut self, index: u32) {
        self.on_lost(index);
    }

    fn begin(&mut self, start_ns: u64) {
        self.sending = true;
        for (index, publisher) in self.mine.iter_mut().enumerate() {
            let number = self.seat.global(index as u32) as usize;
            publisher.credit = self.pipeline;
            publisher.schedule =
                Schedule::new(start_ns, self.rate, number, self.publishers as usize);
        }
    }

    fn turn(&mut self, cx: &mut Cx<'_>, now_ns: u64) -> Option<Duration> {
        match (self.sending, self.rate) {
            (false, _) => None,
            (true, 0) => self.spend_credit(cx),
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

#[cfg(test)]
mod tests {
    use super::super::board::Clock;
    use super::*;

    fn subscriber() -> Fanout {
        let seat = Seat { worker: 0, workers: 1, share: 3, clock: Clock::start() };
        Fanout::new(seat, 32, 10, 1, 2)
    }

    fn stamp(from: u32, number: u32) -> Stamp {
        Stamp { at_ns: 0, from, number }
    }

    #[test]
    fn each_publisher_counts_for_itself() {
        let mut fanout = subscriber();
        assert_eq!(fanout.deliver(2, stamp(0, 1), 5), Ok(false));
        assert_eq!(fanout.deliver(2, stamp(1, 1), 5), Ok(false));
        assert_eq!(fanout.deliver(1, stamp(1, 1), 5), Ok(true));
        assert_eq!(fanout.deliver(1, stamp(2, 1), 5), Err(Wrong::Stranger));
        assert_eq!(fanout.traffic.seen, 3);
    }

    #[test]
    fn repeated_and_late_ones_are_told_apart() {
        let mut fanout = subscriber();
        for number in [1, 2, 2, 5, 3, 6, 4, 4] {
            fanout.deliver(0, stamp(0, number), 5).unwrap();
        }
        let traffic = &fanout.traffic;
        assert_eq!((traffic.seen, traffic.duplicates, traffic.late), (6, 2, 2));
    }
}
