// Queue: flaws that nobody has looked at, newest first; one after another by keyboard, live.

import { call, failure } from "./api.js";
import { at, el, keyedList, latest, show } from "./dom.js";
import { subscribe } from "./events.js";
import { inspectionView } from "./inspection.js";
import { pictureOf, thumbnail } from "./record.js";
import { forPage, reviewForm } from "./review.js";
import { text } from "./shell.js";
import { badge, number, when } from "./verdict.js";

const WANTED = { flaws: ["not_ok", "review", "undecidable"], passed: ["ok"] };
const PAGE = 40;

let records = []; // newest first
let cursor = null;
let chosen = null; // {record, form}
let done = 0;
const reviewedIds = new Set(); // told by events or by this page: an answer asked for before must not bring them back
const beginLoad = latest();
const askings = new Map(); // inspection's id -> how often it was asked for: only the last answer counts

const filters = () => Object.fromEntries([...new FormData(at("filters"))].map(([name, value]) => [name, value.trim()]));

function address(from) {
  const { show: kind, ...texts } = filters();
  const asked = new URLSearchParams({ reviewed: false, limit: PAGE });
  for (const verdict of WANTED[kind]) asked.append("verdict", verdict);
  for (const [name, value] of Object.entries(texts)) if (value) asked.set(name, value);
  if (from) asked.set("cursor", from);
  return `/inspections?${asked}`;
}

/** Read the list: the newest page, or with `more` the one after those that are there; `anew`: the filters have changed. */
async function load({ more = false, anew = false } = {}) {
  if (more && cursor === null) return;
  const current = beginLoad();
  if (anew) cursor = null; // it is of the filters before
  at("more").hidden = cursor === null;
  const before = new Set(records.map((each) => each.id));
  show(at("trouble"));
  try {
    const page = await call(address(more ? cursor : null));
    if (!current()) return;
    const told = page.inspections.filter((each) => !reviewedIds.has(each.id));
    const ids = new Set(told.map((each) => each.id));
    // with the page go what was told live meanwhile and, unless other filters drop it, the part that a person is at
    const stays = (each) => !ids.has(each.id) && (more || !before.has(each.id) || (!anew && each.id === chosen?.record.id));
    records = inOrder([...told, ...records.filter((each) => stays(each) && isMeant(each))]);
    cursor = page.next_cursor;
  } catch (error) {
    if (!current()) return;
    at("waiting").hidden = true;
    show(at("trouble"), failure(error, () => load({ more, anew })));
    return;
  }
  at("waiting").hidden = true;
  const kept = records.find((each) => each.id === chosen?.record.id);
  if (kept) draw();
  else choose(records[0] ?? null);
}

const inOrder = (found) => found.sort((a, b) => (a.created_at < b.created_at ? 1 : -1));

function draw() {
  at("empty").hidden = records.length > 0;
  at("desk").hidden = records.length === 0;
  at("count").textContent = text("count", { open: `${records.length}${cursor ? "+" : ""}`, done });
  drawList(records);
  at("more").hidden = cursor === null;
}

const isChosen = (record) => record.id === chosen?.record.id;
const drawList = keyedList(at("list"), (record) => ({
  id: record.id,
  state: [isChosen(record), record.verdict, record.anomaly_score, record.classification?.description],
  make: () => entry(record),
}));

function entry(record) {
  const current = isChosen(record);
  return el(
    "li",
    {},
    el(
      "button",
      { type: "button", class: "entry", "aria-current": String(current), onclick: () => choose(record) },
      thumbnail(record.id, record.image_stored),
      el(
        "span",
        { class: "entry-words" },
        el("span", { class: "row" }, badge(record.verdict), el("span", { class: "small number end" }, number(record.anomaly_score))),
        el("span", { class: "small break" }, record.classification?.description ?? text("no_words")),
        el("span", { class: "small soft break" }, when(record.created_at), ` · ${[record.product, record.lot, record.serial].filter(Boolean).join(" · ")}`),
      ),
    ),
  );
}

function choose(record) {
  chosen = null;
  show(at("meanwhile"));
  if (record) {
    const form = reviewForm(record, () => reviewed(record));
    chosen = { record, form };
    show(at("shown"), inspectionView(record, { picture: pictureOf(record), extra: [form.element], past: form.past }));
  } else show(at("shown"));
  draw();
  at("list").querySelector('[aria-current="true"]')?.scrollIntoView({ block: "nearest" });
}

function step(by) {
  const place = records.findIndex((each) => each.id === chosen?.record.id);
  const next = records[Math.min(Math.max(place + by, 0), records.length - 1)];
  if (next && next.id !== chosen?.record.id) choose(next);
}

function reviewed(record) {
  done += 1;
  reviewedIds.add(record.id);
  const place = records.findIndex((each) => each.id === record.id);
  records = records.filter((each) => each.id !== record.id);
  if (chosen?.record.id === record.id) {
    document.activeElement?.blur();
    choose(records[Math.min(place, records.length - 1)] ?? null);
  } else draw();
  if (records.length === 0 && cursor) load({ more: true });
}

document.addEventListener("keydown", (event) => {
  if (!forPage(event)) return;
  const steps = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 };
  if (event.target.closest(".picture-view") && event.key.startsWith("Arrow")) return;
  if (event.key in steps) step(steps[event.key]);
  else if (event.key === "?") at("keys").showModal();
  else if (!chosen?.form.key(event)) return;
  event.preventDefault();
});

// ---- live

const isMeant = (told) => {
  const { show: kind, ...texts } = filters();
  return WANTED[kind].includes(told.verdict) && Object.entries(texts).every(([name, value]) => !value || told[name] === value);
};

async function fresh(id) {
  const mine = (askings.get(id) ?? 0) + 1;
  askings.set(id, mine);
  const record = await call(`/inspections/${encodeURIComponent(id)}`);
  if (askings.get(id) !== mine) return; // asked for again meanwhile, as when its words came
  if (record.reviews.length > 0 || reviewedIds.has(id) || !isMeant(record)) return;
  records = inOrder([...records.filter((each) => each.id !== id), record]);
  if (chosen) draw();
  else choose(records[0]);
}

const unlessRefused = (work) => work.catch((error) => show(at("trouble"), failure(error, () => load())));

subscribe({
  inspection: (told) => isMeant(told) && unlessRefused(fresh(told.id)),
  words: (told) => records.some((each) => each.id === told.inspection_id) && unlessRefused(fresh(told.inspection_id)),
  review(told) {
    if (told.inspection_id === chosen?.record.id) {
      if (chosen.form.saving()) return; // it is this page's own
      // somebody else was quicker; what was being written is not taken away
      show(at("meanwhile"), el("p", { class: "notice", role: "alert" }, text("meanwhile", { who: told.who })));
    } else {
      reviewedIds.add(told.inspection_id);
      records = records.filter((each) => each.id !== told.inspection_id);
      draw();
    }
  },
  missed: () => load(),
});

at("filters").addEventListener("change", () => load({ anew: true }));
at("filters").addEventListener("submit", (event) => {
  event.preventDefault();
  load({ anew: true });
});
at("more").addEventListener("click", () => load({ more: true }));
at("help").addEventListener("click", () => at("keys").showModal());
load();
