"""The next token out of logits: the most likely one, or one drawn by chance; and log probabilities.

The same for all engines. NumPy is imported inside the functions, so that importing this costs nothing.

A vocabulary has up to 200,064 tokens, and sorting them for each token would take longer than a small model
computes. So nothing sorts them all: the few most likely ones are looked for in the blocks that can hold them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgephi.commands import edgephi_command
from edgephi.errors import BadBundleError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_BLOCK = 64  # tokens; see `most_likely`
_SUMMED = 512  # tokens; see `_place`


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    `temperature` 0 takes the most likely token. Above it, logits are divided by it, and a token is drawn from
    the `top_k` most likely ones (0: from all), of which only the most likely ones that make up `top_p` of
    their probability are kept, and of these only those at least `min_p` times as likely as the first.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


class Sampler:
    """Draws one answer's tokens: from the same logits the same ones for a seed, others each time for None."""

    def __init__(self, sampling: Sampling, seed: int | None = None) -> None:
        self._sampling = sampling
        # Python promises the same numbers for a seed in every version to come; NumPy does not.
        self._random = random.Random(seed)  # noqa: S311 - not for secrets

    def choose(self, logits: NDArray[np.float32]) -> int:
        """The next token from logits [vocabulary]; those that are -inf are never taken.

        Raises BadBundleError when there is a logit that is not a number, or none that may be taken.
        """
        if self._sampling.temperature == 0:
            return best(logits)
        tokens, weights = candidates(logits, self._sampling)
        return int(tokens[_place(weights, self._random.random())])


def best(logits: NDArray[np.float32]) -> int:
    """The most likely token; the first of those that are equal. Raises as `Sampler.choose` does."""
    token = int(logits.argmax())
    _check(float(logits[token]))  # the largest is not a number as soon as any is not
    return token


def candidates(
    logits: NDArray[np.float32], sampling: Sampling
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The tokens that may be drawn, and their probabilities but for a factor; the temperature is above 0.

    Raises BadBundleError as `Sampler.choose` does.
    """
    import numpy as np

    largest = logits.max()
    _check(float(largest))
    if 0 < sampling.top_k < len(logits):
        tokens = most_likely(logits, sampling.top_k)
        logits = logits[tokens]
    else:
        tokens = np.arange(len(logits))
    # Some temperatures are so small that their inverse is infinite, and 0 times that is not a number.
    factor = np.float32(min(1 / sampling.temperature, float(np.finfo(np.float32).max)))
    weights = logits - largest
    with np.errstate(over="ignore"):  # to -inf, which is right
        weights *= factor
    np.exp(weights, out=weights)
    if sampling.top_p < 1:
        tokens, weights = _likeliest_share(tokens, weights, sampling.top_p)
    if sampling.min_p > 0:
        kept = weights >= sampling.min_p  # the largest weight is 1
        tokens, weights = tokens[kept], weights[kept]
    return tokens, weights


def _likeliest_share(
    tokens: NDArray[np.int64], weights: NDArray[np.float32], share: float
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The fewest of `tokens` that make up `share` of all weights."""
    import numpy as np

    whole = weights.sum(dtype=np.float64)
    # All tokens below this limit have less than 1 - share together, so none of them is kept, or sorted.
    kept = np.flatnonzero(weights >= (1 - share) * whole / len(weights))
    kept = kept[np.argsort(-weights[kept], kind="stable")]
    sums = np.cumsum(weights[kept], dtype=np.float64)
    kept = kept[: int(sums.searchsorted(share * whole)) + 1]
    return tokens[kept], weights[kept]


def _place(weights: NDArray[np.float32], fraction: float) -> int:
    """The place where running sums of `weights` pass `fraction` (below 1) of their whole sum.

    Its weight is never 0. Sums of all weights one by one would take longer than all the rest.
    """
    import numpy as np

    def passed(sums: NDArray[np.float64], limit: float) -> int:
        # Rounding must not lead past the last weight that counts.
        return int(min(sums.searchsorted(limit, side="right"), sums.searchsorted(sums[-1])))

    starts = np.arange(0, len(weights), _SUMMED)
    sums = np.cumsum(np.add.reduceat(weights, starts, dtype=np.float64))
    part = passed(sums, fraction * sums[-1])
    rest = fraction * sums[-1] - (sums[part - 1] if part else 0)
    start = int(starts[part])
    return start + passed(np.cumsum(weights[start : start + _SUMMED], dtype=np.float64), rest)


def most_likely(logits: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """The `count` most likely tokens, the most likely one first; of equal ones those with smaller numbers.

    Those that are -inf are left out. A block of tokens whose largest logit is not among the `count` largest
    of all blocks holds no token that is wanted: enough others come first. So few blocks are sorted.
    """
    import numpy as np

    blocks = len(logits) // _BLOCK
    if count > blocks // 2:
        tokens = np.arange(len(logits))
    else:
        # Block i is the tokens i, i + blocks, i + 2 * blocks...: so laid out, all maxima are taken at once.
        tops = logits[: blocks * _BLOCK].reshape(_BLOCK, blocks).max(axis=0)
        limit = np.partition(tops, blocks - count)[blocks - count]
        # All blocks that reach the limit, so that equal logits are treated alike.
        first = np.flatnonzero(tops >= limit)
        inside = (np.arange(0, blocks * _BLOCK, blocks)[:, None] + first).reshape(-1)
        tokens = np.concatenate([inside, np.arange(blocks * _BLOCK, len(logits))])
        tokens = tokens[logits[tokens] >= limit]  # in order
    tokens = tokens[logits[tokens] > -np.inf]
    return tokens[np.argsort(-logits[tokens], kind="stable")[:count]]


def log_probabilities(logits: NDArray[np.float32], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """Natural logarithms of the probabilities of `tokens`, as the model gives them: at temperature 1."""
    import numpy as np

    largest = logits.max()
    _check(float(largest))
    whole = np.exp(logits - largest).sum(dtype=np.float64)
    return logits[tokens].astype(np.float64) - float(largest) - float(np.log(whole))


def _check(largest: float) -> None:
    if largest == float("-inf"):
        raise BadBundleError("expected a token that may come next, found none", hint="please report this")
    if not largest < float("inf"):
        raise BadBundleError(
            f"expected logits from the engine, found {largest}",
            hint=f"copy the bundle again and check it with `{edgephi_command('verify')}`",
        )
