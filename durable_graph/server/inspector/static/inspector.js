// The page: where we are, which is also the address, and what keeps the three panels together.

import { Problem, events, get, keepToken, takeToken } from "./requests.js";
import { Details, TABS, problem } from "./details.js";
import { byId, el, facts, fill, oneAtATime, settled } from "./dom.js";
import { Threads } from "./threads.js";
import { Timeline, waitWords } from "./timeline.js";
import { brief } from "./tree.js";
import { age, count } from "./words.js";

const RETRY = 1500; // milliseconds until a lost connection is tried again

const app = {
  about: { graphs: [], read_only: false },
  thread: null, // what the server told of the thread that is open
  step: 0, // that is chosen: the newest one while `place.step` is null
  version: 0, // grows with each change of the open thread
  skew: 0, // of this machine's clock against the server's

  now: () => Date.now() + app.skew,
  place: read(location.search),
};

// --- where we are -------------------------------------------------------------------------------

function read(search) {
  const query = new URLSearchParams(search);
  const number = (name) => (/^\d+$/.test(query.get(name) ?? "") ? Number(query.get(name)) : null);
  return {
    thread: query.get("thread"), step: number("step"), tab: Object.hasOwn(TABS, query.get("tab") ?? "") ? query.get("tab") : "state",
    other: number("other"), otherThread: query.get("of"),
    filters: Object.fromEntries(["text", "status", "graph", "age"].map((name) => [name, query.get(name) ?? ""])),
  };
}

app.href = (changes) => {
  const place = { ...app.place, ...(changes.thread && changes.thread !== app.place.thread ? { other: null, otherThread: null, step: null } : {}), ...changes };
  const query = new URLSearchParams();
  const put = (name, value) => { if (value !== null && value !== undefined && value !== "") query.set(name, value); };
  put("thread", place.thread);
  put("step", place.step);
  put("tab", place.tab === "state" ? null : place.tab);
  put("other", place.other);
  put("of", place.otherThread);
  Object.entries(place.filters).forEach(([name, value]) => put(name, value));
  return `${location.pathname}${query.size ? `?${query}` : ""}`;
};

/** Go elsewhere. Another thread is a new entry in the browser's history; another step or tab is not. */
app.go = (changes) => {
  const href = app.href(changes);
  const elsewhere = "thread" in changes && changes.thread !== app.place.thread;
  history[elsewhere ? "pushState" : "replaceState"](null, "", href);
  arrive(read(href.slice(location.pathname.length)));
};

/** For links within the page. */
app.linked = (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const href = new URL(event.currentTarget.href);
  history.pushState(null, "", href);
  arrive(read(href.search));
};

app.openThread = (thread) => app.go({ thread, step: null });
app.chooseStep = (step) => app.go({ step });
app.filtered = (filters) => {
  app.place.filters = filters;
  history.replaceState(null, "", app.href({}));
};

async function arrive(place) {
  const before = app.place;
  app.place = place;
  if (place.thread !== before.thread) return openThread();
  settleStep();
  return details.show();
}

/** `step`: the one that is chosen, among those that are there. */
function settleStep() {
  const { first, last } = timeline;
  app.step = app.place.step === null ? last : Math.max(first, Math.min(app.place.step, last));
  byId("newest").setAttribute("aria-pressed", String(app.place.step === null));
  timeline.mark(app.step);
}

// --- the thread -------------------------------------------------------------------------------

async function openThread() {
  const { thread } = app.place;
  app.thread = null;
  document.title = thread === null ? "durable_graph" : `${thread} · durable_graph`;
  threads.mark(thread);
  stream?.abort();
  fill(details.panel);
  details.shown = "";
  if (thread === null) {
    timeline.open(null, 0, -1);
    connect();
    return nothing();
  }
  try {
    const told = await get("thread", { thread });
    if (app.place.thread !== thread) return null;
    app.thread = told;
    app.version += 1;
    timeline.open(thread, told.first, told.last);
    furnish();
    head();
    settleStep();
    connect();
    return details.show(true);
  } catch (error) {
    timeline.open(null, 0, -1);
    nothing(error);
    if (error.status !== 401) connect();
    return app.failed(error);
  }
}

