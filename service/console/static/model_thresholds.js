// Thresholds: the scores that a model gave, and what overkill and escapes would be at another threshold.

import { call, failure } from "./api.js";
import { axes, bar, dot, frame, line, ticks, words } from "./chart.js";
import { ask } from "./ask.js";
import { at, el, latest, show } from "./dom.js";
import { change } from "./models.js";
import { may, text } from "./shell.js";
import { number } from "./verdict.js";

const BINS = 28;
const HEADROOM = 1.4; // above the bars, for what was reviewed and the names of the lines

let asking = null; // the request for the threshold under the slider
let seen = null; // {name, version, active, moved}: whose thresholds are shown, and whether the slider was moved
let formInUse = null;
const beginRead = latest();

const percent = (value) => `${(100 * value).toFixed(value > 0 && value < 0.1 ? 1 : 0)} %`;

function rate(of) {
  if (of.value === null) return text("rate_unknown");
  return text("rate", { value: percent(of.value), low: percent(of.low), high: percent(of.high), count: of.count, total: of.total });
}

function chart(told, at) {
  const [low, high] = range(told);
  const counts = Array(BINS).fill(0);
  const place = (score) => Math.min(BINS - 1, Math.max(0, Math.floor(((score - low) / (high - low)) * BINS)));
  for (const score of told.calibration_scores) counts[place(score)] += 1;
  const top = Math.max(...counts, 1);
  const plot = frame([low, high], [0, top * HEADROOM], text("histogram", { count: told.calibration_scores.length, threshold: number(at) }));
  const width = (plot.x(high) - plot.x(low)) / BINS;
  const bars = counts.map((count, index) =>
    count ? bar(plot.x(low) + index * width + 0.5, plot.y(count), width - 1, plot.y(0) - plot.y(count), "calibration", text("bar", { count })) : null,
  );
  const reviewed = [
    ...told.good_scores.map((score) => [score, "good"]),
    ...told.flawed_scores.map((score) => [score, "flawed"]),
  ].map(([score, kind]) => dot([plot.x(Math.min(score, high)), plot.y(top * (kind === "good" ? 1.07 : 1.16))], kind, `${text(`reviewed_${kind}`)} ${number(score)}`, 3.5));
  const limits = [
    [told.review, "review", text("shell.review_at")],
    [told.reject, "reject", text("shell.reject_at")],
    ...(at === told.reject ? [] : [[at, "chosen", number(at)]]),
  ].map(([value, kind, name], index) => [
    line([plot.x(value), plot.y(0)], [plot.x(value), plot.y(top * HEADROOM)], kind),
    words([plot.x(value) + 4, 12 + 13 * index], name, kind, plot.x(value) > 560 ? "end" : "start"),
  ]);
  return plot.draw(axes(plot, ticks(low, high), ticks(0, top, 4).filter(Number.isInteger), number), bars, reviewed, limits.flat());
}

function range(told) {
  const calibration = told.calibration_scores;
  const offered = told.suggested ? [told.suggested.threshold] : [];
  const low = Math.min(...calibration, told.review, ...told.good_scores, ...offered);
  const above = [...told.good_scores, ...told.flawed_scores].filter((score) => score < 4 * told.reject);
  return [low, Math.max(...calibration, 1.6 * told.reject, ...above, ...offered)];
}

function verdictOn(candidate) {
  return el(
    "dl",
    { class: "facts", id: "threshold-facts", "aria-live": "polite" },
    el("dt", {}, text("at_threshold")), el("dd", {}, el("b", {}, number(candidate.threshold, 4))),
    el("dt", {}, text("overkill_calibration")), el("dd", {}, rate(candidate.calibration_overkill)),
    el("dt", {}, text("overkill_reviewed")), el("dd", {}, rate(candidate.overkill)),
    el("dt", {}, text("escape_reviewed")), el("dd", {}, rate(candidate.escape)),
  );
}

/** Show a model's thresholds; gives the form in which it answers. What a person looks at stays when the model changes meanwhile; who
 * has touched nothing follows the version in service. */
