// Reports: choose a span and what is meant, read the report in a frame that can do nothing, download it.

import { call, failure } from "./api.js";
import { at, latest, show } from "./dom.js";

const form = at("scope");

function query() {
  const given = new FormData(form);
  const asked = new URLSearchParams();
  const days = Number(given.get("span"));
  if (days) asked.set("from", new Date(Date.now() - days * 86400e3).toISOString());
  else for (const name of ["from", "to"]) if (given.get(name)) asked.set(name, new Date(given.get(name)).toISOString());
  for (const name of ["product", "lot"]) if (given.get(name).trim()) asked.set(name, given.get(name).trim());
  if (given.has("summary")) asked.set("summary", "true");
  return asked;
}

const address = (asked, format) => `/reports?${new URLSearchParams([...asked, ["format", format]])}`;

const begin = latest();

async function read() {
  const current = begin();
  const asked = query();
  const figures = new URLSearchParams(asked);
  figures.delete("summary"); // the LLM is asked once, for what is read
  show(at("trouble"));
  try {
    await call(address(figures, "json")); // first as JSON: a frame could not say what was wrong
    if (!current()) return;
  } catch (error) {
    if (!current()) return;
    at("reading").hidden = true;
    show(at("trouble"), failure(error, read));
    return;
  }
  for (const link of document.querySelectorAll("[data-form]")) link.href = address(link.dataset.form === "csv" ? figures : asked, link.dataset.form); // a table holds no summary
  for (const link of document.querySelectorAll("[data-form]")) link.download = `report.${link.dataset.form}`;
  at("alone").href = address(asked, "html");
  at("waiting").hidden = !asked.has("summary");
  frame(at("alone").href);
  at("reading").hidden = false;
}

function frame(src) {
  // a new frame each time: browsers lose an address that is given while another is being loaded, and "back" would turn leaves
  const fresh = Object.assign(at("report").cloneNode(), { src });
  fresh.addEventListener("load", () => (at("waiting").hidden = true));
  at("report").replaceWith(fresh);
}

document.querySelector('[data-form="pdf"]').addEventListener("click", async (event) => {
  event.preventDefault();
  const asked = event.currentTarget;
  if (asked.getAttribute("aria-disabled") === "true") return; // it is being made
  asked.setAttribute("aria-disabled", "true");
  asked.classList.add("making");
  try {
    const answer = await call(asked.href);
    const link = Object.assign(document.createElement("a"), {
      href: URL.createObjectURL(await answer.blob()),
      download: "report.pdf",
    });
    link.click();
    URL.revokeObjectURL(link.href);
  } catch (error) {
    show(at("trouble"), failure(error));
  } finally {
    asked.removeAttribute("aria-disabled");
    asked.classList.remove("making");
  }
});

form.elements.span.addEventListener("change", () => {
  for (const field of form.querySelectorAll("[data-own]")) field.hidden = form.elements.span.value !== "own";
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  read();
});
read();
