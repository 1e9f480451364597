// A key for a session; then on to the page that was asked for.

import { Problem, failure } from "./api.js";
import { at, show } from "./dom.js";

const form = at("login");

const FIRST = "/login"; // leads whoever is logged in to the first page that their key opens

/** Where to go on: an address of this service, whatever this page's own says. */
function onward() {
  const asked = new URLSearchParams(location.search).get("next") ?? FIRST;
  if (!asked.startsWith("/") || !URL.canParse(asked, location.origin)) return FIRST;
  const url = new URL(asked, location.origin);
  if (url.origin !== location.origin) return FIRST; // as that of //elsewhere
  url.hash ||= location.hash; // which the service never saw: it came along with its redirect
  return url.href;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  event.submitter.disabled = true;
  show(at("trouble"));
  const answer = await fetch("/login", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ key: form.elements.key.value }),
  }).catch(() => null);
  if (answer?.ok) {
    location.assign(onward());
    return;
  }
  event.submitter.disabled = false;
  show(at("trouble"), failure(await Problem.of(answer)));
  form.elements.key.select();
});
