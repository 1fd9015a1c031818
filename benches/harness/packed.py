"""Compression beside none, in one run: the table of `benches/compare.sh --packed`.

The client here is one process with raw sockets: it compresses what it sends before the measurement,
and does not inflate what comes but to check the first of each kind, so that it is the same work
with and without. What counts of a server is the time that its threads ran (schedstat), its
anonymous memory, and the bytes that came. Servers and forms take their turns in every round.
"""

import base64
import json
import os
import random
import re
import selectors
import shlex
import socket
import statistics
import struct
import time
import zlib

import host
import servers as peers

MARKER = b"\x00\x00\xff\xff"
# The targets, as the table has them.
TARGETS = {
    "idle": "0",
    "fanout-500": "≤ 1.10", "fanout-10000": "≤ 1.02",
    "wire": "≤ 45 %", "echo": "≤ 30 µs", "memory": "≤ 600 KiB", "left": "0",
}
CALM_S = 3.0  # What a core does not need is given back within two seconds.
PATIENCE_S = 60.0
BOMB = "cargo bench --bench protocol -- bomb"


def pushes(size, count=64):
    """Different publications of so many bytes, as a gateway sends them: records of prices."""
    draw = random.Random(7692)
    found = []
    for number in range(count):
        records = []
        while True:
            records.append({
                "symbol": "".join(draw.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=6)),
                "bid": round(draw.uniform(0, 5000), 4), "ask": round(draw.uniform(0, 5000), 4),
                "volume": draw.randint(0, 1 << 20), "open": draw.random() < 0.5,
            })
            push = {"push": {"channel": f"prices:{number}", "pub": {
                "data": records, "offset": 100_000 + number}}}
            text = json.dumps(push, separators=(",", ":"))
            if len(text) >= size:
                break
        found.append(text[:size].encode())
    return found


def deflate(message):
    stream = zlib.compressobj(6, zlib.DEFLATED, -15)
    data = stream.compress(message) + stream.flush(zlib.Z_SYNC_FLUSH)
    assert data.endswith(MARKER)
    return data[:-4]


def frame(message, packs):
    """A text frame of a client, under a mask of zeros."""
    payload = deflate(message) if packs else message
    first, size = 0xC1 if packs else 0x81, len(payload)
    if size < 126:
        head = struct.pack("!BB", first, 0x80 | size)
    else:
        assert size < 1 << 16
        head = struct.pack("!BBH", first, 0x80 | 126, size)
    return head + bytes(4) + payload


def parse(data, at):
    """The frame at a place: first byte, payload, and where the next one is. None: not whole."""
    if len(data) < at + 2:
        return None
    size, start = data[at + 1] & 127, at + 2
    if size == 126:
        if len(data) < at + 4:
            return None
        size, start = struct.unpack_from("!H", data, at + 2)[0], at + 4
    elif size == 127:
        if len(data) < at + 10:
            return None
        size, start = struct.unpack_from("!Q", data, at + 2)[0], at + 10
    if len(data) < start + size:
        return None
    return data[at], bytes(data[start:start + size]), start + size


