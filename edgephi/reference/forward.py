"""The forward pass of `Phi3ForCausalLM` in NumPy float32, streamed through memory a block of rows at a time.

It answers what a checkpoint (or its quantised twin) says, so that an engine's answer can be held against it.
The model is never loaded: besides the activations there is one block of weight rows a worker in memory,
whatever the number of layers, the vocabulary or the size of a matrix.

One worker thread a core reads a block and multiplies with it, while BLAS is held to a single thread. That is
as fast as BLAS with threads of its own on an idle machine, hides the reading and dequantising, and keeps its
speed on a busy one: OpenBLAS's threads wait for each other spinning, and lose a factor of 5 to 15 as soon as
another process wants one of their cores.

It is a prefill of the whole sequence: no cache, no generation. Weights are [output, input] as in the
checkpoint, activations [tokens, features], everything is float32.

Sources: `Phi3ForCausalLM` of transformers, which the tests use as their oracle; RMSNorm (arXiv:1910.07467),
RoPE (arXiv:2104.09864), LongRoPE (arXiv:2402.13753), GQA (arXiv:2305.13245), SwiGLU (arXiv:2002.05202).
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.roles import EMBEDDING, FINAL_NORM, ModelTensor, Role
from edgephi.checkpoint.rotary import RotaryEmbedding
from edgephi.reference.activations import FINAL_NORM_INPUT, FINAL_NORM_OUTPUT, LOGITS, in_layer

REFERENCE = "edgephi NumPy float32"
"""How a certificate names this forward pass."""

WEIGHT_BLOCK_BYTES = 4 << 20
"""Size of a worker's block of float32 weight rows. 2 and 4 MiB are equally fast, 16 MiB is slower."""

SCORE_BLOCK_BYTES = 8 << 20
"""Size of a worker's block of float32 attention scores; larger ones only fall out of the CPU's cache."""

LOGITS_BLOCK_TOKENS = 128
"""Tokens whose logits are held at once: 102 MB with Phi-4-mini's 200,064 words, 16 MB with Phi-3's 32,064."""

Floats = NDArray[np.float32]
Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all) after each step."""

Rotation = tuple[Floats, Floats]
"""Cosines and sines, each [tokens, 1, rotary size / 2], already multiplied by LongRoPE's magnitude."""

Item = TypeVar("Item")


class Weights(Protocol):
    """One version of a model's weights: those of the checkpoint, or what a quantiser made of them.

    `rows` returns rows start:stop of one of `Architecture.tensor_shapes` in float32: [stop - start, columns]
    of a matrix, [stop - start] of a vector. Several threads call it at once.
    """

    @property
    def architecture(self) -> Architecture:
        """The shape of the model."""

    def rows(self, tensor: ModelTensor, start: int, stop: int) -> Floats:
        """Rows start:stop of a tensor."""


@runtime_checkable
class ActivationWeights(Weights, Protocol):
    """Weights that are shown every activation, to measure it, or to round it in place as an engine does.

    Several threads call `activation` at once. `values` is the whole activation or a part of it, of any shape;
    its name is one of `reference.activations`.
    """

    def activation(self, name: str, values: Floats) -> None:
        """Look at `values`, or change them in place."""


