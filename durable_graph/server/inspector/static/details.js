// What is shown of the step that is chosen, in tabs: what it wrote, the state, what differs, the graph, what can be
// done, and figures. Each tab asks the server for its own, and only while it is in front.

import { get } from "./requests.js";
import { actions } from "./actions.js";
import { byId, el, facts, fill, oneAtATime } from "./dom.js";
import { waitWords } from "./timeline.js";
import { tree } from "./tree.js";
import { bytes, count, duration } from "./words.js";

export const TABS = { state: "State", step: "Step", difference: "Difference", graph: "Graph", actions: "Actions", figures: "Figures" };

export class Details {
  constructor(app) {
    this.app = app;
    this.panel = byId("tab-panel");
    this.bar = byId("tabs");
    this.bar.append(...Object.entries(TABS).map(([name, words]) => this.tab(name, words)));
    this.bar.addEventListener("keydown", (event) => this.key(event));
    this.refresh = oneAtATime(() => this.draw());
    this.shown = ""; // of which tab, thread and step something stands in the panel
  }

  tab(name, words) {
    const choose = () => this.app.go({ tab: name });
    return el("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": "tab-panel", onclick: choose }, words);
  }

  key(event) {
    const names = Object.keys(TABS);
    const at = names.indexOf(this.app.place.tab);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: names.length - 1 }[event.key];
    if (to === undefined) return;
    const name = names.at(to % names.length);
    this.app.go({ tab: name });
    byId(`tab-${name}`).focus();
    event.preventDefault();
  }

  /** `place` or what the thread is has changed. `force`: draw again what depends on more than the step. */
  show(force = false) {
    const { tab, thread } = this.app.place;
    for (const name of Object.keys(TABS)) {
      const button = byId(`tab-${name}`);
      button.setAttribute("aria-selected", String(name === tab));
      button.tabIndex = name === tab ? 0 : -1;
    }
    this.panel.setAttribute("aria-labelledby", `tab-${tab}`);
    this.bar.hidden = thread === null;
    if (force) this.shown = "";
    return this.refresh();
  }

  async draw() {
    const { app, panel } = this;
    const { thread, tab } = app.place;
    if (thread === null || !app.thread || app.thread.thread.id !== thread) return fill(panel);
    if (app.step < app.timeline.first && !["actions", "figures"].includes(tab)) return fill(panel, el("p", { class: "empty" }, "It has no steps yet."));
    const wanted = JSON.stringify([tab, thread, ...this.depends()]);
    if (wanted === this.shown || (tab === "actions" && this.typing)) return null;
    try {
      const made = await DRAW[tab](app);
      if (app.place.thread !== thread || app.place.tab !== tab) return null;
      const kept = panel.scrollTop;
      const focused = panel.contains(document.activeElement);
      const same = this.shown.startsWith(JSON.stringify([tab, thread]).slice(0, -1));
      fill(panel, made);
      panel.scrollTop = same ? kept : 0;
      if (focused && !panel.contains(document.activeElement)) panel.focus();
      this.shown = wanted;
    } catch (error) {
      this.shown = "";
      fill(panel, problem(error));
      app.failed(error);
    }
    return null;
  }

  /** What has to change for the tab to be drawn anew. */
  depends() {
    const { place, thread, step, version } = this.app;
    const { status, owner } = thread.thread;
    switch (place.tab) {
      case "actions": return [status, owner, thread.questions.map((asked) => asked.id), place.step];
      case "figures": return [status];
      case "graph": return [step, version];
      case "difference": return [step, place.other, place.otherThread];
      default: return [step];
    }
  }

  /** Somebody has begun to fill in a form, which must not be drawn anew under their hands. */
  get typing() {
    const field = this.panel.contains(document.activeElement) && document.activeElement;
    return Boolean(field && field.matches("input, textarea, select"))
      || [...this.panel.querySelectorAll("textarea, input")].some((each) => each.value !== each.defaultValue);
  }
}

export function problem(error) {
  return el("p", { class: "problem", role: "alert" }, el("b", {}, error.title ?? error.name), error.message);
}

const DRAW = { state, step, difference, graph, actions, figures };

function part(title, ...children) {
  return el("section", { class: "part" }, el("h3", {}, title), ...children);
}

/** More of a value in an answer: from the same request, with the place of the value in it. */
function more(path, query, of) {
  return async (place, from) => (await get(path, { ...query, of, place, from })).part;
}

async function state(app) {
  const query = { thread: app.place.thread, step: app.step };
  const told = await get("state", query);
  const at = told.step === app.step ? `after step ${app.step}` : `at step ${told.step}, the last barrier before step ${app.step}`;
  return [
    part(`State ${at}`, tree(told.values, "State", more("state", query, "values"))),
    told.tasks.length ? part("Tasks here", taskTable(told.tasks), told.size > told.tasks.length ? el("p", { class: "quiet" }, `the first ${told.tasks.length} of ${told.size}`) : null) : null,
  ];
}

function taskTable(tasks) {
  const rows = tasks.map((task) => el("tr", {}, el("td", {}, task.node), el("td", {}, task.state), el("td", {}, task.words ?? "")));
  return el("table", {}, el("thead", {}, el("tr", {}, ...["node", "is", ""].map((name) => el("th", { scope: "col" }, name)))), el("tbody", {}, rows));
}

