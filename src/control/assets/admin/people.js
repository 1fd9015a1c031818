// Channels and users: search, look, publish, disconnect.

import { call, get } from "./server.js";
import { compact, exact, span } from "./figures.js";
import { h } from "./charts.js";
import { classed, rows } from "./tables.js";

const $ = (id) => document.getElementById(id);

const whose = (user) => user || "(anonymous)";

/// A cell with a button that looks like a link.
const link = (text, act) => (cell) => {
  const button = h("button", { class: "link" });
  cell.append(button);
  cell.refresh = (one) => {
    button.textContent = text(one);
    button.onclick = () => act(one);
  };
};

const right = (text) => (cell) => {
  classed(cell, "n");
  cell.refresh = (one) => { cell.textContent = text(one); };
};

/// How often the lists are looked at anew.
const AGAIN = 5000;

function searching(what, open, word) {
  let latest = 0, page = 0, asked = "", before = null, took = 0;
  const rates = what === "channels";
  const search = async () => {
    const mine = ++latest, began = performance.now();
    const said = $(`${what}-found`);
    try {
      const { matched, pages, page_size, list } = await get(what, { q: asked, page });
      // A later search may have been answered before.
      if (mine !== latest) return;
      const now = performance.now();
      took = now - began;
      // What was published since the last look; of a channel that was not there then nothing is known.
      const rate = ({ name, published }) => {
        const known = before?.published.get(name);
        return known == null || published < known ? "–" : compact(((published - known) * 1000) / (now - before.now));
      };
      const shown = list.map((one) => ({ ...one, rate: rates ? rate(one) : "" }));
      before = { now, published: new Map(list.map((one) => [one.name, one.published])) };
      const first = page * page_size;
      said.textContent = matched > list.length ? `${exact(first + 1)} to ${exact(first + list.length)} of ${exact(matched)}` : `${exact(matched)} found`;
      if (matched && !list.length) said.textContent = `${exact(matched)} found, none on this page`;
      rows($(`${what}-rows`), shown, (one) => one.name, () => [
        link((one) => one.name || "(anonymous)", (one) => open(one)), right((one) => exact(one.count)), ...(rates ? [right((one) => one.rate)] : []),
      ], `No ${word} matches`);
      $(`${what}-previous`).hidden = page === 0;
      $(`${what}-next`).hidden = page + 1 >= pages;
      $(`${what}-page`).textContent = pages > 1 ? `page ${exact(page + 1)} of ${exact(pages)}` : "";
    } catch (error) {
      if (mine === latest) said.textContent = `Not found: ${error.message}`;
    }
  };
  const turn = (by) => {
    page = Math.max(0, page + by);
    search();
  };
  $(`${what}-previous`).addEventListener("click", () => turn(-1));
  $(`${what}-next`).addEventListener("click", () => turn(1));
  $(`${what}-form`).addEventListener("submit", (event) => {
    event.preventDefault();
    asked = $(`${what}-q`).value.trim();
    page = 0;
    search();
  });
  setInterval(() => {
    // Where it takes long, it is work for a core.
    if (took < 250 && !document.hidden && !$("page").hidden && !document.querySelector("dialog[open]")) search();
  }, AGAIN);
  return search;
}

async function openChannel({ name, count }) {
  $("channel-title").textContent = name;
  const facts = (list) => $("channel-facts").replaceChildren(...list.flatMap(([term, text]) => [h("dt", {}, term), h("dd", {}, text)]));
  facts([["Subscribers", exact(count)]]);
  $("channel-present").textContent = "…";
  $("channel-rows").replaceChildren();
  $("channel-publish").onclick = () => openPublish(name);
  $("channel").showModal();
  const [stats, presence, history] = await Promise.allSettled([
    call("presence_stats", { channel: name }), call("presence", { channel: name }), call("history", { channel: name, limit: 0 }),
  ]);
  if ($("channel-title").textContent !== name) return;
  const list = [["Subscribers", exact(count)]];
  if (stats.value) list.push(["Present", `${exact(stats.value.num_clients)} connections of ${exact(stats.value.num_users)} users`]);
  list.push(["History", history.value ? `at offset ${exact(history.value.offset)}, epoch ${history.value.epoch}` : "not kept"]);
  facts(list);
  const present = Object.values(presence.value?.presence ?? {});
  $("channel-present").textContent = presence.value ? (present.length > SHOWN ? `The first ${SHOWN} of ${exact(present.length)}` : "") : `Not told: ${presence.reason.message}`;
  rows($("channel-rows"), present.slice(0, SHOWN), (one) => one.client, (one) => [link((one) => whose(one.user), (one) => openUser({ name: one.user })), one.client], presence.value && "Nobody");
}

