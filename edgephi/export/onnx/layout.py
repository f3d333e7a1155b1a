"""Where every tensor lies in the ONNX artifact's data file, and what its bytes are.

Source of the layouts: MatMulNBits and GatherBlockQuantized in onnxruntime's docs/ContribOperators.md.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.roles import EMBEDDING, ModelTensor, Role
from edgephi.checkpoint.weights.source import Source
from edgephi.declared.target import Kernels
from edgephi.export.onnx.block_layout import block_tables
from edgephi.export.onnx.expert_rows import by_turns
from edgephi.export.stream.packed_tensor import PackedTensor, Region, align, place, row_count
from edgephi.export.stream.quantized_block import Pack
from edgephi.export.tensor_names import tensor_name
from edgephi.quantize.groups import Groups
from edgephi.quantize.nibbles import pack_nibbles
from edgephi.quantize.scheme import Scheme
from edgephi.quantize.tensor_plan import TensorPlans

UNUSED_IDS = "unused_ids"
EMBEDDING_ZERO_POINTS = f"{tensor_name(EMBEDDING)}.zero_points"


@dataclass(frozen=True)
class OnnxLayout:
    """Where every tensor lies in the data file; `tables` (name, region, array) come last.

    `float_type` is that of scales, norms and rotary tables.
    """

    tensors: Mapping[ModelTensor, PackedTensor]
    tables: tuple[tuple[str, Region, NDArray[Any]], ...]
    size: int
    float_type: type[np.floating[Any]]


def float_type(kernels: Kernels) -> type[np.floating[Any]]:
    """NumPy's type for what a target's kernels compute in."""
    return np.float16 if kernels.activations == "float16" else np.float32


def lay_out(
    sources: Mapping[ModelTensor, tuple[Source, ...]],
    architecture: Architecture,
    plans: TensorPlans,
    kernels: Kernels,
    context: int,
) -> OnnxLayout:
    """Give every tensor its place, in the order of `sources` (the checkpoint's own, so one pass suffices)."""
    shapes = architecture.tensor_shapes()
    floats = float_type(kernels)
    tensors = {}
    offset = 0
    for tensor, given in sources.items():
        shape, plan, own = shapes[tensor], plans[tensor], given
        kind = plain_type(tensor, floats)
        regions = place(offset, region_sizes(shape, plan.scheme, np.dtype(kind).itemsize))
        if tensor.role is Role.EXPERTS_GATE_UP:
            if plan.row_factors is not None or plan.found is not None:
                raise AssertionError(f"expected {tensor} without anything of its own for each row")
            own = by_turns(own, shape)
        tensors[tensor] = PackedTensor(tensor_name(tensor), shape, plan, regions, kind, own)
        offset = regions[-1].offset + regions[-1].size
    tables = []
    for name, table in {
        **embedding_zero_points(shapes[EMBEDDING], plans[EMBEDDING].scheme, kernels),
        **rotary_tables(architecture, kernels, context),
        **other_tables(architecture, context),
    }.items():
        (region,) = place(offset, [table.nbytes])
        tables.append((name, region, table))
        offset = region.offset + region.size
    return OnnxLayout(tensors, tuple(tables), offset, floats)


def data_bytes(architecture: Architecture, plans: TensorPlans, kernels: Kernels, context: int) -> int:
    """Size of the data file, gaps included, from shapes alone."""
    shapes = architecture.tensor_shapes()
    floats = float_type(kernels)
    float_bytes = np.dtype(floats).itemsize
    rotary = architecture.attention.rotary
    versions = 2 if rotary.uses_long_factors(context) else 1
    tables = 2 * align(versions * context * rotary.size // 2 * float_bytes)
    zero_points = embedding_zero_points(shapes[EMBEDDING], plans[EMBEDDING].scheme, kernels).values()
    tables += sum(align(table.nbytes) for table in zero_points)
    tables += sum(align(table.nbytes) for table in other_tables(architecture, context).values())
    sizes = (
        region_sizes(shape, plans[tensor].scheme, np.dtype(plain_type(tensor, floats)).itemsize)
        for tensor, shape in shapes.items()
    )
    return sum(align(size) for regions in sizes for size in regions) + tables


def region_sizes(shape: tuple[int, ...], scheme: Scheme | None, float_bytes: int = 4) -> tuple[int, ...]:
    """Bytes of the regions of one tensor: codes, scales and, when not symmetric, zero points."""
    if scheme is None:
        return (float_bytes * math.prod(shape),)
    rows, columns = row_count(shape), shape[-1]
    groups = columns // scheme.group_size
    sizes = (rows * columns * scheme.bits // 8, rows * groups * float_bytes)
    return sizes if scheme.symmetric else (*sizes, rows * -(-groups * scheme.bits // 8))


def packer(kernels: Kernels) -> Pack:
    """What lays out blocks of rows for a target's kernels."""
    return partial(pack, scale_type=float_type(kernels))


def pack(
    groups: Groups, scheme: Scheme, scale_type: type[np.floating[Any]] = np.float32
) -> tuple[NDArray[np.generic], ...]:
    """The regions of a block of rows, as `region_sizes` counts them."""
    codes = groups.codes if scheme.bits == 8 else pack_nibbles(groups.codes)
    # Kernels want scales in the type of their activations; the values are float16's all the same.
    scales = groups.scales.astype(scale_type, copy=False)
    if groups.zero_points is None:
        return codes, scales
    zero_points = groups.zero_points
    if scheme.bits == 4:
        if zero_points.shape[1] % 2:
            zero_points = np.pad(zero_points, ((0, 0), (0, 1)))
        zero_points = pack_nibbles(zero_points)
    return codes, scales, zero_points


def embedding_zero_points(
    shape: tuple[int, ...], scheme: Scheme | None, kernels: Kernels
) -> dict[str, NDArray[np.uint8]]:
    """The middle code for every group of a symmetric embedding, [rows, bytes a row]; for GPUs only.

    Without zero points the CPU's GatherBlockQuantized takes the middle code, CUDA's took 0 until late 2026
    (onnxruntime issue 31692): every embedding came out shifted, and nothing said so.
    """
    if kernels.activations != "float16" or scheme is None or not scheme.symmetric:
        return {}
    rows, columns = shape
    row_bytes = -(-columns // scheme.group_size * scheme.bits // 8)
    middle = np.uint8(0x88 if scheme.bits == 4 else 0x80)  # two codes of 4 bits, or one of 8
    return {EMBEDDING_ZERO_POINTS: np.broadcast_to(middle, (rows, row_bytes))}


def plain_type(tensor: ModelTensor, floats: type[np.floating[Any]]) -> type[np.floating[Any]]:
    """The type of a tensor that is not quantised: of the activations, but of a router always float32."""
    return np.float32 if tensor.role is Role.ROUTER else floats


def other_tables(architecture: Architecture, context: int) -> dict[str, NDArray[Any]]:
    """What the graph looks up beside rotary tables: which blocks see each other, and which ids are unused."""
    tables: dict[str, NDArray[Any]] = block_tables(architecture, context)
    if architecture.unused_token_ids:
        unused = np.zeros(architecture.vocabulary_size, np.bool_)
        unused[list(architecture.unused_token_ids)] = True
        tables[UNUSED_IDS] = unused
    return tables


def rotary_tables(architecture: Architecture, kernels: Kernels, context: int) -> dict[str, NDArray[Any]]:
    """Cosines and sines, [context, rotary size / 2] each, in the type of the activations.

    Where the context passes LongRoPE's original one, [2, context, rotary size / 2]: short, then long factors.
    """
    rotary = architecture.attention.rotary
    versions = (False, True) if rotary.uses_long_factors(context) else (False,)
    frequencies = np.array([rotary.inverse_frequencies(long=long) for long in versions])  # [versions, size/2]
    angles = np.arange(context)[:, None] * frequencies[:, None, :]  # [versions, context, size/2], radians
    tables = {"cos_cache": np.cos(angles), "sin_cache": np.sin(angles)}
    magnitudes = np.array([rotary.magnitude_of(long=long) for long in versions])[:, None, None]
    return {
        name: (table * magnitudes).astype(float_type(kernels))[0 if len(versions) == 1 else slice(None)]
        for name, table in tables.items()
    }
