//! The workload `fanout`: what one connection publishes comes to all of them, once and in order.
//!
//! The first connections are the publishers; all connections are subscribers. Latency counts from
//! when a message was due to each delivery. The invariant: of each publisher, a connection is
//! expected to see the numbers 1, 2, 3... without a gap. Messages may be sent in bursts, which are
//! due at once and leave together.

use std::sync::Arc;
use std::time::Duration;

use ringhold::{ConnId, Connection, Context, Kind};

use super::FanoutPlan;
use super::content::{Content, Stamp, Wrong};
use super::driver::{Seat, Workload};
use super::echo::Budget;
use super::gateway::GatewayPlan;
use super::rounds::Rounds;
use super::schedule::Schedule;
use super::sequence::{Arrival, Gaps};
use super::tally::Traffic;

/// What one thread does.
pub(crate) struct Fanout {
    seat: Seat,
    content: Content,
    /// Its publishers are those of all threads: the connections with the lowest numbers.
    plan: FanoutPlan,
    /// `None`: a message is a payload and nothing more.
    gateway: Option<GatewayPlan>,
    /// The closed loop with a gateway: one that its own messages drove would run away from
    /// subscribers on other threads.
    rounds: Arc<Rounds>,
    /// What is sent next; kept for its memory.
    batch: Vec<u8>,
    /// Those of this thread, by connection.
    mine: Vec<Publisher>,
    /// The last number seen by each connection from each publisher.
    last: Vec<u32>,
    /// Numbers each connection has skipped so far.
    gaps: Vec<Gaps>,
    sending: bool,
    traffic: Traffic,
}

#[derive(Clone, Debug, Default)]
struct Publisher {
    id: Option<ConnId>,
    sent: u32,
    /// Of its own messages, those that came back.
    back: u32,
    /// Bursts it may still send to begin with, if there is no rate.
    credit: u32,
    schedule: Option<Schedule>,
}

impl Fanout {
    pub(crate) fn new(
        seat: Seat,
        plan: FanoutPlan,
        gateway: Option<GatewayPlan>,
        rounds: Arc<Rounds>,
    ) -> Self {
        let mine = super::schedule::share(plan.publishers, seat.worker, seat.workers);
        let connections = seat.share as usize;
        let content = match gateway {
            Some(_) => Content::json(plan.size),
            None => Content::new(plan.size),
        };
        Self {
            seat,
            content,
            plan,
            gateway,
            rounds,
            batch: Vec::new(),
            mine: vec![Publisher::default(); mine as usize],
            last: vec![0; connections * plan.publishers as usize],
            gaps: vec![Gaps::default(); connections],
            sending: false,
            traffic: Traffic::default(),
        }
    }

    /// Sends one burst that was due at `due_ns`.
    fn publish(&mut self, cx: &mut Context<'_>, index: usize, due_ns: u64) {
        let from = self.seat.global(index as u32);
        let Some(id) = self.mine[index].id else { return };
        let together = match self.gateway {
            Some(_) => (COMMANDS_BYTES / (self.plan.size + COMMAND_BYTES)).max(1) as u32,
            None => 1,
        };
        let mut left = self.plan.burst;
        while left > 0 {
            let count = together.min(left);
            self.batch.clear();
            for number in 1..=count {
                let number = self.mine[index].sent.wrapping_add(number);
                let payload = self.content.write(Stamp { at_ns: due_ns, from, number });
                match &self.gateway {
                    Some(gateway) => gateway.publish(payload, &mut self.batch),
                    None => self.batch.extend_from_slice(payload),
                }
            }
            let kind = self.gateway.as_ref().map_or(Kind::Binary, GatewayPlan::kind);
            if cx.send_message_to(id, kind, &self.batch).is_err() {
                return;
            }
            let publisher = &mut self.mine[index];
            publisher.sent = publisher.sent.wrapping_add(count);
            self.traffic.sent += u64::from(count);
            left -= count;
        }
    }

    /// One of a publisher's own came back. True if that was the last of a burst.
    fn on_back(&mut self, index: usize) -> bool {
        let publisher = &mut self.mine[index];
        publisher.back = publisher.back.wrapping_add(1);
        publisher.back.is_multiple_of(self.plan.burst)
    }

    /// For what is sent beside the answers.
    fn budget(&self) -> Budget {
        Budget::new(self.plan.size * self.plan.burst as usize)
    }

