"""Measures servers side by side with `ringhold load` and writes a table, a chart and raw figures.

Every workload is measured in rounds, and in every round each server once, in turning order, so that
what the machine does meanwhile falls on all. What counts are the ratios within a round. The server
has one processor, the client another; each run has a fresh server. A run during which other
processes used the processors is repeated.
"""

import argparse
import fnmatch
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass

import host
import packed
import report
import servers as peers

SIZES = {"32": 32, "1KiB": 1024, "16KiB": 16 * 1024, "256KiB": 256 * 1024}


@dataclass(frozen=True)
class Workload:
    name: str
    kind: str
    connections: int
    payload: int = 32
    pipeline: int = 1
    rated: bool = False
    rate: int = 0
    large: int = 0
    share: float = 0.01

    def arguments(self, rate):
        words = {"connect": ["idle"], "fanout": ["fanout"]}.get(self.kind, ["echo"])
        words += ["--connections", self.connections]
        if self.kind != "connect":
            words += ["--payload", self.payload, "--pipeline", self.pipeline, "--rate", rate]
        if self.large:
            words += ["--large", self.large, "--large-share", self.share]
        return words

    def seconds(self, asked):
        """A slow round of messages must fit several times."""
        bulk = self.connections * self.payload * self.pipeline
        if bulk > 1 << 30 or (self.kind == "fanout" and self.connections > 20_000):
            return max(asked, 8.0)
        return asked


def workloads():
    counts = (1, 100, 1000, 10_000)
    cells = [
        Workload(f"echo-{size}-{n}", "echo", n, SIZES[size]) for size in SIZES for n in counts
    ]
    for size, n in [("32", 100), ("32", 1000), ("32", 10_000), ("1KiB", 1000), ("16KiB", 100)]:
        cells.append(Workload(f"rate-{size}-{n}", "rate", n, SIZES[size], rated=True))
    for size, n in [("32", 1), ("32", 100), ("32", 1000), ("1KiB", 100)]:
        cells.append(Workload(f"pipeline-{size}-{n}", "pipeline", n, SIZES[size], pipeline=16))
    for n in (100, 1000):
        cells.append(Workload(f"mixed-{n}", "mixed", n, rate=20_000, large=256 * 1024))
    for size, n in [("32", 1000), ("32", 10_000), ("32", 100_000), ("1KiB", 10_000),
                    ("16KiB", 1000)]:
        cells.append(Workload(f"fanout-{size}-{n}", "fanout", n, SIZES[size]))
    cells.append(Workload("connect-10000", "connect", 10_000))
    return cells


QUICK = [
    Workload("echo-32-10", "echo", 10),
    Workload("rate-32-10", "rate", 10, rated=True),
    Workload("mixed-10", "mixed", 10, rate=500, large=64 * 1024, share=0.1),
    Workload("fanout-32-20", "fanout", 20),
    Workload("connect-50", "connect", 50),
]


def table():
    """Connections for which a process has descriptors; some are none."""
    return host.facts()["open_files"] - 200


