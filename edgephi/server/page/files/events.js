// Server-sent events, read from a response as they arrive.

/**
 * Each event in `body`, a stream of bytes, as {data}, and each comment as {comment}. Ends when the stream does.
 * @param {ReadableStream<Uint8Array>} body
 * @returns {AsyncGenerator<{data: string} | {comment: string}>}
 */
export async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let unfinished = ""; // the start of a line whose end has not come yet
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (unfinished + value).split(/\r\n|\n|\r/);
      unfinished = lines.pop();
      for (const line of lines) {
        if (line === "" && data.length > 0) {
          yield { data: data.join("\n") };
          data = [];
        } else if (line.startsWith("data:")) {
          data.push(line.slice(line[5] === " " ? 6 : 5));
        } else if (line.startsWith(":")) {
          yield { comment: line.slice(1).trim() };
        } // other fields are not used by this API
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // tells the server, when the reader leaves early
  }
}
