"""Texts that are read as they are, without a chat's form, and the tokens that they are made of."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from edgephi.errors import BadInputError
from edgephi.runtime.text.prompt_bound import PromptBound
from edgephi.runtime.text.tokenizer_file import added_tokens, leaves_out_first_space, token_bytes


class RawTexts:
    """Encodes and spells texts for one bundle. Special tokens written in a text are special tokens."""

    def __init__(self, tokenizer_file: Path, encode: Callable[[str], list[int]], bound: PromptBound) -> None:
        self._file = tokenizer_file
        self._encode = encode
        self._bound = bound

    @functools.cached_property
    def token_bytes(self) -> dict[int, bytes]:
        """The bytes that each token stands for."""
        return token_bytes(self._file)

    def encode(self, text: str | Sequence[int]) -> list[int]:
        """The tokens of a text, or those that are given in its place.

        Raises PastContextError for a text that cannot fit, BadInputError for an empty one or tokens that the
        model does not have.
        """
        if isinstance(text, str):
            self._bound.check_text(text)
            token_ids = self._encode(text)
        else:
            token_ids = list(text)
            unknown = next((token for token in token_ids if token not in self.token_bytes), None)
            if unknown is not None:
                raise BadInputError(
                    f"expected tokens of the model's vocabulary, found {unknown}",
                    hint="take them from the bundle's tokenizer.json",
                )
        if not token_ids:
            raise BadInputError("expected a text to go on from, found an empty one", hint="give a prompt")
        return token_ids

    def spell(self, token_ids: Sequence[int]) -> list[bytes]:
        """The bytes of each token of a text; put together, they are the text."""
        spelled = [self.token_bytes[token] for token in token_ids]
        first = next((place for place, token in enumerate(token_ids) if token not in self._added), None)
        if first is not None and self._leaves_out_first_space:
            spelled[first] = spelled[first].removeprefix(b" ")
        return spelled

    @functools.cached_property
    def _added(self) -> frozenset[int]:
        return frozenset(added_tokens(self._file).values())

    @functools.cached_property
    def _leaves_out_first_space(self) -> bool:
        return leaves_out_first_space(self._file)
