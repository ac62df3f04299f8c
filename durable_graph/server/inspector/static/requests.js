// Requests to the server that this page came from, and to no other. What the server refuses is a Problem, which shows
// the server's own words.

const BASE = new URL("api/", document.baseURI);
const TOKEN = "durable_graph.token";

export class Problem extends Error {
  constructor(status, told) {
    super(told.detail || told.title || `The server answered ${status}.`);
    this.status = status;
    this.title = told.title || `Status ${status}`;
    this.told = told;
  }
}

/** A link may carry the token as #token=…, which no server is sent. It is taken out of the address at once. */
export function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given === null) return;
  keepToken(given);
  history.replaceState(history.state, "", location.pathname + location.search);
}

export function keepToken(token) {
  sessionStorage.setItem(TOKEN, token);
}

export function address(path, query = {}) {
  const url = new URL(path, BASE);
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== "") url.searchParams.set(name, value);
  }
  return url;
}

export async function get(path, query, signal) {
  return (await ask(address(path, query), { signal })).json();
}

export async function post(path, body) {
  const headers = { "content-type": "application/json" };
  return (await ask(address(path), { method: "POST", headers, body: JSON.stringify(body) })).json();
}

export async function ask(url, options = {}) {
  const token = sessionStorage.getItem(TOKEN);
  const headers = { ...options.headers, ...(token ? { authorization: `Bearer ${token}` } : {}) };
  let response;
  try {
    response = await fetch(url, { ...options, headers, credentials: "same-origin", redirect: "error" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { title: "No answer", detail: "The server cannot be reached. Is it still running?" });
  }
  if (!response.ok) throw new Problem(response.status, await told(response));
  return response;
}

async function told(response) {
  try {
    return (await response.json()) ?? {};
  } catch {
    return { title: response.statusText };
  }
}

/** Server-sent events, read with fetch: EventSource cannot send a token. Calls `seen({event, id, data})`, and returns
 *  when the server ends the stream. */
export async function events(path, query, seen, signal) {
  const response = await ask(address(path, query), { signal, headers: { accept: "text/event-stream" } });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const event = parsed(block);
      if (event.data !== undefined) seen(event);
    }
  }
}

function parsed(block) {
  const event = {};
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    if (colon > 0) event[line.slice(0, colon)] = line.slice(colon + 1).trimStart();
  }
  return event.data === undefined ? event : { ...event, data: JSON.parse(event.data) };
}
