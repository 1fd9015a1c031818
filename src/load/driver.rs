//! One thread of the load: opens its share of the connections, hands what happens on them to the
//! workload, and counts how they come and go.
//!
//! Never waits: pace and deadlines come from [`Handler::turn`]. The invariant: each connection of
//! the share is counted once as opened, failed or untried, and each opened one at most once as
//! lost.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use ringhold::protocol::Refusal;
use ringhold::protocol::request::Request;
use ringhold::{Answer, Cause, Closed, Conn, ConnId, Cx, DialTarget, Handler, Message};

use super::board::{Clock, Line, Progress};
use super::reasons;
use super::schedule::Schedule;
use super::tally::{Opening, Tally, Traffic};

/// What a run does with its connections, on one thread. Connections are numbered from 0 in the
/// order in which they were dialled.
pub(crate) trait Workload: 'static {
    /// A connection opened.
    fn on_open(&mut self, index: u32, id: ConnId);

    /// A message came.
    fn on_message(&mut self, conn: &mut Conn<'_>, index: u32, message: &Message<'_>);

    /// A connection ended before its time.
    fn on_lost(&mut self, index: u32);

    /// Sending may begin; what has a rate is due from `start_ns` on.
    fn begin(&mut self, start_ns: u64);

    /// Called every turn. Returns how long nothing is due.
    fn turn(&mut self, cx: &mut Cx<'_>, now_ns: u64) -> Option<Duration>;

    /// Nothing more is to be sent.
    fn end(&mut self);

    /// The numbers so far.
    fn traffic(&mut self) -> &mut Traffic;
}

/// What all threads have in common.
#[derive(Debug)]
pub(crate) struct Course {
    pub(crate) clock: Clock,
    pub(crate) target: Arc<DialTarget>,
    /// Addresses to bind to in turn; empty: the kernel chooses.
    pub(crate) sources: Vec<IpAddr>,
    /// Connections opened per second over all threads; 0: no limit.
    pub(crate) open_rate: u64,
    /// Connections of one thread that may be on their way at once.
    pub(crate) in_flight: u32,
}

/// A thread's place among all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seat {
    pub(crate) worker: usize,
    pub(crate) workers: usize,
    /// Connections of this thread.
    pub(crate) share: u32,
    pub(crate) clock: Clock,
}

impl Seat {
    /// The number of a connection among those of all threads.
    pub(crate) fn global(&self, index: u32) -> u32 {
        self.worker as u32 + index * self.workers as u32
    }
}

/// What the conductor tells its threads.
#[derive(Debug)]
pub(crate) enum Letter {
    /// Open the connections.
    Open,
    /// Send; what has a rate is due from this time on.
    Begin(u64),
    /// Count from here on.
    Measure,
    /// Send nothing more.
    End,
    /// Tell all; what ends from here on was not lost.
    Report(mpsc::Sender<Tally>),
}

/// See the module's text.
pub(crate) struct Driver<W> {
    course: Arc<Course>,
    seat: Seat,
    line: Arc<Line>,
    workload: W,
    opening: Opening,
    /// Connections dialled so far.
    dialled: u32,
    in_flight: u32,
    pace: Option<Schedule>,
    opening_begun: bool,
    /// No connection is opened any more, and none is lost.
    over: bool,
}

impl<W: Workload> Driver<W> {
    pub(crate) fn new(course: Arc<Course>, seat: Seat, line: Arc<Line>, workload: W) -> Self {
        Self {
            course,
            seat,
            line,
            workload,
            opening: Opening::default(),
            dialled: 0,
            in_flight: 0,
            pace: None,
            opening_begun: false,
            over: false,
        }
    }

    /// Dials as many connections as may be on their way. Returns how long the pace forbids more.
    fn open_more(&mut self, cx: &mut Cx<'_>, now_ns: u64) -> Option<Duration> {
        let share = if self.opening_begun { self.seat.share } else { 0 };
        while self.dialled < share && self.in_flight < self.course.in_flight {
            if let Some(pace) = &mut self.pace
                && pace.take(now_ns).is_none()
            {
                return Some(pace.wait(now_ns));
            }
            let sources = &self.course.sources;
            let number = self.seat.global(self.dialled) as usize;
            let source = (!sources.is_empty()).then(|| sources[number % sources.len()]);
            let tag = u64::from(self.dialled) << 32 | micros(now_ns);
            cx.dial(&self.course.target, source, tag);
            self.dialled += 1;
            self.in_flight += 1;
        }
        None
    }

    /// A target that answers nobody is not asked a hundred thousand times.
    fn give_up_if_hopeless(&mut self) {
        if self.opening.opened == 0 && self.opening.failed.total() >= HOPELESS {
            self.opening.untried += u64::from(self.seat.share - self.dialled);
            self.dialled = self.seat.share;
        }
    }

