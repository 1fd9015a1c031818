//! One thread of the load: opens its share of the connections, hands what happens on them to the
//! workload, and counts how they come and go.
//!
//! Never waits: pace and deadlines come from [`Handler::on_turn`]. The invariant: each connection
//! of the share is counted once as opened, failed or untried, and each opened one at most once as
//! lost; who leaves in a storm and comes back is counted by [`Storm`]. What the gateway's protocol
//! adds to that is in `member.rs`.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use ringhold::protocol::Refusal;
use ringhold::protocol::request::Request;
use ringhold::{
    Cause, CloseCode, Closed, ConnId, Connection, Context, DialTarget, Handler, Message,
    UpgradeAction,
};

use super::board::{Clock, Line, Progress};
use super::gateway::GatewayPlan;
use super::joining::Joining;
use super::reasons;
use super::schedule::Schedule;
use super::storm::{Storm, StormPlan};
use super::tally::{Opening, Tally, Traffic};

/// What a run does with its connections, on one thread. Connections are numbered from 0 in the
/// order in which they were dialled.
pub(crate) trait Workload: 'static {
    /// A connection opened, and was let in where the gateway's protocol is spoken.
    fn on_open(&mut self, index: u32, id: ConnId);

    /// A message came, or a publication where the gateway's protocol is spoken.
    fn on_message(&mut self, conn: &mut Connection<'_>, index: u32, data: &[u8]);

    /// A connection ended before its time.
    fn on_lost(&mut self, index: u32);

    /// A connection was closed by us, and will open again.
    fn on_left(&mut self, index: u32);

    /// Sending may begin; what has a rate is due from `start_ns` on.
    fn begin(&mut self, start_ns: u64);

    /// Called every turn. Returns how long nothing is due.
    fn turn(&mut self, cx: &mut Context<'_>, now_ns: u64) -> Option<Duration>;

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
    /// The same for who comes back.
    pub(crate) returning: Arc<DialTarget>,
    /// Addresses to bind to in turn; empty: the kernel chooses.
    pub(crate) sources: Vec<IpAddr>,
    /// Connections opened per second over all threads; 0: no limit.
    pub(crate) open_rate: u64,
    /// Connections of one thread that may be on their way at once.
    pub(crate) in_flight: u32,
    pub(crate) storm: Option<StormPlan>,
    /// `None`: a server that speaks WebSocket and nothing above it.
    pub(crate) gateway: Option<GatewayPlan>,
    /// For the opening handshake, and as long again for being let in.
    pub(crate) handshake_timeout: Duration,
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
    /// Close those who take part in the storm, and open them again.
    Storm,
    /// The storm is over.
    Calm,
    /// Send nothing more. The sender is dropped once the line holds the last message sent.
    End(mpsc::Sender<()>),
    /// Tell all; what ends from here on was not lost.
    Report(mpsc::Sender<Tally>),
}

/// See the module's text.
pub(crate) struct Driver<W> {
    pub(super) course: Arc<Course>,
    pub(super) seat: Seat,
    line: Arc<Line>,
    pub(super) workload: W,
    pub(super) opening: Opening,
    /// Connections dialled so far.
    dialled: u32,
    /// Neither open nor failed.
    pub(super) in_flight: u32,
    pace: Option<Schedule>,
    opening_begun: bool,
    pub(super) storm: Option<Storm<ConnId>>,
    /// Without the gateway's protocol there are none.
    pub(super) joining: Joining<ConnId>,
    /// The gateway wants its pings answered.
    pub(super) answers_pings: bool,
    /// What is said next; kept for its memory.
    pub(super) batch: Vec<u8>,
    /// No connection is opened any more, and none is lost.
    pub(super) over: bool,
}

impl<W: Workload> Driver<W> {
    pub(crate) fn new(course: Arc<Course>, seat: Seat, line: Arc<Line>, workload: W) -> Self {
        let storm = course.storm.map(|plan| Storm::new(plan, seat.worker));
        Self {
            storm,
            joining: Joining::new(course.handshake_timeout),
            answers_pings: false,
            batch: Vec::new(),
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
    pub(super) fn open_more(&mut self, cx: &mut Context<'_>, now_ns: u64) -> Option<Duration> {
        let share = if self.opening_begun { self.seat.share } else { 0 };
        while self.in_flight < self.course.in_flight && self.dialled < share {
            if let Some(pace) = &mut self.pace
                && pace.take(now_ns).is_none()
            {
                return Some(pace.wait(now_ns));
            }
            self.dial(cx, self.dialled, now_ns);
            self.dialled += 1;
        }
        while self.in_flight < self.course.in_flight
            && let Some(index) = self.storm.as_mut().and_then(Storm::next)
        {
            self.dial(cx, index, now_ns);
        }
        None
    }

    fn dial(&mut self, cx: &mut Context<'_>, index: u32, now_ns: u64) {
        let returns = self.storm_begun().is_some();
        let sources = &self.course.sources;
        let number = self.seat.global(index) as usize;
        let source = (!sources.is_empty()).then(|| sources[number % sources.len()]);
        let tag = u64::from(index) << 32 | micros(now_ns);
        let target = if returns { &self.course.returning } else { &self.course.target };
        cx.dial(target, source, tag);
        self.in_flight += 1;
    }

    /// The storm, once connections that open are those that left.
    pub(super) fn storm_begun(&mut self) -> Option<&mut Storm<ConnId>> {
        self.storm.as_mut().filter(|storm| storm.has_begun())
    }

    /// Starts the close handshake of those who leave. They are dialled as they go.
    fn begin_storm(&mut self, cx: &mut Context<'_>) {
        let now_ns = self.course.clock.now_ns();
        self.workload.traffic().storming = true;
        for id in self.storm.as_mut().map(|storm| storm.begin(now_ns)).unwrap_or_default() {
            // One that ends by itself in this moment has its `close` still to come.
            let _ = cx.close(id, CloseCode::NORMAL, "");
        }
    }

    /// A connection is open, which was dialled at `dialled_us`.
    pub(super) fn count_opened(&mut self, dialled_us: u32, now_ns: u64) {
        self.in_flight -= 1;
        if let Some(storm) = self.storm_begun() {
            storm.on_back(now_ns);
        } else {
            self.opening.opened += 1;
            self.opening.last_ns = now_ns;
            // Microseconds modulo 2^32: an hour.
            let took_us = (micros(now_ns) as u32).wrapping_sub(dialled_us);
            self.opening.took.saturating_record(u64::from(took_us) * 1000);
        }
    }

    /// A connection will not open.
    pub(super) fn count_failed(&mut self, reason: &str) {
        self.in_flight -= 1;
        match self.storm_begun() {
            Some(storm) => storm.on_failed(reason),
            None => self.opening.failed.count(reason),
        }
        self.give_up_if_hopeless();
    }

    /// A connection takes part from here on.
    pub(super) fn enter(&mut self, index: u32, id: ConnId) {
        if let Some(storm) = &mut self.storm {
            storm.on_open(index, id);
        }
        self.workload.on_open(index, id);
    }

    /// A target that answers nobody is not asked a hundred thousand times.
    fn give_up_if_hopeless(&mut self) {
        if self.opening.opened == 0 && self.opening.failed.total() >= HOPELESS {
            self.opening.untried += u64::from(self.seat.share - self.dialled);
            self.dialled = self.seat.share;
        }
    }

    pub(super) fn publish(&mut self, cx: &Context<'_>) {
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
            leavers: self.storm.as_ref().map_or(0, Storm::leavers),
            settled: self.storm.as_ref().map_or(0, Storm::settled),
        });
    }

    fn report(&mut self) -> Tally {
        self.over = true;
        let first = if self.storm_begun().is_some() { 0 } else { self.in_flight };
        self.opening.untried += u64::from(self.seat.share - self.dialled + first);
        self.dialled = self.seat.share;
        self.in_flight = 0;
        let storm = self.storm.as_ref().map(|storm| storm.tally().clone()).unwrap_or_default();
        let traffic = self.workload.traffic().clone();
        Tally { opening: self.opening.clone(), traffic, storm }
    }
}

impl<W: Workload> Handler for Driver<W> {
    /// The number of the connection on this thread: all that a million idle ones need.
    type State = u32;
    type Event = Letter;

    fn on_upgrade(
        &mut self,
        _: &mut Context<'_>,
        _: &Request<'_>,
        _: SocketAddr,
    ) -> UpgradeAction<u32> {
        // There is no listener.
        UpgradeAction::Refuse(Refusal::UpgradeRequired)
    }

    fn on_dialled(&mut self, cx: &mut Context<'_>, tag: u64) -> Option<u32> {
        if self.over {
            return None;
        }
        let now_ns = self.course.clock.now_ns();
        let (index, dialled_us) = ((tag >> 32) as u32, tag as u32);
        if self.course.gateway.is_some() {
            self.joining.on_dialled(index, dialled_us, now_ns);
            return Some(index);
        }
        self.count_opened(dialled_us, now_ns);
        // At once, because the thread may sleep before its next turn.
        self.open_more(cx, now_ns);
        self.publish(cx);
        Some(index)
    }

    fn on_dial_failed(&mut self, cx: &mut Context<'_>, _: u64, error: &str) {
        if self.over {
            return;
        }
        self.count_failed(&reasons::of_failure(error));
        self.open_more(cx, self.course.clock.now_ns());
        self.publish(cx);
    }

    fn on_open(&mut self, conn: &mut Connection<'_>, index: &mut u32) {
        match self.course.gateway {
            Some(_) => self.say_hello(conn, *index),
            None => self.enter(*index, conn.id()),
        }
    }

    fn on_message(&mut self, conn: &mut Connection<'_>, index: &mut u32, message: Message<'_>) {
        match &self.course.gateway {
            Some(gateway) => {
                let encoding = gateway.encoding;
                self.listen(conn, *index, encoding, message.payload());
            }
            None => self.workload.on_message(conn, *index, message.payload()),
        }
        let Traffic { sent, seen, forfeited, .. } = *self.workload.traffic();
        self.line.write_traffic(sent, seen, forfeited);
    }

    fn on_close(&mut self, cx: &mut Context<'_>, _: ConnId, index: u32, closed: &Closed) {
        if self.over {
            return;
        }
        let now_ns = self.course.clock.now_ns();
        if self.close_joiner(cx, index, closed) {
            self.publish(cx);
            return;
        }
        if self.storm.as_mut().is_some_and(|storm| storm.on_close(index)) {
            self.workload.on_left(index);
            self.open_more(cx, now_ns);
        } else {
            self.opening.lost.count(&reasons::of_loss(closed));
            self.opening.lost_clean += u64::from(closed.cause == Cause::Peer);
            self.workload.on_lost(index);
        }
        self.publish(cx);
    }

    fn on_event(&mut self, cx: &mut Context<'_>, letter: Letter) {
        match letter {
            Letter::Open => {
                let (rate, Seat { worker, workers, .. }) = (self.course.open_rate, self.seat);
                self.pace = Schedule::new(self.course.clock.now_ns(), rate, worker, workers);
                self.opening_begun = true;
            }
            Letter::Begin(start_ns) => self.workload.begin(start_ns),
            Letter::Measure => self.workload.traffic().begin_measuring(),
            Letter::Storm => self.begin_storm(cx),
            Letter::Calm => self.workload.traffic().storming = false,
            Letter::End(done) => {
                self.workload.traffic().end_measuring();
                self.workload.end();
                self.publish(cx);
                drop(done);
            }
            // Whoever asked may be gone.
            Letter::Report(to) => drop(to.send(self.report())),
        }
    }

    fn on_turn(&mut self, cx: &mut Context<'_>) -> Option<Duration> {
        if self.over {
            self.publish(cx);
            return None;
        }
        let now_ns = self.course.clock.now_ns();
        self.give_up_overdue(cx, now_ns);
        let pace = self.open_more(cx, now_ns);
        let due = self.workload.turn(cx, now_ns);
        self.publish(cx);
        [pace, due, self.joining.wait(now_ns)].into_iter().flatten().min()
    }
}

/// Microseconds of the clock modulo 2^32.
fn micros(now_ns: u64) -> u64 {
    (now_ns / 1000) & u64::from(u32::MAX)
}

/// Failures of one thread without a single success after which it stops trying.
const HOPELESS: u64 = 1000;

const _: () = assert!(size_of::<Option<u32>>() <= 32, "what the engine keeps of us per connection");
