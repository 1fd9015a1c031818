"""Figures become a table, a chart and a file: medians over rounds, ratios within a round."""

import html
import json
import math
import statistics
from pathlib import Path

import host

REFERENCE = "floor"

# Columns: heading, figure, how it is written.
PLAIN, TWO, ONE = "{:,.0f}", "{:,.2f}", "{:,.1f}"
MESSAGES = [
    ("messages/s", "per_second", PLAIN), ("µs/message", "cpu_us", TWO), ("user", "user_us", TWO),
    ("sys", "sys_us", TWO), ("p50 µs", "p50_us", PLAIN), ("p99", "p99_us", PLAIN),
    ("p99.9", "p999_us", PLAIN), ("max", "max_us", PLAIN),
]
MEMORY = ("bytes/connection", "bytes_per_connection", PLAIN)
CONNECT = [
    ("opened/s", "opened_per_second", PLAIN), ("µs/connection", "cpu_us_per_open", ONE), MEMORY,
    ("closed in s", "close_seconds", TWO),
]
LARGE = [("large p50 µs", "large_p50_us", PLAIN), ("large p99", "large_p99_us", PLAIN)]
SECTIONS = [
    ("echo", "Echo, closed loop, one message on its way per connection", MESSAGES + [MEMORY]),
    ("rate", "Echo at a fixed rate, the same for all; latency from when a message was due",
     MESSAGES + [MEMORY]),
    ("pipeline", "Echo, 16 messages on their way per connection", MESSAGES),
    ("mixed", "Small messages at a fixed rate, one in a hundred large; latency of the small",
     MESSAGES + LARGE),
    ("fanout", "Fan-out: one publisher, its next message when its own came back; per delivery",
     MESSAGES + [MEMORY]),
    ("connect", "Opening handshakes", CONNECT),
]


def median(runs, figure):
    values = [run[figure] for run in runs if run.get(figure) is not None]
    return statistics.median(values) if values else None


def cost(cell):
    return "cpu_us_per_open" if cell["kind"] == "connect" else "cpu_us"


def reference(cell):
    """What the others are compared with: the floor, or else the server that was named first."""
    names = list(cell["runs"])
    return REFERENCE if REFERENCE in names else names[0]


def ratios(cell, name):
    """Processor time to that of the reference, in each round that has both."""
    figure = cost(cell)
    base = {run["round"]: run.get(figure) for run in cell["runs"][reference(cell)]}
    pairs = [(run.get(figure), base.get(run["round"])) for run in cell["runs"][name]]
    return [one / other for one, other in pairs if one and other]


def remarks(cell, runs):
    """What a reader must know about these runs."""
    found = []
    bad = [run for run in runs if not run.get("ok")]
    if bad:
        reason = bad[0].get("failed") or next(iter(bad[0].get("why", [])), "")
        unsent = sum(run.get("unsent", 0) for run in bad)
        reason = reason or ("does not keep up" if unsent else "messages lost")
        found.append(f"{len(bad)} of {len(runs)} not whole: {reason}")
    rate = median(runs, "per_second")
    if cell["rate"] and rate is not None and rate < 0.97 * cell["rate"]:
        found.append("below the rate")
    others = median(runs, "others_percent") or 0
    if others > 8:
        found.append(f"others used {others:.0f} % of a processor")
    return "; ".join(found)


class Results:
    """The cells of one table, written anew after each."""

    def __init__(self, folder, name, keep):
        self.folder, self.name = Path(folder), name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.cells = {}
        if keep and self.path("json").exists():
            self.cells = json.loads(self.path("json").read_text())["cells"]

    def path(self, ending):
        return self.folder / f"{self.name}.{ending}"

    def paths(self):
        return [self.path(ending) for ending in ("md", "json", "svg")]

    def put(self, name, cell, facts):
        self.cells[name] = dict(cell, host=facts)
        lines = ['{"cells": {']
        for number, (name, cell) in enumerate(self.cells.items()):
            comma = "," if number + 1 < len(self.cells) else ""
            lines.append(f"{json.dumps(name)}: {json.dumps(cell, ensure_ascii=False)}{comma}")
        self.path("json").write_text("\n".join(lines + ["}}", ""]))
        self.path("md").write_text(self.table())
        self.path("svg").write_text(chart(self.cells, self.heading()))

    def heading(self):
        """The hosts and commits the cells were measured on: one, if all is well."""
        return sorted({host.describe(cell["host"]) for cell in self.cells.values()})

    def table(self):
        lines = [f"# {self.name}", "", *(f"{it}." for it in self.heading()), ""]
        lines += [
            "Server on one processor, `ringhold load` on another, over loopback. Medians over "
            "rounds in which each server had its turn; the ratio is of the server's processor "
            f"time to that of `{REFERENCE}` (or the first server) in the same round, with least "
            "and most.",
            "", f"![chart]({self.name}.svg)", "",
        ]
        for kind, title, columns in SECTIONS:
            cells = {name: it for name, it in self.cells.items() if it["kind"] == kind}
            if cells:
                lines += [f"## {title}", ""] + section(cells, columns) + [""]
        return "\n".join(lines)