    fn publish(&mut self, cx: &Cx<'_>) {
        let traffic = self.workload.traffic();
        let (sent, seen, forfeited) = (traffic.sent, traffic.seen, traffic.forfeited);
        self.line.write(Progress {
            opened: self.opening.opened,
            failed: self.opening.failed.total() + self.opening.untried,
            lost: self.opening.lost.total(),
            sent,
            seen,
            forfeited,
            left: u64::from(cx.connections()),
        });
    }

    fn report(&mut self) -> Tally {
        self.over = true;
        let not_dialled = self.seat.share - self.dialled + self.in_flight;
        self.opening.untried += u64::from(not_dialled);
        self.dialled = self.seat.share;
        self.in_flight = 0;
        Tally { opening: self.opening.clone(), traffic: self.workload.traffic().clone() }
    }
}

impl<W: Workload> Handler for Driver<W> {
    /// The number of the connection on this thread: all that a million idle ones need.
    type State = u32;
    type Letter = Letter;

    fn request(&mut self, _: &mut Cx<'_>, _: &Request<'_>, _: SocketAddr) -> Answer<u32> {
        // There is no listener.
        Answer::Refuse(Refusal::UpgradeRequired)
    }

    fn dialled(&mut self, cx: &mut Cx<'_>, tag: u64) -> Option<u32> {
        if self.over {
            return None;
        }
        let now_ns = self.course.clock.now_ns();
        self.in_flight -= 1;
        self.opening.opened += 1;
        self.opening.last_ns = now_ns;
        // Microseconds modulo 2^32: an hour.
        let took_us = (micros(now_ns) as u32).wrapping_sub(tag as u32);
        self.opening.took.saturating_record(u64::from(took_us) * 1000);
        // At once, because the thread may sleep before its next turn.
        self.open_more(cx, now_ns);
        self.publish(cx);
        Some((tag >> 32) as u32)
    }

    fn dial_failed(&mut self, cx: &mut Cx<'_>, _: u64, error: &str) {
        if self.over {
            return;
        }
        self.in_flight -= 1;
        self.opening.failed.count(&reasons::of_failure(error));
        self.give_up_if_hopeless();
        self.open_more(cx, self.course.clock.now_ns());
        self.publish(cx);
    }

    fn open(&mut self, conn: &mut Conn<'_>, index: &mut u32) {
        self.workload.on_open(*index, conn.id());
    }

    fn message(&mut self, conn: &mut Conn<'_>, index: &mut u32, message: Message<'_>) {
        self.workload.on_message(conn, *index, &message);
        let Traffic { sent, seen, forfeited, .. } = *self.workload.traffic();
        self.line.write_traffic(sent, seen, forfeited);
    }

    fn close(&mut self, cx: &mut Cx<'_>, _: ConnId, index: u32, closed: &Closed) {
        if !self.over {
            self.opening.lost.count(&reasons::of_loss(closed));
            self.opening.lost_clean += u64::from(closed.cause == Cause::Peer);
            self.workload.on_lost(index);
            self.publish(cx);
        }
    }

    fn letter(&mut self, _: &mut Cx<'_>, letter: Letter) {
        match letter {
            Letter::Open => {
                let (rate, Seat { worker, workers, .. }) = (self.course.open_rate, self.seat);
                self.pace = Schedule::new(self.course.clock.now_ns(), rate, worker, workers);
                self.opening_begun = true;
            }
            Letter::Begin(start_ns) => self.workload.begin(start_ns),
            Letter::Measure => self.workload.traffic().begin_measuring(),
            Letter::End => {
                self.workload.traffic().end_measuring();
                self.workload.end();
            }
            // Whoever asked may be gone.
            Letter::Report(to) => drop(to.send(self.report())),
        }
    }

    fn turn(&mut self, cx: &mut Cx<'_>) -> Option<Duration> {
        if self.over {
            self.publish(cx);
            return None;
        }
        let now_ns = self.course.clock.now_ns();
        let pace = self.open_more(cx, now_ns);
        let due = self.workload.turn(cx, now_ns);
        self.publish(cx);
        [pace, due].into_iter().flatten().min()
    }
}

/// Microseconds of the clock modulo 2^32.
fn micros(now_ns: u64) -> u64 {
    (now_ns / 1000) & u64::from(u32::MAX)
}

/// Failures of one thread without a single success after which it stops trying.
const HOPELESS: u64 = 1000;

const _: () = assert!(size_of::<Option<u32>>() <= 32, "what the engine keeps of us per connection");
