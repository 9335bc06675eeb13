// Helpers to build the page. Text from people or from the model is only added through `visible`.

export const $ = (id) => document.getElementById(id);

export const count = (n, one, many = one + "s") => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
export const percent = (share) => `${share > 0 && share < 0.01 ? "<1" : Math.round(share * 100)}%`;
export const seconds = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`);

/** `tip`: an explanation that shows under the pointer and while the element has the keyboard's focus. */
export function element(tag, className, text, tip) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.append(...visible(text));
  if (tip) {
    made.dataset.tip = tip;
    made.tabIndex = 0;
  }
  return made;
}

// They have no glyph, and hide or reorder the text around them: controls, bidi embeddings, overrides and isolates,
// interlinear marks, and tags outside of an emoji flag.
const UNSEEN = /(?:[\0-\x08\x0B\x0C\x0E-\x1F\x7F-\x9F\u202A-\u202E\u2066-\u2069\uFFF9-\uFFFB]|(?<!\u{1F3F4}[\u{E0020}-\u{E007F}]*)[\u{E0000}-\u{E007F}])+/gu;

/** Text as nodes, in which a label stands for each run of characters that cannot be seen. */
export function visible(text) {
  const nodes = [];
  let at = 0;
  for (const { 0: run, index } of text.matchAll(UNSEEN)) {
    nodes.push(text.slice(at, index), unseenLabel(Array.from(run)));
    at = index + run.length;
  }
  nodes.push(text.slice(at));
  return nodes.filter((node) => node !== "");
}

/** For a name that is read aloud, which has no place for a label. */
export const withoutUnseen = (text) => text.replaceAll(UNSEEN, "");

function unseenLabel(characters) {
  const code = "U+" + characters[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
  const label = document.createElement("span");
  label.className = "unseen";
  label.dataset.code = characters.length > 1 ? `${code} +${characters.length - 1}` : code;
  label.role = "img";
  label.ariaLabel = count(characters.length, "invisible character");
  return label;
}

// One tooltip for all. It stays while the pointer is on it, and Escape closes it.

const tip = $("tip");
let described = null;

function showTip(target) {
  hideTip();
  described = target;
  target.setAttribute("aria-describedby", "tip");
  tip.textContent = target.dataset.tip;
  tip.hidden = false;
  placeTip();
}

function placeTip() {
  if (!described?.isConnected) return hideTip();
  const at = described.getBoundingClientRect(), { offsetWidth: width, offsetHeight: height } = tip;
  tip.style.left = `${Math.max(8, Math.min(at.left, document.documentElement.clientWidth - width - 8))}px`;
  tip.style.top = `${at.bottom + height > innerHeight ? at.top - height : at.bottom}px`;
}

function hideTip() {
  described?.removeAttribute("aria-describedby");
  described = null;
  tip.hidden = true;
}

function followPointer({ target }) {
  if (target === tip) return;
  const explained = target.closest("[data-tip]");
  if (explained) showTip(explained);
  else if (described !== document.activeElement) hideTip();
}

document.addEventListener("pointerover", followPointer);
document.addEventListener("focusin", ({ target }) => (target.dataset.tip ? showTip(target) : hideTip()));
document.addEventListener("focusout", hideTip);
document.addEventListener("scroll", placeTip, { passive: true, capture: true });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
