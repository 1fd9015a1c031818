"""The host: what it is, what /proc says, its settings, and processes on its processors.

Never measures a server; never leaves a process or a setting behind.
"""

import fcntl
import os
import re
import resource
import shlex
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benches" / "results"
PORTS = range(19_000, 20_000)  # Below net.ipv4.ip_local_port_range.
TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def read(path, default=""):
    try:
        return Path(path).read_text()
    except OSError:
        return default


def facts():
    """What a table of figures must say about where they come from."""
    model = re.search(r"^model name\s*:\s*(.*)$", read("/proc/cpuinfo"), re.M)
    git = lambda *words: subprocess.run(
        ["git", "-C", ROOT, *words], capture_output=True, text=True
    ).stdout.strip()
    changed = " (changed)" if git("status", "--porcelain", "--", "src", "Cargo.lock") else ""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "kernel": f"{os.uname().sysname} {os.uname().release}",
        "cpu": model.group(1) if model else os.uname().machine,
        "processors": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * PAGE / 2**30),
        "commit": (git("rev-parse", "--short", "HEAD") or "unknown") + changed,
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
    }


def describe(it):
    return (
        f"{it['kernel']}, {it['cpu']}, {it['processors']} processors, {it['memory_gib']} GiB, "
        f"limit of open files {it['open_files']:,}, commit {it['commit']}, {it['date']}"
    )


class Process:
    """A child on given processors, in a directory of its own output; ended by `stop`."""

    def __init__(self, words, cpus=None, stdin=None, log=None):
        self.words = shlex.split(words) if isinstance(words, str) else [str(w) for w in words]

        def prepare():
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            if cpus:
                os.sched_setaffinity(0, cpus)

        self.log = open(log, "w+") if log else None
        out = self.log or subprocess.PIPE
        self.child = subprocess.Popen(
            self.words, stdin=stdin or subprocess.DEVNULL, stdout=out,
            stderr=self.log or subprocess.PIPE, text=True, preexec_fn=prepare,
        )
        self.pid = self.child.pid

    def is_alive(self):
        return self.child.poll() is None

    def output(self):
        self.log.flush()
        return read(self.log.name)

    def send(self, number):
        if self.is_alive():
            self.child.send_signal(number)

    def stop(self, number=signal.SIGTERM, patience=15):
        self.send(number)
        try:
            self.child.wait(patience)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        for stream in (self.log, self.child.stdin, self.child.stdout, self.child.stderr):
            if stream:
                stream.close()


