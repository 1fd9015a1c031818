"""The gateway as PyPI's `centrifuge-python` meets it.

Usage: suite.py URL API-URL API-KEY TOKEN-SECRET json|protobuf

Prints one line `name=number` for each kind of check with how many were made. Ends with 0 if all of
them held.
"""

import asyncio
import base64
import hashlib
import hmac
import itertools
import json
import os
import resource
import sys
import time
import urllib.request

from centrifuge import (
    Client,
    ClientEventHandler,
    DeltaType,
    Filter,
    ReplyError,
    StreamPosition,
    SubscriptionEventHandler,
    UnauthorizedError,
)

_, URL, API_URL, API_KEY, SECRET, PROTOCOL = sys.argv
PROTOBUF = PROTOCOL == "protobuf"

# Far beyond what a loaded machine needs for one check; a check ends early when it is done.
PATIENCE_S = 240
CROWD = 300

fresh_numbers = itertools.count(1)


def fresh(namespace):
    """A channel that no other check uses, nor another run at this server."""
    return f"{namespace}:python-{PROTOCOL}-{os.getpid()}-{next(fresh_numbers)}"


def pack(value):
    """Payloads are JSON values in JSON, and bytes (here: of JSON) in Protobuf."""
    return json.dumps(value).encode() if PROTOBUF else value


def unpack(data):
    return json.loads(data) if PROTOBUF else data


