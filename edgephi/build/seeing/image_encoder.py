"""The encoder of a model that sees, in a bundle in the making, and what a device needs for it."""

from pathlib import Path

from edgephi.build.plan import Plan
from edgephi.build.request import BuildRequest
from edgephi.bundle.manifest import ARTIFACT_FOLDER
from edgephi.checkpoint.checkpoint import Checkpoint
from edgephi.engines.facts.registry import facts_of
from edgephi.export.exporter import image_encoder_exporter
from edgephi.export.stream.one_pass import StreamReport
from edgephi.steps import Step


def seeing_extras(request: BuildRequest, plan: Plan) -> tuple[str, ...]:
    """What a device needs for images, where the model sees."""
    return (facts_of(request.target.engine).seeing_extra,) if plan.image_tensors else ()


def written_image_encoder(
    request: BuildRequest, plan: Plan, checkpoint: Checkpoint, folder: Path, step: Step
) -> list[StreamReport]:
    """Write the encoder of a model that sees; what its pass found."""
    if not plan.image_tensors:
        return []
    writer = image_encoder_exporter(request.target.engine)
    place = folder / ARTIFACT_FOLDER
    return [writer.write(place, checkpoint, plan.image_tensors, request.target, step=step)]
