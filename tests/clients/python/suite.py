"""The echo server as Python's `websockets` client meets it.

Usage: suite.py URL [compressed]

With the second argument the server compresses, for whoever offers it, as the library does.

Opens real client connections to URL, compares what comes back with what was sent, and prints one
line `name=number` for each kind of check with how many were made. Ends with 0 if all of them held.
"""

import asyncio
import contextlib
import random
import resource
import sys
import time

import websockets
from websockets.asyncio.client import connect
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

# Far beyond what a loaded machine needs for one check; a check ends early when it is done.
PATIENCE_S = 240
CONNECTS = 1000
MESSAGE_MAX = 16 << 20
# Around the borders of the three length forms, up to the server's default limit.
SIZES = [0, 1, 2, 125, 126, 127, 65_535, 65_536, 65_537, 1 << 20, MESSAGE_MAX - 1, MESSAGE_MAX]
CLOSE_CODES = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 3000, 4000, 4999]


def client(url, **options):
    """A connection without keepalive, so that only what a check sends is on the wire."""
    options = {"max_size": None, "ping_interval": None, "open_timeout": PATIENCE_S, **options}
    return connect(url, **options)


async def echo(ws, message):
    await ws.send(message)
    answer = await ws.recv()
    assert type(answer) is type(message), f"{type(answer)} came back for {type(message)}"
    assert answer == message, f"{len(answer)} came back for {len(message)}"


async def text(url):
    samples = ["", "hello", "κόσμε", "😀\U0010ffff\0", "\ufeffmark"]
    samples += ["€" * (size // 3) + "x" * (size % 3) for size in SIZES]
    async with client(url) as ws:
        for sample in samples:
            await echo(ws, sample)
    return len(samples)


async def binary(url):
    noise = random.Random(6455).randbytes(MESSAGE_MAX)
    async with client(url) as ws:
        for size in SIZES:
            await echo(ws, noise[:size])
    return len(SIZES)


async def fragments(url):
    """The library sends each item of an iterable as a frame of one message."""
    cases = [
        ["one", " and ", "two"],
        ["", "", "late", ""],
        ["κόσ", "με"],
        ["x"] * 10_000,
        [b"a", b"", b"b"],
        [bytes([n % 256]) * 1000 for n in range(500)],
        [b"m" * (1 << 20)] * 16,
    ]
    async with client(url) as ws:
        for pieces in cases:
            await ws.send(pieces)
            whole = pieces[0][:0].join(pieces)
            answer = await ws.recv()
            assert answer == whole, f"{len(answer)} came back for {len(whole)}"
    return len(cases)


async def pings(url):
    """Each ping's own pong, and the round trip time the library measures."""
    async with client(url) as ws:
        for size in range(126):
            latency = await (await ws.ping(bytes(range(size))))
            assert 0 <= latency < PATIENCE_S, latency
        waiters = [await ws.ping() for _ in range(100)]
        await asyncio.gather(*waiters)
        await ws.pong(b"unsolicited")
        await echo(ws, "no answer to a pong")
    return 126 + 100


async def close_codes(url):
    for code in CLOSE_CODES:
        async with client(url) as ws:
            await ws.close(code, "the reason, žluťoučký")
            assert ws.close_code == code, f"{ws.close_code} came back for {code}"
    return len(CLOSE_CODES)


async def faults(url):
    """The library reports the code of a close frame that the server sends by itself."""
    cases = [
        (1009, lambda ws: ws.send(bytes(MESSAGE_MAX + 1))),
        (1007, lambda ws: ws.send(b"\xff", text=True)),
    ]
    for code, send in cases:
        ws = await client(url)
        # The close frame may be here before the message is out.
        with contextlib.suppress(websockets.ConnectionClosed):
            await send(ws)
        await ws.wait_closed()
        assert ws.close_code == code, f"{ws.close_code} came back instead of {code}"
    return len(cases)


async def offers(url):
    """Extensions and subprotocols the library offers are not taken, and it can live with that."""
    async with client(url, compression="deflate", subprotocols=["chat"]) as ws:
        assert ws.subprotocol is None, ws.subprotocol
        assert ws.protocol.extensions == [], ws.protocol.extensions
        await echo(ws, "plain")
    return 1


async def windows(url):
    """Compression is agreed on, whatever the library asks for; most messages come compressed."""
    words = " ".join(f"{number} words" for number in range(20_000))
    asked = [
        {},
        {"server_no_context_takeover": True, "client_no_context_takeover": True},
        {"client_max_window_bits": True},
        *({"server_max_window_bits": bits} for bits in range(9, 16)),
        *({"client_max_window_bits": bits} for bits in range(9, 16)),
    ]
    echoes = 0
    for parameters in asked:
        factory = ClientPerMessageDeflateFactory(**parameters)
        async with client(url, compression=None, extensions=[factory]) as ws:
            (extension,) = ws.protocol.extensions
            assert extension.name == "permessage-deflate", extension
            assert extension.remote_no_context_takeover, extension
            assert extension.local_no_context_takeover, extension
            for size in [0, 1, 255, 256, 1000, 40_000, len(words)]:
                for message in [words[:size], words[:size].encode()]:
                    await echo(ws, message)
                    echoes += 1
            await ws.send([words[at : at + 999] for at in range(0, 50_000, 999)])
            assert await ws.recv() == words[:50_949]
    return echoes


async def keepalive(url):
    """The library's own heartbeat: pings on a timer, with a deadline for each pong."""
    async with client(url, ping_interval=0.05, ping_timeout=PATIENCE_S) as ws:
        deadline = time.monotonic() + PATIENCE_S
        seen = set()
        while len(seen) < 3:
            assert time.monotonic() < deadline, "the keepalive gets no pongs"
            await asyncio.sleep(0.01)
            seen |= {ws.latency} - {0}
        await echo(ws, "alive")
    return len(seen)


async def order(url):
    """Many messages under way at once come back in their order."""
    samples = [str(n) * (n % 50) for n in range(3000)]
    async with client(url) as ws:

        async def send():
            for sample in samples:
                await ws.send(sample)

        sender = asyncio.create_task(send())
        for sample in samples:
            assert await ws.recv() == sample
        await sender
    return len(samples)


async def connects(url):
    """All connect at once; when all are open, each has a message echoed."""
    all_open = asyncio.Barrier(CONNECTS)

    async def one(number):
        async with client(url) as ws:
            await all_open.wait()
            await echo(ws, str(number))
        assert ws.close_code == 1000, ws.close_code

    async with asyncio.TaskGroup() as group:
        for number in range(CONNECTS):
            group.create_task(one(number))
    return CONNECTS


CHECKS = [
    text,
    binary,
    fragments,
    pings,
    close_codes,
    faults,
    offers,
    keepalive,
    order,
    connects,
]


async def main(url, compressed=None):
    for check in [windows if compressed and check is offers else check for check in CHECKS]:
        async with asyncio.timeout(PATIENCE_S):
            print(f"{check.__name__}={await check(url)}", flush=True)


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(main(*sys.argv[1:]))
