// Models: which versions there are, which one answers, and what a person weighs before changing that.

import { call, failure } from "./api.js";
import { ask } from "./ask.js";
import { at, el, latest, show } from "./dom.js";
import { subscribe } from "./events.js";
import { showCheck } from "./model_check.js";
import { showDrift, showLatency } from "./model_health.js";
import { showShadow } from "./model_shadow.js";
import { showThresholds } from "./model_thresholds.js";
import { may, text, toast } from "./shell.js";
import { number, when } from "./verdict.js";

const NUMERIC = new Set(["version", "separation"]);
const USES = ["train", "validation", "calibration"]; // of a training's pictures

let model = null; // as GET /models/{name} told it
const beginOpen = latest();

/** Do something to the model, say how it went, and show the model anew; gives whether it was done. Meanwhile `button`, if any, can't
 * be pressed again. */
export async function change(work, done, button = null) {
  if (button) button.disabled = true;
  try {
    await work();
  } catch (error) {
    show(at("trouble"), failure(error));
    return false;
  } finally {
    if (button) button.disabled = false;
  }
  toast(done);
  show(at("trouble"));
  await openOrSay(model.name);
  return true;
}

async function activate(version, button) {
  const words = text("activate_text", { name: model.name, version, active: model.active_version ?? "–" });
  if (!(await ask(text("activate_title", { version }), words, text("activate")))) return;
  await change(
    () => call(`/models/${model.name}/activate`, { method: "POST", json: { version } }),
    text("activated", { name: model.name, version }),
    button,
  );
}

async function rollBack() {
  const version = model.previous_version;
  const words = text("activate_text", { name: model.name, version, active: model.active_version });
  if (!(await ask(text("rollback", { version }), words, text("rollback", { version })))) return;
  await change(() => call(`/models/${model.name}/rollback`, { method: "POST" }), text("activated", { name: model.name, version }), at("rollback"));
}

async function startShadow(version, button) {
  await change(
    () => call(`/models/${model.name}/shadow`, { method: "POST", json: { version } }),
    text("shadow_started", { version }),
    button,
  );
}

/** What a version was trained on, what each share of the pictures was for, and how; a line each, of those that are known. */
function learnedFrom({ data, metrics, teacher, training, report }) {
  const counts = USES.map((use) => [use, data.images?.[use]]).filter(([, count]) => count);
  const steps = training.steps_done ?? training.steps;
  const how = [text("teacher", { name: teacher }), steps && text("steps", { count: steps.toLocaleString() })];
  return [
    counts.length > 0 && el("p", {}, text("pictures", { count: counts.reduce((sum, [, count]) => sum + count, 0).toLocaleString() })),
    counts.length > 0 && el("p", { class: "soft small" }, counts.map(([use, count]) => text(`use_${use}`, { count: count.toLocaleString() })).join(", ")),
    el("p", { class: "soft small" }, how.filter(Boolean).join(", ")),
    metrics.recalibrated_from && el("p", { class: "small" }, text("recalibrated_from", { version: metrics.recalibrated_from })),
    report && el("p", { class: "small" }, el("a", { href: report, target: "_blank", rel: "noopener" }, text("report"))),
  ];
}

// what training noticed about its pictures, and the part that the threshold stands on if it stands on one
function notesOf({ data }) {
  const notes = data.notes ?? [];
  if (!notes.length) return null;
  return el("details", {}, el("summary", {}, text("training_notes", { count: notes.length })), el("ul", {}, notes.map((note) => el("li", {}, note))));
}

function row(version, formInUse) {
  const form = version.forms.includes(formInUse) ? formInUse : "float32";
  const limit = version.thresholds[form];
  const separation = version.metrics.painted_flaw_separation;
  const cell = (head, ...children) => el("td", { class: NUMERIC.has(head) ? "number" : null, "data-head": text(`head_${head}`) }, ...children);
  return el(
    "tr",
    {},
    cell("version", version.version),
    cell("state", version.active ? el("span", { class: "badge", "data-verdict": "ok" }, text("in_service")) : el("span", { class: "soft" }, text("waiting"))),
    cell("created", when(version.created_at)),
    cell("learned_from", el("div", { class: "learned" }, learnedFrom(version), notesOf(version))),
    cell("resolution", text("px", { size: version.working_resolution.replace("_", " ") })),
    cell("separation", el("span", { title: text("separation_help") }, separation === undefined ? "–" : separation.toFixed(3))),
    cell("threshold", text("in_form", { threshold: number(limit.reject), form, method: text(`method_${limit.method}`) })),
    cell(
      "act",
      !version.active && may("admin") && el(
        "span",
        { class: "row" },
        el("button", { type: "button", class: "button", onclick: (event) => activate(version.version, event.currentTarget) }, text("activate")),
        model.active_version !== null && el("button", { type: "button", class: "button", onclick: (event) => startShadow(version.version, event.currentTarget) }, text("shadow_start")),
      ),
    ),
  );
}

function showVersions(formInUse) {
  const heads = ["version", "state", "created", "learned_from", "resolution", "separation", "threshold", "act"];
  const refused = Object.entries(model.refused).map(([version, why]) =>
    el("div", { class: "failure" }, el("b", {}, text("refused", { version })), el("p", {}, why)),
  );
  show(
    at("versions"),
    model.active_version === null && el("p", { class: "notice" }, text("none_in_service")),
    el(
      "div",
      { class: "table-holder", tabindex: "0" },
      el(
        "table",
        { class: "table stacked" },
        el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col", class: NUMERIC.has(head) ? "number" : null }, text(`head_${head}`))))),
        el("tbody", {}, [...model.versions].reverse().map((version) => row(version, formInUse))),
      ),
    ),
    refused,
  );
  const button = at("rollback");
  button.hidden = model.previous_version === null || !may("admin");
  button.textContent = text("rollback", { version: model.previous_version });
}

async function open(name) {
  const current = beginOpen();
  const told = await call(`/models/${encodeURIComponent(name)}`);
  if (!current()) return; // another one was chosen, or it has changed again
  model = told;
  history.replaceState(null, "", `?model=${encodeURIComponent(name)}`);
  at("shown").hidden = false;
  const active = told.versions.some((each) => each.active);
  const rest = [showCheck(told, active), showShadow(told), showDrift(told, active), showLatency(told, active)];
  const formInUse = await showThresholds(told);
  if (current()) showVersions(formInUse);
  await Promise.all(rest);
}

async function begin() {
  show(at("trouble"));
  try {
    const { models } = await call("/models");
    at("empty").hidden = models.length > 0;
    if (!models.length) return;
    const asked = new URLSearchParams(location.search).get("model");
    const chosen = models.find((each) => each.name === asked) ?? models.find((each) => each.default) ?? models[0];
    show(at("model"), models.map((each) => el("option", { value: each.name, selected: each === chosen }, each.name)));
    at("choice").hidden = false;
    await open(chosen.name);
  } catch (error) {
    show(at("trouble"), failure(error, begin));
  }
}

const openOrSay = (name) => open(name).catch((error) => show(at("trouble"), failure(error, begin)));
at("model").addEventListener("change", (event) => openOrSay(event.target.value));
at("rollback").addEventListener("click", rollBack);
subscribe({ model: (told) => told.name === model?.name && openOrSay(model.name), missed: () => model && openOrSay(model.name) });
begin();
