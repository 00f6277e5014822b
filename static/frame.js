// What is around every page: the menu, the theme, where one is, keys, and a page that tries again.
import { recall, remember } from "./memory.js";
import { openJump } from "./jump.js";

const element = (id) => document.getElementById(id);
const THEMES = ["system", "light", "dark"];
// Bounds the pause between the two keys of a shortcut, in milliseconds.
const CHORD = 1200;
const PLACES = { o: "/", e: "/executions/", t: "/tasks/", s: "/jobs/?kind=cron", h: "/hosts/", n: "/notifications/", a: "/status/" };

function startTheme() {
  const button = element("theme");
  const show = () => {
    const theme = recall("theme") ?? "system";
    button.querySelector("span").textContent = theme[0].toUpperCase() + theme.slice(1);
    button.setAttribute("aria-label", `Theme: ${theme}`);
    button.title = `Theme: ${theme}`;
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
  };
  button.addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(recall("theme") ?? "system") + 1) % THEMES.length];
    remember("theme", next === "system" ? null : next);
    show();
  });
  button.hidden = false;
  show();
}

function startMenu() {
  const button = element("menu");
  const nav = element("nav");
  button.hidden = false;
  button.addEventListener("click", () => {
    const open = nav.classList.toggle("open");
    button.setAttribute("aria-expanded", String(open));
  });
  const here = location.pathname;
  let best = null;
  for (const link of nav.querySelectorAll("a")) {
    const path = new URL(link.href).pathname;
    const inside = path === "/" ? here === "/" : here.startsWith(path);
    if (inside && (best === null || path.length > new URL(best.href).pathname.length)) best = link;
  }
  best?.setAttribute("aria-current", "page");
}

const typing = (target) => target instanceof Element && target.closest("input, textarea, select, [contenteditable]");

function rowKeys(key) {
  const rows = [...document.querySelectorAll("tbody tr")].filter((row) => row.querySelector("a") && row.offsetParent !== null);
  if (rows.length === 0) return;
  const at = rows.findIndex((row) => row.classList.contains("at"));
  if (key === "x") { rows[at]?.querySelector("input[type=checkbox]")?.click(); return; }
  const next = key === "j" ? Math.min(rows.length - 1, at + 1) : Math.max(0, at - 1);
  rows[at]?.classList.remove("at");
  rows[next].classList.add("at");
  rows[next].querySelector("a").focus({ preventScroll: true });
  rows[next].scrollIntoView({ block: "nearest" });
}

function startKeys() {
  let chord = 0;
  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
      event.preventDefault();
      openJump();
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || typing(event.target) || document.querySelector("dialog[open]")) return;
    const isSecond = Date.now() - chord < CHORD;
    chord = 0;
    if (isSecond && PLACES[event.key]) location.assign(PLACES[event.key]);
    else if (event.key === "g") chord = Date.now();
    else if (event.key === "n") location.assign("/new/");
    else if (event.key === "?") element("help").showModal();
    else if (event.key === "/") {
      event.preventDefault();
      const field = document.querySelector("main input[type=search]");
      if (field) field.focus();
      else openJump();
    } else if ("jkx".includes(event.key)) rowKeys(event.key);
  });
  element("help-open")?.addEventListener("click", () => element("help").showModal());
  if (element("help-open")) element("help-open").hidden = false;
}

export function startFrame() {
  startTheme();
  startMenu();
  startKeys();
  const open = element("jump-open");
  open.hidden = false;
  open.addEventListener("click", openJump);
  const retry = Number(document.body.dataset.retry);
  if (retry > 0) setTimeout(() => location.reload(), retry * 1000);
}
