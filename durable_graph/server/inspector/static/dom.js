// Elements from plain values. The rule: whatever comes from a database is put in as text. Nothing here parses markup,
// and the page's Content-Security-Policy (require-trusted-types-for) forbids it to everything else.

/** el("a", {class: "x", href: "…", onclick: …}, "text", child, null). Settings that are null or false are left out. */
export function el(tag, settings = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(settings)) set(made, name, value);
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

function set(element, name, value) {
  if (value === null || value === undefined || value === false) return;
  if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
  else element.setAttribute(name, value === true ? "" : String(value));
}

export function byId(id) {
  return document.getElementById(id);
}

export function fill(element, ...children) {
  element.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** <dl> of facts; those without a value are left out. */
export function facts(pairs) {
  const shown = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return el("dl", { class: "facts-table" }, shown.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

/** Call `act` when nothing more has come for `pause` milliseconds, at the latest after four times as long. */
export function settled(act, pause) {
  let timer = 0;
  let since = 0;
  return () => {
    const now = performance.now();
    if (!timer) since = now;
    clearTimeout(timer);
    timer = setTimeout(() => { timer = 0; act(); }, Math.max(0, Math.min(pause, since + 4 * pause - now)));
  };
}

/** Run `act` again and again as asked, but never twice at a time: what is asked meanwhile is done once, afterwards. */
export function oneAtATime(act) {
  let busy = false;
  let again = false;
  return async function run() {
    if (busy) { again = true; return; }
    busy = true;
    try {
      do { again = false; await act(); } while (again);
    } finally { busy = false; }
  };
}
