// The server's OpenAI API: which model there is, and answers as they are written.

import { eventsOf } from "./events.js";

/** The server answered, and refused. `retryAfter` in seconds; null when waiting does not help. */
export class Refused extends Error {
  constructor(status, message, retryAfter = null) {
    super(message);
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
 * The model that the server has: its id, and what edgephi says of it (context, engine, …), when it does.
 * Raises Refused and Unreachable.
 */
export async function firstModel(key) {
  const response = await request("v1/models", { headers: authorization(key) });
  const { data } = await response.json();
  return { id: data[0].id, facts: data[0].edgephi ?? {} };
}

/**
 * The answer to `messages`, as it comes: objects with `text` (what is new; may be empty), and at the end
 * `finish` (why it ended) and `numbers` (see the server's field `edgephi`; null from other servers).
 * Raises Refused, Unreachable, Broken, and the signal's AbortError.
 */
export async function* streamAnswer(model, messages, key, signal) {
  const response = await request("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json", ...authorization(key) },
    body: JSON.stringify({ model, messages, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  let ended = false;
  try {
    for await (const data of eventsOf(response.body)) {
      if (data === "[DONE]") break;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Refused(chunk.error.code, chunk.error.message);
      const choice = chunk.choices?.[0];
      ended ||= Boolean(choice?.finish_reason);
      yield {
        text: choice?.delta?.content ?? "",
        finish: choice?.finish_reason ?? null,
        numbers: chunk.edgephi ?? null,
      };
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
  let message = `HTTP status ${response.status}`;
  try {
    message = (await response.json()).error.message;
  } catch {
    // not the API's error object: a proxy's, maybe
  }
  throw new Refused(response.status, message, secondsUntilRetry(response));
}

/** What `Retry-After` says, in seconds: it is a number of them or a date. */
function secondsUntilRetry(response) {
  const said = response.headers.get("Retry-After");
  if (said === null) return response.status === 429 ? SECONDS_UNTIL_RETRY : null;
  const seconds = /^\d+$/.test(said) ? Number(said) : (Date.parse(said) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.max(1, Math.ceil(seconds)) : SECONDS_UNTIL_RETRY;
}
