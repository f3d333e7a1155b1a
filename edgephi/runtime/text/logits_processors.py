"""What changes logits before a token is chosen: biases, penalties, and a program's own scores.

The same for all engines, in the order of transformers and vLLM: biases, the penalty of repetition, those of
frequency and presence, then the program's own function. Rules and sampling come after them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgephi.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgephi.runtime.options import Options


class LogitsProcessors:
    """Those that `options` ask for, for the answer to the tokens of `prompt`: its words, not its images."""

    def __init__(self, options: Options, prompt: Sequence[int]) -> None:
        self._options = options
        self._prompt = [token for token in prompt if token >= 0]
        self._counts: Counter[int] = Counter()
        self._seen: NDArray[np.bool_] | None = None

    def process(self, logits: NDArray[np.float32], answer: Sequence[int]) -> NDArray[np.float32]:
        """A copy of logits [vocabulary] as the options change them, after the tokens of `answer`.

        Those only ever grow. Raises UsageError for what the program's own function gives when it is none.
        """
        options = self._options
        new = answer[self._counts.total() :]
        self._counts.update(new)
        logits = logits.copy()
        if options.logit_bias:
            tokens, biases = _arrays(options.logit_bias)
            logits[tokens] += biases
        if options.repetition_penalty != 1:
            self._penalise_repetition(logits, new)
        if self._counts and (options.frequency_penalty or options.presence_penalty):
            self._penalise_answer(logits)
        if options.logits_processor is not None:
            logits = _checked(options.logits_processor([*self._prompt, *answer], logits), logits)
        return logits

    def _penalise_repetition(self, logits: NDArray[np.float32], new: Sequence[int]) -> None:
        """Make all tokens of prompt and answer less likely, however often they are in there."""
        import numpy as np

        if self._seen is None:
            self._seen = np.zeros(len(logits), np.bool_)
            self._seen[list(self._prompt)] = True
        self._seen[list(new)] = True
        own, penalty = logits[self._seen], self._options.repetition_penalty
        logits[self._seen] = np.where(own < 0, own * penalty, own / penalty)

    def _penalise_answer(self, logits: NDArray[np.float32]) -> None:
        """Make the answer's tokens less likely, for being there and for each time that they are."""
        tokens, counts = _arrays(self._counts)
        logits[tokens] -= self._options.frequency_penalty * counts
        logits[tokens] -= self._options.presence_penalty


def processors_of(options: Options, prompt: Sequence[int]) -> LogitsProcessors | None:
    """What changes the logits of an answer; None where nothing does."""
    is_off = (
        not options.logit_bias
        and options.repetition_penalty == 1
        and not options.frequency_penalty
        and not options.presence_penalty
        and options.logits_processor is None
    )
    return None if is_off else LogitsProcessors(options, prompt)


def _arrays(values: Mapping[int, float]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The tokens that have values, and the values."""
    import numpy as np

    return np.fromiter(values, np.int64), np.fromiter(values.values(), np.float32)


def _checked(found: object, given: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a program's own function has made of logits, when it is that."""
    import numpy as np

    hint = "return an array of the shape that it was given; -inf for tokens that must not come"
    try:
        logits = np.asarray(found, np.float32)
    except (TypeError, ValueError):
        raise UsageError(
            f"expected logits from logits_processor, found {type(found).__name__}", hint=hint
        ) from None
    if logits.shape != given.shape:
        raise UsageError(
            f"expected {len(given)} logits from logits_processor, found the shape {logits.shape}", hint=hint
        )
    if not np.isfinite(logits.max()):
        raise UsageError(
            f"expected logits from logits_processor, found {logits.max()} as their largest", hint=hint
        )
    return logits
