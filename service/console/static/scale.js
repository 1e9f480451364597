// A score on a scale with both thresholds. The reject threshold lies in the middle; scores have no upper end, so the right half
// takes in all that is above.

import { el, svg } from "./dom.js";
import { text } from "./shell.js";
import { number } from "./verdict.js";

const WIDE = 400;

/** `score`, `review` and `reject` thresholds, `p` value; null where there is none. */
export function scoreScale({ score, review, reject, p, method }) {
  const unit = Math.max(Math.abs(reject), 1e-9);
  const place = (value) => {
    const over = Math.max(1 + (value - reject) / unit, 0);
    return (WIDE * over) / (over + 1);
  };
  const [from, to] = [place(review), place(reject)];
  const zones = [
    ["ok", 0, from],
    ["review", from, to],
    ["not_ok", to, WIDE],
  ].map(([verdict, left, right]) => svg("rect", { class: `zone ${verdict}`, x: left, y: 16, width: Math.max(right - left, 0), height: 12 }));
  const ticks = [
    ["review", review, from, from > to - 60 ? "end" : "middle"],
    ["reject", reject, to, from > to - 60 ? "start" : "middle"],
  ].map(([name, value, x, anchor]) =>
    svg(
      "g",
      { class: "tick" },
      svg("line", { x1: x, x2: x, y1: 13, y2: 31 }),
      svg("text", { x: anchor === "end" ? x + 2 : anchor === "start" ? x - 2 : x, y: 44, "text-anchor": anchor }, `${text(`shell.${name}_at`)} ${number(value)}`),
    ),
  );
  const drawn = svg("svg", { class: "scale", viewBox: `-4 0 ${WIDE + 8} 50`, role: "img", "aria-label": spoken(score, review, reject) }, zones, ticks);
  if (score !== null) {
    const x = place(score);
    drawn.append(svg("path", { class: "mark", d: `M${x} 17l-7 -13h14z` }), svg("line", { class: "mark", x1: x, x2: x, y1: 14, y2: 29 }));
  }
  const times = score === null || reject <= 0 ? null : number(score / reject, 2);
  return el(
    "div",
    { class: "score" },
    el(
      "p",
      { class: "row" },
      el("span", { class: "soft" }, text("shell.score")),
      el("b", { class: "score-value" }, number(score)),
      times && el("span", { class: "soft small" }, text("shell.times_threshold", { times })),
      p !== null && p !== undefined && el("span", { class: "soft small end", title: text("shell.p_value_help") }, text("shell.p_value", { p: number(p, 2) })),
    ),
    drawn,
    method === "fitted_tail" && el("p", { class: "soft small" }, text("shell.fitted_tail")),
  );
}

function spoken(score, review, reject) {
  return text("shell.score_spoken", { score: number(score), review: number(review), reject: number(reject) });
}
