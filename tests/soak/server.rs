//! The program under test, as a child process: its address, its statistics, its memory, its end.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::plan::Plan;

/// The running server. Dropping it ends it.
pub(crate) struct Program {
    child: Child,
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<Log>>,
}

#[derive(Default)]
struct Log {
    stats: Option<Stats>,
    lines: u64,
    /// Warnings and whatever does not look like a log line, such as a panic.
    suspicious: Vec<String>,
}

/// One line of counters. What it does not name is 0.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stats {
    values: HashMap<String, u64>,
    /// Which line of the log it is.
    pub(crate) number: u64,
}

impl Stats {
    pub(crate) fn get(&self, name: &str) -> u64 {
        self.values.get(name).copied().unwrap_or(0)
    }

    /// Every counter whose name starts with `prefix`, with its value.
    pub(crate) fn with_prefix(&self, prefix: &str) -> Vec<(&str, u64)> {
        let named = self.values.iter().filter(|(name, _)| name.starts_with(prefix));
        let mut all: Vec<_> = named.map(|(name, value)| (name.as_str(), *value)).collect();
        all.sort_unstable();
        all
    }
}

impl Program {
    pub(crate) fn start(plan: &Plan) -> Self {
        // Ends are detected by the server later than by us, so there are more there than here.
        let most = (plan.connections + plan.connections / 2 + 8 * plan.churn).to_string();
        let path = std::env::var("SOAK_PROGRAM").ok();
        let mut child = Command::new(path.as_deref().unwrap_or(env!("CARGO_BIN_EXE_ringhold")))
            .args(["echo", "--listen", "127.0.0.1:0", "--workers", "2"])
            .args(["--max-message", "1MiB", "--max-connections", &most])
            .args(plan.flags.iter().flat_map(|(flag, value)| [flag, value]))
            .env_remove("RINGHOLD_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stderr = child.stderr.take().expect("piped");
        let stdout = child.stdout.take().expect("piped");
        let log = Arc::new(Mutex::new(Log::default()));
        let reader = log.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                reader.lock().expect("no holder panics").read(&line);
            }
        });
        let mut program = Self { child, address: SocketAddr::from(([0, 0, 0, 0], 0)), log };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("the program's first line");
        let address = line.trim().strip_prefix("listening on ws://");
        match address.and_then(|it| it.parse().ok()) {
            Some(address) => program.address = address,
            None => panic!("the program says {line:?} and {:?}", program.suspicious()),
        }
        program
    }

    /// The newest counters.
    pub(crate) fn stats(&self) -> Stats {
        self.log.lock().expect("no holder panics").stats.clone().unwrap_or_default()
    }

    /// Waits for counters written from now on that satisfy `good`; the last ones seen otherwise.
    pub(crate) fn await_stats(&self, limit: Duration, good: impl Fn(&Stats) -> bool) -> Stats {
        let deadline = Instant::now() + limit;
        // The next line may have been on its way already.
        let from = self.stats().number + 2;
        loop {
            let stats = self.stats();
            if stats.number >= from && good(&stats) || Instant::now() > deadline {
                return stats;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn suspicious(&self) -> Vec<String> {
        self.log.lock().expect("no holder panics").suspicious.clone()
    }

    /// Processor time so far, of all its threads.
    pub(crate) fn processor_time(&self) -> Option<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        // Fields 14 and 15, counted behind the name, which may contain anything but a last `)`.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        let mut ticks = || fields.next()?.parse::<u64>().ok();
        Some(Duration::from_millis((ticks()? + ticks()?) * 10))
    }

    pub(crate) fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Asks it to go away, and waits for that.
    pub(crate) fn terminate(&mut self, limit: Duration) -> Option<ExitStatus> {
        // Once it has been waited for, its pid may be another's.
        if let Some(status) = self.has_ended() {
            return Some(status);
        }
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(sent.is_ok_and(|status| status.success()), "SIGTERM cannot be sent");
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Some(status) = self.has_ended() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail if it has ended, which is what they are for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Log {
    fn read(&mut self, line: &str) {
        self.lines += 1;
        if let Some((_, text)) = line.split_once(" ringhold::stats: ") {
            let pairs = text.split_whitespace().filter_map(|pair| pair.split_once('='));
            let values = pairs.filter_map(|(name, value)| Some((name.into(), value.parse().ok()?)));
            self.stats = Some(Stats { values: values.collect(), number: self.lines });
        } else if !line.contains(" INFO ") && self.suspicious.len() < 100 {
            self.suspicious.push(line.to_owned());
        }
    }
}
