// The form, the request, and its errors.

import { $, count, element, visible } from "./dom.js";
import { isJson, parseDocuments, readFiles } from "./documents.js";
import { EXAMPLE } from "./example.js";
import {
  clearResults, newRun, setStatus, showDelta, showEvidenceDone, showFinished, showRanking, showScored,
} from "./results.js";
import { fromFragment, isShared, toFragment } from "./share.js";
import { asCurl, asPython } from "./snippets.js";

const OPTIONS = ["instruction", "truncation"], NUMBERS = ["top_n", "deadline_ms"];
const EVIDENCE_NUMBERS = ["evidence_top_n", "evidence_min_score"];
const FIELDS = ["query", "documents", ...OPTIONS, ...NUMBERS, ...EVIDENCE_NUMBERS];
const STORE = "whyrank-playground";
const MANY_LINK_CHARACTERS = 8000; // some programs cut off longer links
const REMEDIES = {
  400: "Change the request and run it again.",
  401: "Run it again: the browser then asks for a user name, which may be anything, and a password, which is the API key.",
  413: "Send fewer or shorter documents.",
  503: "The engine has stopped or is still starting: see the server’s log, and try again when it is ready.",
};
// Relative to the page, wherever a proxy has put it.
const address = (path) => new URL(path, location.href.split(/[?#]/)[0]).href;

let run = null; // the request that is shown
let served = null; // model, prompt and dtype of the server
let replaced = null; // the form as it was before its content was replaced

// The form.

const mode = () => document.querySelector("[name=mode]:checked").value;
const state = () => ({ ...Object.fromEntries(FIELDS.map((name) => [name, $(name).value])), mode: mode() });

function setState(given) {
  for (const name of FIELDS) $(name).value = typeof given?.[name] === "string" ? given[name] : "";
  const possible = served?.writes_evidence === false ? ["spans"] : ["spans", "evidence"];
  document.querySelector(`[value=${possible.includes(given?.mode) ? given.mode : "score"}]`).checked = true;
  $("options").open = [...OPTIONS, ...NUMBERS].some((name) => $(name).value);
  show();
}

/** Like setState, with undo. */
function replaceState(given) {
  replaced = state();
  setState(given);
  edited();
  $("undo").hidden = false;
}

/** The body of the request: only what was filled in. */
function requestBody() {
  const body = { query: $("query").value.trim(), documents: parseDocuments($("documents").value).documents };
  if (mode() !== "score") body.mode = mode();
  for (const name of OPTIONS) if ($(name).value.trim()) body[name] = $(name).value.trim();
  for (const name of mode() !== "score" ? [...NUMBERS, ...EVIDENCE_NUMBERS] : NUMBERS) {
    if ($(name).value !== "") body[name] = $(name).valueAsNumber;
  }
  return body;
}

/** What depends on the form's content. */
function show() {
  $("evidence-options").hidden = $("evidence-options").disabled = mode() === "score";
  for (const name of ["query", "documents"]) setFieldError(name, "");
  let how = "", text = "";
  try {
    const read = parseDocuments($("documents").value);
    how = read.how;
    if (read.documents.length) text = `${count(read.documents.length, "document")}, read as ${how}`;
  } catch (error) {
    text = error.message;
  }
  $("read-as").replaceChildren(...visible(text));
  $("documents").classList.toggle("lines", how === "JSON lines");
  showSnippet();
}

/** After a change: saves the form, and removes the link from the address bar, which no longer matches it. */
function edited() {
  show();
  $("link-hint").hidden = $("undo").hidden = true;
  $("link").textContent = "Copy link";
  if (isShared(location.hash)) history.replaceState(null, "", location.pathname + location.search);
  try { localStorage.setItem(STORE, JSON.stringify(state())); } catch { /* private, or full */ }
}

function remembered() {
  try {
    const kept = JSON.parse(localStorage.getItem(STORE));
    return kept?.query || kept?.documents ? kept : null;
  } catch {
    return null; // private, or not ours
  }
}

function setFieldError(name, message) {
  $(`${name}-error`).textContent = message;
  $(`${name}-error`).hidden = !message;
  if (message) $(name).setAttribute("aria-invalid", "true");
  else $(name).removeAttribute("aria-invalid");
  return message && $(name);
}

/** The body, or null if something is missing; then the error is shown beside that field. */
function checkedBody() {
  let body = null, unreadable = "";
  try { body = requestBody(); } catch (error) { unreadable = error.message; }
  const wrong = [
    setFieldError("query", $("query").value.trim() ? "" : "Enter a query."),
    setFieldError("documents", unreadable || (body.documents.length ? "" : "Enter at least one document.")),
  ].find(Boolean);
  if (!wrong) return $("request").reportValidity() ? body : null;
  wrong.focus();
  $(`${wrong.id}-error`).scrollIntoView({ block: "nearest" });
  return null;
}

// Files.

async function takeFiles(files) {
  if (!files.length) return;
  try {
    const documents = await readFiles([...files]);
    replaceState({ ...state(), documents });
    $("read-as").prepend(...visible(`${[...files].map((file) => file.name).join(", ")}: `));
  } catch (error) {
    setFieldError("documents", "");
    $("documents-error").replaceChildren(...visible(error.message));
    $("documents-error").hidden = false;
  }
}

const holdsFiles = (event) => event.dataTransfer.types.includes("Files");

function dragOver(event) {
  if (!holdsFiles(event)) return;
  event.preventDefault();
  $("drop").classList.add("over");
}

function drop(event) {
  if (!holdsFiles(event)) return;
  event.preventDefault();
  $("drop").classList.remove("over");
  takeFiles(event.dataTransfer.files);
}

// The call as code, and as a link.

const language = () => ($("tab-python").ariaSelected === "true" ? "Python" : "curl");

function showSnippet() {
  if (!$("code").open) return; // long texts take time to format
  try {
    $("snippet").textContent = (language() === "Python" ? asPython : asCurl)(address("v1/rerank"), requestBody());
  } catch (error) {
    $("snippet").textContent = error.message;
  }
  $("copy").textContent = `Copy as ${language()}`;
}

function chooseTab(tab) {
  for (const other of document.querySelectorAll("[role=tab]")) {
    other.ariaSelected = String(other === tab);
    other.tabIndex = other === tab ? 0 : -1;
  }
  $("snippet").setAttribute("aria-labelledby", tab.id);
  tab.focus();
  showSnippet();
}

async function copy() {
  try {
    await navigator.clipboard.writeText($("snippet").textContent);
    $("copy").textContent = "Copied";
  } catch { // browsers allow the clipboard only on https and localhost
    getSelection().selectAllChildren($("snippet"));
    $("copy").textContent = "Selected: press Ctrl C";
  }
}

async function copyLink() {
  const fragment = await toFragment(state());
  history.replaceState(null, "", fragment);
  let text = "The link contains query and documents after its #, a part that browsers never send to a server.";
  if (location.href.length > MANY_LINK_CHARACTERS) {
    text += ` It has ${location.href.length.toLocaleString("en")} characters; some programs cut off links of that length.`;
  }
  try {
    await navigator.clipboard.writeText(location.href);
    $("link").textContent = "Link copied";
  } catch { // see above
    text = `Copy it from the address bar. ${text}`;
  }
  $("link-hint").textContent = text;
  $("link-hint").hidden = false;
}

// The stream.

/** Server-sent events of a response, as {event, data}. */
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const frames = (rest + value).split(/\r?\n\r?\n/);
    rest = frames.pop();
    yield* frames.map(readFrame).filter((frame) => frame.data);
  }
}

function readFrame(frame) {
  const fields = { event: "message", data: "" };
  for (const line of frame.split(/\r?\n/)) {
    const [, name, value] = /^(\w+): ?(.*)$/s.exec(line) || [];
    if (name === "data") fields.data += value;
    else if (name === "event") fields.event = value;
  }
  return fields;
}

async function start() {
  const body = checkedBody();
  if (!body) return;
  stop();
  const mine = Object.assign(newRun(body), { served });
  begin(mine);
  try {
    await follow(mine);
  } catch (error) {
    if (mine === run && !mine.controller.signal.aborted) showLostConnection(error);
  } finally {
    if (mine === run) end();
  }
}

function begin(mine) {
  run = mine;
  $("notice").hidden = $("empty").hidden = true;
  clearResults();
  $("stop").disabled = false;
  $("results").setAttribute("aria-busy", "true");
  setStatus("Waiting for the first score …");
}

async function follow(mine) {
  const response = await fetch(address("playground/stream"), {
    method: "POST", body: JSON.stringify(mine.request), signal: mine.controller.signal,
    headers: { "Content-Type": "application/json" },
  });
  if (!response.ok) return showRefusal(response);
  const handlers = {
    score: showScored, ranking: showRanking, delta: showDelta, evidence: showEvidenceDone, done: showFinished, error: showFailure,
  };
  for await (const { event, data } of eventsOf(response)) {
    if (mine !== run) return;
    handlers[event]?.(mine, JSON.parse(data));
  }
  if (!mine.over) showNotice("The connection ended before the answer was complete.", "The results shown are correct. Run it again for the rest.");
}

function stop() {
  if (!run || run.ended) return;
  run.controller.abort();
  setStatus(`Stopped. ${run.scored} of ${count(run.request.documents.length, "document")} scored.`);
  end();
}

function end() {
  run.ended = true;
  $("stop").disabled = true;
  $("results").removeAttribute("aria-busy");
  for (const busy of document.querySelectorAll(".writing")) busy.classList.remove("writing");
  if (/…$/.test($("status").textContent)) setStatus("");
}

// What can go wrong.

function showNotice(message, remedy) {
  $("notice").replaceChildren(element("p", "", message), element("p", "remedy", remedy));
  $("notice").hidden = false;
  $("notice").scrollIntoView({ block: "nearest" });
}

async function showRefusal(response) {
  const text = await response.text();
  const body = isJson(text) ? JSON.parse(text) : {};
  const message = body.error?.message || body.message || body.detail || text.slice(0, 300) || response.statusText;
  const wait = response.headers.get("Retry-After");
  const later = response.status === 429 ? `Run it again in ${count(Number(wait) || 1, "second")}.` : "";
  showNotice(`${message} (${response.status})`, later || REMEDIES[response.status] || "See the server’s log for details.");
}

function showFailure(failed, error) {
  failed.over = true;
  showNotice(error.message, "The results shown are correct. Run it again for the rest.");
}

function showLostConnection(error) {
  showNotice(`The server could not be reached at ${location.origin} (${error.message}).`, "Check that it is running, then run the request again.");
}

// The beginning.

async function open() {
  setState(isShared(location.hash) ? {} : remembered() ?? EXAMPLE);
  if (isShared(location.hash)) await openLink();
  served = await askServer();
  if (!served) return;
  showServed();
  if (!run) answerIfEmbedded();
}

/** The embedded model answers at once. Another one may be expensive, so it only runs when somebody presses Run. */
function answerIfEmbedded() {
  const complete = $("query").value.trim() && $("documents").value.trim();
  if (served?.embedded && complete && $("notice").hidden) start();
}

async function openLink() {
  $("notice").hidden = true;
  try {
    setState(await fromFragment(location.hash));
  } catch (error) {
    setState(remembered() ?? EXAMPLE);
    showNotice(error.message, "Ask the sender for it again, as a file if necessary.");
  }
}

async function askServer() {
  try {
    const response = await fetch(address("playground/about"));
    if (response.ok) return await response.json();
    await showRefusal(response);
  } catch (error) {
    showLostConnection(error);
  }
  return null;
}

function showServed() {
  $("served").replaceChildren(...["model", "prompt", "dtype"].filter((name) => served[name]).map((name) => {
    const fact = element("div");
    fact.append(element("dt", "", name), element("dd", "", served[name]));
    return fact;
  }));
  $("no-evidence").hidden = served.writes_evidence;
  document.querySelector("[value=evidence]").disabled = !served.writes_evidence;
  if (!served.writes_evidence && mode() === "evidence") setState(state());
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    start();
  }
});
addEventListener("hashchange", () => { if (isShared(location.hash)) openLink().then(answerIfEmbedded); });
addEventListener("dragover", dragOver);
addEventListener("drop", drop);
addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("drop").classList.remove("over"); });
$("request").addEventListener("submit", (event) => {
  event.preventDefault();
  start();
  if (run && !run.ended && matchMedia("(max-width: 719px)").matches) $("status").scrollIntoView({ block: "start" });
});
$("request").addEventListener("invalid", () => { $("options").open = true; }, true); // so that its message can be seen
$("request").addEventListener("input", edited);
$("code").addEventListener("toggle", showSnippet);
document.querySelector("[role=tablist]").addEventListener("keydown", (event) => {
  if (["ArrowLeft", "ArrowRight"].includes(event.key)) chooseTab($(language() === "curl" ? "tab-python" : "tab-curl"));
});
for (const tab of document.querySelectorAll("[role=tab]")) tab.onclick = () => chooseTab(tab);
$("stop").onclick = stop;
$("copy").onclick = copy;
$("link").onclick = copyLink;
$("open-file").onclick = () => $("file").click();
$("file").onchange = () => takeFiles($("file").files).then(() => { $("file").value = ""; });
$("example").onclick = () => { replaceState(EXAMPLE); $("query").focus(); };
$("clear").onclick = () => { replaceState({ ...state(), query: "", documents: "" }); $("query").focus(); };
$("undo").onclick = () => { setState(replaced); edited(); $("query").focus(); };
if (/Mac|iPhone|iPad/.test(navigator.platform)) document.querySelector("#run kbd").textContent = "⌘ ↵";
open();
