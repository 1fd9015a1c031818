"""Restarts all nodes one after the other under clients of npm's `centrifuge`, and counts what they miss.

Each node is followed by a successor that takes over at its port; the old process ends when its
clients have moved. Publications are numbered in their channels and go on meanwhile, through all
nodes in turn. Every client counts what is missing, comes twice or out of order, and every recovery
that the server does not confirm.

    benches/rolling.sh                              three nodes on one Redis
    benches/rolling.sh --engine memory --nodes 1    one node, whose channels its successor takes over

Needs Node.js with npm, and redis-server for several nodes. All of it is on loopback.
"""

import argparse
import asyncio
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ROOT / "tests" / "gateway" / "js"
SECRET, KEY = "secret of the rolling restart", "key of the rolling restart"
# Seconds for one step: a start, a drain, the last publications.
PATIENCE = 120


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def listens(port):
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def until(what, holds):
    end = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > end:
            sys.exit(f"waited {PATIENCE} s for {what}")
        await asyncio.sleep(0.05)


class Node:
    """A port, and the process that serves it."""

    def __init__(self, options, folder, number, redis):
        self.options, self.folder, self.port = options, folder, free_port()
        self.log = open(folder / f"node-{number}.log", "w")
        self.file = folder / f"node-{number}.toml"
        self.file.write_text(self.config(redis, folder / f"node-{number}.sock"))
        self.process = None

    def config(self, redis, takeover):
        engine = f'type = "redis"\nredis.address = "127.0.0.1:{redis}"' if redis else 'type = "memory"'
        shutdown = "" if redis else f'takeover_path = "{takeover}"\n'
        return f"""
[http_server]
port = {self.port}
[client]
token.hmac_secret_key = "{SECRET}"
allowed_origins = ["*"]
[http_api]
key = "{KEY}"
[engine]
{engine}
[shutdown]
timeout = "60s"
drain_window = "{self.options.window}s"
{shutdown}
[[channel.namespaces]]
name = "room"
history_size = 10000
history_ttl = "10m"
force_recovery = true
allow_subscribe_for_client = true
"""

    async def start(self, *more):
        words = [self.options.ringhold, "serve", "--config", self.file, *more]
        self.process = await asyncio.create_subprocess_exec(*map(str, words), stderr=asyncio.subprocess.PIPE,
                                                            stdout=self.log)
        async for line in self.process.stderr:
            self.log.write(line.decode())
            if b" ready " in line:
                break
        else:
            sys.exit(f"a node did not start: {self.log.name}")
        self.copying = asyncio.create_task(self.copy(self.process))

    async def copy(self, process):
        async for line in process.stderr:
            self.log.write(line.decode())
        self.log.flush()

    async def restart(self):
        """Seconds until the old process has ended."""
        old, begun = self.process, time.monotonic()
        await self.start("--takeover")
        old.terminate()
        if await asyncio.wait_for(old.wait(), PATIENCE) != 0:
            sys.exit(f"the old process of a node ended with {old.returncode}: {self.log.name}")
        return time.monotonic() - begun


class Publisher:
    """Numbered publications to all channels in turn, through all nodes in turn."""

    def __init__(self, options, nodes):
        self.options, self.nodes = options, nodes
        self.numbers = [0] * options.channels
        self.next, self.on = 0, True
        self.refused, self.again = 0, 0
        self.connections = {}

    async def run(self):
        begun, sent = time.monotonic(), 0
        while self.on:
            due = int((time.monotonic() - begun) * self.options.rate)
            if due > sent:
                count = min(due - sent, 500)
                await self.batch(count)
                sent += count
            await asyncio.sleep(0.02)
        return sent

    async def batch(self, count):
        commands = []
        for _ in range(count):
            channel = self.next % self.options.channels
            self.numbers[channel] += 1
            self.next += 1
            publish = {"channel": f"room:{channel}", "data": {"n": self.numbers[channel]},
                       "idempotency_key": f"{channel}-{self.numbers[channel]}"}
            commands.append({"publish": publish})
        body = json.dumps({"commands": commands}).encode()
        node = self.nodes[self.next // count % len(self.nodes)]
        # A connection that waits when its server goes away may end with a request on its way: then
        # nobody knows, and the key makes once more safe.
        for _ in range(50):
            try:
                answer = await self.ask(node, body)
                break
            except (OSError, asyncio.IncompleteReadError):
                self.connections.pop(node.port, None)
                self.again += 1
                await asyncio.sleep(0.02)
        else:
            sys.exit("no node takes publications")
        self.refused += sum("error" in reply for reply in answer["replies"])

    async def ask(self, node, body):
        if node.port not in self.connections:
            self.connections[node.port] = await asyncio.open_connection("127.0.0.1", node.port)
        reader, writer = self.connections[node.port]
        head = f"POST /api/batch HTTP/1.1\r\nHost: h\r\nX-API-Key: {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(int(line.split(":")[1]) for line in answer.lower().split("\r\n")
                      if line.startswith("content-length"))
        if not answer.startswith("HTTP/1.1 200 "):
            raise ConnectionError(answer)
        if "connection: close" in answer.lower():
            del self.connections[node.port]
        return json.loads(await reader.readexactly(length))


