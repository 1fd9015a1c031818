// Charts drawn as SVG: a small one of a single line, one with axes, and bars of a distribution.
// Each is drawn anew from its points; nothing is animated.

import { bytes, compact, count, nice, seconds, upTo } from "./figures.js";

/// An element with attributes and children.
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, text] of Object.entries(attributes)) {
    if (text != null) element.setAttribute(name, text);
  }
  element.append(...children);
  return element;
}

/// Likewise of SVG.
function s(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, text] of Object.entries(attributes)) element.setAttribute(name, text);
  element.append(...children);
  return element;
}

const path = (points, x, y) =>
  points.map((p, n) => `${n ? "L" : "M"}${x(p.time).toFixed(1)} ${y(p.y).toFixed(1)}`).join("");

/// A line without axes, for a tile.
export class Spark {
  constructor() {
    this.svg = s("svg", { class: "spark", viewBox: "0 0 200 36", preserveAspectRatio: "none", "aria-hidden": "true" });
  }

  draw(points, span) {
    const known = points.filter((p) => Number.isFinite(p.y));
    if (known.length < 2) return this.svg.replaceChildren();
    const end = known.at(-1).time;
    const top = Math.max(...known.map((p) => p.y)), low = Math.min(...known.map((p) => p.y), top * 0.8);
    const x = (time) => 200 + ((time - end) / span) * 200;
    const y = (n) => 33 - (top > low ? ((n - low) / (top - low)) * 28 : 0);
    const line = path(known, x, y);
    this.svg.replaceChildren(
      s("path", { class: "area", d: `${line}L200 36L${x(known[0].time).toFixed(1)} 36Z` }),
      s("path", { class: "line", d: line, "vector-effect": "non-scaling-stroke" }),
    );
  }
}

const MARGIN = { left: 52, right: 12, top: 10, bottom: 22 };
/// Width of a figure of an axis, at most.
const DIGIT = 7;
const HEIGHT = 190;

/// Lines over the last minutes, with what they are at the pointer, or now.
export class LineChart {
  constructor(title, names, format = compact) {
    Object.assign(this, { names, format, series: names.map(() => []), span: 60_000, at: null, left: MARGIN.left });
    this.svg = s("svg", { class: "chart", height: HEIGHT, tabindex: "0", role: "img" });
    this.values = names.map(() => h("b", {}, "–"));
    this.when = h("span", { class: "soft" }, "now");
    const legend = h("p", { class: "legend" }, ...names.flatMap((name, n) => [h("span", { class: `key k${n}` }, name), this.values[n]]), this.when);
    this.title = title;
    this.element = h("figure", { class: "panel" }, h("figcaption", {}, h("h2", {}, title), legend), this.svg);
    new ResizeObserver(() => this.paint()).observe(this.svg);
    this.svg.addEventListener("pointermove", (event) => this.look(this.timeAt(event.offsetX)));
    this.svg.addEventListener("pointerleave", () => this.look(null));
    this.svg.addEventListener("blur", () => this.look(null));
    this.svg.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key] * Math.max(5000, this.span / 60);
      if (!step) return;
      event.preventDefault();
      this.look(Math.min((this.at ?? this.end) + step, this.end));
    });
  }

  get end() { return this.series[0].at(-1)?.time ?? 0; }
  get width() { return this.svg.clientWidth || 400; }

  timeAt(offset) {
    const inner = this.width - this.left - MARGIN.right;
    return this.end - this.span * (1 - Math.min(1, Math.max(0, (offset - this.left) / inner)));
  }

  look(time) {
    this.at = time;
    this.paint();
  }

  draw(span, series) {
    Object.assign(this, { span, series });
    this.paint();
  }

  paint() {
    const { width, end, format, span } = this;
    const points = this.series.flat().filter((p) => p.time >= end - span);
    const top = nice(Math.max(0, ...points.map((p) => p.y)), format === bytes);
    const shares = [0, 0.5, 1], longest = Math.max(...shares.map((share) => format(top * share).length));
    this.left = Math.max(MARGIN.left, 8 + longest * DIGIT);
    const inner = width - this.left - MARGIN.right, bottom = HEIGHT - MARGIN.bottom;
    const x = (time) => this.left + (1 + (time - end) / span) * inner;
    const y = (n) => bottom - (n / top) * (bottom - MARGIN.top);
    const parts = [];
    for (const share of shares) {
      const at = y(top * share);
      parts.push(s("line", { class: "grid", x1: this.left, x2: width - MARGIN.right, y1: at, y2: at }));
      parts.push(s("text", { x: this.left - 8, y: at + 4, "text-anchor": "end" }, format(top * share)));
    }
    const ticks = { 300_000: 5, 3_600_000: 6 }[span] ?? 4;
    for (let n = 0; n <= ticks; n++) {
      if (width < 420 && n % 2 && n < ticks) continue;
      const ago = ((ticks - n) * span) / ticks / 1000;
      const text = ago === 0 ? "now" : ago % 60 ? `−${ago} s` : `−${ago / 60} min`;
      const anchor = n === 0 ? "start" : n < ticks ? "middle" : "end";
      parts.push(s("text", { x: x(end - ago * 1000), y: HEIGHT - 5, "text-anchor": anchor }, text));
    }
    // A line comes in from the left, but no further.
    const lines = this.series.map((points, n) => points.length ? s("path", { class: `line k${n}`, d: path(points, x, y) }) : "");
    const within = Math.max(1, inner);
    parts.push(s("svg", { x: this.left, width: within, height: HEIGHT, viewBox: `${this.left} 0 ${within} ${HEIGHT}` }, ...lines));
    const nearest = (points) => points.reduce((best, p) => (!best || Math.abs(p.time - this.at) < Math.abs(best.time - this.at) ? p : best), null);
    const shown = this.series.map((points) => (this.at == null ? points.at(-1) : nearest(points)));
    if (this.at != null && shown[0]) {
      const at = x(shown[0].time);
      parts.push(s("line", { class: "cursor", x1: at, x2: at, y1: MARGIN.top, y2: bottom }));
      shown.forEach((p, n) => p && parts.push(s("circle", { class: `dot k${n}`, cx: x(p.time), cy: y(p.y), r: 3.5 })));
    }
    shown.forEach((p, n) => { this.values[n].textContent = p ? format(p.y) : "–"; });
    const ago = shown[0] ? Math.round((end - shown[0].time) / 1000) : 0;
    this.when.textContent = ago > 0 ? `${ago < 120 ? `${ago} s` : `${Math.round(ago / 60)} min`} ago` : "now";
    const said = this.names.map((name, n) => `${name} ${this.values[n].textContent}`).join(", ");
    this.svg.setAttribute("aria-label", `${this.title}: ${said}, ${this.when.textContent}`);
    this.svg.replaceChildren(...parts);
  }
}

