//! The course of a run, step by step: open, begin, measure, end, report, close.
//!
//! Runs on the thread that asked for it and only looks and tells; the work is that of the drivers.
//! Every step has an end: connections have the handshake's deadline, the measured time is given,
//! and what comes after it has `linger`.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use ringhold::tls::keys::ClientMaterials;
use ringhold::{CloseCode, Config, DialTarget, Drain, Handle, Heartbeat, Running, Server, Stats};

use super::board::{Board, Clock, Progress, Ticker};
use super::driver::{Course, Driver, Letter, Seat, Workload};
use super::findings::{Frame, Watch, receivers};
use super::proc::Look;
use super::report::{ClosingReport, OpeningReport, Report};
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
    let mut target = plan.target.resolve().map_err(Failure::Target)?;
    target.compression = plan.compress;
    let returning = Arc::new(DialTarget { resume: true, ..target.clone() });
    let target = Arc::new(target);
    let sources = sources(plan, target.peer)?;
    let config = engine_config(plan)?;
    if let Some(pid) = plan.server_pid
        && Look::at(pid, false).is_none()
    {
        return Err(Failure::NoServer(pid));
    }
    let mut watch = Watch::new(plan);
    let board = Arc::new(Board::default());
    let (open_rate, in_flight, connections) = (plan.open_rate, plan.in_flight, plan.connections);
    let used = sources.len();
    let course = Arc::new(Course {
        clock,
        target,
        returning,
        sources,
        open_rate,
        in_flight,
        storm: plan.storm,
        gateway: plan.gateway.clone(),
        handshake_timeout: plan.handshake_timeout,
    });
    let lines = board.clone();
    let running = Server::builder()
        .config(config)
        .start(move |start| {
            let (worker, workers) = (start.core, start.handle.workers());
            let share = share(connections, worker, workers);
            let seat = Seat { worker, workers, share, clock };
            Driver::new(course.clone(), seat, lines.line(), make(seat))
        })
        .map_err(Failure::Engine)?;
    let threads = running.workers();
    watch.on_start();
    let run = Run { plan, interrupted, board, clock, running };
    let opening_ns = clock.now_ns();
    let (mut tally, seconds) = run.course(&mut watch);
    let (stats, closing_seconds) = run.close()?;
    // Nobody else may.
    tally.storm.resumed = stats.counters.tls_handshakes_resumed;
    if tally.opening.opened == 0 {
        return Err(Failure::NothingOpened(why_nothing(&tally)));
    }
    let opening = OpeningReport::new(&tally.opening, opening_ns);
    // Of the close handshakes that were completed, the server began those.
    let clean = stats.counters.closed_clean;
    let clean = clean.saturating_sub(tally.opening.lost_clean + tally.storm.left);
    let cut = stats.counters.closed_drain.saturating_sub(clean);
    let closing = ClosingReport { clean, cut, seconds: closing_seconds };
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
        watch.on_opened();
        let Progress { opened, leavers, .. } = self.board.sum();
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
            let left = || self.plan.duration.saturating_sub(since.elapsed());
            if let Some(storm) = self.plan.storm {
                self.wait(&mut ticker, "measuring", storm.after.min(left()), gone);
                self.tell(|| Letter::Storm);
                let over = |now: Progress| gone(now) || now.settled >= leavers;
                self.wait(&mut ticker, "storm", left(), over);
                self.tell(|| Letter::Calm);
            }
            self.wait(&mut ticker, "measuring", left(), gone);
            watch.on_end();
            self.end();
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
            let elapsed = since.elapsed();
            let left = (limit != Duration::MAX).then(|| limit.saturating_sub(elapsed));
            ticker.show(step, left, now);
            let interrupted = self.interrupted.load(Ordering::Relaxed);
            if elapsed >= limit || done(now) || interrupted || self.has_failed() {
                return;
            }
            std::thread::sleep(LOOK_EVERY.min(limit - elapsed));
        }
    }

    /// Ends the sending, and waits until every thread has ended it: a line read before holds fewer
    /// messages than were sent, and a whole answer to those would look like the end.
    fn end(&self) {
        let (to, ended) = mpsc::channel();
        self.tell(|| Letter::End(to.clone()));
        drop(to);
        // Nothing is sent; the channel closes when every thread has dropped its letter.
        let _ = ended.recv_timeout(ANSWER_TIMEOUT);
    }

    /// Waits for messages that are still on their way, until none came for as long as `linger`.
    fn settle(&self, ticker: &mut Ticker, receivers: u64) {
        let mut last = (self.board.sum().seen, Instant::now());
        loop {
            let now = self.board.sum();
            ticker.show("settling", None, now);
            if now.seen != last.0 {
                last = (now.seen, Instant::now());
            }
            let whole = now.seen + now.forfeited >= now.sent * receivers;
            if whole || last.1.elapsed() >= self.plan.linger || self.has_failed() {
                return;
            }
            std::thread::sleep(LOOK_EVERY);
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
    /// Returns the seconds until the last one was gone as well.
    fn close(self) -> Result<(Stats, f64), Failure> {
        let window = match self.plan.close_rate {
            0 => Duration::ZERO,
            rate => Duration::from_secs(self.board.sum().left) / rate,
        };
        let since = Instant::now();
        let deadline = close_max(self.plan.connections);
        self.running.drain(&Drain {
            window: window.min(deadline / 2),
            deadline,
            code: CloseCode::NORMAL,
            reason: String::new(),
        });
        let mut last = (self.board.sum().left, since);
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
        let seconds = since.elapsed().as_secs_f64();
        Ok((self.running.join().map_err(Failure::Engine)?, seconds))
    }
}

fn sources(plan: &Plan, peer: std::net::SocketAddr) -> Result<Vec<IpAddr>, Failure> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let ports = range.ok().and_then(|text| parse_port_range(&text)).unwrap_or(28_232);
    plan_sources(plan.sources.as_ref(), peer, plan.connections, ports).map_err(Failure::Target)
}

