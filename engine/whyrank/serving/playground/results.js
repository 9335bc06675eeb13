// Shows the answer: rows with scores, the evidence and its sources, and the numbers of the whole request.

import { $, count, element, percent, seconds, visible, withoutUnseen } from "./dom.js";
import { contentOf } from "./documents.js";

const MIN_LABEL_MASS = 0.5;
const MANY_ROWS = 200; // more rows are sorted without an animation
const FINISH = {
  complete: "complete", budget: "cut at its token limit", repetition: "stopped because it repeated itself",
  aborted: "stopped with the server", deadline: "not finished before the deadline", error: "the engine failed",
};
const FLAGS = {
  unsupported_entities: "says something the document does not", repetition: "repeats itself",
  too_long: "longer than it should be", language: "not in the document’s language",
  reduced: "chosen from part of the document’s sentences",
};
const TIPS = {
  margin: "Log-odds of “yes” against “no”. Results are sorted by it. Above 0 the model says yes; the score is its sigmoid, from 0 to 1.",
  mass: "How much of the model’s probability is on “yes” and “no” together. If it is far below 100%, trust the score less.",
  noLabel: "The model wanted to say neither yes nor no: trust this score less.",
  neutralised: "The text contains control tokens of the model. They were read as plain text, so they cannot act as instructions.",
  supported: "The share of the evidence in sentences that the document backs, compared word by word.",
  tokens: "Cached tokens come from earlier prompts that begin in the same way, and are not computed again. Output tokens are evidence.",
  first: "From pressing Run to the first score.",
};

/** A request and what is shown of its answer. */
export const newRun = (request) => ({
  request, controller: new AbortController(), began: performance.now(), rows: new Map(), scored: 0,
});

export const setStatus = (text) => { $("status").textContent = text; };

export function clearResults() {
  overflow.disconnect();
  $("results").replaceChildren();
  $("stats").replaceChildren();
}

// Scores.

const tooSmall = (score) => score < 0.0005, tooLarge = (score) => score > 0.9995 && score < 1;
const written = (score) => (tooSmall(score) ? "< 0.001" : tooLarge(score) ? "> 0.999" : score.toFixed(3));

export function showScored(run, data) {
  if (run.scored === 0) run.firstScore = performance.now() - run.began;
  run.scored += 1;
  showScore(rowOf(run, data.index), data);
  setStatus(`${run.scored} of ${count(run.request.documents.length, "document")} scored …`);
  if (run.scored === 1) showStats(run);
}

/** The row of a document. Its parts stay; what they hold is replaced as more is known. */
function rowOf(run, index) {
  if (run.rows.has(index)) return run.rows.get(index);
  const given = run.request.documents[index];
  const content = contentOf(given), title = given.title ? Array.from(String(given.title)).length : 0;
  // Code points: the server counts characters so.
  const row = { points: Array.from(content), title, at: element("li", "row"), label: String(given.title || given.id || `Document ${index + 1}`) };
  row.at.dataset.index = index;
  row.at.tabIndex = run.rows.size ? -1 : 0;
  for (const name of ["rank", "name", "score", "bar"]) row[name] = element("span", name);
  row.name.append(...visible(row.label));
  row.fill = row.bar.appendChild(element("i"));
  row.meta = element("p", "meta");
  row.doc = element("div", "doc", title ? String(given.text) : content); // the title stands above it
  const head = element("div", "head"), body = element("div", "body"), source = element("div", "source-side");
  head.append(row.rank, row.name, row.score, row.bar);
  source.append(row.doc, moreButton(row.doc));
  row.said = body.appendChild(element("div"));
  row.name.dir = row.doc.dir = "auto";
  body.append(source);
  row.at.append(head, row.meta, body);
  $("results").append(row.at);
  overflow.observe(row.doc);
  run.rows.set(index, row);
  return row;
}

