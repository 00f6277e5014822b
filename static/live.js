// Keeps the fragments of a page up to date: events say what changed, and the fragments that it
// concerns are fetched anew, freshly rendered, at most about once a second and all in one request.
import { refresh as refreshTimes } from "./times.js";

// The least time between two requests, in milliseconds: the server renders no more often.
const PACE = 800;
// What happens within this time is fetched together, in milliseconds.
const TOGETHER = 40;
// Bounds the pauses before the socket is opened again, in milliseconds.
const PAUSE_MIN = 1000;
const PAUSE_MAX = 20000;
// While there is no socket, the page looks for itself, at this interval in milliseconds.
const POLL = 5000;

/** @type {Map<string, {node: Element, on: string[], html: string | null}>} */
const regions = new Map();
const stale = new Set();
let socket = null;
let cursor = null;
let attempts = 0;
let timer = 0;
let last = -PACE;
let fetching = false;

function tell(state, words) {
  const light = document.getElementById("live");
  if (!light) return;
  light.hidden = false;
  light.dataset.live = state;
  light.textContent = words;
}

function schedule() {
  if (timer !== 0 || fetching || stale.size === 0 || document.hidden) return;
  const pause = Math.max(TOGETHER, last + PACE - performance.now());
  timer = setTimeout(() => { timer = 0; load(); }, pause);
}

async function load() {
  const names = [...stale];
  stale.clear();
  fetching = true;
  last = performance.now();
  try {
    const url = new URL(location.href);
    url.searchParams.set("as", "html");
    for (const name of names) url.searchParams.append("fragment", name);
    url.hash = "";
    const answer = await fetch(url, { headers: { Accept: "text/html" }, credentials: "same-origin" });
    if (answer.status === 404 || answer.status === 403) return;
    if (!answer.ok) throw new Error(String(answer.status));
    const found = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of found.querySelectorAll("[data-part]")) swap(part.dataset.part, part);
  } catch {
    for (const name of names) stale.add(name);
    last = performance.now() + PAUSE_MIN;
  } finally {
    fetching = false;
    schedule();
  }
}

/** The place of the focus, in terms that also hold after the fragment was replaced. */
function focusIn(node) {
  const at = document.activeElement;
  if (!at || !node.contains(at)) return null;
  for (const name of ["data-url", "href", "value"]) {
    const value = at.getAttribute(name);
    if (value) return `${at.localName}[${name}="${CSS.escape(value)}"]`;
  }
  return null;
}

function swap(name, fresh) {
  const region = regions.get(name);
  if (!region || region.html === fresh.innerHTML) return;
  const { node } = region;
  // A button that is just pressed must be there when it is let go.
  if (node.querySelector(":active")) { stale.add(name); return; }
  region.html = fresh.innerHTML;
  const focus = focusIn(node);
  const at = node.querySelector("tr.at")?.dataset.id;
  const checked = new Set([...node.querySelectorAll("td.pick input:checked")].map((box) => box.value));
  node.replaceChildren(...document.importNode(fresh, true).childNodes);
  for (const box of node.querySelectorAll("td.pick input")) box.checked = checked.has(box.value);
  if (at) node.querySelector(`tr[data-id="${CSS.escape(at)}"]`)?.classList.add("at");
  if (focus) node.querySelector(focus)?.focus({ preventScroll: true });
  refreshTimes(node);
  showState();
  node.dispatchEvent(new CustomEvent("swapped", { bubbles: true }));
}

/** The title and the icon of the tab, of what the page says of its state. */
function showState() {
  const state = document.querySelector("[data-title]");
  if (!state) return;
  const [, ...rest] = document.title.split(" | ");
  const page = rest.length > 0 ? rest.join(" | ") : document.title;
  document.title = state.dataset.title ? `${state.dataset.title} | ${page}` : page;
  const icon = document.getElementById("favicon");
  const wanted = icon.dataset[state.dataset.icon] ?? icon.dataset.plain;
  if (icon.getAttribute("href") !== wanted) icon.setAttribute("href", wanted);
}

/** @param {string} type of an event */
function mark(type) {
  for (const [name, region] of regions) {
    if (type === "gap" || region.on.some((prefix) => type.startsWith(prefix))) stale.add(name);
  }
  schedule();
}

/** Fetch all fragments: something was changed from here. */
export function refreshNow() {
  for (const name of regions.keys()) stale.add(name);
  schedule();
}

function connect() {
  const url = new URL(document.body.dataset.events, location.href);
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  for (const [name, value] of new URLSearchParams(document.body.dataset.watch ?? "")) url.searchParams.set(name, value);
  if (cursor) url.searchParams.set("after", cursor);
  const mine = new WebSocket(url);
  socket = mine;
  mine.onopen = () => {
    attempts = 0;
    tell("on", "Live");
    // What happened before the socket was open is in none of its events.
    if (!cursor) refreshNow();
  };
  mine.onmessage = (message) => {
    for (const line of message.data.split("\n")) {
      if (line === "") continue;
      const event = JSON.parse(line);
      cursor = event.cursor ?? cursor;
      mark(event.type);
    }
  };
  mine.onclose = () => {
    if (socket !== mine) return;
    socket = null;
    attempts++;
    tell("off", "Not connected; looks every 5 s");
    const pause = Math.min(PAUSE_MAX, PAUSE_MIN * 2 ** Math.min(attempts - 1, 5));
    setTimeout(connect, pause * (0.8 + 0.4 * Math.random()));
  };
}

export function startLive() {
  for (const node of document.querySelectorAll("[data-fragment]")) {
    regions.set(node.dataset.fragment, { node, on: (node.dataset.on ?? "").split(" ").filter(Boolean), html: null });
  }
  showState();
  if (regions.size === 0) return;
  if (!document.body.dataset.events) return;
  connect();
  setInterval(() => { if (socket === null || socket.readyState !== WebSocket.OPEN) refreshNow(); }, POLL);
  document.addEventListener("visibilitychange", schedule);
}
