// History: what was recorded, by filters, page by page; each inspection opens with all that is known, and can be reviewed.

import { call, failure } from "./api.js";
import { at, el, keyedList, latest, show } from "./dom.js";
import { subscribe } from "./events.js";
import { inspectionView, reviewLine } from "./inspection.js";
import { pictureOf, thumbnail } from "./record.js";
import { forPage, reviewForm } from "./review.js";
import { text } from "./shell.js";
import { badge, number, when } from "./verdict.js";
import { named } from "./words.js";

const PAGE = 50;
const form = at("filters");
const query = () => new URLSearchParams(location.search);

/** The filters of the form as the API takes them; empty ones are left out. */
function asked() {
  const found = new URLSearchParams();
  for (const [name, value] of new FormData(form)) {
    const given = value.trim();
    if (given) found.set(name, ["from", "to"].includes(name) ? new Date(given).toISOString() : given);
  }
  return found;
}

/** Put what the page's address asks for into the form. */
function fill() {
  for (const [name, value] of query()) {
    const field = form.elements[name];
    if (!field) continue;
    if (field.type !== "datetime-local") field.value = value;
    else {
      const moment = new Date(value);
      if (!Number.isNaN(moment.valueOf())) field.value = new Date(moment - moment.getTimezoneOffset() * 60000).toISOString().slice(0, 16);
    }
  }
}

let cursor = null; // of the page after the one shown
let place = null; // cursor of the page that was asked for last; null: the newest
const beginLoad = latest();

/** Take over what the form asks for: into the page's address, by which every page of the list is asked for. */
function apply() {
  const wanted = asked();
  const search = wanted.size ? `?${wanted}` : "";
  history.replaceState(null, "", `${location.pathname}${search}${location.hash}`);
  at("csv").href = `/inspections.csv${search}`;
  load();
}

async function load(from = null) {
  const current = beginLoad();
  place = from;
  const wanted = query();
  wanted.set("limit", PAGE);
  if (from) wanted.set("cursor", from);
  show(at("trouble"));
  try {
    const page = await call(`/inspections?${wanted}`);
    if (!current()) return;
    cursor = page.next_cursor;
    at("waiting").hidden = true;
    at("empty").hidden = page.inspections.length > 0;
    at("found").hidden = page.inspections.length === 0;
    drawRows(page.inspections);
    at("older").hidden = cursor === null;
    at("newest").hidden = from === null;
  } catch (error) {
    if (!current()) return;
    at("waiting").hidden = true;
    show(at("trouble"), failure(error, () => load(from)));
  }
}

const drawRows = keyedList(at("rows"), (record) => ({ id: record.id, state: record, make: () => row(record) }));

function row(record) {
  const words = record.classification;
  const review = record.reviews.at(-1);
  const label = review?.label || (words?.label === "normal" ? "" : words?.label);
  const part = ["product", "lot", "serial", "station"].map((name) => record[name]).filter(Boolean);
  return el(
    "tr",
    {},
    el("td", { class: "picture-cell" }, thumbnail(record.id, record.image_stored)),
    el("td", {}, el("a", { href: `#${record.id}`, "aria-label": text("open", { id: record.id }) }, when(record.created_at))),
    el("td", {}, badge(record.verdict)),
    el("td", { class: "number" }, number(record.anomaly_score)),
    el("td", { class: "break" }, label && el("b", {}, named(label)), " ", words && el("span", { class: "soft" }, words.description)),
    el("td", { class: "break" }, part.join(" · ")),
    el("td", { class: "break" }, review && [text(`shell.said_${review.verdict}`), el("span", { class: "soft" }, ` · ${review.who}`)]),
  );
}

// ---- one of them

let shown = null; // {review, form: what it can be folded away in}

async function open() {
  const id = location.hash.slice(1);
  const dialog = at("detail");
  if (!/^[0-9a-f]{32}$/.test(id)) {
    dialog.close();
    return;
  }
  shown = null;
  show(at("shown"), el("p", { class: "busy" }, text("shell.loading")));
  if (!dialog.open) dialog.showModal();
  try {
    const record = await call(`/inspections/${encodeURIComponent(id)}`);
    if (location.hash.slice(1) !== id) return; // closed, or another one opened
    const review = reviewForm(record, () => {
      open();
      load(place);
    });
    const said = record.reviews.length > 0 && el("section", { class: "stack" }, el("h3", {}, text("said")), record.reviews.map(reviewLine));
    const again = el("details", { open: record.reviews.length === 0 }, el("summary", {}, text(record.reviews.length ? "again" : "shell.review")), review.element);
    shown = { review, form: again };
    show(at("shown"), inspectionView(record, { picture: pictureOf(record), extra: [said, again], past: review.past }));
  } catch (error) {
    if (location.hash.slice(1) === id) show(at("shown"), failure(error, open));
  }
}

addEventListener("hashchange", open);
document.addEventListener("keydown", (event) => {
  if (at("detail").open && shown?.form.open && forPage(event) && shown.review.key(event)) event.preventDefault();
});
at("detail").addEventListener("close", () => {
  if (location.hash) history.replaceState(null, "", location.pathname + location.search);
  later(); // what came meanwhile
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  apply();
});
form.addEventListener("reset", () => setTimeout(apply)); // once the fields are empty
at("older").addEventListener("click", () => load(cursor));
at("newest").addEventListener("click", () => load());

let timer = null;
function later() {
  timer ??= setTimeout(() => {
    timer = null;
    if (place === null && !at("detail").open) load(); // the newest page only, and not behind what is being read
  }, 1000); // one reading for what comes together
}
subscribe({ inspection: later, review: later, words: later, missed: later });

fill();
apply();
open();
