//! The course of a run, step by step: open, begin, measure, end, report, close.
//!
//! Runs on the thread that asked for it and only looks and tells; the work is that of the drivers.
//! Every step has an end: connections have the handshake's deadline, the measured time is given,
//! and what comes after it has `linger`.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use ringhold::{CloseCode, Config, Drain, Handle, Heartbeat, Running, Server, Stats};

use super::board::{Board, Clock, Progress, Ticker};
use super::driver::{Course, Driver, Letter, Seat, Workload};
use super::proc::{Look, Slabs};
use super::report::{
    ClosingReport, KernelReport, Looks, MessageReport, OpeningReport, ProcessReport, Report,
};
use super::schedule::share;
use super::tally::Tally;
use super::target::{parse_port_range, plan_sources};
use super::{Failure, Job, Plan};

/// Runs a plan with a workload that is made once on each thread.
pub(super) fn conduct<W: Workload>(
    plan: &Plan,
    interrupted: &AtomicBool,
    make: impl Fn(Seat) -> W + Send + Sync + 'static,
) -> Result<Report, Failure> {
    let clock = Clock::start();
    let target = Arc::new(plan.target.resolve().map_err(Failure::Target)?);
    let sources = sources(plan, target.peer)?;
    if let Some(pid) = plan.server_pid
        && Look::at(pid, false).is_none()
    {
        return Err(Failure::NoServer(pid));
    }
    let mut watch = Watch::new(plan);
    let board = Arc::new(Board::default());
    let (open_rate, in_flight, connections) = (plan.open_rate, plan.in_flight, plan.connections);
    let used = sources.len();
    let course = Arc::new(Course { clock, target, sources, open_rate, in_flight });
    let lines = board.clone();
    let running = Server::builder()
        .config(engine_config(plan))
        .start(move |core| {
            let (worker, workers) = (core.worker, core.handle.workers());
            let share = share(connections, worker, workers);
            let seat = Seat { worker, workers, share, clock };
            Driver::new(course.clone(), seat, lines.line(), make(seat))
        })
        .map_err(Failure::Engine)?;
    let threads = running.workers();
    watch.on_start();
    let run = Run { plan, interrupted, board, clock, running };
    let opening_ns = clock.now_ns();
    let (tally, seconds) = run.course(&mut watch);
    let stats = run.close()?;
    if tally.opening.opened == 0 {
        return Err(Failure::NothingOpened(why_nothing(&tally)));
    }
    let opening = OpeningReport::new(&tally.opening, opening_ns);
    // Of the close handshakes that were completed, the server began those.
    let clean = stats.counters.closed_clean.saturating_sub(tally.opening.lost_clean);
    let cut = stats.counters.closed_drain.saturating_sub(clean);
    let closing = ClosingReport { clean, cut };
    let frame = Frame { threads, sources: used, seconds, opening, closing };
    let interrupted = interrupted.load(Ordering::Relaxed);
    Ok(frame.report(plan, &tally, &watch, interrupted))
}

/// A run in progress.
struct Run<'a, W: Workload> {
    plan: &'a Plan,
    interrupted: &'a AtomicBool,
    board: Arc<Board>,
    clock: Clock,
    running: Running<Driver<W>>,
}

