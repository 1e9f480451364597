// A recorded inspection: its picture, where one is kept, its heat, and what is known about flaws like it.

import { call } from "./api.js";
import { el } from "./dom.js";
import { text } from "./shell.js";

const WIDE = 1600; // px of a picture on a page

export const imageOf = (id, width) => `/inspections/${encodeURIComponent(id)}/image?width=${width}`;

/** A small picture of an inspection, or a plain field where none is kept. */
export function thumbnail(id, stored, width = 160) {
  if (!stored) return el("span", { class: "thumb none", title: text("shell.picture_not_kept") });
  const image = el("img", { class: "thumb", src: imageOf(id, width), alt: "", loading: "lazy" });
  image.addEventListener("error", () => image.replaceWith(el("span", { class: "thumb none" })), { once: true });
  return image;
}

/** What pictureView takes of a record's picture. The heat is judged anew when it is wanted: records keep no maps. */
export function pictureOf(record) {
  const stored = record.image_stored;
  return {
    source: stored ? imageOf(record.id, WIDE) : null,
    absent: text("shell.picture_not_kept"),
    loadMap: stored ? () => call(`/inspections/${encodeURIComponent(record.id)}/map`) : null,
  };
}
