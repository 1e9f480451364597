// Train: order a training, watch it, cancel it. It lives in the service; this page may come and go.

import { call, failure, Problem } from "./api.js";
import { ask } from "./ask.js";
import { axes, curve, dot, frame, logTicks, ticks } from "./chart.js";
import { at, el, keyedList, latest, show, showChanged } from "./dom.js";
import { text, toast, viewer } from "./shell.js";
import { number, when } from "./verdict.js";

const EVERY_MS = 2000;
const OPTIONS = [
  "name", "teacher", "recipe", "steps", "working_size", "lighting", "layout", "min_flaw_px", "min_flaw_mm", "mm_per_pixel", "group_by",
]; // as they are given
const SIGNS = { running: "review", done: "ok", failed: "not_ok", cancelled: "undecidable", interrupted: "not_ok" };

const form = at("order");
let watched = null; // id of the training shown
let timer = 0;
let sending = false; // an order is on its way
let known = []; // the trainings as last listed
const beginWatch = latest();
const beginList = latest();

const badge = (state) => el("span", { class: "badge", "data-verdict": SIGNS[state] }, text(`state_${state}`));

function time(seconds) {
  if (seconds < 90) return text("seconds", { seconds: Math.max(1, Math.round(seconds)) });
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return text("minutes", { minutes });
  return text("hours", { hours: Math.floor(minutes / 60), minutes: minutes % 60 });
}

function chart({ curve: losses, scores, steps }) {
  const logs = losses.map(([, loss]) => Math.log10(Math.max(loss, 1e-9)));
  const low = Math.min(...logs);
  const high = Math.max(...logs, low + 0.1);
  const label = text("curve_chart", { first: number(losses[0][1]), last: number(losses.at(-1)[1]), steps: losses.at(-1)[0] });
  const plot = frame([0, steps], [low, high], label);
  const separation = (score) => plot.y(low + score * (high - low));
  return plot.draw(
    axes(plot, ticks(0, steps), logTicks(low, high), (value) => value.toLocaleString(), (value) => number(10 ** value)),
    curve(losses.map(([step], index) => [plot.x(step), plot.y(logs[index])]), "series"),
    scores.map(([step, score]) => dot([plot.x(step), separation(score)], "good", text("separation_at", { step, score: score.toFixed(3) }), 5)),
  );
}

function progress(told) {
  if (told.state !== "running") return null;
  const known = told.steps > 0 && told.phase === "training";
  return el("div", { class: "stack" },
    el("p", {}, el("b", {}, text(`phase_${told.phase}`)), known && ` · ${text("step_of", { step: told.step.toLocaleString(), steps: told.steps.toLocaleString() })}`,
      known && told.loss !== null && ` · ${text("loss")} ${number(told.loss)}`),
    el("progress", { class: "progress", max: 1, ...(known ? { value: told.step / told.steps } : {}), "aria-label": text(`phase_${told.phase}`) }),
    known && told.seconds_left !== null && el("p", { class: "soft small" }, text("left", { time: time(told.seconds_left) })));
}

function draw(told) {
  at("watched").hidden = false;
  at("empty").hidden = true;
  at("watched-title").textContent = told.name;
  show(at("watched-state"), badge(told.state));
  const running = told.state === "running";
  at("cancel").hidden = !running;
  at("resume").hidden = running || told.state === "done";
  at("remove").hidden = running;
  at("to-models").hidden = told.state !== "done";
  at("to-models").href = `/console/models?model=${encodeURIComponent(told.name)}`;
  // part by part, each only when it has changed: it is asked again and again while a person reads, listens or scrolls
  showChanged(at("progress"), [told.state, told.phase, told.step, told.seconds_left], () => progress(told));
  showChanged(at("outcome"), [told.id, told.state, told.error, told.left_out], () => outcome(told));
  showChanged(at("curve"), [told.id, told.curve, told.scores], () => told.curve.length > 1 && el("figure", { class: "stack" }, chart(told), el("figcaption", { class: "soft small" }, text("curve"))));
  showChanged(at("samples"), told.samples, () => told.samples.length > 0 && samples(told.samples));
  showChanged(at("said"), told.said, () => told.said.length > 0 && el("div", { class: "stack" }, el("h3", {}, text("said")), el("ul", { class: "small said" }, told.said.slice(-8).map((said) => el("li", { class: "break" }, said)))));
  drawLog(told.log_tail);
}

const reportOf = ({ name, version }) => `/models/${encodeURIComponent(name)}/versions/${version}/report`;

function outcome(told) {
  return el("div", { class: "stack" },
    told.state === "done" && el("p", { class: "notice" }, text("done_text", { version: told.version, name: told.name }), " ", el("a", { href: reportOf(told), target: "_blank", rel: "noopener" }, text("report"))),
    told.error && told.state !== "cancelled" && el("div", { class: "failure", role: "alert" }, el("b", {}, text(`state_${told.state}`)), el("p", {}, told.error)),
    told.left_out > 0 && el("p", { class: "soft small" }, text("left_out", { count: told.left_out })));
}

function samples(pictures) {
  return el("div", { class: "stack" }, el("h3", {}, text("samples", { step: pictures[0].step })),
    el("div", { class: "samples" }, pictures.map((each) => {
      const word = text(each.flawed ? "sample_flawed" : "sample_good");
      return el("figure", {}, el("img", { src: each.url, alt: word }), el("figcaption", {}, `${word} · ${text("score_of", { score: number(each.score) })}`));
    })));
}

/** The log follows its end, unless it was scrolled back. */
function drawLog(lines) {
  const place = at("log-text");
  at("log").hidden = lines.length === 0;
  const atEnd = place.scrollTop + place.clientHeight >= place.scrollHeight - 4;
  showChanged(place, lines, () => lines.join("\n"));
  if (atEnd) place.scrollTop = place.scrollHeight;
}

