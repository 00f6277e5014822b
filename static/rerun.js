// "Run again with changes": sends only what was changed.
import { send, pathOf } from "./actions.js";

/** The variables in lines of NAME=value. @param {string} text @returns {Record<string, string>} */
export function variables(text) {
  const found = {};
  for (const line of text.split("\n")) {
    if (line.trim() === "") continue;
    const at = line.indexOf("=");
    if (at < 1) throw new Error(`"${line}" is not NAME=value.`);
    found[line.slice(0, at).trim()] = line.slice(at + 1);
  }
  return found;
}

/** A command as it was typed: a JSON list stays a list. @param {string} text */
export function commandOf(text) {
  if (!text.trim().startsWith("[")) return text;
  try {
    const list = JSON.parse(text);
    return Array.isArray(list) && list.every((word) => typeof word === "string") ? list : text;
  } catch { return text; }
}

/** @param {HTMLFormElement} form */
function changes(form) {
  const { image, command, envs, timeout } = form.elements;
  const given = JSON.parse(form.dataset.envs);
  const found = {};
  if (image.value !== form.dataset.image) found.image = image.value;
  if (command.value !== command.dataset.given) found.command = commandOf(command.value);
  const wanted = Object.entries(variables(envs.value)).filter(([name, value]) => given[name] !== value);
  if (wanted.length > 0) found.envs = Object.fromEntries(wanted);
  if (timeout.value !== form.dataset.timeout) found.timeout = /^[0-9.]+$/.test(timeout.value) ? Number(timeout.value) : timeout.value;
  return found;
}

export function startRerun() {
  const form = document.querySelector("form[data-rerun]");
  form?.addEventListener("submit", async (event) => {
    event.preventDefault();
    const alert = form.querySelector("[role=alert]");
    try {
      const answer = await send("POST", form.dataset.rerun, changes(form));
      location.assign(pathOf(answer.executionUrl));
    } catch (error) {
      alert.textContent = [error.message, ...(error.faults ?? []).map((fault) => fault.message)].join(" ");
      alert.hidden = false;
    }
  });
}
