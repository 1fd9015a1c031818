#!/usr/bin/env python3
"""Writes the tables of docs/benchmarks.md and the chart of the README from benches/results.

Between `<!-- table: NAME -->` and `<!-- end -->` of the page stands what this program writes, so that
text and results agree. `--check` writes nothing and fails where they do not.
"""

import json
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = ROOT / "benches" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
CHART = ROOT / "docs" / "images" / "memory.svg"

# Tables of three servers, each of the cells whose names begin like this.
SIDE_BY_SIDE = ("echo", "pipeline", "fanout", "connect")


def cells(name):
    return json.loads((RESULTS / f"{name}.json").read_text())["cells"]


def cost(cell, run):
    """`None` of a run that gave nothing."""
    return run.get("cpu_us_per_open" if cell["kind"] == "connect" else "cpu_us")


def median(cell, server):
    values = [cost(cell, run) for run in cell["runs"].get(server, [])]
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def ratios(cell, one, other):
    """Of the processor time of two servers, round by round."""
    others = {run["round"]: cost(cell, run) for run in cell["runs"].get(other, [])}
    pairs = [(cost(cell, run), others.get(run["round"])) for run in cell["runs"].get(one, [])]
    return [a / b for a, b in pairs if a and b]


def spread(values):
    if not values:
        return "–"
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def number(value):
    if value is None:
        return "–"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def what(name, cell):
    """A cell's workload in words."""
    kind, size, count = name.split("-")[0], name.split("-")[1], f"{cell['connections']:,}"
    size = f"{size} B" if size.isdigit() else size.replace("KiB", " KiB")
    if kind == "connect":
        return f"{count} connections"
    noun = "subscriber" if kind == "fanout" else "connection"
    return f"{size}, {count} {noun}{'' if count == '1' else 's'}"


def how(name):
    """What a cell's name says beside size and number."""
    kinds = {"rate": " at a fixed rate", "pipeline": ", 16 at once", "fanout": ", fan-out", "connect": ", opening"}
    return kinds.get(name.split("-")[0], "")


def side_by_side(prefix):
    rows = ["| | reference, µs | ringhold, µs | uWebSockets, µs | ringhold ÷ uWebSockets | ringhold ÷ reference |",
            "|---|---:|---:|---:|---:|---:|"]
    for name, cell in cells("workloads").items():
        if name.startswith(prefix):
            us = " | ".join(number(median(cell, s)) for s in ("floor", "ringhold", "uWebSockets"))
            against = spread(ratios(cell, "ringhold", "uWebSockets"))
            rows.append(f"| {what(name, cell)} | {us} | {against} | {spread(ratios(cell, 'ringhold', 'floor'))} |")
    return rows


def ways():
    """The ring beside epoll, of the same program."""
    rows = ["| | io_uring, µs | epoll, µs | epoll ÷ io_uring |", "|---|---:|---:|---:|"]
    for name, cell in cells("io").items():
        us = " | ".join(number(median(cell, s)) for s in ("ringhold", "ringhold-epoll"))
        rows.append(f"| {what(name, cell)}{how(name)} | {us} | {spread(ratios(cell, 'ringhold-epoll', 'ringhold'))} |")
    return rows


def builds():
    """The program as `--release` builds it, beside `--profile dist`."""
    rows = ["| | `dist`, µs | `--release`, µs | `--release` ÷ `dist` |", "|---|---:|---:|---:|"]
    for name, cell in cells("io").items():
        us = " | ".join(number(median(cell, s)) for s in ("ringhold", "release"))
        rows.append(f"| {what(name, cell)}{how(name)} | {us} | {spread(ratios(cell, 'release', 'ringhold'))} |")
    return rows


def ways_held():
    """What a held connection takes, over the ring and over epoll."""
    found = json.loads((RESULTS / "density-io.json").read_text())
    runs = [found["runs"][way] for way in ("uring", "epoll")]
    kernel = [sum(size for name, size in run["server"].items() if name != "slab waste") for run in runs]
    user = [run["user"] for run in runs]
    opened = [run["load"]["opening"]["server_cpu_us_each"] for run in runs]
    held = [100 * run["cpu_seconds"] / run["hold_seconds"] for run in runs]
    row = lambda title, values, form: f"| {title} | " + " | ".join(form.format(it) for it in values) + " |"
    return [
        f"| {found['connections']:,} connections | io_uring | epoll |", "|---|---:|---:|",
        row("bytes of user space, each", user, "{:,.0f}"),
        row("bytes of the kernel, each", kernel, "{:,.0f}"),
        row("**all in**", [a + b for a, b in zip(user, kernel)], "**{:,.0f}**"),
        row("µs of the server's processor to open one", opened, "{:.1f}"),
        row("% of a processor while they are held, with heartbeats", held, "{:.1f}"),
    ]


def three(run):
    return " / ".join(f"{run[key]:,.0f}" for key in ("p50_us", "p99_us", "p999_us"))