def final_hidden_states(
    versions: Sequence[Weights], token_ids: Sequence[int], *, progress: Progress | None = None
) -> list[Floats]:
    """Run `token_ids` through all layers and the last norm: one [tokens, hidden] for each of `versions`.

    Several versions of one model's weights go side by side, layer by layer, so that what they have in
    common (the checkpoint's rows on disk) is read while the operating system still holds it. A step of
    `progress` is one layer of one version. Raises ValueError when the versions differ in their
    architecture, or a token id is not in the vocabulary.
    """
    architecture = versions[0].architecture
    # Whether embedding and head are one matrix is a version's own affair: an engine may quantise both.
    if len({replace(weights.architecture, tied_embeddings=False) for weights in versions}) != 1:
        raise ValueError("expected weights of one architecture, found several")
    ids = np.asarray(token_ids, dtype=np.int64)  # [tokens]
    if ids.ndim != 1 or not ids.size or ids.min() < 0 or ids.max() >= architecture.vocabulary_size:
        raise ValueError(f"expected a list of token ids from 0 to {architecture.vocabulary_size - 1}")

    rotation = _rotation(architecture.attention.rotary, len(ids))
    hidden = [_embedding_rows(weights, ids) for weights in versions]  # each [tokens, hidden]
    steps = architecture.layers * len(versions)
    with _one_worker_per_core() as workers:
        for layer in range(architecture.layers):
            for index, weights in enumerate(versions):
                _show(weights, in_layer(layer, "input"), hidden[index])
                _add_layer(weights, layer, hidden[index], rotation, workers)
                if progress is not None:
                    progress(layer * len(versions) + index + 1, steps)
    normed = []
    for weights, states in zip(versions, hidden, strict=True):
        _show(weights, FINAL_NORM_INPUT, states)
        normed.append(_rms_norm(weights, FINAL_NORM, states))
        _show(weights, FINAL_NORM_OUTPUT, normed[-1])
    return normed


def logits(weights: Weights, hidden: Floats) -> Floats:
    """The logits of the next token, [tokens, vocabulary], from final hidden states [tokens, hidden]."""
    with _one_worker_per_core() as workers:
        words = _project(weights, weights.architecture.head, hidden, workers)
    _show(weights, LOGITS, words)
    return words


def logits_blocks(
    weights: Weights, hidden: Floats, *, tokens_per_block: int = LOGITS_BLOCK_TOKENS
) -> Iterator[Floats]:
    """The same logits in blocks [tokens_per_block, vocabulary] (the last one may be shorter).

    The head is read once for each block; that is the price of not holding tokens x vocabulary numbers.
    """
    for start in range(0, len(hidden), tokens_per_block):
        yield logits(weights, hidden[start : start + tokens_per_block])


def _embedding_rows(weights: Weights, ids: NDArray[np.int64]) -> Floats:
    """Look up the embedding of each token, [tokens, hidden], reading only the rows that occur."""
    distinct, inverse = np.unique(ids, return_inverse=True)
    # Neighbouring ids are read in one go: a run ends where the next id is not the one after.
    edges = [0, *(np.flatnonzero(np.diff(distinct) != 1) + 1).tolist(), len(distinct)]
    table = np.empty((len(distinct), weights.architecture.hidden_size), np.float32)
    for first, last in pairwise(edges):
        table[first:last] = weights.rows(EMBEDDING, int(distinct[first]), int(distinct[last - 1]) + 1)
    return table[inverse]


def _rotation(rotary: RotaryEmbedding, tokens: int) -> Rotation:
    """Cosines and sines for positions 0 .. tokens - 1; angles are float64, for they reach 10^5 radians."""
    frequencies = np.array(rotary.inverse_frequencies(long=rotary.uses_long_factors(tokens)))
    angles = np.arange(tokens)[:, None, None] * frequencies  # [tokens, 1, rotary size / 2]
    return (
        (np.cos(angles) * rotary.magnitude).astype(np.float32),
        (np.sin(angles) * rotary.magnitude).astype(np.float32),
    )


@contextmanager
def _one_worker_per_core() -> Iterator[Executor]:
    """Threads to share the work among, with BLAS held to the thread that calls it."""
    # Only the cores that this process may use: a container or `taskset` may have fewer than the machine.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with threadpool_limits(limits=1, user_api="blas"), ThreadPoolExecutor(cores) as workers:
        yield workers


def _show(weights: Weights, name: str, values: Floats) -> None:
    if isinstance(weights, ActivationWeights):
        weights.activation(name, values)


