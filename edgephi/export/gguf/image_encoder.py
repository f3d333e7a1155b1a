"""The image encoder beside a GGUF file: a graph of tiles, which onnxruntime runs.

No projector of llama.cpp's is a Phi-3-vision's, so the file itself is that of a model that reads words. What
the encoder makes of an image, edgephi's runtime gives llama.cpp in the place of tokens.
"""

import dataclasses
from pathlib import Path

from edgephi.checkpoint.checkpoint import Checkpoint
from edgephi.checkpoint.images.image_encoder import ImageEncoder
from edgephi.declared.target import Kernels, Target
from edgephi.engines.facts.image_graphs import TILE_GRAPH_FILE
from edgephi.export.onnx.images.artifact import write_encoder
from edgephi.export.onnx.images.layout import encoder_data_bytes
from edgephi.export.onnx.images.weights import EncoderWeights
from edgephi.export.stream.one_pass import StreamReport
from edgephi.quantize.tensor_plan import TensorPlans
from edgephi.steps import Step, silent


def data_bytes(encoder: ImageEncoder, plans: TensorPlans, target: Target) -> int:
    """Size of the encoder's data file."""
    return encoder_data_bytes(encoder, plans, _kernels(target))


def write(
    folder: Path,
    checkpoint: Checkpoint,
    plans: TensorPlans,
    target: Target,
    *,
    step: Step = silent,
) -> StreamReport:
    """Write the graph and its data."""
    return write_encoder(folder, checkpoint, plans, _kernels(target), [TILE_GRAPH_FILE], step=step)


def weights(folder: Path, encoder: ImageEncoder) -> EncoderWeights:
    """The encoder's weights in the artifact in `folder`."""
    return EncoderWeights(folder, encoder)


def _kernels(target: Target) -> Kernels:
    """Those of a CPU, whatever llama.cpp computes on."""
    return dataclasses.replace(target.kernels, activations="float32")
