"""The MLX artifact for mlx-lm: `model.safetensors` in MLX's packed layout, `config.json` and the tokenizer.

MLX brings its own graph (`mlx_lm.models.phi3`), so the artifact is weights and a configuration, and MLX is
not needed to write it. A quantised matrix NAME is three tensors (`mlx.core.quantize`, mode "affine"):

    NAME.weight  uint32 [rows, columns * bits / 32], the first code in the lowest bits
    NAME.scales  [rows, groups]        NAME.biases  [rows, groups]        weight = code * scale + bias

so our weight `(code - zero point) * scale` has the bias `-zero point * scale`. The middle code is a power of
two, so in a symmetric group that is exact in float16 too.

mlx-lm's phi3 computes no attention window and never changes LongRoPE's factors, so the context ends where
either would matter: see `context_limit`.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgephi.bundle.manifest import TOKENIZER_FILE
from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.checkpoint import Checkpoint
from edgephi.checkpoint.roles import ModelTensor
from edgephi.checkpoint.safetensors import read_bytes, read_header
from edgephi.checkpoint.source import Source
from edgephi.declared.target import Kernels, Target
from edgephi.engines.facts.footprint import Footprint
from edgephi.engines.mlx_lm import CONFIG_FILE, DATA_FILE, FACTS, INDEX_FILE
from edgephi.errors import NotSupportedError
from edgephi.export.exporter import ContextLimit
from edgephi.export.mlx.configuration import mlx_config, rotary_lengths, tokenizer_config
from edgephi.export.stream.one_pass import StreamReport, stream_tensors
from edgephi.export.stream.packed_tensor import PackedTensor, align, place
from edgephi.export.tensor_names import tensor_name
from edgephi.quantize.groups import Groups, NotFiniteError, dequantize
from edgephi.quantize.nibbles import pack_nibbles, unpack_nibbles
from edgephi.quantize.scheme import Scheme
from edgephi.quantize.tensor_plan import TensorPlans, quantised_tensors
from edgephi.steps import Step, silent

TOKENIZER_CONFIG_FILE = "tokenizer_config.json"

_HEADER_ALIGNMENT = 4096  # bytes: the weights begin on a page


def footprint(target: Target) -> Footprint:
    """Activations and cache in the type of the target's kernels."""
    size = _float_type(target.kernels).itemsize
    facts = FACTS.provider(target.provider).footprint
    return replace(facts, cache_bytes_per_number=size, activation_bytes=size)


def context_limit(architecture: Architecture) -> ContextLimit | None:
    """The attention window or LongRoPE's original context, whichever is less: the engine knows neither."""
    limits = []
    rotary, window = architecture.attention.rotary, architecture.attention.window
    if rotary.long_factor is not None:
        reason = (
            f"mlx-lm never changes LongRoPE's factors, this model does at {rotary.original_context} tokens"
        )
        limits.append(ContextLimit(rotary.original_context, reason))
    if window is not None:
        reason = f"mlx-lm computes no attention window, this model has one of {window} tokens"
        limits.append(ContextLimit(window, reason))
    return min((limit for limit in limits if limit.tokens < architecture.context), key=_tokens, default=None)


def check_schemes(plans: TensorPlans, target: Target) -> None:
    """Refuse float16 for zero points other than the middle: their biases would be rounded."""
    asymmetric = any(not scheme.symmetric for scheme in quantised_tensors(plans).values())
    if asymmetric and target.kernels.activations == "float16":
        raise NotSupportedError(
            f"{target.name}: expected symmetric = true with float16, whose biases hold nothing else exactly",
            hint='set symmetric = true in the recipe, or activations = "float32" in a target of your own',
        )


