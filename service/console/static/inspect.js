// Inspect: pictures in by drop, paste, pick or camera; each is sent to /classify and shown with its verdict and words.

import { Problem, call, failure } from "./api.js";
import { at, el, keyedList, latest, show } from "./dom.js";
import { inspectionView } from "./inspection.js";
import { text, toast, viewer } from "./shell.js";
import { badge } from "./verdict.js";

const AT_ONCE = 2;
const TRIES = 5; // of a picture that a full queue turned away
const TEXT_FIELD = "textarea, input:not([type=file], [type=range])";

const items = []; // {file, name, source, asked: {path, described}, state: waiting | asking | done | failed, result, budget, error}
let chosen = null;

// ---- pictures in

function take(files) {
  const pictures = [...files].filter((file) => file.type.startsWith("image/") || /\.(tiff?|bmp)$/i.test(file.name));
  show(at("trouble"));
  if (pictures.length < files.length) {
    show(at("trouble"), failure(new Problem({ title: text("no_picture"), detail: text("no_picture_help") })));
  }
  if (pictures.length === 0) return;
  const asked = askedNow(); // now, not at a picture's turn: the fields may then hold the next lot
  const fresh = pictures.map((file) => ({ file, name: file.name, source: URL.createObjectURL(file), asked, state: "waiting" }));
  items.unshift(...fresh);
  chosen = fresh[0];
  draw();
  work();
}

at("files").addEventListener("change", (event) => {
  take(event.target.files);
  event.target.value = "";
});

let depth = 0; // of nested dragenter events
document.addEventListener("dragenter", () => document.body.classList.toggle("dropping", ++depth > 0));
document.addEventListener("dragleave", () => document.body.classList.toggle("dropping", --depth > 0));
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  document.body.classList.remove("dropping");
  if (event.dataTransfer.files.length) take(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => {
  const { files, types } = event.clipboardData;
  // Office copies a text with a picture of it: into a field goes the text
  if (types.includes("text/plain") && event.target.matches?.(TEXT_FIELD)) return;
  if (files.length) take(files);
});

// ---- the camera

let film = null;
const beginFilm = latest();
const stop = (stream) => stream?.getTracks().forEach((track) => track.stop());

async function openCamera() {
  const current = beginFilm();
  show(at("camera-trouble"));
  at("shoot").disabled = true; // until there is something to take
  at("viewfinder").showModal();
  try {
    if (!navigator.mediaDevices) throw new Problem({ title: text("no_camera"), detail: text("camera_needs_https") });
    const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1920 } } });
    if (!current()) return stop(stream); // closed before the camera was allowed
    at("video").srcObject = film = stream;
  } catch (error) {
    if (!current()) return;
    const told = error instanceof Problem ? error : new Problem({ title: text("no_camera"), detail: error.message });
    show(at("camera-trouble"), failure(told));
  }
}

function closeCamera() {
  beginFilm();
  stop(film);
  film = at("video").srcObject = null;
  at("viewfinder").close();
}

