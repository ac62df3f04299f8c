// What can be done with a thread: answer its questions, go on, fork, signal, cancel, check, export.

import { address, ask, get, post } from "./requests.js";
import { el, facts, fill } from "./dom.js";
import { waitWords } from "./timeline.js";
import { tree } from "./tree.js";
import { count } from "./words.js";

export async function actions(app) {
  const told = app.thread;
  const called = told.thread.called_by;
  const steps = app.step >= app.timeline.first;
  const acts = app.about.read_only ? [el("p", { class: "quiet" }, "This server is read-only: it shows, and changes nothing.")]
    : called ? [belowWords(app, called), forkCard(app), cancelCard(app)]
      : [...questions(app), resumeCard(app), steps ? forkCard(app) : null, signalCard(app), cancelCard(app)];
  return [...acts, verifyCard(app), exportCard(app)];
}

function card(title, ...children) {
  return el("section", { class: "card" }, el("h3", {}, title), ...children);
}

/** A form whose button does something, and says in words what came of it. `act` returns the words. */
function form(label, act, ...fields) {
  const told = el("div", { role: "status" });
  const button = el("button", {}, label);
  const made = el("form", {}, ...fields, el("div", { class: "buttons" }, button));
  made.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    fill(told);
    made.querySelectorAll("[aria-invalid]").forEach((field) => field.removeAttribute("aria-invalid"));
    try {
      const words = await act(made.elements);
      if (words) fill(told, el("div", { class: "good" }, words));
    } catch (error) {
      made.elements[error.told?.field]?.setAttribute("aria-invalid", "true");
      fill(told, el("p", { class: "problem", role: "alert" }, el("b", {}, error.title ?? error.name), error.message));
    } finally {
      button.disabled = false;
    }
  });
  made.append(told);
  return made;
}

/** A field's text, or the value that it is as JSON. */
function valueOf(field, as) {
  if (as.value === "text") return field.value;
  let parsed = null;
  let rounded = null;
  try {
    parsed = JSON.parse(field.value, (name, value, context) => { if (isRounded(value, context)) rounded = context?.source ?? value; return value; });
  } catch (error) {
    field.setAttribute("aria-invalid", "true");
    throw Object.assign(new Error(`It is no JSON: ${error.message}. For a plain text choose "text".`), { title: "Not sent" });
  }
  if (rounded === null) return parsed;
  field.setAttribute("aria-invalid", "true");
  throw Object.assign(new Error(`A browser does not keep all digits of ${rounded}: send it as a text, or from the command line.`), { title: "Not sent" });
}

/** A whole number that is another one after it was read. Of numbers in older browsers only the value is known. */
function isRounded(value, context) {
  return typeof value === "number" && !Number.isSafeInteger(value) && /^-?\d+$/.test(context?.source ?? String(value));
}

function valueFields(name, label, initial = "") {
  return el("div", {},
    el("div", { class: "fields" },
      el("label", { for: `${name}-value` }, label), el("span", { class: "space" }),
      el("label", {}, "as", el("select", { name: "as" }, el("option", {}, "text"), el("option", { selected: initial !== "" }, "JSON")))),
    el("textarea", { id: `${name}-value`, name: "value", rows: "2", spellcheck: "false" }, initial));
}

// --- questions ---

function questions(app) {
  const { questions: shown, asked } = app.thread;
  const cards = shown.map((question, at) => (question.wait ? waitCard(question) : answerCard(app, question, at)));
  if (asked > shown.length) cards.push(el("p", { class: "quiet" }, `The first ${shown.length} of ${count(asked, "question")}.`));
  return cards;
}

function answerCard(app, asked, at) {
  const answer = async ({ value, as }) => {
    const body = { thread: app.place.thread, answers: { [asked.id]: valueOf(value, as) } };
    await post("answer", body);
    value.value = value.defaultValue;
    return app.done("Answered: the run goes on.");
  };
  const made = card(`${asked.node} asks`, tree(asked.value, `Question of ${asked.node}`), form("Answer", answer, valueFields(`answer-${at}`, "Answer")));
  made.classList.add("asks");
  made.querySelector("button").className = "primary";
  return made;
}

function waitCard(asked) {
  return card(`${asked.node} ${waitWords(asked.wait)}`);
}

function belowWords(app, called) {
  return el("p", { class: "quiet" }, "This is the run of a subgraph. It is answered and continued with the thread above it: ",
    el("a", { href: app.href({ thread: called, step: null }), onclick: app.linked }, called), ".");
}

// --- going on ---

