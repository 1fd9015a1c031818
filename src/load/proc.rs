//! What the kernel says about a process and about itself, from /proc.
//!
//! Owns the parsing of these texts and the differences between two looks. Never fails: what cannot
//! be read is absent. The invariant: a difference is only made of two values of the same process.

use std::collections::BTreeMap;
use std::fs;

/// One look at a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Look {
    /// When the process started, to tell it from a later one with the same number.
    started: u64,
    /// User and system time in ticks of [`TICK_NS`].
    ticks: (u64, u64),
    /// Time on a processor, over all threads, in nanoseconds.
    run_ns: Option<u64>,
    /// Resident bytes.
    pub(crate) rss: Option<u64>,
    /// Proportional set size, in bytes.
    pub(crate) pss: Option<u64>,
    /// Anonymous bytes.
    pub(crate) anonymous: Option<u64>,
}

/// Looks at one process: before the first connection, when all were open, and at both ends of the
/// measured time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Looks {
    pub(crate) before: Option<Look>,
    /// When the last one had opened.
    pub(crate) opened: Option<Look>,
    /// When all were open, with memory.
    pub(crate) open: Option<Look>,
    pub(crate) begin: Option<Look>,
    pub(crate) end: Option<Look>,
}

/// Processor time between two looks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cpu {
    pub(crate) user_us: f64,
    pub(crate) system_us: f64,
}

impl Look {
    /// Looks at a process; `None` if there is none. `memory` walks its page tables as well, which
    /// takes a millisecond per some hundred megabytes.
    pub(crate) fn at(pid: u32, memory: bool) -> Option<Self> {
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
        let mut look = parse_stat(&read("stat")?)?;
        look.run_ns = run_ns(pid);
        if memory {
            look.rss = read("status").and_then(|text| parse_kib(&text, "VmRSS:"));
            let rollup = read("smaps_rollup").unwrap_or_default();
            look.pss = parse_kib(&rollup, "Pss:");
            look.anonymous = parse_kib(&rollup, "Anonymous:");
        }
        Some(look)
    }

    /// Processor time spent since an earlier look at the same process.
    pub(crate) fn cpu_since(&self, earlier: &Self) -> Option<Cpu> {
        if self.started != earlier.started {
            return None;
        }
        let tick_us = TICK_NS as f64 / 1000.0;
        let user_us = self.ticks.0.saturating_sub(earlier.ticks.0) as f64 * tick_us;
        let system_us = self.ticks.1.saturating_sub(earlier.ticks.1) as f64 * tick_us;
        // The scheduler's sum is exact, the ticks tell how it divides.
        let exact = self.run_ns.zip(earlier.run_ns).and_then(|(now, then)| now.checked_sub(then));
        match exact {
            Some(ns) if user_us + system_us > 0.0 => {
                let scale = ns as f64 / 1000.0 / (user_us + system_us);
                Some(Cpu { user_us: user_us * scale, system_us: system_us * scale })
            }
            Some(ns) => Some(Cpu { user_us: 0.0, system_us: ns as f64 / 1000.0 }),
            None => Some(Cpu { user_us, system_us }),
        }
    }
}

impl Looks {
    /// Processor time from the first look until all were open, each.
    pub(crate) fn opening_us(&self, connections: u64) -> Option<f64> {
        let cpu = self.opened?.cpu_since(&self.before?)?;
        (connections > 0).then(|| cpu.total_us() / connections as f64)
    }
}

impl Cpu {
    pub(crate) fn total_us(self) -> f64 {
        self.user_us + self.system_us
    }
}

/// Bytes in each of the kernel's caches; empty if only root may know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slabs(BTreeMap<String, u64>);

impl Slabs {
    /// Looks at /proc/slabinfo.
    pub(crate) fn now() -> Self {
        Self::parse(&fs::read_to_string("/proc/slabinfo").unwrap_or_default())
    }

    /// Two lines of heading, then `name active objects size per-slab pages : tunables ... :
    /// slabdata active-slabs slabs shared`.
    fn parse(text: &str) -> Self {
        let caches = text.lines().filter_map(|line| {
            let mut parts = line.split(':');
            let mut first = parts.next()?.split_whitespace();
            let name = first.next()?;
            let pages: u64 = first.nth(4)?.parse().ok()?;
            let slabs: u64 = parts.nth(1)?.split_whitespace().nth(2)?.parse().ok()?;
            Some((name.to_owned(), slabs * pages * PAGE))
        });
        Self(caches.collect())
    }

