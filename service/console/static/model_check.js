// The daily check: master parts, the verdicts they must get, and those they got.

import { call, failure } from "./api.js";
import { ask } from "./ask.js";
import { at, el, latest, show } from "./dom.js";
import { change } from "./models.js";
import { may, text, toast } from "./shell.js";
import { badge, isToday, number, when } from "./verdict.js";

let model = null;
const begin = latest();
const NUMERIC = new Set(["score", "change"]);

const path = (rest = "") => `/models/${encodeURIComponent(model.name)}/masters${rest}`;

function row(master, result) {
  const change = result?.change;
  const cell = (head, ...children) => el("td", { class: NUMERIC.has(head) ? "number" : head, "data-head": text(`master_head_${head}`) }, ...children);
  return el(
    "tr",
    {},
    cell("picture", el("img", { class: "thumb", src: master.picture, alt: text("master_picture", { name: master.name }), loading: "lazy" })),
    cell("name", master.name),
    cell("expected", badge(master.expected)),
    cell("got", result ? (result.verdict ? badge(result.verdict) : el("span", { class: "soft" }, result.error)) : "–",
      result && !result.passed && el("b", { class: "wrong" }, ` ${text("check_wrong")}`)),
    cell("score", number(result?.score)),
    cell("change", change === null || change === undefined ? "–" : `${change > 0 ? "+" : ""}${(100 * change).toFixed(1)} %`),
    cell("remove", may("admin") && el("button", { type: "button", class: "button quiet icon", "aria-label": text("master_remove_name", { name: master.name }), onclick: (event) => remove(master, event.currentTarget), title: text("master_remove") }, "✕")),
  );
}

/** Whether the version in service was checked today: the day of whoever looks, since the service's own is often UTC's. */
function state(last) {
  const today = last && last.version === model.active_version && isToday(new Date(last.at));
  if (!today) return el("span", { class: "badge", "data-verdict": "review" }, text("checked_no"));
  return el("span", { class: "badge", "data-verdict": last.passed ? "ok" : "not_ok" }, text(last.passed ? "checked_passed" : "checked_failed"));
}

export async function showCheck(shown, inService) {
  const current = begin();
  model = shown;
  let told;
  try {
    told = await call(path());
  } catch (error) {
    if (current()) show(at("check"), failure(error, () => showCheck(shown, inService)));
    return;
  }
  if (!current()) return;
  at("check-run").hidden = !told.masters.length || !inService;
  const last = told.last_check;
  show(at("check-state"), told.masters.length > 0 && state(last));
  if (!told.masters.length) {
    show(at("check"), el("div", { class: "empty" }, el("b", {}, text("masters_none")), el("p", {}, text("masters_none_help"))));
    return;
  }
  const results = new Map(last?.results.map((each) => [each.master_id, each]));
  const heads = ["picture", "name", "expected", "got", "score", "change", "remove"];
  show(
    at("check"),
    el("div", { class: "stack" },
      el("div", { class: "table-holder", tabindex: "0" }, el("table", { class: "table stacked" },
        el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col", class: NUMERIC.has(head) ? "number" : null }, text(`master_head_${head}`))))),
        el("tbody", {}, told.masters.map((master) => row(master, results.get(master.id)))))),
      last && el("p", { class: "small soft" }, text("check_last", { version: last.version, precision: last.precision }), " ", when(last.at))),
  );
}

async function remove(master, button) {
  if (!(await ask(text("master_remove"), text("master_remove_text", { name: master.name }), text("master_remove")))) return;
  await change(() => call(path(`/${master.id}`), { method: "DELETE" }), text("master_removed"), button);
}

at("check-run").addEventListener("click", async (event) => {
  const button = event.currentTarget;
  const checked = model;
  button.disabled = true;
  try {
    const check = await call(`/models/${encodeURIComponent(checked.name)}/checks`, { method: "POST" });
    toast(text(check.passed ? "check_passed" : "check_failed"), { failed: !check.passed });
    if (model.name === checked.name) await showCheck(model, true);
  } catch (error) {
    if (model.name === checked.name) show(at("check"), failure(error, () => showCheck(model, true)));
  } finally {
    button.disabled = false;
  }
});

document.getElementById("master-form")?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const { image, name } = event.currentTarget.elements;
  const [picked, called] = [image.files[0], name.value];
  const body = new FormData(event.currentTarget);
  const add = async () => {
    await call(path(), { method: "POST", body });
    // unless the next ones were picked or named meanwhile
    if (image.files[0] === picked) image.value = "";
    if (name.value === called) name.value = "";
  };
  await change(add, text("master_added"), event.submitter);
});
