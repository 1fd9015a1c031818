"""What a number of connections takes: draws where the members of channels are, and does the sums.

Nothing is measured here. The costs are those of docs/benchmarks.md and docs/scaling.md, from two
shared cores; each can be given another value that was measured on the hosts in question.
"""

import argparse
import random
from dataclasses import dataclass

# Channels of one kind that are drawn; the others are like them.
DRAWN = 2_000
# Members of one channel that are drawn one by one; more are on every node anyway.
MEMBERS_DRAWN = 20_000

# Microseconds of a core and bytes, with their sources in docs/scaling.md.
COSTS = {
    "delivery": (6.1, "us of a node's core for a delivery that leaves alone"),
    "delivery-many": (0.48, "us for one that leaves with fifteen others"),
    "opening": (120.0, "us of a node's core for TCP, TLS and the upgrade"),
    "connection": (4_400.0, "bytes of a node for an idle connection with one channel"),
    "message": (1.2, "us of a node's broker thread for a message from Redis"),
    "request": (3.0, "us of a node's broker thread for a publication to Redis"),
    "publish": (2.2, "us of Redis for a publication without history"),
    "publish-kept": (16.0, "us of Redis for one with history: the script"),
    "copy": (1.5, "us of Redis for each node that a message goes to"),
    "subscribe": (2.6, "us of Redis for a channel to which a node listens"),
    "read": (6.0, "us of Redis for a history that a node reads"),
    "listener": (220.0, "bytes of Redis for a channel and a node that listens"),
    "history": (4_750.0, "bytes of Redis for a history of few publications"),
}


@dataclass
class Kind:
    """Channels that are alike: `name=channels x members @ publications per second [kept]`."""

    name: str
    channels: int
    members: int
    rate: float
    kept: bool

    @classmethod
    def parse(cls, text):
        try:
            name, rest = text.split("=")
            kept = rest.endswith("+")
            size, rate = rest.removesuffix("+").split("@")
            channels, members = size.split("x")
            kind = cls(name, number(channels), number(members), float(number(rate)), kept)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no NAME=CHANNELSxMEMBERS@RATE[+]")
        if min(kind.channels, kind.members) < 1 or kind.rate < 0:
            raise argparse.ArgumentTypeError(f"{text!r} has a number that is too small")
        return kind


def number(text):
    """Of 5000, 5k or 0.5M."""
    text = text.strip()
    factor = {"k": 1_000, "M": 1_000_000}.get(text[-1:], 1)
    value = float(text.rstrip("kM")) * factor
    if value != int(value):
        raise ValueError(text)
    return int(value)


def spread(kind, nodes, rng):
    """On how many nodes the members of a channel are, on average."""
    if kind.members >= MEMBERS_DRAWN:
        return float(nodes)
    drawn = min(DRAWN, kind.channels)
    # A lot of members is drawn less often: their number differs less.
    drawn = max(1, min(drawn, 4_000_000 // kind.members))
    found = sum(len({rng.randrange(nodes) for _ in range(kind.members)}) for _ in range(drawn))
    return found / drawn


def plan(connections, nodes, brokers, cores, kinds, costs, seed):
    """What all of it takes, as a table of (what, figure)."""
    rng = random.Random(seed)
    here = connections / nodes
    listened = messages = deliveries = subscriptions = 0.0
    redis_us = redis_bytes = published = 0.0
    returning = 0.0
    for kind in kinds:
        on = spread(kind, nodes, rng)
        listened += kind.channels * on / nodes
        messages += kind.rate * on / nodes
        deliveries += kind.rate * kind.members / nodes
        subscriptions += kind.channels * kind.members / nodes
        published += kind.rate
        cost = costs["publish-kept"] if kind.kept else costs["publish"]
        redis_us += kind.rate * (cost + on * costs["copy"])
        redis_bytes += kind.channels * on * costs["listener"]
        redis_bytes += kind.channels * costs["history"] if kind.kept else 0
        if nodes > 1:
            # Of the channels of a node that is lost, those that the new node of a member does not
            # have.
            known = (on - 1) / (nodes - 1)
            returning += kind.channels * on / nodes * (1 - known)
    node_us = [deliveries * costs[which] + messages * costs["message"]
               + published / nodes * costs["request"] for which in ("delivery-many", "delivery")]
    table = [
        ("connections of a node", f"{here:,.0f}"),
        ("memory of a node, the kernel's part included", size(here * costs["connection"])),
        ("subscriptions of a node", f"{subscriptions:,.0f}"),
        ("channels to which a node listens", f"{listened:,.0f}"),
        ("messages from Redis to a node", f"{messages:,.0f}/s"),
        ("deliveries of a node", f"{deliveries:,.0f}/s"),
        ("cores of a node that these take", f"{node_us[0] / 1e6:.2f} to {node_us[1] / 1e6:.2f}"),
        ("publications", f"{published:,.0f}/s"),
        ("of a Redis, of one core", f"{redis_us / brokers / 1e4:.0f} %"),
        ("memory of a Redis", size(redis_bytes / brokers)),
    ]
    if nodes > 1:
        seats = here / (nodes - 1)
        table += [
            ("a node is lost: connections that come to each other", f"{seats:,.0f}"),
            ("until they are served", f"{seats * costs['opening'] / cores / 1e6:.1f} s"),
            ("channels that Redis is asked for then", f"{returning:,.0f}"),
            ("of a Redis for that",
             f"{returning * (costs['subscribe'] + costs['read']) / brokers / 1e6:.2f} s"),
        ]
    start = listened * costs["subscribe"] * nodes / brokers / 1e6
    table += [("a Redis is lost and back: until all listen again", f"{start:.1f} s")]
    return table


def size(count):
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            return f"{count:,.1f} {unit}"
        count /= 1024


def main():
    parser = argparse.ArgumentParser(
        prog="benches/scaling.sh", description=__doc__.split("\n\n")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: benches/scaling.sh 10M --nodes 20 --brokers 4 "
               "user=10Mx1@20k room=100kx100@2k+ all=1x10M@1",
    )
    parser.add_argument("connections", type=number)
    parser.add_argument("kinds", nargs="+", type=Kind.parse, metavar="NAME=CHANNELSxMEMBERS@RATE[+]",
                        help="channels, members of each, publications per second into all of them; "
                             "with a + they keep a history")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--brokers", type=int, default=1, help="servers of Redis that share the "
                        "channels")
    parser.add_argument("--cores", type=int, default=16, help="of a node (%(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    for name, (cost, text) in COSTS.items():
        parser.add_argument(f"--{name}", type=float, default=cost, help=f"{text} (%(default)s)")
    given = parser.parse_args()
    if min(given.nodes, given.brokers, given.cores) < 1:
        parser.error("--nodes, --brokers and --cores are 1 at least")
    costs = {name: getattr(given, name.replace("-", "_")) for name in COSTS}
    table = plan(given.connections, given.nodes, given.brokers, given.cores, given.kinds, costs,
                 given.seed)
    width = max(len(what) for what, _ in table)
    for what, figure in table:
        print(f"{what:{width}}  {figure}")


if __name__ == "__main__":
    main()