def _add_layer(weights: Weights, layer: int, hidden: Floats, rotation: Rotation, workers: Executor) -> None:
    """Add one decoder layer to the residual stream `hidden`, [tokens, hidden], in place."""

    def show(part: str, values: Floats) -> None:
        _show(weights, in_layer(layer, part), values)

    normed = _rms_norm(weights, ModelTensor(Role.ATTENTION_NORM, layer), hidden)
    show("self_attn.input", normed)
    qkv = _project(weights, ModelTensor(Role.QUERY_KEY_VALUE, layer), normed, workers)  # [tokens, qkv rows]
    heads = _attention(weights, layer, qkv, rotation, workers)  # [tokens, heads * head size]
    del qkv
    attended = _project(weights, ModelTensor(Role.ATTENTION_OUTPUT, layer), heads, workers)
    show("self_attn.output", attended)
    hidden += attended
    show("attended", hidden)
    del heads, attended
    normed = _rms_norm(weights, ModelTensor(Role.FEED_FORWARD_NORM, layer), hidden)
    show("mlp.input", normed)
    gated = _gated_projection(weights, layer, normed, workers)
    fed = _project(weights, ModelTensor(Role.DOWN, layer), gated, workers)
    show("mlp.output", fed)
    hidden += fed


def _rms_norm(weights: Weights, tensor: ModelTensor, x: Floats) -> Floats:
    """Divide by the root mean square of the last axis, then scale: [tokens, hidden] -> [tokens, hidden]."""
    scale = weights.rows(tensor, 0, x.shape[-1])  # [hidden]
    mean_square = np.einsum("th,th->t", x, x, dtype=np.float64) / x.shape[-1]  # [tokens]
    shrink = 1 / np.sqrt(mean_square + weights.architecture.norm.epsilon)  # [tokens]
    normed: Floats = x * shrink.astype(np.float32)[:, None]
    normed *= scale
    return normed


def _project(weights: Weights, tensor: ModelTensor, x: Floats, workers: Executor) -> Floats:
    """Multiply with a whole matrix: [tokens, columns] -> x @ matrix.T [tokens, rows]."""
    rows, columns = weights.architecture.tensor_shapes()[tensor]
    y = np.empty((len(x), rows), np.float32)

    def fill(span: tuple[int, int]) -> None:
        start, stop = span
        np.matmul(x, weights.rows(tensor, start, stop).T, out=y[:, start:stop])

    _share(workers, fill, _row_spans(rows, columns))
    return y


def _gated_projection(weights: Weights, layer: int, x: Floats, workers: Executor) -> Floats:
    """SwiGLU: silu(x @ gate.T) * (x @ up.T), [tokens, hidden] -> [tokens, intermediate].

    The matrix holds all gate rows, then all up rows; a worker takes the same rows of both, so that the
    product with the whole matrix is never held.
    """
    tensor = ModelTensor(Role.GATE_UP, layer)
    rows, columns = weights.architecture.tensor_shapes()[tensor]
    half = rows // 2
    y = np.empty((len(x), half), np.float32)

    def show(part: str, values: Floats) -> None:
        _show(weights, in_layer(layer, f"mlp.{part}"), values)

    def fill(span: tuple[int, int]) -> None:
        start, stop = span
        gate = x @ weights.rows(tensor, start, stop).T  # [tokens, block]
        show("gate", gate)
        with np.errstate(over="ignore"):  # exp overflows for a very negative gate, whose silu is 0
            gate /= 1 + np.exp(-gate)
        show("activated", gate)
        up = x @ weights.rows(tensor, half + start, half + stop).T
        show("up", up)
        np.multiply(gate, up, out=y[:, start:stop])

    _share(workers, fill, _row_spans(half, columns))
    show("gated", y)
    return y


def _row_spans(rows: int, columns: int) -> list[tuple[int, int]]:
    """Cut a matrix of float32 [rows, columns] into blocks of at most WEIGHT_BLOCK_BYTES (or one row)."""
    step = max(1, WEIGHT_BLOCK_BYTES // (4 * columns))
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]