impl<W: Workload> Run<'_, W> {
    /// From the first connection to the last message. Returns what was counted, and the measured
    /// time in seconds.
    fn course(&self, watch: &mut Watch) -> (Tally, f64) {
        let mut ticker = Ticker::new();
        let all = u64::from(self.plan.connections);
        self.tell(|| Letter::Open);
        self.wait(&mut ticker, "opening", Duration::MAX, |now| now.opened + now.failed >= all);
        let opened = self.board.sum().opened;
        let mut seconds = 0.0;
        if opened > 0 {
            let gone = |now: Progress| now.lost >= opened;
            self.tell(|| Letter::Begin(self.clock.now_ns()));
            self.wait(&mut ticker, "warming up", self.plan.warmup, gone);
            if self.plan.job != Job::Idle {
                watch.on_open();
            }
            self.tell(|| Letter::Measure);
            let since = Instant::now();
            watch.on_begin();
            self.wait(&mut ticker, "measuring", self.plan.duration, gone);
            watch.on_end();
            self.tell(|| Letter::End);
            seconds = since.elapsed().as_secs_f64();
            if self.plan.job == Job::Idle {
                watch.on_open();
            }
            let receivers = receivers(self.plan.job, opened);
            self.settle(&mut ticker, receivers);
        }
        let tally = self.collect();
        ticker.clear();
        (tally, seconds)
    }

    /// Waits for the end of a step, by time, by what happened, or by the user.
    fn wait(
        &self,
        ticker: &mut Ticker,
        step: &str,
        limit: Duration,
        done: impl Fn(Progress) -> bool,
    ) {
        let since = Instant::now();
        loop {
            let now = self.board.sum();
            ticker.show(step, now);
            let elapsed = since.elapsed();
            let interrupted = self.interrupted.load(Ordering::Relaxed);
            if elapsed >= limit || done(now) || interrupted || self.has_failed() {
                return;
            }
            std::thread::sleep(LOOK_EVERY.min(limit - elapsed));
        }
    }

    /// Waits for messages that are still on their way, as long as some come.
    fn settle(&self, ticker: &mut Ticker, receivers: u64) {
        let end = Instant::now() + self.plan.linger;
        loop {
            let before = self.board.sum();
            let whole = |now: Progress| now.seen + now.forfeited >= now.sent * receivers;
            let left = end.saturating_duration_since(Instant::now());
            let step = left.min(SILENCE);
            let since = Instant::now();
            while !whole(self.board.sum()) && since.elapsed() < step {
                ticker.show("settling", self.board.sum());
                std::thread::sleep(LOOK_EVERY.min(step));
            }
            let now = self.board.sum();
            if whole(now) || now.seen == before.seen || left.is_zero() {
                return;
            }
        }
    }

    /// Asks every thread for its tally.
    fn collect(&self) -> Tally {
        let (to, answers) = mpsc::channel();
        self.tell(|| Letter::Report(to.clone()));
        drop(to);
        let mut sum = Tally::default();
        // Ends when every thread has answered or dropped the question.
        while let Ok(tally) = answers.recv_timeout(ANSWER_TIMEOUT) {
            sum.add(&tally);
        }
        sum
    }

    fn tell(&self, letter: impl Fn() -> Letter) {
        let handle: Handle<Driver<W>> = self.running.handle();
        for worker in 0..handle.workers() {
            // A thread that has ended is told nothing; its error comes with the join.
            let _ = handle.post(worker, letter());
        }
    }

    /// A thread ended that was not told to.
    fn has_failed(&self) -> bool {
        self.running.workers_alive() < self.running.workers()
    }

    /// Closes what is left and ends the threads. As long as connections go, it is waited for them.
    fn close(self) -> Result<Stats, Failure> {
        self.running.drain(&Drain {
            window: Duration::from_secs(self.board.sum().left) / CLOSES_PER_SECOND,
            deadline: CLOSE_MAX,
            code: CloseCode::NORMAL,
            reason: String::new(),
        });
        let mut last = (self.board.sum().left, Instant::now());
        while self.running.workers_alive() > 0 {
            std::thread::sleep(LOOK_EVERY);
            let left = self.board.sum().left;
            if left != last.0 {
                last = (left, Instant::now());
            } else if last.1.elapsed() >= self.plan.linger {
                self.running.handle().stop();
                break;
            }
        }
        self.running.join().map_err(Failure::Engine)
    }
}

/// Looks at the processes and the kernel at the right moments.
struct Watch {
    server_pid: Option<u32>,
    server: Looks,
    client: Looks,
    slabs: [Slabs; 2],
}

impl Watch {
    fn new(plan: &Plan) -> Self {
        let server_pid = plan.server_pid;
        let before = server_pid.and_then(|pid| Look::at(pid, true));
        let slabs = match server_pid {
            Some(_) => [Slabs::now(), Slabs::default()],
            None => Default::default(),
        };
        let server = Looks { before, ..Looks::default() };
        Self { server_pid, server, client: Looks::default(), slabs }
    }

    /// The threads are there, and no connection yet.
    fn on_start(&mut self) {
        self.client.before = Look::at(std::process::id(), true);
    }

    fn on_open(&mut self) {
        self.client.open = Look::at(std::process::id(), true);
        if let Some(pid) = self.server_pid {
            self.server.open = Look::at(pid, true);
            self.slabs[1] = Slabs::now();
        }
    }

