"""One model of an artifact: a graph, and the data file beside it with the bytes of its constants."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgephi.checkpoint.checkpoint import Checkpoint
from edgephi.checkpoint.roles import ModelTensor
from edgephi.export.openvino.intermediate_representation import Graph
from edgephi.export.openvino.layout import pack
from edgephi.export.stream.one_pass import StreamReport, stream_tensors
from edgephi.export.stream.packed_tensor import PackedTensor, Region, align
from edgephi.steps import Step, silent

Tensors = Mapping[ModelTensor, PackedTensor]


def data_file(graph_file: str) -> str:
    """The name of the file where OpenVINO looks for a graph's constants."""
    return str(Path(graph_file).with_suffix(".bin"))


@dataclass(frozen=True)
class ModelFile:
    """A graph, with the name of its file, and its tensors, whose regions are those of its data file.

    What the graph brings itself lies after the tensors, at `literals_at`.
    """

    graph_file: str
    tensors: Tensors
    graph: Graph
    literals_at: int

    @property
    def size(self) -> int:
        """Bytes of the data file, known before a byte of the checkpoint is."""
        return self.literals_at + len(self.graph.literals)

    def write(
        self,
        folder: Path,
        checkpoint: Checkpoint,
        options: Mapping[str, str],
        *,
        hashed: bool = True,
        step: Step = silent,
    ) -> StreamReport:
        """Write both files into `folder`, the data in one pass over the weights.

        `options` are what a plugin reads when it compiles the graph, whoever opens it.
        """
        literals = np.frombuffer(bytes(self.graph.literals), np.uint8)
        with (folder / data_file(self.graph_file)).open("wb") as file:
            report = stream_tensors(
                checkpoint.shards,
                self.tensors.values(),
                pack,
                file,
                changes=checkpoint.changes,
                lookup_tables=[(Region(self.literals_at, literals.nbytes), literals)],
                step=step,
                hashed=hashed,
            )
        (folder / self.graph_file).write_bytes(self.graph.xml({"runtime_options": dict(options)}))
        return report


def model_file(
    graph_file: str, tensors: Tensors, end: int, build: Callable[[Tensors, int], Graph]
) -> ModelFile:
    """A model whose tensors end at byte `end`. `build` gets them, and where the graph's own bytes begin."""
    literals_at = align(end)
    return ModelFile(graph_file, tensors, build(tensors, literals_at), literals_at)
