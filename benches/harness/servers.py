"""The servers that are compared: how each is built and started.

A command's `{port}`, `{payload}` and `{connections}` are filled in; `{workers}` is 1, or 0 (as many
as needed) where one worker's table does not hold the connections.
"""

import json
import shlex
import subprocess
from dataclasses import dataclass

from host import ROOT

PEERS = ROOT / "benches" / "peers"
RUST_PEERS = ["tokio-tungstenite", "tokio-websockets", "fastwebsockets", "compio", "tokio-uring"]
SCRIPT_PEERS = ["node-ws", "bun"]
BUILT_IN = ["floor", "ringhold", "ringhold-epoll", *RUST_PEERS, *SCRIPT_PEERS]
# The same programs over TLS, with the certificate of the tests (P-256).
OVER_TLS = ["ringhold-tls", "node-ws-tls", "bun-tls"]
CERT, KEY = (ROOT / "tests" / "tls" / "keys" / f"localhost.{it}" for it in ("pem", "key"))

# One process, one worker, no compression; limits out of the way of 10,000 large messages.
RINGHOLD = (
    "{binary} --log warn echo --io {io} --listen 127.0.0.1:{port} --workers {workers} --max-message 64MiB "
    "--max-outbox 256MiB --max-outboxes 8GiB --max-inbound 8GiB"
)


@dataclass
class Server:
    name: str
    echo: str
    fanout: str | None = None  # The command for fan-out, if it can.
    path: str = "/"
    fanout_path: str = "/fanout"
    tls: bool = False
    # Does not need a process's file descriptor per connection.
    direct: bool = False
    direct_fanout: bool = False

    def url(self, workload, port):
        path = self.fanout_path if workload.kind == "fanout" else self.path
        return f"{'wss' if self.tls else 'ws'}://127.0.0.1:{port}{path}"

    def can(self, workload, table):
        """Whether it takes part; `table` is what a process's descriptors hold."""
        fans_out = workload.kind == "fanout"
        words, direct = (self.fanout, self.direct_fanout) if fans_out else (self.echo, self.direct)
        return words is not None and (workload.connections <= table or direct)

    def command(self, workload, port, table):
        words = self.fanout if workload.kind == "fanout" else self.echo
        numbers = {
            "port": port,
            "payload": workload.large or workload.payload,
            "connections": workload.connections + 64,
            "cert": CERT,
            "key": KEY,
            "workers": 1 if workload.connections <= table * 0.85 else 0,
        }
        for name, value in numbers.items():
            words = words.replace(f"{{{name}}}", str(value))
        return shlex.split(words)


def run(words, folder=ROOT):
    print("building:", shlex.join(map(str, words)), flush=True)
    subprocess.run(words, cwd=folder, check=True)


def build_ringhold():
    run(["cargo", "build", "--profile", "dist", "--locked"])
    return ROOT / "target" / "dist" / "ringhold"


def build_benches(*names):
    """Builds bare loops and returns where each is."""
    words = ["cargo", "bench", "--no-run", "--message-format=json-render-diagnostics"]
    words += [word for name in names for word in ("--bench", name)]
    print("building:", shlex.join(words), flush=True)
    lines = subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = {}
    for line in lines.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] in names:
            found[message["target"]["name"]] = message["executable"]
    return found


def ringhold(binary, name="ringhold", io="uring", tls=False):
    command = RINGHOLD.replace("{binary}", str(binary)).replace("{io}", io)
    if tls:
        command += f" --tls-cert {CERT} --tls-key {KEY}"
    many = command + " --max-connections {connections}"
    # Over epoll a connection has a descriptor of the process.
    direct = io == "uring"
    return Server(name, command, many, tls=tls, direct=direct, direct_fanout=direct)


def built_in(names, binary="ringhold", floors=None):
    """The servers of these names; `floors` says where the bare loops are."""
    floors = floors or {"floor": "floor", "fanout_floor": "fanout_floor"}
    node = f"node {PEERS}/node-ws.mjs {{port}}"
    bun = f"{PEERS}/node_modules/.bin/bun {PEERS}/bun.mjs {{port}}"
    servers = {
        "ringhold": ringhold(binary),
        "ringhold-epoll": ringhold(binary, "ringhold-epoll", io="epoll"),
        "floor": Server("floor", f"{floors['floor']} {{port}} {{payload}}",
                        f"{floors['fanout_floor']} {{port}} {{connections}}", direct_fanout=True),
        "node-ws": Server("node-ws", node, node),
        "bun": Server("bun", bun, bun),
        "ringhold-tls": ringhold(binary, "ringhold-tls", tls=True),
    }
    for name, command in ("node-ws", node), ("bun", bun):
        command += f" {CERT} {KEY}"
        servers[f"{name}-tls"] = Server(f"{name}-tls", command, command, tls=True)
    for name in RUST_PEERS:
        servers[name] = Server(name, f"{PEERS}/target/release/{name} {{port}} {{payload}}")
    return [servers[name] for name in names]


def prepare(names, binary=None):
    """Builds what is asked for. Returns the load generator and the servers, in their order."""
    binary = binary or build_ringhold()
    floors = build_benches("floor", "fanout_floor") if "floor" in names else None
    if set(names) & set(RUST_PEERS):
        run(["cargo", "build", "--release"], PEERS)
    if {name.removesuffix("-tls") for name in names} & set(SCRIPT_PEERS) and not (PEERS / "node_modules").exists():
        run(["npm", "ci"], PEERS)
    return binary, built_in(names, binary, floors)
