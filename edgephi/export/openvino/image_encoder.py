"""The image encoder of an OpenVINO artifact, in the files that `VLMPipeline` of openvino-genai looks for.

The encoder up to the layer that counts, and the projection, are a graph each, with a data file of its own.
What stands at the end of a line and between the parts of an image are numbers in `config.json`.
"""

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgephi.checkpoint.checkpoint import Checkpoint, image_encoder_of, read_rows
from edgephi.checkpoint.config_keys import read_json_object
from edgephi.checkpoint.images.image_encoder import MATRICES, ImageEncoder
from edgephi.checkpoint.images.preprocessor import PREPROCESSOR_FILE
from edgephi.checkpoint.roles import ModelTensor, Role
from edgephi.checkpoint.weights.source import Source
from edgephi.declared.target import Target
from edgephi.engines.openvino_genai import (
    CONFIG_FILE,
    IMAGE_ENCODER_GRAPH_FILE,
    IMAGE_PROJECTION_GRAPH_FILE,
    LINE_END_KEY,
    SEPARATOR_KEY,
)
from edgephi.export.openvino.exporter import FLOAT_OPTIONS
from edgephi.export.openvino.images.graph import PROJECTION, build_encoder_graph, build_projection_graph
from edgephi.export.openvino.intermediate_representation import Graph
from edgephi.export.openvino.layout import region_sizes
from edgephi.export.openvino.model_file import ModelFile, Tensors, model_file
from edgephi.export.openvino.weights import read_stored
from edgephi.export.stream.one_pass import StreamReport
from edgephi.export.stream.packed_tensor import PackedTensor, place
from edgephi.export.tensor_names import tensor_name
from edgephi.quantize.tensor_plan import TensorPlans
from edgephi.steps import Step, silent

_KEYS = {Role.IMAGE_LINE_END: LINE_END_KEY, Role.IMAGE_SEPARATOR: SEPARATOR_KEY}


def data_bytes(encoder: ImageEncoder, plans: TensorPlans, target: Target) -> int:  # noqa: ARG001
    """Size of the two data files: no option of a target's changes it."""
    nothing = dict.fromkeys(encoder.tensor_shapes(), ())
    return sum(model.size for model in _models(nothing, encoder, plans))


def write(
    folder: Path,
    checkpoint: Checkpoint,
    plans: TensorPlans,
    target: Target,  # noqa: ARG001 - float32 activations, whatever the target's kernels
    *,
    step: Step = silent,
) -> StreamReport:
    """Write both graphs with their data, and the two configurations that tell of images."""
    encoder = image_encoder_of(checkpoint)
    # An image is encoded once, and every answer about it is as wrong as that: its activations stay float32.
    largest, *others = (
        model.write(folder, checkpoint, FLOAT_OPTIONS, hashed=False, step=step)
        for model in _models(checkpoint.image_sources, encoder, plans)
    )
    _write_config(folder / CONFIG_FILE, checkpoint, encoder)
    shutil.copyfile(checkpoint.folder / PREPROCESSOR_FILE, folder / PREPROCESSOR_FILE)
    return replace(largest, errors=(*largest.errors, *(error for other in others for error in other.errors)))


def weights(folder: Path, encoder: ImageEncoder) -> "ArtifactImageWeights":
    """The encoder's weights as the artifact in `folder` holds them."""
    return ArtifactImageWeights(folder, encoder)


class ArtifactImageWeights:
    """The weights of the two graphs and of `config.json`, dequantised a few rows at a time."""

    def __init__(self, folder: Path, encoder: ImageEncoder) -> None:
        self.architecture = encoder
        self._stored = read_stored(folder, (IMAGE_ENCODER_GRAPH_FILE, IMAGE_PROJECTION_GRAPH_FILE))
        config = json.loads((folder / CONFIG_FILE).read_bytes())
        self._separators = {role: np.array(config[key], np.float32).ravel() for role, key in _KEYS.items()}

    def rows(self, tensor: ModelTensor, start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start` to `stop` of a tensor, float32 [stop - start, columns]; of a vector [stop - start]."""
        if tensor.role in self._separators:
            return self._separators[tensor.role][None][start:stop]
        return self._stored[tensor_name(tensor)].rows(start, stop)


def _models(
    sources: Mapping[ModelTensor, tuple[Source, ...]], encoder: ImageEncoder, plans: TensorPlans
) -> tuple[ModelFile, ModelFile]:
    """The encoder and the projection."""

    def encoder_graph(tensors: Tensors, literals_at: int) -> Graph:
        return build_encoder_graph(encoder, tensors, literals_at=literals_at)

    def projection_graph(tensors: Tensors, literals_at: int) -> Graph:
        return build_projection_graph(encoder, tensors, literals_at=literals_at)

    projection = {tensor: own for tensor, own in sources.items() if tensor.role in PROJECTION}
    others = {
        tensor: own
        for tensor, own in sources.items()
        if tensor.role not in PROJECTION and tensor.role not in _KEYS
    }
    return (
        model_file(IMAGE_ENCODER_GRAPH_FILE, *_lay_out(others, encoder, plans), encoder_graph),
        model_file(IMAGE_PROJECTION_GRAPH_FILE, *_lay_out(projection, encoder, plans), projection_graph),
    )


def _lay_out(
    sources: Mapping[ModelTensor, tuple[Source, ...]], encoder: ImageEncoder, plans: TensorPlans
) -> tuple[Tensors, int]:
    """Give every tensor its place, in the order of `sources`; returns them and the end of the last one.

    Matrices are codes or float16, all else is float32.
    """
    shapes, tensors, end = encoder.tensor_shapes(), {}, 0
    for tensor, own in sources.items():
        shape, plan = shapes[tensor], plans[tensor]
        is_half = plan.scheme is None and tensor.role in MATRICES
        sizes = (_half_bytes(shape),) if is_half else region_sizes(shape, plan.scheme)
        regions = place(end, sizes)
        kind = np.float16 if is_half else np.float32
        tensors[tensor] = PackedTensor(tensor_name(tensor), shape, plan, regions, kind, own)
        end = regions[-1].offset + regions[-1].size
    return tensors, end


def _half_bytes(shape: Iterable[int]) -> int:
    return int(np.prod([*shape])) * np.dtype(np.float16).itemsize


def _write_config(file: Path, checkpoint: Checkpoint, encoder: ImageEncoder) -> None:
    """The checkpoint's own `config.json`, and in it the two vectors that come between the graphs."""
    source = checkpoint.folder / CONFIG_FILE
    content = dict(read_json_object(source, where=str(source)))
    shapes = encoder.tensor_shapes()
    for role, key in _KEYS.items():
        tensor = ModelTensor(role)
        # A float32 as a double, whose shortest text leads back to it.
        content[key] = read_rows(checkpoint, tensor, 0, 1).reshape(shapes[tensor]).astype(float).tolist()
    file.write_text(json.dumps(content) + "\n", encoding="utf-8")
