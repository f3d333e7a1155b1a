"""What an image becomes before the decoder reads it, in NumPy float32: a CLIP encoder and its projection.

As in `edgephi.reference.forward` the weights are never loaded: a block of rows a worker is in memory, and
every matrix is read once for all tiles.

Sources: `modeling_clip.py` of transformers, which the tests use as oracle, and the published
`modeling_phi3_v.py`. Their GELU is the exact one in the projection, and x * sigmoid(1.702 x) in the layers.
"""

import math
from collections.abc import Callable
from concurrent.futures import Executor

import numpy as np
from numpy.typing import NDArray

from edgephi.bundle.image_tokens import row_order
from edgephi.checkpoint.roles import ModelTensor, Role, bias_of
from edgephi.reference.layers.projection import project
from edgephi.reference.weights import ImageWeights
from edgephi.reference.workers import one_worker_per_core, share

Floats = NDArray[np.float32]

_QUICK_GELU = np.float32(1.702)


def image_tokens(
    weights: ImageWeights,
    pixels: Floats,
    grid: tuple[int, int],
    *,
    done: Callable[[int], None] = lambda _: None,
) -> Floats:
    """The tokens of an image, [tokens, hidden of the decoder], as they stand in the place of embeddings.

    `pixels` are its tiles [1 + rows * columns, 3, tile, tile], the thumbnail first, normalised. `done` is
    told of each layer.
    """
    tokens = encoded_tiles(weights, pixels, done=done)  # [tiles, side * side, hidden of the decoder]
    rows = np.concatenate([separators(weights), tokens.reshape(-1, tokens.shape[-1])])
    ordered: Floats = rows[row_order(grid, weights.architecture.facts)]
    return ordered


def encoded_tiles(
    weights: ImageWeights, pixels: Floats, *, done: Callable[[int], None] = lambda _: None
) -> Floats:
    """Tiles [tiles, 3, tile, tile] as tokens for the decoder, [tiles, side * side, hidden of the decoder]."""
    encoder = weights.architecture
    with one_worker_per_core() as workers:
        states = _embedded(weights, pixels)  # [tiles, 1 + patches, hidden]
        for layer in range(encoder.layers):
            _add_layer(weights, layer, states, workers)
            done(1)
        merged = _merged(states[:, 1:], encoder.facts.side)  # [tiles, side * side, 4 * hidden]
        projected = _projected(weights, merged.reshape(-1, encoder.merged_size), workers)
    return projected.reshape(len(pixels), -1, encoder.projected_size)


def separators(weights: ImageWeights) -> Floats:
    """The end of a line and the separator, projected: [2, hidden of the decoder]."""
    rows = [weights.rows(ModelTensor(role), 0, 1) for role in (Role.IMAGE_LINE_END, Role.IMAGE_SEPARATOR)]
    with one_worker_per_core() as workers:
        return _projected(weights, np.concatenate(rows).reshape(2, -1), workers)


def _embedded(weights: ImageWeights, pixels: Floats) -> Floats:
    """Patches behind a class token, with their positions and the first norm: [tiles, 1 + patches, hidden]."""
    encoder = weights.architecture
    across, patch = encoder.tile // encoder.patch, encoder.patch
    cut = pixels.reshape(-1, 3, across, patch, across, patch).transpose(0, 2, 4, 1, 3, 5)
    cut = cut.reshape(len(pixels), encoder.patches, -1)  # [tiles, patches, 3 * patch * patch]
    kernel = weights.rows(ModelTensor(Role.IMAGE_PATCHES), 0, encoder.hidden_size * 3 * patch)
    states = np.empty((len(pixels), encoder.patches + 1, encoder.hidden_size), np.float32)
    states[:, 0] = weights.rows(ModelTensor(Role.IMAGE_CLASS), 0, encoder.hidden_size)
    np.matmul(cut, kernel.reshape(encoder.hidden_size, -1).T, out=states[:, 1:])
    states += weights.rows(ModelTensor(Role.IMAGE_POSITIONS), 0, encoder.patches + 1)
    return _normed(weights, ModelTensor(Role.IMAGE_FIRST_NORM), states)


def _add_layer(weights: ImageWeights, layer: int, states: Floats, workers: Executor) -> None:
    """Add one layer to the residual stream [tiles, tokens, hidden], in place."""
    encoder = weights.architecture
    tiles, tokens, hidden = states.shape

    def multiplied(role: Role, x: Floats) -> Floats:
        product = project(weights, ModelTensor(role, layer), x.reshape(-1, x.shape[-1]), workers)
        return product.reshape(tiles, tokens, -1)

    qkv = multiplied(
        Role.IMAGE_QUERY_KEY_VALUE, _normed(weights, ModelTensor(Role.IMAGE_ATTENTION_NORM, layer), states)
    )
    size = hidden // encoder.heads
    query, key, value = qkv.reshape(tiles, tokens, 3, encoder.heads, size).transpose(2, 0, 3, 1, 4)
    mixed = np.empty((tiles, tokens, encoder.heads, size), np.float32)

    def attend(place: tuple[int, int]) -> None:
        tile, head = place
        scores = query[tile, head] @ key[tile, head].T  # [tokens, tokens]
        scores *= np.float32(size**-0.5)
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        mixed[tile, :, head] = scores @ value[tile, head]

    share(workers, attend, [(tile, head) for tile in range(tiles) for head in range(encoder.heads)])
    states += multiplied(Role.IMAGE_ATTENTION_OUTPUT, mixed.reshape(tiles, tokens, hidden))
    normed = _normed(weights, ModelTensor(Role.IMAGE_FEED_FORWARD_NORM, layer), states)
    wide = multiplied(Role.IMAGE_UP, normed)
    wide /= 1 + np.exp(-_QUICK_GELU * wide)
    states += multiplied(Role.IMAGE_DOWN, wide)


def _merged(patches: Floats, side: int) -> Floats:
    """Two by two patches side by side in one vector: [tiles, patches, h] -> [tiles, side * side, 4 * h]."""
    tiles, _, hidden = patches.shape
    squares = patches.reshape(tiles, side, 2, side, 2, hidden).transpose(0, 1, 3, 2, 4, 5)
    return squares.reshape(tiles, side * side, 4 * hidden)


def _projected(weights: ImageWeights, rows: Floats, workers: Executor) -> Floats:
    """Rows [tokens, 4 * hidden] as the decoder reads them, [tokens, hidden of the decoder]."""
    wide = project(weights, ModelTensor(Role.IMAGE_PROJECTION_UP), rows, workers)
    wide *= 0.5 * (1 + _error_function(wide * np.float32(math.sqrt(0.5))))
    return project(weights, ModelTensor(Role.IMAGE_PROJECTION_DOWN), wide, workers)


_error_function = np.vectorize(math.erf, otypes=[np.float32])


def _normed(weights: ImageWeights, tensor: ModelTensor, states: Floats) -> Floats:
    """Layer norm over the last axis."""
    size = states.shape[-1]
    centred = states - states.mean(axis=-1, keepdims=True, dtype=np.float64).astype(np.float32)
    variance = np.einsum("abh,abh->ab", centred, centred, dtype=np.float64) / size
    shrink = 1 / np.sqrt(variance + weights.architecture.epsilon)
    normed: Floats = centred * shrink.astype(np.float32)[..., None]
    normed *= weights.rows(tensor, 0, size)
    normed += weights.rows(bias_of(tensor), 0, size)
    return normed
