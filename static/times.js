// Times and durations: what the server wrote once is kept up to date, and exact on hover.

const SECOND = 1000;
const MINUTE = 60;
const HOUR = 3600;
const DAY = 86400;
const EXACT = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });

/** How long ago a time is, or how far ahead. @param {number} at @param {number} now, both in ms */
export function ago(at, now) {
  const seconds = (now - at) / SECOND;
  const size = Math.abs(seconds);
  if (size < 5) return "now";
  const [part, unit] = size < MINUTE ? [1, "s"] : size < HOUR ? [MINUTE, "min"] : size < 2 * DAY ? [HOUR, "h"] : [DAY, "d"];
  const count = `${Math.floor(size / part)} ${unit}`;
  return seconds > 0 ? `${count} ago` : `in ${count}`;
}

/** A duration in its two largest units. @param {number} seconds */
export function span(seconds) {
  if (seconds < 10) return `${Math.max(0, seconds).toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < MINUTE) return `${whole} s`;
  const [size, unit, part, inner] = whole >= DAY ? [DAY, "d", HOUR, "h"] : whole >= HOUR ? [HOUR, "h", MINUTE, "min"] : [MINUTE, "min", 1, "s"];
  const rest = Math.floor((whole % size) / part);
  return `${Math.floor(whole / size)} ${unit}${rest ? ` ${rest} ${inner}` : ""}`;
}

/** A duration that grows. @param {number} seconds */
export function elapsed(seconds) {
  return seconds < MINUTE ? `${Math.max(0, Math.floor(seconds))} s` : span(Math.floor(seconds));
}

/** @param {ParentNode} root */
export function refresh(root) {
  const now = Date.now();
  for (const each of root.querySelectorAll("time[datetime]")) {
    const at = Date.parse(each.getAttribute("datetime"));
    if (Number.isNaN(at)) continue;
    // With data-since it is a duration that grows; otherwise it says how long ago.
    const words = "since" in each.dataset ? elapsed((now - at) / SECOND) : ago(at, now);
    if (each.textContent !== words) each.textContent = words;
    if (!each.title) each.title = EXACT.format(at);
  }
  for (const bar of root.querySelectorAll("progress[data-start]")) {
    bar.value = (now - Date.parse(bar.dataset.start)) / SECOND;
  }
}

/** Keep all times of the document up to date. */
export function keepTime() {
  refresh(document);
  setInterval(() => { if (!document.hidden) refresh(document); }, SECOND);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(document); });
}
