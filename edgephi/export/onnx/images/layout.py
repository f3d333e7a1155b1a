"""Where every tensor of an image encoder lies in the data file that its graphs share."""

from collections.abc import Mapping

import numpy as np

from edgephi.checkpoint.images.image_encoder import MATRICES, ImageEncoder
from edgephi.checkpoint.roles import ModelTensor
from edgephi.checkpoint.weights.source import Source
from edgephi.declared.target import Kernels
from edgephi.export.onnx.layout import OnnxLayout, float_type, region_sizes
from edgephi.export.stream.packed_tensor import PackedTensor, align, place
from edgephi.export.tensor_names import tensor_name
from edgephi.quantize.tensor_plan import TensorPlans


def lay_out_encoder(
    sources: Mapping[ModelTensor, tuple[Source, ...]],
    encoder: ImageEncoder,
    plans: TensorPlans,
    kernels: Kernels,
) -> OnnxLayout:
    """Give every tensor its place, in the order of `sources`."""
    shapes = encoder.tensor_shapes()
    floats = float_type(kernels)
    tensors, offset = {}, 0
    for tensor, given in sources.items():
        shape, plan, kind = shapes[tensor], plans[tensor], _plain_type(tensor, floats)
        regions = place(offset, region_sizes(shape, plan.scheme, _number_bytes(tensor, plans, floats)))
        tensors[tensor] = PackedTensor(tensor_name(tensor), shape, plan, regions, kind, given)
        offset = regions[-1].offset + regions[-1].size
    return OnnxLayout(tensors, (), offset, floats)


def encoder_data_bytes(encoder: ImageEncoder, plans: TensorPlans, kernels: Kernels) -> int:
    """Size of the data file, gaps included, from shapes alone."""
    floats = float_type(kernels)
    return sum(
        align(size)
        for tensor, shape in encoder.tensor_shapes().items()
        for size in region_sizes(shape, plans[tensor].scheme, _number_bytes(tensor, plans, floats))
    )


def _plain_type(tensor: ModelTensor, floats: type[np.floating]) -> type[np.floating]:
    """The type of a tensor that is not quantised: of a matrix float16, until it is computed with."""
    return np.float16 if tensor.role in MATRICES else floats


def _number_bytes(tensor: ModelTensor, plans: TensorPlans, floats: type[np.floating]) -> int:
    """Bytes of a plain number of a tensor, or of a scale of one that is quantised."""
    quantised = plans[tensor].scheme is not None
    return np.dtype(floats if quantised else _plain_type(tensor, floats)).itemsize
