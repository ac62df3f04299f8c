// A value as a tree of text that folds. What the server sends of a value:
//
//     null, true, 12, "text"                       as they are
//     {kind: "map", type, size, parts: [[key, value] …]}    parts may be fewer than size, or missing: ask for them
//     {kind: "list", type, size, parts: [value …]}
//     {kind: "text", size, text}                   the beginning of a long text
//     {kind: "atom", type, text}                   everything else, as its text
//
// A key is a text, or {type, text} where it is something else. A value's place is the way down to it, "0.12.3".

import { el, fill } from "./dom.js";
import { bytes, count } from "./words.js";

const OPEN_AT_FIRST = 40; // values that are unfolded without being asked

/** load(place, from) -> the value there, its parts from that one on. */
export function tree(value, label, load = null) {
  const root = el("ul", { class: "tree", role: "tree", "aria-label": label });
  const view = { load, left: OPEN_AT_FIRST };
  if (holds(value)) root.append(...items(view, value, "", 1, 0));
  if (holds(value) && !value.size) root.append(el("li", { class: "empty", role: "none" }, "nothing"));
  if (!holds(value)) root.append(item(view, null, value, "", 1));
  root.querySelector("[role=treeitem]")?.setAttribute("tabindex", "0");
  root.addEventListener("keydown", (event) => key(root, event));
  root.addEventListener("click", (event) => clicked(root, event));
  return root;
}

/** A value in one line. */
export function brief(value) {
  if (typeof value === "string") return JSON.stringify(value.length > 80 ? `${value.slice(0, 80)}…` : value);
  if (value === null || typeof value !== "object") return String(value);
  if (value.kind === "text" || value.kind === "atom") return value.text.slice(0, 80);
  const parts = (value.parts ?? []).slice(0, 6).map((part) => within(value.kind, part));
  if (parts.length < value.size) parts.push("…");
  return value.kind === "map" ? `{${parts.join(", ")}}` : `[${parts.join(", ")}]`;
}

function within(kind, part) {
  if (kind === "list") return holds(part) ? nutshell(part) : brief(part);
  const [name, value] = part;
  return `${keyText(name)}: ${holds(value) ? nutshell(value) : brief(value)}`;
}

function nutshell(value) {
  return value.kind === "map" ? `{${value.size}}` : `[${value.size}]`;
}

function keyText(name) {
  return typeof name === "string" ? name : name.text;
}

function holds(value) {
  return value !== null && typeof value === "object" && (value.kind === "map" || value.kind === "list");
}

function items(view, value, place, level, first) {
  const made = (value.parts ?? []).map((part, number) => {
    const [name, inner] = value.kind === "map" ? part : [{ text: String(first + number), type: "" }, part];
    return item(view, name, inner, place === "" ? `${first + number}` : `${place}.${first + number}`, level);
  });
  const shown = first + (value.parts ?? []).length;
  if (shown < value.size) made.push(more(view, value, place, level, shown));
  return made;
}

function item(view, name, value, place, level) {
  const node = el("div", { class: "node" }, name === null ? null : keyOf(name), valueOf(value));
  const made = el("li", { role: "treeitem", tabindex: "-1", "aria-level": level }, node);
  if (holds(value) && value.size) foldable(view, made, value, place, level);
  else if (value?.kind === "text" && value.text.length < value.size) node.append(wholeText(view, node, place));
  return made;
}

function keyOf(name) {
  const shown = typeof name === "string" ? (name === "" ? '""' : name) : name.text;
  const kind = typeof name === "string" ? "" : name.type ? " atom" : " place";
  return el("span", { class: `key${kind}`, title: name.type || null }, shown);
}

function valueOf(value) {
  if (typeof value === "string") return el("span", { class: "value string" }, JSON.stringify(value));
  if (typeof value === "number") return el("span", { class: "value number" }, String(value));
  if (value === null || typeof value === "boolean") return el("span", { class: "value atom" }, String(value));
  if (value.kind === "text") return el("span", { class: "value string" }, JSON.stringify(value.text));
  if (value.kind === "atom") return el("span", { class: "value atom" }, value.text, el("span", { class: "type" }, `  ${value.type}`));
  const what = value.kind === "map" ? `{${value.size}}` : `[${value.size}]`;
  const type = ["dict", "list"].includes(value.type) ? what : `${value.type} ${what}`;
  return el("span", { class: "value cut" }, el("span", { class: "type" }, type), el("span", { class: "brief" }, `  ${brief(value)}`));
}

