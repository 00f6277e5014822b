// The table of executions: selection, bulk actions that are shown before they are done, saved views.
import { ask, say, send } from "./actions.js";
import { refreshNow } from "./live.js";
import { recall, remember } from "./memory.js";

const element = (id) => document.getElementById(id);
// Bounds the views that are kept.
const MOST_VIEWS = 20;
const boxes = () => [...document.querySelectorAll("td.pick input")];
const chosen = () => boxes().filter((box) => box.checked).map((box) => box.value);

function show() {
  const all = document.querySelector(".pick-all");
  if (!all) return;
  for (const box of [all, ...boxes()]) box.hidden = false;
  const count = chosen().length;
  all.checked = count > 0 && count === boxes().length;
  all.indeterminate = count > 0 && !all.checked;
  element("selection").hidden = count === 0;
  element("selected").textContent = `${count} selected`;
}

/** @param {string} path @param {string} what @param {string} about */
async function act(path, what, about) {
  const ids = chosen();
  try {
    const planned = await send("POST", path, { ids, dryRun: true });
    const rest = planned.matched - planned.changed;
    const text = `${planned.changed} of ${ids.length} selected ${planned.changed === 1 ? "execution" : "executions"} ${about}${rest > 0 ? ` The other ${rest} stay as they are.` : ""}`;
    if (!await ask({ title: `${what}?`, text, yes: `${what} ${planned.changed}`, danger: path.endsWith("stop/") })) return;
    const done = await send("POST", path, { ids, dryRun: false, expected: planned.matched });
    say(`${done.changed} ${done.changed === 1 ? "execution" : "executions"} changed.`);
    for (const box of boxes()) box.checked = false;
    show();
    refreshNow();
  } catch (error) { say(error.message); }
}

/** @returns {{name: string, query: string}[]} */
function views() {
  try { return JSON.parse(recall("views") ?? "[]"); } catch { return []; }
}

function showViews() {
  for (const old of document.querySelectorAll("#views .saved")) old.remove();
  const save = element("save-view");
  for (const view of views()) {
    const link = document.createElement("a");
    link.href = `/executions/${view.query}`;
    link.className = "saved";
    link.textContent = view.name;
    save.before(link);
  }
  for (const link of document.querySelectorAll("#views a")) {
    if (link.search === location.search) link.setAttribute("aria-current", "page");
  }
  save.hidden = location.search === "" || [...document.querySelectorAll("#views a")].some((link) => link.search === location.search);
}

async function saveView() {
  const field = document.createElement("input");
  field.setAttribute("aria-label", "Name of the view");
  field.value = [...new URLSearchParams(location.search).values()].filter(Boolean).join(", ");
  const yes = await ask({ title: "Save this view", text: "It is kept in this browser; its URL can be sent to others.", yes: "Save", more: field });
  if (!yes || field.value.trim() === "") return;
  remember("views", JSON.stringify([...views(), { name: field.value.trim(), query: location.search }].slice(-MOST_VIEWS)));
  showViews();
}

export function startSelect() {
  if (!element("views")) return;
  document.addEventListener("change", (event) => {
    if (event.target.matches(".pick-all")) for (const box of boxes()) box.checked = event.target.checked;
    if (event.target.closest(".pick")) show();
  });
  document.addEventListener("swapped", show);
  element("select-none").addEventListener("click", () => { for (const box of boxes()) box.checked = false; show(); });
  element("stop-selected")?.addEventListener("click", () => act("/executions/stop/", "Stop", "end and are not retried. The schedules of their jobs remain."));
  element("rerun-selected")?.addEventListener("click", () => act("/executions/rerun/", "Run again", "are run once more, with the same definition."));
  element("save-view").addEventListener("click", saveView);
  // What a form leaves empty is not for the URL.
  document.querySelector("form.filters").addEventListener("submit", (event) => {
    for (const field of event.target.elements) if (field.name && field.value.trim() === "") field.disabled = true;
  });
  showViews();
  show();
}
