"""Where every tensor lies in the OpenVINO artifact, and what its bytes are.

The weights stay quantised: u4 or u8 codes, a zero point and float16 scales a group, in the shape that
OpenVINO's plugins read as a compressed matrix.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.roles import ModelTensor
from edgephi.checkpoint.weights.source import Source
from edgephi.export.stream.packed_tensor import PackedTensor, place
from edgephi.export.tensor_names import tensor_name
from edgephi.quantize.groups import Groups
from edgephi.quantize.nibbles import pack_nibbles
from edgephi.quantize.scheme import Scheme
from edgephi.quantize.tensor_plan import TensorPlans


def region_sizes(shape: tuple[int, ...], scheme: Scheme | None) -> tuple[int, ...]:
    """Bytes of a tensor's regions: codes, float16 scales and, if asymmetric, zero points."""
    if scheme is None:
        return (int(np.prod(shape)) * 4,)
    rows, columns = shape
    groups = columns // scheme.group_size
    sizes = (rows * columns * scheme.bits // 8, rows * groups * 2)
    return sizes if scheme.symmetric else (*sizes, rows * groups // _zero_points_per_byte(scheme, groups))


def pack(groups: Groups, scheme: Scheme) -> tuple[NDArray[np.generic], ...]:
    """The regions of a block of rows, as `region_sizes` counts them."""
    codes = groups.codes if scheme.bits == 8 else pack_nibbles(groups.codes)
    if groups.zero_points is None:
        return codes, groups.scales
    zero_points = groups.zero_points
    if _zero_points_per_byte(scheme, zero_points.shape[1]) == 2:
        zero_points = pack_nibbles(zero_points)
    return codes, groups.scales, zero_points


def _zero_points_per_byte(scheme: Scheme, groups: int) -> int:
    # A constant of 4-bit numbers knows no rows. With an odd number of groups every other row would begin
    # inside a byte, which blocks of rows cannot be put together from.
    return 2 if scheme.bits == 4 and groups % 2 == 0 else 1


def lay_out(
    sources: Mapping[ModelTensor, tuple[Source, ...]],
    architecture: Architecture,
    plans: TensorPlans,
) -> tuple[dict[ModelTensor, PackedTensor], int]:
    """Give every tensor its place, in the order of `sources`; returns them and the end of the last one."""
    shapes = architecture.tensor_shapes()
    tensors = {}
    end = 0
    for tensor, own in sources.items():
        regions = place(end, region_sizes(shapes[tensor], plans[tensor].scheme))
        name = tensor_name(tensor)
        tensors[tensor] = PackedTensor(name, shapes[tensor], plans[tensor], regions, sources=own)
        end = regions[-1].offset + regions[-1].size
    return tensors, end
