"""An answer token by token out of a KV cache. Goes when the session does this itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from edgephi.runtime.engines import KvCache

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def generate(
    cache: KvCache,
    prompt: Sequence[int],
    *,
    stop_token_ids: frozenset[int],
    temperature: float,
    top_p: float,
    top_k: int,
    seed: int | None,
) -> Iterator[int]:
    """The tokens that follow `prompt`, a stop token included, until the cache is full."""
    random = None
    pending = list(prompt)
    count = len(prompt)
    while count < cache.capacity:
        for _ in cache.append(pending):
            pass
        if temperature == 0:
            token = cache.next_greedy()
        else:
            import numpy as np

            random = random or np.random.default_rng(seed)
            token = _draw(cache.logits(), random, temperature=temperature, top_p=top_p, top_k=top_k)
        yield token
        if token in stop_token_ids:
            return
        pending = [token]
        count += 1


def _draw(
    scores: NDArray[np.float32],
    random: np.random.Generator,
    *,
    temperature: float,
    top_p: float,
    top_k: int,
) -> int:
    """Draw a token from the `top_k` most likely ones (0: all) that make up `top_p` of their probability."""
    import numpy as np

    candidates = np.arange(len(scores))
    if 0 < top_k < len(scores):
        candidates = np.argpartition(scores, -top_k)[-top_k:]
    candidates = candidates[np.argsort(-scores[candidates], kind="stable")]
    weights = scores[candidates].astype(np.float64) / temperature
    shares = np.cumsum(np.exp(weights - weights[0]))
    shares /= shares[-1]
    count = int(np.searchsorted(shares, top_p)) + 1
    drawn = random.random() * shares[min(count, len(shares)) - 1]
    return int(candidates[np.searchsorted(shares, drawn, side="right")])
