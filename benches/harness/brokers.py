"""What Redis as the broker costs: publications, messages, latency, recovery after a lost connection, memory,
presence and crowds that return, each beside its baseline in the same run.

    benches/brokers.sh                     all of it, as a table
    benches/brokers.sh publish latency     some of it

Needs redis-server with redis-benchmark, and a build of ringhold (--ringhold). All of it is on loopback. The
load programs are written in Python and share the processors, so ratios say more than figures.
"""

import argparse
import json
import multiprocessing
import re
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from crowd import Crowd, frame, hello

ROOT = Path(__file__).resolve().parent.parent.parent
KEY = "key of the benchmark"
PATIENCE = 60
DATA = "x" * 100


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def until(what, holds, pause=0.02):
    end = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > end:
            raise SystemExit(f"waited {PATIENCE} s for {what}")
        time.sleep(pause)


class Redis:
    """A server of its own."""

    def __init__(self, folder):
        self.port = free_port()
        words = ["redis-server", "--port", self.port, "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        self.process = subprocess.Popen(list(map(str, words)), stdout=subprocess.DEVNULL)
        until("Redis", lambda: self.cli("PING") == "PONG")

    def cli(self, *words):
        words = ["redis-cli", "-p", self.port, *words]
        return subprocess.run(list(map(str, words)), capture_output=True, text=True).stdout.strip()

    def info(self, field):
        return re.search(rf"^{field}:(.*)$", self.cli("INFO", "all"), re.M).group(1).strip()

    def seconds(self):
        """Of processor time so far."""
        return float(self.info("used_cpu_user")) + float(self.info("used_cpu_sys"))

    def benchmark(self, *words, count, pipeline=64):
        """Requests per second."""
        words = ["redis-benchmark", "-p", self.port, "-P", pipeline, "-c", 1, "-n", count, "-r", 1000, "--csv", *words]
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"redis-benchmark: {done.stderr or done.stdout}")
        return float(done.stdout.strip().splitlines()[-1].split('","')[1])

    def end(self):
        self.process.terminate()
        self.process.wait()


