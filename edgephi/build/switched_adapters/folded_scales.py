"""`folded_scales.safetensors`: what a bundle's matrices are multiplied by that an adapter must be too.

A bundle has it beside its manifest where outlier channels were folded (`quantize.folding`). An adapter's
matrices are of the checkpoint's tensors, and an engine adds their product to the folded ones. Each matrix
with folded columns has its scales there by its name, float16 [columns], which holds them exactly.
"""

from pathlib import Path

import numpy as np

from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.roles import ModelTensor
from edgephi.checkpoint.weights.safetensors import read_header, read_tensor_rows
from edgephi.errors import BadBundleError
from edgephi.export.safetensors_file import write_safetensors
from edgephi.export.tensor_names import matrix_name
from edgephi.quantize.folding import Floats
from edgephi.quantize.tensor_plan import TensorPlans

FOLDED_SCALES_NAME = "folded_scales.safetensors"


def write_folded_scales(bundle: Path, plans: TensorPlans) -> None:
    """Write the file into an unfinished bundle, if anything is folded."""
    scales = {
        matrix_name(tensor): plan.column_factors.astype(np.float16)
        for tensor, plan in plans.items()
        if plan.column_factors is not None
    }
    if scales:
        write_safetensors(bundle / FOLDED_SCALES_NAME, scales, made_for="edgephi")


def read_folded_scales(bundle: Path, architecture: Architecture) -> dict[ModelTensor, Floats]:
    """What the columns of a bundle's matrices are multiplied by. Raises BadBundleError."""
    file = bundle / FOLDED_SCALES_NAME
    if not file.is_file():
        return {}
    tensors = {matrix_name(tensor): tensor for tensor in architecture.tensor_shapes()}
    shapes, scales = architecture.tensor_shapes(), {}
    for entry in read_header(file).entries:
        tensor = tensors.get(entry.name)
        if tensor is None or entry.shape != shapes[tensor][-1:]:
            raise BadBundleError(
                f"{file}: {entry.name}: expected the columns' scales of one of the model's matrices, found "
                f"shape {list(entry.shape)}",
                hint="build the bundle again",
            )
        scales[tensor] = read_tensor_rows(entry, range(entry.shape[0]))
    return scales
