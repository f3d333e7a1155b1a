"""The image encoder of an MLX artifact: `image_encoder.safetensors`, and in `image_encoder.json` what it is.

No class of mlx-lm is for it, so the names are ours, and neither file is one that `mlx_lm.load` looks at: that
opens the decoder alone, for texts.
"""

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgephi.checkpoint.checkpoint import Checkpoint, image_encoder_of, read_rows
from edgephi.checkpoint.images.image_encoder import COLOURS, MATRICES, ImageEncoder
from edgephi.checkpoint.roles import ModelTensor, Role
from edgephi.checkpoint.weights.source import Source
from edgephi.declared.target import Kernels, Target
from edgephi.engines.mlx_lm import IMAGE_ENCODER_CONFIG_FILE, IMAGE_ENCODER_FILE
from edgephi.export.mlx.configuration import module_name, quantization_block
from edgephi.export.mlx.layout import MlxLayout, float_type, lay_out_parts, pack
from edgephi.export.mlx.weights import FileTensors
from edgephi.export.stream.one_pass import StreamReport, stream_tensors
from edgephi.export.tensor_names import tensor_name
from edgephi.export.tensor_parts import whole
from edgephi.quantize.tensor_plan import TensorPlans, quantised_tensors
from edgephi.steps import Step, silent

_PATCHES = ModelTensor(Role.IMAGE_PATCHES)
_PREFIX = "image_encoder."


def data_bytes(encoder: ImageEncoder, plans: TensorPlans, target: Target) -> int:
    """Size of the file with the weights."""
    layout = _lay_out(encoder, plans, target.kernels)
    return len(layout.header) + layout.data_size


def write(
    folder: Path,
    checkpoint: Checkpoint,
    plans: TensorPlans,
    target: Target,
    *,
    step: Step = silent,
) -> StreamReport:
    """Write the two files, in one pass over the encoder's weights."""
    encoder = image_encoder_of(checkpoint)
    layout, floats = _lay_out(encoder, plans, target.kernels, checkpoint), float_type(target.kernels)
    *streamed, patches = layout.tensors
    with (folder / IMAGE_ENCODER_FILE).open("wb") as file:
        report = stream_tensors(
            checkpoint.shards,
            streamed,
            partial(pack, float_type=floats),
            file,
            changes=checkpoint.changes,
            preamble=layout.header,
            lookup_tables=[(patches.regions[0], _patches(checkpoint, encoder).astype(floats))],
            hashed=False,
            step=step,
        )
    schemes = quantised_tensors(plans)
    document: dict[str, Any] = dataclasses.asdict(encoder)
    if schemes:
        most = next(iter(schemes.values()))
        document["quantization"] = quantization_block(schemes, most, _modules_of)
    text = json.dumps(document, indent=2) + "\n"
    (folder / IMAGE_ENCODER_CONFIG_FILE).write_text(text, "utf-8")
    return report


def weights(folder: Path, encoder: ImageEncoder) -> "ArtifactImageWeights":
    """The encoder's weights as the artifact in `folder` holds them."""
    return ArtifactImageWeights(folder, encoder)


class ArtifactImageWeights:
    """The weights of the finished file, dequantised a few rows at a time."""

    def __init__(self, folder: Path, encoder: ImageEncoder) -> None:
        self.architecture = encoder
        config = json.loads((folder / IMAGE_ENCODER_CONFIG_FILE).read_bytes())
        self._stored = FileTensors(folder / IMAGE_ENCODER_FILE, config.get("quantization", {}))

    def rows(self, tensor: ModelTensor, start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start` to `stop` of a tensor, float32 [stop - start, columns]; of a vector [stop - start]."""
        if tensor != _PATCHES:
            return self._stored.rows(_stored_name(tensor), start, stop)
        hidden, patch = self.architecture.hidden_size, self.architecture.patch
        stored = self._stored.rows(_stored_name(tensor), 0, hidden * patch * patch)
        apart = stored.reshape(hidden, patch, patch, COLOURS).transpose(0, 3, 1, 2)
        return apart.reshape(-1, patch)[start:stop]


def _lay_out(
    encoder: ImageEncoder, plans: TensorPlans, kernels: Kernels, checkpoint: Checkpoint | None = None
) -> MlxLayout:
    """Where every tensor lies: in the checkpoint's order, and the patches last, which are turned round.

    Matrices are codes or float16, all else is of the kernels' type.
    """
    shapes = encoder.tensor_shapes()
    sources: dict[ModelTensor, tuple[Source, ...]] = dict.fromkeys(shapes, ())
    if checkpoint is not None:
        sources = {**checkpoint.image_sources}
    sources[_PATCHES] = sources.pop(_PATCHES)
    floats = float_type(kernels)
    stored = {}
    for tensor in sources:
        shape = shapes[tensor] if tensor != _PATCHES else _turned(shapes[tensor])
        own = np.dtype(np.float16) if _is_half(tensor, plans) else floats
        stored[tensor] = (whole(_stored_name(tensor), shape), own)
    return lay_out_parts(stored, sources, shapes, plans)


def _is_half(tensor: ModelTensor, plans: TensorPlans) -> bool:
    return tensor.role in MATRICES and plans[tensor].scheme is None


def _turned(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that MLX has for filters: colours last."""
    hidden, colours, height, width = shape
    return hidden, height, width, colours


def _patches(checkpoint: Checkpoint, encoder: ImageEncoder) -> NDArray[np.float32]:
    """The filters of the patches, float32 [hidden, patch, patch, 3]."""
    shape = encoder.tensor_shapes()[_PATCHES]
    rows = read_rows(checkpoint, _PATCHES, 0, int(np.prod(shape[:-1])))
    return np.ascontiguousarray(rows.reshape(shape).transpose(0, 2, 3, 1))


def _stored_name(tensor: ModelTensor) -> str:
    """The name of a tensor in the file, which has nothing but the encoder."""
    return tensor_name(tensor).removeprefix(_PREFIX)


def _modules_of(tensor: ModelTensor) -> list[str]:
    return [module_name(_stored_name(tensor))]
