"""What a build does with the tensors of an image encoder."""

import math

from edgephi.build.tensor_plans import dividing
from edgephi.checkpoint.images.image_encoder import MATRICES, ImageEncoder
from edgephi.checkpoint.roles import ModelTensor
from edgephi.declared.recipe import Quant
from edgephi.declared.target import Target
from edgephi.engines.facts.footprint import Footprint
from edgephi.errors import NotSupportedError
from edgephi.export.exporter import image_encoder_exporter
from edgephi.quantize.scheme import Scheme
from edgephi.quantize.tensor_plan import TensorPlan, TensorPlans


def plan_image_encoder(encoder: ImageEncoder | None, quant: Quant, target: Target) -> tuple[TensorPlans, int]:
    """The plans of the tensors of a model's encoder, and their bytes in an artifact; nothing without one.

    Raises NotSupportedError for an engine whose bundles cannot see.
    """
    if encoder is None:
        return {}, 0
    exporter = image_encoder_exporter(target.engine)
    plans = plan_image_tensors(encoder, quant)
    return plans, exporter.data_bytes(encoder, plans, target)


def plan_image_tensors(encoder: ImageEncoder, quant: Quant) -> dict[ModelTensor, TensorPlan]:
    """Codes of 8 bits for matrices, where the recipe wants them; all else stays plain numbers.

    An encoder sees each image once, and what it loses nobody can read any more, so it never has 4 bits.
    Raises NotSupportedError where no group divides a matrix's columns.
    """
    plans = {}
    for tensor, shape in encoder.tensor_shapes().items():
        scheme = None
        if quant.image_encoder == "int8" and tensor.role in MATRICES:
            size = dividing(quant.group_size, shape[-1])
            if shape[-1] % size:
                raise NotSupportedError(
                    f"{tensor}: group size {size} does not divide its {shape[-1]} columns",
                    hint='set image_encoder = "float16" under quant in the recipe',
                )
            scheme = Scheme(8, size)
        # Searching gains nothing at 8 bits.
        plans[tensor] = TensorPlan(scheme, "rtn")
    return plans


def unpacked_bytes(encoder: ImageEncoder | None, plans: TensorPlans, footprint: Footprint) -> int:
    """What an engine makes of the encoder's float16 matrices in memory, beside its copies of the artifact."""
    if encoder is None:
        return 0
    numbers = sum(
        math.prod(shape)
        for tensor, shape in encoder.tensor_shapes().items()
        if tensor.role in MATRICES and plans[tensor].scheme is None
    )
    return numbers * footprint.unpacked_half_bytes
