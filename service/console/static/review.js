// A person's word on an inspection: was the verdict right, what is the flaw, why, what was done. All of it by keyboard too.

import { call, failure } from "./api.js";
import { el, latest, show } from "./dom.js";
import { thumbnail } from "./record.js";
import { text, toast } from "./shell.js";
import { named } from "./words.js";

const CAN_BE_SAID = {
  right: ["ok", "review", "not_ok", "undecidable"],
  overkill: ["not_ok", "review", "undecidable"],
  escape: ["ok", "undecidable"],
};
const KEYS = { r: "right", o: "overkill", e: "escape" };
const FIELDS = { label: ["L", 60], cause: ["C", 400], action: ["A", 400], comment: ["N", 4000] }; // their keys and lengths
const NO_LABELS = new Set(["", "unknown", "normal", "ok", "none"]);
const MOST_CHIPS = 9;

/**
 * {element, past: the similar past flaws, saving(), key(event) -> was it for the form}. `onsaved(review)` is called once the review is
 * on disk. Where a part has several flaws, what is written is of the one chosen, and each that something was written of gets a
 * review; `element` tells the choice by the event `flawchosen`, whose detail is the region's index.
 */
export function reviewForm(record, onsaved) {
  let said = null;
  const saying = Object.keys(CAN_BE_SAID).map((verdict) =>
    el(
      "button",
      { type: "button", class: "button say", "data-say": verdict, "aria-pressed": "false", disabled: !CAN_BE_SAID[verdict].includes(record.verdict), title: text(`shell.say_${verdict}_help`), onclick: () => say(verdict) },
      text(`shell.say_${verdict}`),
      el("kbd", {}, verdict[0].toUpperCase()),
    ),
  );
  const field = (name) => {
    const [key, maxlength] = FIELDS[name];
    const told = { name, maxlength, autocomplete: "off", "aria-keyshortcuts": key };
    const entry = name === "comment" ? el("textarea", { ...told, rows: 1 }) : el("input", told);
    return [entry, el("label", { class: "field" }, el("span", {}, text(`shell.review_${name}`), " ", el("kbd", {}, key)), entry)];
  };
  const [label, labelField] = field("label");
  const [cause, causeField] = field("cause");
  const [action, actionField] = field("action");
  const [comment, commentField] = field("comment");
  const fields = { label, cause, action, comment };
  const who = el("input", { name: "who", maxlength: 100, value: localStorage.getItem("who") ?? "", autocomplete: "name" });
  const several = record.regions.length > 1;
  const flaw = el("select", { id: "flaw", name: "region", "aria-keyshortcuts": "F", onchange: () => choose(flaw.selectedIndex) }, record.regions.map((_, index) => el("option", {}, flawName(index))));
  const heard = el("span", { class: "visually-hidden", role: "status" });
  const flawField = el("div", { class: "field" }, el("label", { for: "flaw" }, text("shell.review_region"), " ", el("kbd", {}, "F")), flaw, heard);
  const chips = el("div", { class: "row chips" });
  const past = el("div", { class: "stack" });
  const trouble = el("div");
  const form = el(
    "form",
    { class: "stack review-form", tabindex: "-1", "aria-label": text("shell.review"), autocomplete: "off" },
    el("fieldset", {}, el("legend", { class: "visually-hidden" }, text("shell.say")), el("div", { class: "says" }, saying)),
    several && flawField,
    labelField,
    chips,
    el("div", { class: "pair" }, causeField, actionField),
    commentField,
    trouble,
    el(
      "div",
      { class: "pair" },
      el("label", { class: "field" }, el("span", {}, text("shell.review_who")), who),
      el("button", { class: "button primary" }, text("shell.save_next"), el("kbd", {}, "Enter")),
    ),
  );

  function say(verdict) {
    if (!CAN_BE_SAID[verdict].includes(record.verdict)) {
      toast(text("shell.cannot_be_said", { word: text(`shell.say_${verdict}`), verdict: text(`verdicts.${record.verdict}`) }), { failed: true });
      return;
    }
    said = verdict;
    for (const button of saying) button.setAttribute("aria-pressed", String(button.dataset.say === verdict));
    show(trouble);
  }

  // ---- of which flaw: what is written of the others waits here

  const drafts = new Map(); // region's index -> its fields
  let chosen = 0;
  const written = () => Object.fromEntries(Object.entries(fields).map(([name, entry]) => [name, entry.value.trim()]));

  function flawName(index) {
    const { classification, kind } = record.regions[index];
    return `${index + 1} · ${classification?.description ?? text(`shell.kind_${kind}`)}`;
  }

  function choose(index) {
    const draft = written();
    drafts.set(chosen, draft);
    flaw.options[chosen].textContent = draft.label ? `${chosen + 1} ✓ ${named(draft.label)}` : flawName(chosen);
    chosen = flaw.selectedIndex = index;
    for (const [name, entry] of Object.entries(fields)) entry.value = drafts.get(index)?.[name] ?? "";
    heard.textContent = flaw.value;
    form.dispatchEvent(new CustomEvent("flawchosen", { bubbles: true, detail: index }));
    help();
  }

  // ---- labels and past flaws like it

  const offered = [];
  function offer(labels) {
    const fresh = new Set(labels.filter((each) => !NO_LABELS.has(each.toLowerCase()) && !offered.includes(each)));
    for (const each of fresh) {
      if (offered.length === MOST_CHIPS) return;
      offered.push(each); // those that are there keep their places and numbers
      chips.append(el("button", { type: "button", class: "chip", onclick: () => (label.value = each) }, el("kbd", {}, `${offered.length}`), named(each)));
    }
  }

  const beginHelp = latest();
  async function help() {
    const current = beginHelp();
    offered.length = 0;
    show(chips);
    const words = several ? record.regions[chosen].classification : record.classification;
    if (words) offer([words.label]);
    try {
      const similar = await call(`/inspections/${encodeURIComponent(record.id)}/similar${several ? `?region=${chosen}` : ""}`);
      if (!current()) return;
      offer(similar.cases.map((each) => each.label));
      show(past, pastFlaws(similar, (each) => {
        label.value = each.label;
        cause.value ||= each.cause;
        action.value ||= each.action;
      }));
      const { labels } = await call(`/labels?${new URLSearchParams({ product: record.product })}`);
      if (current()) offer(labels.map((each) => each.label));
    } catch (error) {
      if (current()) show(past, failure(error));
    }
  }

  // ---- saving

  /** The reviews to send: one of each flaw that something was written of, the strongest last, since lists show the last word. A good
   * part has no flaw that it could be said of. */
  function reviews() {
    const verdict = { verdict: said, who: who.value.trim() };
    if (!several) return [{ ...verdict, ...written() }];
    drafts.set(chosen, written());
    const told = [...drafts].filter(([, draft]) => Object.values(draft).some(Boolean)).sort(([a], [b]) => b - a);
    if (told.length === 0) return [verdict];
    return told.map(([region, draft]) => ({ ...verdict, ...draft, region: said === "overkill" ? undefined : region }));
  }

  const sent = new Set(); // as JSON: where one of several fails, those before it are not sent again
  let saving = false;
  let [last, learned] = [null, false];
  async function save() {
    if (saving) return;
    if (!said) {
      show(trouble, el("p", { class: "notice small", role: "alert" }, text("shell.say_first")));
      saying.find((button) => !button.disabled).focus();
      return;
    }
    saving = true;
    localStorage.setItem("who", who.value.trim());
    try {
      for (const json of reviews().filter((each) => !sent.has(JSON.stringify(each)))) {
        last = await call(`/inspections/${encodeURIComponent(record.id)}/review`, { method: "POST", json });
        sent.add(JSON.stringify(json));
        learned ||= last.case_id !== null;
      }
      toast(text(learned ? "shell.saved_case" : "shell.saved"));
      onsaved(last.review);
    } catch (error) {
      show(trouble, failure(error, save));
    } finally {
      saving = false;
    }
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    save();
  });
  form.addEventListener("keydown", (event) => {
    const leaving = event.key === "Escape" && ["INPUT", "TEXTAREA", "SELECT"].includes(event.target.tagName);
    const ready = event.key === "Enter" && (event.ctrlKey || event.metaKey); // Enter alone is a new line of the note
    if (leaving) form.focus({ preventScroll: true }); // within the dialog that it may be in, so that its keys are heard
    else if (ready) save();
    if (leaving || ready) event.preventDefault();
  });
  help();

  return {
    element: form,
    past,
    saving: () => saving,
    key(event) {
      const letter = event.key.toLowerCase();
      const entry = Object.values(fields).find((each) => each.getAttribute("aria-keyshortcuts").toLowerCase() === letter);
      const chip = chips.children[Number(event.key) - 1];
      if (KEYS[letter]) say(KEYS[letter]);
      else if (letter === "f" && several) choose((chosen + (event.shiftKey ? -1 : 1) + record.regions.length) % record.regions.length);
      else if (entry) entry.select();
      else if (chip) chip.click();
      else if (event.key === "Enter") save();
      else return false;
      return true;
    },
  };
}

function pastFlaws(similar, take) {
  if (similar.cases.length === 0) return el("p", { class: "soft small" }, text("shell.no_past"));
  return el(
    "ol",
    { class: "past" },
    similar.cases.map((each) =>
      el(
        "li",
        {},
        el(
          "button",
          { type: "button", class: "past-flaw", title: text("shell.take_over"), onclick: () => take(each) },
          thumbnail(each.inspection_id, true),
          el("span", { class: "stack" }, el("b", { class: "break" }, named(each.label)), el("span", { class: "small soft break" }, [each.cause, each.action].filter(Boolean).join(" → ") || text("shell.no_cause"))),
          el("span", { class: "small soft number", title: text("shell.distance_help") }, each.distance.toFixed(2)),
        ),
      ),
    ),
  );
}

/** Whether a key press is meant for the page, not for a field or a control. */
export function forPage(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return false;
  const target = event.target;
  if (target.closest("dialog[open]") === null && document.querySelector("dialog[open]")) return false;
  if (target.isContentEditable || ["INPUT", "TEXTAREA", "SELECT"].includes(target.tagName)) return false;
  return !(["Enter", " "].includes(event.key) && target.closest("button, a, summary"));
}