    fn on_begin(&mut self) {
        self.server.begin = self.server_pid.and_then(|pid| Look::at(pid, false));
        self.client.begin = Look::at(std::process::id(), false);
    }

    fn on_end(&mut self) {
        self.server.end = self.server_pid.and_then(|pid| Look::at(pid, false));
        self.client.end = Look::at(std::process::id(), false);
    }
}

/// What the conductor itself knows of a run.
struct Frame {
    threads: usize,
    sources: usize,
    seconds: f64,
    opening: OpeningReport,
    closing: ClosingReport,
}

impl Frame {
    fn report(self, plan: &Plan, tally: &Tally, watch: &Watch, interrupted: bool) -> Report {
        let Self { threads, sources, seconds, opening, closing } = self;
        let traffic = &tally.traffic;
        let messages = |size, how| {
            let receivers = receivers(plan.job, opening.opened);
            Some(MessageReport::new(traffic, size, how, receivers, seconds))
        };
        let messages = match plan.job {
            Job::Idle => None,
            Job::Echo { size, rate, pipeline } => messages(size, (rate, pipeline, 0)),
            Job::Fanout { size, rate, pipeline, publishers } => {
                messages(size, (rate, pipeline, publishers))
            }
        };
        let lost = tally.opening.lost.total();
        let left_out = if interrupted { 0 } else { opening.untried };
        let ok = opening.failed + left_out + lost == 0
            && messages.as_ref().is_none_or(MessageReport::is_whole);
        let process =
            |looks: &Looks| ProcessReport::new(looks, opening.opened, traffic.measured, seconds);
        Report {
            workload: plan.job.name(),
            url: plan.target.url.clone(),
            ok,
            interrupted,
            connections: plan.connections,
            threads,
            sources,
            seconds,
            lost,
            lost_reasons: tally.opening.lost.0.clone(),
            messages,
            server: watch.server_pid.map(|_| process(&watch.server)),
            client: Some(process(&watch.client)),
            kernel: KernelReport::new(&watch.slabs[0], &watch.slabs[1], opening.opened),
            opening,
            closing,
        }
    }
}

/// How many times each message has to come.
fn receivers(job: Job, opened: u64) -> u64 {
    match job {
        Job::Fanout { .. } => opened,
        Job::Echo { .. } => 1,
        Job::Idle => 0,
    }
}

fn sources(plan: &Plan, peer: std::net::SocketAddr) -> Result<Vec<IpAddr>, Failure> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let ports = range.ok().and_then(|text| parse_port_range(&text)).unwrap_or(28_232);
    plan_sources(plan.sources.as_ref(), peer, plan.connections, ports).map_err(Failure::Target)
}

/// The engine as a client: no listener, no pings of its own, and no limit of its own on what the
/// plan asks for.
fn engine_config(plan: &Plan) -> Config {
    let size = plan.job.size();
    Config {
        listen: None,
        workers: plan.threads,
        max_connections: plan.connections,
        handshake_timeout: plan.handshake_timeout,
        close_timeout: CLOSE_MAX,
        heartbeat: Heartbeat { enabled: false, ..Heartbeat::default() },
        // Larger messages are reported as wrong, up to a size that is worth reading.
        max_message: (2 * size).max(1 << 20),
        max_outbox: usize::MAX / 4,
        max_outboxes: usize::MAX / 2,
        max_inbound: usize::MAX / 2,
        pause_reads: false,
        ..Config::default()
    }
}

fn why_nothing(tally: &Tally) -> String {
    let most = tally.opening.failed.0.iter().max_by_key(|(_, count)| **count);
    let reason = most.map_or("interrupted", |(reason, _)| reason);
    format!("{reason} ({} attempts)", tally.opening.failed.total())
}

/// How often the conductor looks.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A pace that a server on the same host can follow: all at once would keep each waiting for all.
const CLOSES_PER_SECOND: u32 = 50_000;

/// Closing takes no longer than this: a million connections at 20,000 per second.
const CLOSE_MAX: Duration = Duration::from_secs(60);

/// Messages that have not come after such a silence do not come.
const SILENCE: Duration = Duration::from_millis(500);

/// For a tally: a thread answers between two turns.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
