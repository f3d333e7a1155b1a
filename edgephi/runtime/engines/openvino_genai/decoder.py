"""The decoder of an OpenVINO artifact, and its KV caches: what openvino-genai's own pipelines do inside.

The graph is changed in these places before it is compiled, each where it has the place for it:

- The input `logits_kept`, i64 [1]: for how many of the last tokens logits are computed, instead of for all.
- The input `total_length`, i64 []: what LongRoPE's factors depend on. The graph alone takes the last token's
  position, so that a long prompt computed in pieces would begin with the wrong factors.
- Where the bundle has adapters, an adapter's small matrices beside those that it changes: see `low_rank`.

A KV cache is one of two. OpenVINO's paged attention reads and writes tensors that this module owns, in
blocks of tokens; that is the faster one, but its tensors must lie in the memory of a CPU, and it knows no
masks, which block-sparse attention needs. Everywhere else a cache is the state of a request.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import mmap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgephi.engines.openvino_genai import SPARSE_MASK
from edgephi.runtime.engines.openvino_genai.expert_kernels import check_experts, expert_products
from edgephi.runtime.engines.openvino_genai.graph_inputs import (
    KEPT,
    TOTAL_LENGTH,
    add_kept,
    add_total_length,
    layers_named,
)
from edgephi.runtime.engines.openvino_genai.low_rank import Branches, Factors, add_branches
from edgephi.runtime.engines.openvino_genai.request import GraphRequest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Tokens at once where every head has a mask of its own. It takes as much memory as their scores do: with 256
# tokens 600 MB more after 4,096, with 64 no more than the scores that a plan counts, in the same time.
_SPARSE_PIECE = 64


Embed = Callable[[Sequence[int]], "NDArray[np.float32]"]
"""What a decoder is given in the place of tokens, where images may stand between them: [tokens, hidden]."""


class Decoder(Protocol):
    """A compiled decoder. It and its caches fail with the engine's own RuntimeErrors, or with OSErrors."""

    devices: tuple[str, ...]
    """What really computes, by OpenVINO's names."""
    is_told_length: bool
    """Whether `total` decides about LongRoPE's factors; else it is the last token of each call."""
    branches: Branches
    """The places for an adapter's matrices."""

    def open_cache(self, capacity: int, factors: Factors) -> DecoderCache:
        """An empty cache for at most `capacity` tokens. Its memory is taken as tokens come.

        All that is ever in it is computed with `factors`, which are for `branches`.
        """


class DecoderCache(Protocol):
    """Keys and values of one sequence of tokens."""

    def compute(self, tokens: Sequence[int], *, past: int, total: int, kept: int = 1) -> NDArray[np.float32]:
        """Compute `tokens` after the first `past`, of which the keys and values must be there.

        `total` is the length that LongRoPE is to see. Returns the logits of the last `kept` tokens,
        [kept, vocabulary]; they are valid until the next call, be it of another cache of the decoder.
        """

    def keep(self, count: int) -> None:
        """Drop all but the first `count` tokens."""

    def copy(self) -> DecoderCache:
        """Another cache with the same tokens."""

    def close(self) -> None:
        """Give the memory back."""