class Clients:
    """Connections to one path, all alike."""

    def __init__(self, port, path, count, packs):
        self.packs, self.sockets = packs, []
        self.selector = selectors.DefaultSelector()
        for number in range(count):
            # A port range for each source address.
            source = (f"127.0.0.{2 + number // 20_000}", 0)
            one = socket.create_connection(("127.0.0.1", port), PATIENCE_S, source)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            offer = "Sec-WebSocket-Extensions: permessage-deflate\r\n" if packs else ""
            key = base64.b64encode(os.urandom(16)).decode()
            one.sendall((
                f"GET {path} HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\n"
                f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n{offer}"
                f"Sec-WebSocket-Key: {key}\r\n\r\n").encode())
            self.sockets.append(one)
        for one in self.sockets:
            head = b""
            while b"\r\n\r\n" not in head:
                more = one.recv(4096)
                assert more, f"the server says {head!r}"
                head += more
            assert head.startswith(b"HTTP/1.1 101 "), head
            assert (b"permessage-deflate" in head) == packs, head
            assert head.endswith(b"\r\n\r\n"), "something behind the answer"
            one.setblocking(False)
            self.selector.register(one, selectors.EVENT_READ, one)

    def send(self, one, data):
        view = memoryview(data)
        while view:
            try:
                view = view[one.send(view):]
            except BlockingIOError:
                time.sleep(0.0005)

    def take(self, expected):
        """Reads until each of these sockets has had so many bytes more: a dict, which is used up."""
        deadline = time.monotonic() + PATIENCE_S
        while expected:
            for key, _ in self.selector.select(1.0):
                one = key.data
                try:
                    more = one.recv(1 << 20)
                except BlockingIOError:
                    continue
                assert more, "the server has closed"
                left = expected.get(one, 0) - len(more)
                assert left >= 0, "more came than was asked for"
                if left:
                    expected[one] = left
                else:
                    del expected[one]
            assert time.monotonic() < deadline, f"{len(expected)} connections wait in vain"

    def one_frame(self, one):
        """The next frame of a socket, and how long it is on the wire."""
        data, deadline = bytearray(), time.monotonic() + PATIENCE_S
        while True:
            found = parse(data, 0)
            if found:
                assert found[2] == len(data), "one frame at a time"
                return found[0], found[1], len(data)
            assert time.monotonic() < deadline, "no answer"
            try:
                more = one.recv(1 << 20)
                assert more, "the server has closed"
                data += more
            except BlockingIOError:
                time.sleep(0.0002)

    def close(self):
        for one in self.sockets:
            self.selector.unregister(one)
            one.close()


def anonymous(pid):
    match = re.search(r"^RssAnon:\s*(\d+)", host.read(f"/proc/{pid}/status"), re.M)
    return int(match.group(1)) * 1024 if match else 0


class Run:
    """One server, started for one measurement."""

    def __init__(self, command, cpus):
        self.port = host.free_port()
        words = shlex.split(command.replace("{port}", str(self.port)))
        self.log = f"/tmp/ringhold-packed-{os.getpid()}.log"
        self.child = host.serve(words, self.port, cpus, log=self.log)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.stop()
        os.unlink(self.log)

    def ran(self):
        return host.run_seconds(self.child.pid)

    def memory(self):
        return anonymous(self.child.pid)


def exchange(clients, senders, data):
    """One message from each sender, after which all connections have had the same: the first
    connection's frame tells how much the others wait for."""
    for one in senders:
        clients.send(one, data)
    first, *others = clients.sockets
    head, payload, size = clients.one_frame(first)
    clients.take(dict.fromkeys(others, size))
    return head, payload, size


def check(clients, senders, messages, frames):
    """Each message once; what comes back is that message, compressed as asked for."""
    # One stream for the connection: servers may refer to earlier messages.
    stream = zlib.decompressobj(-15)
    for message, data in zip(messages, frames):
        head, payload, _ = exchange(clients, senders, data)
        assert (head & 0x40 != 0) == clients.packs, "compressed if and only if that is measured"
        assert (stream.decompress(payload + MARKER) if clients.packs else payload) == message


def fanout(run, packs, subscribers, publications, messages):
    """Processor time and bytes of each delivery; one publication on its way at a time."""
    clients = Clients(run.port, "/fanout", subscribers, packs)
    frames = [frame(message, packs) for message in messages]
    publisher = clients.sockets[:1]
    check(clients, publisher, messages, frames)
    before, total = run.ran(), 0
    for number in range(publications):
        total += exchange(clients, publisher, frames[number % len(frames)])[2]
    spent = run.ran() - before
    clients.close()
    deliveries = publications * subscribers
    return {"us": 1e6 * spent / deliveries, "bytes": total / publications}


