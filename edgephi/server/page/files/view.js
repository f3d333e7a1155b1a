// What stands on the page around the turns: the server's state, the model, the context, the buttons.

import { count, parameters } from "./numbers.js";

const element = (id) => document.getElementById(id);
const NEARLY_FULL = 0.85; // of the context

let contextSize = null; // tokens
let contextUsed = 0; // tokens, after the last answer

/** `state` is one of ready, busy, failed; `text` says it in a word or two. */
export function showState(state, text) {
  element("state").dataset.state = state;
  element("state-text").textContent = text;
}

export function showModel({ id, facts }) {
  element("model").textContent = id;
  document.title = `${id} · edgephi`;
  contextSize = facts.context ?? null;
  const rows = [
    ["Model", id],
    ["Parameters", facts.parameters && parameters(facts.parameters)],
    ["Engine", facts.engine && (facts.provider ? `${facts.engine} on ${facts.provider}` : facts.engine)],
    ["Context", contextSize && `${count(contextSize)} tokens`],
    ["Reads", facts.images && "text and images"],
  ];
  element("facts").replaceChildren(
    ...rows.filter(([, value]) => value).map(([name, value]) => {
      const row = document.createElement("div");
      const term = document.createElement("dt");
      const detail = document.createElement("dd");
      term.textContent = name;
      detail.textContent = value;
      row.append(term, detail);
      return row;
    }),
  );
  showContext(contextUsed);
}

/** Either the button that sends or the one that stops is there; the focus is never left on a hidden one. */
export function showRunning(running) {
  const focused = document.activeElement;
  element("send").hidden = running;
  element("stop").hidden = !running;
  element("new-chat").disabled = element("turns").childElementCount === 0;
  element("export").disabled = running || element("new-chat").disabled;
  element("turns").classList.toggle("running", running);
  if (running && focused === element("send")) element("stop").focus();
  if (!running && (focused === element("stop") || focused === document.body)) backToQuestion();
}

/** The next key goes to the question's field. Not on a telephone: its keyboard would cover the answer. */
function backToQuestion() {
  if (!window.matchMedia("(pointer: coarse)").matches) element("question").focus({ preventScroll: true });
}

/** How full the context is. While an answer comes `used` is an estimate: `exact` is false. */
export function showContext(used, { size = contextSize, exact = true } = {}) {
  if (size === null) return;
  contextSize = size;
  if (exact) contextUsed = used;
  const share = Math.min(1, used / size);
  element("context").hidden = false;
  element("context").classList.toggle("full", share >= NEARLY_FULL);
  element("meter").value = share;
  const numbers = `${exact ? "" : "about "}${count(used)} of ${count(size)} tokens`;
  element("meter").textContent = numbers;
  element("context-text").textContent = share >= NEARLY_FULL ? `${numbers}, nearly full` : numbers;
}

/** Tokens in the context after the last answer. */
export const usedBefore = () => contextUsed;

export function showStart() {
  element("welcome").hidden = false;
  element("turns").replaceChildren();
  showContext(0);
  showRunning(false);
}

/** Make a field as high as its text. */
export function fitField(field) {
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight + field.offsetHeight - field.clientHeight}px`;
}

// The page follows an answer as it grows, until the reader scrolls away from its end.
let following = true;
const distanceToEnd = () => document.documentElement.scrollHeight - window.scrollY - window.innerHeight;

export function followEnd({ always = false } = {}) {
  if (always) following = true;
  if (following) window.scrollTo({ top: document.documentElement.scrollHeight, behavior: "instant" });
  element("to-end").hidden = following;
}

window.addEventListener("scroll", () => {
  following = distanceToEnd() < 48;
  element("to-end").hidden = following;
});
element("to-end").addEventListener("click", () => {
  followEnd({ always: true });
  backToQuestion();
});

const question = element("question");
question.addEventListener("input", () => {
  fitField(question);
  element("send").disabled = question.value.trim() === "" && element("attached").hidden;
});