function moreButton(doc) {
  const button = element("button", "plain more", "Whole document");
  button.type = "button";
  button.hidden = true;
  button.ariaExpanded = "false";
  button.onclick = () => {
    const whole = doc.classList.toggle("whole");
    button.ariaExpanded = String(whole);
    button.textContent = whole ? "Less" : "Whole document";
  };
  return button;
}

/** Whether a document is cut depends on its width: the button that shows all of it comes and goes with that. */
const overflow = new ResizeObserver((entries) => {
  const cut = entries.map(({ target }) => target.scrollHeight > target.clientHeight + 1);
  entries.forEach(({ target }, i) => {
    target.nextSibling.hidden = !cut[i] && !target.classList.contains("whole");
  });
});

function measureAgain(doc) {
  overflow.unobserve(doc);
  overflow.observe(doc);
}

function showScore(row, data) {
  const score = data.score === null ? "no score" : written(data.score);
  row.rank.textContent = data.rank ?? (data.error ? "–" : "");
  row.score.textContent = score;
  row.score.classList.toggle("bad", data.score === null);
  row.fill.style.width = `${(data.score ?? 0) * 100}%`;
  row.at.ariaLabel = `${data.rank ? `Rank ${data.rank}, ` : ""}${withoutUnseen(row.label)}, ${data.score === null ? score : `score ${score}`}`;
  row.meta.replaceChildren(...facts(data));
  syncTabStops(row.at);
}

function facts(data) {
  const shown = [];
  if (data.error) shown.push(element("span", "bad", data.error.message));
  if (data.margin !== null) shown.push(element("span", "term", `margin ${data.margin.toFixed(2).replace("-", "−")}`, TIPS.margin));
  if (data.label_mass !== null) shown.push(labelMass(data.label_mass));
  if (data.truncation?.truncated) shown.push(truncation(data.truncation));
  if (data.neutralised) shown.push(element("span", "badge", "neutralised", TIPS.neutralised));
  return shown;
}

function labelMass(mass) {
  const small = mass < MIN_LABEL_MASS;
  const text = `label mass ${percent(mass)}${small ? ": neither yes nor no" : ""}`;
  return element("span", small ? "badge warn" : "term", text, small ? TIPS.noLabel : TIPS.mass);
}

function truncation({ used_tokens: used, original_tokens: all, policy, query_tokens_cut: cut }) {
  const tip = `${count(used, "token")} of ${all.toLocaleString("en")} were read (policy: ${policy})` + (cut ? `; ${cut} of the query’s were cut off` : "");
  return element("span", "badge warn", `read ${used.toLocaleString("en")}/${all.toLocaleString("en")} tokens`, tip);
}

// The order.

export function showRanking(run, data) {
  if (!run.scored) run.firstScore = performance.now() - run.began;
  for (const result of data.results) showScore(rowOf(run, result.index), result);
  const shown = data.results.map((result) => result.index);
  const beyond = [...run.rows.keys()].filter((index) => !shown.includes(index));
  for (const index of beyond) leaveOut(run.rows.get(index));
  reorder([...shown, ...beyond].map((index) => run.rows.get(index).at));
  setStatus(`${count(shown.length, "document")} ranked${{ evidence: ", writing evidence …", spans: ", scoring passages …" }[run.request.mode] || "."}`);
  showStats(run, data);
}

function leaveOut(row) {
  row.at.classList.add("beyond");
  row.rank.textContent = "–";
  row.meta.append(element("span", "", "not returned: outside the requested number of results"));
}

/** Rows move to their places, unless there are many or the reader prefers reduced motion. */
function reorder(items) {
  const still = items.length > MANY_ROWS || matchMedia("(prefers-reduced-motion: reduce)").matches;
  const before = new Map(still ? [] : items.map((item) => [item, item.getBoundingClientRect().top]));
  const focused = document.activeElement;
  $("results").append(...items);
  if ($("results").contains(focused)) focused.focus({ preventScroll: true });
  else if (items.length) makeTabStop(items[0]);
  for (const [item, top] of before) {
    const moved = top - item.getBoundingClientRect().top;
    if (moved) item.animate([{ transform: `translateY(${moved}px)` }, { transform: "none" }], { duration: 260, easing: "ease-out" });
  }
}

