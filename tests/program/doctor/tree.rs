//! A fake host: the files of /proc and /sys that `ringhold doctor` reads, in a directory.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

/// Files by path below the root.
#[derive(Clone)]
pub(crate) struct Tree(pub(crate) BTreeMap<String, String>);

/// What the program answered.
pub(crate) struct Answer {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Tree {
    /// A host of 4 processors and 32 GiB on which nothing needs to be mended for 1,000,000
    /// connections of this profile.
    pub(crate) fn healthy(profile: &str) -> Self {
        let mut tree = Self(BTreeMap::new());
        for (path, text) in HEALTHY {
            tree.0.insert((*path).to_owned(), (*text).to_owned());
        }
        for (key, value, _) in settings(profile) {
            tree.sysctl(&key, &value);
        }
        tree
    }

    pub(crate) fn file(&mut self, path: &str, text: &str) -> &mut Self {
        self.0.insert(path.to_owned(), text.to_owned());
        self
    }

    pub(crate) fn sysctl(&mut self, key: &str, value: &str) -> &mut Self {
        self.file(&format!("proc/sys/{}", key.replace('.', "/")), &format!("{value}\n"))
    }

    /// Replaces a part of a file that must be there.
    pub(crate) fn edit(&mut self, path: &str, from: &str, to: &str) -> &mut Self {
        let text = self.0.get_mut(path).unwrap_or_else(|| panic!("no {path}"));
        assert!(text.contains(from), "{path} has no {from:?}");
        *text = text.replace(from, to);
        self
    }

    /// Writes it into a directory.
    pub(crate) fn lay(&self) -> Laid {
        let laid = Laid::new();
        self.0.iter().for_each(|(path, text)| laid.write(path, text));
        laid
    }

    /// Runs `ringhold doctor` on it.
    pub(crate) fn examine(&self, arguments: &[&str]) -> Answer {
        self.lay().examine(arguments)
    }

    /// The same with `--json`, parsed.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        self.lay().json(arguments)
    }
}

