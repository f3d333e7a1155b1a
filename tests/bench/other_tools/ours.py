"""edgephi's own engines: a bundle for each target, against the original with the bundle's own weights.

So what is left is the engine's: what rounding the weights costs is another question.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgephi.build.build import build
from edgephi.build.request import BuildRequest
from edgephi.bundle.manifest import ARTIFACT_FOLDER, read_manifest
from edgephi.checkpoint.config import load_architecture
from edgephi.checkpoint.locate import locate
from edgephi.declared.recipe import read_recipe
from edgephi.declared.target import read_target
from edgephi.export.exporter import exporter
from edgephi.reference.weights import Weights
from edgephi.runtime.adapter import open_engine
from edgephi.steps import silent
from tests.bench.other_tools.asked import Floats, Model

_CONTEXT = 4096
_STEP = 32


@dataclass(frozen=True)
class OwnEngine:
    """An engine that opened a bundle: what it is, its model, and the weights of its artifact."""

    name: str
    model: Model
    weights: Weights


def own_engine(
    target: str, checkpoint: Path, folder: Path, change: Callable[[Path], None] | None = None
) -> OwnEngine:
    """Build a checkpoint for a target by the default recipe, and open it on the CPU.

    With a `change` of the artifact's folder before it is opened. Raises NotSupportedError where that engine
    does not compute the model, or is not installed.
    """
    request = BuildRequest(
        str(checkpoint),
        read_target(target),
        read_recipe("default"),
        folder,
        context=min(_CONTEXT, load_architecture(checkpoint).context),
        verify="off",
        accept_wrong_routing=True,
    )
    build(request, locate(str(checkpoint)), silent)
    if change is not None:
        change(folder / ARTIFACT_FOLDER)
    manifest = read_manifest(folder)
    engine = open_engine(folder, manifest, provider="cpu")
    weights = exporter(manifest.target.engine).artifact_weights(
        folder / ARTIFACT_FOLDER, load_architecture(checkpoint)
    )

    def compute(tokens: Sequence[int]) -> Floats:
        return np.concatenate([*engine.logits(list(tokens), step=_STEP)])

    return OwnEngine(f"{engine.name} {engine.version}", compute, weights)
