// How verdicts, scores and times are shown everywhere.

import { el } from "./dom.js";
import { text } from "./shell.js";

const SIGNS = { ok: "✓", review: "?", not_ok: "✕", undecidable: "–" };

/** A verdict as a badge: sign, word and colour, so that colour is never alone. */
export function badge(verdict) {
  return el(
    "span",
    { class: "badge", "data-verdict": verdict },
    el("span", { "aria-hidden": "true" }, SIGNS[verdict] ?? ""),
    text(`verdicts.${verdict}`),
  );
}

/** A number with three significant digits; a dash for none. */
export function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString() : String(Number(value.toPrecision(digits)));
}

/** Whether a time is of today, where the browser is. */
export const isToday = (moment) => moment.toDateString() === new Date().toDateString();

/** A time as <time>: of today only the clock, else with the date, in the browser's own manner. */
export function when(iso) {
  const moment = new Date(iso);
  const clock = { hour: "2-digit", minute: "2-digit", second: "2-digit" };
  const shown = isToday(moment)
    ? moment.toLocaleTimeString([], clock)
    : moment.toLocaleString([], { ...clock, day: "2-digit", month: "2-digit", year: "numeric" });
  return el("time", { datetime: iso, title: moment.toLocaleString() }, shown);
}
