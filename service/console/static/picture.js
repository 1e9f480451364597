// A picture with its heat, its regions outlined, and the controls over them.

import { el, show, svg } from "./dom.js";
import { text } from "./shell.js";

const COOL = [255, 210, 0];
const HOT = [230, 0, 40];
const MOST_DRAWN = 1400; // px of the heat's longer side
const ZOOMS = [1, 2, 4, 8];

/**
 * The heat of an anomaly map on a canvas, in the colours of the service's overlay: from half the review threshold on.
 * `map`: {data (base64 of a 16-bit PNG), scale, offset}; a pixel p of 16 bits stands for offset + scale * p.
 */
async function heatOf(map, review, reject) {
  const bytes = Uint8Array.from(atob(map.data), (letter) => letter.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes], { type: map.media_type }), { colorSpaceConversion: "none" });
  const shrink = Math.min(1, MOST_DRAWN / Math.max(bitmap.width, bitmap.height));
  const canvas = el("canvas", {
    class: "heat",
    width: Math.max(1, Math.round(bitmap.width * shrink)),
    height: Math.max(1, Math.round(bitmap.height * shrink)),
    "aria-hidden": "true",
  });
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const picture = pen.getImageData(0, 0, canvas.width, canvas.height);
  const low = 0.5 * review;
  const span = Math.max(1.5 * reject - low, 1e-6);
  for (let at = 0; at < picture.data.length; at += 4) {
    const score = map.offset + map.scale * 257 * picture.data[at];
    const heat = Math.min(Math.max((score - low) / span, 0), 1);
    for (let channel = 0; channel < 3; channel++) {
      picture.data[at + channel] = COOL[channel] + (HOT[channel] - COOL[channel]) * heat;
    }
    picture.data[at + 3] = 255 * Math.sqrt(heat);
  }
  pen.putImageData(picture, 0, 0);
  return canvas;
}

/**
 * A figure: the picture, and over it heat and regions.
 * `source`: address of the picture, null when there is none to show; `absent`: what to say then; `size`: {width, height} in px of
 * the picture as judged; `regions`: with their boxes; `loadMap`: gives the anomaly map when its heat is first wanted, or null.
 */
export function pictureView({ source, absent = "", size, regions, review, reject, loadMap, heatFirst = false, onbroken }) {
  const drawn = svg("svg", { viewBox: `0 0 ${size.width} ${size.height}` });
  const outlines = el("div", { class: "outlines", "aria-hidden": "true" }, drawn);
  const boxes = (regions ?? []).map((region, index) => {
    const [x, y, width, height] = region.box;
    const group = svg("g", { class: "outline", "data-region": index });
    for (const layer of ["halo", "line"]) group.append(svg("rect", { class: layer, x, y, width, height, rx: 2 }));
    drawn.append(group);
    if (regions.length > 1) {
      const tag = el("span", { class: "tag small number" }, `${index + 1}`); // as in the list of regions
      tag.style.left = `max(.9em, ${(100 * x) / size.width}%)`; // whole at the picture's border, too
      tag.style.top = `max(.8em, ${(100 * y) / size.height}%)`;
      outlines.append(tag);
    }
    return group;
  });
  let chosen = null;
  const stress = (index) => {
    for (const [at, group] of boxes.entries()) group.classList.toggle("marked", at === index);
  };
  const image = el("img", { src: source, alt: text("shell.picture_alt", { count: boxes.length }), class: "pixels" });
  const stage = el("div", { class: "stage" }, image, outlines);
  const fitting = `calc(68vh * ${size.width / size.height})`;
  stage.style.maxWidth = fitting;
  stage.style.aspectRatio = `${size.width} / ${size.height}`;
  const view = el("div", { class: "picture-view", tabindex: "0", role: "group", "aria-label": text("shell.picture") }, stage);
  const trouble = el("p", { class: "soft small", role: "status" });

  let zoom = 0;
  const zoomed = (step) => {
    zoom = Math.min(Math.max(zoom + step, 0), ZOOMS.length - 1);
    stage.style.width = `${100 * ZOOMS[zoom]}%`;
    stage.style.maxWidth = zoom ? "none" : fitting;
    shown.textContent = `${ZOOMS[zoom]}×`;
  };
  const shown = el("output", { class: "small number" }, "1×");
  const slider = el("input", { type: "range", min: 0, max: 100, value: 65, "aria-label": text("shell.heat") });
  const heatField = el("label", { class: "heat-field", hidden: !loadMap }, el("span", { class: "small soft" }, text("shell.heat")), slider);

  let heat = null;
  async function heated() {
    heat ??= loadMap()
      .then((map) => heatOf(map, review, reject))
      .then((canvas) => (stage.insertBefore(canvas, outlines), canvas));
    try {
      (await heat).style.opacity = Number(slider.value) / 100;
      show(trouble);
    } catch (error) {
      heat = null;
      show(trouble, error.message);
    }
  }
  slider.addEventListener("input", heated);
  if (loadMap && heatFirst) heated();
  else slider.value = 0;

  const outline = el("button", {
    type: "button",
    class: "button quiet",
    "aria-pressed": "true",
    hidden: boxes.length === 0,
    onclick: () => {
      const on = outlines.classList.toggle("hidden");
      outline.setAttribute("aria-pressed", String(!on));
    },
  }, text("shell.outlines"));
  const controls = el(
    "div",
    { class: "row picture-controls" },
    heatField,
    outline,
    el(
      "span",
      { class: "row zoom end" },
      el("button", { type: "button", class: "button quiet icon", "aria-label": text("shell.zoom_out"), onclick: () => zoomed(-1) }, "−"),
      shown,
      el("button", { type: "button", class: "button quiet icon", "aria-label": text("shell.zoom_in"), onclick: () => zoomed(1) }, "+"),
    ),
  );
  const figure = el("figure", { class: "picture" }, view, controls, trouble);

  function missing(words) {
    image.remove();
    stage.prepend(el("p", { class: "no-picture" }, words));
  }
  if (!source) missing(absent);
  image.addEventListener("error", () => (onbroken ? onbroken(image) : missing(text("shell.picture_broken"))), { once: true });

  return {
    element: figure,
    /** Put stress on a region; null: on the chosen one again. */
    mark(index) {
      stress(index ?? chosen);
    },
    /** Let the stress stay on a region. */
    choose(index) {
      chosen = index;
      stress(index);
    },
  };
}
