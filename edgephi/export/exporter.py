"""What an exporter offers, one folder of `edgephi/export` for each engine.

What an exporter promises, beyond the methods below: the dequantised weights are the same numbers whatever the
engine, so engines can be held against each other.
"""

import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from edgephi.bundle.manifest import TargetFacts
from edgephi.bundle.switched_adapter import merge_hint
from edgephi.checkpoint.adapter.low_rank_factors import AdapterFactors
from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.checkpoint import Checkpoint
from edgephi.checkpoint.images.image_encoder import ImageEncoder
from edgephi.declared.target import Target
from edgephi.engines.facts.engine import EngineFacts
from edgephi.engines.facts.footprint import Footprint
from edgephi.engines.facts.registry import facts_of
from edgephi.errors import NotSupportedError
from edgephi.export.stream.one_pass import StreamReport
from edgephi.quantize.tensor_plan import TensorPlans
from edgephi.reference.weights import ImageWeights, Weights
from edgephi.steps import Step, silent


@dataclass(frozen=True)
class ContextLimit:
    """The most tokens that an engine computes rightly for an architecture, and why no more."""

    tokens: int
    reason: str


class Exporter(Protocol):
    """What `exporter` in an engine's folder offers. A target says which engine, and how its kernels work."""

    def footprint(self, target: Target) -> Footprint:
        """What the engine takes beside the artifact's bytes: its facts, and what the target dictates.

        Raises NotSupportedError for a provider that the engine does not have.
        """

    def check_architecture(self, architecture: Architecture) -> None:
        """Raise NotSupportedError for a model that the engine does not compute rightly, with the reason.

        WrongRoutingError where nothing but the weights of its experts is wrong: a build may accept that.
        """

    def context_limit(self, architecture: Architecture) -> ContextLimit | None:
        """The engine's own limit below the model's, or None."""

    def check_schemes(self, plans: TensorPlans, target: Target) -> None:
        """Raise NotSupportedError when the engine's format cannot hold one of the schemes exactly."""

    def artifact_bytes(
        self,
        architecture: Architecture,
        plans: TensorPlans,
        target: Target,
        context: int,
    ) -> int:
        """Size of the artifact's weights, known before a byte of the checkpoint is."""

    def write_artifact(
        self,
        folder: Path,
        checkpoint: Checkpoint,
        plans: TensorPlans,
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


class AdapterExporter(Protocol):
    """What `adapter` in the folder of an engine offers that can switch adapters on and off as it runs."""

    def write_adapter(
        self, folder: Path, name: str, factors: AdapterFactors, base: Path, target: TargetFacts
    ) -> str:
        """Write an adapter's files into `folder`, an artifact's, beside those of others.

        `base` is the artifact's folder of the bundle that it is for, and `target` what that was made for.
        The factors are those of the tensors as they are stored there. Returns the path, within the folder,
        of the file that the engine opens.
        """


class ImageEncoderExporter(Protocol):
    """What `image_encoder` offers, in the folder of an engine whose bundles can see.

    `plans` are those of the encoder's tensors. Where its graph is, and what the decoder's needs for images,
    is the engine's affair.
    """

    def data_bytes(self, encoder: ImageEncoder, plans: TensorPlans, target: Target) -> int:
        """Size of the encoder's weights in the artifact, known from shapes alone."""

    def write(
        self,
        folder: Path,
        checkpoint: Checkpoint,
        plans: TensorPlans,
        target: Target,
        *,
        step: Step = silent,
    ) -> StreamReport:
        """Write the encoder and its projection beside the decoder that `write_artifact` has written.

        In a second pass, over the encoder's tensors alone; their shards have been hashed.
        """

    def weights(self, folder: Path, encoder: ImageEncoder) -> ImageWeights:
        """The encoder's weights as a finished artifact holds them, dequantised a few rows at a time."""


def image_encoder_exporter(engine: str) -> ImageEncoderExporter:
    """The writer of an engine's image encoder. Raises NotSupportedError when it cannot see."""
    facts = facts_of(engine)
    module = f"edgephi.export.{facts.exporter}.image_encoder"
    if importlib.util.find_spec(module) is None:
        raise NotSupportedError(
            f"{engine}: expected an engine whose bundles can see, found one without an image encoder",
            hint="take another target; docs/guide.md says which engine computes which model",
        )
    return cast("ImageEncoderExporter", importlib.import_module(module))


def adapter_exporter(engine: str) -> AdapterExporter:
    """The writer of an engine's adapters. Raises NotSupportedError when it cannot switch them."""
    facts = facts_of(engine)
    module = f"edgephi.export.{facts.exporter}.adapter"
    if importlib.util.find_spec(module) is None:
        raise NotSupportedError(
            f"{engine}: expected an engine that can switch adapters on and off, found one that cannot",
            hint=merge_hint(),
        )
    return cast("AdapterExporter", importlib.import_module(module))


def exporter(engine: str) -> Exporter:
    """The exporter of an engine. Raises NotSupportedError when there is none."""
    return cast("Exporter", importlib.import_module(exporter_module(facts_of(engine))))


def exporter_module(facts: EngineFacts) -> str:
    """The module with an engine's exporter."""
    return f"edgephi.export.{facts.exporter}.exporter"
