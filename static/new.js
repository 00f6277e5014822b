// The form for a job: asks the server what it thinks of what was typed so far, with a dry run.
import { pathOf, send } from "./actions.js";
import { commandOf, variables } from "./rerun.js";

// Bounds the pause after the last key before the server is asked, in milliseconds.
const PAUSE = 350;
const EXACT = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const NUMBER = /^[0-9]+(\.[0-9]+)?$/;
const element = (id) => document.getElementById(id);

/** A string as one word of a shell. @param {string} text */
export const quoted = (text) => (/^[A-Za-z0-9_@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`);

/** What the form holds, as a payload.
 * @param {HTMLFormElement} form @returns {Record<string, unknown>} */
export function payloadOf(form) {
  const field = (name) => form.elements[name].value.trim();
  const found = field("more") === "" ? {} : JSON.parse(field("more"));
  if (field("image")) found.image = field("image");
  if (form.elements.command.value.trim()) found.command = commandOf(form.elements.command.value);
  const envs = variables(form.elements.envs.value);
  if (Object.keys(envs).length > 0) found.envs = envs;
  const when = form.elements.when.value;
  if (when === "startIn") found.startIn = field("startIn");
  else if (when === "startAt" && field("startAt")) found.startAt = Math.floor(new Date(field("startAt")).getTime() / 1000);
  else if (when === "cron") {
    found.cron = field("cron");
    if (field("timezone") && field("timezone") !== "UTC") found.timezone = field("timezone");
    if (field("overlap") !== "allow") found.overlap = field("overlap");
  }
  for (const name of ["retries", "timeout"]) {
    if (field(name)) found[name] = NUMBER.test(field(name)) ? Number(field(name)) : field(name);
  }
  return found;
}

/** The commands that do the same. @param {string} task @param {Record<string, any>} payload */
export function commands(task, payload) {
  const url = `${location.origin}/tasks/${encodeURIComponent(task)}/`;
  const words = ["fastlane", "run", "--task", task];
  for (const [name, value] of Object.entries(payload.envs ?? {})) words.push("--env", `${name}=${value}`);
  for (const [key, flag] of [["cron", "--cron"], ["startIn", "--in"], ["startAt", "--at"], ["retries", "--retries"], ["timeout", "--timeout"]]) {
    if (payload[key] !== undefined) words.push(flag, String(payload[key]));
  }
  const { image = "IMAGE", command = "COMMAND" } = payload;
  const argv = Array.isArray(command) ? command.map(quoted).join(" ") : command;
  return {
    curl: `curl ${quoted(url)} -d ${quoted(JSON.stringify(payload))}`,
    run: `${words.map(quoted).join(" ")} ${quoted(image)} -- ${argv}`,
  };
}

export function startNew() {
  const form = element("new");
  if (!form) return;
  const { model, edited } = form.dataset;
  const at = form.elements.startAt;
  if (at.dataset.unix) at.value = new Date(Number(at.dataset.unix) * 1000 - new Date().getTimezoneOffset() * 60000).toISOString().slice(0, 19);
  const hints = new Map([...form.querySelectorAll("[data-for]")].map((hint) => [hint.dataset.for, hint.innerHTML]));
  let timer = 0;
  let asked = 0;

  const place = () => {
    const when = form.elements.when.value;
    for (const part of form.querySelectorAll("[data-when]")) part.hidden = part.dataset.when !== when;
  };

  /** @param {{pointer: string, message: string}[]} faults */
  const show = (faults) => {
    const left = [];
    for (const [name, hint] of hints) form.querySelector(`[data-for="${name}"]`).innerHTML = hint;
    for (const small of form.querySelectorAll("[data-for]")) small.className = "";
    for (const control of form.querySelectorAll("[aria-invalid]")) control.removeAttribute("aria-invalid");
    for (const fault of faults) {
      const names = [...hints.keys()].filter((name) => fault.pointer === name || fault.pointer.startsWith(`${name}/`));
      const small = names.length > 0 ? form.querySelector(`[data-for="${names[0]}"]`) : null;
      if (small && small.closest("[hidden]") === null) {
        small.textContent = fault.message;
        small.className = "wrong";
        small.closest("label").querySelector("input, textarea").setAttribute("aria-invalid", "true");
      } else left.push(fault.message);
    }
    element("faults").replaceChildren(...left.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
  };

  /** @param {string[]} times */
  const plan = (times) => {
    element("planned").hidden = times.length === 0;
    element("next-runs").replaceChildren(...times.map((time) => Object.assign(document.createElement("li"), { textContent: EXACT.format(new Date(time)) })));
  };

  const read = () => {
    const task = form.elements.task.value.trim();
    try { return { task, payload: payloadOf(form), faults: [] }; } catch (error) {
      const where = error instanceof SyntaxError ? "more" : "/envs";
      return { task, payload: {}, faults: [{ pointer: where, message: error instanceof SyntaxError ? `This is not JSON: ${error.message}.` : error.message }] };
    }
  };

  const check = async () => {
    const mine = ++asked;
    const { task, payload, faults } = read();
    const same = commands(task || "TASK", payload);
    element("as-curl").textContent = same.curl;
    element("as-run").textContent = same.run;
    if (faults.length > 0 || task === "" || !payload.image || !payload.command) { show(faults); plan([]); element("checked").textContent = faults.length > 0 ? "Not yet right" : "as you type"; return; }
    const url = `/tasks/${encodeURIComponent(task)}/?dryRun=true${model ? `&from=${model}` : ""}`;
    try {
      const answer = await send("POST", url, payload);
      if (mine !== asked) return;
      show([]);
      plan(answer.nextRuns ?? []);
      element("checked").textContent = "✓ The server accepts it";
    } catch (error) {
      if (mine !== asked) return;
      show(error.faults?.length > 0 ? error.faults : [{ pointer: "", message: error.message }]);
      plan([]);
      element("checked").textContent = "Not yet right";
    }
  };

  form.addEventListener("input", () => { place(); clearTimeout(timer); timer = setTimeout(check, PAUSE); });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const { task, payload, faults } = read();
    const failed = element("failed");
    failed.hidden = true;
    if (faults.length > 0) { show(faults); return; }
    const path = `/tasks/${encodeURIComponent(task)}/`;
    try {
      const answer = await (edited ? send("PUT", `${path}jobs/${edited}/`, payload) : send("POST", `${path}${model ? `?from=${model}` : ""}`, payload));
      location.assign(pathOf(answer.executionUrl ?? answer.jobUrl));
    } catch (error) {
      show(error.faults ?? []);
      failed.textContent = error.message;
      failed.hidden = false;
      form.querySelector("[aria-invalid]")?.focus();
    }
  });
  place();
  check();
}