class Node:
    """A process of ringhold."""

    def __init__(self, options, folder, redis):
        engine = f'type = "redis"\nredis.address = "127.0.0.1:{redis.port}"' if redis else 'type = "memory"'
        self.port = free_port()
        file = Path(folder) / f"node-{self.port}.toml"
        file.write_text(CONFIG.replace("PORT", str(self.port)).replace("ENGINE", engine))
        self.log = open(Path(folder) / f"node-{self.port}.log", "w")
        words = [options.ringhold, "serve", "--config", file]
        self.process = subprocess.Popen(list(map(str, words)), stdout=self.log, stderr=self.log)
        until("a node", self.is_there)

    def is_there(self):
        try:
            text = self.metrics()
        except OSError:
            return False
        ups = re.findall(r"^ringhold_broker_up\{.*\} (\d)$", text, re.M)
        return "0" not in ups

    def metrics(self):
        with socket.create_connection(("127.0.0.1", self.port)) as it:
            it.sendall(b"GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            pieces = []
            while piece := it.recv(1 << 16):
                pieces.append(piece)
        return b"".join(pieces).decode()

    def metric(self, name):
        return float(re.search(rf"^ringhold_{name} (.*)$", self.metrics(), re.M).group(1))

    def seconds(self, thread=""):
        """Processor time so far of the threads whose names begin so."""
        tasks = [it for it in Path(f"/proc/{self.process.pid}/task").iterdir()
                 if (it / "comm").read_text().startswith(thread)]
        if not tasks:
            raise SystemExit(f"the node has no thread {thread}")
        return sum(int((it / "schedstat").read_text().split()[0]) for it in tasks) / 1e9

    def memory(self):
        """Of its own, in bytes."""
        text = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        return 1024 * int(re.search(r"^Private_Dirty:\s+(\d+)", text, re.M).group(1))

    def end(self):
        self.process.terminate()
        self.process.wait()


CONFIG = f"""
[http_server]
port = PORT
[client]
insecure = true
allowed_origins = ["*"]
channel_limit = 1000
ping_interval = "1000s"
[http_api]
key = "{KEY}"
[prometheus]
enabled = true
[engine]
max_connections = 30000
message_rate = 100000
ENGINE
""" + "".join(f"""
[[channel.namespaces]]
name = "{name}"
allow_subscribe_for_client = true
allow_publish_for_client = true
{more}
""" for name, more in {
    "plain": "",
    "kept": 'history_size = 100\nhistory_ttl = "10m"\nforce_recovery = true',
    "room": "presence = true",
}.items())


class World:
    """Servers and nodes of one figure."""

    def __init__(self, options):
        self.options, self.folder, self.all = options, tempfile.mkdtemp(prefix="ringhold-brokers-"), []

    def redis(self):
        self.all.append(Redis(self.folder))
        return self.all[-1]

    def node(self, redis=None):
        self.all.append(Node(self.options, self.folder, redis))
        return self.all[-1]

    def crowd(self, node, processes=2):
        self.all.append(Crowd(node.port, processes))
        return self.all[-1]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for it in reversed(self.all):
            it.end()
        shutil.rmtree(self.folder, ignore_errors=True)


def request(method, body):
    body = json.dumps(body).encode()
    head = f"POST /api/{method} HTTP/1.1\r\nHost: h\r\nX-API-Key: {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def answer(it):
    """Reads one answer; its body."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += it.recv(1 << 18)
    head, body = data.split(b"\r\n\r\n", 1)
    length = int(re.search(rb"content-length: (\d+)", head.lower()).group(1))
    while len(body) < length:
        body += it.recv(1 << 18)
    return body


def api(node, method, body):
    with socket.create_connection(("127.0.0.1", node.port)) as it:
        it.sendall(request(method, body))
        return json.loads(answer(it))


def publisher(port, namespace, seconds, size, results):
    """Batches, one after the other, on one connection."""
    def batch(first):
        numbers = [(first + number) % 100 for number in range(size)]
        commands = [{"publish": {"channel": f"{namespace}:{it:012}", "data": {"x": DATA}}} for it in numbers]
        return request("batch", {"commands": commands})

    requests = [batch(0)]
    done, refused, end = 0, 0, time.monotonic() + seconds
    with socket.create_connection(("127.0.0.1", port)) as it:
        it.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while time.monotonic() < end:
            it.sendall(requests[done // size % len(requests)])
            refused += answer(it).count(b'"error"')
            done += size
    results.put((done, refused))


def publish_many(node, namespace, seconds, size=200, publishers=3):
    """Publications per second through batches."""
    results, begun = multiprocessing.Queue(), time.monotonic()
    all_of_them = [multiprocessing.Process(target=publisher, args=(node.port, namespace, seconds, size, results))
                   for _ in range(publishers)]
    for it in all_of_them:
        it.start()
    counted = [results.get() for _ in all_of_them]
    for it in all_of_them:
        it.join()
    if any(refused for _, refused in counted):
        raise SystemExit("publications were refused")
    return sum(done for done, _ in counted) / (time.monotonic() - begun)


def publication():
    """As a node keeps it: a `Publication` in Protobuf with data and time."""
    data = json.dumps({"x": DATA}).encode()
    return (b"\x22" + bytes([len(data)]) + data).decode()


def figure_publish(world):
    """Publications per second through the batch API, beside redis-benchmark with the same script or command."""
    redis, options = world.redis(), world.options
    node = world.node(redis)
    script = (ROOT / "src/broker/scripts/publish.lua").read_text()
    digest = redis.cli("SCRIPT", "LOAD", script)
    data = publication()

    def scripted(renew):
        # Of one channel: redis-benchmark draws each name anew.
        keys = ["bench.stream", "bench.meta"]
        rest = [data, 100, 660000, 2851200000, renew, "abcdefgh", "PUBLISH", "bench.client", "node.0.1", 0, 0, 0, "",
                300000]
        return redis.benchmark("EVALSHA", digest, 2, *keys, *rest, count=int(30_000 * options.seconds))

    def plain():
        return redis.benchmark("PUBLISH", "bench.client.__rand_int__", data, count=int(300_000 * options.seconds))

    rows = []
    kept, saved, full, bare, passed = [], [], [], [], []
    cost = []
    for _ in range(options.rounds):
        full.append(scripted(1))
        saved.append(scripted(0))
        before, messages = node.seconds("ringhold-broker"), node.metric('broker_requests_total{op="publish",outcome="ok"}') \
            if 'op="publish"' in node.metrics() else 0
        kept.append(publish_many(node, "kept", options.seconds))
        count = node.metric('broker_requests_total{op="publish",outcome="ok"}') - messages
        cost.append((node.seconds("ringhold-broker") - before) / count * 1e6)
        bare.append(plain())
        passed.append(publish_many(node, "plain", options.seconds))
    middle = statistics.median
    rows.append(("publications with history, batch API", f"{middle(kept):,.0f}/s",
                 f"redis-benchmark -P 64 -c 1, the script with both PEXPIRE {middle(full):,.0f}/s, without "
                 f"{middle(saved):,.0f}/s", f"{middle(kept) / middle(full):.2f}; {middle(kept) / middle(saved):.2f}"))
    rows.append(("without history, batch API", f"{middle(passed):,.0f}/s",
                 f"redis-benchmark -P 64 -c 1 PUBLISH {middle(bare):,.0f}/s", f"{middle(passed) / middle(bare):.2f}"))
    rows.append(("broker's thread for a publication with history", f"{middle(cost):.2f} us", "", ""))
    return rows


def figure_messages(world):
    """Processor time of the broker's thread for a message that it receives."""
    redis, options = world.redis(), world.options
    node = world.node(redis)
    crowd = world.crowd(node, 1)
    crowd.come([hello([(f"plain:{number:012}", None) for number in range(1000)])], b'"subscribe":', 1000)
    data, cost, rates = publication(), [], []
    for _ in range(options.rounds):
        crowd.parts[0][0].send(("hear", (options.seconds, b'"pub"')))
        before, messages, begun = node.seconds("ringhold-broker"), node.metric("broker_messages_total"), time.monotonic()
        redis.benchmark("PUBLISH", "centrifugo.client.plain:__rand_int__", data,
                        count=int(60_000 * options.seconds), pipeline=16)
        heard = crowd.parts[0][0].recv()
        count = node.metric("broker_messages_total") - messages
        if not heard or not count:
            raise SystemExit("nothing was heard")
        cost.append((node.seconds("ringhold-broker") - before) / count * 1e6)
        rates.append(count / (time.monotonic() - begun))
    return [("broker's thread for a message that it receives", f"{statistics.median(cost):.2f} us",
             f"{statistics.median(rates):,.0f}/s", "")]


def subscriber(port, channel, count, results):
    with socket.create_connection(("127.0.0.1", port)) as it:
        it.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        it.sendall(hello([(channel, None)]))
        data, times = b"", []
        while b'"subscribe":' not in data:
            data += it.recv(1 << 16)
        results.put("there")
        data = b""
        while len(times) < count:
            data += it.recv(1 << 16)
            now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
            found = list(re.finditer(rb'"t": (\d+)\}', data))
            times.extend(now - int(sent.group(1)) for sent in found)
            data = data[found[-1].end():] if found else data
    results.put(times)


def latency(publishing, subscribing, channel, rate, seconds):
    """Microseconds from a publication to its delivery, sorted."""
    results, count = multiprocessing.Queue(), int(rate * seconds)
    reader = multiprocessing.Process(target=subscriber, args=(subscribing.port, channel, count, results))
    reader.start()
    results.get()
    with socket.create_connection(("127.0.0.1", publishing.port)) as it:
        it.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        it.sendall(hello([]))
        begun = time.monotonic()
        it.setblocking(False)
        for number in range(count):
            while (left := begun + number / rate - time.monotonic()) > 0:
                time.sleep(left)
            data = {"channel": channel, "data": {"t": time.clock_gettime_ns(time.CLOCK_MONOTONIC)}}
            it.sendall(frame(json.dumps({"id": number + 2, "publish": data})))
            try:
                it.recv(1 << 16)
            except BlockingIOError:
                pass
        times = results.get()
    reader.join()
    return sorted(time / 1000 for time in times)


def figure_latency(world):
    """Latency of 2,000 publications a second over two nodes, beside one node with memory."""
    redis, options = world.redis(), world.options
    one, two, alone = world.node(redis), world.node(redis), world.node()
    rows = []
    for namespace, what in (("kept", "with history"), ("plain", "without")):
        figures = {"two": [], "alone": []}
        for _ in range(options.rounds):
            for name, (publishing, subscribing) in {"two": (one, two), "alone": (alone, alone)}.items():
                times = latency(publishing, subscribing, f"{namespace}:latency", 2000, options.seconds)
                figures[name].append([times[len(times) * part // 1000] for part in (500, 990)])
        two_nodes, memory = ([statistics.median(it) for it in zip(*figures[name])] for name in ("two", "alone"))
        rows.append((f"publication to delivery, 2,000/s, {what}: p50, p99",
                     f"{two_nodes[0]:.0f}, {two_nodes[1]:.0f} us", f"memory {memory[0]:.0f}, {memory[1]:.0f} us",
                     f"+{two_nodes[0] - memory[0]:.0f}, +{two_nodes[1] - memory[1]:.0f} us"))
    return rows


def many_channels(channels, clients=500):
    each = channels // clients
    return [hello([(f"kept:{client}-{number}", None) for number in range(each)]) for client in range(clients)], each


def figure_return(world):
    """Many channels after the connection that brings messages was lost; and their memory beside memory's."""
    redis, options = world.redis(), world.options
    node, alone = world.node(redis), world.node()
    greetings, each = many_channels(options.channels)
    used = []
    for it in (node, alone):
        # What a first connection takes once.
        crowd = world.crowd(it, 1)
        crowd.come(greetings[:1], b'"subscribe":', each)
        before, there = it.memory(), it.metric("gateway_channels")
        crowd.come(greetings[1:], b'"subscribe":', each)
        # What waits for an answer remembers until when it may.
        time.sleep(REST)
        used.append((it.memory() - before) / (it.metric("gateway_channels") - there))
    until("all to be subscribed", lambda: int(redis.info("pubsub_channels")) >= options.channels)
    listened, verified = [], []
    for _ in range(options.rounds):
        until("a quiet moment", lambda: node.metric("broker_queue") == 0)
        checks, begun = node.metric("broker_checks_total"), time.monotonic()
        listens = node.metric("broker_listens_total")
        redis.cli("CLIENT", "KILL", "TYPE", "pubsub")
        # Few are there again before anybody could see that they were lost.
        until("all to be subscribed", lambda: node.metric("broker_listens_total") >= listens + options.channels
              and int(redis.info("pubsub_channels")) >= options.channels, 0.01)
        listened.append(time.monotonic() - begun)
        until("all to be checked", lambda: node.metric("broker_checks_total") >= checks + options.channels
              and node.metric("broker_queue") == 0, 0.01)
        verified.append(time.monotonic() - begun)
    count = f"{options.channels:,}"
    return [
        (f"{count} channels after a lost connection: subscribed", f"{statistics.median(listened):.2f} s", "", ""),
        ("verified", f"{statistics.median(verified):.2f} s", "", ""),
        ("a node's memory for a channel and its subscription", f"{used[0]:.0f} B", f"memory {used[1]:.0f} B",
         f"+{used[0] - used[1]:.0f} B"),
    ]


def figure_presence(world):
    """Renewals of 100,000 members in 100 channels, as a share of a core of Redis."""
    redis, options = world.redis(), world.options
    idle = redis.seconds()
    time.sleep(10)
    idle = (redis.seconds() - idle) / 10
    node = world.node(redis)
    crowd = world.crowd(node, 1)
    clients = options.channels // 100
    crowd.come([hello([(f"room:{number}", None) for number in range(100)])] * clients, b'"subscribe":', 100)
    members = int(api(node, "presence_stats", {"channel": "room:0"})["result"]["num_clients"])
    time.sleep(5)
    renewals = node.metric('broker_requests_total{op="presence_renew",outcome="ok"}')
    before, begun = redis.seconds(), time.monotonic()
    time.sleep(60)
    share = (redis.seconds() - before) / (time.monotonic() - begun)
    renewals = node.metric('broker_requests_total{op="presence_renew",outcome="ok"}') - renewals
    if members != clients or not renewals:
        raise SystemExit(f"{members} members, {renewals} renewals")
    return [(f"{members * 100:,} members renewed every 20 s", f"{100 * (share - idle):.2f} % of a core of Redis",
             f"{renewals:.0f} requests in 60 s; Redis alone {100 * idle:.2f} %", "")]


def figure_crowd(world):
    """A crowd that returns to one channel with something missed, beside memory."""
    redis, options = world.redis(), world.options
    nodes = {"redis": world.node(redis), "memory": world.node()}
    crowds = {name: world.crowd(node) for name, node in nodes.items()}
    took, used, reads = {name: [] for name in nodes}, {name: [] for name in nodes}, []
    for number in range(options.rounds):
        for name, node in nodes.items():
            crowd, channel = crowds[name], f"kept:crowd-{number}"
            place = api(node, "publish", {"channel": channel, "data": 0})["result"]
            since = (place["epoch"], place["offset"])
            crowd.come([hello([(channel, None)])] * options.clients, b'"subscribe":')
            crowd.go()
            until("all to have left", lambda: node.metric("gateway_clients") == 0)
            for missed in range(20):
                api(node, "publish", {"channel": channel, "data": missed})
            before = node.metric("broker_reads_total") if name == "redis" else 0
            seconds = node.seconds()
            took[name].append(crowd.come([hello([(channel, since)])] * options.clients, b'"recovered":true'))
            used[name].append((node.seconds() - seconds) / options.clients * 1e6)
            if name == "redis":
                reads.append(node.metric("broker_reads_total") - before)
            crowd.go()
            until("all to have left", lambda: node.metric("gateway_clients") == 0)
    ratios = [ours / memory for ours, memory in zip(used["redis"], used["memory"])]
    ours, memory = (statistics.median(used[name]) for name in nodes)
    wall = ", ".join(f"{name} {statistics.median(took[name]):.2f} s" for name in nodes)
    return [(f"{options.clients:,} clients return to one channel, 20 publications missed: processor time of the node "
             f"for each", f"{ours:.1f} us", f"memory {memory:.1f} us; on the clock of the load {wall}",
             f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); "
             f"{max(reads):.0f} reads of Redis at most")]


# Longer than any deadline of a request, in seconds.
REST = 10

FIGURES = {
    "publish": figure_publish,
    "messages": figure_messages,
    "latency": figure_latency,
    "return": figure_return,
    "presence": figure_presence,
    "crowd": figure_crowd,
}


def main():
    options = argparse.ArgumentParser(prog="benches/brokers.sh", description=__doc__,
                                      formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("figures", nargs="*", metavar="FIGURE",
                         help=f"some of {', '.join(FIGURES)} (all)")
    options.add_argument("--seconds", type=float, default=5, help="of one measurement (%(default)s)")
    options.add_argument("--rounds", type=int, default=3, help="the median counts (%(default)s)")
    options.add_argument("--channels", type=int, default=100_000, help="(%(default)s)")
    options.add_argument("--clients", type=int, default=20_000, help="that return (%(default)s)")
    options.add_argument("--ringhold", default=ROOT / "target" / "dist" / "ringhold")
    options = options.parse_args()
    unknown = set(options.figures) - set(FIGURES)
    if unknown:
        raise SystemExit(f"there is no figure {', '.join(sorted(unknown))}")
    print("| | Redis | beside | ratio |\n|---|---|---|---|", flush=True)
    for name in options.figures or FIGURES:
        with World(options) as world:
            for row in FIGURES[name](world):
                print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