def echo(run, packs, connections, echoes, messages):
    """Processor time of each echo, one on its way per connection."""
    clients = Clients(run.port, "/", connections, packs)
    frames = [frame(message, packs) for message in messages]
    check(clients, clients.sockets, messages, frames)
    before = run.ran()
    rounds = max(1, echoes // connections)
    for number in range(rounds):
        exchange(clients, clients.sockets, frames[number % len(frames)])
    spent = run.ran() - before
    clients.close()
    return {"us": 1e6 * spent / (rounds * connections)}


def idle(run, packs, connections, messages):
    """Anonymous memory of a connection that has had an echo, and is idle."""
    # What the first ones make the server keep is no connection's.
    warm = Clients(run.port, "/", 50, packs)
    echo_all(warm, messages, packs)
    time.sleep(CALM_S)
    before = run.memory()
    clients = Clients(run.port, "/", connections, packs)
    echo_all(clients, messages, packs)
    time.sleep(CALM_S)
    grown = run.memory() - before
    clients.close()
    warm.close()
    return {"bytes": grown / connections}


def core(run, messages):
    """Anonymous memory of a core that compresses, over one that has echoed the same plain; and what
    is left of that when nobody is there."""
    plain = Clients(run.port, "/", 1, False)
    echo_all(plain, messages, False)
    time.sleep(CALM_S)
    before = run.memory()
    packed = Clients(run.port, "/", 1, True)
    echo_all(packed, messages, True)
    held = run.memory() - before
    packed.close()
    time.sleep(2 * CALM_S)
    left = run.memory() - before
    plain.close()
    return {"bytes": held, "left": left}


def echo_all(clients, messages, packs):
    for number, one in enumerate(clients.sockets):
        clients.send(one, frame(messages[number % len(messages)], packs))
        clients.one_frame(one)


def commands(options, binary):
    """The servers by name: how each is started without compression and with it."""
    found = {}
    plain = peers.RINGHOLD.replace("{binary}", str(binary)).replace("{io}", "uring").replace("{workers}", "1")
    plain += " --max-connections 12000 --no-heartbeat"
    found["ringhold"] = (plain, f"{plain} --compress --compress-level {options.level}")
    for name in options.anchors.split(","):
        if name:
            command = peers.built_in([name])[0].echo
            found[name] = (command, f"env PACKED=1 {command}")
    return found


def measure(options, binary):
    """All figures: by what is measured and server, a list with one entry for each round."""
    server_cpus = {sorted(os.sched_getaffinity(0))[0]}
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1]})
    host.resource.setrlimit(host.resource.RLIMIT_NOFILE, 2 * (
        host.resource.getrlimit(host.resource.RLIMIT_NOFILE)[1],))
    messages = pushes(options.size)
    quick = options.quick
    counts = [20, 60] if quick else [500, 10_000]
    publications = [64, 64] if quick else [1000, 50]
    tasks = {
        f"fanout-{count}": (lambda run, packs, count=count, many=many: fanout(
            run, packs, count, many, messages))
        for count, many in zip(counts, publications)
    }
    tasks["echo"] = lambda run, packs: echo(run, packs, 16, 320 if quick else 20_000, messages)
    tasks["idle"] = lambda run, packs: idle(run, packs, 100 if quick else 10_000, messages)
    runs = {}
    for turn in range(options.rounds):
        for what, task in tasks.items():
            for name, (plain, packed) in commands(options, binary).items():
                forms = [(False, plain), (True, packed)]
                for packs, command in forms if turn % 2 == 0 else reversed(forms):
                    if what == "idle" and name != "ringhold" and turn:
                        continue
                    others, before = host.Others(), host.resource.getrusage(0)
                    with Run(command, server_cpus) as run:
                        figures = task(run, packs)
                        own = host.resource.getrusage(0)
                        spent = run.ran() + own.ru_utime + own.ru_stime
                    figures["others"] = others.percent(spent - before.ru_utime - before.ru_stime)
                    runs.setdefault((what, name, packs), []).append(figures)
                    told = ", ".join(f"{key} {value:,.2f}" for key, value in figures.items())
                    form = "compressed" if packs else "plain"
                    print(f"{turn + 1}: {what} {name} {form}: {told}", flush=True)
        with Run(commands(options, binary)["ringhold"][1], server_cpus) as run:
            figures = core(run, messages)
        runs.setdefault(("core", "ringhold", True), []).append(figures)
        print(f"{turn + 1}: core: {figures}", flush=True)
    return runs, counts


