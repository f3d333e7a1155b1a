// The conversation: what is asked, what comes back, and what the page says about it.

import { announce } from "./announce.js";
import { Broken, Refused, Unreachable, firstModel, streamAnswer } from "./api.js";
import { imageParts, showSight, takeAttached } from "./attach.js";
import { offerExport } from "./export.js";
import { askForKey, knownKey } from "./key.js";
import { requestSettings, systemMessage } from "./settings.js";
import { addTurn } from "./turn.js";
import { showModel, showRunning, showStart, showState } from "./view.js";

const question = document.getElementById("question");

/** The model's id, and what the server says of it; null until the server has answered. */
let model = null;
/** Each turn: {question, images, answer, view}; `answer` is "" where none came. Kept here and nowhere else. */
let turns = [];
/** Stops what is going on; null when nothing is. */
let running = null;

/** Ask the server which model it has. Raises as `firstModel` does. */
async function meetModel() {
  model = await withPatience(() => firstModel(knownKey()), null, (text) => showState("busy", text));
  showModel(model);
  showSight(model.facts.images);
}

async function connect() {
  try {
    await meetModel();
    showState("ready", "Ready");
  } catch (error) {
    showState("failed", explain(error).problem);
  }
}

/** Ask what is in the question's field. */
function ask() {
  const text = question.value.trim();
  if (running !== null) return;
  const images = takeAttached();
  if (text === "" && images.length === 0) return;
  question.value = "";
  question.dispatchEvent(new Event("input"));
  add(text, images);
}

/** Ask something behind all that was said. */
function add(text, images) {
  turns.at(-1)?.view.settle();
  const turn = { question: text, images, answer: "" };
  turn.view = addTurn(text, images, () => answer(turn), (changed) => askInstead(turn, changed));
  turns.push(turn);
  answer(turn);
}

/** Ask another question about the same images in the place of one; what came after that is forgotten. */
function askInstead(turn, text) {
  if (running !== null) return;
  for (const each of turns.splice(turns.indexOf(turn))) each.view.remove();
  add(text, turn.images);
}

/** Have the model answer a turn: a new one, or the last one once more. */
async function answer(turn) {
  if (running !== null) return;
  const stop = new AbortController();
  running = stop;
  turn.answer = "";
  turn.view.begin();
  showRunning(true);
  showState("busy", "Reading");
  announce("The model is reading the question.");
  try {
    if (model === null) await meetModel();
    await withPatience(() => receive(turn, stop.signal), stop.signal, (text) => turn.view.wait(text));
    announce(turn.answer === "" ? "The model gave an empty answer." : `Answer: ${turn.answer}`);
    showState("ready", "Ready");
  } catch (error) {
    if (stop.signal.aborted) {
      turn.view.end("stopped");
      announce("Stopped.");
      showState("ready", "Ready");
    } else {
      const { problem, advice, fresh } = explain(error);
      turn.view.fail(problem, advice, fresh ? startAgain : null);
      const gone = error instanceof Unreachable || error instanceof Broken;
      showState(gone ? "failed" : "ready", gone ? "Not reached" : "Ready");
    }
  } finally {
    running = null;
    showRunning(false);
  }
}

/** One request: its text goes to the turn as it comes. */
async function receive(turn, signal) {
  turn.answer = "";
  turn.view.begin();
  const messages = await messagesUpTo(turn);
  for await (const event of streamAnswer(model.id, messages, requestSettings(), knownKey(), signal)) {
    if (event.of) turn.view.read(event.read, event.of);
    if (event.text) {
      if (turn.answer === "") showState("busy", "Answering");
      turn.answer += event.text;
      turn.view.write(turn.answer);
    }
    if (event.finish) turn.view.end(event.finish, event.numbers);
  }
}

/** What the model is to read, up to a turn's question, or all: turns that were never answered are left out. */
async function messagesUpTo(turn = null) {
  const said = systemMessage();
  const messages = said === "" ? [] : [{ role: "system", content: said }];
  for (const each of turns) {
    if (each !== turn && each.answer === "") continue;
    messages.push({ role: "user", content: await contentOf(each) });
    if (each === turn) break;
    messages.push({ role: "assistant", content: each.answer });
  }
  return messages;
}

/** What a turn asks: a text, or parts where it has images. */
async function contentOf({ question, images }) {
  if (images.length === 0) return question;
  const parts = await imageParts(images);
  return question === "" ? parts : [...parts, { type: "text", text: question }];
}

/**
 * What `attempt` returns. Asks for an API key when the server wants one, and waits and tries again when the
 * server says to; `say` is told what is being waited for. Everything else that is refused is raised.
 */
async function withPatience(attempt, signal, say) {
  for (let waits = 0; ; ) {
    try {
      return await attempt();
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (error.status === 401) {
        if (!(await askForKey(signal))) throw error;
      } else if (error.retryAfter !== null) {
        if (waits++ === 0) announce(`${reasonToWait(error)} It will be asked again.`);
        await countDown(error, signal, say);
      } else {
        throw error;
      }
    }
  }
}

/** Wait as long as the server says, and tell how long that still is. Raises the signal's reason. */
async function countDown(error, signal, say) {
  for (let left = error.retryAfter; left > 0; left--) {
    signal?.throwIfAborted();
    say(`${reasonToWait(error)} Trying again in ${left} s.`);
    await new Promise((resolve) => {
      setTimeout(resolve, 1000);
      signal?.addEventListener("abort", resolve, { once: true });
    });
  }
  signal?.throwIfAborted();
}

const reasonToWait = ({ status }) =>
  status === 429 ? "The server is busy with other requests." : "The server is not ready.";

/** An error in words: the problem, what can be done about it, and whether only a new chat helps. */
function explain(error) {
  if (error instanceof Unreachable) {
    return {
      problem: "The server cannot be reached.",
      advice: "Is edgephi serve still running, and this device still on its network?",
    };
  }
  if (error instanceof Broken) {
    return { problem: "The answer broke off.", advice: "The connection to the server was lost, or the server stopped." };
  }
  if (error instanceof Refused && error.status === 401) {
    return { problem: "The server wants an API key.", advice: "Whoever started it has the key." };
  }
  if (error instanceof Refused && error.code === "context_length_exceeded") {
    return { problem: "The conversation is too long for the model.", advice: sentence(error.message), fresh: true };
  }
  if (error instanceof Refused && error.code === "body_too_large") {
    return { problem: "The conversation is too large for the server.", advice: sentence(error.message), fresh: true };
  }
  if (error instanceof DOMException) {
    return { problem: "An image cannot be read any more.", advice: "Was its file changed or removed? Attach it again." };
  }
  if (error instanceof Refused) {
    return { problem: "The server could not answer.", advice: sentence(error.message) };
  }
  return { problem: "This page has a fault.", advice: String(error) };
}

const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}.`;

/** Forget the conversation. */
function startAgain() {
  running?.abort();
  turns = [];
  takeAttached();
  showStart();
  announce("New chat.");
  question.focus();
}

document.getElementById("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
document.getElementById("stop").addEventListener("click", () => running?.abort());
document.getElementById("new-chat").addEventListener("click", startAgain);
document.addEventListener("keydown", (event) => {
  if (event.isComposing) return; // Enter and Escape belong to the input method
  if (event.key === "Escape" && !document.querySelector("dialog[open]")) running?.abort();
  if (event.key === "Enter" && !event.shiftKey && event.target === question) {
    event.preventDefault();
    ask();
  }
});
offerExport(async () => ({ model: model?.id ?? null, messages: await messagesUpTo() }));
connect();
