// The page: log in, then read the figures once a second while somebody looks.

import { get, isLoggedIn, logIn, logOut, session } from "./server.js";
import { History, between, bytes, compact, count, exact, latest, percent, quantile, span, sum, upTo, value } from "./figures.js";
import { Bars, LineChart, Spark, h } from "./charts.js";
import * as tables from "./tables.js";
import * as people from "./people.js";

const $ = (id) => document.getElementById(id);
const INTERVAL = 1000;
const RECENT = 120_000;
/// A tile's line.
const TILE = History.FINE;
/// Without readings for so long the server's are asked for.
const GAP = 15_000;

let history = new History();
let help = {};
let timer = 0;
let running = false;
let round = 0;

const perSecond = (n) => (n == null ? "–" : compact(Math.max(0, n)));
const plural = (n, word) => (n === 1 ? word : `${word}s`);
const figure = (metrics, name) => ({ metric: name, text: metrics[name] });

// --- Tiles ---------------------------------------------------------------------------------------

class Tile {
  constructor(label) {
    this.big = h("b", {}, "–");
    this.unit = h("span", { class: "unit" });
    this.small = h("p", { class: "soft" });
    this.spark = new Spark();
    this.element = h("article", { class: "panel tile" }, h("h2", {}, label), h("p", { class: "big" }, this.big, this.unit), this.small, this.spark.svg);
  }

  /// `parts` are texts, and numbers that are told exactly, with the metric they are.
  show(big, unit, parts, points) {
    this.big.textContent = big.text ?? big;
    if (big.metric) Object.assign(this.big.dataset, { metric: big.metric, value: big.value });
    this.unit.textContent = unit;
    this.small.replaceChildren(...parts.map((part) => {
      if (typeof part === "string") return part;
      return h("span", { "data-metric": part.metric, "data-value": part.text }, exact(part.text));
    }));
    this.spark.draw(points, history.shown(TILE));
  }
}

const tiles = {
  connections: new Tile("Connections"), incoming: new Tile("Messages in"), outgoing: new Tile("Messages out"),
  publications: new Tile("Publications"), heartbeats: new Tile("Heartbeats answered"), memory: new Tile("Memory per connection"),
  processor: new Tile("Processor"), errors: new Tile("Errors and refusals"),
};

/// What is refused: before there is a connection, and of what clients ask for.
const REFUSED = ["ringhold_gateway_tokens_refused_total", "ringhold_gateway_subscriptions_refused_total", "ringhold_gateway_publications_refused_total"];
/// Answers that are errors, of clients, the server API and the backend.
const ERRORS = ["ringhold_gateway_command_errors_total", "ringhold_api_command_errors_total", "ringhold_hook_failures_total"];

function showTiles() {
  const { metrics } = history.last;
  const rate = (name) => history.rate(name, TILE);
  tiles.connections.show({ text: exact(metrics.ringhold_open), metric: "ringhold_open", value: metrics.ringhold_open }, "open",
    [figure(metrics, "ringhold_gateway_users"), plural(metrics.ringhold_gateway_users, " user"), ", ", figure(metrics, "ringhold_gateway_channels"), plural(metrics.ringhold_gateway_channels, " channel")], history.gauge("ringhold_open", TILE));
  for (const [tile, name] of [["incoming", "ringhold_messages_in_total"], ["outgoing", "ringhold_messages_out_total"], ["publications", "ringhold_gateway_publications_total"]]) {
    const points = rate(name);
    tiles[tile].show(perSecond(latest(points)), "/s", [figure(metrics, name), " in all"], points);
  }
  const answered = (m) => m.ringhold_heartbeats_answered_total;
  const asked = (m) => answered(m) + m.ringhold_heartbeats_late_total + m.ringhold_heartbeats_missed_total;
  const old = history.before(RECENT).metrics;
  const [good, all] = [answered(metrics), asked(metrics)];
  const recent = asked(metrics) - asked(old);
  const isRecent = recent > 0;
  tiles.heartbeats.show(all ? (isRecent ? percent(good - answered(old), recent) : percent(good, all)) : "–", "",
    [figure(metrics, "ringhold_heartbeats_answered_total"), " in time, ", figure(metrics, "ringhold_heartbeats_late_total"), " late, ", figure(metrics, "ringhold_heartbeats_missed_total"), " missed"],
    history.rate("ringhold_heartbeats_answered_total", TILE, 10));
  const each = value(metrics, "ringhold_resident_bytes_per_connection");
  const resident = history.gauge("ringhold_resident_bytes", TILE);
  tiles.memory.show(typeof each === "number" ? bytes(each) : "–", "", [`${bytes(metrics.ringhold_resident_bytes)} resident, all in`], resident);
  const used = history.rate("process_cpu_seconds_total", TILE, 4), cores = metrics.ringhold_core_open?.length ?? 0;
  tiles.processor.show(used.length ? compact(latest(used)) : "–", "processors", [`${span(sum(metrics, "process_cpu_seconds_total"))} in all, ${exact(cores)} ${plural(cores, "core")}`], used);
  const failing = rate([...ERRORS, ...REFUSED, "ringhold_refusals_total"]);
  const allOf = (names) => names.reduce((n, name) => n + sum(metrics, name), 0);
  tiles.errors.show(perSecond(latest(failing)), "/s", [`${exact(allOf(ERRORS))} errors, ${exact(allOf([...REFUSED, "ringhold_refusals_total"]))} refusals in all`], failing);
  document.title = `${exact(metrics.ringhold_open)} · ringhold`;
}

// --- Rates ---------------------------------------------------------------------------------------