async function watch(id) {
  const current = beginWatch();
  clearTimeout(timer);
  watched = id;
  drawPast(known);
  try {
    const told = await call(`/trainings/${encodeURIComponent(id)}`);
    if (!current()) return;
    draw(told);
    show(at("trouble"));
    if (told.state === "running") timer = setTimeout(() => watch(id), EVERY_MS);
    else await list();
  } catch (error) {
    if (!current()) return;
    show(at("trouble"), failure(error, () => watch(id)));
    if (error.status === 0 || error.status >= 500) timer = setTimeout(() => watch(id), EVERY_MS); // a service that restarts
  }
}

const drawPast = keyedList(at("past-rows"), (each) => ({
  id: each.id,
  state: [each.state, each.id === watched],
  make: () => el("tr", {},
    el("td", {}, el("button", { type: "button", class: "chip", "aria-pressed": String(each.id === watched), onclick: () => watch(each.id) }, each.name)),
    el("td", {}, badge(each.state)),
    el("td", { class: "soft small" }, when(each.created_at))),
}));

async function list() {
  const current = beginList();
  const told = await call("/trainings");
  if (!current()) return told;
  const teacher = form.elements.teacher;
  if (!teacher.options.length) show(teacher, el("option", { value: "" }, text("teacher_default")), told.teachers.map((name) => el("option", { value: name }, name)));
  const why = told.why_not ?? (told.running ? text("running_already") : null);
  at("start").disabled = why !== null || sending;
  show(at("why-not"), why && el("p", { class: "notice" }, told.why_not && el("b", {}, `${text("why_not")}: `), why));
  at("folder-help").textContent = told.folders_below ? text("folder_help", { root: told.folders_below }) : text("folder_none");
  form.querySelector('[value="folder"]').disabled = !told.folders_below;
  at("past").hidden = told.trainings.length === 0;
  at("past-none").hidden = told.trainings.length > 0;
  known = told.trainings;
  drawPast(known);
  return told;
}

/** Send a form with how far it is; fetch cannot tell of an upload. Gives JSON or throws Problem. */
function upload(body, progressed) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", "/trainings");
    if (viewer.csrf) request.setRequestHeader("x-csrf-token", viewer.csrf);
    request.upload.onprogress = (event) => event.lengthComputable && progressed(event.loaded / event.total);
    request.onerror = async () => reject(await Problem.of(null));
    request.onload = () => {
      let told;
      try {
        told = JSON.parse(request.responseText);
      } catch {
        told = { title: request.statusText || text("shell.failed") };
      }
      if (request.status === 201) resolve(told);
      else reject(new Problem({ ...told, status: request.status }));
    };
    request.send(body);
  });
}

function ordered() {
  const given = new FormData(form);
  const options = { global_map: String(given.has("global_map")), false_reject_rate: String(Number(given.get("false_reject_percent")) / 100) };
  for (const name of OPTIONS)
    if (given.get(name)) options[name] = given.get(name).trim();
  return { options, given };
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const { options, given } = ordered();
  const bar = at("sending").querySelector("progress");
  sending = at("start").disabled = true;
  show(at("refusal"));
  try {
    let told;
    if (given.get("source") === "folder") {
      told = await call("/trainings", { method: "POST", json: { ...options, folder: given.get("folder").trim() } });
    } else {
      const body = new FormData();
      for (const [name, value] of Object.entries(options)) body.set(name, value);
      body.set("pictures", given.get("pictures"));
      at("sending").hidden = false;
      told = await upload(body, (share) => { bar.value = share; });
    }
    sending = false;
    toast(text("started"));
    await watch(told.id);
    await list();
  } catch (error) {
    show(at("refusal"), failure(error));
    sending = at("start").disabled = false;
  } finally {
    at("sending").hidden = true;
  }
});

form.addEventListener("invalid", (event) => event.target.closest("details")?.setAttribute("open", ""), true); // else nobody sees which
form.elements.min_flaw_mm.addEventListener("input", (event) => {
  form.elements.mm_per_pixel.required = event.target.value !== ""; // said now, and not after the upload
});
for (const choice of form.elements.source)
  choice.addEventListener("change", () => {
    for (const field of form.querySelectorAll("[data-source]")) {
      field.hidden = field.dataset.source !== form.elements.source.value;
      field.querySelector("input").required = !field.hidden;
    }
  });

async function act(button, method, rest, done) {
  const id = watched;
  button.disabled = true;
  try {
    await call(`/trainings/${encodeURIComponent(id)}${rest}`, { method });
    toast(text(done));
  } catch (error) {
    show(at("trouble"), failure(error));
    return;
  } finally {
    button.disabled = false;
  }
  if (method === "DELETE") await begin();
  else {
    if (watched === id) await watch(id);
    await list();
  }
}

at("cancel").addEventListener("click", (event) => act(event.currentTarget, "POST", "/cancel", "cancelled"));
at("resume").addEventListener("click", (event) => act(event.currentTarget, "POST", "/resume", "resumed"));
at("remove").addEventListener("click", async (event) => {
  const button = event.currentTarget;
  if (await ask(text("remove_title"), text("remove_text"), text("remove"))) await act(button, "DELETE", "", "removed");
});

async function begin() {
  try {
    const told = await list();
    const first = told.running ?? told.trainings[0]?.id;
    at("empty").hidden = Boolean(first);
    at("watched").hidden = !first;
    if (first) await watch(first);
  } catch (error) {
    show(at("trouble"), failure(error, begin));
  }
}
begin();
