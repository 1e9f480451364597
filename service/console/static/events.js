// What happens, live (GET /events). A hidden tab listens to nothing: a browser has few connections for one host.

import { at } from "./dom.js";
import { text, viewer } from "./shell.js";

const NAMES = ["inspection", "words", "review", "model"];
const AGAIN_MS = 5000;

/**
 * Call handlers[name](data) for each event; handlers.missed() whenever something may have happened that was not told, so that the
 * page reads its list anew. The sign in the header tells whether the page is live.
 */
export function subscribe(handlers) {
  if (viewer.storing === "off") return; // without records there are no events
  let source = null;
  let before = false;
  let timer = null;

  const told = (on) => {
    const sign = at("live");
    sign.hidden = false;
    sign.dataset.state = on ? "on" : "off";
    sign.textContent = text(on ? "shell.live" : "shell.not_live");
  };

  function open() {
    clearTimeout(timer);
    source?.close();
    source = new EventSource("/events");
    source.addEventListener("open", () => {
      told(true);
      if (before) handlers.missed?.();
      before = true;
    });
    source.addEventListener("error", () => {
      told(false);
      // refused, as while the service starts: the browser gives up, this page does not
      if (source.readyState === EventSource.CLOSED) timer = setTimeout(open, AGAIN_MS);
    });
    source.addEventListener("missed", () => handlers.missed?.());
    for (const name of NAMES) {
      if (handlers[name]) source.addEventListener(name, (event) => handlers[name](JSON.parse(event.data)));
    }
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      clearTimeout(timer);
      source?.close();
      told(false);
    } else open();
  });
  addEventListener("pagehide", () => source?.close());
  open();
}