class Bench:
    def __init__(self, options, binary, servers):
        self.options, self.binary, self.servers = options, binary, servers
        cpus = sorted(os.sched_getaffinity(0))
        self.server_cpus, self.client_cpus = {cpus[0]}, {cpus[-1]}
        self.table = table()

    def once(self, server, workload, rate):
        """One run with a fresh server. Returns its figures, or None if the server cannot do it."""
        if not server.can(workload, self.table):
            return None
        port = host.free_port()
        command = server.command(workload, port, self.table)
        log = f"/tmp/ringhold-compare-{os.getpid()}.log"
        others = host.Others()
        child = host.serve(command, port, self.server_cpus, log=log)
        try:
            seconds = workload.seconds(self.options.seconds)
            words = [self.binary, "load", *workload.arguments(rate), "--json"]
            words += ["--url", server.url(workload, port), "--server-pid", child.pid]
            words += ["--insecure"] if server.tls else []
            words += ["--duration", f"{seconds}s", "--warmup", f"{self.options.warmup}s"]
            # Only waited for where something is missing, as on a busy host.
            words += ["--linger", "10s", "--handshake-timeout", "60s"]
            words += ["--threads", 1 if workload.connections <= self.table * 0.85 else 0]
            load = host.Process(words, self.client_cpus)
            before = children_seconds()
            try:
                out, errors = load.child.communicate(timeout=seconds + 180)
            except subprocess.TimeoutExpired:
                load.stop()
                return {"failed": "the run took too long"}
            spent = host.process_seconds(child.pid) + children_seconds() - before
            figures = flatten(json.loads(out)) if out else {"failed": errors.strip()[-200:]}
            figures["others_percent"] = round(others.percent(spent), 1)
            return figures
        finally:
            child.stop()
            os.unlink(log)

    def measured(self, server, workload, rate):
        """As `once`, repeated while others use the processors."""
        for attempt in range(self.options.tries):
            if attempt:
                time.sleep(3)
            figures = self.once(server, workload, rate)
            if not figures or figures.get("others_percent", 0) <= self.options.others:
                break
        return figures

    def rate_of(self, workload):
        """Messages per second for a run with a rate."""
        if not workload.rated:
            return workload.rate
        if self.options.rate:
            return self.options.rate
        by_name = {server.name: server for server in self.servers}
        server = by_name.get(self.options.rate_of, self.servers[0])
        figures = self.measured(server, workload, 0)
        if not figures or "per_second" not in figures:
            sys.exit(f"{workload.name}: no rate to be had: {figures}")
        return int(figures["per_second"] * self.options.load)

    def cell(self, workload):
        """All rounds of one workload: figures by server, one per round."""
        rate = self.rate_of(workload)
        runs = {server.name: [] for server in self.servers}
        for turn in range(self.options.rounds):
            first = turn % len(self.servers)
            for server in self.servers[first:] + self.servers[:first]:
                figures = self.measured(server, workload, rate)
                if figures is None:
                    continue
                runs[server.name].append(dict(figures, round=turn))
                print(f"{workload.name} {server.name} {turn + 1}: {brief(figures)}", flush=True)
        return {
            "kind": workload.kind, "connections": workload.connections,
            "payload": workload.payload, "pipeline": workload.pipeline, "rate": rate,
            "large": workload.large, "seconds": workload.seconds(self.options.seconds),
            "runs": {name: figures for name, figures in runs.items() if figures},
        }


def children_seconds():
    """Processor time of all children that were waited for."""
    usage = os.times()
    return usage.children_user + usage.children_system


def flatten(found):
    """The figures of a report that are worth keeping."""
    server, opening = found["server"] or {}, found["opening"]
    figures = {
        "ok": found["ok"],
        "opened_per_second": opening["per_second"],
        "cpu_us_per_open": opening.get("server_cpu_us_each"),
        "bytes_per_connection": server.get("rss_per_connection"),
        "rss": server.get("rss_bytes"),
        "close_seconds": found["closing"]["seconds"],
        "cpu_percent": server.get("cpu_percent"),
        "client_percent": found["client"]["cpu_percent"],
    }
    if not found["ok"]:
        figures["why"] = list({**found["lost_reasons"], **opening["failed_reasons"]})[:2]
    messages = found["messages"]
    if messages:
        names = ("per_second", "lost", "unsent", "duplicates", "send_lag_max_us")
        figures |= {name: messages[name] for name in names}
        figures |= {
            "cpu_us": server.get("cpu_us_per_message"),
            "user_us": server.get("user_us_per_message"),
            "sys_us": server.get("system_us_per_message"),
        }
        figures |= {f"{name}_us": us for name, us in messages["latency_us"].items()}
        if messages["large"]:
            figures |= {f"large_{n}_us": us for n, us in messages["large"]["latency_us"].items()}
    return {name: round(it, 3) if isinstance(it, float) else it for name, it in figures.items()}


def brief(figures):
    if "failed" in figures:
        return f"failed: {figures['failed']}"
    parts = [f"{figures['per_second']:,.0f}/s"] if "per_second" in figures else []
    if figures.get("cpu_us"):
        parts.append(f"{figures['cpu_us']:.2f} µs/message, p99 {figures['p99_us']:,.0f} µs")
    elif figures.get("cpu_us_per_open"):
        parts.append(f"{figures['opened_per_second']:,.0f} opened/s, "
                     f"{figures['cpu_us_per_open']:.1f} µs each")
    if not figures["ok"]:
        parts.append("NOT WHOLE " + "; ".join(figures.get("why", [])))
    return ", ".join(parts + [f"others {figures['others_percent']} %"])