/// The engine as a client: no listener, no pings of its own, and no limit of its own on what the
/// plan asks for.
fn engine_config(plan: &Plan) -> Result<Config, Failure> {
    let size = plan.job.size();
    let trust = plan.target.tls.then(|| ClientMaterials::load(&plan.trust)).transpose();
    let trust = trust.map_err(|fault| Failure::Target(fault.to_string()))?;
    // Each thread may come to have the tickets of all its connections.
    let resumes = plan.storm.is_some_and(|storm| storm.resume);
    let tickets = if resumes { plan.connections as usize } else { 0 };
    let trust = trust.map(|trust| trust.with_tickets(tickets));
    Ok(Config {
        listen: None,
        dial_tls: trust.map(Arc::new),
        workers: plan.threads,
        max_connections: plan.connections,
        handshake_timeout: plan.handshake_timeout,
        close_timeout: close_max(plan.connections),
        heartbeat: Heartbeat { enabled: false, ..Heartbeat::default() },
        // Larger messages are reported as wrong, up to a size that is worth reading.
        max_message: (2 * size).max(1 << 20),
        max_outbox: usize::MAX / 4,
        max_outboxes: usize::MAX / 2,
        max_inbound: usize::MAX / 2,
        min_upload_rate: 0,
        pause_reads: false,
        ..Config::default()
    })
}

fn why_nothing(tally: &Tally) -> String {
    let most = tally.opening.failed.0.iter().max_by_key(|(_, count)| **count);
    let reason = most.map_or("interrupted", |(reason, _)| reason);
    format!("{reason} ({} attempts)", tally.opening.failed.total())
}

/// How often the conductor looks.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Closing takes no longer than this: a server that closes 2,000 per second is waited for. One that
/// closes none is not, see `linger`.
fn close_max(connections: u32) -> Duration {
    Duration::from_secs(60 + u64::from(connections / 2000))
}

/// For a tally: a thread answers between two turns.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