async function step(app) {
  const query = { thread: app.place.thread, step: app.step };
  const told = await get("step", query);
  const { entry } = told;
  const to = (thread, step, words) => el("a", { href: app.href({ thread, step, tab: "step" }), onclick: app.linked }, words);
  return [
    facts([
      ["step", `${entry.step}, ${entry.kind}${entry.cached ? ", from the cache" : ""}`],
      ["node", entry.node], ["task", entry.task], ["superstep", entry.superstep], ["run", entry.run_id], ["by", entry.actor],
      ["attempt", entry.attempt === null ? null : `${entry.attempt}${entry.failures ? `, ${entry.failures} failed before` : ""}`],
      ["started", entry.started_at], ["committed", entry.created_at], ["took", duration(entry.duration)], ["row", bytes(entry.bytes)],
      ["continues", entry.origin ? to(entry.origin.thread, entry.origin.step, `step ${entry.origin.step} of ${entry.origin.thread}`)
        : entry.parent_step === null ? null : to(app.place.thread, entry.parent_step, `step ${entry.parent_step}`)],
      ["subgraph ran on", entry.child ? to(entry.child, null, entry.child) : null],
      ["next", entry.next.join(", ")],
    ]),
    told.error ? part("Error", el("p", { class: "problem" }, told.error.text), told.error.traceback ? el("pre", { class: "plain-text", tabindex: "0" }, told.error.traceback) : null) : null,
    entry.interrupts.length ? part("Asked", ...entry.interrupts.map((asked) => asked.wait ? el("p", {}, waitWords(asked.wait)) : tree(asked.value, "Question"))) : null,
    told.update === null ? null : part("Wrote", tree(told.update, "Update", more("step", query, "update"))),
    told.metadata.size ? part("Metadata of the run", tree(told.metadata, "Metadata", more("step", query, "metadata"))) : null,
  ];
}

async function difference(app) {
  const { thread, other, otherThread } = app.place;
  const from = { thread: otherThread ?? thread, step: other ?? (otherThread ? null : Math.max(app.timeline.first, app.step - 1)) };
  const query = { thread: from.thread, step: from.step, other_thread: thread, other: app.step };
  const form = el("form", { class: "fields", onsubmit: (event) => compare(app, event) },
    el("label", {}, "From step", el("input", { name: "other", inputmode: "numeric", size: "6", value: from.step ?? "", placeholder: "newest" })),
    el("label", { class: "grow" }, "of", el("input", { name: "otherThread", value: from.thread, "aria-label": "Thread to compare with", spellcheck: "false" })),
    el("span", {}, `to step ${app.step} here`), el("button", {}, "Compare"));
  let found;
  try {
    const told = await get("difference", query);
    const rest = told.size > told.changes.length ? el("p", { class: "quiet" }, `the first ${told.changes.length} of ${count(told.size, "change")}`) : null;
    found = told.size ? [el("p", { class: "quiet" }, count(told.size, "change")), el("div", {}, told.changes.map(change)), rest] : [el("p", { class: "empty" }, "The states are the same.")];
  } catch (error) {
    found = [problem(error)];
    app.failed(error);
  }
  return [form, ...found];
}

function compare(app, event) {
  event.preventDefault();
  const { other, otherThread } = event.target.elements;
  const thread = otherThread.value.trim();
  app.go({ other: other.value.trim() === "" ? null : Number(other.value), otherThread: thread === app.place.thread || !thread ? null : thread });
}

function change(told) {
  const side = (name, words, value) => el("div", { class: `side ${name}` }, el("span", { class: "hidden" }, words), tree(value, words));
  return el("div", { class: "change" },
    el("div", { class: "path" }, told.path, el("span", { class: "quiet" }, `  ${told.kind}`)),
    told.kind === "added" ? null : side("before", "before", told.before),
    told.kind === "removed" ? null : side("after", "after", told.after));
}

async function graph(app) {
  const told = await get("graph", { thread: app.place.thread, step: app.step });
  const table = told.nodes.length ? taskTable(told.nodes.map((node) => ({ node: node.name, state: node.state ?? "", words: node.calls ? count(node.calls, "time") : "" }))) : null;
  if (told.svg === null) return [el("p", { class: "quiet" }, told.words), table];
  const url = URL.createObjectURL(new Blob([told.svg], { type: "image/svg+xml" }));
  const image = el("img", { class: "figure", src: url, alt: `The graph ${told.graph}: ${told.nodes.map((node) => `${node.name} ${node.state ?? ""}`).join(", ")}` });
  image.addEventListener("load", () => URL.revokeObjectURL(url));
  return [el("div", { class: "graph-figure" }, image), table];
}

async function figures(app) {
  const told = await get("figures", { thread: app.place.thread });
  const table = (heads, rows) => el("table", {},
    el("thead", {}, el("tr", {}, heads.map((head, at) => el("th", { scope: "col", class: at ? "right" : null }, head)))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell, at) => el("td", { class: at ? "right" : null }, cell))))));
  return [
    part("Nodes, slowest first", table(["node", "calls", "failed", "cached", "mean", "longest", "in all"],
      told.nodes.map((node) => [node.name, node.calls, node.failures, node.cached, duration(node.mean), duration(node.longest), duration(node.seconds)]))),
    part("Written to the state, by key", table(["key", "bytes"], Object.entries(told.channels).map(([key, size]) => [key, bytes(size)]))),
    part("Rows", table(["kind", "rows"], Object.entries(told.rows))),
    part("In the database", table(["of", "bytes"], Object.entries(told.bytes).map(([key, size]) => [key, bytes(size)]))),
    el("p", { class: "quiet" }, "With the threads that this one's subgraphs ran on."),
  ];
}