_next_port = PORTS.start + os.getpid() % (len(PORTS) // 2)


def free_port():
    """Another one each time: a server that has ended may hold its port for a moment."""
    global _next_port
    while True:
        _next_port = _next_port + 1 if _next_port + 1 < PORTS.stop else PORTS.start
        with socket.socket() as it:
            it.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                it.bind(("127.0.0.1", _next_port))
            except OSError:
                continue
            return _next_port


def listens(port):
    with socket.socket() as it:
        return it.connect_ex(("127.0.0.1", port)) == 0


def wait_until(what, seconds, done, every=0.02):
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(every)


def serve(words, port, cpus=None, stdin=None, log=None):
    """Starts a server and returns when it listens on its port."""
    server = Process(words, cpus, stdin, log)
    try:
        wait_until("listening", 20, lambda: listens(port) or not server.is_alive())
    except TimeoutError:
        server.stop()
        raise
    if not server.is_alive():
        said = server.output()[-400:] if server.log else server.child.stderr.read()[-400:]
        server.stop()
        raise RuntimeError(f"{server.words[0]} ended: {said.strip()}")
    return server


def run_seconds(pid):
    """Time of all threads on a processor."""
    total = 0
    for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        total += int(read(task, "0").split()[0])
    return total / 1e9


def process_seconds(pid):
    """User and system time of a process and its threads."""
    fields = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK if fields else 0.0


def resident(pid):
    match = re.search(r"^VmRSS:\s*(\d+)", read(f"/proc/{pid}/status"), re.M)
    return int(match.group(1)) * 1024 if match else 0


class Others:
    """Processor time of everybody else: neither the measured processes nor kernel threads."""

    def __init__(self):
        self.before = self._now()
        self.since = time.monotonic()

    @staticmethod
    def _now():
        fields = [int(field) for field in read("/proc/stat").splitlines()[0].split()[1:9]]
        busy = sum(fields) - fields[3] - fields[4] - fields[7]  # Idle, waiting, stolen.
        kernel = 0
        for path in Path("/proc").glob("[0-9]*/stat"):
            words = read(path).rpartition(")")[2].split()
            if words and words[1] in ("0", "2") and "0" == words[2]:  # Children of kthreadd.
                kernel += int(words[11]) + int(words[12])
        return (busy - kernel) / TICK

    def percent(self, measured_seconds):
        """Of one processor, since this was made."""
        spent = self._now() - self.before - measured_seconds
        return max(0.0, 100 * spent / (time.monotonic() - self.since))


def free_delay():
    """Seconds for which the kernel may keep what is to be freed (CONFIG_RCU_LAZY, Linux 6.2)."""
    return 11 if read("/sys/module/rcutree/parameters/enable_rcu_lazy").strip() == "Y" else 0


class Slabs:
    """Objects in each of the kernel's caches, in bytes. Root only.

    Names and inodes of files that nobody uses are dropped first, and what processors keep to
    themselves is given back, so that the counts are exact and free of what others have looked at.
    """

    WASTE = "slab waste"
    # What files that somebody opens leave behind; no part of a socket.
    FILES = ("ext4_", "jbd2_", "xfs_", "btrfs_", "bio", "buffer_head", "radix_tree_node",
             "proc_inode_cache", "shmem_inode_cache", "inode_cache", "kernfs_", "names_cache")

    def __init__(self):
        try:
            Path("/proc/sys/vm/drop_caches").write_text("2")
            for cache in Path("/sys/kernel/slab").glob("*/shrink"):
                cache.write_text("1")
        except OSError:
            pass  # Read-only in a container: the counts are less exact.
        self.bytes, self.pages = parse_slabs(read("/proc/slabinfo"))

    def since(self, earlier):
        """Growth by cache."""
        names = self.bytes.keys() | earlier.bytes.keys()
        return {name: self.bytes.get(name, 0) - earlier.bytes.get(name, 0) for name in names}


def parse_slabs(text):
    """Bytes of objects in use by cache, with what their slabs waste as one more, and all pages.

    Caches of files are left out.
    """
    found, pages = {Slabs.WASTE: 0.0}, 0
    for line in text.splitlines()[2:]:
        fields = line.split()
        name, (objects, _, size, per_slab, each) = fields[0], map(int, fields[1:6])
        pages += int(fields[14]) * each
        if name.startswith(Slabs.FILES):
            continue
        found[name] = objects * size
        found[Slabs.WASTE] += objects * (each * PAGE / per_slab - size)
    return found, pages


def meminfo():
    lines = re.findall(r"^(\w+):\s*(\d+) kB", read("/proc/meminfo"), re.M)
    return {name: int(kib) * 1024 for name, kib in lines}


def sockets():
    """TCP sockets in use, and those in TIME_WAIT."""
    fields = re.search(r"^TCP: inuse (\d+) orphan \d+ tw (\d+)", read("/proc/net/sockstat"), re.M)
    return int(fields.group(1)), int(fields.group(2))


def enter_own_network():
    """Runs this program again in a network of its own, in which it is alone with its loopback.

    Sockets of others are neither counted nor in the way there. Where the host does not allow it,
    returns; then nobody else should use the network meanwhile.
    """
    if os.environ.get("RINGHOLD_OWN_NETWORK"):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as it:
            # SIOCSIFFLAGS: up and running.
            fcntl.ioctl(it, 0x8914, struct.pack("16sh14x", b"lo", 0x41))
        return
    own = ["unshare", "--net"]
    try:
        allowed = subprocess.run([*own, "true"], stderr=subprocess.DEVNULL).returncode == 0
    except FileNotFoundError:
        allowed = False
    if allowed:
        os.environ["RINGHOLD_OWN_NETWORK"] = "1"
        os.execvp(own[0], [*own, sys.executable, *sys.argv])
    print("note: no network namespace of its own; sockets of others disturb the figures")


class Settings:
    """Kernel settings that are raised, and put back at the end."""

    def __init__(self):
        self.before = {}

    @staticmethod
    def path(name):
        return Path("/proc/sys") / name.replace(".", "/")

    def get(self, name):
        return self.path(name).read_text().split() if self.path(name).exists() else None

    def set(self, name, value):
        before = " ".join(self.get(name))
        try:
            self.path(name).write_text(value)
        except PermissionError:
            # The host's own, seen from a network namespace.
            print(f"{name}: {before}, and cannot be changed from here", flush=True)
            return
        self.before.setdefault(name, before)
        print(f"{name}: {self.before[name]} -> {value} (put back at the end)", flush=True)

    def restore(self):
        for name, value in self.before.items():
            self.path(name).write_text(value)
            print(f"{name}: {value} again", flush=True)
        self.before = {}
