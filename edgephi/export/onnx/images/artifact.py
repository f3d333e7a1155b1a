"""Write an image encoder's graphs and their data file, for whichever engine they lie beside."""

from collections.abc import Collection
from pathlib import Path

from edgephi.checkpoint.checkpoint import Checkpoint, image_encoder_of
from edgephi.declared.target import Kernels
from edgephi.engines.facts.image_graphs import IMAGE_DATA_FILE, IMAGE_GRAPH_FILE, TILE_GRAPH_FILE
from edgephi.export.onnx.images.graphs import tile_graph, vision_graph
from edgephi.export.onnx.images.layout import lay_out_encoder
from edgephi.export.onnx.layout import packer
from edgephi.export.stream.one_pass import StreamReport, stream_tensors
from edgephi.quantize.tensor_plan import TensorPlans
from edgephi.steps import Step

_GRAPHS = {TILE_GRAPH_FILE: tile_graph, IMAGE_GRAPH_FILE: vision_graph}


def write_encoder(
    folder: Path,
    checkpoint: Checkpoint,
    plans: TensorPlans,
    kernels: Kernels,
    graphs: Collection[str],
    *,
    step: Step,
) -> StreamReport:
    """Write the encoder's weights in a pass of its own, and the graphs of these names."""
    encoder = image_encoder_of(checkpoint)
    layout = lay_out_encoder(checkpoint.image_sources, encoder, plans, kernels)
    with (folder / IMAGE_DATA_FILE).open("wb") as file:
        report = stream_tensors(
            checkpoint.shards,
            layout.tensors.values(),
            packer(kernels),
            file,
            changes=checkpoint.changes,
            step=step,
            step_name="export image encoder",
            hashed=False,
        )
    for name in graphs:
        model = _GRAPHS[name](encoder, layout, kernels.accuracy_level)
        (folder / name).write_bytes(model.SerializeToString(deterministic=True))
    return report
