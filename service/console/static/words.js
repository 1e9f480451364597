// A flaw in words: what it is, how bad, why, what to do, and who says so.

import { el } from "./dom.js";
import { may, text } from "./shell.js";

/** The label of a flaw as people write it. */
export const named = (label) => (label === "unknown" ? text("shell.unknown_type") : label.replaceAll("_", " "));

/** Who the words are from, as a chip that explains itself. */
function sourceOf(words) {
  return el("span", { class: "chip source", "data-source": words.source, title: text(`shell.source_${words.source}_help`) }, text(`shell.source_${words.source}`));
}

/** A cause, with the inspections whose reviewed flaws speak for it. They open in a tab of their own: what Inspect shows would be lost. */
function causeOf(cause, cited) {
  const ids = new Set(cited.filter((each) => each.cause === cause).map((each) => each.inspection_id));
  if (ids.size === 0) return cause;
  const link = (id) => {
    const told = { title: text("shell.cited_help", { id }) };
    if (!may("review")) return el("code", told, id.slice(0, 8));
    return el("a", { ...told, href: `/console/history#${encodeURIComponent(id)}`, target: "_blank", rel: "noopener" }, id.slice(0, 8));
  };
  return [cause, el("span", { class: "small soft" }, " (", text("shell.cited"), [...ids].map((id) => [" ", link(id)]), ")")];
}

/** The words of a picture or a region as a block. */
export function wordsBlock(words) {
  const similar = words.similar.length;
  const suggested = words.suggested_severity !== words.severity && words.suggested_severity;
  return el(
    "div",
    { class: "words" },
    el("p", { class: "description" }, words.description),
    el(
      "p",
      { class: "row" },
      words.label && el("b", { class: "break" }, named(words.label)),
      words.severity !== "none" && el("span", { class: "severity", "data-severity": words.severity }, text(`shell.severity_${words.severity}`)),
      suggested && el("span", { class: "soft small", title: text("shell.suggested_severity_help") }, text("shell.suggested_severity", { severity: text(`shell.severity_${suggested}`) })),
      words.is_new_type && el("span", { class: "chip" }, text("shell.new_type")),
      sourceOf(words),
      words.confidence !== null && el("span", { class: "soft small" }, text("shell.confidence", { percent: Math.round(100 * words.confidence) })),
      similar > 0 && el("span", { class: "soft small" }, text("shell.similar_count", { count: similar })),
    ),
    words.degraded && el("p", { class: "notice small" }, text("shell.degraded", { reason: named(words.fallback_reason ?? "") })),
    (words.probable_causes.length > 0 || words.recommended_action) &&
      el(
        "dl",
        { class: "facts" },
        words.probable_causes.length > 0 && [el("dt", {}, text("shell.causes")), el("dd", {}, words.probable_causes.map((cause, place) => [place > 0 && "; ", causeOf(cause, words.cited)]))],
        words.recommended_action && [el("dt", {}, text("shell.action")), el("dd", {}, words.recommended_action)],
      ),
  );
}
