// One turn on the page: a question, its answer as it grows, and the answer's numbers.

import { announce } from "./announce.js";
import { imageItem } from "./attach.js";
import { copyOnClick } from "./copy.js";
import { editable } from "./edit.js";
import { count, numbersOfAnswer } from "./numbers.js";
import { showText } from "./text.js";
import { followEnd, showContext, usedBefore } from "./view.js";

const ENDS = { stopped: "Stopped", length: "Cut at the limit of tokens", full: "The context is full" };
const MILLISECONDS_BETWEEN_NUMBERS = 250;

/**
 * Add a turn to the page: a question and its images. `again` is called when its buttons to try again are pressed,
 * `change` with another question. Returns its view.
 */
export function addTurn(question, images, again, change) {
  const turn = document.getElementById("turn-template").content.firstElementChild.cloneNode(true);
  const part = (name) => turn.querySelector(name);
  const [answer, text, waiting, below, error] = [".answer", ".answer .text", ".waiting", ".answer .below", ".error"].map(part);
  const numbers = part(".numbers");
  const copy = part(".answer .below .copy");
  const retry = part(".retry");
  part(".question .text").textContent = question;
  part(".question .images").append(...images.map(imageItem));
  part(".question .images").hidden = images.length === 0;
  document.getElementById("welcome").hidden = true;
  document.getElementById("turns").append(turn);

  let written = "";
  let pieces = 0; // what the server sends at once: mostly a token
  let asked = 0; // moments, in milliseconds
  let first = 0;
  let last = 0;
  let clock = null;
  let frame = 0;
  let freshStart = null;
  let progress = "";

  part(".again").addEventListener("click", () => (freshStart ?? again)());
  retry.addEventListener("click", () => again());
  copyOnClick(copy, () => written);
  editable(part(".question"), () => question, change);

  const draw = () => {
    frame = 0;
    showText(text, written);
    followEnd();
  };

  /** What the page itself can tell; the server's own numbers come with the end. */
  const measured = () => ({
    first_token_seconds: (first - asked) / 1000,
    decode_tokens_per_second: last > first ? ((pieces - 1) * 1000) / (last - first) : 0,
    generated_tokens: pieces,
  });

  const showNumbers = (taken, note) => {
    const said = taken.generated_tokens > 0 ? numbersOfAnswer(taken) : [];
    const items = [...(note ? [note] : []), ...said].map((said) => {
      const item = document.createElement("li");
      item.textContent = said;
      return item;
    });
    if (note) items[0].className = "note";
    numbers.replaceChildren(...items);
    below.hidden = false;
  };

  const tick = () => {
    if (pieces === 0) {
      const passed = Math.floor((performance.now() - asked) / 1000);
      part(".said").textContent = passed > 0 ? `${progress}, ${count(passed)} s` : progress;
    } else {
      showNumbers(measured());
      showContext(usedBefore() + pieces, { exact: false });
    }
  };

  const quiet = () => {
    clearInterval(clock);
    cancelAnimationFrame(frame);
    waiting.hidden = true;
    answer.setAttribute("aria-busy", "false");
    draw();
  };

  return {
    /** The question is on its way. */
    begin() {
      [written, pieces, first, last, progress] = ["", 0, 0, 0, "Reading"];
      asked = performance.now();
      clearInterval(clock);
      clock = setInterval(tick, MILLISECONDS_BETWEEN_NUMBERS);
      text.replaceChildren();
      [waiting.hidden, below.hidden, copy.hidden, error.hidden] = [false, true, true, true];
      answer.setAttribute("aria-busy", "true");
      tick();
      followEnd({ always: true });
    },

    /** Not yet: `why` is said in place of an answer. */
    wait(why) {
      clearInterval(clock);
      part(".said").textContent = why;
    },

    /** So many of the prompt's tokens are read. */
    read(done, all) {
      progress = `Reading, ${count(done)} of ${count(all)} tokens`;
      tick();
    },

    /** The whole answer so far. */
    write(answerSoFar) {
      written = answerSoFar;
      last = performance.now();
      if (pieces === 0) first = last;
      pieces += 1;
      waiting.hidden = true;
      if (frame === 0) frame = requestAnimationFrame(draw);
    },

    /** The answer's end: `finish` as in the API, or "stopped". */
    end(finish, taken = null) {
      quiet();
      const used = taken ? taken.prompt_tokens + taken.generated_tokens : usedBefore() + pieces;
      showNumbers(taken ?? measured(), ENDS[taken && used >= taken.context ? "full" : finish]);
      showContext(used, taken ? { size: taken.context } : {});
      copy.hidden = written === "";
      followEnd();
    },

    /** No answer, or not all of it. `start` begins a new chat, where nothing else helps; else null. */
    fail(problem, advice, start) {
      quiet();
      freshStart = start;
      part(".problem").textContent = problem;
      part(".advice").textContent = advice;
      part(".again").textContent = start === null ? "Try again" : "New chat";
      [part(".error .buttons").hidden, error.hidden, copy.hidden] = [false, false, written === ""];
      if (pieces > 0) showNumbers(measured());
      announce(`${problem} ${advice}`);
      followEnd();
    },

    /** A later question was asked: this one is not tried again. */
    settle() {
      [part(".error .buttons").hidden, retry.hidden] = [true, true];
    },

    /** It is forgotten. */
    remove() {
      turn.remove();
    },
  };
}
