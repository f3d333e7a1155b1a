"""The decoder of a QNN artifact: graphs of fixed shapes, and in NumPy what runs around them.

The graphs see C slots of the cache beside N tokens of a call (`context` and `chunk` in `qnn.json`; N is 1 in
the graphs for one token). Embedding rows, angles and the mask are their inputs, and the keys and values of
the new tokens their outputs, which are written into the cache here. To drop tokens is to mask their slots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgephi.bundle.artifact.qnn_artifact import GraphFiles, Head, QnnArtifact
from edgephi.commands import edgephi_command
from edgephi.errors import BadBundleError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SEES = np.uint16(65535)
_HINT = f"build the bundle again, or copy it again and check it with `{edgephi_command('verify')}`"


@dataclass(frozen=True)
class _Step:
    """The graph of a part: its session, and the layers whose keys and values it takes and gives."""

    session: Any
    layers: range


class QnnDecoder:
    """All graphs of an artifact, opened. Raises what onnxruntime raises, and BadBundleError."""

    def __init__(
        self, folder: Path, artifact: QnnArtifact, open_graph: Callable[[GraphFiles | Head], Any]
    ) -> None:
        self.artifact = artifact
        self._embedding = _Embedding(folder, artifact)
        self._rope = _read(folder / artifact.rope.file, np.dtype(np.uint16), 0, self._rope_shape)
        self._chunk = self._open(open_graph, "prefill", artifact.chunk)
        self._single = self._open(open_graph, "decode", 1)
        self._head = open_graph(artifact.head)
        _check_shapes(
            artifact.head.wrapper,
            self._head.get_inputs() + self._head.get_outputs(),
            {"hidden": (1, 1, 1, artifact.hidden), "logits": (1, artifact.vocabulary, 1, 1)},
        )

    @property
    def layers(self) -> int:
        """How many layers there are."""
        return self.artifact.parts[-1].layers[1]

    def compute(self, cache: Slots, tokens: Sequence[int], past: int) -> NDArray[np.float32]:
        """Compute `tokens`, at most a chunk of them, after the first `past` of the cache.

        Returns what the last layer makes of them, float32 [tokens, hidden].
        """
        count = len(tokens)
        size = 1 if count == 1 else self.artifact.chunk
        hidden = np.zeros((1, 1, size, self.artifact.hidden), np.float32)
        hidden[0, 0, :count] = self._embedding.rows(tokens)
        cos, sin = self._rope[:, self._positions(past, size), :]  # [size, rotary / 2] each
        common = {"cos": cos[None, None], "sin": sin[None, None], "mask": self._mask(past, size)}
        for step in self._single if size == 1 else self._chunk:
            hidden = self._run(step, {"hidden": hidden, **common}, cache, past, count)
        return hidden[0, 0, :count]

    def logits(self, hidden: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits after one position, [vocabulary], of what `compute` gave for it, [hidden]."""
        (raw,) = self._head.run(["logits"], {"hidden": hidden.reshape(1, 1, 1, -1)})
        encoding = self.artifact.logits
        shifted = raw.reshape(-1).astype(np.float32) - np.float32(encoding.zero_point)
        logits: NDArray[np.float32] = shifted * np.float32(encoding.scale)
        return logits

    def _run(
        self, step: _Step, feed: dict[str, NDArray[Any]], cache: Slots, past: int, count: int
    ) -> NDArray[np.float32]:
        """Run one part; its keys and values of the first `count` tokens go into the cache."""
        names = ["hidden_out"]
        for layer in step.layers:
            feed[f"past_key_{layer}"] = cache.keys[layer]
            feed[f"past_value_{layer}"] = cache.values[layer]
            names += [f"new_key_{layer}", f"new_value_{layer}"]
        hidden, *new = step.session.run(names, feed)
        for layer, key, value in zip(step.layers, new[::2], new[1::2], strict=True):
            cache.keys[layer][..., past : past + count] = key[..., :count]
            cache.values[layer][:, :, past : past + count] = value[:, :, :count]
        found: NDArray[np.float32] = hidden
        return found

    def _positions(self, past: int, size: int) -> NDArray[np.int64]:
        """Positions of a call's tokens, [size]; those that pad it past the end get the last one."""
        return np.minimum(np.arange(past, past + size), self.artifact.context - 1)

    def _mask(self, past: int, size: int) -> NDArray[np.uint16]:
        """Who sees whom, uint16 [1, 1, size, slots + size]: first the slots, then the tokens of this call."""
        slots = self.artifact.context
        window = self.artifact.sliding_window or slots + size
        query = past + np.arange(size)[:, None]  # positions, [size, 1]
        slot = np.arange(slots)[None]
        own = past + np.arange(size)[None]
        seen = np.concatenate(
            [
                (slot < past) & (slot > query - window),
                (own <= query) & (own > query - window),
            ],
            axis=1,
        )
        return np.where(seen, _SEES, np.uint16(0))[None, None]

    @property
    def _rope_shape(self) -> tuple[int, ...]:
        return 2, self.artifact.context, self.artifact.rope.rotary // 2

    def _open(self, open_graph: Callable[[GraphFiles | Head], Any], kind: str, size: int) -> list[_Step]:
        """The graphs of one kind, each checked against the shapes that `qnn.json` leads to."""
        artifact = self.artifact
        heads, head_size, slots = artifact.kv_heads, artifact.head_size, artifact.context
        steps = []
        for part in artifact.parts:
            graph = part.prefill if kind == "prefill" else part.decode
            session = open_graph(graph)
            layers = range(*part.layers)
            shapes: dict[str, tuple[int, ...]] = {
                "hidden": (1, 1, size, artifact.hidden),
                "cos": (1, 1, size, artifact.rope.rotary // 2),
                "sin": (1, 1, size, artifact.rope.rotary // 2),
                "mask": (1, 1, size, slots + size),
                "hidden_out": (1, 1, size, artifact.hidden),
            }
            for layer in layers:
                shapes[f"past_key_{layer}"] = (1, heads, head_size, slots)
                shapes[f"past_value_{layer}"] = (1, heads, slots, head_size)
                shapes[f"new_key_{layer}"] = (1, heads, head_size, size)
                shapes[f"new_value_{layer}"] = (1, heads, size, head_size)
            _check_shapes(graph.wrapper, session.get_inputs() + session.get_outputs(), shapes)
            steps.append(_Step(session, layers))
        return steps


class Slots:
    """The cache of one sequence: a layer's keys [1, kv_heads, head_size, C] and values [.., C, head_size].

    Memory is taken as slots are written, a few pages at a time.
    """

    def __init__(self, artifact: QnnArtifact, layers: int) -> None:
        kind = np.dtype(artifact.cache_type)
        heads, size, slots = artifact.kv_heads, artifact.head_size, artifact.context
        self.keys = [np.zeros((1, heads, size, slots), kind) for _ in range(layers)]
        self.values = [np.zeros((1, heads, slots, size), kind) for _ in range(layers)]

    def copy_from(self, other: Slots, count: int) -> None:
        """Take the first `count` slots of another cache."""
        for own, theirs in zip(self.keys, other.keys, strict=True):
            own[..., :count] = theirs[..., :count]
        for own, theirs in zip(self.values, other.values, strict=True):
            own[:, :, :count] = theirs[:, :, :count]


class _Embedding:
    """Rows of the embedding, read from its file as tokens come."""

    def __init__(self, folder: Path, artifact: QnnArtifact) -> None:
        described = artifact.embedding
        self._bits = described.bits
        self._vocabulary = artifact.vocabulary
        file = folder / described.file
        self._codes = _read(
            file,
            np.dtype(np.uint8),
            described.codes_offset,
            (artifact.vocabulary, artifact.hidden * described.bits // 8),
        )
        self._scales = _read(
            file,
            np.dtype(np.float16),
            described.scales_offset,
            (artifact.vocabulary, artifact.hidden // described.group_size),
        )

    def rows(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Float32 [tokens, hidden]: (code - middle) * the scale of its group."""
        wrong = [token for token in tokens if not 0 <= token < self._vocabulary]
        if wrong:
            raise BadBundleError(
                f"expected tokens below {self._vocabulary}, found {wrong[0]}: another model's tokenizer",
                hint=_HINT,
            )
        codes = self._codes[list(tokens)]  # [tokens, hidden * bits / 8]
        if self._bits == 4:  # the low half of a byte is the first of two
            codes = np.stack([codes & 15, codes >> 4], axis=-1).reshape(len(codes), -1)
        scales = self._scales[list(tokens)].astype(np.float32)  # [tokens, groups]
        middle = np.float32(1 << (self._bits - 1))
        grouped = (codes.astype(np.float32) - middle).reshape(*scales.shape, -1)
        rows: NDArray[np.float32] = (grouped * scales[..., None]).reshape(len(codes), -1)
        return rows


def _read(file: Path, kind: np.dtype[Any], offset: int, shape: tuple[int, ...]) -> NDArray[Any]:
    """An array of a file, read when it is looked at."""
    size = int(np.prod(shape)) * kind.itemsize
    found = file.stat().st_size
    if offset < 0 or offset + size > found:
        raise BadBundleError(
            f"{file}: expected {size} bytes from {offset} on, found a file of {found}", hint=_HINT
        )
    return np.memmap(file, kind.newbyteorder("<"), "r", offset, shape)


def _check_shapes(name: str, found: Sequence[Any], expected: dict[str, tuple[int, ...]]) -> None:
    """Raise BadBundleError unless a graph's inputs and outputs are the expected ones."""
    shapes = {each.name: tuple(each.shape) for each in found}
    for each in sorted(shapes.keys() | expected.keys()):
        if shapes.get(each) != expected.get(each):
            raise BadBundleError(
                f"{name}: {each}: expected {_shown(expected.get(each))}, found {_shown(shapes.get(each))}",
                hint=_HINT,
            )


def _shown(shape: tuple[int, ...] | None) -> str:
    return "nothing of that name" if shape is None else f"the shape {list(shape)}"
