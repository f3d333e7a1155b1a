"""Refuses texts that cannot fit into the context from their length alone, before a tokenizer reads them.

A tokenizer takes seconds and gigabytes for megabytes of text, only to find that they are too many tokens. No
token stands for more bytes than the longest one of the vocabulary does, so a text of N bytes has N divided by
that many tokens or more.
"""

from __future__ import annotations

import functools
from pathlib import Path

from edgephi.errors import PastContextError
from edgephi.runtime.text.tokenizer_file import Coverage, coverage

# Below so many bytes for each token of the context a text is encoded at once, and the vocabulary not read:
# that takes longer than a small model takes to load.
_CERTAINLY_QUICK = 16


class PromptBound:
    """What the tokenizer in a file can fit into `context` tokens at most."""

    def __init__(self, tokenizer_file: Path, context: int) -> None:
        self._file = tokenizer_file
        self._context = context

    def check_text(self, *parts: str) -> None:
        """Raise PastContextError when `parts`, each encoded by itself, cannot fit into the context."""
        if len(parts) >= self._context:
            raise self._past(f"the prompt has {len(parts)} tokens at least")
        if sum(map(len, parts)) <= self._context * _CERTAINLY_QUICK // 4:  # a letter has four bytes at most
            return
        size = sum(len(part.encode(errors="surrogatepass")) for part in parts)
        if size <= self._context * _CERTAINLY_QUICK or self._coverage is None:
            return
        least = sum(map(self._coverage.least_tokens, parts))
        if least >= self._context:
            raise self._past(f"the prompt has {size} bytes, which are {least} tokens at least")

    def check_messages(self, count: int) -> None:
        """Raise PastContextError when there are more messages than the context has tokens."""
        if count >= self._context:
            raise self._past(f"the conversation has {count} messages")

    @functools.cached_property
    def _coverage(self) -> Coverage | None:
        return coverage(self._file)

    def _past(self, found: str) -> PastContextError:
        return PastContextError(
            f"{found}, the context is {self._context} tokens, prompt and answer together",
            hint="shorten the prompt, or build the bundle for a target with a larger context",
        )
