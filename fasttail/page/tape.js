// The tape of orders and trades: the last events that pass the filters, newest first.

import { clock, compact, exact, make } from "./format.js";

const ROWS = 60, KEPT = 3000;

export class Tape {
  constructor() {
    this.events = []; // newest last
    this.leftOut = 0;
    const body = document.getElementById("tape");
    this.rows = Array.from({ length: ROWS }, () => {
      const cells = Array.from({ length: 7 }, (_, i) => make("td", i > 3 ? "number" : ""));
      const row = make("tr", "", ...cells);
      row.hidden = true;
      body.append(row);
      return { row, cells };
    });
    this.filters = Object.fromEntries(["kind", "coins", "side", "notional"].map(
      (name) => [name, document.getElementById(`filter-${name}`)]));
    this.pause = document.getElementById("pause");
    this.pause.addEventListener("click", () => {
      this.pause.setAttribute("aria-pressed", String(this.pause.getAttribute("aria-pressed") === "false"));
      this.render();
    });
    const form = document.getElementById("filters");
    form.addEventListener("input", () => this.render());
    form.addEventListener("submit", (event) => event.preventDefault());
  }

  add({ events, leftOut }) {
    for (const event of events) this.events.push({ ...event, notional: event.px * event.sz });
    this.events.splice(0, this.events.length - KEPT);
    this.leftOut += leftOut;
    if (this.pause.getAttribute("aria-pressed") === "false") this.render();
  }

  render() {
    const { kind, side } = this.filters;
    const coins = this.filters.coins.value.toLowerCase().split(/[\s,]+/).filter(Boolean);
    const least = Number(this.filters.notional.value) || 0;
    const shown = [];
    for (let i = this.events.length - 1; i >= 0 && shown.length < ROWS; i--) {
      const event = this.events[i];
      if ((!kind.value || event.kind === kind.value) && (!side.value || event.side === side.value)
        && (!coins.length || coins.includes(event.coin.toLowerCase())) && event.notional >= least) shown.push(event);
    }
    this.rows.forEach(({ row, cells }, i) => {
      const event = shown[i];
      row.hidden = !event;
      if (!event) return;
      const texts = [clock(event.time), event.status ?? "trade", event.coin, event.side === "B" ? "buy" : "sell",
        event.px, event.sz, compact(event.notional)];
      texts.forEach((text, k) => { if (cells[k].textContent !== text) cells[k].textContent = text; });
      cells[3].className = event.side === "B" ? "buy" : "sell";
    });
    document.getElementById("no-event").hidden = shown.length > 0;
    document.getElementById("left-out").textContent = `${exact(this.leftOut)} others were left out.`;
  }
}