function resumeCard(app) {
  const resume = async () => {
    await post("resume", { thread: app.place.thread });
    return app.done("It goes on.");
  };
  const { status, known, graph } = app.thread.thread;
  const words = status === "running" ? "A run is under way." : status === "queued" ? "It waits for a worker." : status === "finished" ? "It has ended: there is nothing to go on with."
    : status === "new" ? "It has not run yet: it begins with an input."
    : !known ? `This server does not have the graph ${graph}.` : `Next: ${app.thread.next.join(", ") || "nothing"}.`;
  return card("Resume", el("p", { class: "quiet" }, words), form("Resume", resume));
}

function forkCard(app) {
  const fork = async ({ to, step }) => {
    const name = to.value.trim();
    await post("fork", { thread: app.place.thread, step: Number(step.value), to: name });
    step.form.reset();
    app.openThread(name);
    return app.done(`Forked: this is ${name}.`);
  };
  return card("Fork", form("Fork", fork,
    el("div", { class: "fields" },
      el("label", {}, "From step", el("input", { name: "step", required: true, inputmode: "numeric", pattern: "[0-9]+", size: "6", value: app.step })),
      el("label", { class: "grow" }, "new thread", el("input", { name: "to", required: true, spellcheck: "false", value: `${app.place.thread}-fork` })))));
}

function signalCard(app) {
  const waited = app.thread.questions.map((asked) => asked.wait?.signal).find(Boolean) ?? "";
  const signal = async ({ name, value, as }) => {
    await post("signal", { thread: app.place.thread, name: name.value, value: valueOf(value, as) });
    const words = `Sent: ${name.value}. It is kept until a task takes it.`;
    value.form.reset();
    return app.done(words);
  };
  return card("Send a signal", form("Send", signal,
    el("div", { class: "fields" }, el("label", { class: "grow" }, "Name", el("input", { name: "name", required: true, spellcheck: "false", value: waited }))),
    valueFields("signal", "Value", "null")));
}

function cancelCard(app) {
  const cancel = async () => {
    await post("cancel", { thread: app.place.thread });
    return app.done("Cancelled. What was committed stays, and the thread can be resumed.");
  };
  const { status, owner } = app.thread.thread;
  const words = status === "running" ? `Run by ${owner ?? "nobody"}.` : "No run is under way.";
  const made = card("Cancel the run", el("p", { class: "quiet" }, words), form("Cancel", cancel));
  made.querySelector("button").className = "danger";
  return made;
}

// --- checking and exporting ---

function verifyCard(app) {
  const found = el("div", { role: "status" });
  const verify = async ({ head }) => {
    fill(found, el("p", { class: "quiet" }, "checking …"));
    try {
      fill(found, report(await get("verify", { thread: app.place.thread, head: head.value.trim() })));
    } catch (error) {
      fill(found);
      throw error;
    }
  };
  return card("Verify", el("p", { class: "quiet" }, "Was any row altered, removed, moved or put in?"),
    form("Verify", verify, el("div", { class: "fields" }, el("label", { class: "grow" }, "Earlier head", el("input", { name: "head", placeholder: "optional: of an earlier check", spellcheck: "false" })))), found);
}

function report(told) {
  const words = told.ok ? `Nothing was found: ${count(told.rows, "row")}.` : `${count(told.findings.length, "finding")} in ${count(told.rows, "row")}.`;
  const rows = told.findings.map((finding) => el("tr", {}, el("td", {}, finding.step < 0 ? "" : finding.step), el("td", {}, finding.kind), el("td", {}, finding.problem)));
  return el("div", {}, el("p", { class: told.ok ? "good" : "problem" }, words),
    rows.length ? el("table", {}, el("thead", {}, el("tr", {}, ["step", "is", "what"].map((name) => el("th", { scope: "col" }, name)))), el("tbody", {}, rows)) : null,
    facts([["head", el("span", { class: "mono" }, told.head ?? "")], ["pruned", told.pruned], ["begins at", told.begins || null]]));
}

function exportCard(app) {
  const save = async () => {
    const response = await ask(address("export", { thread: app.place.thread }));
    const blob = await response.blob();
    const url = URL.createObjectURL(blob);
    const name = `${app.place.thread.replace(/[^\w.-]+/g, "_")}.jsonl`;
    el("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
    return `${name}: ${count(blob.size, "byte")}`;
  };
  return card("Export", el("p", { class: "quiet" }, "Lines of JSON with hashes: to be checked elsewhere, or imported."), form("Export", save));
}