/// The first of some names.
function some(names, all) {
  const shown = names.slice(0, NAMED);
  return shown.join(", ") + (all > shown.length ? ` and ${exact(all - shown.length)} more` : "") || "–";
}

/// A time that is over, in Unix seconds.
const since = (unix) => (unix ? `${span(Math.max(0, Math.floor(Date.now() / 1000 - unix)))} ago` : "–");

async function openUser({ name }) {
  $("user-title").textContent = whose(name);
  $("user-said").textContent = "…";
  $("user-rows").replaceChildren();
  if (!$("user").open) $("user").showModal();
  try {
    const list = await get("user", { user: name });
    $("user-said").textContent = "";
    const act = (cell) => {
      const button = h("button", { class: "small danger" }, "Disconnect…");
      cell.append(button);
      cell.refresh = (one) => { button.onclick = () => openDisconnect({ user: name, client: one.client }); };
    };
    rows($("user-rows"), list, (one) => one.client, (one) => [
      one.client, one.address ?? "–", `${one.transport.replaceAll("_", " ")}, ${one.encoding}`, since(one.since),
      right((one) => String(one.core)), right((one) => exact(one.subscriptions)),
      some(one.channels, one.subscriptions), act,
    ], "No connection any more");
    // Connections of nobody in particular have nothing in common.
    $("user-disconnect").hidden = !list.length || !name;
    $("user-disconnect").onclick = () => openDisconnect({ user: name });
  } catch (error) {
    $("user-said").textContent = `Not told: ${error.message}`;
  }
}

/// Asks whether to close a user's connection, or all of them.
export function openDisconnect({ user, client }) {
  $("disconnect-whom").textContent = client ? `${whose(user)}, connection ${client}` : `${whose(user)}, all connections`;
  $("disconnect-error").textContent = "";
  $("disconnect-back").checked = false;
  $("disconnect-form").onsubmit = async (event) => {
    event.preventDefault();
    const disconnect = $("disconnect-back").checked ? { code: 3011, reason: "force reconnect" } : { code: 3503, reason: "force disconnect" };
    try {
      await call("disconnect", { user, ...(client && { client }), disconnect });
      $("disconnect").close();
      if ($("user").open) await openUser({ name: user });
    } catch (error) {
      $("disconnect-error").textContent = `Not done: ${error.message}`;
    }
  };
  $("disconnect").showModal();
}

function openPublish(channel) {
  $("publish-channel").value = channel;
  $("publish-said").textContent = "";
  $("publish").showModal();
  (channel ? $("publish-data") : $("publish-channel")).focus();
}

async function publish(event) {
  event.preventDefault();
  const said = $("publish-said");
  const tell = (text, isError) => {
    said.textContent = text;
    said.className = isError ? "error" : "soft";
  };
  let data;
  try {
    data = JSON.parse($("publish-data").value);
  } catch (error) {
    $("publish-data").focus();
    return tell(`No JSON: ${error.message}`, true);
  }
  try {
    const { offset } = await call("publish", { channel: $("publish-channel").value, data });
    tell(offset ? `Published, offset ${exact(offset)}` : "Published", false);
  } catch (error) {
    tell(`Not published: ${error.message}`, true);
  }
}

/// Wires the sections. Returns what shows them for the first time.
export function begin() {
  const searches = [searching("channels", openChannel, "channel"), searching("users", openUser, "user")];
  $("publish-any").addEventListener("click", () => openPublish(""));
  $("publish-form").addEventListener("submit", publish);
  for (const button of document.querySelectorAll("[data-close]")) {
    button.addEventListener("click", () => button.closest("dialog").close());
  }
  return () => searches.forEach((search) => search());
}

/// More than a person reads.
const SHOWN = 200;

/// Channels that a line has room for.
const NAMED = 6;
