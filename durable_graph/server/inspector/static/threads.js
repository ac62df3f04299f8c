// The list of threads: newest change first, filtered by the server, a page at a time as one scrolls down.

import { get } from "./requests.js";
import { byId, el, oneAtATime, settled } from "./dom.js";
import { Rows } from "./rows.js";
import { STATUSES, age, count, moment } from "./words.js";

const PAGE = 100;

export class Threads {
  constructor(app) {
    this.app = app;
    this.list = [];
    this.next = null; // behind the last thread that was read; null: there are no more
    this.request = null;
    this.form = byId("filters");
    this.note = byId("threads-note");
    this.rows = new Rows(byId("threads"), 46, {
      draw: (index) => this.draw(this.list[index]),
      looked: (_, last) => last >= this.list.length - 10 && this.readOn(),
      selected: (index) => app.openThread(this.list[index].id),
      opened: () => byId("timeline").focus(),
    });
    this.readOn = oneAtATime(() => this.page());
    this.search = settled(() => this.changed(), 150);
    this.news = settled(() => this.refresh(), 300);
    this.form.addEventListener("input", () => this.search());
    this.form.addEventListener("submit", (event) => { event.preventDefault(); this.changed(); });
    this.form.elements.status.append(...STATUSES.map((status) => el("option", { value: status }, status)));
    setInterval(() => this.rows.redraw(), 30_000); // ages
  }

  show(graphs) {
    const select = this.form.elements.graph;
    const given = select.value;
    for (const name of graphs) {
      if (![...select.options].some((option) => option.value === name)) select.append(el("option", { value: name }, name));
    }
    select.value = given;
  }

  /** The filters as the form has them, which is also how they stand in the address. */
  get filters() {
    const { text, status, graph, age } = this.form.elements;
    return { text: text.value.trim(), status: status.value, graph: graph.value, age: age.value };
  }

  set filters(given) {
    if (given.graph) this.show([given.graph]);
    for (const name of ["text", "status", "graph", "age"]) this.form.elements[name].value = given[name] ?? "";
  }

  get query() {
    const { text, status, graph, age } = this.filters;
    const [which, seconds] = age.split("-");
    return { text, status, graph, [`${which}_than`]: which ? seconds : null, limit: PAGE };
  }

  changed() {
    this.app.filtered(this.filters);
    return this.load();
  }

  /** From the beginning. */
  async load() {
    this.request?.abort();
    this.request = new AbortController();
    this.note.textContent = "reading …";
    try {
      const page = await get("threads", this.query, this.request.signal);
      this.list = page.threads;
      this.next = page.next;
      this.told();
    } catch (error) {
      this.failed(error);
    }
  }

  async page() {
    if (this.next === null || this.reading) return;
    const [request, next] = [this.request, this.next];
    try {
      const page = await get("threads", { ...this.query, after: next }, request.signal);
      if (this.next !== next) return; // begun anew meanwhile
      const known = new Set(this.list.map((thread) => thread.id));
      this.list.push(...page.threads.filter((thread) => !known.has(thread.id)));
      this.next = page.next;
      this.told();
    } catch (error) {
      this.failed(error);
    }
  }

  /** Something has changed: the first page again, in front of those that are not on it. */
  async refresh() {
    const request = this.request;
    try {
      const page = await get("threads", this.query, request?.signal);
      if (this.request !== request) return;
      const first = new Set(page.threads.map((thread) => thread.id));
      const rest = page.next === null ? [] : this.list.filter((thread) => !first.has(thread.id) && !this.touched.has(thread.id));
      if (!rest.length) this.next = page.next;
      this.list = [...page.threads, ...rest];
      this.touched.clear();
      this.told();
    } catch (error) {
      this.failed(error);
    }
  }

  touched = new Set();

  /** These have changed, as the server tells while we look. */
  touch(ids) {
    ids.forEach((id) => this.touched.add(id));
    this.news();
  }

  told() {
    const at = this.list.findIndex((thread) => thread.id === this.app.place.thread);
    const moved = at !== this.rows.selected && (this.rows.selected < 0 || this.rows.inSight);
    this.rows.mark(at, { scroll: false });
    this.rows.resize(this.list.length);
    this.rows.redraw();
    if (moved && at >= 0) this.rows.reveal(at);
    const narrowed = Object.values(this.filters).some(Boolean);
    if (this.list.length) this.note.textContent = this.next === null ? count(this.list.length, "thread") : `the newest ${count(this.list.length, "thread")}; scroll for more`;
    else this.note.textContent = narrowed ? "No thread is like that." : "There are no threads in this database yet.";
    this.app.listed(this.list.length, narrowed);
  }

  failed(error) {
    if (error.name === "AbortError") return;
    this.note.textContent = `${error.title}: ${error.message}`;
    this.app.failed(error);
  }

  mark(id) {
    this.rows.mark(this.list.findIndex((thread) => thread.id === id));
  }

  draw(thread) {
    const now = this.app.now();
    return el("div", { title: `${thread.id}\nlast change ${thread.updated_at}` },
      el("span", { class: "id cut" }, thread.id),
      el("span", { class: "quiet" }, age(thread.updated_at, now)),
      el("span", { class: "below" },
        el("span", { class: `status ${thread.status}` }, thread.status),
        el("span", { class: "cut" }, thread.graph),
        thread.called_by ? el("span", { class: "cut" }, "subgraph") : null,
        thread.parent && !thread.called_by ? el("span", {}, "fork") : null,
        thread.wake_at ? el("span", { class: "cut" }, `until ${moment(thread.wake_at, now)}`) : null));
  }
}
