// Asks /api/status about once a second and shows the answer. Everything is put into the page as text (textContent):
// a table may be called <script>. Elements are kept and only changed where their text changes, so that a selection,
// the scroll position and the filter survive a refresh.
"use strict";

const REFRESH_MS = 1000;
const RETRY_MS_MAX = 5000;
const ANSWER_MS_MAX = 6000;
const ERRORS_MAX = 10;
const POLICIES_MAX = 6;
const TOKEN = "cdc-token";

const LOOKS = {
  starting: "busy", snapshotting: "busy", streaming: "good", caught_up: "good", paused: "warn", standby: "idle",
  retrying: "warn", failed: "bad", stopped: "idle", pending: "busy", ready: "good", parked: "bad", dropped: "idle",
};
const TABLE_ORDER = ["parked", "snapshotting", "pending", "ready", "dropped"];

const byId = (id) => document.getElementById(id);
let lastGood = null; // Date of the last answer, by this machine's clock
let failures = 0;
let filterText = "";
let shown = null; // the last status

// ---------------------------------------------------------------- elements

function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function setClass(node, className) {
  if (node.className !== className) node.className = className;
}

// Make the children of `parent` those of `items`, in order, keeping the elements of known keys. What the page itself
// has there (the head of the table) stays in front.
function sync(parent, items, keyOf, make, update) {
  const known = (parent.known ??= new Map());
  const wanted = new Map(items.map((item) => [keyOf(item), item]));
  for (const [key, node] of known) {
    if (!wanted.has(key)) {
      node.remove();
      known.delete(key);
    }
  }
  let place = parent.firstElementChild;
  while (place && !place.parts) place = place.nextElementSibling;
  for (const [key, item] of wanted) {
    let node = known.get(key);
    if (!node) {
      node = make(); // with what `update` changes in node.parts
      known.set(key, node);
    }
    update(node.parts, item);
    if (node === place) place = place.nextElementSibling;
    else parent.insertBefore(node, place);
  }
}

function setPill(node, state) {
  setText(node, text(state).replaceAll("_", " "));
  setClass(node, `pill ${LOOKS[state] ?? "idle"}`);
}

// ---------------------------------------------------------------- texts

const numbers = new Intl.NumberFormat("en");

function text(value) {
  return value === null || value === undefined ? "" : String(value);
}

function number(value) {
  return typeof value === "number" ? numbers.format(value) : "";
}

