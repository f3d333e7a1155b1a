"""The engines that edgephi can build for. Adding one is a file beside this one and a line here.

What an exporter promises, beyond the methods below: the dequantised weights are the same numbers whatever the
engine, so engines can be held against each other.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.checkpoint import Checkpoint
from edgephi.commands import edgephi_command
from edgephi.declared.target import Target
from edgephi.engines.prefill import Prefill
from edgephi.errors import NotSupportedError
from edgephi.export.stream.one_pass import StreamReport
from edgephi.quantize.scheme import Scheme
from edgephi.reference.forward import Weights
from edgephi.steps import Step, silent

_EXPORTERS = {
    "onnxruntime-genai": "edgephi.export.onnx.exporter",
    "llama.cpp": "edgephi.export.gguf.exporter",
    "mlx-lm": "edgephi.export.mlx.exporter",
    "openvino-genai": "edgephi.export.openvino.exporter",
    "qnn": "edgephi.export.qnn.exporter",
}


@dataclass(frozen=True)
class Footprint:
    """What an engine takes on the device beside the artifact's bytes; a plan's memory is made of it.

    engine_bytes: the process with the engine, its tokenizer and Python, before any weight
    cache_bytes_per_number: of the KV cache, per key or value number
    activation_bytes: size of one activation
    prefill: how it reads a prompt, as the runner has it do
    weight_copies: bytes of weights in memory over bytes of the artifact (an engine may repack them)
    file_copies: how many times the files hold the weights
    logits_copies: copies of the logits of all tokens that are computed at once
    keeps_scores: whether the scores of attention for all of them are in memory at the same time
    packed_bytes_per_group: what the kernels make for each group of a matrix when the model is loaded
    """

    engine_bytes: int
    cache_bytes_per_number: float
    activation_bytes: int
    prefill: Prefill
    weight_copies: float = 1.0
    file_copies: int = 1
    logits_copies: int = 2
    keeps_scores: bool = True
    packed_bytes_per_group: int = 0


@dataclass(frozen=True)
class ContextLimit:
    """The most tokens that an engine computes rightly for an architecture, and why no more."""

    tokens: int
    reason: str


class Exporter(Protocol):
    """What the file of an engine offers. A target says which engine, and how its kernels are to work."""

    def footprint(self, target: Target) -> Footprint:
        """What the engine takes beside the artifact's bytes."""

    def context_limit(self, architecture: Architecture) -> ContextLimit | None:
        """The engine's own limit below the model's, or None."""

    def check_schemes(self, schemes: Mapping[str, Scheme | None], target: Target) -> None:
        """Raise NotSupportedError when the engine's format cannot hold one of the schemes exactly."""

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
        step: Step = silent,
    ) -> StreamReport:
        """Write all that the engine's loader expects into `folder`, in one pass over the weights.

        Tokenizer and configuration included; what takes long is a `step` each. `StreamReport.data_file` is
        the file whose hash is known.
        """

    def artifact_weights(self, folder: Path, architecture: Architecture) -> Weights:
        """The weights as a finished artifact holds them, dequantised a few rows at a time."""


def exporter(engine: str) -> Exporter:
    """The exporter of an engine. Raises NotSupportedError when there is none."""
    if engine not in _EXPORTERS:
        raise NotSupportedError(
            f"engine {engine!r}: this edgephi builds for {', '.join(_EXPORTERS)}",
            hint=f"choose another target: `{edgephi_command('targets')}`",
        )
    return cast("Exporter", importlib.import_module(_EXPORTERS[engine]))