def median(runs, figure):
    return statistics.median(run[figure] for run in runs)


def table(runs, counts, options):
    """The table of targets, and the figures that it is made of."""
    names = list(dict.fromkeys(name for _, name, _ in runs))
    head = ["", "target", *names]
    rows = []

    def both(what, name, figure):
        pair = [runs.get((what, name, packs)) for packs in (False, True)]
        return [median(it, figure) for it in pair] if all(pair) else None

    def row(text, target, value):
        cells = [value(name) or "" for name in names]
        rows.append([text, target, *cells])

    def growth(name):
        pair = both("idle", name, "bytes")
        return pair and f"{pair[1] - pair[0]:,.0f} ({pair[0]:,.0f} plain)"

    row("bytes of an idle compressed connection over plain", TARGETS["idle"], growth)
    for count, key in zip(counts, ("fanout-500", "fanout-10000")):
        def ratio(name, count=count):
            pairs = zip(*(runs.get((f"fanout-{count}", name, packs), []) for packs in (False, True)))
            ratios = [packed["us"] / plain["us"] for plain, packed in pairs]
            pair = both(f"fanout-{count}", name, "us")
            return pair and (f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to "
                             f"{max(ratios):.2f}; {pair[0]:.2f} µs plain)")

        row(f"processor time per delivery of {options.size:,} bytes, {count:,} subscribers, to plain",
            TARGETS[key], ratio)

    def wire(name):
        pair = both(f"fanout-{counts[0]}", name, "bytes")
        return pair and f"{100 * pair[1] / pair[0]:.0f} %"

    row("bytes on the wire", TARGETS["wire"], wire)

    def added(name):
        pair = both("echo", name, "us")
        return pair and f"{pair[1] - pair[0]:.1f} µs ({pair[0]:.1f} plain)"

    row("processor time of an echo, added", TARGETS["echo"], added)
    only = lambda figure: lambda name: name == "ringhold" and (
        f"{median(runs['core', name, True], figure) / 1024:,.0f} KiB")
    row("memory of a core that compresses", TARGETS["memory"], only("bytes"))
    row("of it left when nobody is there", TARGETS["left"], only("left"))
    lines = ["| " + " | ".join(head) + " |", "|---|---:|" + "---:|" * len(names)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    disturbed = max((run.get("others", 0) for it in runs.values() for run in it), default=0)
    return "\n".join([
        f"# {options.name}", "", f"{host.describe(host.facts())}.", "",
        f"Server on one processor, client on another, over loopback; level {options.level}; medians "
        f"of {options.rounds} rounds, ratios within a round. Others used at most {disturbed:.0f} % "
        f"of a processor during a run. A bomb at a limit of 64 KiB: `{BOMB}`.", "", *lines, "",
    ])


def main(options):
    if options.quick:
        options.rounds = 1
    options.name = options.name if options.name != "compare" else "compression"
    binary, _ = peers.prepare(
        [name for name in options.anchors.split(",") if name], options.ringhold)
    runs, counts = measure(options, binary)
    text = table(runs, counts, options)
    folder = host.Path(options.results)
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / f"{options.name}.{ending}" for ending in ("md", "json")]
    written[0].write_text(text)
    figures = {f"{what} {name} {'compressed' if packs else 'plain'}": it
               for (what, name, packs), it in runs.items()}
    written[1].write_text(json.dumps({"host": host.facts(), "runs": figures}, indent=1) + "\n")
    print(text)
    print("written:", *written)
    return 0
