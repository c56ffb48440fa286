// The page: what a summary says goes to the overview and the flow, the tape's events to the tape.

import { Chart } from "./charts.js";
import { Connection } from "./connection.js";
import { clock, compact, exact, fill, make, megabytes, none, seconds } from "./format.js";
import { Tape } from "./tape.js";

const SILENT_S = 5; // after which the page says that the node writes nothing
const COINS = 20;
const STATUSES = ["open", "filled", "canceled", "rejected", "triggered", "other"];

const byId = (id) => document.getElementById(id);
const rate = (value) => `${compact(value)}/s`;
const ms = (value) => seconds(value / 1000);

const overview = byId("charts"), flowCharts = byId("flow-charts");
const charts = {
  events: new Chart(overview, "Events", ["orders", "trades"], rate),
  bytes: new Chart(overview, "Read", ["bytes"], (value) => `${megabytes(value)}/s`),
  lag: new Chart(overview, "Lag", ["node", "fasttail"], ms),
  memory: new Chart(overview, "Memory", ["resident"], megabytes),
  statuses: new Chart(flowCharts, "Orders by status", STATUSES, rate),
  notional: new Chart(flowCharts, "Traded, USD", ["notional"], rate),
};
const tape = new Tape();
let before = null; // the last summary, while it is connected
let sortedBy = "orders";

function groupOf(status) {
  const lower = status.toLowerCase();
  if (STATUSES.includes(status)) return status;
  if (lower.endsWith("rejected")) return "rejected";
  return /cancel(l?ed)?$/.test(lower) ? "canceled" : "other";
}

function total(summary, name) {
  return Object.values(summary.streams).reduce((sum, stream) => sum + (stream[name] ?? 0), 0);
}

// Whole milliseconds: 0 says less than one.
const lag = (value) => (value == null ? none : value < 1 ? "< 1 ms" : ms(value));

function lags({ lagMs, deliveryLagMs }) {
  return [lagMs == null ? null : Math.max(0, lagMs - (deliveryLagMs ?? 0)), deliveryLagMs];
}

// The state is announced to screen readers, so it has no figures that change; the list has them.
function setHealth(problems, notes) {
  const state = byId("health-state");
  const text = problems.length ? `Attention: ${problems.map(([kind]) => kind).join(", ")}.` : "All is well.";
  if (state.textContent !== text) state.textContent = text;
  state.className = problems.length ? "bad" : "good";
  fill(byId("health"), ...problems.map(([, words]) => make("li", "bad", words)), ...notes.map((words) => make("li", "", words)));
}

function showHealth(summary) {
  const { health, clients } = summary, [node] = lags(health);
  const problems = [], notes = [];
  if (health.status !== "ok") problems.push(["not healthy", `Not healthy: ${health.reason}.`]);
  else if (health.reason) notes.push(`Waiting: ${health.reason}.`);
  if (health.status === "ok" && health.data_age_s > SILENT_S) {
    problems.push(["the node is silent", `The node has written nothing for ${seconds(health.data_age_s)}.`]);
  }
  if (node > SILENT_S * 1000) problems.push(["the node lags", `The node is ${ms(node)} behind the exchange.`]);
  for (const [name, { reason }] of Object.entries(health.streams)) {
    if (reason) problems.push([`${name} cannot be read`, `${name}: ${reason}.`]);
  }
  for (const [name, { nats, reason }] of Object.entries(health.nats ?? {})) {
    if (reason) problems.push([`NATS, ${name}: ${nats}`, `NATS, ${name}: ${reason}.`]);
  }
  if (health.memory.growing) problems.push(["memory grows", "Memory grows steadily."]);
  if (clients.replays) notes.push(`${clients.replays} subscriptions catch up, the furthest by ${megabytes(clients.bytesBehind)}.`);
  setHealth(problems, notes);
}

function showTiles(summary, rates) {
  const { health, clients } = summary, { memory } = health, [node, own] = lags(health);
  const slope = memory.slope_bytes_per_second;
  const tiles = {
    "orders": rates && rate(rates.orders), "trades": rates && rate(rates.trades), "lines": rates && rate(rates.lines),
    "read": rates && `${megabytes(rates.bytes)}/s`, "node’s lag": lag(node), "fasttail’s lag": lag(own), "block": exact(health.height), "age of data": seconds(health.data_age_s),
    "memory": megabytes(memory.rss_bytes), "memory’s trend": slope == null ? none : `${megabytes(slope * 3600)}/h`,
    "memory’s limit": memory.limit_bytes == null ? "none" : megabytes(memory.limit_bytes),
    "clients": exact(clients.connections), "subscriptions": exact(clients.subscriptions),
    "queued": megabytes(clients.queuedBytes), "replays": exact(clients.replays), "restarts": exact(summary.restarts),
    "orders in all": exact(summary.streams.orders.orders), "trades in all": exact(total(summary, "trades")),
  };
  const box = byId("tiles");
  if (!box.children.length) {
    for (const name of Object.keys(tiles)) box.append(make("div", "", make("dt", "", name), make("dd")));
  }
  Object.values(tiles).forEach((text, i) => { box.children[i].lastChild.textContent = text ?? none; });
}

