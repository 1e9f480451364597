// Small charts as inline SVG. Colours come from the stylesheet by class, so that light and dark follow.

import { svg } from "./dom.js";

const WIDTH = 640;
const HEIGHT = 220;
const EDGE = { left: 44, right: 16, top: 18, bottom: 26 };

/** A plot area with its scales: x(value), y(value) give places. */
export function frame([low, high], [bottom, top], label, height = HEIGHT) {
  const span = high - low || 1;
  const rise = top - bottom || 1;
  return {
    height,
    low,
    high,
    x: (value) => EDGE.left + ((value - low) / span) * (WIDTH - EDGE.left - EDGE.right),
    y: (value) => height - EDGE.bottom - ((value - bottom) / rise) * (height - EDGE.top - EDGE.bottom),
    draw: (...parts) =>
      svg("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": label, class: "chart" }, parts),
  };
}

export const line = (from, to, kind) =>
  svg("line", { class: `mark ${kind}`, x1: from[0], y1: from[1], x2: to[0], y2: to[1] });

export const words = (place, text, kind = "soft", anchor = "middle") =>
  svg("text", { class: `words ${kind}`, x: place[0], y: place[1], "text-anchor": anchor }, text);

export const curve = (points, kind) =>
  svg("polyline", { class: `mark ${kind}`, points: points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ") });

export const dot = (place, kind, title, radius = 4) =>
  svg("circle", { class: `fill ${kind}`, cx: place[0], cy: place[1], r: radius }, svg("title", {}, title));

export const bar = (x, y, width, height, kind, title) =>
  svg("rect", { class: `fill ${kind}`, x, y, width: Math.max(1, width), height, rx: 1 }, svg("title", {}, title));

/** Values along the bottom, and horizontal lines with their values at the left. */
export function axes(plot, xs, ys, sayX = String, sayY = String) {
  const base = plot.height - EDGE.bottom;
  return [
    ys.map((y) => [
      line([EDGE.left, plot.y(y)], [WIDTH - EDGE.right, plot.y(y)], "grid"),
      words([EDGE.left - 6, plot.y(y) + 4], sayY(y), "soft", "end"),
    ]),
    xs.map((x) => words([plot.x(x), base + 17], sayX(x), "soft", plot.x(x) > WIDTH - 40 ? "end" : "middle")),
  ].flat(2);
}

/** Round values from `low` to `high`, about `count` of them. */
export function ticks(low, high, count = 5) {
  const rough = (high - low || 1) / count;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * unit).find((each) => each >= rough * 0.999);
  const found = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + step * 1e-9; value += step) found.push(Number(value.toPrecision(12)));
  return found;
}

/** Round values for a logarithmic axis whose ends are powers of ten `low` and `high`. */
export function logTicks(low, high) {
  const found = [];
  for (let power = Math.floor(low); power <= high; power += 1)
    for (const factor of [1, 2, 5]) {
      const value = power + Math.log10(factor);
      if (value >= low && value <= high) found.push(value);
    }
  return found.length > 1 ? found : ticks(10 ** low, 10 ** high, 3).map(Math.log10);
}