function duration(seconds) {
  if (seconds < 10) return `${Number(seconds.toFixed(1))} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = units.findIndex(([, size]) => seconds >= size);
  const [name, size] = units[first];
  const whole = Math.floor(seconds / size);
  const next = units[first + 1];
  const rest = Math.floor((seconds - whole * size) / next[1]);
  return rest ? `${whole} ${name} ${rest} ${next[0]}` : `${whole} ${name}`;
}

function lag(seconds) {
  return typeof seconds === "number" ? duration(Math.max(seconds, 0)) : "unknown";
}

// How long before the service's own `now` something was: the clock of this machine may differ.
function ago(when, now) {
  const at = Date.parse(text(when));
  if (Number.isNaN(at)) return text(when);
  const seconds = (now - at) / 1000;
  return seconds < 1 ? "just now" : `${duration(Math.floor(seconds))} ago`;
}

function localTime(when) {
  const at = Date.parse(text(when));
  return Number.isNaN(at) ? text(when) : new Date(at).toLocaleString();
}

function filePos(position) {
  return position && position.file ? `${position.file}:${text(position.pos)}` : "";
}

function policies(changes, leftOut) {
  const parts = (leftOut ?? []).map((column) => `${column}: left out`);
  for (const [column, counts] of Object.entries(changes ?? {})) {
    for (const [policy, count] of Object.entries(counts ?? {})) parts.push(`${column}: ${policy} × ${number(count)}`);
  }
  const more = parts.length - POLICIES_MAX;
  return more > 0 ? `${parts.slice(0, POLICIES_MAX).join(", ")} and ${more} more` : parts.join(", ");
}

function loaded(progress) {
  if (!progress || typeof progress.rows !== "number") return "";
  const { rows, rows_estimate: estimate } = progress;
  const parts = [estimate ? `${Math.min(Math.floor((100 * rows) / estimate), 99)} %` : `${number(rows)} rows`];
  if (typeof progress.rows_per_second === "number") parts.push(`${number(Math.round(progress.rows_per_second))} rows/s`);
  if (typeof progress.seconds_left === "number") parts.push(`${duration(progress.seconds_left)} left`);
  if (progress.waits_for) parts.push(`waits: ${text(progress.waits_for)}`);
  return parts.join(", ");
}

// ---------------------------------------------------------------- parts of the page

function makeTrouble(isClamped) {
  const node = element("div", isClamped ? "trouble clamped" : "trouble");
  const head = element("span", "class");
  const message = element("span", "message");
  const hint = element("span", "hint");
  node.append(head, message, hint);
  node.parts = { head, message, hint };
  return node;
}

function updateTrouble(node, error) {
  const { head, message, hint } = node.parts;
  setText(head, text(error.class));
  setText(message, text(error.message));
  setText(hint, text(error.hint));
  hint.hidden = !error.hint;
}

function fact(list, name) {
  const term = element("dt", "", name);
  const value = element("dd");
  list.append(term, value);
  return { term, value };
}

function setFact({ term, value }, content, title = "") {
  setText(value, content);
  value.hidden = term.hidden = !content;
  if (value.title !== title) value.title = title;
}

function showSummary(status) {
  const sinks = status.sinks;
  const tables = status.tables;
  const lags = sinks.map((sink) => sink.lag_seconds).filter((value) => typeof value === "number");
  const parked = tables.filter((table) => table.state === "parked").length;
  const flowing = sinks.filter((sink) => ["streaming", "caught_up"].includes(sink.state)).length;
  const ready = tables.filter((table) => table.state === "ready").length;
  const failed = sinks.some((sink) => sink.state === "failed");
  const unsteady = sinks.some((sink) => ["retrying", "paused", "stopped"].includes(sink.state));
  const items = [
    ["Sinks streaming", `${flowing} of ${sinks.length}`, failed ? "bad" : unsteady ? "warn" : ""],
    ["Longest lag", lags.length === sinks.length && sinks.length ? lag(Math.max(...lags)) : "unknown", ""],
    ["Tables ready", `${number(ready)} of ${number(tables.length)}`, ""],
    ["Tables parked", number(parked), parked ? "bad" : ""],
  ];
  sync(byId("summary"), items, (item) => item[0], () => {
    const node = element("div");
    const term = element("dt");
    const value = element("dd");
    node.append(term, value);
    node.parts = { node, term, value };
    return node;
  }, (parts, [name, value, look]) => {
    setText(parts.term, name);
    setText(parts.value, value);
    setClass(parts.node, look);
  });

  const [word, look] = failed ? ["a sink failed", "bad"]
    : unsteady ? ["a sink needs attention", "warn"]
    : parked ? [parked === 1 ? "1 table parked" : `${number(parked)} tables parked`, "warn"]
    : !sinks.length || sinks.some((sink) => ["starting", "snapshotting"].includes(sink.state)) ? ["starting", "busy"]
    : flowing ? ["all healthy", "good"] : ["standby", "idle"];
  setText(byId("overall"), word);
  setClass(byId("overall"), `pill ${look}`);
  document.title = `${text(status.name)}: ${word}`;
}

// Of several lanes each one's state, and its lag where it has one. One lane is the sink itself: nothing to add.
function lanesText(lanes) {
  if (lanes.length < 2) return "";
  return lanes.map(({ lane, state, lag_seconds: behind }) =>
    `${lane}: ${text(state)}${behind > 0 ? ` ${lag(behind)}` : ""}`).join(" · ");
}

function showSinks(status, now) {
  sync(byId("sinks"), status.sinks, (sink) => text(sink.name), () => {
    const node = element("article", "sink");
    const head = element("div", "sink-head");
    const name = element("h3");
    const state = element("span", "pill");
    const kind = element("span", "quiet");
    head.append(name, state, kind);
    const facts = element("dl", "facts");
    const lagging = fact(facts, "Lag");
    const commit = fact(facts, "Last commit");
    const place = fact(facts, "File and position");
    const gtid = fact(facts, "GTID");
    const lanes = fact(facts, "Lanes");
    place.value.className = "mono";
    gtid.value.className = "mono scroll";
    const trouble = makeTrouble(false);
    node.append(head, facts, trouble);
    node.parts = { name, state, kind, lagging, commit, place, gtid, lanes, trouble };
    return node;
  }, (parts, sink) => {
    setText(parts.name, text(sink.name));
    setPill(parts.state, sink.state);
    setText(parts.kind, text(sink.kind));
    setFact(parts.lagging, lag(sink.lag_seconds));
    setFact(parts.commit, sink.last_commit ? ago(sink.last_commit, now) : "none yet", localTime(sink.last_commit));
    setFact(parts.place, filePos(sink.position));
    setFact(parts.gtid, text(sink.position && sink.position.gtid));
    setFact(parts.lanes, lanesText(sink.lanes ?? []));
    parts.trouble.hidden = !sink.error;
    if (sink.error) {
      setClass(parts.trouble, sink.state === "failed" ? "trouble" : "trouble warn");
      updateTrouble(parts.trouble, sink.error);
    }
  });
}

// What the sinks remember of late and what stands now, newest first; the same error again is one entry with a count.
function allErrors(status) {
  const found = new Map();
  const add = (sink, table, error, look) => {
    const key = JSON.stringify([sink, table, error.class, error.message]);
    const known = found.get(key) ?? { key, sink, table, error, count: 0, look };
    if (sinceMs(error) >= sinceMs(known.error)) known.error = error;
    if (look === "idle") known.count += 1;
    else known.look = look;
    found.set(key, known);
  };
  if (status.source?.error) add("", "", status.source.error, "");
  for (const sink of status.sinks) {
    for (const error of sink.recent_errors ?? []) add(sink.name, text(error.table), error, "idle");
    if (sink.error) add(sink.name, "", sink.error, sink.state === "failed" ? "" : "warn");
  }
  for (const table of status.tables) if (table.error) add(table.sink, text(table.table), table.error, "");
  return [...found.values()].sort((a, b) => sinceMs(b.error) - sinceMs(a.error));
}

function sinceMs(error) {
  return Date.parse(text(error.since)) || 0;
}

function showErrors(status, now) {
  const every = allErrors(status);
  sync(byId("errors"), every.slice(0, ERRORS_MAX), (item) => item.key, () => {
    const node = element("li");
    const head = element("div", "error-head");
    const where = element("strong");
    const since = element("span", "quiet");
    const place = element("span", "quiet mono");
    const key = element("span", "quiet mono");
    const trouble = makeTrouble(false);
    head.append(where, since, place, key);
    node.append(head, trouble);
    node.parts = { where, since, place, key, trouble };
    return node;
  }, (parts, { sink, table, error, count, look }) => {
    const times = count > 1 ? `${number(count)} times, last ` : "";
    setText(parts.where, table ? `${table} on ${text(sink)}` : sink ? `sink ${text(sink)}` : "source");
    setText(parts.since, `${times}${error.since ? ago(error.since, now) : ""}${look === "idle" ? ", over" : ""}`);
    parts.since.title = localTime(error.since);
    setText(parts.place, error.position ? `at ${text(error.position)}` : "");
    setText(parts.key, error.key ? `key ${text(error.key)}` : "");
    setClass(parts.trouble, `trouble ${look}`);
    updateTrouble(parts.trouble, error);
  });
  byId("errors-none").hidden = every.length > 0;
  byId("errors-more").hidden = every.length <= ERRORS_MAX;
  setText(byId("errors-more"), `and ${number(every.length - ERRORS_MAX)} older`);
}

function tableRank(table) {
  const rank = TABLE_ORDER.indexOf(table.state);
  return rank < 0 ? TABLE_ORDER.length : rank;
}

function matches(table) {
  const words = filterText.toLowerCase().split(/\s+/).filter(Boolean);
  const hay = [table.table, table.target, table.sink, table.state].map(text).join(" ").toLowerCase();
  return words.every((word) => hay.includes(word));
}

function cell(row, className, label) {
  const made = element("td", className);
  if (label) made.dataset.label = label;
  row.append(made);
  return made;
}

function setCell(node, content) {
  setText(node, content);
  node.classList.toggle("empty", !content);
}

function showTables(status, now) {
  const found = status.tables.filter(matches);
  found.sort((a, b) => tableRank(a) - tableRank(b) || text(a.table).localeCompare(text(b.table))
    || text(a.sink).localeCompare(text(b.sink)));
  sync(byId("tables"), found, (table) => JSON.stringify([table.sink, table.table]), () => {
    const node = element("tbody");
    const row = element("tr");
    const name = element("span", "name");
    const target = element("span", "quiet target");
    cell(row, "name-cell", "").append(name, target);
    const sink = cell(row, "", "Sink");
    const state = element("span", "pill");
    const progress = element("span", "quiet progress");
    cell(row, "state-cell", "").append(state, progress);
    const rows = cell(row, "number", "Rows, about");
    const change = cell(row, "when", "Last change");
    const changed = cell(row, "", "Changed by policy");
    const errorRow = element("tr", "error-row");
    const trouble = makeTrouble(true);
    const wide = cell(errorRow, "", "");
    wide.colSpan = 6;
    wide.append(trouble);
    node.append(row, errorRow);
    node.parts = { name, target, sink, state, progress, rows, change, changed, errorRow, trouble };
    return node;
  }, (parts, table) => {
    setText(parts.name, text(table.table));
    setText(parts.target, table.target && table.target !== table.table ? `→ ${table.target}` : "");
    setCell(parts.sink, text(table.sink));
    setPill(parts.state, table.state);
    setText(parts.progress, loaded(table.progress));
    setCell(parts.rows, number(table.rows));
    setCell(parts.change, table.last_change ? ago(table.last_change, now) : "");
    parts.change.title = localTime(table.last_change);
    setCell(parts.changed, policies(table.policy_changes, table.left_out));
    parts.errorRow.hidden = !table.error;
    if (table.error) updateTrouble(parts.trouble, table.error);
  });
  byId("tables").hidden = !found.length;
  byId("tables-none").hidden = found.length > 0;
  setText(byId("tables-none"), status.tables.length ? "No table matches the filter." : "No tables yet.");
  setText(byId("shown"), filterText ? `${number(found.length)} of ${number(status.tables.length)}` : "");
}

function show(status) {
  const now = Date.parse(status.time) || Date.now();
  const source = status.source ?? {};
  const place = filePos(source.position);
  setText(byId("name"), text(status.name));
  setText(byId("version"), `cdc ${text(status.version)}`);
  setText(byId("source"), ["Source:", text(source.flavor), text(source.server_version), place && `at ${place}`]
    .filter(Boolean).join(" "));
  showSummary(status);
  showSinks(status, now);
  showErrors(status, now);
  showTables(status, now);
}

// ---------------------------------------------------------------- refreshing

function showAnswering(problem) {
  const isAnswering = !problem;
  byId("banner").hidden = isAnswering;
  byId("main").classList.toggle("stale", !isAnswering);
  if (isAnswering) {
    setText(byId("updated"), `As of ${lastGood.toLocaleTimeString()}`);
    return;
  }
  const since = lastGood ? ` What you see is from ${lastGood.toLocaleString()}.` : "";
  setText(byId("banner"), `${problem}${since} Trying again.`);
  setText(byId("overall"), "not answering");
  setClass(byId("overall"), "pill bad");
  document.title = `${shown ? text(shown.name) : "cdc"}: not answering`;
}

class NoAnswer extends Error {}

async function ask() {
  let answer;
  let status;
  try {
    const token = sessionStorage.getItem(TOKEN);
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    answer = await fetch("api/status", { cache: "no-store", headers, signal: AbortSignal.timeout(ANSWER_MS_MAX) });
    status = await answer.json();
  } catch {
    throw new NoAnswer("The service does not answer.");
  }
  byId("login").hidden = answer.status !== 401;
  if (answer.status === 401) throw new NoAnswer("The service wants a token (http.token).");
  if (!answer.ok) {
    throw new NoAnswer(`The service cannot say how it is: ${[status.error, status.hint].filter(Boolean).join("; ")}.`);
  }
  return { ...status, sinks: status.sinks ?? [], tables: status.tables ?? [] };
}

// Kept for this tab, until it is closed.
function takeToken(event) {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, byId("token").value.trim());
  byId("token").value = "";
  failures = 0;
  wake();
}

async function refresh() {
  let problem = "";
  try {
    const status = await ask();
    show(status);
    shown = status;
    lastGood = new Date();
    failures = 0;
  } catch (error) {
    failures += 1;
    problem = error.message;
    if (!(error instanceof NoAnswer)) {
      console.error(error);
      problem = `This page cannot show the service's answer (${error.message}).`;
    }
  }
  showAnswering(problem);
}

async function refreshForEver() {
  for (;;) {
    if (!document.hidden) await refresh();
    const pause = Math.min(REFRESH_MS * 2 ** Math.min(failures, 5), RETRY_MS_MAX);
    await new Promise((resolve) => {
      wake = resolve; // a tab that is looked at again refreshes at once
      setTimeout(resolve, pause);
    });
  }
}

let wake = () => {};
document.addEventListener("visibilitychange", () => wake());
byId("login").addEventListener("submit", takeToken);
byId("filter").addEventListener("input", (event) => {
  filterText = event.target.value;
  if (shown) showTables(shown, Date.parse(shown.time) || Date.now());
});
refreshForEver();
