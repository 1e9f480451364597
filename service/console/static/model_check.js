// The daily check: master parts, the verdicts they must get, and those they got.

import { call, failure } from "./api.js";
import { at, el, show } from "./dom.js";
import { ask, change } from "./models.js";
import { may, text, toast } from "./shell.js";
import { badge, number, when } from "./verdict.js";

let model = null;

const path = (rest = "") => `/models/${encodeURIComponent(model.name)}/masters${rest}`;

function row(master, result) {
  const change = result?.change;
  return el(
    "tr",
    {},
    el("td", {}, el("img", { class: "thumb", src: master.picture, alt: text("master_picture", { name: master.name }), loading: "lazy" })),
    el("td", { class: "break" }, master.name),
    el("td", {}, badge(master.expected)),
    el("td", {}, result ? (result.verdict ? badge(result.verdict) : el("span", { class: "soft" }, result.error)) : "–",
      result && !result.passed && el("b", { class: "wrong" }, ` ${text("check_wrong")}`)),
    el("td", { class: "number" }, number(result?.score)),
    el("td", { class: "number" }, change === null || change === undefined ? "–" : `${change > 0 ? "+" : ""}${(100 * change).toFixed(1)} %`),
    el("td", {}, may("admin") && el("button", { type: "button", class: "button quiet", "aria-label": text("master_remove_name", { name: master.name }), onclick: () => remove(master) }, text("master_remove"))),
  );
}

function state(told) {
  if (!told.checked_today) return el("span", { class: "badge", "data-verdict": "review" }, text("checked_no"));
  return el("span", { class: "badge", "data-verdict": told.passed_today ? "ok" : "not_ok" }, text(told.passed_today ? "checked_passed" : "checked_failed"));
}

export async function showCheck(shown, inService) {
  model = shown;
  let told;
  try {
    told = await call(path());
  } catch (error) {
    show(at("check"), failure(error, () => showCheck(shown, inService)));
    return;
  }
  at("check-run").hidden = !told.masters.length || !inService;
  show(at("check-state"), told.masters.length > 0 && state(told));
  if (!told.masters.length) {
    show(at("check"), el("div", { class: "empty" }, el("b", {}, text("masters_none")), el("p", {}, text("masters_none_help"))));
    return;
  }
  const last = told.last_check;
  const results = new Map(last?.results.map((each) => [each.master_id, each]));
  const heads = ["picture", "name", "expected", "got", "score", "change", "remove"];
  const numeric = new Set(["score", "change"]);
  show(
    at("check"),
    el("div", { class: "stack" },
      el("div", { class: "table-holder", tabindex: "0" }, el("table", { class: "table" },
        el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col", class: numeric.has(head) ? "number" : null }, text(`master_head_${head}`))))),
        el("tbody", {}, told.masters.map((master) => row(master, results.get(master.id)))))),
      last && el("p", { class: "small soft" }, text("check_last", { version: last.version, precision: last.precision }), " ", when(last.at))),
  );
}

async function remove(master) {
  if (!(await ask(text("master_remove"), text("master_remove_text", { name: master.name }), text("master_remove")))) return;
  await change(() => call(path(`/${master.id}`), { method: "DELETE" }), text("master_removed"));
}

at("check-run").addEventListener("click", async (event) => {
  const button = event.currentTarget;
  button.disabled = true;
  try {
    const check = await call(`/models/${encodeURIComponent(model.name)}/checks`, { method: "POST" });
    toast(text(check.passed ? "check_passed" : "check_failed"), { failed: !check.passed });
    await showCheck(model, true);
  } catch (error) {
    show(at("check"), failure(error, () => showCheck(model, true)));
  } finally {
    button.disabled = false;
  }
});

document.getElementById("master-form")?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.currentTarget;
  const add = async () => {
    await call(path(), { method: "POST", body: new FormData(form) });
    // Before the list shows them: by then the person may have picked the next pictures.
    form.elements.image.value = "";
  };
  await change(add, text("master_added"));
});
