// What numbers mean and how they are written. Knows no page.

const grouped = new Intl.NumberFormat("en-US");
const short = new Intl.NumberFormat("en-US", { maximumSignificantDigits: 3 });

/// 1,234,567
export const exact = (n) => grouped.format(n);

/// A metric without labels, or one of its series; undefined where there is none.
export function value(metrics, name, labels) {
  const metric = metrics[name];
  if (!Array.isArray(metric)) return metric;
  const is = (one) => Object.entries(labels || {}).every(([key, text]) => one[key] === text);
  return labels && metric.find(is)?.value;
}

/// 0.042, 7.3, 1,234, 12.3 M
export function compact(n) {
  if (n < 1) return short.format(Math.round(n * 1000) / 1000);
  if (n >= 1e9) return `${short.format(n / 1e9)} G`;
  if (n >= 1e6) return `${short.format(n / 1e6)} M`;
  if (n >= 100) return grouped.format(Math.round(n));
  return short.format(Math.round(n * 100) / 100);
}

export function bytes(n) {
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (n < 1024) return `${n < 10 && unit !== "B" ? n.toFixed(1) : Math.round(n)} ${unit}`;
    n /= 1024;
  }
  return `${n.toFixed(1)} TiB`;
}

export function seconds(s) {
  if (s < 1e-3) return `${short.format(s * 1e6)} µs`;
  if (s < 1) return `${short.format(s * 1e3)} ms`;
  if (s < 120) return `${short.format(s)} s`;
  return span(s);
}

/// 3 d 4 h
export function span(s) {
  const parts = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = Math.max(0, parts.findIndex(([, unit]) => s >= unit));
  if (s < 1) return "0 s";
  return parts.slice(first, first + 2).map(([name, unit]) => {
    const n = Math.floor(s / unit);
    s -= n * unit;
    return `${n} ${name}`;
  }).filter((text, n) => n === 0 || !text.startsWith("0 ")).join(" ");
}

/// Never rounded up to 100 %.
export const percent = (part, whole) =>
  part === whole ? "100 %" : `${(Math.floor((part / whole) * 10000) / 100).toFixed(2)} %`;

/// What is between two readings of a distribution.
export function between(older, newer) {
  if (!older) return newer;
  return {
    sum: newer.sum - older.sum,
    buckets: newer.buckets.map(([bound, n], at) => [bound, n - older.buckets[at][1]]),
  };
}

/// The least of 1, 2, 5, 10, 20, … that is not below: of the same unit, if it is for bytes.
export function nice(top, isBytes) {
  if (!(top > 0)) return 1;
  const unit = isBytes ? 1024 ** Math.max(0, Math.floor(Math.log2(top) / 10)) : 1;
  const ten = 10 ** Math.floor(Math.log10(top / unit));
  return unit * [1, 2, 5, 10].map((n) => n * ten).find((n) => n >= (top / unit) * 0.999);
}

export const count = (distribution) => distribution.buckets.at(-1)[1];

/// The bucket that holds a quantile, as its upper bound; null: above all bounds.
export function quantile(distribution, q) {
  const rank = Math.max(1, Math.ceil(count(distribution) * q));
  return distribution.buckets.find(([, n]) => n >= rank)?.[0];
}

export const upTo = (bound) => (bound == null ? "> 10 s" : `≤ ${seconds(bound)}`);

/// A metric's number; of one with labels the sum of its series.
export const sum = (metrics, name) => {
  const metric = metrics[name];
  return Array.isArray(metric) ? metric.reduce((all, one) => all + one.value, 0) : metric ?? 0;
};

/// Readings of the last hour: whole ones of the last five minutes, one a second while somebody
/// looks, and before them a few sums of each, one every five seconds, as the server keeps them.
export class History {
  static FINE = 300_000;
  static HOUR = 3_600_000;
  readings = [];
  past = [];
  names = [];

  /// Takes what the server has kept, in place of all there is.
  begin({ names, times, values }) {
    this.names = names;
    this.readings = [];
    this.past = times.map((time, at) => ({ time, metrics: Object.fromEntries(names.map((name, n) => [name, values[at][n]])) }));
  }