const refreshThread = oneAtATime(async () => {
  const { thread } = app.place;
  if (thread === null || !app.thread) return;
  try {
    const told = await get("thread", { thread });
    if (app.place.thread !== thread) return;
    app.thread = told;
    app.version += 1;
    head();
    details.show();
  } catch (error) {
    if (error.status === 404 && app.place.thread === thread) nothing(error); // it was deleted
    app.failed(error);
  }
});

app.changed = settled(refreshThread, 250);

function furnish(empty = false) {
  byId("timeline-head").hidden = empty;
  byId("timeline-foot").hidden = empty;
  byId("timeline").hidden = empty;
  document.querySelector(".thread .nothing")?.remove();
}

/** In place of a thread. */
function nothing(error = null) {
  furnish(true);
  fill(byId("thread-head"));
  details.show();
  const words = error ? [problem(error)]
    : app.empty ? [el("p", {}, "There are no threads in this database yet."), el("p", {}, "Run a graph, and it appears here:"), el("code", {}, "durable-graph run MODULE:GRAPH --input '{…}'")]
      : [el("p", {}, "Choose a thread.")];
  document.querySelector(".panel.thread").append(el("div", { class: "nothing" }, words));
}

app.listed = (number, narrowed) => {
  app.empty = number === 0 && !narrowed;
  if (app.place.thread === null) nothing();
};

function head() {
  const { thread, next } = app.thread;
  const link = (id, step, words) => el("a", { href: app.href({ thread: id, step }), onclick: app.linked }, words);
  const owner = thread.owner ? [" · run by ", el("span", { class: "owner cut", title: thread.owner }, thread.owner), ` since ${thread.owner_since}`] : null;
  const line = [
    thread.graph, `begun ${age(thread.created_at, app.now())} ago`,
    thread.status === "waiting" && thread.wake_at ? `until ${thread.wake_at}` : null,
    next.length && thread.status !== "finished" ? `next: ${next.join(", ")}` : null,
  ].filter(Boolean).join(" · ");
  fill(byId("thread-head"),
    el("div", { class: "line" }, el("h2", {}, thread.id), el("span", { class: `status ${thread.status}` }, thread.status)),
    el("div", { class: "facts" }, line, owner,
      thread.called_by ? [" · subgraph of ", link(thread.called_by, null, thread.called_by)] : null,
      thread.parent && !thread.called_by ? [" · forked from ", link(thread.parent.thread, thread.parent.step, `${thread.parent.thread}, step ${thread.parent.step}`)] : null),
    thread.metadata.size ? el("div", { class: "facts cut" }, brief(thread.metadata)) : null,
    banner());
}

function banner() {
  const { questions, asked: open, error, thread } = app.thread;
  const asked = questions.filter((question) => !question.wait);
  const act = (words) => el("button", { type: "button", onclick: () => { app.go({ tab: "actions" }); byId("tab-panel").querySelector("textarea")?.focus(); } }, words);
  if (asked.length) {
    const words = asked.length === 1 ? `${asked[0].node} asks: ${brief(asked[0].value)}` : `${count(open, "question")} wait for an answer`;
    return el("div", { class: "banner" }, el("span", { class: "words" }, words), act("Answer"));
  }
  if (error && thread.status === "failed") return el("div", { class: "banner failed" }, el("span", { class: "words" }, `${error.node}: ${error.text}`), act("Actions"));
  const waits = questions.find((question) => question.wait);
  return waits ? el("div", { class: "banner" }, el("span", { class: "words" }, `${waits.node} ${waitWords(waits.wait)}`), act("Actions")) : null;
}

/** Something was done: say so, and look what has become of the thread. */
app.done = (words) => {
  byId("said").textContent = words;
  clearTimeout(app.saying);
  app.saying = setTimeout(() => { byId("said").textContent = ""; }, 8000);
  app.changed();
  return words;
};

// --- live -------------------------------------------------------------------------------------

let stream = null;

