// A person's word on an inspection: was the verdict right, what is the flaw, why, what was done. All of it by keyboard too.

import { call, failure } from "./api.js";
import { el, show } from "./dom.js";
import { thumbnail } from "./record.js";
import { text, toast } from "./shell.js";
import { named } from "./words.js";

const CAN_BE_SAID = {
  right: ["ok", "review", "not_ok", "undecidable"],
  overkill: ["not_ok", "review", "undecidable"],
  escape: ["ok", "undecidable"],
};
const KEYS = { r: "right", o: "overkill", e: "escape" };
const NO_LABELS = new Set(["", "unknown", "normal", "ok", "none"]);
const MOST_CHIPS = 9;

/**
 * {element, past: the similar past flaws, saving(), key(event) -> was it for the form}. `onsaved(review)` is called once the review is
 * on disk.
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
  const input = (name, key) => el("input", { name, maxlength: name === "label" ? 60 : 400, autocomplete: "off", "aria-keyshortcuts": key });
  const field = (name, key) => {
    const entry = input(name, key);
    return [entry, el("label", { class: "field" }, el("span", {}, text(`shell.review_${name}`), " ", el("kbd", {}, key)), entry)];
  };
  const [label, labelField] = field("label", "L");
  const [cause, causeField] = field("cause", "C");
  const [action, actionField] = field("action", "A");
  const who = el("input", { name: "who", maxlength: 100, value: localStorage.getItem("who") ?? "", autocomplete: "name" });
  const chips = el("div", { class: "row chips" });
  const past = el("div", { class: "stack" });
  const trouble = el("div");
  const form = el(
    "form",
    { class: "stack review-form", "aria-label": text("shell.review"), autocomplete: "off" },
    el("fieldset", {}, el("legend", { class: "visually-hidden" }, text("shell.say")), el("div", { class: "says" }, saying)),
    labelField,
    chips,
    el("div", { class: "pair" }, causeField, actionField),
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

  const offered = [];
  function offer(labels) {
    const fresh = new Set(labels.filter((each) => !NO_LABELS.has(each.toLowerCase()) && !offered.includes(each)));
    for (const each of fresh) {
      if (offered.length === MOST_CHIPS) return;
      offered.push(each); // those that are there keep their places and numbers
      chips.append(el("button", { type: "button", class: "chip", onclick: () => (label.value = each) }, el("kbd", {}, `${offered.length}`), named(each)));
    }
  }

  async function help() {
    if (record.classification) offer([record.classification.label]);
    const similar = await call(`/inspections/${encodeURIComponent(record.id)}/similar`);
    offer(similar.cases.map((each) => each.label));
    show(past, pastFlaws(similar, (each) => {
      label.value = each.label;
      cause.value ||= each.cause;
      action.value ||= each.action;
    }));
    const { labels } = await call(`/labels?${new URLSearchParams({ product: record.product })}`);
    offer(labels.map((each) => each.label));
  }

  let saving = false;
  async function save() {
    if (saving) return;
    if (!said) {
      show(trouble, el("p", { class: "notice small", role: "alert" }, text("shell.say_first")));
      saying.find((button) => !button.disabled).focus();
      return;
    }
    saving = true;
    localStorage.setItem("who", who.value.trim());
    const json = { verdict: said, label: label.value.trim(), cause: cause.value.trim(), action: action.value.trim(), who: who.value.trim() };
    try {
      const answer = await call(`/inspections/${encodeURIComponent(record.id)}/review`, { method: "POST", json });
      toast(text(answer.case_id ? "shell.saved_case" : "shell.saved"));
      onsaved(answer.review);
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
    if (event.key === "Escape" && event.target.tagName === "INPUT") {
      event.target.blur();
      event.preventDefault();
    }
  });
  help().catch((error) => show(past, failure(error)));

  return {
    element: form,
    past,
    saving: () => saving,
    key(event) {
      const letter = event.key.toLowerCase();
      const fields = { l: label, c: cause, a: action };
      const chip = chips.children[Number(event.key) - 1];
      if (KEYS[letter]) say(KEYS[letter]);
      else if (fields[letter]) fields[letter].select();
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
