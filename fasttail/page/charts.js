// Curves over the last ten minutes.

import { clock, make } from "./format.js";

const SECONDS = 600;
const HEIGHT = 150;

export class Chart {
  // names: of the series. show(value): as text
  constructor(parent, title, names, show) {
    this.names = names;
    this.show = show;
    this.data = [[], ...names.map(() => [])];
    this.labels = names.map((name, i) => make("span", `series-${i + 1}`, name));
    this.box = make("div");
    this.box.setAttribute("role", "img");
    this.title = title;
    parent.append(make("figure", "", make("figcaption", "", make("strong", "", title), ...this.labels), this.box));
    this.draw();
    new ResizeObserver(() => this.plot.setSize({ width: this.width(), height: HEIGHT })).observe(this.box);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  width() {
    return Math.max(this.box.clientWidth, 100);
  }

  draw() {
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name).trim();
    const axis = { stroke: color("--faint"), grid: { stroke: color("--line"), width: 1 }, ticks: { show: false } };
    this.plot?.destroy();
    this.plot = new uPlot({
      width: this.width(), height: HEIGHT, legend: { show: false }, cursor: { show: false },
      scales: { y: { range: (_, low, high) => [Math.min(0, low ?? 0), (high || 1) * 1.05] } },
      axes: [{ ...axis, space: 80, size: 28, values: (_, ticks) => ticks.map((tick) => clock(tick * 1000).slice(0, 8)) }, { ...axis, size: 74, values: (_, ticks) => ticks.map((tick) => this.show(tick)) }],
      series: [{}, ...this.names.map((label, i) => ({ label, stroke: color(`--${i + 1}`), width: 1.5, points: { show: false } }))],
    }, this.data, this.box);
  }

  // values: null where the figures are missing, which leaves a gap
  add(time, values) {
    if (time / 1000 <= this.data[0].at(-1)) for (const series of this.data) series.length = 0; // a clock was set back
    this.data[0].push(time / 1000);
    values.forEach((value, i) => this.data[i + 1].push(value ?? null));
    while (this.data[0][0] < time / 1000 - SECONDS) for (const series of this.data) series.shift();
    this.plot.setData(this.data);
    const now = values.map((value, i) => `${this.names[i]} ${value == null ? "unknown" : this.show(value)}`);
    this.labels.forEach((label, i) => { label.textContent = now[i]; });
    this.box.setAttribute("aria-label", `${this.title}: now ${now.join(", ")}`);
  }
}
