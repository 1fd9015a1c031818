"""Clients of the client protocol that are only sockets: what they say is prepared, and of what they hear
only certain words are counted, so that many of them cost little.

Each crowd is a process of its own; it comes, counts and goes as its parent says.
"""

import json
import multiprocessing
import resource
import select
import socket
import struct
import time

UPGRADE = (b"GET /connection/websocket HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
           b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
SPAWN = multiprocessing.get_context("spawn")
# Connections of one crowd that are on their way at once.
IN_FLIGHT = 256


def frame(text):
    """A text frame, masked with zeros, which change nothing."""
    data = text.encode()
    if len(data) < 126:
        head = struct.pack("!BB", 0x81, 0x80 | len(data))
    elif len(data) < 1 << 16:
        head = struct.pack("!BBH", 0x81, 0x80 | 126, len(data))
    else:
        head = struct.pack("!BBQ", 0x81, 0x80 | 127, len(data))
    return head + b"\0\0\0\0" + data


def hello(subscriptions):
    """What a client says at first: subscriptions are (channel, epoch and offset or None)."""
    commands = [{"id": 1, "connect": {}}]
    for number, (channel, since) in enumerate(subscriptions, 2):
        subscribe = {"channel": channel}
        if since is not None:
            subscribe |= {"recover": True, "epoch": since[0], "offset": since[1]}
        commands.append({"id": number, "subscribe": subscribe})
    return UPGRADE + frame("\n".join(json.dumps(command) for command in commands))


class Sockets:
    """Connections of one process."""

    def __init__(self, port):
        self.address = ("127.0.0.1", port)
        self.poll = select.epoll()
        self.open = {}

    def come(self, greetings, word, each):
        """Connects them all, until each has heard the word so often. Bytes that came with it last."""
        waiting, begun = list(reversed(greetings)), {}
        while waiting or begun:
            while waiting and len(begun) < IN_FLIGHT:
                it = socket.create_connection(self.address)
                it.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                it.sendall(waiting.pop())
                it.setblocking(False)
                self.open[it.fileno()] = it
                begun[it.fileno()] = [0, b""]
                self.poll.register(it.fileno(), select.EPOLLIN)
            for fd, _ in self.poll.poll(10):
                data = self.read(fd)
                if fd not in begun:
                    continue
                state = begun[fd]
                # A word may lie across two pieces.
                joined = state[1] + data
                state[0] += joined.count(word)
                state[1] = joined[-len(word) + 1:] if word not in joined[-len(word) + 1:] else b""
                if b'"error"' in joined:
                    raise SystemExit(f"a client is refused: {joined[:300]}")
                if state[0] >= each:
                    del begun[fd]

    def read(self, fd):
        data = self.open[fd].recv(1 << 18)
        if not data:
            raise SystemExit("a client was sent away")
        return data

    def hear(self, seconds, word):
        """How often a word comes within a time."""
        count, end = 0, time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            for fd, _ in self.poll.poll(left):
                count += self.read(fd).count(word)
        return count

    def go(self):
        for it in self.open.values():
            it.close()
        self.open = {}
        self.poll.close()
        self.poll = select.epoll()


def serve(port, pipe):
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    sockets = Sockets(port)
    while True:
        try:
            name, arguments = pipe.recv()
        except EOFError:
            return
        pipe.send(getattr(sockets, name)(*arguments))


class Crowd:
    """Several processes of such clients."""

    def __init__(self, port, processes=2):
        self.parts = []
        for _ in range(processes):
            ours, theirs = multiprocessing.Pipe()
            # A fork of its own: no part holds another's pipe open.
            process = SPAWN.Process(target=serve, args=(port, theirs), daemon=True)
            process.start()
            theirs.close()
            self.parts.append((ours, process))

    def all(self, name, arguments):
        """Has all parts do something at once; `arguments` is for each."""
        for (pipe, _), some in zip(self.parts, arguments):
            pipe.send((name, some))
        return [pipe.recv() for pipe, _ in self.parts]

    def come(self, greetings, word, each=1):
        """Seconds until all are there."""
        begun, count = time.monotonic(), len(self.parts)
        self.all("come", [(greetings[number::count], word, each) for number in range(count)])
        return time.monotonic() - begun

    def hear(self, seconds, word):
        return sum(self.all("hear", [(seconds, word)] * len(self.parts)))

    def go(self):
        self.all("go", [()] * len(self.parts))

    def end(self):
        for pipe, process in self.parts:
            pipe.close()
            process.join()