export async function showThresholds(model) {
  const chosen = at("threshold-version");
  if (!model.versions.length) {
    // nothing of it can be read: what is shown must not be another model's
    beginRead();
    asking?.abort();
    seen = null;
    formInUse = null;
    for (const id of ["thresholds", "threshold-version", "threshold-form"]) show(at(id));
    return null;
  }
  // the version in service may be one that is refused since
  const active = (model.versions.find((each) => each.version === model.active_version) ?? model.versions.at(-1)).version;
  const there = seen?.name === model.name && model.versions.some((each) => each.version === seen.version);
  const stays = there && (seen.active === active || seen.moved || seen.version !== seen.active);
  const version = stays ? seen.version : active;
  show(chosen, model.versions.map((each) => el("option", { value: each.version, selected: each.version === version }, each.version)));
  chosen.onchange = () => read(model, active, Number(chosen.value));
  if (stays) seen.active = active;
  else formInUse = await read(model, active, version);
  return formInUse;
}

/** Show one version's thresholds, in `form` or in the one that answers; gives that form, null when it could not be read. */
async function read(model, active, version, form) {
  const current = beginRead();
  asking?.abort();
  const target = at("thresholds");
  const address = (query) => `/models/${encodeURIComponent(model.name)}/thresholds?${new URLSearchParams({ version, ...query })}`;
  let told;
  try {
    told = await call(address(form ? { form } : {}));
  } catch (error) {
    if (current()) show(target, failure(error, () => read(model, active, version, form)));
    return null;
  }
  if (!current()) return told.form; // another version was chosen meanwhile
  seen = { name: model.name, version, active, moved: false };
  const forms = at("threshold-form");
  show(forms, told.forms.map((each) => el("option", { value: each, selected: each === told.form }, each)));
  forms.onchange = () => read(model, active, version, forms.value);

  const [low, high] = range(told);
  const slider = el("input", { type: "range", id: "threshold", min: low, max: high, step: "any", "aria-label": text("slider") });
  const picture = el("div");
  const facts = el("div");
  const save = may("admin") && el("button", { type: "button", class: "button primary", disabled: true, onclick: () => write(model, told, Number(slider.value), save) }, text("write_version"));
  const draw = (candidate) => {
    show(picture, chart(told, candidate.threshold));
    show(facts, verdictOn(candidate));
    slider.setAttribute("aria-valuetext", number(candidate.threshold, 4));
  };
  slider.value = told.reject;
  draw(told.present);
  slider.addEventListener("input", async () => {
    asking?.abort();
    asking = new AbortController();
    seen.moved = true;
    if (save) save.disabled = false;
    show(picture, chart(told, Number(slider.value)));
    try {
      draw((await call(address({ form: told.form, at: slider.value }), { signal: asking.signal })).at);
    } catch (error) {
      if (error.name !== "AbortError") show(facts, failure(error));
    }
  });
  const suggested = told.suggested && el(
    "button",
    { type: "button", class: "button", onclick: () => { slider.value = told.suggested.threshold; slider.dispatchEvent(new Event("input")); } },
    text("suggested", { threshold: number(told.suggested.threshold) }),
  );
  show(
    target,
    el(
      "div",
      { class: "stack" },
      picture,
      slider,
      el("p", { class: "legend small soft" },
        [["calibration"], ["good", told.good_scores.length], ["flawed", told.flawed_scores.length]].map(([kind, count]) =>
          el("span", {}, el("span", { class: `key ${kind}` }), text(`legend_${kind}`, { count })))),
      facts,
      told.method === "fitted_tail" && el("p", { class: "notice" }, text("shell.fitted_tail")),
      told.cautions.length > 0 && el("ul", { class: "small soft cautions" }, told.cautions.map((caution) => el("li", {}, caution))),
      el("div", { class: "row" }, save, suggested),
    ),
  );
  return told.form;
}

async function write(model, told, reject, button) {
  const words = text("write_text", { version: told.version, threshold: number(reject, 4) });
  if (!(await ask(text("write_version"), words, text("write_version")))) return;
  const order = { version: told.version, form: told.form, reject };
  const work = () => call(`/models/${encodeURIComponent(model.name)}/thresholds`, { method: "POST", json: order });
  if (await change(work, text("written"), button)) button.disabled = true; // until another threshold is tried
}
