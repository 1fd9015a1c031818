// Tables that follow the figures. A row that stays is changed in place, so that focus and
// selection survive the next second.

import { bytes, compact, exact, flatten, seconds, span, value } from "./figures.js";
import { h } from "./charts.js";

const $ = (id) => document.getElementById(id);

/// Makes a table's body show this list. `cells` gives the content of each cell: text, or an element
/// that is made once by a function and then kept.
export function rows(body, list, key, cells, empty) {
  const known = new Map([...body.children].map((row) => [row.dataset.key, row]));
  const wanted = list.map((item) => {
    const name = String(key(item));
    const row = known.get(name) || h("tr", { "data-key": name });
    cells(item).forEach((content, n) => {
      const cell = row.children[n] || row.appendChild(document.createElement("td"));
      if (typeof content === "function") {
        if (!cell.firstChild) content(cell);
        cell.refresh?.(item);
      } else if (cell.textContent !== content) cell.textContent = content;
    });
    return row;
  });
  if (!wanted.length && empty) {
    const row = known.get("") || h("tr", { "data-key": "" }, h("td", { colspan: "9", class: "soft" }, empty));
    wanted.push(row);
  }
  const same = wanted.length === body.children.length && wanted.every((row, n) => row === body.children[n]);
  if (!same) body.replaceChildren(...wanted);
}

/// A cell with a class.
export const classed = (cell, name) => { cell.className = name; return cell; };


/// A bar as long as its share.
function meter(cell) {
  classed(cell, "wide");
  const bar = h("meter", { min: "0", max: "1" }), text = h("span", { class: "n" });
  cell.append(h("div", { class: "meter" }, bar, text));
  cell.refresh = ({ share, number: n, said }) => {
    bar.value = share;
    bar.setAttribute("aria-label", said);
    text.textContent = exact(n);
  };
}

export function cores(history) {
  const { metrics } = history.last;
  const open = metrics.ringhold_core_open || [];
  const top = Math.max(1, ...open.map((one) => one.value));
  const rate = (name, core) => compact(history.recent((m) => value(m, name, { core }) ?? 0));
  const list = open.map(({ core, value: n }) => ({ core, number: n, share: n / top, said: `core ${core}: ${n} connections` }));
  const cell = (name) => (cell) => {
    classed(cell, "n");
    cell.refresh = ({ core }) => { cell.textContent = rate(name, core); };
  };
  rows($("cores-rows"), list, (one) => one.core, (one) => [
    one.core, meter, cell("ringhold_core_messages_in_total"), cell("ringhold_core_messages_out_total"), cell("ringhold_core_turns_total"),
  ], "No core answers");
}

const CODES = {
  3000: "connection closed", 3001: "shutdown", 3003: "state lost", 3004: "internal server error", 3005: "connection expired",
  3006: "subscription expired", 3008: "slow", 3009: "write error", 3010: "insufficient state", 3011: "force reconnect",
  3012: "no pong", 3013: "too many requests", 3014: "state invalidated", 3500: "invalid token", 3501: "bad request", 3502: "stale",
  3503: "force disconnect", 3504: "connection limit", 3505: "channel limit", 3506: "inappropriate protocol",
  3507: "permission denied", 3508: "not available", 3509: "too many errors", 4000: "application",
};

function reasons(body, series, label, name, empty) {
  const some = (series || []).filter((one) => one.value > 0).sort((a, b) => b.value - a.value);
  const top = some[0]?.value ?? 1;
  const list = some.map((one) => ({ name: name(one[label]), number: one.value, share: one.value / top, said: `${name(one[label])}: ${one.value}` }));
  rows(body, list, (one) => one.name, (one) => [one.name, meter], empty);
}

export function ends({ metrics }) {
  const words = (text) => text.replaceAll("_", " ");
  reasons($("closes-rows"), metrics.ringhold_closes_total, "cause", words, "None so far");
  reasons($("refusals-rows"), metrics.ringhold_refusals_total, "reason", words, "None so far");
  const code = (text) => `${text} ${CODES[text] || ""}`.trim();
  reasons($("disconnects-rows"), metrics.ringhold_gateway_disconnects_total, "code", code, "None so far");
}

export function slow({ slow, time }, disconnect) {
  $("slow-count").textContent = slow.total ? exact(slow.total) : "";
  $("slow-nav").textContent = slow.total ? `Slow (${exact(slow.total)})` : "Slow";
  const button = (cell) => {
    const act = h("button", { class: "small danger" }, "Disconnect…");
    cell.append(act);
    cell.refresh = (one) => {
      act.hidden = !one.client;
      act.onclick = () => disconnect({ user: one.user, client: one.client });
    };
  };
  const right = (text) => (cell) => {
    classed(cell, "n");
    cell.refresh = (one) => { cell.textContent = text(one); };
  };
  rows($("slow-rows"), slow.now, (one) => one.client || one.peer, (one) => [
    one.client ? one.user || "(anonymous)" : "(not connected yet)", one.client || "–", one.peer,
    right((one) => String(one.subscriptions ?? 0)), right((one) => bytes(one.queued)), right((one) => seconds(one.stalled_ms / 1000)), button,
  ], "Nobody: everyone reads what is sent");
  rows($("ended-rows"), slow.ended, (one) => `${one.client} ${one.at}`, (one) => [
    one.user || "(anonymous)", one.client, right((one) => String(one.subscriptions)), one.cause.replaceAll("_", " "),
    `${span(Math.max(0, Math.floor(time / 1000 - one.at)))} ago`,
  ], "None so far");
}

/// Every number, by its name in `/metrics`. Only while somebody has it open.
export function all({ metrics }, help) {
  if (!$("all-details").open) return;
  const q = $("all-q").value.trim().toLowerCase();
  const list = flatten(metrics).filter(([name]) => name.includes(q));
  rows($("all-rows"), list, ([name]) => name, ([name]) => [
    (cell) => {
      const base = name.replace(/\{.*|$/, "");
      const code = h("code", { title: help[base] || help[base.replace(/_(bucket|sum|count)$/, "")] || "" }, name);
      cell.append(code);
    },
    (cell) => {
      classed(cell, "n");
      cell.refresh = ([, n]) => {
        cell.dataset.value = String(n);
        cell.textContent = Number.isInteger(n) ? exact(n) : String(n);
      };
    },
  ], "No metric has such a name");
}

