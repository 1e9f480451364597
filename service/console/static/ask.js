// A question before something that others feel, or that cannot be undone.

import { el } from "./dom.js";
import { text } from "./shell.js";

/** Ask; resolves to whether it was confirmed by the button that says `yes`. */
export function ask(title, words, yes) {
  const dialog = el(
    "dialog",
    { "aria-labelledby": "ask-title" },
    el(
      "form",
      { method: "dialog", class: "stack" },
      el("h2", { id: "ask-title" }, title),
      el("p", { class: "break" }, words),
      el("div", { class: "row" }, el("button", { class: "button primary", value: "yes" }, yes), el("button", { class: "button", value: "no" }, text("shell.leave_it"))),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) =>
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    }),
  );
}
