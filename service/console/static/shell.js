// What every page has: its texts, who looks, theme and logout buttons, short messages.

const told = JSON.parse(document.getElementById("told").textContent);

/** Who looks: {scopes: ["detect", …], csrf, keys: are keys asked for, storing: off, none, record or image}. */
export const viewer = told.viewer;

export const may = (scope) => viewer.scopes.includes(scope);

/** The text of a key: of this page, or `shell.…`, `verdicts.…`; {name} in it stands for values.name. */
export function text(key, values = {}) {
  const [first, ...rest] = key.split(".");
  const shared = first === "shell" || first === "verdicts";
  let found = shared ? told.texts[first] : told.texts.page;
  for (const part of shared ? rest : [first, ...rest]) found = found?.[part];
  if (typeof found !== "string") throw new Error(`no text ${key}`);
  return found.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}

/** Say something short in the corner; `failed` stays longer. Screen readers hear it. */
export function toast(message, { failed = false } = {}) {
  const line = document.createElement("p");
  line.className = failed ? "toast failed" : "toast";
  line.textContent = message;
  document.getElementById("toasts").append(line);
  setTimeout(() => line.remove(), failed ? 12000 : 5000);
}

// Where the pages do not all fit, the one that is open is in view. By hand: after scrollIntoView Tab would start from there.
const opened = document.querySelector(".pages [aria-current]");
if (opened) {
  const pages = opened.closest(".pages");
  const [inner, outer] = [opened, pages].map((each) => each.getBoundingClientRect());
  pages.scrollLeft += (inner.left + inner.right - outer.left - outer.right) / 2;
}

document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("theme", root.dataset.theme);
});

document.getElementById("logout")?.addEventListener("click", async () => {
  await fetch("/logout", { method: "POST", headers: { "x-csrf-token": viewer.csrf } });
  location.assign("/login");
});
