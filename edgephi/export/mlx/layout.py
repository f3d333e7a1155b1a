"""Where every tensor lies in the MLX artifact, and what its bytes are.

A quantised matrix NAME is three tensors (`mlx.core.quantize`, mode "affine"):

    NAME.weight  uint32 [rows, columns * bits / 32], the first code in the lowest bits
    NAME.scales  [rows, groups]        NAME.biases  [rows, groups]        weight = code * scale + bias

so our weight `(code - zero point) * scale` has the bias `-zero point * scale`. The middle code is a power of
two, so in a symmetric group that is exact in float16 too. An offset is a bias as it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.roles import ModelTensor
from edgephi.checkpoint.weights.source import Source
from edgephi.declared.target import Kernels
from edgephi.export import safetensors_file
from edgephi.export.stream.packed_tensor import PackedTensor, place
from edgephi.export.tensor_names import tensor_name
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
    parts = {each: _parts(tensor_name(each), shapes[each], plans[each].scheme, floats) for each in sources}
    entries: dict[str, Mapping[str, Any]] = {}
    offset = 0  # from the end of the header, as the format counts
    for tensor in parts.values():
        for name, (dtype, shape, size) in tensor.items():
            entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
            offset += size
    header = safetensors_file.header(entries, made_for="mlx", alignment=_HEADER_ALIGNMENT)
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
