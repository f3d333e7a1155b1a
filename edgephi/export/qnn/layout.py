"""Where every matrix lies in the file of weights that all QNN graphs share, and what its bytes are.

A matrix is stored as the checkpoint has it, row after row, which is how a 1x1 convolution wants its weights.
Codes are signed: 4 bits, two to a byte, or 8. Scales are float32, one a group or, with 8 bits, one a row. The
zero points are zeros and written down all the same: without them the compiler reads 4-bit weights wrongly.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.roles import EMBEDDING, ModelTensor
from edgephi.checkpoint.weights.source import Source
from edgephi.export.stream.packed_tensor import PackedTensor, Region, align, place
from edgephi.export.tensor_names import tensor_name
from edgephi.quantize.groups import Groups
from edgephi.quantize.nibbles import pack_nibbles
from edgephi.quantize.scheme import Scheme
from edgephi.quantize.tensor_plan import TensorPlans

_SCALE_BYTES = 4


@dataclass(frozen=True)
class QnnLayout:
    """Where every matrix lies in the data file, and a run of zero bytes that all zero points are part of."""

    tensors: Mapping[ModelTensor, PackedTensor]
    zeros: Region
    size: int


def lay_out(
    sources: Mapping[ModelTensor, tuple[Source, ...]],
    architecture: Architecture,
    plans: TensorPlans,
) -> QnnLayout:
    """Give every matrix its place, in the order of `sources`; an embedding has none unless it is the head."""
    shapes = architecture.tensor_shapes()
    tensors = {}
    end = zeros = 0
    for tensor, own in sources.items():
        scheme = row_scheme(plans[tensor].scheme)
        if scheme is None or (tensor == EMBEDDING and not architecture.tied_embeddings):
            continue
        plan = dataclasses.replace(plans[tensor], scheme=scheme)
        regions = place(end, region_sizes(shapes[tensor], scheme))
        tensors[tensor] = PackedTensor(tensor_name(tensor), shapes[tensor], plan, regions, sources=own)
        end = regions[-1].offset + regions[-1].size
        zeros = max(zeros, regions[1].size // _SCALE_BYTES * scheme.bits // 8)
    region = Region(align(end), align(zeros))
    return QnnLayout(tensors, region, region.offset + region.size)


def row_scheme(scheme: Scheme | None) -> Scheme | None:
    """The scheme with scales that the HTP multiplies by."""
    return None if scheme is None else dataclasses.replace(scheme, scales="multiples")


def scales_per_row(columns: int, scheme: Scheme) -> int:
    """How many scales a row of a matrix has."""
    return columns // scheme.group_size if scheme.bits == 4 else 1


def region_sizes(shape: tuple[int, ...], scheme: Scheme) -> tuple[int, int]:
    """Bytes of the codes and of the scales."""
    rows, columns = shape
    return rows * columns * scheme.bits // 8, rows * scales_per_row(columns, scheme) * _SCALE_BYTES


def pack(groups: Groups, scheme: Scheme) -> tuple[NDArray[np.generic], ...]:
    """The regions of a block of rows, as `region_sizes` counts them."""
    signed = groups.codes ^ np.uint8(scheme.middle)  # two's complement of code - middle
    return pack_nibbles(signed) if scheme.bits == 4 else signed, groups.scales


def pack_embedding(groups: Groups, scheme: Scheme) -> tuple[NDArray[np.generic], ...]:
    """Codes from 0 up and float16 scales a group: the processor looks the embedding up, not the HTP."""
    return pack_nibbles(groups.codes) if scheme.bits == 4 else groups.codes, groups.scales
