// A thread's rows, oldest first. Only what is in sight is read, in pages of PAGE steps, and few pages are kept. The
// steps of a log have no gaps, so a row's place is its step less the first one.

import { get } from "./requests.js";
import { byId, el, settled } from "./dom.js";
import { Rows } from "./rows.js";
import { brief } from "./tree.js";
import { bytes, count, duration, moment } from "./words.js";

const PAGE = 200;
const KEPT = 40; // pages

export class Timeline {
  constructor(app) {
    this.app = app;
    this.first = 0;
    this.last = -1;
    this.pages = new Map(); // number -> entries, or null while they are on their way; oldest use first
    this.outrun = new Set(); // pages that got further rows while they were on their way
    this.longest = 0;
    this.rows = new Rows(byId("timeline"), 24, {
      draw: (index) => this.draw(this.entry(index), index),
      looked: (first, last) => { this.sight = [first, last]; this.look(); },
      selected: (index) => app.chooseStep(this.first + index),
      opened: () => byId("tab-panel").focus(),
    });
    this.look = settled(() => this.readSight(), 60);
  }

  /** Another thread, of which the steps from `first` to `last` are there. */
  open(thread, first, last) {
    this.request?.abort();
    this.request = new AbortController();
    Object.assign(this, { thread, first, last, longest: 0 });
    this.pages.clear();
    this.outrun.clear();
    this.rows.selected = -1;
    this.rows.resize(0);
    this.rows.resize(Math.max(0, last - first + 1));
    this.told();
  }

  entry(index) {
    return this.pages.get(Math.floor(index / PAGE))?.[index % PAGE];
  }

  async readSight() {
    if (!this.sight || !this.thread) return;
    const [first, last] = this.sight.map((index) => Math.floor(index / PAGE));
    for (let page = first; page <= last; page++) if (!this.pages.has(page)) await this.read(page);
  }

  async read(page) {
    const request = this.request;
    this.pages.set(page, null);
    try {
      const after = this.first + page * PAGE - 1;
      const query = { thread: this.thread, after, before: after + PAGE + 1, limit: PAGE };
      const { entries } = await get("timeline", query, request.signal);
      if (request !== this.request) return;
      this.pages.set(page, entries);
      if (this.outrun.delete(page)) {
        this.pages.delete(page);
        this.look();
      }
      this.forget(page);
      this.measure(entries);
      this.rows.redraw(page * PAGE, (page + 1) * PAGE - 1);
    } catch (error) {
      if (request === this.request) this.pages.delete(page);
      this.app.failed(error);
    }
  }

  /** The pages that were read first, if they are not in sight. */
  forget(page) {
    for (const number of [...this.pages.keys()]) {
      if (this.pages.size <= KEPT) return;
      if (Math.abs(number - page) > 1) this.pages.delete(number);
    }
  }

  /** Bars are as long as they are in proportion to the longest that was seen. */
  measure(entries) {
    const longest = entries.reduce((most, entry) => Math.max(most, entry.duration ?? 0), this.longest);
    if (longest > this.longest * 1.05) {
      this.longest = longest;
      this.rows.redraw();
    }
  }

  /** Rows that were written while we look, in order. */
  append(entries) {
    for (const entry of entries) {
      const index = entry.step - this.first;
      const number = Math.floor(index / PAGE);
      const page = this.pages.get(number);
      if (page === null) this.outrun.add(number);
      else if (page && page.length === index % PAGE) page.push(entry);
      else if (index % PAGE === 0) this.pages.set(number, [entry]);
      else if (page && page.length < index % PAGE) this.pages.delete(number);
      this.last = Math.max(this.last, entry.step);
    }
    this.measure(entries);
    this.rows.resize(this.last - this.first + 1);
    if (entries.length) this.rows.redraw(entries[0].step - this.first);
    this.told();
  }

  told() {
    const empty = this.last < this.first;
    byId("timeline-note").textContent = empty ? "no rows" : `${count(this.last - this.first + 1, "step")}, ${this.first} to ${this.last}`;
  }

  mark(step) {
    this.rows.mark(Math.max(this.first, Math.min(step, this.last)) - this.first);
  }

  draw(entry, index) {
    if (!entry) return el("div", {}, el("span", { class: "step" }, this.first + index), el("span", { class: "quiet" }, "…"));
    const barrier = entry.next.length || entry.ends ? " barrier" : "";
    return el("div", { class: `${entry.kind}${barrier}`, title: title(entry) },
      el("span", { class: "step" }, entry.step),
      el("span", { class: "node" }, ...name(entry)),
      el("span", { class: "what cut" }, what(entry)),
      this.took(entry),
      el("span", { class: "cut" }, entry.actor ?? ""),
      el("span", { class: "when" }, moment(entry.created_at, this.app.now())));
  }

  took(entry) {
    const bar = el("i");
    bar.style.width = this.longest && entry.duration ? `${(100 * entry.duration) / this.longest}%` : "0";
    return el("span", { class: "took" }, entry.duration === null ? el("span") : bar, el("span", {}, duration(entry.duration)));
  }
}

function name(entry) {
  const kind = ["task", "interrupt", "error"].includes(entry.kind) ? null : el("span", { class: "kind" }, entry.kind);
  const tries = (entry.attempt ?? 1) > 1 ? el("span", { class: "tag", title: "attempts" }, `×${entry.attempt}`) : null;
  return [entry.node ? el("b", { class: "cut" }, entry.node) : null, kind, tries, entry.cached ? el("span", { class: "tag" }, "cached") : null];
}

function what(entry) {
  if (entry.error) return entry.error;
  if (entry.interrupts.length) return entry.interrupts.map((asked) => waitWords(asked.wait) ?? `asks ${brief(asked.value)}`).join("; ");
  if (entry.origin) return `of ${entry.origin.thread}, step ${entry.origin.step}`;
  if (entry.child) return `↳ ${entry.child}`;
  return entry.next.length ? `→ ${entry.next.join(", ")}` : "";
}

/** In words what a task waits for, if it is a time or a signal and no answer. */
export function waitWords(wait) {
  if (!wait) return null;
  const parts = [wait.signal === null ? null : `for the signal ${wait.signal}`, wait.until === null ? null : `until ${wait.until}`];
  return `waits ${parts.filter(Boolean).join(", ")}`;
}

function title(entry) {
  const lines = [`step ${entry.step}: ${entry.kind} ${entry.node ?? ""}`, `superstep ${entry.superstep}`, `row ${bytes(entry.bytes)}`];
  if (entry.attempt) lines.push(`attempt ${entry.attempt}, ${entry.failures} failed before`);
  if (entry.error) lines.push(entry.error);
  return lines.join("\n");
}