def _share(workers: Executor, work: Callable[[Item], None], items: Sequence[Item]) -> None:
    """Do `work` on every item and wait; the first error stops what has not begun and is raised here."""
    for _ in workers.map(work, items):
        pass


def _attention(weights: Weights, layer: int, qkv: Floats, rotation: Rotation, workers: Executor) -> Floats:
    """Causal grouped-query attention: fused [tokens, qkv rows] -> [tokens, heads * head size].

    A worker takes one key head with the query heads that share it, and goes through the queries in blocks
    whose scores fit in SCORE_BLOCK_BYTES. Rotates the queries and keys inside `qkv`.
    """
    shape = weights.architecture.attention
    tokens = len(qkv)
    size, kv_heads, window = shape.head_size, shape.kv_heads, shape.window
    group = shape.heads // kv_heads  # query heads that share one key head
    fused = qkv.reshape(tokens, -1, size)  # a view: q heads, k heads, v heads
    queries = fused[:, : shape.heads].reshape(tokens, kv_heads, group, size)
    keys, values = np.split(fused[:, shape.heads :], 2, axis=1)  # views, [tokens, kv heads, size]
    mixed = np.empty((tokens, kv_heads, group, size), np.float32)
    step = max(1, SCORE_BLOCK_BYTES // (4 * group * tokens))

    def show(part: str, shown: Floats) -> None:
        _show(weights, in_layer(layer, f"self_attn.{part}"), shown)

    show("query", queries)
    show("key", keys)
    show("value", values)

    def attend(head: int) -> None:
        _rotate(queries[:, head], rotation)
        _rotate(keys[:, head, None], rotation)
        queries[:, head] *= np.float32(size**-0.5)
        show("rotated_query", queries[:, head])
        show("rotated_key", keys[:, head])
        for start in range(0, tokens, step):
            stop = min(start + step, tokens)
            # The first query of the block sees the farthest back, the last one the farthest forward.
            oldest = 0 if window is None else max(0, start + 1 - window)
            query = queries[start:stop, head].reshape(-1, size)  # [queries * group, size]
            scores = query @ keys[oldest:stop, head].T  # [queries * group, keys]
            show("scores", scores)
            by_query = scores.reshape(stop - start, group, -1)  # a view: [queries, group, keys]
            unseen = _unseen(start, stop, oldest, window)  # [queries, keys]
            np.copyto(by_query, -np.inf, where=unseen[:, None, :])
            _softmax_in_place(scores)
            show("probabilities", scores)
            answer = scores @ values[oldest:stop, head]  # [queries * group, size]
            mixed[start:stop, head] = answer.reshape(stop - start, group, size)

    _share(workers, attend, range(kv_heads))
    show("mixed", mixed)
    return mixed.reshape(tokens, -1)


def _rotate(heads: Floats, rotation: Rotation) -> None:
    """Apply RoPE to [tokens, heads, head size] in place.

    Dimension i of the first half of the rotated ones is paired with dimension i of the second half; the
    dimensions past the rotated ones (partial RoPE) stay as they are.
    """
    cos, sin = rotation  # each [tokens, 1, half]
    half = cos.shape[-1]
    first, second = heads[..., :half], heads[..., half : 2 * half]  # views, [tokens, heads, half]
    turned = first * cos - second * sin
    second *= cos
    second += first * sin
    first[...] = turned


def _unseen(start: int, stop: int, oldest: int, window: int | None) -> NDArray[np.bool_]:
    """Which keys oldest:stop the queries start:stop do not see, [queries, keys].

    A query sees itself and the keys before it; with a sliding window, `window` of them in all.
    """
    query = np.arange(start, stop)[:, None]
    key = np.arange(oldest, stop)[None, :]
    later = key > query
    return later if window is None else later | (key <= query - window)


def _softmax_in_place(scores: Floats) -> None:
    """Softmax over the last axis. Every row has a finite score, because a token always sees itself."""
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
