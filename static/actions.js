// Buttons that change something: each says what will happen, asks, sends, and says what came of it.
import { refreshNow } from "./live.js";

const element = (id) => document.getElementById(id);
// How long a message stays, in milliseconds.
const SAID = 6000;
let timer = 0;

/** @param {string} text @param {string} [url] of what the message is about */
export function say(text, url) {
  const toast = element("toast");
  toast.textContent = text;
  if (url) {
    const link = document.createElement("a");
    link.href = url;
    link.textContent = "Open";
    toast.append(" ", link);
  }
  toast.hidden = false;
  clearTimeout(timer);
  timer = setTimeout(() => { toast.hidden = true; }, SAID);
}

/**
 * Ask before something is done.
 * @param {{title: string, text: string, yes: string, danger?: boolean, more?: Node}} question
 * @returns {Promise<boolean>}
 */
export function ask(question) {
  const dialog = element("ask");
  element("ask-title").textContent = question.title;
  element("ask-text").textContent = question.text;
  element("ask-more").replaceChildren(...(question.more ? [question.more] : []));
  const yes = element("ask-yes");
  yes.textContent = question.yes;
  yes.className = question.danger ? "danger" : "primary";
  dialog.showModal();
  return new Promise((resolve) => {
    let answer = false;
    yes.onclick = () => { answer = true; dialog.close(); };
    element("ask-no").onclick = () => dialog.close();
    // The event comes later: that of the question before must not answer this one.
    dialog.onclose = () => { if (!dialog.open) resolve(answer); };
  });
}

/** Send JSON; the answer, or an Error in the server's own words.
 * @param {string} method @param {string} url @param {unknown} [body] @returns {Promise<any>} */
export async function send(method, url, body) {
  const answer = await fetch(url, {
    method,
    credentials: "same-origin",
    headers: { Accept: "application/json", "Content-Type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const found = answer.status === 204 ? {} : await answer.json().catch(() => ({}));
  if (answer.ok) return found;
  const error = new Error(found.detail ?? `The server answered ${answer.status}.`);
  error.faults = found.errors ?? [];
  throw error;
}

/** The path of a URL of an answer. @param {string | null | undefined} url */
export const pathOf = (url) => (url ? new URL(url, location.href).pathname : undefined);

async function act(button) {
  const { method, url, ask: title, about, yes, said, body, go } = button.dataset;
  const danger = button.classList.contains("danger");
  if (title && !await ask({ title, text: about, yes, danger })) return;
  button.disabled = true;
  try {
    const answer = await send(method, url, body ? JSON.parse(body) : undefined);
    if (go?.startsWith("/")) { location.assign(go); return; }
    say(said, go ? pathOf(answer[go]) : undefined);
    refreshNow();
  } catch (error) {
    say(error.message);
  } finally {
    button.disabled = false;
  }
}

export function startActions() {
  document.addEventListener("click", (event) => {
    const button = event.target instanceof Element ? event.target.closest("button[data-method], button[data-open], button[data-close]") : null;
    if (!button) return;
    if (button.dataset.open) element(button.dataset.open).showModal();
    else if ("close" in button.dataset) button.closest("dialog").close();
    else act(button);
  });
  for (const base of document.querySelectorAll("[data-base]")) base.textContent = location.origin;
}