// Evidence.

/** What is said of the document beside the document itself. */
function layOut(row) {
  row.at.classList.add("written");
  row.checks = row.said.appendChild(element("p", "meta"));
  row.doc.before(element("p", "caption", "The document"));
}

function evidenceRow(run, index) {
  const row = rowOf(run, index);
  if (!row.evidence) {
    row.contribution = row.said.appendChild(element("p", "why"));
    row.evidence = row.said.appendChild(element("p", "evidence"));
    row.contribution.dir = row.evidence.dir = "auto";
    layOut(row);
    showSources(row, [], null);
  }
  return row;
}

export function showDelta(run, { index, part, text }) {
  const row = evidenceRow(run, index);
  for (const name of ["contribution", "evidence"]) row[name].classList.toggle("writing", name === part);
  row[part].append(...visible(row[part].childNodes.length ? text : text.trimStart()));
  row[part].normalize();
}

/** The passages that answer the query, in a document without evidence. */
function showSpans(run, data) {
  const row = rowOf(run, data.index);
  layOut(row);
  const scores = data.spans.map((span) => written(span.score)).join(", ");
  const text = data.spans.length ? `${count(data.spans.length, "passage")} found: ${scores}` : "no single passage answers the query";
  row.checks.append(element("span", data.spans.length ? "" : "warn", text));
  if (data.spans_limited) row.checks.append(element("span", "badge warn", "only some sentences were scored"));
  showSources(row, data.spans.map((span) => ({ ...span, evidence_start: span.start })), data.truncation?.window);
  showScore(row, data);
}

export function showEvidenceDone(run, data) {
  if (data.spans) return showSpans(run, data);
  const row = evidenceRow(run, data.index);
  for (const name of ["contribution", "evidence"]) row[name].classList.remove("writing");
  const grounding = { spans: [], unsupported: [], flags: [], sentences: [], ...data.grounding };
  if (data.contribution || data.finish === "complete") { // else the text shown so far stays, marked as unfinished
    row.contribution.replaceChildren(...visible(data.contribution));
    showEvidence(row, data.evidence, grounding);
  }
  showSources(row, grounding.spans, data.truncation?.window);
  row.checks.replaceChildren(...checks(data, grounding));
  showScore(row, data);
}

/** `points` (code points) in pieces, cut wherever a mark starts or ends: [text, the marks it lies in]. */
function pieces(points, marks, from = 0, to = points.length) {
  const cuts = new Set([from, to, ...marks.flatMap((mark) => [mark.start, mark.end])]);
  const at = [...cuts].filter((cut) => cut >= from && cut <= to).sort((a, b) => a - b);
  return at.slice(1).map((end, i) => [
    points.slice(at[i], end).join(""),
    marks.filter((mark) => mark.start <= at[i] && end <= mark.end),
  ]);
}

/** Differing words are red, unverified sentences grey; an altered sentence whose differing words are not known is all red. */
function verdictMarks({ unsupported, sentences }) {
  const within = (item) => sentences.find((one) => one.start <= item.start && item.start < one.end);
  const differing = unsupported.filter((item) => within(item)?.verdict !== "unverified");
  const whole = sentences.filter((one) => one.verdict === "altered" && !differing.some((item) => within(item) === one));
  return [...differing, ...whole.map(({ start, end, reason }) => ({ start, end, kind: reason }))];
}

