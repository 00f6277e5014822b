// The jump box: pages, tasks, jobs and executions by part of a name or the beginning of an id.

// Bounds the pause after the last key before the server is asked, in milliseconds.
const PAUSE = 120;
const MOST = 8;
const PAGES = [
  ["Overview", "/"], ["Executions", "/executions/"], ["Tasks", "/tasks/"], ["Schedules", "/jobs/?kind=cron"],
  ["Hosts", "/hosts/"], ["New job", "/new/"], ["Notifications", "/notifications/"], ["About", "/status/"], ["API", "/docs/"],
];

const box = document.getElementById("jump");
const field = box.querySelector("input");
const list = document.getElementById("jump-list");
let chosen = 0;
let asked = 0;
let timer = 0;

/** @typedef {{kind: string, name: string, url: string, about?: string}} Place */

/** @param {string} url @returns {Promise<any>} */
async function ask(url) {
  const answer = await fetch(url, { headers: { Accept: "application/json" } });
  return answer.ok ? answer.json() : { items: [] };
}

/** @param {string} words @returns {Promise<Place[]>} */
async function find(words) {
  const q = encodeURIComponent(words);
  // A task by a word of its name or by its beginning; jobs and executions also by that of an id.
  const beginning = encodeURIComponent(`${words.replaceAll("*", "\\*")}*`);
  const isId = /^[0-9a-f-]{4,36}$/i.test(words);
  const [tasks, begun, jobs, executions] = await Promise.all([
    ask(`/search/?query=${q}&perPage=${MOST}`),
    ask(`/jobs/?task=${beginning}&perPage=${MOST}`),
    ask(`/jobs/?q=${q}&perPage=${MOST}`),
    isId ? ask(`/executions/?q=${q}&perPage=${MOST}`) : { items: [] },
  ]);
  const found = new Map();
  const add = (kind, name, url, about) => { if (!found.has(url)) found.set(url, { kind, name, url: new URL(url, location.href).pathname, about }); };
  for (const one of executions.items) add("Execution", `${one.taskId} ${one.executionId.slice(0, 8)}`, one.url, one.status);
  for (const one of [...tasks.items, ...begun.items]) add("Task", one.taskId, one.taskUrl ?? one.url);
  for (const one of [...begun.items, ...jobs.items]) add("Job", `${one.taskId} / ${one.name ?? one.jobId.slice(0, 8)}`, one.url, one.scheduleText ?? "");
  return [...found.values()].slice(0, 2 * MOST);
}

/** @param {Place[]} places */
function show(places) {
  list.replaceChildren(...places.map((place, number) => {
    const option = document.createElement("div");
    option.setAttribute("role", "option");
    option.id = `jump-${number}`;
    option.dataset.url = place.url;
    for (const [name, text] of [["kind", place.kind], ["what", place.name], ["about", place.about ?? ""]]) {
      const part = document.createElement("span");
      part.className = name;
      part.textContent = text;
      option.append(part);
    }
    option.addEventListener("click", () => location.assign(place.url));
    return option;
  }));
  choose(0);
}

/** @param {number} number */
function choose(number) {
  const options = [...list.children];
  chosen = Math.max(0, Math.min(options.length - 1, number));
  options.forEach((option, each) => option.setAttribute("aria-selected", String(each === chosen)));
  options[chosen]?.scrollIntoView({ block: "nearest" });
  if (options[chosen]) field.setAttribute("aria-activedescendant", options[chosen].id);
  else field.removeAttribute("aria-activedescendant");
}

async function look() {
  const words = field.value.trim();
  const mine = ++asked;
  const pages = PAGES.filter(([name]) => name.toLowerCase().includes(words.toLowerCase()))
    .map(([name, url]) => ({ kind: "Page", name, url }));
  if (words === "") { show(pages); return; }
  const found = await find(words).catch(() => []);
  // An answer to what is no longer asked.
  if (mine === asked) show([...pages.slice(0, 3), ...found]);
}

export function openJump() {
  if (box.open) { field.select(); return; }
  field.value = "";
  box.showModal();
  look();
}

field.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(look, PAUSE); });
field.addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (step) { event.preventDefault(); choose(chosen + step); }
  else if (event.key === "Enter") {
    event.preventDefault();
    const option = list.children[chosen];
    if (option) location.assign(option.dataset.url);
  }
});
box.addEventListener("click", (event) => { if (event.target === box) box.close(); });