def latency():
    rows = ["| | messages/s | ringhold | uWebSockets | reference |", "|---|---:|---:|---:|---:|"]
    for name, cell in cells("workloads").items():
        if not name.startswith("rate-"):
            continue
        texts = []
        for server in ("ringhold", "uWebSockets", "floor"):
            runs = cell["runs"][server]
            reached = statistics.median(run["per_second"] for run in runs) >= 0.98 * cell["rate"]
            middle = {k: statistics.median(run[k] for run in runs) for k in ("p50_us", "p99_us", "p999_us")}
            texts.append(three(middle) if reached else "does not reach it")
        rows.append(f"| {what(name, cell)} | {cell['rate']:,} | {' | '.join(texts)} |")
    return rows


def peers():
    every = cells("peers")
    names = [name for name in next(iter(every.values()))["runs"]]
    names.sort(key=lambda name: (name != "ringhold", name == "floor", median(every["echo-32-100"], name)))
    rows = ["| | " + " | ".join(f"{what(n, c)}{', 16 at once' if n.startswith('pipe') else ''}" for n, c in every.items()) + " |",
            "|---|" + "---:|" * len(every)]
    for name in names:
        title = "reference" if name == "floor" else name
        rows.append(f"| {title} | " + " | ".join(number(median(c, name)) for c in every.values()) + " |")
    return rows


def memory_rows():
    cell = cells("peers")["connect-10000"]
    rows = [(name, statistics.median(run["bytes_per_connection"] for run in runs))
            for name, runs in cell["runs"].items() if name != "floor"]
    return sorted(rows, key=lambda row: row[1])


def memory():
    rows = ["| | bytes per connection |", "|---|---:|"]
    return rows + [f"| {name} | {size:,.0f} |" for name, size in memory_rows()]


def faster():
    """Where the median of uWebSockets' rounds, or of another server's, is below ringhold's."""
    rows = ["| | who | ringhold takes |", "|---|---|---:|"]
    for source in ("workloads", "peers"):
        for name, cell in cells(source).items():
            if name.startswith("mixed-"):
                continue
            for server in cell["runs"]:
                if server in ("ringhold", "floor"):
                    continue
                found = ratios(cell, "ringhold", server)
                if found and statistics.median(found) > 1.005:
                    rows.append(f"| {what(name, cell)}{how(name)} | {server} | {spread(found)} × |")
    return rows


def chart():
    rows = memory_rows()
    top, line, left, width = 62, 26, 150, 560
    height = top + line * len(rows) + 12
    most = max(size for _, size in rows)
    parts = [f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 {height}" role="img" aria-label="Memory of servers per idle connection">
<style>
  text {{ font: 13px system-ui, sans-serif; fill: #1f2328; }}
  .head {{ font-weight: 600; font-size: 15px; }} .small {{ font-size: 11px; fill: #59636e; }}
  .page {{ fill: #ffffff; }} .bar {{ fill: #8d99ae; }} .ours {{ fill: #e4572e; }}
  @media (prefers-color-scheme: dark) {{
    text {{ fill: #f0f6fc; }} .small {{ fill: #9198a1; }} .page {{ fill: #0d1117; }}
  }}
</style>
<rect class="page" width="100%" height="100%"/>
<text class="head" x="12" y="24">Memory of the server's process per idle WebSocket connection, bytes; less is better</text>
<text class="small" x="12" y="44">10,000 connections to echo servers as each is usually built; the kernel's share (3.9 kB) is the same for all</text>"""]
    for index, (name, size) in enumerate(rows):
        y = top + index * line
        bar = max(2, round(width * size / most))
        kind = "ours" if name == "ringhold" else "bar"
        parts.append(f'<text x="{left - 10}" y="{y + 14}" text-anchor="end">{name}</text>')
        parts.append(f'<rect class="{kind}" x="{left}" y="{y}" width="{bar}" height="18"/>')
        parts.append(f'<text x="{left + bar + 8}" y="{y + 14}">{size:,.0f}</text>')
    return "\n".join(parts + ["</svg>", ""])


def tables():
    made = {name: side_by_side(f"{name}-") for name in SIDE_BY_SIDE}
    return made | {"latency": latency(), "peers": peers(), "memory": memory(), "faster": faster(), "ways": ways(),
                   "ways-held": ways_held(), "builds": builds()}


def main():
    text = PAGE.read_text()
    for name, rows in tables().items():
        begin, end = f"<!-- table: {name} -->\n", "<!-- end -->"
        if begin not in text:
            sys.exit(f"{PAGE.name} has no table {name}")
        head, rest = text.split(begin, 1)
        text = head + begin + "\n".join(rows) + "\n" + rest[rest.index(end):]
    if "--check" in sys.argv:
        if text != PAGE.read_text() or chart() != CHART.read_text():
            sys.exit("docs/benchmarks.md or its chart is not what benches/results say: run benches/harness/page.py")
        return
    PAGE.write_text(text)
    CHART.write_text(chart())


if __name__ == "__main__":
    main()
