// The page on which a person watches a log. Hand-written, no build, no other files.
//
// It reads `…/ws/?format=json&state=true&after=SEQ`: records, the execution's state whenever it
// changes, and an end. A job's page continues with the retry of a failed execution.
// Log text reaches the document as text only, never as markup.
"use strict";

(() => {
  // Bounds the lines in the document; a reader who has scrolled up gets twice as many before any go.
  const MAX_LINES = 5000;
  // Bounds the text of one row; a longer line continues in the next row.
  const MAX_ROW_CHARS = 4000;
  // Bounds the text in the document, for logs of very long lines.
  const MAX_CHARS = 8000000;
  // Bounds an escape sequence that is held back until its end arrives.
  const MAX_ESCAPE_CHARS = 256;
  // Bounds the pauses between attempts to connect, in milliseconds.
  const PAUSE_MIN = 1000;
  const PAUSE_MAX = 15000;
  const PAUSE_WAITING = 3000;

  const element = (id) => document.getElementById(id);
  const page = document.body.dataset;
  const log = element("log");
  const rows = element("lines");

  // ---------------------------------------------------------------- text, lines and colours

  const CONTROL = /\x1b\[([0-9;:]*)m|\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]|[\x00-\x08\x0b-\x1f\x7f]/g;
  const CUT_ESCAPE = /\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)?$/;
  const PLAIN_STYLE = Object.freeze({});

  const streams = new Map();
  const streamOf = (name) => {
    if (!streams.has(name)) streams.set(name, { held: "", style: PLAIN_STYLE });
    return streams.get(name);
  };

  let pending = [];
  let shown = [];
  let shownChars = 0;
  let dropped = 0;
  let total = 0;
  // Records of the execution that is watched now; the rows of earlier attempts stay in place.
  let written = 0;
  let open = null;
  // Rows between those shown and those pending were dropped: the shown ones have to go first.
  let stale = false;

  const cubeColour = (n) => {
    if (n < 16) return n;
    if (n >= 232) { const v = 8 + (n - 232) * 10; return [v, v, v]; }
    const level = (v) => (v ? 55 + v * 40 : 0);
    n -= 16;
    return [level(Math.floor(n / 36)), level(Math.floor(n / 6) % 6), level(n % 6)];
  };

  const byte = (value) => Math.min(255, Math.max(0, value | 0));

  // ECMA-48 SGR, with the 256 and true colours of ISO 8613-6 as terminals write them.
  function restyle(style, parameters) {
    const codes = parameters === "" ? [0] : parameters.split(/[;:]/).map(Number);
    const next = { ...style };
    for (let i = 0; i < codes.length; i++) {
      const code = codes[i];
      if (code === 0) for (const key of Object.keys(next)) delete next[key];
      else if (code === 1) next.bold = true;
      else if (code === 2) next.dim = true;
      else if (code === 3) next.italic = true;
      else if (code === 4) next.underline = true;
      else if (code === 7) next.inverse = true;
      else if (code === 9) next.strike = true;
      else if (code === 22) { delete next.bold; delete next.dim; }
      else if (code === 23) delete next.italic;
      else if (code === 24) delete next.underline;
      else if (code === 27) delete next.inverse;
      else if (code === 29) delete next.strike;
      else if (code >= 30 && code <= 37) next.fore = code - 30;
      else if (code >= 90 && code <= 97) next.fore = code - 82;
      else if (code === 39) delete next.fore;
      else if (code >= 40 && code <= 47) next.back = code - 40;
      else if (code >= 100 && code <= 107) next.back = code - 92;
      else if (code === 49) delete next.back;
      else if (code === 38 || code === 48) {
        const which = code === 38 ? "fore" : "back";
        if (codes[i + 1] === 5) { next[which] = cubeColour(byte(codes[i + 2])); i += 2; }
        else if (codes[i + 1] === 2) { next[which] = codes.slice(i + 2, i + 5).map(byte); i += 4; }
      }
    }
    return next;
  }

  function styleAfter(style, text) {
    if (!text.includes("\x1b")) return style;
    for (const match of text.matchAll(CONTROL)) if (match[1] !== undefined) style = restyle(style, match[1]);
    return style;
  }

  function dress(span, style) {
    for (const name of ["bold", "dim", "italic", "underline", "strike"]) if (style[name]) span.classList.add(name);
    let { fore, back } = style;
    if (style.inverse) {
      [fore, back] = [back, fore];
      if (back === undefined) { span.classList.add("inverse"); fore = undefined; }
    }
    if (typeof back === "number") span.classList.add(`b${back}`);
    else if (back) span.style.backgroundColor = `rgb(${back.join(",")})`;
    if (back !== undefined && typeof fore !== "object") {
      const light = typeof back === "number" ? [3, 7, 10, 11, 12, 14, 15].includes(back) : back[0] * 299 + back[1] * 587 + back[2] * 114 > 140000;
      span.classList.add(light ? "on-light" : "on-dark");
    } else if (typeof fore === "number") span.classList.add(`f${fore}`);
    else if (fore) span.style.color = `rgb(${fore.join(",")})`;
  }

  // A row's text as nodes; other escape sequences vanish, other control characters become pictures.
  function fill(target, row) {
    target.textContent = "";
    let style = row.style;
    let plain = "";
    let at = 0;
    const add = (text) => {
      if (text === "") return;
      plain += text;
      if (style === PLAIN_STYLE || Object.keys(style).length === 0) { target.append(text); return; }
      const span = document.createElement("span");
      dress(span, style);
      span.textContent = text;
      target.append(span);
    };
    for (const match of row.raw.matchAll(CONTROL)) {
      add(row.raw.slice(at, match.index));
      at = match.index + match[0].length;
      if (match[1] !== undefined) style = restyle(style, match[1]);
      else if (match[0].length === 1 && match[0] !== "\b" && match[0] !== "\x1b") {
        add(String.fromCharCode(match[0] === "\x7f" ? 0x2421 : 0x2400 + match[0].charCodeAt(0)));
      }
    }
    add(row.raw.slice(at));
    row.plain = plain.toLowerCase();
  }

  const newRow = (stream, ts, raw, style, begins) => ({ stream, ts, raw, style, begins, plain: "", node: null, dirty: false });

  function push(row) {
    pending.push(row);
    if (row.begins) total++;
    if (pending.length > 2 * MAX_LINES) {
      const gone = pending.splice(0, pending.length - MAX_LINES);
      dropped += gone.reduce((sum, each) => sum + (each.begins ? 1 : 0), 0);
      stale = true;
    }
  }

  function clearShown() {
    dropped += shown.reduce((sum, each) => sum + (each.begins ? 1 : 0), 0);
    shown = [];
    shownChars = 0;
    rows.textContent = "";
  }

  const cutBefore = (text, limit) => {
    let at = limit;
    const escape = text.slice(Math.max(0, at - 32), at).match(CUT_ESCAPE);
    if (escape && escape[0].length < 32) at -= escape[0].length;
    const unit = text.charCodeAt(at - 1);
    return unit >= 0xd800 && unit <= 0xdbff ? at - 1 : at;
  };

  // One piece of a line: `ends` tells whether a line feed followed it.
  function addPiece(state, name, ts, piece, ends) {
    const back = piece.lastIndexOf("\r");
    const restarts = back >= 0;
    const skipped = restarts ? piece.slice(0, back) : "";
    let text = restarts ? piece.slice(back + 1) : piece;
    let row = open !== null && open.stream === name ? open : null;
    if (restarts) {
      state.style = styleAfter(state.style, skipped);
      if (row !== null) { row.raw = ""; row.style = state.style; row.dirty = true; }
    }
    let begins = true;
    if (row !== null) {
      begins = false;
      const room = MAX_ROW_CHARS - row.raw.length;
      const head = text.length <= room ? text : text.slice(0, Math.max(0, cutBefore(text, Math.max(room, 0))));
      row.raw += head;
      row.dirty = true;
      state.style = styleAfter(state.style, head);
      text = text.slice(head.length);
    }
    while (row === null || text !== "") {
      const head = text.length <= MAX_ROW_CHARS ? text : text.slice(0, cutBefore(text, MAX_ROW_CHARS));
      row = newRow(name, ts, head, state.style, begins);
      begins = false;
      push(row);
      state.style = styleAfter(state.style, head);
      text = text.slice(head.length);
    }
    open = ends ? null : row;
  }

  function addRecord(record) {
    written++;
    const state = streamOf(record.stream);
    let text = state.held + record.text;
    state.held = "";
    // A carriage return may yet prove to be half of a line end, an escape may yet be completed.
    const cut = text.match(CUT_ESCAPE);
    let keep = cut && cut[0].length <= MAX_ESCAPE_CHARS ? text.length - cut[0].length : text.length;
    if (keep === text.length) while (keep > 0 && text[keep - 1] === "\r") keep--;
    if (keep < text.length) { state.held = text.slice(keep).slice(-MAX_ESCAPE_CHARS); text = text.slice(0, keep); }
    if (text === "") return;
    const pieces = text.split(/\r*\n/);
    const last = pieces.length - 1;
    for (let i = 0; i < last; i++) {
      // The server's own notes begin with a line feed, to stand apart in a plain log.
      if (pieces[i] === "" && record.stream === "fastlane") open = null;
      else addPiece(state, record.stream, record.ts, pieces[i], true);
    }
    if (pieces[last] !== "") addPiece(state, record.stream, record.ts, pieces[last], false);
    paintSoon();
  }

  // ---------------------------------------------------------------- the document

  let follow = true;
  let filter = "";
  let painting = false;
  let paintCost = 0;
  let unseen = 0;
  const pad = (number, width = 2) => String(number).padStart(width, "0");
  const dateOf = (ts) => new Date(`${ts}Z`);
  const clockText = (date) => `${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())}.${pad(date.getMilliseconds(), 3)}`;

  function build(row) {
    const line = document.createElement("div");
    line.className = `line ${["stdout", "stderr", "fastlane"].includes(row.stream) ? row.stream : ""}`;
    const time = document.createElement("time");
    time.dateTime = `${row.ts}Z`;
    time.textContent = clockText(dateOf(row.ts));
    time.title = `${row.ts} UTC`;
    const text = document.createElement("span");
    text.className = "text";
    fill(text, row);
    line.append(time, text);
    row.node = line;
    line.hidden = filter !== "" && !row.plain.includes(filter);
    return line;
  }

  function paintSoon() {
    if (painting) return;
    painting = true;
    // In a flood, most of the time is for reading it: paint the less often the more it costs.
    if (paintCost < 8) requestAnimationFrame(paint);
    else setTimeout(() => requestAnimationFrame(paint), Math.min(1000, paintCost * 5));
  }

  function paint() {
    const begun = performance.now();
    painting = false;
    for (let i = shown.length - 1; i >= 0 && i >= shown.length - 8; i--) {
      const row = shown[i];
      if (!row.dirty) continue;
      row.dirty = false;
      fill(row.node.lastChild, row);
      row.node.hidden = filter !== "" && !row.plain.includes(filter);
    }
    if (pending.length > 0) {
      let fresh = pending;
      pending = [];
      if (stale) clearShown();
      stale = false;
      if (follow && fresh.length >= MAX_LINES) {
        clearShown();
        for (const row of fresh.slice(0, -MAX_LINES)) if (row.begins) dropped++;
        fresh = fresh.slice(-MAX_LINES);
      }
      const fragment = document.createDocumentFragment();
      for (const row of fresh) { row.dirty = false; shownChars += row.raw.length; fragment.append(build(row)); }
      rows.append(fragment);
      shown = shown.concat(fresh);
      if (!follow) unseen += fresh.length;
      trim();
      element("waiting").hidden = written > 0;
    }
    if (follow) log.scrollTop = log.scrollHeight;
    tell();
    paintCost = performance.now() - begun;
  }

  function trim() {
    const most = follow ? MAX_LINES : 2 * MAX_LINES;
    let gone = Math.max(0, shown.length - most);
    let chars = shownChars;
    for (let i = 0; i < gone; i++) chars -= shown[i].raw.length;
    while (chars > MAX_CHARS && gone < shown.length - 1) chars -= shown[gone++].raw.length;
    for (let i = 0; i < gone; i++) { shown[i].node.remove(); if (shown[i].begins) dropped++; }
    if (gone > 0) { shown = shown.slice(gone); shownChars = chars; }
  }

  const number = new Intl.NumberFormat();

  function tell() {
    const note = element("dropped");
    note.hidden = dropped === 0;
    if (dropped > 0) {
      note.textContent = `${number.format(dropped)} earlier lines are not shown here. `;
      const link = document.createElement("a");
      link.href = `${basePath()}/logs/`;
      link.textContent = "Get the full log";
      note.append(link);
    }
    element("count").textContent = total === 0 ? "" : `${number.format(total)} ${total === 1 ? "line" : "lines"}`;
    const newest = element("newest");
    newest.hidden = follow || shown.length === 0;
    newest.textContent = unseen > 0 ? `↓ ${number.format(unseen)} new ${unseen === 1 ? "line" : "lines"}` : "↓ Newest line";
    if (filter === "") element("matches").textContent = "";
    else {
      const found = shown.reduce((sum, row) => sum + (row.node.hidden ? 0 : 1), 0);
      // What is no longer in the document was not searched.
      const where = dropped > 0 ? ` in the last ${number.format(total - dropped)} of ${number.format(total)} lines` : "";
      element("matches").textContent = `${number.format(found)} found${where}`;
    }
  }

  function setFollow(on) {
    follow = on;
    element("follow").setAttribute("aria-pressed", String(on));
    log.setAttribute("aria-live", on ? "polite" : "off");
    if (on) { unseen = 0; trim(); log.scrollTop = log.scrollHeight; }
    tell();
  }

  const atEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < 24;
  let lastTop = 0;
  log.addEventListener("scroll", () => {
    const up = log.scrollTop < lastTop - 1;
    lastTop = log.scrollTop;
    if (follow && up && !atEnd()) setFollow(false);
    else if (!follow && !up && atEnd()) setFollow(true);
  }, { passive: true });
  log.addEventListener("wheel", (event) => { if (event.deltaY < 0 && log.scrollTop > 0) setFollow(false); }, { passive: true });
  new ResizeObserver(() => { if (follow) log.scrollTop = log.scrollHeight; }).observe(log);

  const memory = {
    read(key) { try { return localStorage.getItem(`fastlane.${key}`); } catch { return null; } },
    write(key, value) { try { localStorage.setItem(`fastlane.${key}`, value); } catch { /* private window */ } },
  };

  function toggle(id, start) {
    const button = element(id);
    const set = (on) => {
      button.setAttribute("aria-pressed", String(on));
      log.classList.toggle(id, on);
      if (follow) log.scrollTop = log.scrollHeight;
    };
    set(memory.read(id) === null ? start : memory.read(id) === "true");
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      set(on);
      memory.write(id, String(on));
    });
  }
  toggle("wrap", true);
  toggle("times", false);
  element("follow").addEventListener("click", () => setFollow(!follow));
  element("newest").addEventListener("click", () => { setFollow(true); log.focus(); });
  element("filter").addEventListener("input", (event) => {
    filter = event.target.value.toLowerCase();
    for (const row of shown) row.node.hidden = filter !== "" && !row.plain.includes(filter);
    if (follow) log.scrollTop = log.scrollHeight;
    tell();
  });
  element("filter").addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.target.value = "";
    event.target.dispatchEvent(new Event("input"));
    log.focus();
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, dialog")) return;
    const button = { f: "follow", w: "wrap", t: "times" }[event.key];
    if (button) element(button).click();
    else if (event.key === "/") { event.preventDefault(); element("filter").focus(); }
    else if (event.key === "End") setFollow(true);
    else if (event.key === "Home" && event.target === log) setFollow(false);
  });

  // ---------------------------------------------------------------- state

  let state = { status: "connecting" };
  let clockAhead = 0;
  let ended = null;
  const FINAL = ["done", "failed", "timedout", "expired"];
  const WAITING = ["scheduled", "enqueued", "idle"];
  const REASONS = {
    "oom": "out of memory", "stopped": "stopped", "timeout": "ran too long", "expired": "not started in time",
    "pull-failed": "image not pulled", "start-failed": "not started", "lost": "lost",
  };
  const basePath = () => (page.execution ? `${page.jobPath}/executions/${page.execution}` : page.jobPath);

  function spanText(seconds) {
    const whole = Math.max(0, Math.floor(seconds));
    if (seconds < 60) return `${Math.max(0, seconds).toFixed(1)} s`;
    const hours = Math.floor(whole / 3600);
    const minutes = Math.floor(whole / 60) % 60;
    return hours > 0 ? `${hours} h ${pad(minutes)} m` : `${minutes} m ${pad(whole % 60)} s`;
  }

  function showState() {
    const final = FINAL.includes(state.status);
    let words = state.status;
    if (final && REASONS[state.reason] && REASONS[state.reason] !== state.status) words += `: ${REASONS[state.reason]}`;
    const badge = element("status");
    if (badge.textContent !== words) badge.textContent = words;
    badge.dataset.status = state.status;
    const exit = Number.isInteger(state.exitCode) ? ` (exit ${state.exitCode})` : "";
    document.title = `${words}${exit} · ${page.task} · fastlane`;
    element("exit-item").hidden = exit === "";
    element("exit").textContent = Number.isInteger(state.exitCode) ? String(state.exitCode) : "";
    element("stop").hidden = state.status === "connecting" || state.status === "idle" || (final && !(page.kind === "job" && state.scheduled));
    document.querySelector(".links").hidden = !page.execution;
    const notice = element("notice");
    if (state.error) { notice.textContent = state.error; notice.hidden = false; }
    const waiting = element("waiting");
    if (written === 0) {
      waiting.hidden = false;
      if (state.status === "scheduled") waiting.textContent = state.nextScheduledAt ? `Nothing has run yet. Scheduled for ${dateOf(state.nextScheduledAt).toLocaleString()}.` : "Nothing has run yet. Scheduled.";
      else if (state.status === "idle") waiting.textContent = "This job has not run and is not scheduled.";
      else if (state.status === "enqueued") waiting.textContent = `${whyWaiting()} The log appears here as soon as it runs.`;
      else if (state.status === "pulling") waiting.textContent = state.waiting || "Pulling the image …";
      else if (final) waiting.textContent = ended ? "Nothing was written to this log." : "Getting the log …";
      else if (state.status === "running") waiting.textContent = "Running. Nothing was written yet.";
    }
    showTime();
  }

  const attemptText = (attempt) => `Attempt ${attempt} of ${state.attempts}`;

  function whyWaiting() {
    if (!state.dueAt) return state.waiting || "In the queue.";
    const seconds = (dateOf(state.dueAt).getTime() - Date.now() - clockAhead) / 1000;
    return `${attemptText(state.attempt)} ${seconds > 0 ? `in ${spanText(Math.ceil(seconds)).replace(".0 s", " s")}` : "is about to start"}.`;
  }

  function showTime() {
    const item = element("duration-item");
    item.hidden = !state.startedAt;
    if (!state.startedAt) return;
    const end = state.finishedAt ? dateOf(state.finishedAt).getTime() : Date.now() + clockAhead;
    element("duration").textContent = spanText((end - dateOf(state.startedAt).getTime()) / 1000);
  }
  setInterval(() => { if (state.dueAt && !state.finishedAt) showState(); else if (state.startedAt && !state.finishedAt) showTime(); }, 1000);

  function setExecution(id) {
    if (!id || page.execution === id) return;
    page.execution = id;
    const link = element("execution");
    link.textContent = id;
    link.href = `${basePath()}/`;
    for (const each of document.querySelectorAll("a[data-log]")) each.href = `${basePath()}/${each.dataset.log}/`;
  }

  // ---------------------------------------------------------------- the socket

  let socket = null;
  let after = 0;
  let timer = null;
  // Attempts to connect, which are no attempts of the job.
  let attempts = 0;
  let movedOn = false;

  function connect() {
    clearTimeout(timer);
    element("now").hidden = true;
    // After a record it must be that record's own execution, though the job may have a newer one.
    const path = page.kind === "execution" || after > 0 || movedOn ? basePath() : page.jobPath;
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const mine = new WebSocket(`${scheme}//${location.host}${path}/ws/?format=json&state=true&after=${after}`);
    socket = mine;
    mine.onopen = () => { element("connection").textContent = "Live"; };
    mine.onmessage = (event) => {
      const message = JSON.parse(event.data);
      if (message.seq !== undefined) {
        attempts = 0;
        if (message.seq <= after) return;
        after = message.seq;
        addRecord(message);
      } else if (message.state !== undefined) {
        if (message.state.status === "running" || message.state.status === "pulling") attempts = 0;
        state = message.state;
        if (state.now) clockAhead = dateOf(state.now).getTime() - Date.now();
        setExecution(state.executionId);
        showState();
      } else if (message.end) {
        ended = message;
        state = { ...state, status: message.status, exitCode: message.exitCode, reason: message.reason };
      }
    };
    mine.onclose = (event) => {
      if (socket !== mine) return;
      socket = null;
      if (ended !== null && page.kind === "job" && state.retry) { moveOn(); return; }
      if (ended !== null || event.reason === "done") { finish(); return; }
      const waiting = WAITING.includes(state.status) && event.reason === "retry";
      attempts++;
      const most = waiting ? PAUSE_WAITING : PAUSE_MAX;
      const pause = Math.min(most, PAUSE_MIN * 2 ** Math.min(attempts - 1, 5)) * (0.8 + 0.4 * Math.random());
      element("connection").textContent = !waiting ? `Not connected; trying again in ${Math.ceil(pause / 1000)} s` : state.status === "idle" ? "Not scheduled" : "Waiting for it to start";
      element("now").hidden = waiting;
      timer = setTimeout(connect, pause);
    };
  }

  function addHeld() {
    for (const [name, each] of streams) {
      const held = each.held.replace(/\r+$/, "");
      each.held = "";
      if (held !== "" && !held.startsWith("\x1b")) addPiece(each, name, state.finishedAt || new Date().toISOString().slice(0, -1), held, false);
    }
  }

  function finish() {
    addHeld();
    paint();
    showState();
    const connection = element("connection");
    connection.textContent = stopped && page.kind === "job" && !state.scheduled ? "Stopped; no more runs are scheduled" : ended ? "Ended; nothing more will come" : "Ended";
    if (!state.retry) return;
    connection.textContent = "Ended. ";
    const link = document.createElement("a");
    link.href = `${page.jobPath}/executions/${state.retry.executionId}/stream/`;
    link.textContent = `${attemptText(state.retry.attempt)} follows`;
    connection.append(link);
  }

  // From a failed execution to its retry, whose records begin at the first again.
  function moveOn() {
    addHeld();
    const exit = Number.isInteger(state.exitCode) ? ` with exit code ${state.exitCode}.` : state.error ? `: ${state.error}` : ".";
    push(newRow("fastlane", state.finishedAt || state.now, `${attemptText(state.attempt)} failed${exit}`, PLAIN_STYLE, false));
    const { retry } = state;
    state = { ...state, status: "enqueued", reason: null, error: null, exitCode: null, startedAt: null, finishedAt: null, retry: null, attempt: retry.attempt, dueAt: retry.dueAt };
    after = written = attempts = 0;
    movedOn = true;
    ended = open = null;
    streams.clear();
    element("notice").hidden = true;
    setExecution(retry.executionId);
    paint();
    showState();
    connect();
  }

  element("now").addEventListener("click", () => { attempts = 0; connect(); });
  const wake = () => { if (socket === null && ended === null && !document.hidden) { attempts = 0; connect(); } };
  window.addEventListener("online", wake);
  document.addEventListener("visibilitychange", wake);

  // ---------------------------------------------------------------- stopping

  const ask = element("ask-stop");
  let stopped = false;
  element("stop").addEventListener("click", () => ask.showModal());
  element("ask-stop-no").addEventListener("click", () => ask.close());
  element("ask-stop-yes").addEventListener("click", async () => {
    ask.close();
    const button = element("stop");
    const notice = element("notice");
    button.disabled = true;
    try {
      const path = page.kind === "execution" ? basePath() : page.jobPath;
      const answer = await fetch(`${path}/stop/`, { method: "POST", credentials: "same-origin" });
      if (!answer.ok) {
        const problem = await answer.json().catch(() => ({}));
        throw new Error(problem.detail || problem.title || `the server answered ${answer.status}`);
      }
      notice.hidden = true;
      element("connection").textContent = "Stopping …";
      stopped = true;
      // Without a connection nothing would tell what became of it.
      if (socket === null) { attempts = 0; connect(); }
    } catch (error) {
      notice.textContent = `It could not be stopped: ${error.message}`;
      notice.hidden = false;
      button.disabled = false;
    }
  });

  connect();
})();