def arguments():
    parser = argparse.ArgumentParser(
        prog="benches/compare.sh", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: benches/compare.sh --servers floor,ringhold "
        "--server 'other=/opt/other --port {port}' --only 'echo-32-*' --rounds 7")
    add = parser.add_argument
    add("--servers", default=",".join(peers.BUILT_IN), metavar="LIST",
        help="of those that are built in, and their order (%(default)s); also "
        + ", ".join(peers.OVER_TLS))
    add("--server", action="append", default=[], metavar="NAME=COMMAND",
        help="any other echo server; {port}, {payload} and {connections} are filled in, and the "
        "command must be the server itself, not a script that starts it")
    add("--fanout", action="append", default=[], metavar="NAME[=PATH]",
        help="this --server sends what comes at a path (/fanout) to all who are there")
    add("--path", action="append", default=[], metavar="NAME=PATH",
        help="where this --server takes WebSocket connections, if not at /")
    add("--tls", action="append", default=[], metavar="NAME",
        help="this --server speaks TLS; {cert} and {key} in its command are a certificate and key")
    add("--only", default="*", metavar="PATTERNS",
        help="workloads, as in 'echo-32-*,fanout-*' (all); --list shows them")
    add("--rounds", type=int, default=5)
    add("--seconds", type=float, default=2.0, help="measured per run (%(default)s)")
    add("--warmup", type=float, default=0.5)
    add("--load", type=float, default=0.7,
        help="rate-*: part of the closed-loop rate (%(default)s) of the server --rate-of")
    add("--rate-of", default="ringhold", metavar="NAME",
        help="whose closed-loop rate (%(default)s): all servers get the same rate")
    add("--rate", type=int, default=0, help="rate-*: messages per second, instead of these two")
    add("--others", type=float, default=8.0, metavar="PERCENT",
        help="of a processor that other processes may use during a run (%(default)s)")
    add("--tries", type=int, default=3, help="runs until that holds (%(default)s)")
    add("--name", default="compare", help="of the files in benches/results (%(default)s)")
    add("--append", action="store_true", help="keep the workloads that are in these files")
    add("--results", default=host.RESULTS, help="another folder for them")
    add("--ringhold", metavar="PROGRAM", help="this program, instead of building one")
    add("--quick", action="store_true", help="small workloads, once: does everything work?")
    add("--list", action="store_true", help="the workloads, and how long they take")
    add("--packed", action="store_true",
        help="instead of all that: compression beside none, with its table of targets")
    add("--anchors", default="", metavar="LIST",
        help="--packed: these, too, of node-ws and bun, which compress for each subscriber")
    add("--size", type=int, default=1024, help="--packed: bytes of a message (%(default)s)")
    add("--level", type=int, default=3, help="--packed: of compression (%(default)s)")
    return parser.parse_args()


def custom(options):
    paths = dict(it.partition("=")[::2] for it in options.path)
    fanouts = dict(it.partition("=")[::2] for it in options.fanout)
    for text in options.server:
        name, found, command = text.partition("=")
        if not found or "{port}" not in command:
            sys.exit(f"--server {text}: write NAME=COMMAND, with {{port}} in the command")
        fanout = command if name in fanouts else None
        path, fanout_path = paths.get(name) or "/", fanouts.get(name) or "/fanout"
        yield peers.Server(name, command, fanout, path, fanout_path, name in options.tls)


def main():
    options = arguments()
    if options.packed:
        return packed.main(options)
    if options.quick:
        options.rounds, options.seconds, options.warmup, options.tries = 1, 0.3, 0.1, 1
    patterns = options.only.split(",")
    matches = lambda cell: any(fnmatch.fnmatch(cell.name, pattern) for pattern in patterns)
    cells = [cell for cell in (QUICK if options.quick else workloads()) if matches(cell)]
    names = [name for name in options.servers.split(",") if name]
    unknown = set(names) - {*peers.BUILT_IN, *peers.OVER_TLS}
    if unknown or not cells or not re.fullmatch(r"[\w.-]+", options.name):
        sys.exit(f"unknown servers {sorted(unknown)}, no such workloads, or a bad --name")
    if options.list:
        servers = peers.built_in(names) + list(custom(options))
        for cell in cells:
            count = sum(server.can(cell, table()) for server in servers)
            # Start, open, warm up, measure, close.
            each = cell.seconds(options.seconds) + options.warmup + 1 + cell.connections / 8000
            runs = count * options.rounds + int(cell.rated)
            print(f"{cell.name:18} about {each * runs / 60:5.1f} min")
        return 0
    binary, servers = peers.prepare(names, options.ringhold)
    servers += custom(options)
    bench = Bench(options, binary, servers)
    results = report.Results(options.results, options.name, options.append)
    whole = True
    for cell in cells:
        found = bench.cell(cell)
        results.put(cell.name, found, host.facts())
        whole &= all(run.get("ok") for runs in found["runs"].values() for run in runs)
    print(results.table())
    print("written:", *results.paths())
    return 0 if whole else 3


if __name__ == "__main__":
    sys.exit(main())
