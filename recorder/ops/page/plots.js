// The rates of the feeds as small moving plots: five minutes, a point each second.

const POINTS_MIN = 60; // what is shown of a recorder that has just started
const POINTS_MAX = 300;
const HEIGHT = 64;
const calm = matchMedia("(prefers-reduced-motion: reduce)");

class Plot {
  constructor(box) {
    this.box = box;
    this.values = [];
    this.drawn = 0;
    new ResizeObserver(() => this.draw(true)).observe(box);
  }

  set(values) {
    this.values = values.slice(-POINTS_MAX);
  }

  push(value) {
    this.values.push(value);
    if (this.values.length > POINTS_MAX) this.values.shift();
    // Who wants no motion gets a new picture now and then.
    if (!calm.matches || ++this.drawn % 10 === 1) this.draw(false);
  }

  get peak() {
    return Math.max(0, ...this.values);
  }

  get secs() {
    return Math.max(POINTS_MIN, this.values.length);
  }

  draw(anew) {
    const width = this.box.clientWidth;
    if (!width || typeof uPlot === "undefined") return;
    const places = Array.from({ length: this.secs }, (_, place) => place - this.secs + 1);
    const missing = Array(this.secs - this.values.length).fill(null);
    const data = [places, missing.concat(this.values)];
    if (anew && this.plot) {
      this.plot.destroy();
      this.plot = undefined;
    }
    if (this.plot) {
      this.plot.setData(data);
      return;
    }
    const style = getComputedStyle(this.box);
    this.plot = new uPlot({
      width,
      height: HEIGHT,
      padding: [3, 0, 0, 0],
      cursor: { show: false },
      legend: { show: false },
      scales: {
        x: { time: false, range: () => [1 - this.secs, 0] },
        y: { range: (_, __, max) => [0, Math.max(1, max || 0) * 1.05] },
      },
      axes: [{ show: false }, { show: false }],
      series: [{}, {
        stroke: style.getPropertyValue("--line").trim(),
        fill: style.getPropertyValue("--area").trim(),
        width: 1.5,
        points: { show: false },
      }],
    }, data, this.box);
  }
}

export class Plots {
  constructor() {
    this.of = new Map();
    this.histories = {};
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      for (const plot of this.of.values()) plot.draw(true);
    });
  }

  // What was before the page was opened; replaces what the page has seen, so that no lost connection leaves a hole.
  remember(histories) {
    this.histories = histories;
    for (const [cluster, plot] of this.of) this.recall(cluster, plot);
  }

  recall(cluster, plot) {
    const rates = this.histories[cluster];
    if (!rates) return;
    // Where nobody looks into the frames, they are what can be counted.
    plot.set(rates.events.some(Boolean) ? rates.events : rates.frames);
    plot.draw(false);
  }

  push(cluster, box, value) {
    let plot = this.of.get(cluster);
    if (!plot) {
      plot = new Plot(box);
      this.of.set(cluster, plot);
      this.recall(cluster, plot);
    }
    plot.push(value);
    return plot;
  }
}