def artifact_bytes(
    architecture: Architecture,
    plans: TensorPlans,
    target: Target,
    context: int,  # noqa: ARG001 - MLX computes its rotary tables itself
) -> int:
    """Size of `model.safetensors`. Raises NotSupportedError when mlx-lm cannot be told the RoPE magnitude."""
    rotary_lengths(architecture.attention.rotary)
    nothing = dict.fromkeys(architecture.tensor_shapes(), ())
    layout = lay_out(nothing, architecture, plans, target.kernels)
    return len(layout.header) + layout.data_size


def write_artifact(
    folder: Path,
    checkpoint: Checkpoint,
    plans: TensorPlans,
    target: Target,
    context: int,
    *,
    step: Step = silent,
) -> StreamReport:
    """Write weights, configuration and tokenizer into `folder`, in one pass over the weights."""
    architecture = checkpoint.architecture
    layout = lay_out(checkpoint.sources, architecture, plans, target.kernels)
    with (folder / DATA_FILE).open("wb") as file:
        report = stream_tensors(
            checkpoint.shards,
            layout.tensors,
            partial(pack, float_type=_float_type(target.kernels)),
            file,
            preamble=layout.header,
            step=step,
        )
    documents = {
        INDEX_FILE: {
            "metadata": {"total_size": layout.data_size},
            "weight_map": dict.fromkeys(sorted(layout.entries), DATA_FILE),
        },
        CONFIG_FILE: mlx_config(
            architecture, plans, target.kernels, checkpoint.tokenizer.stop_token_ids, context
        ),
        TOKENIZER_CONFIG_FILE: tokenizer_config(architecture, checkpoint.tokenizer, context),
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")
    # The checkpoint's own tokenizer_config.json stays behind: it may name a class that changes the ids.
    shutil.copyfile(checkpoint.folder / TOKENIZER_FILE, folder / TOKENIZER_FILE)
    return report


@dataclass(frozen=True)
class MlxLayout:
    """Where every tensor lies. `header` is the file's beginning, `entries` are the names it lists."""

    tensors: tuple[PackedTensor, ...]
    entries: Mapping[str, Mapping[str, Any]]
    header: bytes
    data_size: int


def lay_out(
    sources: Mapping[ModelTensor, tuple[Source, ...]],
    architecture: Architecture,
    plans: TensorPlans,
    kernels: Kernels,
) -> MlxLayout:
    """Give every tensor its place, in the order of `sources` (the checkpoint's own, so one pass suffices).

    A safetensors file has no gaps (https://huggingface.co/docs/safetensors). None is needed: rows of codes
    are whole words, and scales and biases are equally many, so that every tensor of words is aligned.
    """
    shapes = architecture.tensor_shapes()
    floats = _float_type(kernels)
    parts = {each: _parts(tensor_name(each), shapes[each], plans[each].scheme, floats) for each in sources}
    entries: dict[str, Mapping[str, Any]] = {}
    offset = 0  # from the end of the header, as the format counts
    for tensor in parts.values():
        for name, (dtype, shape, size) in tensor.items():
            entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
            offset += size
    header = _header(entries)
    tensors = []
    position = len(header)
    for each, own in sources.items():
        regions = place(position, [size for _, _, size in parts[each].values()], alignment=1)
        name = tensor_name(each)
        tensors.append(PackedTensor(name, shapes[each], plans[each], regions, floats.type, own))
        position = regions[-1].offset + regions[-1].size
    return MlxLayout(tuple(tensors), entries, header, offset)


def pack(groups: Groups, scheme: Scheme, float_type: np.dtype[Any]) -> tuple[NDArray[np.generic], ...]:
    """Codes, scales and biases of a block of rows. Raises NotFiniteError when a bias overflows."""
    codes = groups.codes if scheme.bits == 8 else pack_nibbles(groups.codes)
    zero_points = scheme.middle if groups.zero_points is None else groups.zero_points
    # An exact product in float32, and in float16 where the zero point is a power of two: see `check_schemes`.
    exact = groups.scales.astype(np.float32) * -np.asarray(zero_points, np.float32)  # [rows, groups]
    with np.errstate(over="ignore"):
        biases = exact.astype(float_type)
    if not np.isfinite(biases).all():
        raise NotFiniteError(f"a group whose scale {np.abs(groups.scales).max():.3g} has a bias past float16")
    return codes, groups.scales.astype(float_type, copy=False), biases


def _tokens(limit: ContextLimit) -> int:
    return limit.tokens


def _float_type(kernels: Kernels) -> np.dtype[Any]:
    """Type of scales, biases and norms; MLX computes in the same one."""
    return np.dtype(np.float16 if kernels.activations == "float16" else np.float32)


def _parts(
    name: str, shape: tuple[int, ...], scheme: Scheme | None, floats: np.dtype[Any]
) -> dict[str, tuple[str, list[int], int]]:
    """The tensors that stand for one of the model's: name -> dtype, shape and bytes, in file order."""
    dtype = "F16" if floats == np.float16 else "F32"
    if scheme is None:
        return {name: (dtype, list(shape), shape[0] * floats.itemsize)}
    rows, columns = shape
    prefix = name.removesuffix(".weight")
    words, groups = columns * scheme.bits // 32, columns // scheme.group_size
    small = (dtype, [rows, groups], rows * groups * floats.itemsize)
    return {
        name: ("U32", [rows, words], rows * words * 4),
        f"{prefix}.scales": small,
        f"{prefix}.biases": small,
    }


def _header(entries: Mapping[str, Mapping[str, Any]]) -> bytes:
    """The bytes of a safetensors file before its data: a length, then JSON with blanks at its end."""
    text = json.dumps({"__metadata__": {"format": "mlx"}, **entries}, separators=(",", ":")).encode()
    size = align(8 + len(text), _HEADER_ALIGNMENT)
    return (size - 8).to_bytes(8, "little") + text.ljust(size - 8)


def artifact_weights(folder: Path, architecture: Architecture) -> "ArtifactWeights":
    """The weights of the artifact in `folder`."""
    return ArtifactWeights(folder, architecture)


class ArtifactWeights:
    """The weights as the artifact holds them, dequantised a few rows at a time.

    Reads the finished file and `config.json`, not our plan of them. Has `architecture` and `rows`, as the
    reference's forward pass wants.
    """

    def __init__(self, folder: Path, architecture: Architecture) -> None:
        self.architecture = architecture
        self._entries = {entry.name: entry for entry in read_header(folder / DATA_FILE).entries}
        self._quantization = json.loads((folder / CONFIG_FILE).read_bytes())["quantization"]

    def rows(self, tensor: ModelTensor, start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start` to `stop` of a matrix, float32 [stop - start, columns], or that part of a vector."""
        name = tensor_name(tensor)
        prefix = name.removesuffix(".weight")
        stored = self._read(name, start, stop)
        if f"{prefix}.scales" not in self._entries:
            return stored.astype(np.float32, copy=False)
        own = self._quantization.get(prefix, self._quantization)
        codes = stored.view(np.uint8)
        if own["bits"] == 4:
            codes = unpack_nibbles(codes)
        scales = self._read(f"{prefix}.scales", start, stop).astype(np.float32, copy=False)
        biases = self._read(f"{prefix}.biases", start, stop).astype(np.float32, copy=False)
        weights = dequantize(codes, scales, 0).reshape(*scales.shape, -1)  # [rows, groups, size]
        weights += biases[:, :, None]
        return weights.reshape(codes.shape)

    def _read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        entry = self._entries[name]
        row_bytes = entry.size // entry.shape[0]
        dtype = {"U32": "<u4", "F16": "<f2", "F32": "<f4"}[entry.dtype]
        with entry.file.open("rb", buffering=0) as file:
            offset, size = entry.start + start * row_bytes, (stop - start) * row_bytes
            raw = read_bytes(file.fileno(), offset, size, file=entry.file)
        return raw.view(dtype).reshape(stop - start, *entry.shape[1:])