  /// Takes a reading; what a server counted that is gone is forgotten.
  add(reading) {
    const last = this.readings.at(-1);
    if (last && reading.uptime < last.uptime) this.past = this.readings = [];
    this.readings.push(reading);
    const oldest = reading.time - History.FINE;
    while (this.readings[0].time < oldest) this.put(this.readings.shift());
    while (this.past.length && this.past[0].time < reading.time - History.HOUR) this.past.shift();
  }

  /// Keeps the sums of a reading, if the last one is older than five seconds.
  put({ time, metrics }) {
    if (time - (this.past.at(-1)?.time ?? 0) < 4900) return;
    this.past.push({ time, metrics: Object.fromEntries(this.names.map((name) => [name, sum(metrics, name)])) });
  }

  get last() { return this.readings.at(-1); }

  /// The whole reading about so many milliseconds before the last.
  before(ms) {
    const at = this.last.time - ms;
    return this.readings.findLast((reading) => reading.time <= at) || this.readings[0];
  }

  /// All readings of this time span, in milliseconds, of both kinds.
  within(span) {
    const first = this.readings[0]?.time ?? Infinity, oldest = (this.last?.time ?? 0) - span;
    const all = [...this.past.filter((reading) => reading.time < first), ...this.readings];
    // One more, from which a line comes in.
    const from = Math.max(0, all.findIndex((reading) => reading.time >= oldest) - 1);
    return all.slice(from);
  }

  /// Points of a gauge.
  gauge(name, span) {
    return this.within(span).map((reading) => ({ time: reading.time, y: sum(reading.metrics, name) }));
  }

  /// How much of a time span is worth showing, in milliseconds: at first less.
  shown(span) {
    const age = this.last ? this.last.time - this.within(span)[0].time : 0;
    return [60_000, 120_000, 300_000].find((least) => least < span && age <= least) ?? span;
  }

  /// Points of the rate per second of counters together: each over so many readings, which is calmer
  /// to look at.
  rate(names, span, over = 2) {
    const all = this.within(span), of = ({ metrics }) => [names].flat().reduce((n, name) => n + sum(metrics, name), 0);
    return all.slice(1).map((reading, n) => {
      const from = all[Math.max(0, n + 1 - over)];
      const time = (reading.time - from.time) / 1000;
      return { time: reading.time, y: time > 0 ? Math.max(0, (of(reading) - of(from)) / time) : 0 };
    });
  }

  /// The rate per second of one series of a counter, over the last readings.
  recent(of, over = 2) {
    const [newer, older] = [this.last, this.readings.at(-1 - over) ?? this.readings[0]];
    const time = (newer.time - older.time) / 1000;
    return time > 0 ? Math.max(0, (of(newer.metrics) - of(older.metrics)) / time) : 0;
  }
}

/// A counter's rate at the end of its points.
export const latest = (points) => points.at(-1)?.y;

/// Every number by the name that `/metrics` has for it, with its labels in alphabetical order.
export function flatten(metrics) {
  const flat = [];
  const name = (base, labels) => {
    const text = labels.sort().join(",");
    return text ? `${base}{${text}}` : base;
  };
  const add = (base, one) => {
    if (typeof one === "number") return flat.push([base, one]);
    const labels = Object.entries(one).filter(([, text]) => typeof text === "string").map(([key, text]) => `${key}="${text}"`);
    if ("value" in one) return flat.push([name(base, labels), one.value]);
    for (const [bound, n] of one.buckets) {
      const le = bound == null ? "+Inf" : Number.isInteger(bound) ? bound.toFixed(1) : String(bound);
      flat.push([name(`${base}_bucket`, [...labels, `le="${le}"`]), n]);
    }
    flat.push([name(`${base}_count`, labels), count(one)], [name(`${base}_sum`, labels), one.sum]);
  };
  for (const [base, metric] of Object.entries(metrics)) {
    for (const one of Array.isArray(metric) ? metric : [metric]) add(base, one);
  }
  return flat;
}