at("camera").addEventListener("click", openCamera);
at("video").addEventListener("playing", () => (at("shoot").disabled = false));
at("camera-close").addEventListener("click", closeCamera);
at("viewfinder").addEventListener("cancel", closeCamera);
at("shoot").addEventListener("click", () => {
  const video = at("video");
  const canvas = el("canvas", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  const name = `camera-${new Date().toISOString().replace(/[:.]/g, "-")}.png`;
  canvas.toBlob((blob) => take([new File([blob], name, { type: "image/png" })]), "image/png");
  closeCamera();
});

// ---- asking

function query(more = {}) {
  const asked = new URLSearchParams(more);
  const model = at("model").value;
  if (model) asked.set("model", model);
  return asked.size ? `?${asked}` : "";
}

function bodyOf(item, described) {
  const body = new FormData();
  for (const [name, value] of described) body.append(name, value);
  body.append("image", item.file, item.name);
  return body;
}

const about = () => [...new FormData(at("about"))].map(([name, value]) => [name, value.trim()]).filter(([, value]) => value);

/** What the page's fields now ask of a picture. */
function askedNow() {
  const store = document.getElementById("store")?.value;
  return { path: `/classify${query({ include: "regions,map", ...(store && { store }) })}`, described: about() };
}

let asking = 0;

async function work() {
  while (asking < AT_ONCE) {
    const item = items.find((each) => each.state === "waiting");
    if (!item) return;
    asking += 1;
    item.state = "asking";
    draw();
    ask(item).finally(() => {
      asking -= 1;
      draw();
      work();
    });
  }
}

async function ask(item) {
  const { path, described } = item.asked;
  for (let attempt = 1; ; attempt++) {
    try {
      const { answer, header } = await call(path, { method: "POST", body: bodyOf(item, described), full: true });
      const [result] = answer.results;
      item.result = { ...result, model: answer.model };
      item.budget = budgetIn(header("server-timing"));
      item.state = "done";
      at("said").textContent = `${item.name}: ${text(`verdicts.${result.verdict}`)}`;
      return;
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      if (error.status !== 429 || attempt === TRIES) {
        item.error = error;
        item.state = "failed";
        return;
      }
      await new Promise((ready) => setTimeout(ready, 1000 * Number(error.retryAfter ?? 1)));
    }
  }
}

/** The picture's latency budget in ms, as the answer's Server-Timing has it. */
function budgetIn(timing) {
  const found = /\bbudget;dur=([\d.]+)/.exec(timing ?? "");
  return found ? Number(found[1]) : null;
}

// ---- showing

function draw() {
  at("empty").hidden = items.length > 0;
  at("results").hidden = items.length === 0;
  drawStrip(items);
  if (chosen && chosen.shownState !== chosen.state) {
    chosen.shownState = chosen.state;
    show(at("shown"), shownOf(chosen));
  }
}

function choose(item) {
  if (chosen) chosen.shownState = null;
  chosen = item;
  chosen.shownState = null;
  draw();
}

const drawStrip = keyedList(at("strip"), (item) => ({
  id: item.source,
  state: [item.state, item === chosen, item.result?.verdict],
  make: () => thumb(item),
}));

function thumb(item) {
  const state = item.state === "done" ? badge(item.result.verdict) : el("span", { class: "small soft" }, text(`state_${item.state}`));
  return el(
    "li",
    {},
    el(
      "button",
      { type: "button", "aria-current": String(item === chosen), onclick: () => choose(item) },
      el("img", { class: "thumb", src: item.source, alt: "" }),
      state,
      el("span", { class: "name", title: item.name }, item.name),
    ),
  );
}

function shownOf(item) {
  const heading = el("h2", { class: "break" }, item.name);
  if (item.state === "failed") return [heading, failure(item.error, () => again(item))];
  if (item.state !== "done") {
    const picture = el("img", { src: item.source, alt: "", class: "waiting-picture" });
    return [heading, el("p", { class: "busy", role: "status" }, text("asking")), picture];
  }
  const { result } = item;
  const view = inspectionView(result, {
    budget: item.budget,
    picture: {
      source: item.source,
      loadMap: async () => result.anomaly_map,
      heatFirst: true,
      onbroken: (image) => showOverlay(item, image),
    },
  });
  const away = [
    el("button", { type: "button", class: "button", onclick: () => download(item) }, text("download")),
    el("button", { type: "button", class: "button", onclick: () => copyCurl(item) }, text("curl")),
  ];
  return [el("div", { class: "row" }, heading, el("span", { class: "row end" }, away)), view];
}

/** Asks the same of the picture once more, whatever the page's fields hold by now. */
function again(item) {
  item.state = "waiting";
  draw();
  work();
}

// ---- what can be taken away

/** The part was inspected already: this is a look at it, which does not count, whether it was kept or not. */
async function overlayOf(item) {
  const { name, version } = item.result.model;
  const path = `/detect?${new URLSearchParams({ model: name, version, counted: false })}`;
  const answer = await call(path, { method: "POST", body: bodyOf(item, []), headers: { accept: "image/png" } });
  return URL.createObjectURL(await answer.blob());
}

/** A format that this browser cannot show (TIFF) is shown as the service's own overlay. */
async function showOverlay(item, image) {
  try {
    image.src = await overlayOf(item);
  } catch (error) {
    toast(error.message, { failed: true });
  }
}

async function download(item) {
  try {
    const address = await overlayOf(item);
    el("a", { href: address, download: `${item.name.replace(/\.\w+$/, "")}-overlay.png` }).click();
    URL.revokeObjectURL(address);
  } catch (error) {
    toast(error.message, { failed: true });
  }
}

const quoted = (word) => (/^[\w@%+=:,./?&-]+$/.test(word) && !word.includes("&") && !word.includes("?") ? word : `'${word.replaceAll("'", `'\\''`)}'`);

/** The request that the part was judged by, whatever the page's fields hold by now. */
function curlOf(item) {
  const { path, described } = item.asked;
  const words = ["curl"];
  if (viewer.keys) words.push("-H", '"X-API-Key: $INSPECT_KEY"');
  for (const [name, value] of described) words.push("--form-string", quoted(`${name}=${value}`)); // -F would read a file for @name
  words.push("-F", quoted(`image=@"${item.name.replace(/[\\"]/g, "\\$&")}"`), quoted(`${location.origin}${path}`));
  return words.join(" ");
}

async function copyCurl(item) {
  const line = curlOf(item);
  try {
    await navigator.clipboard.writeText(line);
    toast(text("copied"));
  } catch {
    // no clipboard without HTTPS: show it to be taken by hand
    const dialog = el(
      "dialog",
      { "aria-label": text("curl") },
      el("div", { class: "stack" }, el("code", { id: "curl" }, line), el("form", { method: "dialog" }, el("button", { class: "button" }, text("shell.close")))),
    );
    dialog.addEventListener("close", () => dialog.remove());
    document.body.append(dialog);
    dialog.showModal();
    getSelection().selectAllChildren(dialog.querySelector("code"));
  }
}

// ---- which models there are

async function offerModels() {
  try {
    const { models } = await call("/models");
    if (models.length === 0) show(at("trouble"), failure(new Problem({ title: text("no_model"), detail: text("no_model_help") })));
    at("model-field").hidden = models.length < 2;
    const line = (model) => {
      const silent = model.active_version === null;
      const words = silent ? text("not_in_service", { name: model.name }) : `${model.name} ${model.active_version}`;
      return el("option", { value: model.name, selected: model.default, disabled: silent }, words);
    };
    show(at("model"), models.map(line));
  } catch (error) {
    const again = () => {
      show(at("trouble"));
      offerModels();
    };
    show(at("trouble"), failure(error, again));
  }
}

const store = document.getElementById("store");
if (store) {
  store.value = localStorage.getItem("store") ?? (viewer.storing === "none" ? "none" : "image");
  store.addEventListener("change", () => localStorage.setItem("store", store.value));
}
offerModels();