def open_core(openvino: Any, device: str) -> Any:
    """OpenVINO itself, set for one of its devices."""
    core = openvino.Core()
    if device == "CPU":
        # Left alone, a CPU that has units for bfloat16 computes in it, and a certificate measured on such a
        # one says little about the others. What rounds activations to int8 on one with VNNI is left on.
        core.set_property("CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return core


def open_decoder(
    openvino: Any,
    file: Path,
    *,
    device: str,
    adapted: frozenset[str] = frozenset(),
    embed: Embed | None = None,
) -> Decoder:
    """Compile the graph in `file` for one of OpenVINO's devices.

    Those of its matrices whose names are `adapted` get a branch. `embed` is there for a graph that takes
    embeddings.
    """
    core = open_core(openvino, device)
    if device == "CPU":
        model = core.read_model(file)
        # A graph of somebody else's making may not have the shape that paged attention is made from.
        with contextlib.suppress(_NotPagedError):
            return _PagedDecoder(openvino, core, model, device, adapted, embed=embed)
    return _StatefulDecoder(openvino, core, core.read_model(file), device, adapted, embed=embed)


class _NotPagedError(Exception):
    pass


class _PagedDecoder:
    """Keys and values lie in blocks of tokens, one block after the other."""

    def __init__(
        self,
        openvino: Any,
        core: Any,
        model: Any,
        device: str,
        adapted: frozenset[str],
        *,
        embed: Embed | None = None,
    ) -> None:
        self.embed = embed
        self.is_told_length = add_total_length(openvino, model)
        transformations = importlib.import_module("openvino._offline_transformations")
        try:
            transformations.paged_attention_transformation(model)
        except RuntimeError as cause:
            raise _NotPagedError from cause
        add_kept(openvino, model, axis=0)  # hidden states are [tokens, 1, hidden]
        self.branches = add_branches(openvino, model, adapted)
        experts = expert_products(model)
        try:
            compiled = core.compile_model(model, device)
        except RuntimeError as cause:  # OpenVINO 2026.4 has no paged attention for most Arm processors
            raise _NotPagedError from cause
        check_experts(experts, compiled, device)
        self.devices = tuple(compiled.get_property("EXECUTION_DEVICES"))
        self.openvino = openvino
        self.request = GraphRequest(openvino, compiled)
        self.inputs = {
            each.get_any_name(): each for each in compiled.inputs if "_cache." in each.get_any_name()
        }
        """The inputs for keys and values by name, each [blocks, key heads, tokens, head size].

        Where the graph wants an int8 cache, scales lie among the numbers: keys have more rows than tokens,
        and values more columns than the head's size.
        """
        value = next(each for name, each in self.inputs.items() if name.startswith("value_cache."))
        self.block = value.get_partial_shape()[2].get_length()
        """Tokens in a block."""
        self.bound: _PagedCache | None = None
        """The cache that the request reads and writes now."""
        self._factors: Factors | None = None

    def open_cache(self, capacity: int, factors: Factors) -> _PagedCache:
        """See Decoder."""
        return _PagedCache(self, capacity, factors)

    def bind(self, cache: _PagedCache, tensors: Mapping[str, Any], factors: Factors) -> None:
        """Have the request read and write the tensors of a cache, and compute with its factors."""
        if self.bound is not cache:
            for name, tensor in tensors.items():
                self.request.infer_request.set_tensor(name, tensor)
            self.bound = cache
        if self._factors is not factors:
            self.request.set_factors(factors)
            self._factors = factors


class _PagedCache:
    """The tensors of one sequence. All caches of a decoder are computed by its one request."""

    def __init__(self, decoder: _PagedDecoder, capacity: int, factors: Factors) -> None:
        import numpy as np

        self._decoder = decoder
        self._capacity = capacity
        self._factors = factors
        self._filled = 0  # tokens
        self._memory: dict[str, NDArray[np.uint8]] = {}
        self._tensors: dict[str, Any] = {}
        blocks = -(-capacity // decoder.block)
        for name, each in decoder.inputs.items():
            shape = [blocks, *(side.get_length() for side in list(each.get_partial_shape())[1:])]
            size = math.prod(shape) * each.get_element_type().bitwidth // 8
            # Pages of the system's: none is taken before it is written, and all go back at once in the end.
            self._memory[name] = np.frombuffer(mmap.mmap(-1, size), np.uint8)
            self._tensors[name] = decoder.openvino.Tensor(
                self._memory[name], decoder.openvino.Shape(shape), each.get_element_type()
            )

    def compute(self, tokens: Sequence[int], *, past: int, total: int, kept: int = 1) -> NDArray[np.float32]:
        """See DecoderCache."""
        import numpy as np

        self._bind()
        count = len(tokens)
        blocks = -(-(past + count) // self._decoder.block)
        inputs: dict[str, NDArray[Any]] = {
            **_given(self._decoder.embed, tokens),
            "position_ids": np.arange(past, past + count, dtype=np.int64),
            "past_lens": np.array([past], np.int32),
            "subsequence_begins": np.array([0, count], np.int32),
            "block_indices": np.arange(blocks, dtype=np.int32),
            "block_indices_begins": np.array([0, blocks], np.int32),
            "max_context_len": np.array(past + count, np.int32),
            KEPT: np.array([kept], np.int64),
            TOTAL_LENGTH: np.array(total, np.int64),
        }
        self._filled = past + count
        logits: NDArray[np.float32] = self._decoder.request.run(inputs, at_once=count == 1)[-kept:, 0]
        return logits

    def keep(self, count: int) -> None:
        """See DecoderCache. What lies behind is written over."""
        self._filled = min(self._filled, count)

    def copy(self) -> _PagedCache:
        """See DecoderCache."""
        other = _PagedCache(self._decoder, self._capacity, self._factors)
        used, blocks = (-(-tokens // self._decoder.block) for tokens in (self._filled, self._capacity))
        for name, memory in self._memory.items():
            size = len(memory) // blocks * used
            other._memory[name][:size] = memory[:size]
        other._filled = self._filled
        return other

    def close(self) -> None:
        """See DecoderCache."""
        if self._decoder.bound is self:  # the request must not hold the memory: it gets that of a block
            _PagedCache(self._decoder, 1, self._factors)._bind()
        self._memory.clear()
        self._tensors.clear()

    def _bind(self) -> None:
        self._decoder.bind(self, self._tensors, self._factors)


class _StatefulDecoder:
    """Keys and values are the state of a request, which grows with every call."""

    def __init__(
        self,
        openvino: Any,
        core: Any,
        model: Any,
        device: str,
        adapted: frozenset[str],
        *,
        embed: Embed | None = None,
    ) -> None:
        self.embed = embed
        self.is_told_length = add_total_length(openvino, model)
        add_kept(openvino, model, axis=1)  # hidden states are [batch, tokens, hidden]
        self.branches = add_branches(openvino, model, adapted)
        self.openvino = openvino
        self.largest_piece = _SPARSE_PIECE if layers_named(model, SPARSE_MASK) else None
        """The most tokens that are computed at once; None for all that are asked for."""
        experts = expert_products(model)
        self.compiled = core.compile_model(model, device)
        check_experts(experts, self.compiled, device)
        self.devices = tuple(self.compiled.get_property("EXECUTION_DEVICES"))

    def open_cache(self, capacity: int, factors: Factors) -> _StatefulCache:  # noqa: ARG002 - it grows
        """See Decoder."""
        return _StatefulCache(self, factors)


class _StatefulCache:
    """One request of the compiled graph."""

    def __init__(self, decoder: _StatefulDecoder, factors: Factors) -> None:
        self._decoder = decoder
        self._factors = factors
        self._filled = 0  # tokens
        self._request = GraphRequest(decoder.openvino, decoder.compiled)
        self._request.set_factors(factors)

    def compute(self, tokens: Sequence[int], *, past: int, total: int, kept: int = 1) -> NDArray[np.float32]:
        """See DecoderCache."""
        import numpy as np

        step = self._decoder.largest_piece or len(tokens)
        parts = []
        for start in range(0, len(tokens), step):
            piece, left = tokens[start : start + step], len(tokens) - start
            wanted = max(1, kept - (left - len(piece)))
            logits = self._compute_piece(piece, past=past + start, total=total, kept=wanted)
            if left <= step:
                parts.append(logits)
            elif left - len(piece) < kept:
                parts.append(logits.copy())
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _compute_piece(
        self, tokens: Sequence[int], *, past: int, total: int, kept: int
    ) -> NDArray[np.float32]:
        import numpy as np

        count = len(tokens)
        given = _given(self._decoder.embed, tokens)
        inputs: dict[str, NDArray[Any]] = {
            **{name: value[None] for name, value in given.items()},
            "attention_mask": np.ones((1, past + count), np.int64),
            "position_ids": np.arange(past, past + count, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, np.int32),
            KEPT: np.array([kept], np.int64),
            TOTAL_LENGTH: np.array(total, np.int64),
        }
        self._filled = past + count
        logits: NDArray[np.float32] = self._request.run(inputs, at_once=count == 1)[0, -kept:]
        return logits

    def keep(self, count: int) -> None:
        """See DecoderCache."""
        if count == 0:
            self._request.infer_request.reset_state()
        elif count < self._filled:
            for state in self._request.infer_request.query_state():
                state.state = self._first(state.state, count)
        self._filled = min(self._filled, count)

    def copy(self) -> _StatefulCache:
        """See DecoderCache."""
        other = _StatefulCache(self._decoder, self._factors)
        if self._filled:
            states = {state.name: state.state for state in self._request.infer_request.query_state()}
            for state in other._request.infer_request.query_state():
                state.state = self._first(states[state.name], self._filled)
        other._filled = self._filled
        return other

    def close(self) -> None:
        """See DecoderCache."""
        del self._request

    def _first(self, tensor: Any, count: int) -> Any:
        """A copy of the first `count` tokens of a state, [batch, heads, tokens, head size]."""
        import numpy as np

        return self._decoder.openvino.Tensor(np.ascontiguousarray(tensor.data[:, :, :count]))


def _given(embed: Embed | None, tokens: Sequence[int]) -> dict[str, NDArray[Any]]:
    """The input of a graph that says which tokens are new, [tokens] or [tokens, hidden]."""
    import numpy as np

    return {"input_ids": np.array(tokens, np.int64)} if embed is None else {"inputs_embeds": embed(tokens)}
