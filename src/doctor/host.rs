//! What is known of a host: a plain record, read once, from files only.

use std::collections::BTreeMap;

use super::cgroup::Cgroup;
use super::nics::{self, Nic};
use super::probe::Probe;
use super::profile::Profile;
use super::tree::{self, Tree, Value, processors, ranges, strange};

/// A host. Nothing in it is computed; each value says for itself whether it is known.
#[derive(Debug)]
pub(crate) struct Host {
    /// As `uname -r` has it.
    pub(crate) release: Value<String>,
    pub(crate) ring: Probe,
    pub(crate) process: Process,
    pub(crate) cgroup: Cgroup,
    /// Processors that run.
    pub(crate) online: Value<Vec<u32>>,
    /// Processors that the scheduler leaves alone.
    pub(crate) isolated: Value<Vec<u32>>,
    /// Bytes that programs can still take without swapping.
    pub(crate) memory_available: Value<u64>,
    /// The chosen word of `transparent_hugepage/enabled`.
    pub(crate) huge_pages: Value<String>,
    pub(crate) uring_disabled: Value<u64>,
    pub(crate) file_max: Value<u64>,
    /// Files that are open.
    pub(crate) files_open: Value<u64>,
    pub(crate) nr_open: Value<u64>,
    pub(crate) port_range: Value<(u32, u32)>,
    pub(crate) reserved_ports: Value<Vec<(u32, u32)>>,
    /// Pages: low, pressure, high.
    pub(crate) tcp_mem: Value<[u64; 3]>,
    pub(crate) tcp_rmem: Value<[u64; 3]>,
    pub(crate) tcp_wmem: Value<[u64; 3]>,
    pub(crate) somaxconn: Value<u64>,
    pub(crate) syncookies: Value<u64>,
    pub(crate) syn_backlog: Value<u64>,
    /// Buckets for established connections; negative: those of another network namespace.
    pub(crate) hash_buckets: Value<i64>,
    pub(crate) conntrack: Conntrack,
    pub(crate) softnet: Value<Softnet>,
    pub(crate) netdev_backlog: Value<u64>,
    pub(crate) netdev_budget: Value<u64>,
    pub(crate) nics: Value<Vec<Nic>>,
    /// The sysctls that any profile sets, as text.
    pub(crate) settings: BTreeMap<&'static str, Value<String>>,
}

/// Limits of the process that serves, or of one that was started likewise.
#[derive(Debug)]
pub(crate) struct Process {
    /// Soft and hard limit of open files.
    pub(crate) open_files: Value<(u64, u64)>,
    /// Soft and hard limit of locked memory, in bytes.
    pub(crate) locked_memory: Value<(u64, u64)>,
    /// Whether it has CAP_IPC_LOCK.
    pub(crate) ipc_lock: Value<bool>,
    /// Processors it may run on.
    pub(crate) allowed: Value<Vec<u32>>,
    /// Whether it may have transparent huge pages (Linux 5.0).
    pub(crate) huge_pages: Value<bool>,
}

/// The firewall's table of connections; absent if the module is not loaded.
#[derive(Debug)]
pub(crate) struct Conntrack {
    pub(crate) max: Value<u64>,
    pub(crate) count: Value<u64>,
    pub(crate) buckets: Value<u64>,
}

/// What the processors' receive queues have been through since the host started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Softnet {
    /// Packets.
    pub(crate) processed: u64,
    /// Packets dropped because a processor's backlog was full.
    pub(crate) dropped: u64,
    /// Times the budget ended before the packets did.
    pub(crate) squeezed: u64,
}

impl Host {
    /// Reads everything; `process` is `self` or a number. Makes no trial.
    pub(crate) fn read(tree: &Tree, process: &str) -> Self {
        let sysctl = |key| tree.number(&tree::sysctl_path(key));
        let triple = |key| tree.numbers::<3>(&tree::sysctl_path(key));
        Self {
            release: tree.text("proc/sys/kernel/osrelease"),
            ring: Probe::None,
            process: Process::read(tree, process),
            cgroup: Cgroup::read(tree, process),
            online: tree.parse("sys/devices/system/cpu/online", processors),
            isolated: tree.parse("sys/devices/system/cpu/isolated", processors),
            memory_available: tree.parse("proc/meminfo", |text| field_kib(text, "MemAvailable:")),
            huge_pages: tree.parse("sys/kernel/mm/transparent_hugepage/enabled", chosen),
            uring_disabled: sysctl("kernel.io_uring_disabled"),
            file_max: sysctl("fs.file-max"),
            files_open: tree
                .parse("proc/sys/fs/file-nr", |text| tree::numbers(text)?.first().copied()),
            nr_open: sysctl("fs.nr_open"),
            port_range: tree.parse(&tree::sysctl_path("net.ipv4.ip_local_port_range"), |text| {
                let range: [u64; 2] = tree::numbers(text)?.try_into().ok()?;
                Some((range[0].try_into().ok()?, range[1].try_into().ok()?))
            }),
            reserved_ports: tree
                .parse(&tree::sysctl_path("net.ipv4.ip_local_reserved_ports"), ranges),
            tcp_mem: triple("net.ipv4.tcp_mem"),
            tcp_rmem: triple("net.ipv4.tcp_rmem"),
            tcp_wmem: triple("net.ipv4.tcp_wmem"),
            somaxconn: sysctl("net.core.somaxconn"),
            syncookies: sysctl("net.ipv4.tcp_syncookies"),
            syn_backlog: sysctl("net.ipv4.tcp_max_syn_backlog"),
            hash_buckets: tree.parse(&tree::sysctl_path("net.ipv4.tcp_ehash_entries"), |text| {
                text.parse().ok().filter(|buckets| *buckets != 0)
            }),
            conntrack: Conntrack {
                max: sysctl("net.netfilter.nf_conntrack_max"),
                count: sysctl("net.netfilter.nf_conntrack_count"),
                buckets: sysctl("net.netfilter.nf_conntrack_buckets"),
            },
            softnet: tree.parse("proc/net/softnet_stat", Softnet::parse),
            netdev_backlog: sysctl("net.core.netdev_max_backlog"),
            netdev_budget: sysctl("net.core.netdev_budget"),
            nics: nics::read(tree),
            settings: Profile::ALL
                .iter()
                .flat_map(|profile| profile.settings())
                .map(|setting| (setting.key, tree.sysctl(setting.key)))
                .collect(),
        }
    }

