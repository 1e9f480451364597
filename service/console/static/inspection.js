// One inspection, as Inspect, Queue and History show it: the picture, and beside it all that is said of it.

import { el, svg } from "./dom.js";
import { pictureView } from "./picture.js";
import { scoreScale } from "./scale.js";
import { text } from "./shell.js";
import { badge, number, when } from "./verdict.js";
import { named, wordsBlock } from "./words.js";

const STAGES = ["decode", "prepare", "queue", "network", "decide"];

/**
 * `data`: a result of /classify or a record of /inspections, with its `model`; `picture`: what pictureView takes of the picture
 * itself; `budget`: ms, where it is known; `extra`: elements below the words; `past`: what shows the past flaws like it.
 */
export function inspectionView(data, { picture, budget = null, extra = [], past = null }) {
  const view = pictureView({
    size: data.image,
    regions: data.regions,
    review: data.review_threshold,
    reject: data.threshold,
    ...picture,
  });
  const words = data.classification;
  const side = el(
    "div",
    { class: "stack side" },
    el("div", {}, verdictHeading(data)),
    data.reasons.length > 0 && el("ul", { class: "notice small" }, data.reasons.map((reason) => el("li", {}, reason))),
    scoreScale({ score: data.anomaly_score, review: data.review_threshold, reject: data.threshold, p: data.p_value, method: data.threshold_method }),
    words && wordsBlock(words),
    extra,
    regionList(data.regions ?? [], view),
    factList(data),
    timingBar(data.timings_ms, budget),
  );
  const similar = past && el("section", { class: "stack past-flaws" }, el("h3", {}, text("shell.past")), past);
  const element = el("div", { class: "inspection columns" }, view.element, side, similar);
  element.addEventListener("flawchosen", (event) => view.choose(event.detail)); // in the form of a review
  return element;
}

function verdictHeading(data) {
  const heading = badge(data.verdict);
  heading.classList.add("large");
  return heading;
}

function regionList(regions, view) {
  if (regions.length === 0) return null;
  const rows = regions.map((region, index) => {
    const words = region.classification;
    const row = el(
      "li",
      { tabindex: "0", class: "region" },
      el("span", { class: "small soft" }, `${index + 1}`),
      el("span", { class: "break" }, words ? words.description : text(`shell.kind_${region.kind}`)),
      el("span", { class: "small soft number" }, text("shell.peak", { score: number(region.peak_score) })),
    );
    for (const event of ["mouseenter", "focus"]) row.addEventListener(event, () => view.mark(index));
    for (const event of ["mouseleave", "blur"]) row.addEventListener(event, () => view.mark(null));
    return row;
  });
  return el("section", {}, el("h3", {}, text("shell.regions", { count: regions.length })), el("ol", { class: "regions" }, rows));
}

function factList(data) {
  const facts = [
    [text("shell.model"), data.model && `${data.model.name} ${data.model.version} · ${data.model.precision} · ${data.model.provider}`],
    [text("shell.size"), `${data.image.width} × ${data.image.height}`],
    ...["product", "lot", "serial", "station", "view"].map((name) => [text(`shell.${name}`), data[name] || data.metadata?.[name]]),
    [text("shell.inspected"), data.created_at && when(data.created_at)],
    [text("shell.record"), data.stored === false ? text("shell.not_recorded") : el("code", { class: "small" }, data.id)],
  ].filter(([, value]) => value);
  return el("dl", { class: "facts small" }, facts.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

function timingBar(timings, budget) {
  const total = STAGES.reduce((sum, stage) => sum + timings[stage], 0);
  const full = Math.max(total, budget ?? 0, 1e-9);
  let x = 0;
  const bars = STAGES.map((stage) => {
    const width = (400 * timings[stage]) / full;
    const bar = svg("rect", { class: `stage-${stage}`, x, y: 4, width, height: 12 }, svg("title", {}, `${text(`shell.stage_${stage}`)}: ${number(timings[stage])} ms`));
    x += width;
    return bar;
  });
  const limit = budget === null ? null : svg("line", { class: "limit", x1: (400 * budget) / full, x2: (400 * budget) / full, y1: 0, y2: 20 });
  const told = budget === null ? text("shell.took", { ms: number(total) }) : text(total > budget ? "shell.took_over" : "shell.took_within", { ms: number(total), budget: number(budget) });
  return el(
    "section",
    { class: "timings" },
    el("p", { class: "small soft" }, told),
    svg("svg", { viewBox: "-1 0 402 20", preserveAspectRatio: "none", role: "img", "aria-label": told }, svg("rect", { class: "ground", x: 0, y: 4, width: 400, height: 12 }), bars, limit),
    el("p", { class: "small soft legend" }, STAGES.map((stage) => el("span", { class: `key stage-${stage}` }, `${text(`shell.stage_${stage}`)} ${number(timings[stage])}`))),
  );
}

/** A review in a line, and what was written in another. */
export function reviewLine(review) {
  const written = [[review.cause, review.action].filter(Boolean).join(" → "), review.comment].filter(Boolean);
  return el(
    "div",
    { class: "small break" },
    el("p", {}, el("b", {}, text(`shell.said_${review.verdict}`)), review.region !== null && ` · ${text("shell.flaw", { number: review.region + 1 })}`, review.label && ` · ${named(review.label)}`, ` · ${review.who} · `, when(review.at)),
    written.map((each) => el("p", { class: "soft lines" }, each)),
  );
}
