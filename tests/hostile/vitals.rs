//! What a server is seen to hold and to spend: its metrics, its memory, its processor time, and the
//! group of processes with a bound on memory that it may be put in.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::PATIENCE;
use crate::support::gateway::Gateway;

/// What must be back when the attackers have left, and by how much it may differ.
const GAUGES: [(&str, u64); 15] = [
    // The connection that asks for the metrics may count.
    ("connections", 1),
    ("open", 0),
    ("streams", 0),
    ("inbound_bytes_held", 0),
    ("outbox_bytes_held", 0),
    ("blocked", 0),
    // Each witness has a few; which are armed is a question of the moment.
    ("timers", 16),
    ("topics", 0),
    ("deflate_connections", 0),
    ("subscriptions", 0),
    ("gateway_clients", 0),
    ("gateway_users", 0),
    ("gateway_channels", 0),
    ("gateway_subscriptions", 0),
    ("hooks_in_flight", 0),
];

/// All metrics at one moment, by their names behind `ringhold_` and their labels.
#[derive(Clone, Debug)]
pub(crate) struct Metrics(HashMap<String, u64>);

impl Metrics {
    /// As soon as the server has a place for who asks.
    pub(crate) fn of(gateway: &Gateway) -> Self {
        let deadline = Instant::now() + PATIENCE;
        let text = loop {
            match gateway.get("/metrics") {
                (200, text) => break text,
                (status, _) => assert!(Instant::now() < deadline, "the metrics answer {status}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let lines = text.lines().filter_map(|line| line.strip_prefix("ringhold_"));
        let pairs = lines.filter_map(|line| line.rsplit_once(' '));
        let values = pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)));
        Self(values.collect())
    }

    /// One of them; one that has not been counted yet is 0.
    pub(crate) fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// How many connections are open on each core.
    pub(crate) fn cores(&self) -> [u64; 2] {
        [0, 1].map(|core| self.get(&format!("core_open{{core=\"{core}\"}}")))
    }

    /// The gauges that are higher than they were.
    pub(crate) fn above(&self, before: &Self) -> Vec<String> {
        let above = |(name, slack): &(&str, u64)| {
            let (is, was) = (self.get(name), before.get(name));
            (is > was + slack).then(|| format!("{name} is {is}, was {was}"))
        };
        GAUGES.iter().filter_map(above).collect()
    }

    /// Every counter that has risen, for who looks for the reason of a failure.
    pub(crate) fn risen(&self, before: &Self) -> String {
        let risen = self.0.iter().filter(|(name, value)| {
            let kind =
                ["closes_total", "refusals_total", "disconnects", "errors_total", "failures"];
            kind.iter().any(|part| name.contains(part)) && **value > before.get(name)
        });
        let mut list: Vec<_> =
            risen.map(|(name, value)| format!("{name} +{}", value - before.get(name))).collect();
        list.sort();
        list.join(", ")
    }
}

/// A line of `/proc/ID/status` in bytes.
fn status(id: u32, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// Resident memory in bytes.
pub(crate) fn resident(id: u32) -> u64 {
    status(id, "VmRSS")
}

/// The most resident memory since the start, or since [`forget_peak`].
pub(crate) fn peak(id: u32) -> u64 {
    status(id, "VmHWM")
}

/// Has the kernel count the peak from now on.
pub(crate) fn forget_peak(id: u32) {
    let _ = std::fs::write(format!("/proc/{id}/clear_refs"), "5");
}

/// Processor time of all threads so far.
pub(crate) fn processor_time(id: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // Fields 14 and 15, counted behind the name, which may contain anything but a last `)`.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().skip(11));
    let ticks: u64 =
        fields.into_iter().flatten().take(2).filter_map(|f| f.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Of each core's thread: how long it ran, and how long it was ready to run and did not, so far.
pub(crate) fn cores(id: u32) -> Vec<(Duration, Duration)> {
    let threads = std::fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    let mut cores: Vec<(String, Duration, Duration)> = threads
        .filter_map(|thread| {
            let text = |name| std::fs::read_to_string(thread.path().join(name)).ok();
            let name = text("comm")?.trim().to_owned();
            name.strip_prefix("ringhold-")?.parse::<usize>().ok()?;
            let text = text("schedstat")?;
            let mut nanos = text.split_whitespace().map_while(|field| field.parse().ok());
            let mut next = || nanos.next().map(Duration::from_nanos);
            Some((name, next()?, next()?))
        })
        .collect();
    cores.sort();
    cores.into_iter().map(|(_, ran, waited)| (ran, waited)).collect()
}

/// Of each core: which part of the time it ran, and which it waited to run.
pub(crate) fn parts(
    before: &[(Duration, Duration)],
    after: &[(Duration, Duration)],
    time: Duration,
) -> [(f64, f64); 2] {
    let part = |more: Duration| more.as_secs_f64() / time.as_secs_f64().max(1e-9);
    [0, 1].map(|core| match (before.get(core), after.get(core)) {
        (Some(before), Some(after)) => {
            (part(after.0.saturating_sub(before.0)), part(after.1.saturating_sub(before.1)))
        }
        _ => (0.0, 0.0),
    })
}

/// The most memory that the program says it takes with this configuration: the sum at the end of
/// what `config show` prints.
pub(crate) fn ceiling(gateway: &Gateway) -> Option<u64> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringhold"));
    let shown = command.args(["config", "show"]).arg(gateway.config()?).output().ok()?;
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    let line = text.lines().rev().find(|line| line.starts_with("# together "))?;
    let words: Vec<&str> =
        line.split(|c: char| !c.is_alphanumeric() && c != '.').filter(|w| !w.is_empty()).collect();
    // "1.5 GiB" are two words, "1.5GiB" is one.
    let pairs = words.windows(2).map(|pair| pair.concat());
    let sizes = words.iter().map(|word| (*word).to_owned()).chain(pairs);
    let unit = |text: &String| text.ends_with(['B', 'b']);
    sizes
        .filter(unit)
        .filter_map(|text| text.parse::<bytesize::ByteSize>().ok())
        .next_back()
        .map(|b| b.0)
}

/// A group of processes with a bound on memory, taken away when dropped.
pub(crate) struct Group {
    folder: PathBuf,
    /// Where the kernel says how often it has ended a process for want of memory.
    killed: PathBuf,
}

impl Group {
    /// Puts a process into a group of its own. `None`: there is no hierarchy of groups here that
    /// counts memory and may be written to.
    pub(crate) fn hold(id: u32, bytes: u64) -> Option<Self> {
        // What the process has already stays accounted where it was.
        let bytes = bytes.saturating_sub(resident(id)).max(1 << 20).to_string();
        let name = format!("ringhold-hostile-{id}");
        for (root, bound, events) in [
            ("/sys/fs/cgroup", "memory.max", "memory.events"),
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.oom_control"),
        ] {
            let folder = PathBuf::from(root).join(&name);
            if std::fs::create_dir(&folder).is_err() {
                continue;
            }
            let group = Self { killed: folder.join(events), folder };
            if std::fs::write(group.folder.join(bound), &bytes).is_ok()
                && std::fs::write(group.folder.join("cgroup.procs"), id.to_string()).is_ok()
            {
                return Some(group);
            }
        }
        None
    }

    /// How many processes the kernel has ended in it.
    pub(crate) fn killed(&self) -> u64 {
        let text = std::fs::read_to_string(&self.killed).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Not empty as long as the process is there; then it stays, which does no harm.
        let _ = std::fs::remove_dir(&self.folder);
    }
}
