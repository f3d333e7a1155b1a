"""Original weights, quantised weights and the engine after each token of a text, held side by side."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgephi.reference.comparison.counted_text import CountedText
from edgephi.reference.comparison.divergence import TokenDivergences, token_divergences
from edgephi.reference.forward import LOGITS_BLOCK_TOKENS, final_hidden_states, logits_blocks
from edgephi.reference.weights import Weights
from edgephi.steps import Step

LOGIT_BYTES = 4
ENGINE, ORIGINAL, QUANTISED, ROUNDED = "engine", "original", "quantised", "rounded"
"""The versions of a model; the engine's is what it computes with the quantised weights."""


def divergences(
    passages: Sequence[Sequence[int]],
    text: CountedText,
    versions: Mapping[str, Weights],
    engine_logits: Path,
    step: Step,
    *,
    name: str = "verify: reference",
    image_rows: Mapping[str, NDArray[np.float32]] | None = None,
) -> dict[tuple[str, str], TokenDivergences]:
    """How far each version is from the original one, and the engine from both, after each counted token.

    The engine's logits for these tokens stand in a file, float32 [counted tokens, vocabulary]. `image_rows`
    are what each version's encoder makes of the images in the passages. It is a step of that `name`.
    """
    architecture = versions[ORIGINAL].architecture
    # A block's logits take the head, which is about as much work as a layer.
    block_count = -(-len(text.rows) // LOGITS_BLOCK_TOKENS)
    with step(name, len(versions) * (architecture.layers + block_count)) as done:
        hidden = final_hidden_states(
            list(versions.values()),
            passages,
            image_rows=None if image_rows is None else [image_rows[each] for each in versions],
            progress=lambda *_: done(1),
        )
        blocks = {
            name: _counted(logits_blocks(weights, states[text.rows]), done)
            for (name, weights), states in zip(versions.items(), hidden, strict=True)
        }
        blocks[ENGINE] = _read_blocks(engine_logits, len(text.rows), architecture.vocabulary_size)
        pairs = [(ORIGINAL, name) for name in blocks if name != ORIGINAL]
        if QUANTISED in blocks:
            pairs.append((QUANTISED, ENGINE))
        place = {name: number for number, name in enumerate(blocks)}
        found = token_divergences(
            zip(*blocks.values(), strict=True),
            text.following,
            pairs=[(place[first], place[second]) for first, second in pairs],
        )
    return dict(zip(pairs, found, strict=True))


def _counted(
    blocks: Iterator[NDArray[np.float32]], done: Callable[[int], None]
) -> Iterator[NDArray[np.float32]]:
    """The same blocks; `done` is told of each."""
    for block in blocks:
        done(1)
        yield block


def _read_blocks(file: Path, tokens: int, vocabulary: int) -> Iterator[NDArray[np.float32]]:
    """Logits from a file, float32 [tokens, vocabulary], in the reference's blocks."""
    with file.open("rb") as data:
        for start in range(0, tokens, LOGITS_BLOCK_TOKENS):
            size = min(LOGITS_BLOCK_TOKENS, tokens - start)
            yield np.fromfile(data, np.float32, size * vocabulary).reshape(size, vocabulary)
