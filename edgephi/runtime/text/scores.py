"""Log probabilities of a text's tokens, and of those that could have come in their places."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgephi.runtime.text.sampling import log_probabilities, most_likely

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Alternative:
    """A token that could have come, its natural log probability, and its bytes.

    `text` has a stand-in where the bytes are half of a letter.
    """

    text: str
    logprob: float
    bytes: tuple[int, ...]


@dataclass(frozen=True)
class TokenScore:
    """A token of an answer with its natural log probability, and the most likely tokens at its place.

    The probabilities are the model's own: neither temperature nor a schema changes them. Put together, the
    bytes of an answer's tokens are its text.
    """

    text: str
    logprob: float
    bytes: tuple[int, ...]
    alternatives: tuple[Alternative, ...] = ()


@dataclass(frozen=True)
class PromptScore:
    """A token of a text that was given, with its natural log probability after the tokens before it.

    `logprob` is None, and there are no alternatives, where nothing is before it. Put together, the bytes of a
    text's tokens are the text.
    """

    token: int
    text: str
    logprob: float | None
    bytes: tuple[int, ...]
    alternatives: tuple[Alternative, ...] = ()


class Scorer:
    """Scores tokens with `count` alternatives each; `token_bytes` are those of all tokens."""

    def __init__(self, token_bytes: Mapping[int, bytes], count: int) -> None:
        self._token_bytes = token_bytes
        self._count = count

    def score(self, logits: NDArray[np.float32], token: int, *, opens: bool, text: str) -> TokenScore:
        """The score of `token` out of logits [vocabulary], after which the answer has grown by `text`.

        Some tokenizers leave out the space at the start of an answer, so where the token `opens` one, that
        of its bytes and of the alternatives' is left out as well.
        """
        own = self._token_bytes.get(token, b"")
        without_space = opens and own.startswith(b" ") and not text.startswith(" ")

        def spelled(id_: int) -> bytes:
            spelling = self._token_bytes.get(id_, b"")
            return spelling.removeprefix(b" ") if without_space else spelling

        logprob, alternatives = self._likely(logits, token, spelled)
        return TokenScore(_text(spelled(token)), logprob, tuple(spelled(token)), alternatives)

    def score_given(self, logits: NDArray[np.float32] | None, token: int, spelled: bytes) -> PromptScore:
        """The score of a token of a given text, there `spelled` like that, out of the logits before it."""
        if logits is None:
            return PromptScore(token, _text(spelled), None, tuple(spelled))
        logprob, alternatives = self._likely(logits, token, lambda id_: self._token_bytes.get(id_, b""))
        return PromptScore(token, _text(spelled), logprob, tuple(spelled), alternatives)

    def _likely(
        self, logits: NDArray[np.float32], token: int, spelled: Callable[[int], bytes]
    ) -> tuple[float, tuple[Alternative, ...]]:
        """The log probability of a token, and the most likely ones at its place."""
        import numpy as np

        likely = most_likely(logits, self._count) if self._count else np.empty(0, np.int64)
        values = log_probabilities(logits, np.concatenate([[token], likely]))
        alternatives = tuple(
            Alternative(_text(spelled(int(id_))), float(value), tuple(spelled(int(id_))))
            for id_, value in zip(likely, values[1:], strict=True)
        )
        return float(values[0]), alternatives


def _text(data: bytes) -> str:
    return data.decode(errors="replace")
