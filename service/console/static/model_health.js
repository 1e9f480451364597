// Drift of accepted parts' scores, and latency against the budget.

import { call, failure } from "./api.js";
import { axes, curve, dot, frame, line, ticks, words } from "./chart.js";
import { at, el, latest, show } from "./dom.js";
import { text } from "./shell.js";
import { number } from "./verdict.js";

const SHIFT = 0.1;
const DRIFT = 0.25;
const SIGNS = { "too few": "undecidable", steady: "ok", shifting: "review", drifted: "not_ok" };

const beginDrift = latest();
const beginLatency = latest();

const none = (title, help) => el("div", { class: "empty" }, el("b", {}, title), el("p", {}, help));
const word = (said) => el("span", { class: "badge", "data-verdict": SIGNS[said] }, text(`drift_${said.replace(" ", "_")}`));

function chart(days) {
  const moved = (day) => Math.max(0, day.psi - day.psi_by_chance);
  const known = days.map((day, index) => [index, day]).filter(([, day]) => day.psi !== null);
  const top = Math.max(DRIFT * 1.4, ...known.map(([, day]) => moved(day)));
  const plot = frame([0, Math.max(1, days.length - 1)], [0, top], text("drift_chart"), 190);
  const date = (index) => new Date(days[index].end).toLocaleDateString([], { day: "numeric", month: "short" });
  const marks = days.map((_, index) => index).filter((index) => (days.length - 1 - index) % Math.ceil(days.length / 6) === 0);
  const places = known.map(([index, day]) => [plot.x(index), plot.y(moved(day))]);
  return plot.draw(
    axes(plot, marks, ticks(0, top, 4), date, (value) => value.toFixed(1)),
    [[SHIFT, "review", "drift_shifting"], [DRIFT, "reject", "drift_drifted"]].map(([value, kind, name]) => [
      line([plot.x(0), plot.y(value)], [plot.x(plot.high), plot.y(value)], kind),
      words([plot.x(0) + 4, plot.y(value) - 6], text(name), kind, "start"),
    ]).flat(),
    curve(places, "series"),
    known.map(([index, day], order) => dot(places[order], day.word === "drifted" ? "flawed" : "series", `${date(index)}: ${text(`drift_${day.word.replace(" ", "_")}`)}, ${text("parts", { count: day.count })}`)),
  );
}

export async function showDrift(model, inService) {
  const current = beginDrift();
  const target = at("drift");
  if (!inService) return show(target, none(text("none_in_service_short"), text("drift_none_help")));
  try {
    const told = await call(`/models/${encodeURIComponent(model.name)}/drift?days=14`);
    if (!current()) return undefined;
    const seen = told.days.some((day) => day.psi !== null);
    return show(target, el("div", { class: "stack" },
      el("p", { class: "row" }, word(told.last_day.word), el("span", { class: "soft small" }, text("drift_last_day", { count: told.last_day.count }))),
      seen ? chart(told.days) : none(text("drift_none"), text("drift_none_help"))));
  } catch (error) {
    return current() && show(target, failure(error, () => showDrift(model, inService)));
  }
}

export async function showLatency(model, inService) {
  const current = beginLatency();
  const target = at("latency");
  if (!inService) return show(target, none(text("none_in_service_short"), text("latency_none_help")));
  try {
    const told = await call(`/models/${encodeURIComponent(model.name)}/latency`);
    if (!current()) return undefined;
    if (!told.pictures) return show(target, none(text("latency_none"), text("latency_none_help")));
    const ms = (value) => `${number(value)} ms`;
    const over = told.over_budget > 0.01;
    return show(target, el("div", { class: "stack" },
      el("p", { class: "row" }, el("span", { class: "badge", "data-verdict": over ? "review" : "ok" }, text(over ? "latency_over" : "latency_within", { share: `${(100 * told.over_budget).toFixed(1)} %` }))),
      el("dl", { class: "facts" },
        el("dt", {}, text("latency_p50")), el("dd", {}, ms(told.p50_ms)),
        el("dt", {}, text("latency_p99")), el("dd", {}, ms(told.p99_ms)),
        el("dt", {}, text("latency_window")), el("dd", {}, text("latency_of_budget", { ms: number(told.p50_ms_per_window), budget: number(told.budget_ms_per_window) })),
        el("dt", {}, text("latency_pictures")), el("dd", {}, String(told.pictures)))));
  } catch (error) {
    return current() && show(target, failure(error, () => showLatency(model, inService)));
  }
}