    /// Major and minor number of the kernel.
    pub(crate) fn kernel(&self) -> Value<(u32, u32)> {
        let release = self.release.as_ref().map_err(Clone::clone)?;
        version(release).ok_or_else(|| strange("proc/sys/kernel/osrelease", release))
    }

    /// Processors that the program counts: those it may run on, fewer under a quota. The same rule
    /// as that of `std::thread::available_parallelism`.
    pub(crate) fn processors(&self) -> Value<usize> {
        let allowed = self.process.allowed.as_ref().or(self.online.as_ref());
        let allowed = allowed.map_err(Clone::clone)?.len();
        let quota = match &self.cgroup.cpu {
            Ok(Some(quota)) => (quota.floor() as usize).max(1),
            _ => usize::MAX,
        };
        Ok(allowed.min(quota).max(1))
    }
}

impl Process {
    fn read(tree: &Tree, process: &str) -> Self {
        let limits = format!("proc/{process}/limits");
        let status = format!("proc/{process}/status");
        let limit = |name: &'static str| tree.parse(&limits, |text| limit(text, name));
        Self {
            open_files: limit("Max open files"),
            locked_memory: limit("Max locked memory"),
            ipc_lock: tree.parse(&status, |text| {
                let set = u64::from_str_radix(field(text, "CapEff:")?, 16).ok()?;
                Some(set & CAP_IPC_LOCK != 0)
            }),
            allowed: tree.parse(&status, |text| processors(field(text, "Cpus_allowed_list:")?)),
            huge_pages: tree.parse(&status, |text| Some(field(text, "THP_enabled:")? != "0")),
        }
    }
}

impl Softnet {
    /// A line for each processor: packets, dropped, squeezed and more, in hexadecimal.
    fn parse(text: &str) -> Option<Self> {
        let mut sum = Self::default();
        for line in text.lines() {
            let mut fields = line.split_whitespace().map(|word| u64::from_str_radix(word, 16).ok());
            sum.processed += fields.next()??;
            sum.dropped += fields.next()??;
            sum.squeezed += fields.next()??;
        }
        (!text.is_empty()).then_some(sum)
    }
}

/// `6.18.44-custom`: 6 and 18.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The value behind `name` at the start of a line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// The same in bytes, where the file says kB.
fn field_kib(text: &str, name: &str) -> Option<u64> {
    let kib: u64 = field(text, name)?.strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Soft and hard limit in /proc/PID/limits.
fn limit(text: &str, name: &str) -> Option<(u64, u64)> {
    let number = |word: &str| match word {
        "unlimited" => Some(u64::MAX),
        _ => word.parse().ok(),
    };
    let mut words = field(text, name)?.split_whitespace();
    Some((number(words.next()?)?, number(words.next()?)?))
}

/// `always [madvise] never`: madvise.
fn chosen(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

/// Bit 14 (capabilities(7)).
const CAP_IPC_LOCK: u64 = 1 << 14;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_the_kernel() {
        assert_eq!(version("6.18.44-fc-v657"), Some((6, 18)));
        assert_eq!(version("6.1-rc3"), Some((6, 1)));
        assert_eq!((version("six"), version("6")), (None, None));
        assert_eq!(chosen("always [madvise] never"), Some("madvise".to_owned()));
        assert_eq!(chosen("always"), None);
        let limits = "Limit  Soft Limit  Hard Limit  Units\n\
                      Max open files            1024                 20000                files\n\
                      Max locked memory         8388608              unlimited            bytes";
        assert_eq!(limit(limits, "Max open files"), Some((1024, 20_000)));
        assert_eq!(limit(limits, "Max locked memory"), Some((8_388_608, u64::MAX)));
        assert_eq!(limit(limits, "Max stack size"), None);
        assert_eq!(field_kib("MemFree: 1 kB\nMemAvailable:  12 kB", "MemAvailable:"), Some(12_288));
        assert_eq!(field_kib("MemAvailable: 12", "MemAvailable:"), None);
    }

    #[test]
    fn receive_queues_are_added_up() {
        let text = "0000000a 00000001 00000002 0 0\n000000ff 00000000 00000003 0 0";
        let sum = Softnet { processed: 265, dropped: 1, squeezed: 5 };
        assert_eq!(Softnet::parse(text), Some(sum));
        assert_eq!((Softnet::parse(""), Softnet::parse("0a")), (None, None));
    }

    #[test]
    fn an_empty_tree_is_all_unknown() {
        let host = Host::read(&Tree::new("/nowhere".as_ref()), "self");
        assert!(host.kernel().is_err() && host.processors().is_err() && host.nics.is_err());
        assert!(host.settings.values().all(Result::is_err) && !host.settings.is_empty());
    }
}
