// Shadow: what a candidate version says of the pictures that the active one answers.

import { call, failure } from "./api.js";
import { at, el, latest, show, showChanged } from "./dom.js";
import { change } from "./models.js";
import { may, text } from "./shell.js";
import { badge, number, when } from "./verdict.js";

const VERDICTS = ["ok", "review", "not_ok", "undecidable"];
const EVERY_MS = 3000;

let model = null;
let timer = 0;
const begin = latest();
const parts = { facts: el("div"), pairs: el("div"), differing: el("div") };
const run = el("div", { class: "shadow-parts" }, parts.facts, parts.pairs, el("div", { class: "stack wide" }, el("h3", {}, text("differing")), el("p", { class: "soft small" }, text("differing_help")), parts.differing));

function pairs(told) {
  const counts = new Map(told.pairs.map((each) => [`${each.active} ${each.candidate}`, each.count]));
  const seen = VERDICTS.filter((verdict) => told.pairs.some((each) => each.active === verdict || each.candidate === verdict));
  return el("div", { class: "table-holder fit", tabindex: "0" }, el("table", { class: "table" },
    el("caption", { class: "visually-hidden" }, text("pairs")),
    el("thead", {}, el("tr", {},
      el("th", { scope: "col" }, text("pairs_corner", { active: told.active_version, candidate: told.candidate_version })),
      seen.map((verdict) => el("th", { scope: "col", class: "number" }, badge(verdict))))),
    el("tbody", {}, seen.map((active) => el("tr", {},
      el("th", { scope: "row" }, badge(active)),
      seen.map((candidate) => {
        const count = counts.get(`${active} ${candidate}`) ?? 0;
        return el("td", { class: `number ${active === candidate ? "same" : count ? "differs" : ""}` }, count);
      }))))));
}

function differing(told) {
  if (!told.differing.length) return el("p", { class: "soft" }, text("differing_none"));
  const times = (judged) => (judged.score_over_reject === null ? "–" : text("times", { times: number(judged.score_over_reject) }));
  return el("div", { class: "table-holder", tabindex: "0" }, el("table", { class: "table" },
    el("thead", {}, el("tr", {}, ["when", "active", "candidate", "inspection"].map((head) => el("th", { scope: "col" }, text(`differing_${head}`))))),
    el("tbody", {}, told.differing.slice(0, 20).map((each) => el("tr", {},
      el("td", {}, when(each.at)),
      el("td", {}, badge(each.active.verdict), " ", el("span", { class: "soft small" }, times(each.active))),
      el("td", {}, badge(each.candidate.verdict), " ", el("span", { class: "soft small" }, times(each.candidate))),
      el("td", {}, el("a", { href: `/console/history#${each.inspection_id}` }, el("code", {}, each.inspection_id.slice(0, 8)))))))));
}

function facts(told) {
  const share = told.compared ? `${((100 * told.agreed) / told.compared).toFixed(1)} %` : "–";
  return el("dl", { class: "facts" },
    el("dt", {}, text("candidate")), el("dd", {}, text("candidate_is", { version: told.candidate_version, active: told.active_version })),
    el("dt", {}, text("shadow_state")), el("dd", {}, text(`shadow_${told.state}`), told.reason && `: ${told.reason}`),
    el("dt", {}, text("compared")), el("dd", { id: "compared" }, String(told.compared)),
    el("dt", {}, text("agreed")), el("dd", {}, share),
    el("dt", {}, text("dropped")), el("dd", {}, String(told.dropped)));
}

export async function showShadow(shown) {
  const current = begin();
  model = shown;
  clearTimeout(timer);
  let told;
  try {
    told = await call(`/models/${encodeURIComponent(model.name)}/shadow`);
  } catch (error) {
    if (current()) show(at("shadow"), failure(error, () => showShadow(shown)));
    return;
  }
  if (!current()) return;
  const runs = told.state === "loading" || told.state === "running";
  at("shadow-stop").hidden = !runs || !may("admin");
  if (told.state === "none") {
    show(at("shadow"), el("div", { class: "empty" }, el("b", {}, text("shadow_none")), el("p", {}, text("shadow_none_help"))));
    return;
  }
  if (run.parentElement !== at("shadow")) show(at("shadow"), run);
  showChanged(parts.facts, told, () => facts(told));
  showChanged(parts.pairs, [told.pairs, told.active_version, told.candidate_version], () => told.pairs.length > 0 && pairs(told));
  showChanged(parts.differing, told.differing, () => differing(told)); // has links, on which the focus may be
  if (runs) timer = setTimeout(() => showShadow(model), EVERY_MS);
}

at("shadow-stop").addEventListener("click", () =>
  change(() => call(`/models/${encodeURIComponent(model.name)}/shadow`, { method: "DELETE" }), text("shadow_ended"), at("shadow-stop")));
