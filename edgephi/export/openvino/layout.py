"""Where every tensor lies in the OpenVINO artifact, and what its bytes are.

The weights stay quantised: u4 or u8 codes, a zero point and float16 scales a group, in the shape that
OpenVINO's plugins read as a compressed matrix.

Of experts, gate and up are two stacks, as their kernel wants them: the gates of all experts come before all
ups.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgephi.checkpoint.architecture import Architecture, MixtureOfExperts
from edgephi.checkpoint.roles import ModelTensor, Role
from edgephi.checkpoint.weights.source import Source
from edgephi.export.stream.packed_tensor import PackedTensor, place, row_count
from edgephi.export.tensor_names import expert_part_name, tensor_name
from edgephi.export.tensor_parts import TensorParts, gate_and_up
from edgephi.quantize.groups import Groups
from edgephi.quantize.nibbles import pack_nibbles
from edgephi.quantize.scheme import Scheme
from edgephi.quantize.tensor_plan import TensorPlans


def region_sizes(shape: tuple[int, ...], scheme: Scheme | None) -> tuple[int, ...]:
    """Bytes of a tensor's regions: codes, float16 scales and, if asymmetric, zero points."""
    if scheme is None:
        return (int(np.prod(shape)) * 4,)
    rows, columns = row_count(shape), shape[-1]
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
        shape, stored = shapes[tensor], own
        regions = place(end, region_sizes(shape, plans[tensor].scheme))
        if tensor.role is Role.EXPERTS_GATE_UP:
            parts = gate_and_up_of(architecture, tensor)
            experts, both, columns = shape
            shape, stored = (2 * experts, both // 2, columns), parts.in_file_order(own, plans[tensor])
        tensors[tensor] = PackedTensor(tensor_name(tensor), shape, plans[tensor], regions, sources=stored)
        end = regions[-1].offset + regions[-1].size
    return tensors, end


def gate_and_up_of(architecture: Architecture, tensor: ModelTensor) -> TensorParts:
    """The two stacks of a layer's experts, by their names."""
    experts, layer = architecture.feed_forward, tensor.layer
    if not isinstance(experts, MixtureOfExperts) or layer is None:
        raise AssertionError(f"{tensor} of a model without experts")
    names = [expert_part_name(layer, part) for part in ("gate", "up")]
    return gate_and_up(experts, names, architecture.hidden_size)
