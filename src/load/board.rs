//! How far each thread is, for those who wait: a few numbers that their thread writes once per
//! turn.
//!
//! Never locked while a run lasts and never exact across threads. The invariant: a number is
//! written by one thread only.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The clock of a run: nanoseconds since it began, the same for all threads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    /// Starts at 0.
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds since the start.
    pub(crate) fn now_ns(self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// One thread's numbers, on a cache line of their own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Line([AtomicU64; 9]);

/// A copy of the numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) opened: u64,
    /// Failed, or not to be tried.
    pub(crate) failed: u64,
    pub(crate) lost: u64,
    pub(crate) sent: u64,
    pub(crate) seen: u64,
    /// Will never be seen.
    pub(crate) forfeited: u64,
    /// Connections there are, in any state.
    pub(crate) left: u64,
    /// Will take part in the storm.
    pub(crate) leavers: u64,
    /// Of these, came back or will not.
    pub(crate) settled: u64,
}

impl Line {
    /// Writes all of them.
    pub(crate) fn write(&self, progress: Progress) {
        let Progress { opened, failed, lost, sent, seen, forfeited, left, .. } = progress;
        let Progress { leavers, settled, .. } = progress;
        let values = [opened, failed, lost, sent, seen, forfeited, left, leavers, settled];
        for (cell, value) in self.0.iter().zip(values) {
            cell.store(value, Ordering::Relaxed);
        }
    }

    /// Writes what changes with every message.
    pub(crate) fn write_traffic(&self, sent: u64, seen: u64, forfeited: u64) {
        for (cell, value) in self.0[3..].iter().zip([sent, seen, forfeited]) {
            cell.store(value, Ordering::Relaxed);
        }
    }

    fn read(&self) -> [u64; 9] {
        self.0.each_ref().map(|cell| cell.load(Ordering::Relaxed))
    }
}

/// The lines of all threads.
#[derive(Debug, Default)]
pub(crate) struct Board {
    lines: Mutex<Vec<Arc<Line>>>,
}

impl Board {
    /// A line for a thread that starts.
    pub(crate) fn line(&self) -> Arc<Line> {
        let line = Arc::<Line>::default();
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line.clone());
        line
    }

    /// The sum over threads.
    pub(crate) fn sum(&self) -> Progress {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sum = [0; 9];
        for line in lines.iter() {
            sum.iter_mut().zip(line.read()).for_each(|(sum, value)| *sum += value);
        }
        let [opened, failed, lost, sent, seen, forfeited, left, leavers, settled] = sum;
        Progress { opened, failed, lost, sent, seen, forfeited, left, leavers, settled }
    }
}

/// A line on a terminal that shows how far it is. Silent where nobody watches.
#[derive(Debug)]
pub(crate) struct Ticker {
    watched: bool,
    shown: Option<Instant>,
    last: Progress,
}

impl Ticker {
    /// Shows only if standard error is a terminal.
    pub(crate) fn new() -> Self {
        Self { watched: std::io::stderr().is_terminal(), shown: None, last: Progress::default() }
    }

    /// Shows where things are, a few times per second. `left` is the time that the step still has,
    /// where that is known.
    pub(crate) fn show(&mut self, step: &str, left: Option<Duration>, now: Progress) {
        let elapsed = self.shown.map_or(Duration::MAX, |at| at.elapsed());
        if !self.watched || elapsed < SHOW_EVERY {
            return;
        }
        let mut text = describe(step, now, self.last, elapsed);
        if let Some(left) = left {
            text.push_str(&time_left(left));
        }
        let mut out = std::io::stderr().lock();
        // Nobody is told if the terminal is gone.
        let _ = write!(out, "\r\x1b[K{text}").and_then(|()| out.flush());
        self.shown = Some(Instant::now());
        self.last = now;
    }

    /// Leaves an empty line for the report.
    pub(crate) fn clear(&mut self) {
        if self.watched && self.shown.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn describe(step: &str, now: Progress, last: Progress, elapsed: Duration) -> String {
    let rate = |now: u64, last: u64| match elapsed.as_secs_f64() {
        seconds if seconds < 1000.0 => (now.saturating_sub(last) as f64 / seconds) as u64,
        _ => 0,
    };
    let mut text = format!("{step}: {} open", now.opened - now.lost.min(now.opened));
    let rates =
        [(rate(now.opened, last.opened), "opened/s"), (rate(now.seen, last.seen), "messages/s")];
    for (value, name) in rates.iter().filter(|(value, _)| *value > 0) {
        text.push_str(&format!("  {value} {name}"));
    }
    for (value, name) in [(now.failed, "failed"), (now.lost, "lost")] {
        if value > 0 {
            text.push_str(&format!("  {value} {name}"));
        }
    }
    text
}

/// Whole seconds, so that the last one is the one that runs.
fn time_left(left: Duration) -> String {
    format!("  {} s left", left.as_millis().div_ceil(1000))
}

const SHOW_EVERY: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_board_sums_its_lines() {
        let board = Board::default();
        let opening = Progress { opened: 1, failed: 2, lost: 3, ..Progress::default() };
        let traffic = Progress { sent: 4, seen: 5, forfeited: 6, left: 7, ..opening };
        let numbers = Progress { leavers: 8, settled: 9, ..traffic };
        let (one, two) = (board.line(), board.line());
        one.write(numbers);
        two.write(numbers);
        two.write(Progress { opened: 10, ..numbers });
        assert_eq!(board.sum().opened, 11);
        assert_eq!(board.sum().forfeited, 12);
        assert_eq!((board.sum().leavers, board.sum().settled), (16, 18));
    }

    #[test]
    fn the_line_says_what_moves() {
        let last = Progress { opened: 100, ..Progress::default() };
        let now = Progress { opened: 300, lost: 1, ..last };
        let text = describe("opening", now, last, Duration::from_millis(500));
        assert_eq!(text, "opening: 299 open  400 opened/s  1 lost");
        let first = describe("opening", last, Progress::default(), Duration::MAX);
        assert_eq!(first, "opening: 100 open");
        for (left, text) in [(0, "  0 s left"), (1, "  1 s left"), (9_001, "  10 s left")] {
            assert_eq!(time_left(Duration::from_millis(left)), text);
        }
    }
}
