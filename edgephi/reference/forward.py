"""The forward pass of the family in NumPy float32, streamed through memory a block of rows at a time.

It answers what a checkpoint (or its quantised twin) says, so that an engine's answer can be held against it.
The model is never loaded: besides the activations there is one block of weight rows a worker in memory,
whatever the number of layers, the vocabulary or the size of a matrix.

One worker thread a core reads a block and multiplies with it.

It is a prefill of whole texts: no cache, no generation. Weights are [output, input] as in the
checkpoint, activations [tokens, features], everything is float32.

Sources: `Phi3ForCausalLM` and `PhimoeForCausalLM` of transformers, which the tests use as their oracles, and
the published `modeling_phi3_small.py`; RMSNorm (arXiv:1910.07467), LayerNorm (arXiv:1607.06450).
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgephi.checkpoint.architecture import LayerNorm
from edgephi.checkpoint.roles import EMBEDDING, FINAL_NORM, ModelTensor, Role, bias_of
from edgephi.reference.activations import FINAL_NORM_INPUT, FINAL_NORM_OUTPUT, LOGITS, in_layer
from edgephi.reference.layers.attention import Positions, attend, positions_of
from edgephi.reference.layers.feed_forward import feed_forward
from edgephi.reference.layers.projection import project
from edgephi.reference.weights import Weights
from edgephi.reference.workers import one_worker_per_core

REFERENCE = "edgephi NumPy float32"
"""How a certificate names this forward pass."""

LOGITS_BLOCK_TOKENS = 128
"""Tokens whose logits are held at once: 102 MB with Phi-4-mini's 200,064 words, 16 MB with Phi-3's 32,064."""

Floats = NDArray[np.float32]
Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all) after each step."""


@runtime_checkable
class ActivationWeights(Weights, Protocol):
    """Weights that are shown every activation, to measure it, or to round it in place as an engine does.

    Several threads call `activation` at once. `values` is the whole activation or a part of it, of any shape;
    its name is one of `reference.activations`.
    """

    def activation(self, name: str, values: Floats) -> None:
        """Look at `values`, or change them in place."""


@dataclass(frozen=True)
class Begun:
    """A pass that has come as far as a layer: what goes into it, [tokens, hidden] of each version.

    `layer` may be the number of layers: then only the last norm is left.
    """

    layer: int
    hidden: tuple[Floats, ...]


@np.errstate(over="ignore", invalid="ignore")  # the caller looks for what is not finite
def final_hidden_states(
    versions: Sequence[Weights],
    passages: Sequence[Sequence[int]],
    *,
    image_rows: Sequence[Floats] | None = None,
    begun: Begun | None = None,
    progress: Progress | None = None,
) -> list[Floats]:
    """Run token ids through all layers and the last norm: one [tokens, hidden] for each of `versions`.

    `passages` are texts of their own: positions begin at 0 in each, and no token sees one of another
    passage. Their tokens lie one after the other in the result, which is that of a pass for each of them,
    but every matrix is read once and multiplied with all tokens. A token id below 0 is part of an image:
    -1 is the first of `image_rows`, -2 the second; there is a table [rows, hidden] for each version, of what
    its own encoder makes of the images. Memory is the activations of all tokens,
    the largest of which is that of a feed-forward layer, [tokens, intermediate].

    Several versions of one model's weights go side by side, layer by layer, so that what they have in
    common (the checkpoint's rows on disk) is read while the operating system still holds it. A step of
    `progress` is one layer of one version. What has `begun` before goes on there, and changes the arrays
    that it is given. Raises ValueError when the versions differ in their
    architecture, when there is no passage or an empty one, or when a token id is not in the vocabulary.
    """
    architecture = versions[0].architecture
    # Whether embedding and head are one matrix is a version's own affair: an engine may quantise both.
    if len({replace(weights.architecture, tied_embeddings=False) for weights in versions}) != 1:
        raise ValueError("expected weights of one architecture, found several")
    tables = image_rows or [np.empty((0, architecture.hidden_size), np.float32)] * len(versions)
    ids, spans = _joined(passages, architecture.vocabulary_size, images=min(map(len, tables)))
    positions = positions_of(architecture.attention.rotary, spans)
    if begun is None:
        embedded = (_embedded(weights, ids, table) for weights, table in zip(versions, tables, strict=True))
        begun = Begun(0, tuple(embedded))
    hidden = begun.hidden  # each [tokens, hidden]
    steps = architecture.layers * len(versions)
    with one_worker_per_core() as workers:
        for layer in range(begun.layer, architecture.layers):
            for index, weights in enumerate(versions):
                _show(weights, in_layer(layer, "input"), hidden[index])
                _add_layer(weights, layer, hidden[index], positions, workers)
                if progress is not None:
                    progress(layer * len(versions) + index + 1, steps)
    normed = []
    for weights, states in zip(versions, hidden, strict=True):
        _show(weights, FINAL_NORM_INPUT, states)
        normed.append(_norm(weights, FINAL_NORM, states))
        _show(weights, FINAL_NORM_OUTPUT, normed[-1])
    return normed