const rates = [
  { chart: new LineChart("Messages per second", ["in", "out"]), of: ["ringhold_messages_in_total", "ringhold_messages_out_total"] },
  { chart: new LineChart("Bytes per second", ["in", "out"], bytes), of: ["ringhold_bytes_in_total", "ringhold_bytes_out_total"] },
  { chart: new LineChart("Connections per second", ["opened", "closed"]), of: ["ringhold_opened_total", "ringhold_closed_total"] },
  { chart: new LineChart("Publications per second", ["published", "delivered"]), of: ["ringhold_gateway_publications_total", "ringhold_gateway_deliveries_total"] },
  { chart: new LineChart("Errors per second", ["answers", "closes"]), of: [ERRORS, "ringhold_gateway_disconnects_total"] },
  { chart: new LineChart("Refusals per second", ["connections", "tokens and requests"]), of: ["ringhold_refusals_total", REFUSED] },
  { chart: new LineChart("Processors at work", ["all threads"]), of: ["process_cpu_seconds_total"] },
  { chart: new LineChart("Resident memory", ["resident"], bytes), gauges: ["ringhold_resident_bytes"] },
];

function showRates() {
  const wanted = Number(document.querySelector("input[name=range]:checked").value);
  const shown = history.shown(wanted);
  for (const { chart, of, gauges } of rates) {
    chart.draw(shown, gauges ? gauges.map((name) => history.gauge(name, shown)) : of.map((names) => history.rate(names, shown)));
  }
}

// --- Latency -------------------------------------------------------------------------------------

const distributions = [
  ["Round trip of heartbeats", "ringhold_rtt_seconds"],
  ["Timers fired late by", "ringhold_timer_drift_seconds"],
].map(([title, name]) => {
  const bars = new Bars(), facts = h("dl", { class: "facts" });
  const element = h("figure", { class: "panel" }, h("figcaption", {}, h("h2", {}, title), facts), bars.svg);
  return { title, name, bars, facts, element };
});

function showLatency() {
  const recent = document.querySelector("input[name=span]:checked").value === "recent";
  for (const { title, name, bars, facts } of distributions) {
    const now = history.last.metrics[name];
    const shown = recent ? between(history.before(RECENT).metrics[name], now) : now;
    const n = count(shown);
    const list = [[0.5, "p50"], [0.9, "p90"], [0.99, "p99"], [1, "most"]].map(([q, label]) => [label, n ? upTo(quantile(shown, q)) : "–"]);
    list.push(["number", exact(n)]);
    facts.replaceChildren(...list.map(([term, text]) => h("div", {}, h("dt", {}, term), h("dd", term === "number" && !recent ? { "data-metric": `${name}_count`, "data-value": n } : {}, text))));
    bars.draw(`${title}: ${list.map((pair) => pair.join(" ")).join(", ")}`, shown);
  }
}

// --- The loop ------------------------------------------------------------------------------------

function state(text, kind) {
  $("state").textContent = text;
  $("state").className = kind;
}

function show() {
  const { last } = history;
  showTiles();
  showRates();
  showLatency();
  tables.cores(history);
  tables.ends(last);
  tables.slow(last, people.openDisconnect);
  tables.all(last, help);
  $("about").textContent = `version ${last.version}, up ${span(last.uptime)}`;
  state(last.draining ? "going away" : "live", last.draining ? "warn" : "up");
  $("page").dataset.round = String(++round);
}

async function read() {
  clearTimeout(timer);
  if (!running || document.hidden) return;
  const begun = performance.now();
  try {
    const reading = await get("stats");
    if (!running || document.hidden) return;
    // Nobody looked for a while: what was meanwhile only the server knows.
    if (!history.last || reading.time - history.last.time > GAP) history.begin(await get("past"));
    if (!running || document.hidden) return;
    history.add(reading);
    show();
  } catch (error) {
    if (!running) return;
    state(`no answer: ${error.message}`, "down");
  }
  timer = setTimeout(read, Math.max(100, INTERVAL - (performance.now() - begun)));
}

document.addEventListener("visibilitychange", () => {
  if (running && document.hidden) state("paused", "");
  read();
});

const firstSearch = people.begin();

async function enter() {
  history = new History();
  $("login").hidden = true;
  $("page").hidden = false;
  running = true;
  help = await get("help").catch(() => ({}));
  firstSearch();
  await read();
}

function leave() {
  running = false;
  clearTimeout(timer);
  document.querySelectorAll("dialog[open]").forEach((dialog) => dialog.close());
  document.title = "ringhold";
  $("page").hidden = true;
  $("login").hidden = false;
  $("password").focus();
}

session.over = leave;

$("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  $("login-error").textContent = "";
  $("login-button").disabled = true;
  try {
    await logIn($("password").value);
    $("password").value = "";
    await enter();
  } catch (error) {
    $("login-error").textContent = error.message;
    $("password").select();
  } finally {
    $("login-button").disabled = false;
  }
});

$("logout").addEventListener("click", () => {
  logOut();
  leave();
});

for (const input of document.querySelectorAll("input[name=span]")) input.addEventListener("change", showLatency);
for (const input of document.querySelectorAll("input[name=range]")) input.addEventListener("change", () => history.last && showRates());
for (const event of ["toggle", "input"]) $("all-details").addEventListener(event, () => history.last && tables.all(history.last, help));

$("tiles").append(...Object.values(tiles).map((tile) => tile.element));
$("rate-charts").append(...rates.map(({ chart }) => chart.element));
$("distributions").append(...distributions.map(({ element }) => element));

if (await isLoggedIn().catch(() => false)) await enter();
else leave();