    /// Growth of all caches since an earlier look, and of each that grew, most first.
    pub(crate) fn growth_since(&self, earlier: &Self) -> Option<(i64, Vec<(String, u64)>)> {
        if self.0.is_empty() || earlier.0.is_empty() {
            return None;
        }
        let sum = |slabs: &Self| slabs.0.values().sum::<u64>() as i64;
        let before = |name: &String| earlier.0.get(name).copied().unwrap_or(0);
        let grown = self.0.iter().map(|(name, now)| {
            let growth = now.saturating_sub(before(name));
            (name.clone(), growth)
        });
        let mut grown: Vec<_> = grown.filter(|(_, growth)| *growth > 0).collect();
        grown.sort_by_key(|(_, growth)| std::cmp::Reverse(*growth));
        Some((sum(self) - sum(earlier), grown))
    }
}

/// The fields follow the name, which is in parentheses and may hold any character (proc(5)).
fn parse_stat(text: &str) -> Option<Look> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    // utime, stime and starttime are fields 14, 15 and 22; the first after the name is 3.
    Some(Look { ticks: (number(11)?, number(12)?), started: number(19)?, ..Look::default() })
}

/// The value of a line such as `VmRSS: 1234 kB`, in bytes.
fn parse_kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

/// The first number of each thread's schedstat is its time on a processor.
fn run_ns(pid: u32) -> Option<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        // A thread that has ended meanwhile is left out.
        let Ok(text) = fs::read_to_string(task.path().join("schedstat")) else { continue };
        sum += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    Some(sum)
}

/// USER_HZ is 100 on every architecture the engine runs on.
const TICK_NS: u64 = 10_000_000;

/// Slabs are counted in pages of this size on x86-64 and, as usually configured, arm64.
const PAGE: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_named_with_blanks_and_parentheses() {
        let text = "42 (a) b (c) S 1 42 42 0 -1 4194560 900 0 0 0 123 45 0 0 20 0 7 0 9876 1 2 3";
        let look = parse_stat(text).unwrap();
        assert_eq!((look.ticks, look.started), ((123, 45), 9876));
        assert_eq!(parse_stat("42 (x) S 1 2"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn sizes_in_kib() {
        let status = "Name:\tx\nVmPeak:\t  99 kB\nVmRSS:\t    1234 kB\n";
        assert_eq!(parse_kib(status, "VmRSS:"), Some(1234 * 1024));
        let rollup = "Rss:  10 kB\nPss:  8 kB\nPss_Anon:  7 kB\nAnonymous:  6 kB\n";
        assert_eq!(parse_kib(rollup, "Pss:"), Some(8 * 1024));
        assert_eq!(parse_kib(rollup, "Anonymous:"), Some(6 * 1024));
        assert_eq!(parse_kib(rollup, "Swap:"), None);
    }

    #[test]
    fn the_exact_sum_is_divided_as_the_ticks_are() {
        let then = Look { started: 5, ticks: (10, 10), run_ns: Some(0), ..Look::default() };
        let now = Look { ticks: (11, 13), run_ns: Some(50_000_000), ..then };
        let cpu = now.cpu_since(&then).unwrap();
        assert_eq!((cpu.user_us, cpu.system_us), (12_500.0, 37_500.0));
        let inexact = Look { run_ns: None, ..now }.cpu_since(&then).unwrap();
        assert_eq!((inexact.user_us, inexact.system_us), (10_000.0, 30_000.0));
        assert_eq!(Look { started: 6, ..now }.cpu_since(&then), None);
    }

    #[test]
    fn opening_costs_each_its_part() {
        let before = Look { started: 5, run_ns: Some(1_000_000), ..Look::default() };
        let opened = Look { run_ns: Some(3_000_000), ..before };
        let looks = Looks { before: Some(before), opened: Some(opened), ..Looks::default() };
        assert_eq!(looks.opening_us(100), Some(20.0));
        assert_eq!(looks.opening_us(0), None);
        assert_eq!(Looks { opened: None, ..looks }.opening_us(100), None);
    }

    #[test]
    fn slabs_grow() {
        let text = |tcp: u64| {
            format!(
                "slabinfo - version: 2.1\n\
                 # name <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables\n\
                 TCP 100 130 2368 13 8 : tunables 0 0 0 : slabdata {tcp} {tcp} 0\n\
                 filp 100 160 192 21 1 : tunables 0 0 0 : slabdata 10 10 0\n"
            )
        };
        let (before, after) = (Slabs::parse(&text(10)), Slabs::parse(&text(15)));
        let (total, grown) = after.growth_since(&before).unwrap();
        assert_eq!(total, 5 * 8 * 4096);
        assert_eq!(grown, [("TCP".to_owned(), 5 * 8 * 4096)]);
        assert!(after.growth_since(&Slabs::default()).is_none());
    }

    #[test]
    fn this_process_is_there() {
        let look = Look::at(std::process::id(), true).unwrap();
        assert!(look.rss.unwrap() > 0);
        assert!(look.cpu_since(&look).unwrap().total_us() == 0.0);
        assert!(Look::at(u32::MAX, false).is_none());
    }
}
