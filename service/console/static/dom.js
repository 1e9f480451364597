// Elements, made one way: texts are always texts, whatever a file name or a label holds.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") throw new Error("the page's policy forbids style attributes; use a class or node.style");
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** el("td", {class: "number", onclick: act}, "text", otherElement). Null and false are left out. */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** Put `children` in place of what `node` holds. */
export function show(node, ...children) {
  node.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
}

/** The element of an id; it must be there. */
export function at(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`no element #${id}`);
  return found;
}

const lastShown = new WeakMap(); // node -> what `showChanged` showed in it, as JSON

/** Put what `make` gives in place of what `node` holds, but only when `state` is another than last time: focus, scroll and what was
 * typed stay where a page asks again and again. */
export function showChanged(node, state, make) {
  const told = JSON.stringify(state);
  if (lastShown.get(node) === told) return;
  lastShown.set(node, told);
  show(node, [make()]);
}

/**
 * A list that is drawn anew under a person's hands: keyedList(node, item => ({id, state, make})) -> draw(items). An entry is made again
 * only when its state changes, and takes the focus of the one before; the others are not touched.
 */
export function keyedList(node, describe) {
  let before = new Map(); // id -> {state, element}
  return (items) => {
    const now = new Map();
    for (const item of items) {
      const { id, state, make } = describe(item);
      const told = JSON.stringify(state);
      const there = before.get(id);
      now.set(id, there?.state === told ? there : { state: told, element: make() });
    }
    const focused = [...before].find(([, entry]) => entry.element.contains(document.activeElement))?.[0];
    const kept = new Set([...now.values()].map((entry) => entry.element));
    const refocus = focused !== undefined && !kept.has(before.get(focused).element);
    for (const child of [...node.children]) if (!kept.has(child)) child.remove();
    [...kept].forEach((element, place) => {
      if (node.children[place] !== element) node.insertBefore(element, node.children[place] ?? null);
    });
    if (refocus) now.get(focused)?.element.querySelector("button, a")?.focus({ preventScroll: true });
    before = now;
  };
}

/** For answers that may come late: `const begin = latest()`, then at each asking `const current = begin()`, and after the answer
 * `if (!current()) return`, since something newer was asked meanwhile. */
export function latest() {
  let newest = 0;
  return () => {
    const mine = ++newest;
    return () => mine === newest;
  };
}