function foldable(view, made, value, place, level) {
  made.fold = async (open) => {
    if (open && !made.querySelector(":scope > ul")) {
      const inner = el("ul", { role: "group" });
      made.append(inner);
      await unfold(view, inner, value, place, level);
    }
    made.setAttribute("aria-expanded", String(open));
    const inner = made.querySelector(":scope > ul");
    if (inner) inner.hidden = !open;
  };
  made.setAttribute("aria-expanded", "false");
  if (value.parts && value.parts.length <= view.left && level < 4) {
    view.left -= value.parts.length;
    const inner = el("ul", { role: "group" }, items(view, value, place, level + 1, 0));
    made.append(inner);
    made.setAttribute("aria-expanded", "true");
  }
}

async function unfold(view, inner, value, place, level) {
  try {
    const whole = value.parts ? value : await view.load(place, 0);
    fill(inner, items(view, whole, place, level + 1, 0));
  } catch (error) {
    fill(inner, el("li", { class: "empty" }, error.message));
  }
}

/** The row that loads further parts. */
function more(view, value, place, level, shown) {
  const words = view.load ? `… ${count(value.size - shown, "more", "more")}` : `… ${value.size - shown} not shown`;
  const made = el("li", { role: "treeitem", tabindex: "-1", "aria-level": level }, el("div", { class: "node" }, el("span", { class: "type" }, words)));
  made.fold = async () => {
    if (!view.load) return;
    try {
      const next = await view.load(place, shown);
      const added = items(view, next, place, level, shown);
      const focused = document.activeElement === made;
      made.replaceWith(...added);
      if (focused) focus(added[0]?.closest(".tree"), added[0]);
    } catch (error) {
      fill(made, el("div", { class: "node" }, error.message));
    }
  };
  return made;
}

function wholeText(view, node, place) {
  const button = el("button", { type: "button", class: "link", tabindex: "-1" }, "whole text");
  if (!view.load) return null;
  button.addEventListener("click", async () => {
    const whole = await view.load(place, 0);
    node.querySelector(".value").textContent = JSON.stringify(whole.text ?? whole);
    button.remove();
    if (whole.text && whole.text.length < whole.size) node.append(el("span", { class: "type" }, `  the first ${bytes(whole.text.length)} of ${bytes(whole.size)}`));
  });
  return button;
}

// --- keys and clicks: the pattern of a tree, with one stop for Tab ---

function focus(root, item) {
  if (!root || !item) return;
  root.querySelectorAll("[tabindex='0']").forEach((other) => other.setAttribute("tabindex", "-1"));
  item.setAttribute("tabindex", "0");
  item.focus();
}

function visible(root) {
  return [...root.querySelectorAll("[role=treeitem]")].filter((item) => !item.closest("ul[hidden]"));
}

function clicked(root, event) {
  if (event.target.closest("button") || String(getSelection())) return; // somebody marks text
  const item = event.target.closest("[role=treeitem]");
  if (!item || !event.target.closest(".node")) return;
  focus(root, item);
  item.fold?.(item.getAttribute("aria-expanded") !== "true");
}

function key(root, event) {
  const item = event.target.closest("[role=treeitem]");
  if (!item || event.target !== item || event.ctrlKey || event.metaKey || event.altKey) return;
  const all = visible(root);
  const at = all.indexOf(item);
  const open = item.getAttribute("aria-expanded");
  const move = { ArrowDown: at + 1, j: at + 1, ArrowUp: at - 1, k: at - 1, Home: 0, End: all.length - 1 }[event.key];
  if (move !== undefined) focus(root, all[Math.max(0, Math.min(all.length - 1, move))]);
  else if (event.key === "ArrowRight" && open === "true") focus(root, all[at + 1]);
  else if (event.key === "ArrowRight" && open === "false") item.fold(true);
  else if (event.key === "ArrowLeft" && open === "true") item.fold(false);
  else if (event.key === "ArrowLeft") focus(root, item.parentElement.closest("[role=treeitem]"));
  else if (event.key === "Enter" || event.key === " ") {
    const button = item.querySelector(":scope > .node button");
    if (button) button.click();
    else item.fold?.(open !== "true");
  } else return;
  event.preventDefault();
  event.stopPropagation();
}
