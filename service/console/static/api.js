// The service's own HTTP API, as any client uses it; in a session the CSRF token goes along.

import { el } from "./dom.js";
import { text, viewer } from "./shell.js";

/** An answer that says no (RFC 9457), or no answer at all (status 0). */
export class Problem extends Error {
  constructor({ status = 0, title, detail = "", retryAfter = null }) {
    super(detail || title);
    Object.assign(this, { status, title, detail, retryAfter });
  }

  /** The problem that an answer tells of; null: there was none. */
  static async of(answer) {
    if (!answer) return new Problem({ title: text("shell.unreachable"), detail: text("shell.unreachable_detail") });
    const json = (answer.headers.get("content-type") ?? "").includes("json");
    const told = json ? await answer.json() : { title: answer.statusText || text("shell.failed") }; // HTTP/2 has no words
    return new Problem({ ...told, status: answer.status, retryAfter: answer.headers.get("retry-after") });
  }
}

/**
 * Ask the API. `json`: body to send as JSON; `body`: any other body. Gives JSON where the answer is JSON, else the Response; with
 * `full`, {answer, header(name)}. Throws Problem.
 */
export async function call(path, { method = "GET", json, body, headers = {}, signal, full = false } = {}) {
  const sent = { ...headers };
  if (json !== undefined) sent["content-type"] = "application/json";
  if (method !== "GET" && viewer.csrf) sent["x-csrf-token"] = viewer.csrf;
  let answer;
  let given;
  try {
    answer = await fetch(path, { method, body: json === undefined ? body : JSON.stringify(json), headers: sent, signal });
    if (answer.status === 401 && viewer.keys) location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search + location.hash)}`);
    if (!answer.ok) throw await Problem.of(answer);
    given = (answer.headers.get("content-type") ?? "").includes("json") ? await answer.json() : answer;
  } catch (error) {
    if (error instanceof Problem || error.name === "AbortError") throw error;
    throw await Problem.of(null); // no connection, or it broke while the answer came
  }
  return full ? { answer: given, header: (name) => answer.headers.get(name) } : given;
}

/** A failure as an element: what went wrong, in the service's own words, and a way to try again. */
export function failure(error, again = null) {
  if (!(error instanceof Problem)) throw error;
  return el(
    "div",
    { class: "failure", role: "alert" },
    el("b", {}, error.title ?? text("shell.failed")),
    error.detail && el("p", {}, error.detail),
    error.retryAfter && el("p", {}, text("shell.retry_after", { seconds: error.retryAfter })),
    again && el("button", { type: "button", class: "button", onclick: again }, text("shell.again")),
  );
}