function showEvidence(row, text, grounding) {
  const { spans, sentences: verdicts } = grounding;
  const unsupported = verdictMarks(grounding);
  const grey = verdicts.filter((one) => one.verdict === "unverified");
  const points = Array.from(text);
  const sentences = spans.map((span) => ({ start: span.evidence_start, end: span.evidence_end, similarity: span.similarity }));
  row.evidence.replaceChildren();
  for (const [piece, inside] of sentencePieces(points, sentences)) {
    const holder = inside ? row.evidence.appendChild(sentence(row, inside)) : row.evidence;
    for (const [part, marks] of pieces(points, [...unsupported, ...grey], ...piece)) {
      const claims = marks.filter((mark) => !mark.verdict);
      const claim = claims.length ? element("span", "unsupported", part, differenceTip(claims[0].kind))
        : marks.length && element("span", "unverified", part, unverifiedTip(marks[0], grounding.verification));
      holder.append(...(claim ? [claim] : visible(part)));
    }
  }
}

const KINDS_OF_WORDS = { inserted: "The document does not say this", dropped: "The document says more here", joined: "The document does not connect these",
  role: "In the document, these two have other roles" };

function unverifiedTip({ model_score: score }, verification) {
  const tip = "Worded too differently from the document to be checked word by word";
  if (score == null || !verification) return tip;
  return `${tip}; the model ${verification.model} ${score >= verification.threshold ? "backs it" : "does not back it"} (score ${written(score)})`;
}

function differenceTip(kind) {
  return KINDS_OF_WORDS[kind] || `The document does not say this ${kind}`;
}

/** [[start, end], the backed sentence in this range, if any]. */
function sentencePieces(points, sentences) {
  let at = 0;
  return pieces(points, sentences).map(([text, marks]) => [[at, (at += Array.from(text).length)], marks[0]]);
}

function sentence(row, { start, similarity }) {
  const made = element("span", "sentence", undefined, `Backed by the document (similarity ${similarity.toFixed(2)})`);
  made.dataset.pairs = start;
  light(row, made, [start]);
  return made;
}

/** Title and text, separately. Passages that back the evidence are tinted; text outside the window that was read is faint. */
function showSources(row, spans, window) {
  const marks = spans.map((span) => ({ start: span.start, end: span.end, pair: span.evidence_start }));
  if (window) marks.push({ ...window, read: true });
  const part = (from, to) => pieces(row.points, marks, from, to).map(([text, inside]) => sourcePiece(row, text, inside, window));
  const title = element("strong", "title");
  title.append(...part(0, row.title));
  // A space stands between title and text where the model reads them.
  row.doc.replaceChildren(...(row.title ? [title] : []), ...part(row.title && row.title + 1, row.points.length));
  measureAgain(row.doc);
}

function sourcePiece(row, text, marks, window) {
  const pairs = marks.filter((mark) => !mark.read).map((mark) => mark.pair);
  const unread = window && !marks.some((mark) => mark.read);
  const made = element("span", [pairs.length && "source", unread && "unread"].filter(Boolean).join(" "), text);
  if (pairs.length) {
    made.dataset.pairs = pairs.join(" ");
    light(row, made, pairs);
  }
  return made;
}

/** Highlights the element and all it is paired with while it is under the pointer or has the focus. */
function light(row, made, pairs) {
  const turn = (on) => {
    const paired = [...row.at.querySelectorAll("[data-pairs]")].filter((one) => one.dataset.pairs.split(" ").some((pair) => pairs.includes(Number(pair))));
    for (const one of paired) one.classList.toggle("lit", on);
    const source = paired.find((one) => one.matches(".source"));
    if (on && source && made.matches(".sentence")) reveal(row.doc, source);
  };
  made.onmouseenter = made.onfocus = () => turn(true);
  made.onmouseleave = made.onblur = () => turn(false);
}

/** Scrolls the box of the document, not the page. */
function reveal(box, part) {
  const below = part.getBoundingClientRect().top - box.getBoundingClientRect().top;
  if (below < 0 || below > box.clientHeight - 40) box.scrollTop += below - box.clientHeight / 3;
}