/// Bars of a distribution of times.
export class Bars {
  constructor() {
    this.svg = s("svg", { class: "chart", height: 150, role: "img" });
    new ResizeObserver(() => this.paint()).observe(this.svg);
  }

  draw(title, distribution) {
    Object.assign(this, { title, distribution });
    this.paint();
  }

  paint() {
    if (!this.distribution) return;
    const width = this.svg.clientWidth || 400, bottom = 126;
    const all = count(this.distribution);
    const each = this.distribution.buckets.map(([bound, n], at, list) => ({ bound, n: n - (list[at - 1]?.[1] ?? 0) }));
    const top = Math.max(1, ...each.map((one) => one.n));
    const step = width / each.length;
    const parts = [s("line", { class: "grid", x1: 0, x2: width, y1: bottom, y2: bottom })];
    each.forEach(({ bound, n }, at) => {
      // What happened is seen, however rare it is.
      const height = n ? Math.max(2, (n / top) * (bottom - 8)) : 0;
      const share = all ? ((n / all) * 100).toFixed(n === all ? 0 : 2) : 0;
      const title = s("title", {}, `${upTo(bound)}: ${n} (${share} %)`);
      parts.push(s("g", { class: "bar" }, title,
        s("rect", { class: "hit", x: at * step, y: 0, width: step, height: bottom }),
        s("rect", { class: "fill", x: at * step + step * 0.12, y: bottom - height, width: step * 0.76, height, rx: Math.min(2, height) })));
      const label = bound == null ? "more" : seconds(bound).replace(/ .*/, (unit) => unit);
      const every = width < 520 ? 4 : 2;
      // The first and the last keep within the chart.
      const [x, anchor] = at === 0 ? [1, "start"] : at === each.length - 1 ? [width, "end"] : [(at + 0.5) * step, "middle"];
      if (at % every === 0) parts.push(s("text", { x, y: 143, "text-anchor": anchor }, label));
    });
    this.svg.setAttribute("aria-label", this.title);
    this.svg.replaceChildren(...parts);
  }
}
