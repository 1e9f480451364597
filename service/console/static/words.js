// A flaw in words: what it is, how bad, why, what to do, and who says so.

import { el } from "./dom.js";
import { text } from "./shell.js";

/** The label of a flaw as people write it. */
export const named = (label) => (label === "unknown" ? text("shell.unknown_type") : label.replaceAll("_", " "));

/** Who the words are from, as a chip that explains itself. */
function sourceOf(words) {
  return el("span", { class: "chip source", "data-source": words.source, title: text(`shell.source_${words.source}_help`) }, text(`shell.source_${words.source}`));
}

/** The words of a picture or a region as a block. */
export function wordsBlock(words) {
  const similar = words.similar.length;
  return el(
    "div",
    { class: "words" },
    el("p", { class: "description" }, words.description),
    el(
      "p",
      { class: "row" },
      words.label && el("b", { class: "break" }, named(words.label)),
      words.severity !== "none" && el("span", { class: "severity", "data-severity": words.severity }, text(`shell.severity_${words.severity}`)),
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
        words.probable_causes.length > 0 && [el("dt", {}, text("shell.causes")), el("dd", {}, words.probable_causes.join("; "))],
        words.recommended_action && [el("dt", {}, text("shell.action")), el("dd", {}, words.recommended_action)],
      ),
  );
}