/** One stream of news: of the open thread, and which others have changed. */
async function connect() {
  stream?.abort();
  const mine = (stream = new AbortController());
  if (document.hidden) return void connection("", "paused");
  while (!mine.signal.aborted) {
    try {
      const thread = app.thread?.thread.id ?? null;
      await events("live", { thread, after: thread === null ? null : timeline.last }, (event) => !mine.signal.aborted && news(event), mine.signal);
      connection("broken", "reconnecting");
    } catch (error) {
      if (mine.signal.aborted) return;
      connection("broken", error instanceof Problem && error.status === 401 ? "no token" : "reconnecting");
      if (error.status === 401) return void app.failed(error);
    }
    await new Promise((resume) => setTimeout(resume, RETRY));
  }
}

/** A browser has few connections to a server for all its tabs together: those that nobody sees give theirs back. */
document.addEventListener("visibilitychange", () => {
  connect();
  if (document.hidden) return;
  threads.refresh();
  app.changed();
});

function news({ event, data }) {
  connection("live", "live");
  if (event === "hello") return;
  if (event === "threads") threads.touch(data.ids);
  if (event === "thread") app.changed();
  if (event === "rows" && data.thread === app.thread?.thread.id) rowsCame(data.entries);
}

const newest = settled(() => { settleStep(); details.show(); }, 120);

function rowsCame(entries) {
  timeline.append(entries.filter((entry) => entry.step > timeline.last));
  if (app.place.step === null) newest();
  app.changed();
}

function connection(name, words) {
  const shown = byId("connection");
  if (shown.textContent === words) return;
  shown.className = `connection ${name}`;
  shown.textContent = words;
}

// --- what the server refuses ------------------------------------------------------------------

app.failed = (error) => {
  if (error.name === "AbortError") return;
  if (error.status === 401) askForToken(error);
  else if (!(error instanceof Problem)) console.error(error);
};

function askForToken(error) {
  const dialog = byId("token-dialog");
  byId("token-words").textContent = error.message;
  if (!dialog.open) dialog.showModal();
}

byId("token-form").addEventListener("submit", () => {
  keepToken(byId("token").value.trim());
  byId("token").value = "";
  begin();
});

// --- keys ---------------------------------------------------------------------------------------

const KEYS = {
  "/": () => { byId("search").focus(); byId("search").select(); },
  "?": () => byId("help").showModal(),
  t: () => byId("threads").focus(),
  s: () => byId("timeline").focus(),
  d: () => byId("tab-panel").focus(),
};
Object.keys(TABS).forEach((name, at) => { KEYS[at + 1] = () => app.go({ tab: name }); });

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.key === "Escape") back(event);
  if (event.target.matches("input, textarea, select")) return;
  const act = KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

function back(event) {
  const { target } = event;
  if (target.matches("#search") && target.value) return; // the browser empties it
  if (byId("tab-panel").contains(target) && target !== byId("tab-panel")) byId("tab-panel").focus();
  else if (target.closest(".details")) byId("timeline").focus();
  else byId("threads").focus();
}

// --- begin --------------------------------------------------------------------------------------

takeToken();
const threads = new Threads(app);
const timeline = (app.timeline = new Timeline(app));
const details = new Details(app);

byId("help-button").addEventListener("click", () => byId("help").showModal());
byId("newest").addEventListener("click", () => app.go({ step: app.place.step === null ? app.step : null }));
byId("goto").addEventListener("submit", (event) => {
  event.preventDefault();
  const { step } = event.target.elements;
  if (/^\d+$/.test(step.value.trim())) app.chooseStep(Number(step.value));
});
byId("timeline").addEventListener("keydown", (event) => {
  if (event.key === "G" || event.key === "End") app.go({ step: null });
}, true);
addEventListener("popstate", () => {
  const place = read(location.search);
  threads.filters = place.filters;
  threads.load();
  arrive(place);
});

async function begin() {
  try {
    app.about = await get("about");
  } catch (error) {
    threads.failed(error);
    return;
  }
  app.skew = Date.parse(app.about.now) - Date.now();
  byId("server").textContent = app.about.graphs.join(", ");
  byId("read-only").hidden = !app.about.read_only;
  threads.show(app.about.graphs);
  threads.filters = app.place.filters;
  await Promise.all([threads.load(), openThread()]);
}

begin();
