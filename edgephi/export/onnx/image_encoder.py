"""The image encoder for onnxruntime-genai: a graph of tiles for edgephi, one of images for the engine itself.

Its pixels are float32 on every provider; all that is computed has the type of the decoder's activations.
"""

import json
from pathlib import Path

from edgephi.checkpoint.checkpoint import Checkpoint, image_encoder_of
from edgephi.checkpoint.images.image_encoder import ImageEncoder
from edgephi.declared.target import Target
from edgephi.engines.facts.image_graphs import IMAGE_GRAPH_FILE, TILE_GRAPH_FILE
from edgephi.export.onnx.images.artifact import write_encoder
from edgephi.export.onnx.images.layout import encoder_data_bytes
from edgephi.export.onnx.images.pipeline import PROCESSOR_FILE, processor_config
from edgephi.export.onnx.images.weights import EncoderWeights
from edgephi.export.stream.one_pass import StreamReport
from edgephi.quantize.tensor_plan import TensorPlans
from edgephi.steps import Step, silent


def data_bytes(encoder: ImageEncoder, plans: TensorPlans, target: Target) -> int:
    """Size of the encoder's data file."""
    return encoder_data_bytes(encoder, plans, target.kernels)


def write(
    folder: Path,
    checkpoint: Checkpoint,
    plans: TensorPlans,
    target: Target,
    *,
    step: Step = silent,
) -> StreamReport:
    """Write both graphs, their data and what the engine's own processor reads."""
    graphs = (TILE_GRAPH_FILE, IMAGE_GRAPH_FILE)
    report = write_encoder(folder, checkpoint, plans, target.kernels, graphs, step=step)
    config = processor_config(image_encoder_of(checkpoint))
    (folder / PROCESSOR_FILE).write_text(json.dumps(config, indent=2) + "\n")
    return report


def weights(folder: Path, encoder: ImageEncoder) -> EncoderWeights:
    """The encoder's weights in the artifact in `folder`."""
    return EncoderWeights(folder, encoder)
