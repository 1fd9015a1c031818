// The page: log in, then read the figures once a second while somebody looks.

import { get, isLoggedIn, logIn, logOut, session } from "./server.js";
import { History, between, bytes, compact, count, exact, latest, percent, quantile, span, upTo, value } from "./figures.js";
import { Bars, LineChart, Spark, h } from "./charts.js";
import * as tables from "./tables.js";
import * as people from "./people.js";

const $ = (id) => document.getElementById(id);
const INTERVAL = 1000;
const RECENT = 120_000;

let history = new History();
let help = {};
let timer = 0;
let running = false;
let round = 0;

const total = (name) => (metrics) => metrics[name];
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
    this.spark.draw(points, history.span);
  }
}

const tiles = {
  connections: new Tile("Connections"), incoming: new Tile("Messages in"), outgoing: new Tile("Messages out"),
  publications: new Tile("Publications"), heartbeats: new Tile("Heartbeats answered"), memory: new Tile("Memory per connection"),
};

function showTiles() {
  const { metrics } = history.last;
  const rate = (name) => history.rate(total(name));
  tiles.connections.show({ text: exact(metrics.ringhold_open), metric: "ringhold_open", value: metrics.ringhold_open }, "open",
    [figure(metrics, "ringhold_gateway_users"), plural(metrics.ringhold_gateway_users, " user"), ", ", figure(metrics, "ringhold_gateway_channels"), plural(metrics.ringhold_gateway_channels, " channel")], history.gauge(total("ringhold_open")));
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
    history.rate(answered, 10));
  const each = value(metrics, "ringhold_resident_bytes_per_connection");
  const resident = history.gauge(total("ringhold_resident_bytes"));
  tiles.memory.show(typeof each === "number" ? bytes(each) : "–", "", [`${bytes(metrics.ringhold_resident_bytes)} resident, all in`], resident);
  document.title = `${exact(metrics.ringhold_open)} · ringhold`;
}

// --- Rates ---------------------------------------------------------------------------------------

const rates = [
  { chart: new LineChart("Messages per second", ["in", "out"]), of: ["ringhold_messages_in_total", "ringhold_messages_out_total"] },
  { chart: new LineChart("Bytes per second", ["in", "out"], bytes), of: ["ringhold_bytes_in_total", "ringhold_bytes_out_total"] },
  { chart: new LineChart("Connections per second", ["opened", "closed"]), of: ["ringhold_opened_total", "ringhold_closed_total"] },
  { chart: new LineChart("Publications per second", ["published", "delivered"]), of: ["ringhold_gateway_publications_total", "ringhold_gateway_deliveries_total"] },
];

const showRates = () => {
  for (const { chart, of } of rates) chart.draw(history.span, of.map((name) => history.rate(total(name))));
};

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
    const list = [[0.5, "half"], [0.9, "90 %"], [0.99, "99 %"], [1, "all"]].map(([q, label]) => [label, n ? upTo(quantile(shown, q)) : "–"]);
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
for (const event of ["toggle", "input"]) $("all-details").addEventListener(event, () => history.last && tables.all(history.last, help));

$("tiles").append(...Object.values(tiles).map((tile) => tile.element));
$("rates").append(...rates.map(({ chart }) => chart.element));
$("distributions").append(...distributions.map(({ element }) => element));

if (await isLoggedIn().catch(() => false)) await enter();
else leave();