    fn spend_credit(&mut self, cx: &mut Context<'_>) -> Option<Duration> {
        let mut budget = self.budget();
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

    fn keep_rounds(&mut self, cx: &mut Context<'_>) -> Option<Duration> {
        let FanoutPlan { burst, pipeline, publishers, .. } = self.plan;
        let burst = u64::from(burst);
        let most = burst * u64::from(pipeline) * u64::from(publishers);
        let mut budget = self.budget();
        for index in 0..self.mine.len() {
            while !budget.is_spent() && self.rounds.take(burst, most) {
                let now_ns = self.seat.clock.now_ns();
                self.publish(cx, index, now_ns);
                budget.spend();
            }
        }
        // The last delivery may be another thread's.
        (!self.mine.is_empty()).then_some(LOOK_EVERY)
    }

    fn keep_rate(&mut self, cx: &mut Context<'_>, now_ns: u64) -> Option<Duration> {
        let mut budget = self.budget();
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
        if stamp.from >= self.plan.publishers {
            return Err(Wrong::Stranger);
        }
        let at = index * self.plan.publishers as usize + stamp.from as usize;
        match self.gaps[index].arrive(stamp.from, &mut self.last[at], stamp.number) {
            Arrival::New => {}
            Arrival::Late => self.traffic.late += 1,
            Arrival::Again => {
                self.traffic.duplicates += 1;
                return Ok(false);
            }
        }
        self.traffic.on_message(stamp.at_ns, now_ns);
        Ok(stamp.from == self.seat.global(index as u32))
    }
}

impl Workload for Fanout {
    fn on_open(&mut self, index: u32, id: ConnId) {
        self.rounds.on_open();
        if let Some(publisher) = self.mine.get_mut(index as usize) {
            publisher.id = Some(id);
        }
    }

    fn on_message(&mut self, conn: &mut Connection<'_>, index: u32, data: &[u8]) {
        let now_ns = self.seat.clock.now_ns();
        let index = index as usize;
        let before = self.traffic.seen;
        let delivered = self.content.read(data).and_then(|it| self.deliver(index, it, now_ns));
        match delivered {
            Ok(true) => {
                let is_whole = self.on_back(index);
                let in_loop = self.sending && self.plan.rate == 0 && self.gateway.is_none();
                if is_whole && in_loop {
                    self.publish(conn, index, now_ns);
                }
            }
            Ok(false) => {}
            Err(how) => self.traffic.on_wrong(how),
        }
        if self.gateway.is_some() {
            self.rounds.on_seen(self.traffic.seen - before);
        }
    }

    fn on_lost(&mut self, index: u32) {
        self.rounds.on_lost();
        if let Some(publisher) = self.mine.get_mut(index as usize) {
            publisher.id = None;
        }
    }

    fn on_left(&mut self, index: u32) {
        self.on_lost(index);
    }

    fn begin(&mut self, start_ns: u64) {
        self.sending = true;
        let FanoutPlan { rate, pipeline, publishers, burst, .. } = self.plan;
        for (index, publisher) in self.mine.iter_mut().enumerate() {
            let number = self.seat.global(index as u32) * burst;
            publisher.credit = pipeline;
            // A burst is due when its first message is.
            let stride = publishers as usize * burst as usize;
            publisher.schedule = Schedule::new(start_ns, rate, number as usize, stride);
        }
    }

    fn turn(&mut self, cx: &mut Context<'_>, now_ns: u64) -> Option<Duration> {
        match (self.sending, self.plan.rate) {
            (false, _) => None,
            (true, 0) if self.gateway.is_some() => self.keep_rounds(cx),
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

/// How often a publisher looks whether everybody has what was sent.
const LOOK_EVERY: Duration = Duration::from_micros(100);

/// Commands of a burst go in messages of at most about this size: what a gateway takes by default
/// is 64 KiB.
const COMMANDS_BYTES: usize = 48 * 1024;

/// About what a command takes beside its payload.
const COMMAND_BYTES: usize = 320;

#[cfg(test)]
mod tests {
    use super::super::board::Clock;
    use super::*;

    fn subscriber() -> Fanout {
        let seat = Seat { worker: 0, workers: 1, share: 3, clock: Clock::start() };
        let plan = FanoutPlan { size: 32, rate: 10, pipeline: 1, publishers: 2, burst: 3 };
        Fanout::new(seat, plan, None, Arc::default())
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
    fn a_burst_is_back_with_its_last() {
        let mut fanout = subscriber();
        let back: Vec<bool> = (0..6).map(|_| fanout.on_back(1)).collect();
        assert_eq!(back, [false, false, true, false, false, true]);
    }

    #[test]
    fn repeated_and_late_ones_are_told_apart() {
        let mut fanout = subscriber();
        for number in [1, 2, 2, 5, 3, 6, 2, 4, 4] {
            fanout.deliver(0, stamp(0, number), 5).unwrap();
        }
        let traffic = &fanout.traffic;
        assert_eq!((traffic.seen, traffic.duplicates, traffic.late), (6, 3, 2));
    }
}
