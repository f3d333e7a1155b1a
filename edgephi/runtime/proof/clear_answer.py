"""An engine's greedy answer, and how it begins as far as no rounding could change it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from edgephi.runtime.adapter import Engine, KvCache
from edgephi.runtime.text.chat_prompt import ChatPrompts

CLEAR_MARGIN = 0.5
"""Nats between the most likely token and the next: another processor's rounding moves a logit by far less."""

_LINE_LETTERS = "\t\n\r"


@dataclass(frozen=True)
class ClearAnswer:
    """`text` ends before the first token that was no clear choice; for `max_tokens` there was room.

    `whole` is the answer as far as it was asked for, and `token_ids` are its tokens, without what ends it.
    """

    text: str
    max_tokens: int
    whole: str = ""
    token_ids: tuple[int, ...] = ()


def clear_answer(
    engine: Engine,
    prompts: ChatPrompts,
    question: str,
    *,
    system: str,
    max_tokens: int,
    context: int,
    stop_token_ids: Collection[int],
    adapter: str = "",
) -> ClearAnswer | None:
    """The greedy answer to `question`, and its clear beginning; None when there is no room in the context.

    `system` is the system message before it, or empty; `adapter` the one that it is computed with, or "".
    """
    messages = [{"role": "system", "content": system}] if system else []
    prompt = prompts.encode(prompts.render([*messages, {"role": "user", "content": question}]))
    room = min(max_tokens, context - len(prompt))
    if room < 1:
        return None
    cache = engine.open_cache(len(prompt) + room, adapter=adapter)
    stream = engine.decode_stream(prompt[-1])
    text = whole = ""
    is_clear = True
    token_ids: list[int] = []
    tokens = prompt
    try:
        for _ in range(room):
            for _ in cache.append(tokens):
                pass
            token, margin = _choice(cache)
            if token in stop_token_ids:
                break
            piece = stream.decode(token)
            # What has other letters no manifest may say, because people look at manifests.
            shows = all(letter.isprintable() or letter in _LINE_LETTERS for letter in piece)
            is_clear = is_clear and margin >= CLEAR_MARGIN and shows
            text += piece if is_clear else ""
            whole += piece
            token_ids.append(token)
            tokens = [token]
    finally:
        cache.close()
    return ClearAnswer(text, room, whole, tuple(token_ids))


def _choice(cache: KvCache) -> tuple[int, float]:
    """The most likely next token, and by how many nats it is more likely than any other."""
    logits = cache.logits()
    largest = logits.copy()
    largest.partition(-2)
    return int(logits.argmax()), float(largest[-1] - largest[-2])
