"""How far one model's next-token distribution is from another's: KL divergence, top-1 agreement, perplexity.

Logits come as float32 blocks [tokens of the block, vocabulary], in the order of the text, so that the logits
of a long text need never be held as a whole. Everything that is summed is computed in float64, a few rows
at a time: KL divergences of 1e-7 nats, which the export error is made of, drown in float32.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgephi.bundle.manifest import Divergence
from edgephi.errors import QualityGateError

FLOAT64_BLOCK_BYTES = 4 << 20
"""Size of the largest float64 copy of logits; a few of them exist at a time."""

_LARGEST_LOG_PERPLEXITY = 700.0  # nats; e^710 is no longer a float64, and JSON has no infinity

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


def divergence(blocks: Iterable[tuple[Floats, Floats]], token_ids: Sequence[int]) -> Divergence:
    """The divergence of Q from P, with `blocks` of their logits over the text `token_ids`.

    Each block is (P, Q), both [tokens of the block, vocabulary]; together they cover every token of the text,
    logits at position t being about token t + 1. Errors as in `divergences`.
    """
    return divergences(blocks, token_ids, pairs=[(0, 1)])[0]


def divergences(
    blocks: Iterable[Sequence[Floats]], token_ids: Sequence[int], *, pairs: Sequence[tuple[int, int]]
) -> list[Divergence]:
    """Several divergences in one pass: each of `pairs` names the places of its P and its Q in a block.

    For a certificate a block holds the logits of (original, quantised, engine), and `pairs` are (1, 2),
    (0, 1) and (0, 2). Of each pair: KL(P || Q) in nats, its mean and largest over all positions; the share
    of positions with the same most likely token; the perplexity under P and under Q of every token but the
    first.

    Raises QualityGateError when a logit is NaN or infinite, so that a broken engine cannot pass a gate by
    comparing as "not larger"; ValueError when shapes do not fit each other or the text, or when the text has
    fewer than two tokens.
    """
    ids = np.asarray(token_ids, dtype=np.int64)  # [tokens]
    if len(ids) < 2:
        raise ValueError(f"expected a text of at least two tokens, found {len(ids)}")
    sums = [_Sums() for _ in pairs]
    done = 0  # tokens
    for block in blocks:
        if any(logits.ndim != 2 or logits.shape != block[0].shape for logits in block):
            shapes = ", ".join(str(logits.shape) for logits in block)
            raise ValueError(f"expected logits of one shape [tokens, vocabulary], found {shapes}")
        if done + len(block[0]) > len(ids):
            raise ValueError(f"expected logits for {len(ids)} tokens, found more")
        for start, stop in _row_spans(block[0]):
            rows = [_log_softmax(logits[start:stop], done + start) for logits in block]
            following = ids[done + start + 1 : done + stop + 1]  # one shorter at the end of the text
            for (p, q), pair_sums in zip(pairs, sums, strict=True):
                pair_sums.add(rows[p], rows[q], following)
        done += len(block[0])
    if done != len(ids):
        raise ValueError(f"expected logits for {len(ids)} tokens, found {done}")
    return [pair_sums.divergence() for pair_sums in sums]


@dataclass
class _Sums:
    """What one pair has come to so far."""

    kl: list[Doubles] = field(default_factory=list)
    same_top: int = 0
    tokens: int = 0
    predicted: int = 0
    surprise_from: float = 0.0  # nats, of all predicted tokens
    surprise_to: float = 0.0

    def add(self, log_p: Doubles, log_q: Doubles, following: NDArray[np.int64]) -> None:
        """Take in rows of log-probabilities [rows, vocabulary] and the tokens that follow them."""
        # A sum of positive and negative terms may end a hair below zero, where no KL divergence is.
        kl = np.einsum("tv,tv->t", np.exp(log_p), log_p - log_q)  # [rows]
        self.kl.append(np.maximum(kl, 0.0))
        self.same_top += int((log_p.argmax(axis=1) == log_q.argmax(axis=1)).sum())
        self.tokens += len(log_p)
        at = np.arange(len(following))
        self.predicted += len(following)
        self.surprise_from -= float(log_p[at, following].sum())
        self.surprise_to -= float(log_q[at, following].sum())

    def divergence(self) -> Divergence:
        """The means."""
        kl = np.concatenate(self.kl)  # [tokens]
        return Divergence(
            kl_mean=float(kl.mean()),
            kl_max=float(kl.max()),
            top1=self.same_top / self.tokens,
            perplexity_from=_perplexity(self.surprise_from / self.predicted),
            perplexity_to=_perplexity(self.surprise_to / self.predicted),
        )


def _perplexity(surprise: float) -> float:
    """The exponential of a mean surprise in nats, held below the largest float."""
    return float(np.exp(min(surprise, _LARGEST_LOG_PERPLEXITY)))


def _log_softmax(logits: Floats, position: int) -> Doubles:
    """Log-probabilities of rows of logits, [rows, vocabulary]; the first row is the text's `position`."""
    finite = np.isfinite(logits).all(axis=1)  # [rows]
    if not finite.all():
        raise QualityGateError(
            f"expected finite logits, found NaN or infinity at token {position + int(finite.argmin())}",
            hint="the weights or the engine overflow; try other weights, another target or another provider",
        )
    shifted: Doubles = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def _row_spans(logits: Floats) -> Iterator[tuple[int, int]]:
    """Cut [tokens, vocabulary] so that a float64 copy takes at most FLOAT64_BLOCK_BYTES (or one row)."""
    tokens, vocabulary = logits.shape
    step = max(1, FLOAT64_BLOCK_BYTES // (8 * vocabulary))
    for start in range(0, tokens, step):
        yield start, min(start + step, tokens)
