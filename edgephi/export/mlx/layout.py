"""Where every tensor lies in the MLX artifact, and what its bytes are.

A quantised matrix NAME is three tensors (`mlx.core.quantize`, mode "affine"):

    NAME.weight  uint32 [rows, columns * bits / 32], the first code in the lowest bits
    NAME.scales  [rows, groups]        NAME.biases  [rows, groups]        weight = code * scale + bias

so our weight `(code - zero point) * scale` has the bias `-zero point * scale`. The middle code is a power of
two, so in a symmetric group that is exact in float16 too. An offset is a bias as it is. A stack of matrices
has one dimension more.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.roles import ModelTensor
from edgephi.checkpoint.weights.source import Source
from edgephi.declared.target import Kernels
from edgephi.export import safetensors_file
from edgephi.export.mlx.parts import parts_of
from edgephi.export.stream.packed_tensor import PackedTensor, place
from edgephi.export.tensor_names import tensor_name
from edgephi.export.tensor_parts import TensorParts
from edgephi.quantize.groups import Groups, NotFiniteError
from edgephi.quantize.nibbles import pack_nibbles
from edgephi.quantize.scheme import Scheme
from edgephi.quantize.tensor_plan import TensorPlans

_HEADER_ALIGNMENT = 4096  # bytes: the weights begin on a page


@dataclass(frozen=True)
class MlxLayout:
    """Where every tensor lies. `header` is the file's beginning, `entries` are the names it lists."""

    tensors: tuple[PackedTensor, ...]
    entries: Mapping[str, Mapping[str, Any]]
    header: bytes
    data_size: int


def float_type(kernels: Kernels) -> np.dtype[Any]:
    """Type of scales, biases and norms; MLX computes in the same one."""
    return np.dtype(np.float16 if kernels.activations == "float16" else np.float32)


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
    floats = float_type(kernels)
    stored = {each: (parts_of(each, shapes[each], architecture), floats) for each in sources}
    return lay_out_parts(stored, sources, shapes, plans)


def lay_out_parts(
    stored: Mapping[ModelTensor, tuple[TensorParts, np.dtype[Any]]],
    sources: Mapping[ModelTensor, tuple[Source, ...]],
    shapes: Mapping[ModelTensor, tuple[int, ...]],
    plans: TensorPlans,
) -> MlxLayout:
    """Give every tensor its place, in the order of `stored`: what it is in the file, and of which floats."""
    entries: dict[str, Mapping[str, Any]] = {}
    sizes: dict[ModelTensor, list[int]] = {}
    offset = 0  # from the end of the header, as the format counts
    for each, (own, floats) in stored.items():
        sizes[each] = []
        for region in _regions(own, plans[each].scheme, floats):
            begin = offset
            for name, (dtype, shape, size) in region.items():
                entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
                offset += size
            sizes[each].append(offset - begin)
    header = safetensors_file.header(entries, made_for="mlx", alignment=_HEADER_ALIGNMENT)
    tensors = []
    position = len(header)
    for each, (own, floats) in stored.items():
        regions = place(position, sizes[each], alignment=1)
        rows = own.in_file_order(sources[each], plans[each])
        tensors.append(PackedTensor(tensor_name(each), shapes[each], plans[each], regions, floats.type, rows))
        position = regions[-1].offset + regions[-1].size
    return MlxLayout(tuple(tensors), entries, header, offset)


def pack(groups: Groups, scheme: Scheme, float_type: np.dtype[Any]) -> tuple[NDArray[np.generic], ...]:
    """Codes, scales and biases of a block of rows. Raises NotFiniteError when a bias overflows."""
    codes = groups.codes if scheme.bits == 8 else pack_nibbles(groups.codes)
    scales = groups.scales.astype(float_type, copy=False)
    if groups.offsets is not None:
        return codes, scales, groups.offsets.astype(float_type, copy=False)
    zero_points = scheme.middle if groups.zero_points is None else groups.zero_points
    # An exact product in float32, and in float16 where the zero point is a power of two: see the exporter.
    exact = groups.scales.astype(np.float32) * -np.asarray(zero_points, np.float32)  # [rows, groups]
    with np.errstate(over="ignore"):
        biases = exact.astype(float_type)
    if not np.isfinite(biases).all():
        raise NotFiniteError(f"a group whose scale {np.abs(groups.scales).max():.3g} has a bias past float16")
    return codes, scales, biases


def _regions(
    parts: TensorParts, scheme: Scheme | None, floats: np.dtype[Any]
) -> Iterable[dict[str, tuple[str, list[int], int]]]:
    """What a tensor of the model is made of in the file: of each region, name -> dtype, shape and bytes."""
    dtype = "F16" if floats == np.float16 else "F32"
    if scheme is None:
        yield {
            name: (dtype, list(shape), math.prod(shape) * floats.itemsize)
            for name, shape in parts.shapes.items()
        }
        return
    words: dict[str, tuple[str, list[int], int]] = {}
    scales, biases = dict(words), dict(words)
    for name, (*rows, columns) in parts.shapes.items():
        prefix = name.removesuffix(".weight")
        codes, groups = [*rows, columns * scheme.bits // 32], [*rows, columns // scheme.group_size]
        small = (dtype, groups, math.prod(groups) * floats.itemsize)
        words[name] = ("U32", codes, math.prod(codes) * 4)
        scales[f"{prefix}.scales"] = biases[f"{prefix}.biases"] = small
    yield from (words, scales, biases)