class Clients:
    """Processes of Node.js, each with a part of the clients."""

    def __init__(self, options, nodes, folder):
        self.options, self.folder = options, folder
        self.ports = [node.port for node in nodes]
        self.processes = []

    async def start(self):
        each = -(-self.options.clients // self.options.processes)
        for number in range(self.options.processes):
            first = number * each
            count = min(each, self.options.clients - first)
            plan = {"ports": self.ports, "first": first, "count": count, "channels": self.options.channels,
                    "secret": SECRET}
            process = await asyncio.create_subprocess_exec(
                "node", self.folder / "rolling.mjs", json.dumps(plan), stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE)
            self.processes.append(process)
        for process in self.processes:
            line = await asyncio.wait_for(process.stdout.readline(), PATIENCE)
            if line.strip() != b"subscribed":
                sys.exit("clients did not come in")

    async def stop(self, numbers):
        """What all of them counted."""
        total = {}
        for process in self.processes:
            process.stdin.write(json.dumps(numbers).encode() + b"\n")
            await process.stdin.drain()
        for process in self.processes:
            counted = json.loads(await asyncio.wait_for(process.stdout.readline(), PATIENCE))
            for name, count in counted.items():
                total[name] = total.get(name, 0) + count
            await process.wait()
        return total


async def run(options, folder):
    redis, server = None, None
    if options.engine == "redis":
        redis = free_port()
        words = ["redis-server", "--port", str(redis), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
        server = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.DEVNULL)
        await until("Redis", lambda: listens(redis))
    nodes = [Node(options, folder, number, redis) for number in range(options.nodes)]
    try:
        for node in nodes:
            await node.start()
        clients = Clients(options, nodes, folder)
        await clients.start()
        publisher = Publisher(options, nodes)
        publishing = asyncio.create_task(publisher.run())
        await asyncio.sleep(2)
        took = []
        for _ in range(options.rounds):
            for node in nodes:
                took.append(await node.restart())
                await asyncio.sleep(1)
        publisher.on = False
        sent = await publishing
        counted = await clients.stop(publisher.numbers)
    finally:
        for process in [node.process for node in nodes] + [server]:
            if process is not None and process.returncode is None:
                process.terminate()
                await process.wait()
    counted |= {"publications": sent, "publications refused": publisher.refused,
                "requests asked again": publisher.again, "restarts": len(took),
                "seconds of the longest": round(max(took), 1)}
    return counted


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--engine", choices=["redis", "memory"], default="redis")
    options.add_argument("--nodes", type=int, default=3)
    options.add_argument("--rounds", type=int, default=1, help="times that all are restarted")
    options.add_argument("--clients", type=int, default=5000)
    options.add_argument("--channels", type=int, default=1000)
    options.add_argument("--rate", type=int, default=1000, help="publications per second")
    options.add_argument("--window", type=int, default=5, help="seconds over which clients are sent away")
    options.add_argument("--processes", type=int, default=2, help="of Node.js")
    options.add_argument("--ringhold", default=ROOT / "target" / "release" / "ringhold")
    options = options.parse_args()
    if options.engine == "memory" and options.nodes != 1:
        sys.exit("nodes with memory of their own share no channels: --nodes 1")
    with tempfile.TemporaryDirectory(prefix="ringhold-rolling-") as folder:
        folder = Path(folder)
        for file in [PACKAGES / "package.json", PACKAGES / "package-lock.json", Path(__file__).with_suffix(".mjs")]:
            shutil.copy(file, folder)
        subprocess.run(["npm", "ci", "--silent", "--no-audit", "--no-fund"], cwd=folder, check=True)
        counted = asyncio.run(run(options, folder))
    for name, count in sorted(counted.items()):
        print(f"{name:28} {count:>12,}")
    faults = ["lost", "doubled", "out of order", "not recovered", "ended", "refused", "publications refused"]
    sys.exit(any(counted[name] for name in faults))


main()
