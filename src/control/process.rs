//! What this process takes of memory and processor time, as the kernel tells it in `/proc/self`.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::gateway::api::ProcessInfo;

/// What the kernel tells of this process; `None` where it does not.
#[derive(Clone, Debug, Default)]
pub(super) struct Taken {
    /// Processor time since the start, of all threads.
    pub(super) cpu_seconds: Option<f64>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) virtual_bytes: Option<u64>,
    pub(super) threads: Option<u64>,
    /// Descriptors in the fullest of the threads' tables (since Linux 6.2).
    pub(super) open_fds: Option<u64>,
    /// Descriptors that a table may have.
    pub(super) max_fds: Option<u64>,
    /// Since 1970.
    pub(super) start_time_seconds: Option<f64>,
}

impl Taken {
    /// As it is now; `None` where `/proc` is not there.
    pub(super) fn now() -> Option<Self> {
        let status = status()?;
        Some(Self {
            cpu_seconds: processor_seconds(),
            resident_bytes: status("VmRSS").map(|kib| kib * 1024),
            virtual_bytes: status("VmSize").map(|kib| kib * 1024),
            threads: status("Threads"),
            open_fds: open_descriptors(),
            max_fds: descriptors_max(),
            start_time_seconds: start_seconds(),
        })
    }
}

/// Resident bytes of this process; `None` where `/proc` is not there.
pub fn resident_bytes() -> Option<u64> {
    status()?("VmRSS").map(|kib| kib * 1024)
}

/// Resident bytes of this process per connection, all included; `None` without connections.
pub fn bytes_per_connection(connections: u64) -> Option<u64> {
    resident_bytes()?.checked_div(connections)
}

/// Processor time since the start, of all threads, in seconds.
fn processor_seconds() -> Option<f64> {
    let stat = stat()?;
    Some((stat(UTIME)? + stat(UTIME + 1)?) as f64 / TICKS_PER_SECOND)
}

/// When the process started, in seconds since 1970.
fn start_seconds() -> Option<f64> {
    let kernel = std::fs::read_to_string("/proc/stat").ok()?;
    let boot = kernel.lines().find_map(|line| line.strip_prefix("btime "))?;
    Some(boot.trim().parse::<u64>().ok()? as f64 + stat()?(START)? as f64 / TICKS_PER_SECOND)
}

/// Descriptors in the fullest table: threads may have tables of their own. The kernel counts them
/// as the size of the folder, so no folder is read.
fn open_descriptors() -> Option<u64> {
    let tasks = std::fs::read_dir("/proc/self/task").ok()?;
    let of = |task: std::fs::DirEntry| std::fs::metadata(task.path().join("fd")).ok();
    let counts = tasks.flatten().filter_map(of).map(|folder| folder.len());
    counts.max().filter(|count| *count > 0)
}

/// The soft limit of open files.
fn descriptors_max() -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The numbers of `/proc/self/status` by their names; memory is in KiB.
fn status() -> Option<impl Fn(&str) -> Option<u64>> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    Some(move |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    })
}

/// The numbers of `/proc/self/stat` by their place, from 1 on, as proc(5) counts.
fn stat() -> Option<impl Fn(usize) -> Option<u64>> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name in the second field may hold anything; behind its closing bracket fields are plain.
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<Option<u64>> = fields.split_whitespace().map(|it| it.parse().ok()).collect();
    Some(move |place: usize| *fields.get(place.checked_sub(3)?)?)
}

/// Places of the time in user space, before that in the kernel, and of the start.
const UTIME: usize = 14;
const START: usize = 22;

/// Remembers when it was asked last.
#[derive(Debug)]
pub(crate) struct Process {
    last: Mutex<(Instant, f64)>,
}

impl Default for Process {
    fn default() -> Self {
        Self { last: Mutex::new((Instant::now(), processor_seconds().unwrap_or_default())) }
    }
}

impl Process {
    /// Memory now, and the processor's share since the last question.
    pub(crate) fn info(&self) -> ProcessInfo {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let now = (Instant::now(), processor_seconds().unwrap_or_default());
        let elapsed = now.0.duration_since(last.0).as_secs_f64();
        let cpu = if elapsed > 0.0 { (now.1 - last.1) / elapsed * 100.0 } else { 0.0 };
        *last = now;
        ProcessInfo { cpu, rss: resident_bytes().unwrap_or_default() }
    }
}

/// `USER_HZ`, which is 100 on every architecture that Linux is built for today.
const TICKS_PER_SECOND: f64 = 100.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells() {
        let resident = resident_bytes().unwrap();
        assert!(resident > 100_000, "{resident}");
        assert_eq!(bytes_per_connection(0), None);
        assert!(bytes_per_connection(1).unwrap() > 100_000);
        let before = processor_seconds().unwrap();
        let process = Process::default();
        while processor_seconds().unwrap() < before + 0.02 {
            std::hint::black_box(0);
        }
        let info = process.info();
        assert!(info.cpu > 0.0 && info.rss > 100_000, "{info:?}");
    }

    #[test]
    fn what_every_program_tells() {
        let taken = Taken::now().unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let age = now.as_secs_f64() - taken.start_time_seconds.unwrap();
        assert!((-1.0..24.0 * 3600.0).contains(&age), "started {age} seconds ago");
        assert!(taken.virtual_bytes > taken.resident_bytes);
        assert!(taken.threads.unwrap() >= 2, "the test's and the main thread");
        let before = taken.open_fds.unwrap();
        let files: Vec<_> = (0..50).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        // Other tests open and close some, too.
        let opened = Taken::now().unwrap().open_fds.unwrap();
        assert!(opened >= before + 25, "{before}, then {opened} with {} more", files.len());
        assert!(taken.max_fds.unwrap() >= opened);
    }
}
