// The server's OpenAI API: which model there is, and answers as they are written.

import { eventsOf } from "./events.js";

/** The server answered, and refused. `retryAfter` in seconds; null when waiting does not help. */
export class Refused extends Error {
  constructor({ message, code }, status = null, retryAfter = null) {
    super(message);
    this.code = code;
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** No answer from the server: it is not running, or the network is down. */
export class Unreachable extends Error {}

/** The answer began, and its end never came. */
export class Broken extends Error {}

const SECONDS_UNTIL_RETRY = 5; // where the server does not say

/**
 * The model that the server has: its id, and its field `edgephi` as `facts` (context, engine, …).
 * Raises Refused and Unreachable.
 */
export async function firstModel(key) {
  const response = await request("v1/models", { headers: authorization(key) });
  const { data } = await response.json();
  return { id: data[0].id, facts: data[0].edgephi };
}

/**
 * The answer to `messages`, written by `settings` (temperature), as it comes: {read, of}, tokens of the prompt that are read; {text}, what is new
 * in the answer; and {finish, numbers}, why it ended and the server's field `edgephi`.
 * Raises Refused, Unreachable, Broken, and the signal's AbortError.
 */
export async function* streamAnswer(model, messages, settings, key, signal) {
  const response = await request("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json", ...authorization(key) },
    body: JSON.stringify({ model, messages, ...settings, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  let ended = false;
  try {
    for await (const { data, comment } of eventsOf(response.body)) {
      if (data === undefined) {
        const progress = /^prefill (\d+)\/(\d+)$/.exec(comment);
        if (progress) yield { read: Number(progress[1]), of: Number(progress[2]) };
        continue;
      }
      if (data === "[DONE]") break;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Refused(chunk.error);
      const choice = chunk.choices[0]; // none in the event that has the usage
      if (choice?.delta.content) yield { text: choice.delta.content };
      if (choice?.finish_reason) {
        ended = true;
        yield { finish: choice.finish_reason, numbers: chunk.edgephi };
      }
    }
  } catch (error) {
    if (error instanceof Refused || error.name === "AbortError") throw error;
    throw new Broken(String(error));
  }
  if (!ended) throw new Broken("the stream ended early");
}

function authorization(key) {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** A response that is not an error. Addresses are relative, so that the page works below a proxy's path. */
async function request(address, options) {
  let response;
  try {
    response = await fetch(address, { cache: "no-store", credentials: "omit", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable(String(error));
  }
  if (response.ok) return response;
  let refusal = { message: `HTTP status ${response.status}` };
  try {
    refusal = (await response.json()).error ?? refusal;
  } catch {
    // not the API's error object: a proxy's, maybe
  }
  throw new Refused(refusal, response.status, secondsUntilRetry(response));
}

/** What `Retry-After` says, in seconds: it is a number of them or a date. */
function secondsUntilRetry(response) {
  const said = response.headers.get("Retry-After");
  if (said === null) return response.status === 429 ? SECONDS_UNTIL_RETRY : null;
  const seconds = /^\d+$/.test(said) ? Number(said) : (Date.parse(said) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.max(1, Math.ceil(seconds)) : SECONDS_UNTIL_RETRY;
}