function checks(data, grounding) {
  const made = [];
  if (data.grounding) {
    made.push(element("span", "term", `${percent(grounding.supported)} supported by the document`, TIPS.supported));
    if (grounding.altered) made.push(element("span", "bad", `${percent(grounding.altered)} altered`));
    if (grounding.unverified) made.push(element("span", "unverified", `${percent(grounding.unverified)} unverified`));
    if (grounding.verification?.backed) made.push(element("span", "unverified", `${percent(grounding.verification.backed)} backed by the verifier only`));
    if (grounding.verification?.error) made.push(element("span", "warn", `not all sentences verified: ${grounding.verification.error}`));
  } else made.push(element("span", "warn", "not checked against the document"));
  made.push(element("span", data.finish === "complete" ? "" : "warn", FINISH[data.finish] || data.finish));
  if (data.output_tokens) made.push(element("span", "", count(data.output_tokens, "token")));
  made.push(...grounding.flags.map((flag) => element("span", "badge warn", FLAGS[flag] || flag)));
  const claims = verdictMarks(grounding).filter((claim) => claim.text).map((claim) => `${claim.text} (${claim.kind})`);
  if (claims.length) made.push(element("span", "bad", `differs from the document: ${claims.join(", ")}`));
  return made;
}

// The end, and the numbers.

export function showFinished(run, data) {
  run.over = true;
  const explained = data.results.filter((result) => "finish" in result || result.spans?.length);
  const kind = { evidence: "evidence", spans: "passages" }[run.request.mode];
  const failed = data.results.filter((result) => result.error).length;
  let text = `${count(data.results.length, "document")} ranked`;
  if (failed) text += `, ${failed} of them without a score`;
  if (kind && explained.length) text += `, ${kind} for ${explained.length}`;
  setStatus(`${text}.`);
  if (kind && !explained.length) {
    setStatus(`${text}. No score reached ${run.request.evidence_min_score ?? 0.5}, the minimum for ${kind}.`);
  }
  for (const result of data.results) if (result.error) showScore(rowOf(run, result.index), result);
  showStats(run, data, performance.now() - run.began);
}

function showStats(run, data, total) {
  const shown = [["first score", seconds(run.firstScore), TIPS.first]];
  if (total) shown.push(["total", seconds(total)]);
  if (data) {
    const { prompt_tokens: prompt, cached_tokens: cached, computed_tokens: computed, output_tokens: output } = data.usage;
    const [p, c, n, o] = [prompt, cached, computed, output].map((tokens) => tokens.toLocaleString("en"));
    shown.push(["tokens", `${p} prompt = ${c} cached + ${n} computed; ${o} output`, TIPS.tokens]);
    if (data.prompt !== run.served?.prompt) shown.push(["prompt", data.prompt]);
  }
  $("stats").replaceChildren(...shown.map(([name, value, tip]) => {
    const made = element("span", tip ? "term" : "", `${name} `, tip);
    made.append(element("b", "", value));
    return made;
  }));
}

// One row at a time is a stop of the Tab key, with the terms that it explains.

function syncTabStops(row) {
  for (const stop of row.querySelectorAll("[data-tip], .more")) stop.tabIndex = row.tabIndex;
}

function makeTabStop(row) {
  for (const other of $("results").querySelectorAll(":scope > [tabindex='0']")) {
    other.tabIndex = -1;
    syncTabStops(other);
  }
  row.tabIndex = 0;
  syncTabStops(row);
}

$("results").addEventListener("focusin", ({ target }) => makeTabStop(target.closest(".row")));
$("results").addEventListener("keydown", (event) => {
  const rows = [...$("results").children], here = rows.indexOf(document.activeElement);
  const to = { ArrowDown: here + 1, ArrowUp: here - 1, Home: 0, End: rows.length - 1 }[event.key];
  if (here < 0 || !rows[to]) return;
  event.preventDefault();
  rows[to].focus();
});
