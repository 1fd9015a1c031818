"""What publications by HTTP cost a server: processor time of all its threads for each, and how long answers take.

    benches/publish.sh                                the program that target/dist has
    benches/publish.sh --before OLD/ringhold          beside another build of it
    benches/publish.sh --nchan ngx_nchan_module.so    beside nginx with nchan, such as Debian's libnginx-mod-nchan has
    benches/publish.sh --server 'NAME=COMMAND'        beside any server with Centrifugo's HTTP API, as --help says
    benches/publish.sh --quick                        shows that all of it works; figures are worthless

Each round runs every server afresh, in an order that turns; figures are medians of the rounds. One client for all: so
many connections that stay, each with one request under way, all sent before the first answer is read. Nothing listens
to the channels, unless a workload says so. Counted is the processor time of all threads of a server, and of the kernel's softirq threads in its run.

In COMMAND {config} is a file with Centrifugo's keys for the port and the API's key, which each gateway here is given:

    --server 'centrifugo=centrifugo --config {config}' --server 'twin=target/dist/ringhold serve --config {config}'
"""

import argparse
import base64
import contextlib
import functools
import json
import multiprocessing
import os
import queue
import resource
import select
import shlex
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from host import ROOT, describe, facts, free_port

KEY = "key"
DATA = "x" * 64
CHANNELS = 1000


@dataclass
class Workload:
    name: str
    about: str
    connections: int
    # How many publications a request carries, and how.
    method: str = "publish"
    size: int = 1
    # Requests per second; None: as many as go.
    rate: int | None = None
    # WebSocket connections that receive all of it, from one channel; what counts then is a delivery.
    subscribers: int = 0

    def channel(self, number):
        return f"channel{0 if self.subscribers else number % CHANNELS}"


WORKLOADS = [
    Workload("lone", "publish, one connection", 1),
    Workload("sixteen", "publish, 16 connections", 16),
    Workload("broadcast", "broadcast to 100 channels, one connection", 1, "broadcast", 100),
    Workload("batch-16", "batch of 16, one connection", 1, "batch", 16),
    Workload("batches", "batch of 16, 16 connections", 16, "batch", 16),
    Workload("batch-100", "batch of 100, one connection", 1, "batch", 100),
    Workload("paced", "publish at 2,000/s over 1,000 channels, one connection", 1, rate=2000),
    Workload("heard", "16 connections publish to 5,000 subscribers: a delivery", 16, subscribers=5000),
    Workload("heard-batch", "batch of 16 to 5,000 subscribers: a delivery", 1, "batch", 16, subscribers=5000),
]

NGINX = """
load_module MODULE;
daemon off;
worker_processes WORKERS;
pid FOLDER/nginx.pid;
error_log FOLDER/nginx.log;
events { worker_connections 8192; }
http {
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path FOLDER/body;
    proxy_temp_path FOLDER/proxy;
    fastcgi_temp_path FOLDER/fastcgi;
    uwsgi_temp_path FOLDER/uwsgi;
    scgi_temp_path FOLDER/scgi;
    server {
        listen 127.0.0.1:PORT reuseport;
        location /publish {
            nchan_publisher;
            nchan_channel_id $arg_id;
            nchan_message_buffer_length 0;
        }
        location /subscribe {
            nchan_subscriber websocket;
            nchan_channel_id $arg_id;
            nchan_subscriber_first_message newest;
        }
    }
}
"""


def softirq_threads():
    """The kernel's, which take over the network's work when there is much of it."""
    found = []
    for comm in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if comm.read_text().startswith("ksoftirqd/"):
                found.append(int(comm.parent.name))
    return found


SOFTIRQ_THREADS = softirq_threads()