@np.errstate(over="ignore", invalid="ignore")
def logits(weights: Weights, hidden: Floats) -> Floats:
    """The logits of the next token, [tokens, vocabulary], from final hidden states [tokens, hidden]."""
    architecture = weights.architecture
    with one_worker_per_core() as workers:
        words = project(weights, architecture.head, hidden, workers)
    if architecture.logits_multiplier != 1:
        words *= np.float32(architecture.logits_multiplier)
    _show(weights, LOGITS, words)
    words[:, list(architecture.unused_token_ids)] = np.finfo(np.float32).min
    return words


def logits_blocks(
    weights: Weights, hidden: Floats, *, tokens_per_block: int = LOGITS_BLOCK_TOKENS
) -> Iterator[Floats]:
    """The same logits in blocks [tokens_per_block, vocabulary] (the last one may be shorter).

    The head is read once for each block; that is the price of not holding tokens x vocabulary numbers.
    """
    for start in range(0, len(hidden), tokens_per_block):
        yield logits(weights, hidden[start : start + tokens_per_block])


def _joined(
    passages: Sequence[Sequence[int]], vocabulary: int, *, images: int
) -> tuple[NDArray[np.int64], list[slice]]:
    """The token ids of all passages, [tokens], and where in them each passage lies."""
    parts = [np.asarray(passage, dtype=np.int64) for passage in passages]
    if not parts or any(
        part.ndim != 1 or not part.size or part.min() < -images or part.max() >= vocabulary for part in parts
    ):
        raise ValueError(f"expected passages of token ids from {-images} to {vocabulary - 1}")
    edges = np.cumsum([0, *map(len, parts)]).tolist()
    return np.concatenate(parts), [slice(start, stop) for start, stop in pairwise(edges)]


def _embedded(weights: Weights, ids: NDArray[np.int64], image_rows: Floats) -> Floats:
    """What goes into the first layer, [tokens, hidden]: embeddings, or in their place parts of images."""
    seen = ids < 0
    rows = _embedding_rows(weights, np.where(seen, ids[~seen][0] if not seen.all() else 0, ids))
    rows[seen] = image_rows[-1 - ids[seen]]
    return rows


def _embedding_rows(weights: Weights, ids: NDArray[np.int64]) -> Floats:
    """Look up the embedding of each token, [tokens, hidden], reading only the rows that occur."""
    distinct, inverse = np.unique(ids, return_inverse=True)
    # Neighbouring ids are read in one go: a run ends where the next id is not the one after.
    edges = [0, *(np.flatnonzero(np.diff(distinct) != 1) + 1).tolist(), len(distinct)]
    table = np.empty((len(distinct), weights.architecture.hidden_size), np.float32)
    for first, last in pairwise(edges):
        table[first:last] = weights.rows(EMBEDDING, int(distinct[first]), int(distinct[last - 1]) + 1)
    if weights.architecture.embedding_multiplier != 1:
        table *= np.float32(weights.architecture.embedding_multiplier)
    return table[inverse]


def _show(weights: Weights, name: str, values: Floats) -> None:
    if isinstance(weights, ActivationWeights):
        weights.activation(name, values)


def _add_layer(
    weights: Weights,
    layer: int,
    hidden: Floats,
    positions: Positions,
    workers: Executor,
) -> None:
    """Add one decoder layer to the residual stream `hidden`, [tokens, hidden], in place."""

    def show(part: str, values: Floats) -> None:
        _show(weights, in_layer(layer, part), values)

    normed = _norm(weights, ModelTensor(Role.ATTENTION_NORM, layer), hidden)
    show("self_attn.input", normed)
    qkv = project(weights, ModelTensor(Role.QUERY_KEY_VALUE, layer), normed, workers)  # [tokens, qkv rows]
    del normed
    shape = weights.architecture.attention
    heads = attend(  # [tokens, heads * head size]
        shape,
        positions,
        qkv,
        workers,
        lambda part, values: show(f"self_attn.{part}", values),
        sparsity=shape.sparsity_of(layer),
    )
    del qkv
    attended = project(weights, ModelTensor(Role.ATTENTION_OUTPUT, layer), heads, workers)
    show("self_attn.output", attended)
    hidden += attended
    show("attended", hidden)
    del heads, attended
    normed = _norm(weights, ModelTensor(Role.FEED_FORWARD_NORM, layer), hidden)
    show("mlp.input", normed)
    fed = feed_forward(
        weights, layer, normed, workers, lambda part, values: show(f"mlp.{part}", values)
    )  # [tokens, hidden]
    show("mlp.output", fed)
    hidden += fed


def _norm(weights: Weights, tensor: ModelTensor, x: Floats) -> Floats:
    """The architecture's norm over the last axis: [tokens, hidden] -> [tokens, hidden]."""
    norm = weights.architecture.norm
    scale = weights.rows(tensor, 0, x.shape[-1])  # [hidden]
    if isinstance(norm, LayerNorm):
        x = x - x.mean(axis=-1, keepdims=True, dtype=np.float64).astype(np.float32)
    mean_square = np.einsum("th,th->t", x, x, dtype=np.float64) / x.shape[-1]  # [tokens]
    shrink = 1 / np.sqrt(mean_square + norm.epsilon)  # [tokens]
    normed: Floats = x * shrink.astype(np.float32)[:, None]
    normed *= scale
    if isinstance(norm, LayerNorm):
        normed += weights.rows(bias_of(tensor), 0, x.shape[-1])
    return normed
