//! What this process takes of memory and processor time, as the kernel tells it in `/proc/self`.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::gateway::api::ProcessInfo;

/// Resident bytes of this process; `None` where `/proc` is not there.
pub fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

/// Resident bytes of this process per connection, all included; `None` without connections.
pub fn bytes_per_connection(connections: u64) -> Option<u64> {
    resident_bytes()?.checked_div(connections)
}

/// Processor time since the start, of all threads, in seconds.
fn processor_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name in the second field may hold anything; behind its closing bracket fields are plain.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / TICKS_PER_SECOND)
}

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
}
