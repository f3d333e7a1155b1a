"""The engines that edgephi can build for. Adding one is a file beside this one and a line here."""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, cast

from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.checkpoint import Checkpoint
from edgephi.errors import NotSupportedError
from edgephi.export.stream import StreamReport
from edgephi.quantize.scheme import Scheme
from edgephi.reference.forward import Weights
from edgephi.target import Target

PREFILL_TOKENS = 512
"""Prompt tokens that an engine's configuration lets it compute at once, where the engine can be told."""

_EXPORTERS = {"onnxruntime-genai": "edgephi.export.onnx"}


class Exporter(Protocol):
    """What the file of an engine offers. A target says which engine, and how its kernels are to work."""

    def artifact_bytes(
        self,
        architecture: Architecture,
        schemes: Mapping[str, Scheme | None],
        target: Target,
        context: int,
    ) -> int:
        """Size of the artifact's weights, known before a byte of the checkpoint is."""

    def write_artifact(
        self,
        folder: Path,
        checkpoint: Checkpoint,
        schemes: Mapping[str, Scheme | None],
        target: Target,
        context: int,
        *,
        progress: Callable[[int], None] | None = None,
    ) -> StreamReport:
        """Write the artifact into `folder`, in one pass over the weights."""

    def artifact_weights(self, folder: Path, architecture: Architecture) -> Weights:
        """The weights as a finished artifact holds them, dequantised a few rows at a time."""


def exporter(engine: str) -> Exporter:
    """The exporter of an engine. Raises NotSupportedError when there is none."""
    if engine not in _EXPORTERS:
        raise NotSupportedError(
            f"engine {engine!r}: this edgephi builds for {', '.join(_EXPORTERS)}",
            hint="choose another target: `edgephi targets`",
        )
    return cast("Exporter", importlib.import_module(_EXPORTERS[engine]))