function showStreams(summary) {
  fill(byId("streams"), ...Object.entries(summary.streams).map(([name, stream]) => {
    const state = summary.health.streams[name];
    const texts = [name, state.reading, exact(state.height), stream.hour ?? none];
    const numbers = [exact(stream.offset), seconds(state.data_age_s), exact(stream.lines), exact(stream.rejected)];
    return make("tr", "", ...texts.map((text) => make("td", "", text)), ...numbers.map((text) => make("td", "number", text)));
  }));
}

function showAlerts(alerts) {
  byId("alerts-box").hidden = !alerts.length;
  fill(byId("alerts"), ...alerts.toReversed().map(({ time, kind, text, action }) => make("li", "", `${time} ${kind}, ${action}: ${text}`)));
}

function showCoins(coins) {
  const top = coins.toSorted((a, b) => b[sortedBy] - a[sortedBy]).slice(0, COINS);
  fill(byId("coins"), ...top.map((each) => make("tr", "", make("td", "", each.coin),
    ...["orders", "trades", "notional"].map((name) => make("td", "number", exact(each[name]))))));
}

function onSummary(summary) {
  const { flow, time } = summary;
  let rates = null;
  if (before && time > before.time && summary.streams.orders.lines >= before.streams.orders.lines) {
    const elapsed = (time - before.time) / 1000;
    const per = (name) => (total(summary, name) - total(before, name)) / elapsed;
    rates = { lines: per("lines"), bytes: per("bytes"), trades: per("trades"),
      orders: (summary.streams.orders.orders - before.streams.orders.orders) / elapsed };
  }
  const groups = Object.fromEntries(STATUSES.map((name) => [name, 0]));
  for (const [status, count] of Object.entries(flow.statuses)) groups[groupOf(status)] += count / flow.seconds;
  charts.events.add(time, [rates?.orders, rates?.trades]);
  charts.bytes.add(time, [rates?.bytes]);
  charts.lag.add(time, lags(summary.health));
  charts.memory.add(time, [summary.health.memory.rss_bytes]);
  charts.statuses.add(time, STATUSES.map((name) => groups[name]));
  charts.notional.add(time, [flow.notional / flow.seconds]);
  before = summary;
  showHealth(summary);
  showTiles(summary, rates);
  showStreams(summary);
  showAlerts(summary.alerts);
  showCoins(flow.coins);
  byId("version").textContent = `${summary.version} ${summary.commit.slice(0, 9)}`;
}

function onLost() {
  if (!before) return;
  const at = clock(before.time).slice(0, 8);
  setHealth([["not connected", `The figures below are of ${at} UTC.`]], []);
  for (const chart of Object.values(charts)) chart.add(before.time + 1, chart.names.map(() => null));
  before = null;
}

for (const button of document.querySelectorAll("[data-sort]")) {
  button.setAttribute("aria-pressed", String(button.dataset.sort === sortedBy));
  button.addEventListener("click", () => {
    sortedBy = button.dataset.sort;
    for (const other of document.querySelectorAll("[data-sort]")) other.setAttribute("aria-pressed", String(other === button));
    if (before) showCoins(before.flow.coins);
  });
}

const connection = new Connection(["summary", "tape"], {
  onMessage(channel, data) {
    if (channel === "summary") onSummary(data);
    else if (channel === "tape") tape.add(data);
  },
  onState(text, connected) {
    if (byId("connection").textContent !== text) byId("connection").textContent = text;
    if (connected) {
      byId("live").hidden = false;
      byId("token-form").hidden = true;
    } else {
      onLost();
    }
  },
  onToken(reason) {
    byId("connection").textContent = "Not connected";
    byId("live").hidden = true;
    byId("token-form").hidden = false;
    byId("token-error").textContent = reason;
    byId("token").focus();
  },
});
byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  connection.setToken(byId("token").value);
});
connection.connect();