def section(cells, columns):
    heads = ["workload", "server", "rounds", *(head for head, _, _ in columns), "ratio", "remarks"]
    lines = ["| " + " | ".join(heads) + " |", "|---|---|" + "---:|" * (len(heads) - 3) + "---|"]
    for name, cell in cells.items():
        rate = f" at {cell['rate']:,}/s" if cell["rate"] else ""
        for server, runs in cell["runs"].items():
            found = [median(runs, figure) for _, figure, _ in columns]
            texts = ["" if it is None else form.format(it)
                     for it, (_, _, form) in zip(found, columns)]
            to = ratios(cell, server)
            ratio = f"{statistics.median(to):.3f} ({min(to):.2f}–{max(to):.2f})" if to else ""
            row = [name + rate, server, str(len(runs)), *texts, ratio, remarks(cell, runs)]
            lines.append("| " + " | ".join(row) + " |")
    return lines


COLOURS = ["#e4572e", "#8d99ae", "#3a86ff", "#2a9d8f", "#b5838d", "#9b5de5", "#d4a017",
           "#588157", "#00a6a6", "#c1666b", "#7a6c5d", "#577590"]
LEFT, WIDTH, TOP, ROW = 170, 640, 108, 22
LEAST, MOST = 0.7, 6.0

STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #1f2328; }
  .head { font-weight: 600; font-size: 14px; } .small { font-size: 10px; fill: #59636e; }
  .page { fill: #ffffff; }
  .grid { stroke: #d1d9e0; } .one { stroke: #59636e; } .dot { stroke: #ffffff; }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc; } .small { fill: #9198a1; } .page { fill: #0d1117; }
    .grid { stroke: #3d444d; } .one { stroke: #9198a1; } .dot { stroke: #0d1117; }
  }
"""


def across(ratio):
    """Logarithmic; what is beyond the edges is drawn at them."""
    place = math.log(min(max(ratio, LEAST), MOST) / LEAST) / math.log(MOST / LEAST)
    return LEFT + WIDTH * place


def chart(cells, heading):
    """Processor time per message by workload and server, as ratios. Drawn for light and dark."""
    names = list(dict.fromkeys(name for cell in cells.values() for name in cell["runs"]))
    # The project's own server has the strongest colour wherever it stands.
    names.sort(key=lambda name: name != "ringhold")
    colours = {name: COLOURS[at % len(COLOURS)] for at, name in enumerate(names)}
    height = TOP + ROW * len(cells) + 40
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 40} {height}" '
        f'role="img" aria-label="Processor time of servers, relative">',
        f"<style>{STYLE}</style>",
        '<rect class="page" width="100%" height="100%"/>',
        '<text class="head" x="12" y="24">Processor time of the server per message, '
        "1 = the reference; less is better</text>",
    ]
    for number, text in enumerate(heading[:2]):
        out.append(f'<text class="small" x="12" y="{42 + 13 * number}">{html.escape(text)}</text>')
    x, y = 12, 74
    for name in names:
        step = 26 + 7 * len(name)
        if x + step > LEFT + WIDTH:
            x, y = 12, y + 16
        out.append(f'<circle cx="{x + 5}" cy="{y - 4}" r="5" fill="{colours[name]}"/>')
        out.append(f'<text x="{x + 14}" y="{y}">{html.escape(name)}</text>')
        x += step
    bottom = TOP + ROW * len(cells)
    for ratio in (0.7, 0.8, 0.9, 1, 1.2, 1.5, 2, 3, 4, 6):
        kind = "one" if ratio == 1 else "grid"
        at = across(ratio)
        out.append(f'<line class="{kind}" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{bottom}"/>')
        label = f"{ratio:g}" + ("+" if ratio == MOST else "")
        out.append(f'<text class="small" text-anchor="middle" x="{at:.1f}" y="{bottom + 16}">'
                   f"{label}</text>")
    for row, (workload, cell) in enumerate(cells.items()):
        middle = TOP + ROW * row + ROW / 2
        out.append(f'<text text-anchor="end" x="{LEFT - 12}" y="{middle + 4}">'
                   f"{html.escape(workload)}</text>")
        for name in reversed(names):
            to = ratios(cell, name) if name in cell["runs"] else []
            if to:
                ratio = statistics.median(to)
                size = 6.5 if name == "ringhold" else 5
                out.append(
                    f'<circle class="dot" cx="{across(ratio):.1f}" cy="{middle}" r="{size}" '
                    f'fill="{colours[name]}"><title>{html.escape(name)} {ratio:.2f}</title>'
                    "</circle>")
    return "\n".join(out + ["</svg>", ""])
