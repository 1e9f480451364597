// Models: which versions there are, which one answers, and what a person weighs before changing that.

import { call, failure } from "./api.js";
import { at, el, show } from "./dom.js";
import { subscribe } from "./events.js";
import { showCheck } from "./model_check.js";
import { showDrift, showLatency } from "./model_health.js";
import { showShadow } from "./model_shadow.js";
import { showThresholds } from "./model_thresholds.js";
import { may, text, toast } from "./shell.js";
import { number, when } from "./verdict.js";

let model = null; // as GET /models/{name} told it

/** Ask before something that others feel. Resolves to whether it was confirmed. */
export function ask(title, words, yes) {
  const dialog = at("ask");
  at("ask-title").textContent = title;
  at("ask-text").textContent = words;
  at("ask-yes").textContent = yes;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}

/** Do something to the model, say how it went, and show the model anew. */
export async function change(work, done) {
  try {
    await work();
    toast(done);
  } catch (error) {
    show(at("trouble"), failure(error));
    return;
  }
  show(at("trouble"));
  await open(model.name);
}

async function activate(version) {
  const words = text("activate_text", { name: model.name, version, active: model.active_version ?? "–" });
  if (!(await ask(text("activate_title", { version }), words, text("activate")))) return;
  await change(
    () => call(`/models/${model.name}/activate`, { method: "POST", json: { version } }),
    text("activated", { name: model.name, version }),
  );
}

async function rollBack() {
  const version = model.previous_version;
  const words = text("activate_text", { name: model.name, version, active: model.active_version });
  if (!(await ask(text("rollback", { version }), words, text("rollback", { version })))) return;
  await change(() => call(`/models/${model.name}/rollback`, { method: "POST" }), text("activated", { name: model.name, version }));
}

async function startShadow(version) {
  await change(
    () => call(`/models/${model.name}/shadow`, { method: "POST", json: { version } }),
    text("shadow_started", { version }),
  );
}

function learnedFrom({ data, metrics }) {
  const counts = data.images ? Object.values(data.images).reduce((sum, count) => sum + count, 0) : null;
  const lines = [counts === null ? null : text("pictures", { count: counts })];
  if (metrics.recalibrated_from) lines.push(text("recalibrated_from", { version: metrics.recalibrated_from }));
  return lines.filter(Boolean).join(" · ") || "–";
}

function row(version) {
  const form = version.forms.includes("int8") ? "int8" : "float32";
  const limit = version.thresholds[form];
  const separation = version.metrics.painted_flaw_separation;
  return el(
    "tr",
    {},
    el("td", { class: "number" }, version.version),
    el("td", {}, version.active ? el("span", { class: "badge", "data-verdict": "ok" }, text("in_service")) : el("span", { class: "soft" }, text("waiting"))),
    el("td", {}, when(version.created_at)),
    el("td", {}, learnedFrom(version)),
    el("td", {}, text("px", { size: version.working_resolution.replace("_", " ") })),
    el("td", { class: "number" }, separation === undefined ? "–" : separation.toFixed(3)),
    el("td", {}, `${number(limit.reject)} (${text(`method_${limit.method}`)})`),
    el(
      "td",
      {},
      !version.active && may("admin") && el(
        "span",
        { class: "row" },
        el("button", { type: "button", class: "button", onclick: () => activate(version.version) }, text("activate")),
        model.active_version !== null && el("button", { type: "button", class: "button quiet", onclick: () => startShadow(version.version) }, text("shadow_start")),
      ),
    ),
  );
}

function showVersions() {
  const heads = ["version", "state", "created", "learned_from", "resolution", "separation", "threshold", "act"];
  const numeric = new Set(["version", "separation"]);
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
        { class: "table" },
        el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col", class: numeric.has(head) ? "number" : null }, text(`head_${head}`))))),
        el("tbody", {}, [...model.versions].reverse().map(row)),
      ),
    ),
    refused,
  );
  const button = at("rollback");
  button.hidden = model.previous_version === null || !may("admin");
  button.textContent = text("rollback", { version: model.previous_version });
}

async function open(name) {
  model = await call(`/models/${encodeURIComponent(name)}`);
  history.replaceState(null, "", `?model=${encodeURIComponent(name)}`);
  at("shown").hidden = false;
  showVersions();
  const active = model.versions.some((each) => each.active);
  await Promise.all([showThresholds(model), showCheck(model, active), showShadow(model), showDrift(model, active), showLatency(model, active)]);
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

at("model").addEventListener("change", (event) => open(event.target.value).catch((error) => show(at("trouble"), failure(error, begin))));
at("rollback").addEventListener("click", rollBack);
subscribe({ model: (told) => told.name === model?.name && open(model.name) });
begin();