class Server:
    """A process, and what is sent to it."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="ringhold-publish-")
        # Where publications go, and where subscribers come.
        self.port = self.public = free_port()

    def configuration(self, name, text):
        """Writes a file into its folder."""
        file = Path(self.folder) / name
        file.write_text(text)
        return file

    def begin(self, *words):
        """Starts it, and waits until it accepts."""
        self.log = open(Path(self.folder) / "log", "w")
        self.process = subprocess.Popen(list(map(str, words)), stdout=self.log, stderr=self.log)
        end = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                if time.monotonic() > end or self.process.poll() is not None:
                    raise SystemExit(f"no server: {(Path(self.folder) / 'log').read_text()}")
                time.sleep(0.02)

    def seconds(self):
        """Processor time so far, of all threads of it, of its children, and of the kernel's softirq threads."""
        of = [self.process.pid]
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            of += map(int, (task / "children").read_text().split())
        total = 0
        for pid in of + SOFTIRQ_THREADS:
            for task in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(OSError):
                    total += int((task / "schedstat").read_text().split()[0])
        return total / 1e9

    def end(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class Gateway(Server):
    """One that speaks Centrifugo's HTTP API, asked at its public or its internal port."""

    def __init__(self, options, command, internal=False):
        super().__init__()
        if internal:
            self.public = free_port()
        http = {"port": self.public, **({"internal_port": self.port} if internal else {})}
        keys = {
            "http_server": {"address": "127.0.0.1", **http},
            "http_api": {"key": KEY},
            # Whoever comes may subscribe.
            "client": {"insecure": True, "allowed_origins": ["*"]},
        }
        file = self.configuration("config.json", json.dumps(keys))
        # The number of cores, as ringhold and as programs in Go are told of it.
        os.environ.update(RINGHOLD_ENGINE_WORKERS=str(options.workers), GOMAXPROCS=str(options.workers))
        self.begin(*(str(word).replace("{config}", str(file)) for word in command))

    def subscription(self, channel):
        commands = [{"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": channel}}]
        return upgrade("/connection/websocket"), b"".join(frame(json.dumps(it).encode()) for it in commands)

    def request(self, workload, number):
        channels = [workload.channel(number * workload.size + it) for it in range(workload.size)]
        match workload.method:
            case "publish":
                body = {"channel": channels[0], "data": DATA}
            case "broadcast":
                body = {"channels": channels, "data": DATA}
            case _:
                body = {"commands": [{"publish": {"channel": it, "data": DATA}} for it in channels]}
        body = json.dumps(body, separators=(",", ":"))
        return (
            f"POST /api/{workload.method} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {KEY}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        ).encode()


class Nchan(Server):
    """nginx with nchan, whose publisher publishes into one channel."""

    def __init__(self, options):
        super().__init__()
        text = NGINX.replace("MODULE", str(Path(options.nchan).resolve())).replace("FOLDER", self.folder)
        text = text.replace("PORT", str(self.port)).replace("WORKERS", str(options.workers))
        self.begin("nginx", "-p", self.folder, "-c", self.configuration("nginx.conf", text))

    def subscription(self, channel):
        return upgrade(f"/subscribe?id={channel}"), b""

    def request(self, workload, number):
        if workload.method != "publish":
            return None
        body = json.dumps(DATA)
        return (
            f"POST /publish?id={workload.channel(number)} HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        ).encode()


def upgrade(path):
    """A client's opening handshake."""
    key = base64.b64encode(bytes(16)).decode()
    return (
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def frame(payload):
    """A client's text frame of at most 125 bytes, masked with zeros."""
    return bytes([0x81, 0x80 | len(payload)]) + bytes(4) + payload


def subscribe(port, opening, count, ready, end, heard):
    """Subscribers: they open, say that they are there, and count what comes until they shall end."""
    found, waiting = select.epoll(), {}
    for _ in range(count):
        it = socket.create_connection(("127.0.0.1", port))
        handshake, commands = opening
        it.sendall(handshake)
        # No frame before the server has answered (RFC 6455 section 4.1).
        answer = b""
        while b"\r\n\r\n" not in answer:
            more = it.recv(1 << 12)
            if not more:
                raise SystemExit("the server refuses a subscriber")
            answer += more
        it.sendall(commands)
        it.setblocking(False)
        found.register(it, select.EPOLLIN)
        waiting[it.fileno()] = it
    bytes_read = 0
    quiet = 0
    while True:
        events = found.poll(0.05)
        for descriptor, _ in events:
            data = waiting[descriptor].recv(1 << 16)
            if not data:
                raise SystemExit("the server has closed a subscriber")
            bytes_read += len(data)
        # All have their answers when none comes any more, and all publications likewise.
        quiet = 0 if events else quiet + 1
        if quiet == 4 and not ready.is_set():
            bytes_read = 0
            ready.set()
        if quiet >= 4 and end.is_set():
            heard.put(bytes_read)
            return


class Connection:
    """One that stays, with its answers read one by one."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.left = b""

    def answer(self):
        """Reads one; whether it is a success."""
        data = self.left
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self.more()
        head = data[:end].lower()
        at = head.index(b"content-length:") + 15
        stop = head.find(b"\r\n", at)
        length = int(head[at:stop if stop > 0 else len(head)])
        while len(data) < end + 4 + length:
            data += self.more()
        body, self.left = data[end + 4:end + 4 + length], data[end + 4 + length:]
        return head[9:10] == b"2" and b'"error"' not in body

    def more(self):
        data = self.socket.recv(1 << 18)
        if not data:
            raise SystemExit("the server has closed a connection")
        return data


def ask(port, requests, workload, seconds, results):
    """The client: how many were answered, how many of them with an error, and how long each took."""
    connections = [Connection(port) for _ in range(workload.connections)]
    count, failed, times, number = 0, 0, [], 0
    now = begun = time.perf_counter()
    while now - begun < seconds:
        for it in connections:
            it.socket.sendall(requests[number % len(requests)])
            number += 1
        for it in connections:
            failed += not it.answer()
        after = time.perf_counter()
        times.append(after - now)
        count += len(connections)
        if workload.rate:
            # A waker of its own would be late by more than an answer takes.
            due = begun + count / workload.rate
            while (left := due - time.perf_counter()) > 0:
                time.sleep(max(0, left - 0.0001))
        now = time.perf_counter()
    results.put((count, failed, times))


@contextlib.contextmanager
def subscribers(server, workload):
    """Those of the workload, and the bytes that they have had when all is over."""
    heard = []
    if not workload.subscribers:
        yield heard
        return
    ready, end, found = multiprocessing.Event(), multiprocessing.Event(), multiprocessing.Queue()
    opening = server.subscription(workload.channel(0))
    words = (server.public, opening, workload.subscribers, ready, end, found)
    it = multiprocessing.Process(target=subscribe, args=words, daemon=True)
    it.start()
    if not ready.wait(60):
        raise SystemExit(f"{workload.name}: the subscribers are not there")
    yield heard
    end.set()
    heard.append(outcome(it, found))
    it.join()


def outcome(process, results):
    """What a process has found, or its end without any."""
    while True:
        with contextlib.suppress(queue.Empty):
            return results.get(timeout=1)
        if not process.is_alive() and results.empty():
            raise SystemExit("a load program has ended before its time")


def run(server, workload, seconds):
    """Microseconds of processor for a publication, and the answers' times in milliseconds; None where it cannot."""
    requests = [server.request(workload, it) for it in range(CHANNELS)]
    if requests[0] is None:
        return None
    results = multiprocessing.Queue()

    def client(seconds):
        it = multiprocessing.Process(target=ask, args=(server.port, requests, workload, seconds, results))
        before = server.seconds()
        it.start()
        counted = outcome(it, results)
        after = server.seconds()
        it.join()
        return *counted, after - before

    with subscribers(server, workload) as heard:
        warmed, _, _, _ = client(min(1, seconds / 3))
        count, failed, times, spent = client(seconds)
    if failed:
        raise SystemExit(f"{workload.name}: {failed} of {count} requests failed")
    deliveries = (warmed + count) * workload.size * workload.subscribers
    if deliveries and heard[0] < deliveries * len(DATA):
        raise SystemExit(f"{workload.name}: {heard[0]} bytes are less than {deliveries} deliveries")
    times.sort()
    return {
        "us": spent / count / workload.size / max(1, workload.subscribers) * 1e6,
        "p50": times[len(times) // 2] * 1e3,
        "p99": times[len(times) * 99 // 100] * 1e3,
        "per_second": count * workload.size / seconds,
    }


# Columns of builds of ringhold.
OURS = ["ringhold", "ringhold, internal port", "before", "before, internal port"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ringhold", default=ROOT / "target" / "dist" / "ringhold", help="the program")
    parser.add_argument("--before", help="another build of it")
    parser.add_argument("--server", action="append", default=[], metavar="NAME=COMMAND",
                        help="a server with Centrifugo's HTTP API at /api; may be given several times")
    parser.add_argument("--nchan", help="nginx's module")
    parser.add_argument("--workers", type=int, default=1, help="cores of each server; default 1")
    parser.add_argument("--seconds", type=float, default=3, help="of each run; default 3")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="workloads, with commas between them")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.rounds = 0.3, 1
        for workload in WORKLOADS:
            workload.subscribers //= 50
    # Subscribers need descriptors, here and in the servers.
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    servers = {}
    for name, binary in zip(OURS[::2], (options.ringhold, options.before)):
        if binary:
            command = [binary, "serve", "--config", "{config}"]
            servers[name] = functools.partial(Gateway, options, command)
            servers[f"{name}, internal port"] = functools.partial(Gateway, options, command, internal=True)
    for text in options.server:
        name, _, command = text.partition("=")
        if not name or "{config}" not in command:
            parser.error(f"--server {text}: write NAME=COMMAND, with {{config}} in the command")
        servers[name] = functools.partial(Gateway, options, shlex.split(command))
    if options.nchan:
        servers["nchan"] = functools.partial(Nchan, options)
    only = set(filter(None, options.only.split(",")))
    workloads = [it for it in WORKLOADS if not only or it.name in only]
    found, ended = {}, []
    for number in range(options.rounds):
        names = list(servers)
        names = names[number % len(names):] + names[:number % len(names)]
        for name in names:
            server = servers[name]()
            try:
                print(f"round {number + 1}: {name}", file=sys.stderr)
                for workload in workloads:
                    if figures := run(server, workload, options.seconds):
                        found.setdefault((workload.name, name), []).append(figures)
            except SystemExit as why:
                if name in OURS:
                    raise
                # A peer that dies has no figures of what was left of the round.
                print(f"{name}: {workload.name}: {why}", file=sys.stderr)
                ended.append(f"{name} in round {number + 1}, at {workload.name}")
            finally:
                server.end()
    print(f"{describe(facts())}; {options.workers} cores, {options.rounds} rounds of {options.seconds} s\n")
    print("| us of processor for a publication |", " | ".join(servers), "|")
    print("|---|" + "---|" * len(servers))
    for workload in workloads:
        cells = []
        for name in servers:
            rounds = found.get((workload.name, name))
            if not rounds:
                cells.append("")
                continue
            median = {key: statistics.median(it[key] for it in rounds) for key in rounds[0]}
            cell = f"{median['us']:.2f}"
            if workload.connections == 1:
                cell += f" (answers: p50 {median['p50']:.2f}, p99 {median['p99']:.2f} ms)"
            cells.append(cell)
        print(f"| {workload.about} |", " | ".join(cells), "|")
    if ended:
        print(f"\nEnded before their time, without figures of the rest of that round: {'; '.join(ended)}.")


if __name__ == "__main__":
    main()