/// Runs `ringhold doctor`.
pub(crate) fn doctor(arguments: &[&str]) -> Answer {
    let output = Command::new(env!("CARGO_BIN_EXE_ringhold"))
        .arg("doctor")
        .args(arguments)
        .output()
        .expect("the program runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    let code = output.status.code().expect("it was not killed");
    Answer { code, stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// The finding of one check.
pub(crate) fn finding<'a>(report: &'a Value, check: &str) -> &'a Value {
    let findings = report["findings"].as_array().expect("findings");
    let found = findings.iter().find(|finding| finding["check"] == check);
    found.unwrap_or_else(|| panic!("no finding {check}"))
}

/// The lines of a profile's sysctl file: key, value, the comment right above.
pub(crate) fn settings(profile: &str) -> Vec<(String, String, String)> {
    let path = tuning().join(format!("90-ringhold-{profile}.conf"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let mut comment = String::new();
    let mut settings = Vec::new();
    for line in text.lines() {
        match line.split_once('=') {
            _ if line.starts_with('#') => comment.push_str(line),
            Some((key, value)) => {
                let comment = std::mem::take(&mut comment);
                settings.push((key.trim().to_owned(), value.trim().to_owned(), comment));
            }
            None => comment.clear(),
        }
    }
    settings
}

pub(crate) fn tuning() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning")
}

/// A tree in a directory, which goes away with the value.
pub(crate) struct Laid(PathBuf);

impl Laid {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ringhold-doctor-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn remove(&self, path: &str) {
        fs::remove_file(self.0.join(path)).unwrap();
    }

    pub(crate) fn examine(&self, arguments: &[&str]) -> Answer {
        doctor(&[&["--root", self.0.to_str().unwrap()], arguments].concat())
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let answer = self.examine(&[&["--json"], arguments].concat());
        serde_json::from_str(&answer.stdout)
            .unwrap_or_else(|error| panic!("{error}\n{}\n{}", answer.stdout, answer.stderr))
    }
}

impl Drop for Laid {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const HEALTHY: &[(&str, &str)] = &[
    ("proc/sys/kernel/osrelease", "6.18.0\n"),
    ("proc/sys/kernel/io_uring_disabled", "0\n"),
    (
        "proc/self/limits",
        "Limit                     Soft Limit           Hard Limit           Units\n\
         Max open files            1024                 1048576              files\n\
         Max locked memory         8388608              8388608              bytes\n",
    ),
    (
        "proc/self/status",
        "Name:\tringhold\nCapEff:\t0000000000000000\nTHP_enabled:\t1\nCpus_allowed_list:\t0-3\n",
    ),
    ("proc/self/cgroup", "0::/system.slice/ringhold.service\n"),
    ("sys/fs/cgroup/cgroup.controllers", "cpu memory pids\n"),
    ("sys/fs/cgroup/system.slice/memory.max", "max\n"),
    ("sys/fs/cgroup/system.slice/ringhold.service/memory.max", "max\n"),
    ("sys/fs/cgroup/system.slice/ringhold.service/pids.max", "4915\n"),
    ("sys/fs/cgroup/system.slice/ringhold.service/cpu.max", "max 100000\n"),
    ("sys/devices/system/cpu/online", "0-3\n"),
    ("sys/devices/system/cpu/isolated", "\n"),
    ("proc/meminfo", "MemTotal: 33554432 kB\nMemFree: 1 kB\nMemAvailable:   31457280 kB\n"),
    ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
    ("proc/sys/fs/file-max", "9223372036854775807\n"),
    ("proc/sys/fs/file-nr", "1200\t0\t9223372036854775807\n"),
    ("proc/sys/fs/nr_open", "1048576\n"),
    ("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n"),
    ("proc/sys/net/ipv4/ip_local_reserved_ports", "\n"),
    ("proc/sys/net/ipv4/tcp_mem", "3000000\t4000000\t6000000\n"),
    ("proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t6291456\n"),
    ("proc/sys/net/ipv4/tcp_wmem", "4096\t16384\t4194304\n"),
    ("proc/sys/net/core/somaxconn", "65535\n"),
    ("proc/sys/net/ipv4/tcp_syncookies", "1\n"),
    ("proc/sys/net/ipv4/tcp_max_syn_backlog", "2048\n"),
    ("proc/sys/net/ipv4/tcp_ehash_entries", "524288\n"),
    ("proc/sys/net/netfilter/nf_conntrack_max", "2097152\n"),
    ("proc/sys/net/netfilter/nf_conntrack_count", "500\n"),
    ("proc/sys/net/netfilter/nf_conntrack_buckets", "1048576\n"),
    (
        "proc/net/softnet_stat",
        "00fffff0 00000000 00000005 00000000\n00fffff0 00000000 00000002 00000000\n",
    ),
    ("proc/sys/net/core/netdev_max_backlog", "1000\n"),
    ("proc/sys/net/core/netdev_budget", "300\n"),
    (
        "proc/interrupts",
        "            CPU0   CPU1   CPU2   CPU3\n\
         \x2024:      900      0      0      0  PCI-MSI 1-edge  eth0-rx-0\n\
         \x2025:        0    900      0      0  PCI-MSI 2-edge  eth0-rx-1\n\
         \x2026:        0      0    900      0  PCI-MSI 3-edge  eth0-rx-2\n\
         \x2027:        0      0      0    900  PCI-MSI 4-edge  eth0-rx-3\n\
         LOC:     1000   1000   1000   1000  Local timer interrupts\n",
    ),
    ("sys/class/net/eth0/operstate", "up\n"),
    ("sys/class/net/eth0/device/vendor", "0x8086\n"),
    ("sys/class/net/eth0/queues/rx-0/rps_cpus", "0\n"),
    ("sys/class/net/eth0/queues/rx-1/rps_cpus", "0\n"),
    ("sys/class/net/eth0/queues/rx-2/rps_cpus", "0\n"),
    ("sys/class/net/eth0/queues/rx-3/rps_cpus", "0\n"),
    ("sys/class/net/eth0/queues/tx-0/xps_cpus", "1\n"),
    ("sys/class/net/lo/operstate", "unknown\n"),
    ("sys/class/net/lo/queues/rx-0/rps_cpus", "0\n"),
];
