"""How far one model's next-token distribution is from another's: KL divergence, top-1 agreement, perplexity.

Logits come as float32 blocks [tokens of the block, vocabulary], in the order of the text, so that the logits
of a long text need never be held as a whole. Everything that is summed is computed in float64, a few rows
at a time: KL divergences of 1e-7 nats, which the export error is made of, drown in float32.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgephi.errors import QualityGateError

FLOAT64_BLOCK_BYTES = 4 << 20
"""Size of the largest float64 copy of logits; a few of them exist at a time."""

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class TokenDivergences:
    """How far Q is from P after each token of a text; every field is [tokens].

    kl: KL(P || Q) in nats · same_top: whether both have the same most likely token · surprise_from,
    surprise_to: of the token that follows, in nats under P and under Q; NaN where none follows
    """

    kl: Doubles
    same_top: NDArray[np.bool_]
    surprise_from: Doubles
    surprise_to: Doubles


def token_divergences(
    blocks: Iterable[Sequence[Floats]],
    following: NDArray[np.int64],
    *,
    pairs: Sequence[tuple[int, int]],
) -> list[TokenDivergences]:
    """Several divergences in one pass: each of `pairs` names the places of its P and its Q in a block.

    For a certificate a block holds the logits of (original, quantised, engine), and `pairs` are (1, 2),
    (0, 1) and (0, 2). All logits of a block are [tokens of the block, vocabulary]; together the blocks cover
    every token of the text, and `following`, [tokens], is the id of the token after each, -1 where none is.

    Raises QualityGateError when a logit is NaN or infinite, so that a broken engine cannot pass a gate by
    comparing as "not larger"; ValueError when shapes do not fit each other or the text.
    """
    found: list[list[TokenDivergences]] = [[] for _ in pairs]
    done, tokens = 0, len(following)
    for block in blocks:
        if any(logits.ndim != 2 or logits.shape != block[0].shape for logits in block):
            shapes = ", ".join(str(logits.shape) for logits in block)
            raise ValueError(f"expected logits of one shape [tokens, vocabulary], found {shapes}")
        if done + len(block[0]) > tokens:
            raise ValueError(f"expected logits for {tokens} tokens, found more")
        for start, stop in _row_spans(block[0]):
            rows = [_log_softmax(logits[start:stop], done + start) for logits in block]
            after = following[done + start : done + stop]
            for (p, q), of_pair in zip(pairs, found, strict=True):
                of_pair.append(_of_rows(rows[p], rows[q], after))
        done += len(block[0])
    if done != tokens:
        raise ValueError(f"expected logits for {tokens} tokens, found {done}")
    return [_joined(of_pair) for of_pair in found]


def _of_rows(log_p: Doubles, log_q: Doubles, following: NDArray[np.int64]) -> TokenDivergences:
    """The divergences of rows of log-probabilities, [rows, vocabulary]."""
    # A sum of positive and negative terms may end a hair below zero, where no KL divergence is.
    kl = np.einsum("tv,tv->t", np.exp(log_p), log_p - log_q)  # [rows]
    at, known = np.arange(len(following)), following >= 0

    def surprise(logs: Doubles) -> Doubles:
        return np.where(known, -logs[at, np.maximum(following, 0)], np.nan)

    return TokenDivergences(
        np.maximum(kl, 0.0),
        log_p.argmax(axis=1) == log_q.argmax(axis=1),
        surprise(log_p),
        surprise(log_q),
    )


def _joined(parts: Sequence[TokenDivergences]) -> TokenDivergences:
    return TokenDivergences(
        np.concatenate([part.kl for part in parts]),
        np.concatenate([part.same_top for part in parts]),
        np.concatenate([part.surprise_from for part in parts]),
        np.concatenate([part.surprise_to for part in parts]),
    )


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
