"""Opens N connections to a server on this host, holds them, and says what each costs.

User space is the growth of the server's resident set. The kernel's part is measured, not guessed,
from objects in its caches (/proc/slabinfo, root only), in three steps of one run:

  bare     K clients of `ringhold load idle` at a server that only holds sockets; then the clients
           are killed, and what is left belongs to the holder: a bare accepted socket.
  client   both ends of that minus the holder's: what the clients' ends cost.
  server   both ends of the N connections at the real server, minus N clients' ends; once over
           io_uring and once over epoll, each with a fresh server.

Nothing here is a timed test; on a busy host only the bytes are worth something.
"""

import argparse
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time

import host
import servers as peers

# Sockets that are no connections: listeners, a server's own.
STRANGERS = 20
SPARE = 200  # Descriptors of a process that are no connections.
SHOWN = 2  # Bytes per connection below which a cache is added to "other caches".


def arguments():
    parser = argparse.ArgumentParser(
        prog="benches/density.sh", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("connections", type=int, metavar="N")
    add("--hold", default="60s", metavar="TIME", help="with heartbeats (%(default)s)")
    add("--sample", type=int, default=0, metavar="K",
        help="connections of the bare measurement (15,000, or N if that is less)")
    add("--storm", action="store_true",
        help="while they are held, half of the connections are closed at once and come back, and "
        "the others echo at --rate; at the end all are closed at once")
    add("--rate", type=int, default=1000, help="echoes per second with --storm (%(default)s)")
    add("--tune", action="store_true",
        help="raise kernel settings that are too small for N; they are put back at the end")
    add("--server", metavar="COMMAND",
        help="another server, with {port}; not more connections than its limit of open files")
    add("--options", default="", metavar="OPTIONS", help="for `ringhold echo`")
    add("--io", metavar="LIST",
        help="ways into the kernel, beside each other (uring,epoll; without epoll where a process "
        "has too few descriptors for N)")
    add("--tls", action="store_true",
        help="over TLS, with the certificate of the tests (P-256); {cert} and {key} in --server")
    add("--open-rate", type=int, default=0, help="connections opened per second (no limit)")
    add("--ringhold", metavar="PROGRAM", help="this program, instead of building one")
    add("--holder", metavar="PROGRAM", help="this holder, instead of building one")
    add("--name", help="of the files in benches/results (density-N)")
    add("--results", default=host.RESULTS, help="another folder for them")
    return parser.parse_args()


def wanted(n):
    """Kernel settings for N connections with both ends on this host, and why."""
    pages = os.sysconf("SC_PHYS_PAGES")
    return {
        "net.core.somaxconn": 65_535,
        "net.ipv4.tcp_max_syn_backlog": 65_535,
        # Handshakes of a million connections pass through these buffers.
        "net.ipv4.tcp_mem": f"{pages // 6} {pages // 4} {pages // 3}",
        "fs.file-max": 2 * n + 200_000,
        "net.netfilter.nf_conntrack_max": 2 * n + 65_536,
        # The clients that the bare measurement kills are gone sooner.
        "net.ipv4.tcp_fin_timeout": -5,
    }


def tune(settings, n, allowed):
    for name, value in wanted(n).items():
        now = settings.get(name)
        if now is None:
            continue
        # Compared by the last number; a negative one is an upper bound.
        number = int(str(value).split()[-1])
        if int(now[-1]) >= number > 0 or (number < 0 and int(now[-1]) <= -number):
            continue
        if allowed:
            settings.set(name, str(value).lstrip("-"))
        elif number > 0:
            print(f"note: {name} is {' '.join(now)}; --tune would raise it to {value}", flush=True)


class Reading:
    """Memory of the kernel and of one process at one moment."""

    def __init__(self, pid=None):
        time.sleep(1)  # What is freed after a grace period is free by then.
        self.slabs = host.Slabs()
        self.info = host.meminfo()
        self.rss = host.resident(pid) if pid else 0

    @classmethod
    def after_frees(cls, pid=None):
        """One before which connections ended: a kernel that saves power frees them later."""
        time.sleep(host.free_delay())
        return cls(pid)

    def caches_since(self, earlier, count):
        grown = self.slabs.since(earlier.slabs)
        return {name: size / count for name, size in grown.items() if size}


def why(load):
    """What a load that ended too soon has to say."""
    out, errors = load.child.communicate()
    try:
        found = json.loads(out)
    except ValueError:
        return errors.strip() or out.strip()
    opening = {key: found[key] for key in ("open", "opening", "connect") if key in found}
    return f"{json.dumps(opening or found)[:2000]} {errors.strip()}"


class Density:
    def __init__(self, options):
        self.options, self.count = options, options.connections
        self.sample = options.sample or min(self.count, 15_000)
        self.binary = options.ringhold or peers.build_ringhold()
        self.holder = options.holder or peers.build_benches("holder")["holder"]
        self.found = {"connections": self.count, "sample": self.sample, "host": host.facts()}
        # Who comes back at once may find its former place not yet free.
        self.places = self.count + self.count // (2 if options.storm else 50) + 64

    def load(self, port, count, *words, tls=False):
        url = f"{'wss' if tls else 'ws'}://127.0.0.1:{port}/"
        words = [self.binary, "--log", "error", "load", *words, "--connections", count, "--json",
                 "--url", url, "--handshake-timeout", "120s", *(["--insecure"] if tls else [])]
        return host.Process(words)

    def ways(self):
        """The servers that are measured, by name."""
        if self.options.server:
            return ["server"]
        if self.options.io:
            return self.options.io.split(",")
        fits = self.places + SPARE <= self.found["host"]["open_files"]
        if not fits:
            print("note: not over epoll, which takes a descriptor for each connection", flush=True)
        return ["uring", "epoll"] if fits else ["uring"]

    @staticmethod
    def wait_open(base, count, load, seconds):
        """Both ends of each connection are sockets in use."""
        is_done = lambda: host.sockets()[0] >= base + 2 * count - STRANGERS or not load.is_alive()
        host.wait_until(f"{count} connections", seconds, is_done, 0.05)
        if not load.is_alive():
            raise RuntimeError(f"load ended: {why(load)}")

    def bare(self):
        """What a bare accepted socket and what a client's end cost, by cache."""
        # Those of other networks are in the same caches, and would end meanwhile.
        lingering = lambda: host.Slabs().bytes.get("tw_sock_TCP", 0)
        try:
            host.wait_until("the end of others' TIME_WAIT", 90, lambda: lingering() < 100_000, 1)
        except TimeoutError as busy:
            print(f"note: {busy}; the figures of tw_sock_TCP are others', too", flush=True)
        print(f"bare: {self.sample:,} clients at a holder of sockets", flush=True)
        port, count = host.free_port(), self.sample
        holder = host.serve([self.holder, port], port, stdin=subprocess.PIPE, log=log("holder"))
        base = host.sockets()[0]
        try:
            before = Reading.after_frees()
            load = self.load(port, count, "idle", "--duration", "600s")
            try:
                self.wait_open(base, count, load, 60 + count / 500)
                both = Reading().caches_since(before, count)
            finally:
                load.stop(signal.SIGKILL)
            gone = lambda: host.sockets()[0] <= base + count + STRANGERS
            host.wait_until("the clients' end", 30, gone)
            # Their sockets linger as TIME_WAIT, and their farewells wait to be read.
            limit = int(host.Settings().get("net.ipv4.tcp_fin_timeout")[0]) + 15
            quiet = lambda: host.sockets()[1] < count / 200 + STRANGERS
            host.wait_until("the end of TIME_WAIT", limit, quiet, 0.25)
            holder.child.stdin.write("\n")
            holder.child.stdin.flush()
            host.wait_until("the holder", 30, lambda: "have ended" in holder.output())
            held = Reading.after_frees().caches_since(before, count)
        finally:
            holder.stop()
        names = both.keys() | held.keys()
        client = {name: both.get(name, 0) - held.get(name, 0) for name in names}
        self.found |= {"bare": held, "client": client}
        host.wait_until("the holder's end", 30, lambda: host.sockets()[0] <= base + STRANGERS)

    def start(self, way, port):
        if self.options.server:
            command = self.options.server
            for name, value in ("port", port), ("cert", peers.CERT), ("key", peers.KEY):
                command = command.replace(f"{{{name}}}", str(value))
            return host.serve(command, port, log=log("server"))
        words = [self.binary, "echo", "--listen", f"127.0.0.1:{port}", "--stats-interval", "5s"]
        if self.options.tls:
            words += ["--tls-cert", peers.CERT, "--tls-key", peers.KEY]
        words += ["--io", way, "--max-connections", self.places]
        return host.serve(words + self.options.options.split(), port, log=log("server"))

    def hold(self, way):
        """The real thing. Returns what was found."""
        options, count, port = self.options, self.count, host.free_port()
        # Sockets that end meanwhile would count against those that are opened.
        host.wait_until("the end of TIME_WAIT", 90, lambda: host.sockets()[1] < STRANGERS, 0.25)
        server = self.start(way, port)
        found = {}
        base = host.sockets()[0]
        try:
            before = Reading.after_frees(server.pid)
            words = ["--duration", options.hold, "--open-rate", options.open_rate]
            words += ["--server-pid", server.pid, "--linger", "10s"]
            if options.storm:
                # Who leaves has a place in a thread's table until the server has closed, too.
                table = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
                words += ["--payload", "32", "--rate", options.rate, "--storm-after", "15s",
                          "--close-rate", "0", "--threads", 2 + int(1.6 * count / table)]
            print(f"{way}: opening {count:,} connections", flush=True)
            kind = "echo" if options.storm else "idle"
            load = self.load(port, count, kind, *words, tls=options.tls)
            try:
                self.wait_open(base, count, load, 120 + count / 500)
                print("all open; holding", flush=True)
                start, cpu = time.monotonic(), host.run_seconds(server.pid)
                open_ = Reading(server.pid)
                held = peak = open_
                # The load generator itself ends the time; the last reading before is the result.
                while load.is_alive() and host.sockets()[0] >= base + 2 * count * 0.99:
                    found["hold_seconds"] = time.monotonic() - start
                    found["cpu_seconds"] = host.run_seconds(server.pid) - cpu
                    found["rss"] = host.resident(server.pid)
                    time.sleep(0.5)
                out, errors = load.child.communicate()
            finally:
                load.stop()
            if not out:
                raise RuntimeError(f"load: {errors.strip()}")
            found["load"] = json.loads(out)
            found["stats"] = last_stats(server.output(), count)
            host.wait_until("the end", 60, lambda: host.sockets()[0] <= base + STRANGERS, 0.1)
            time.sleep(10 if count > 1000 else 1)
            after = Reading(server.pid)
        finally:
            server.stop()
        opened = found["load"]["opening"]["opened"]
        both = held.caches_since(before, opened)
        found |= {
            "both": both, "user": (found["rss"] - before.rss) / opened,
            "both_by_pages": (open_.slabs.pages - before.slabs.pages) * host.PAGE / opened,
            "rss_before": before.rss, "rss_after": after.rss,
            "slab_after": sum(after.caches_since(before, opened).values()),
            "other_kernel": {
                name: (peak.info[name] - before.info[name]) / opened
                for name in ("PageTables", "KernelStack", "VmallocUsed", "Percpu")
                if name in peak.info
            },
        }
        return found


def log(name):
    return f"/tmp/ringhold-density-{os.getpid()}-{name}.log"


def last_stats(text, count):
    """The counters of the last log line at which all connections were open."""
    found = {}
    for line in text.splitlines():
        numbers = {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", line)}
        if numbers.get("open", 0) >= 0.9 * count:
            found = numbers
    return found


def server_caches(run, client):
    """The server's part by cache: both ends minus the client's."""
    names = run["both"].keys() | client.keys()
    return {name: run["both"].get(name, 0) - client.get(name, 0) for name in names}


def table(found):
    """A column for each server; both ends are those of the first."""
    waste, runs = host.Slabs.WASTE, list(found["runs"].values())
    others = [found["bare"], found["client"], runs[0]["both"]]
    columns = [run["server"] for run in runs] + others
    heads = [*found["runs"], "bare accepted socket", "client", "both ends"]
    totals = [sum(it.values()) - it.get(waste, 0) for it in columns]
    wastes = [it.get(waste, 0) for it in columns]
    names = {name for it in columns for name in it} - {waste}
    shown = [name for name in names if max(abs(it.get(name, 0)) for it in columns) >= SHOWN]
    shown.sort(key=lambda name: (-columns[0].get(name, 0), name))
    rest = [total - sum(it.get(name, 0) for name in shown) for total, it in zip(totals, columns)]
    blank = [None] * len(others)
    number = lambda it: "" if it is None else f"{it:,.0f}"
    row = lambda name, values: f"| {name} | " + " | ".join(map(number, values)) + " |"
    bold = lambda values: [None if it is None else f"**{it:,.0f}**" for it in values]
    user = [run["user"] for run in runs]
    whole = [total + it for total, it in zip(totals, user)]
    return [
        "| bytes per connection | " + " | ".join(heads) + " |",
        "|---|" + "---:|" * len(heads),
        *(row(f"`{name}`", [it.get(name, 0) for it in columns]) for name in shown),
        row("other caches", rest),
        row("**kernel**", totals),
        row("**user space**", user + blank),
        "| **all in** | " + " | ".join([*bold(whole), *("" for _ in others)]) + " |",
        row("ends of slabs that fit no object", wastes),
        row("all in, with these", [it + waste for it, waste in zip(whole, wastes)] + blank),
    ]


def summary(found):
    """What happened to each server, a column for each."""
    texts = {way: dict(story(run, found["connections"])) for way, run in found["runs"].items()}
    names = list(dict.fromkeys(name for text in texts.values() for name in text))
    rows = [f"| {name} | " + " | ".join(it.get(name, "") for it in texts.values()) + " |"
            for name in names]
    heads = list(texts) if len(texts) > 1 else [""]
    return ["| | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads), *rows]


def story(found, connections):
    """What happened to one server: names and texts."""
    load, stats = found["load"], found["stats"]
    opening, storm = load["opening"], load["storm"]
    cpu = found["cpu_seconds"] / found["hold_seconds"] * 100
    form = "p50 {p50:,.0f}, p99 {p99:,.0f}, p99.9 {p999:,.0f}, max {max:,.0f} µs"
    us = lambda quantiles: form.format(**quantiles)
    each = opening["server_cpu_us_each"] or 0
    rows = [
        ("opened", f"{opening['opened']:,} of {connections:,} in "
                   f"{opening['seconds']:.1f} s, {opening['per_second']:,.0f}/s, "
                   f"{each:.1f} µs of the server's processor each"),
        ("held", f"{found['hold_seconds']:.0f} s, {load['lost']:,} lost, "
                 f"server at {cpu:.2f} % of a processor"),
    ]
    if stats.get("heartbeats_sent"):
        answered, late, missed = (
            stats.get(f"heartbeats_{it}", 0) for it in ("answered", "late", "missed"))
        settled = max(answered + late + missed, 1)
        rows.append(("heartbeats", f"{stats['heartbeats_sent']:,} sent, {answered:,} answered in "
                     f"time ({100 * answered / settled:.4f} %), {late:,} late, {missed:,} missed"))
    if stats.get("drift_us_p99") is not None:
        drift = [stats[f"drift_us_{it}"] for it in ("p50", "p99", "max")]
        rows.append(("timer drift", "p50 {:,}, p99 {:,}, max {:,} µs".format(*drift)))
    if storm:
        rows.append(("storm", f"{storm['left']:,} left at once, "
                     f"{storm['back']:,} came back: {us(storm['back_us'])}"))
        rows.append(("echo before and after", us(load["messages"]["latency_us"])))
        if storm["latency_us"]:
            rows.append(("echo meanwhile", us(storm["latency_us"])))
    closing = load["closing"]
    change = 100 * (found["rss_after"] / max(found["rss_before"], 1) - 1)
    rows += [
        ("closed", f"{closing['clean']:,} clean, {closing['cut']:,} cut, "
                   f"in {closing['seconds']:.1f} s"),
        ("server's memory", f"{found['rss_before'] >> 10:,} KiB before, {found['rss'] >> 10:,} "
                            f"KiB held, {found['rss_after'] >> 10:,} KiB after ({change:+.0f} %)"),
        ("kernel after", f"{found['slab_after']:,.0f} bytes of slabs per former connection"),
        ("slab pages", f"{found['both_by_pages']:,.0f} bytes per connection, both ends"),
        ("other kernel memory", ", ".join(
            f"{name} {size:,.0f}" for name, size in found["other_kernel"].items())
            + " bytes per connection, both ends"),
    ]
    return rows


def main():
    options = arguments()
    if os.geteuid() != 0:
        sys.exit("density.sh: /proc/slabinfo is for root only; run it as root")
    host.enter_own_network()
    # A signal ends it as an exception does, so that settings are put back.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    density = Density(options)
    settings = host.Settings()
    try:
        tune(settings, options.connections, options.tune)
        ways = density.ways()
        density.bare()
        runs = {way: density.hold(way) for way in ways}
    finally:
        settings.restore()
        for name in ("holder", "server"):
            if os.path.exists(log(name)):
                os.unlink(log(name))
    found = density.found
    for run in runs.values():
        run["server"] = server_caches(run, found["client"])
    found["runs"] = runs
    lines = [f"# {options.connections:,} connections", "", host.describe(found["host"]) + ".", "",
             *table(found), "", *summary(found)]
    print("\n".join(lines))
    name = options.name or f"density-{options.connections}"
    for ending, text in (("md", "\n".join(lines) + "\n"), ("json", json.dumps(found) + "\n")):
        path = os.path.join(options.results, f"{name}.{ending}")
        os.makedirs(options.results, exist_ok=True)
        with open(path, "w") as file:
            file.write(text)
        print("written:", path)
    return 0 if all(run["load"]["ok"] for run in runs.values()) else 3


if __name__ == "__main__":
    sys.exit(main())