def token(**claims):
    def part(value):
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    head = part(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
    text = f"{head}.{part(json.dumps(claims).encode())}"
    signature = hmac.new(SECRET.encode(), text.encode(), hashlib.sha256).digest()
    return f"{text}.{part(signature)}"


def soon(seconds):
    return int(time.time()) + seconds


async def api(method, **parameters):
    def call():
        body = json.dumps(parameters).encode()
        request = urllib.request.Request(f"{API_URL}/{method}", body, {"X-API-Key": API_KEY})
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return json.load(answer)

    answer = await asyncio.to_thread(call)
    assert "result" in answer, f"{method} {parameters}: {answer}"
    return answer["result"]


async def until(what, holds):
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, f"waited in vain for {what}"
        await asyncio.sleep(0.005)


class Events:
    """Collects whatever happens to a client or a subscription."""

    def __init__(self):
        self.log = []

    def of(self, name):
        return [context for kind, context in self.log if kind == name]

    async def next(self, name, count=1):
        """Waits until there were so many of a kind, and returns the last of these."""
        await until(f"{name} {count}", lambda: len(self.of(name)) >= count)
        return self.of(name)[count - 1]


def noting(handler):
    """A handler of events that notes all of them."""

    def note(name):
        async def on(self, context):
            self.log.append((name, context))

        return on

    names = [name for name in dir(handler) if name.startswith("on_")]
    members = {name: note(name.removeprefix("on_")) for name in names}
    return type("Noting", (Events, handler), members)


ClientEvents = noting(ClientEventHandler)
SubEvents = noting(SubscriptionEventHandler)
clients = []


def client(**options):
    options = {"min_reconnect_delay": 0.02, "max_reconnect_delay": 0.2, **options}
    made = Client(
        URL, events=ClientEvents(), use_protobuf=PROTOBUF, timeout=PATIENCE_S, proxy=None, **options
    )
    clients.append(made)
    return made


async def connected(user, **options):
    made = client(**{"token": token(sub=user), **options})
    await made.connect()
    await made.ready()
    return made


async def subscribed(client, channel, **options):
    sub = client.new_subscription(channel, events=SubEvents(), **options)
    await sub.subscribe()
    await sub.ready()
    return sub


def datas(sub):
    return [unpack(context.pub.data) for context in sub.events.of("publication")]


async def fails(code, awaitable):
    try:
        await awaitable
    except ReplyError as error:
        assert error.code == code, error
    else:
        raise AssertionError(f"no error {code}")


async def break_off(client):
    """Breaks the connection as a cut network would."""
    client._conn.transport.abort()


async def connect():
    plain = client()
    await plain.connect()
    context = await plain.events.next("connected")
    assert len(context.client) == 36, context
    await plain.disconnect()
    assert (await plain.events.next("disconnected")).code == 0
    await plain.connect()
    assert (await plain.events.next("connected", 2)).client != context.client
    await connected("42", name="suite", version="1", data=pack({"a": 1}))
    return 3


async def publish():
    channel = fresh("room")
    one, two = await connected("1"), await connected("2")
    subs = [await subscribed(one, channel), await subscribed(two, channel)]
    values = [0, "text", [1, [2]], {"žluť": "\U0001f600"}, "", False, "x" * 50_000]
    for value in values:
        await subs[0].publish(pack(value))
    await two.publish(channel, pack("from the client"))
    for sub in subs:
        await sub.events.next("publication", len(values) + 1)
        assert datas(sub) == [*values, "from the client"]
        users = [context.pub.info.user for context in sub.events.of("publication")]
        assert users == ["1"] * len(values) + ["2"]
    await subs[1].unsubscribe()
    assert (await subs[1].events.next("unsubscribed")).code == 0
    await subs[0].publish(pack("alone"))
    await subs[0].events.next("publication", len(values) + 2)
    await subs[1].subscribe()
    await subs[1].ready()
    await subs[0].publish(pack("together"))
    await subs[1].events.next("publication", len(values) + 2)
    assert datas(subs[1])[-1] == "together"
    return len(values) + 3


async def presence():
    channel = fresh("room")
    info = {"name": "Ann"}
    one = await connected("1", token=token(sub="1", info=info))
    sub = await subscribed(one, channel)
    for _ in range(2):
        await subscribed(await connected("2"), channel)
    found = (await sub.presence()).clients
    assert sorted(one.user for one in found.values()) == ["1", "2", "2"]
    assert all(key == one.client for key, one in found.items())
    assert [unpack(one.conn_info) for one in found.values() if one.user == "1"] == [info]
    stats = await one.presence_stats(channel)
    assert (stats.num_clients, stats.num_users) == (3, 2)
    await fails(108, one.presence("elsewhere"))
    return 5


async def joins():
    channel = fresh("room")
    sub = await subscribed(await connected("1"), channel)
    await sub.events.next("join")
    two = await connected("2")
    other = await subscribed(two, channel)
    await sub.events.next("join", 2)
    await other.unsubscribe()
    await sub.events.next("leave")
    three = await connected("3")
    await subscribed(three, channel)
    await sub.events.next("join", 3)
    await three.disconnect()
    await sub.events.next("leave", 2)
    log = [(kind, one.info.user) for kind, one in sub.events.log if kind in ("join", "leave")]
    assert log == [("join", "1"), ("join", "2"), ("leave", "2"), ("join", "3"), ("leave", "3")]
    return len(log)


async def history():
    channel = fresh("log")
    sub = await subscribed(await connected("1"), channel)
    for n in range(1, 11):
        await sub.publish(pack(n))
    empty = await sub.history()
    assert (empty.publications, empty.offset) == ([], 10)
    position = StreamPosition
    cases = [
        ({"limit": -1}, list(range(1, 11))),
        ({"limit": 3}, [1, 2, 3]),
        ({"limit": 3, "reverse": True}, [10, 9, 8]),
        ({"limit": -1, "since": position(7, empty.epoch)}, [8, 9, 10]),
        ({"limit": 2, "since": position(4, empty.epoch), "reverse": True}, [3, 2]),
    ]
    for options, expected in cases:
        result = await sub.history(**options)
        assert [unpack(one.data) for one in result.publications] == expected, options
        assert (result.offset, result.epoch) == (10, empty.epoch)
    await fails(112, sub.history(limit=1, since=position(1, "another")))
    return len(cases) + 2


async def recovery():
    """What was published while the connection was away comes in order, once."""
    channel = fresh("log")
    one = await connected("1")
    sub = await subscribed(one, channel)
    assert (await sub.events.next("subscribed")).recoverable
    published = itertools.count(1)
    last = next(published)
    await api("publish", channel=channel, data=last)
    for turn in range(2, 7):
        await break_off(one)
        for last in itertools.islice(published, 20):
            await api("publish", channel=channel, data=last)
        context = await sub.events.next("subscribed", turn)
        assert context.was_recovering and context.recovered, context
    await sub.events.next("publication", last)
    assert datas(sub) == list(range(1, last + 1))
    offsets = [context.pub.offset for context in sub.events.of("publication")]
    assert offsets == list(range(1, last + 1))
    return last


async def recovery_fails():
    channel = fresh("short")
    one = await connected("1")
    sub = await subscribed(one, channel)
    await one.disconnect()
    for n in range(1, 11):
        await api("publish", channel=channel, data=n)
    await one.connect()
    context = await sub.events.next("subscribed", 2)
    assert context.was_recovering and not context.recovered, context
    assert context.stream_position.offset == 10
    await api("publish", channel=channel, data=11)
    await sub.events.next("publication")
    assert datas(sub) == [11]
    return 1


async def cache():
    channel = fresh("cache")
    for n in range(1, 6):
        await api("publish", channel=channel, data=n)
    sub = await subscribed(await connected("1"), channel)
    await sub.events.next("publication")
    await api("publish", channel=channel, data=6)
    await sub.events.next("publication", 2)
    assert datas(sub) == [5, 6]
    return 2


async def server_side():
    channel, other = fresh("log"), fresh("log")
    user = fresh("server-side")
    one = await connected(user, token=token(sub=user, channels=[channel]))
    events = one.events
    assert (await events.next("subscribed")).channel == channel
    await api("publish", channel=channel, data=1)
    await events.next("publication")
    await break_off(one)
    await api("publish", channel=channel, data=2)
    await events.next("publication", 2)
    again = await events.next("subscribed", 2)
    assert again.was_recovering, again
    await api("subscribe", user=user, channel=other)
    assert (await events.next("subscribed", 3)).channel == other
    await api("publish", channel=other, data=3)
    await events.next("publication", 3)
    await api("unsubscribe", user=user, channel=other)
    assert (await events.next("unsubscribed")).channel == other
    seen = [(one.channel, unpack(one.pub.data)) for one in events.of("publication")]
    assert seen == [(channel, 1), (channel, 2), (other, 3)], seen
    return 5


async def tokens():
    asked = 0

    async def get_token():
        nonlocal asked
        asked += 1
        return token(sub="tokens", exp=soon(4))

    one = client(token=token(sub="tokens", exp=soon(-10)), get_token=get_token)
    await one.connect()
    await one.events.next("connected")
    await until("refreshes", lambda: asked >= 3)
    await one.publish("plain", pack(1))
    assert len(one.events.of("connected")) == 1

    async def refuse():
        raise UnauthorizedError

    refused = client(get_token=refuse)
    await refused.connect()
    assert (await refused.events.next("disconnected")).code == 1
    forged = client(token=token(sub="1") + "x")
    await forged.connect()
    end = await forged.events.next("disconnected")
    assert (end.code, end.reason) == (3500, "invalid token"), end
    return asked + 2


async def subscription_tokens():
    channel = "$" + fresh("closed")
    asked = 0

    async def get_token(wanted):
        nonlocal asked
        asked += 1
        return token(sub="1", channel=wanted, exp=soon(4))

    sub = await subscribed(await connected("1"), channel, get_token=get_token)
    await until("refreshes", lambda: asked >= 3)
    await api("publish", channel=channel, data=1)
    await sub.events.next("publication")
    assert len(sub.events.of("subscribed")) == 1
    return asked + 1


async def delta():
    channel = fresh("delta")
    one = await connected("1")
    sub = await subscribed(one, channel, delta=DeltaType.FOSSIL)
    words = ["é", "è", "ž", "€", "\U0001f600", "\U0001f601", "a", '"', "\\", "\n"]
    values = [
        {"text": "the same all the time, " * 20 + words[n % 10] + "." * (n % 7), "n": n}
        for n in range(60)
    ]
    for value in values[:20]:
        await api("publish", channel=channel, data=value)
    await sub.events.next("publication", 20)
    await break_off(one)
    for value in values[20:]:
        await api("publish", channel=channel, data=value)
    await sub.events.next("publication", 60)
    assert datas(sub) == values
    return len(values)


async def filters():
    channel = fresh("tags")
    late = Filter.negate(Filter.lt("minute", "90"))
    wanted = Filter.any(Filter.eq("kind", "goal"), late)
    sub = await subscribed(await connected("1"), channel, tags_filter=wanted)
    for data, kind, minute in [(1, "goal", "5"), (2, "pass", "6"), (3, "pass", "91")]:
        await api("publish", channel=channel, data=data, tags={"kind": kind, "minute": minute})
    await sub.events.next("publication", 2)
    assert datas(sub) == [1, 3]
    assert sub.events.of("publication")[0].pub.tags == {"kind": "goal", "minute": "5"}
    return 3


async def errors():
    one = await connected("1")
    await fails(108, one.rpc("method", pack({})))
    await fails(103, one.publish(fresh("closed"), pack(1)))
    await fails(102, one.publish("unknown:a", pack(1)))
    await fails(108, one.history("plain", limit=1))
    cases = [(fresh("closed"), 103), ("unknown:a", 102), ("$private", 103), ("ž", 107)]
    for channel, code in cases:
        sub = one.new_subscription(channel, events=SubEvents())
        await sub.subscribe()
        assert (await sub.events.next("unsubscribed")).code == code, channel
    return 4 + len(cases)


async def ends():
    cases = [(None, 3503, False), (4500, 4500, False), (4000, 4000, True), (3000, 3000, True)]
    for asked, code, comes_back in cases:
        user = fresh("ends")
        one = await connected(user)
        more = {"disconnect": {"code": asked, "reason": "by the test"}} if asked else {}
        await api("disconnect", user=user, **more)
        if comes_back:
            context = await one.events.next("connecting", 2)
            await one.events.next("connected", 2)
        else:
            context = await one.events.next("disconnected")
        reason = "by the test" if asked else "force disconnect"
        assert (context.code, context.reason) == (code, reason), context
        await one.disconnect()
    channel, user = fresh("room"), fresh("unsubscribed")
    sub = await subscribed(await connected(user), channel)
    await api("unsubscribe", user=user, channel=channel)
    end = await sub.events.next("unsubscribed")
    assert (end.code, end.reason) == (2000, "server unsubscribe"), end
    return len(cases) + 1


async def pings():
    """Pings come every 12 s and want an answer within 11 s: who gives none is gone by the end."""
    one = await connected("1", max_server_ping_delay=60.0)
    await asyncio.sleep(26)
    assert len(one.events.of("connected")) == 1
    assert not one.events.of("disconnected")
    return 3


async def crowd():
    """Many at once, each with a subscription and messages."""
    channel = fresh("log")
    many = await asyncio.gather(*(connected(str(n)) for n in range(CROWD)))
    subs = await asyncio.gather(*(subscribed(one, channel) for one in many))
    for n in range(10):
        await api("publish", channel=channel, data=n)
    for sub in subs:
        await sub.events.next("publication", 10)
        assert datas(sub) == list(range(10))
    return len(subs)


CHECKS = [
    connect,
    publish,
    presence,
    joins,
    history,
    recovery,
    recovery_fails,
    cache,
    server_side,
    tokens,
    subscription_tokens,
    delta,
    filters,
    errors,
    ends,
    pings,
    crowd,
]


async def main():
    wanted = os.environ.get("CHECKS", "").split(",")
    for check in CHECKS:
        if wanted != [""] and check.__name__ not in wanted:
            continue
        async with asyncio.timeout(PATIENCE_S):
            print(f"{check.__name__}={await check()}", flush=True)
        for one in clients:
            await one.disconnect()
        clients.clear()


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(main())
