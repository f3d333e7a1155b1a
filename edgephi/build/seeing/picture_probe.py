"""What a device asks a bundle that sees about a picture, before it trusts it."""

import dataclasses
import shutil
from pathlib import Path

from edgephi.bundle.manifest import Manifest
from edgephi.bundle.probe import PictureProbe
from edgephi.checkpoint.architecture import Architecture
from edgephi.declared.recipe import Recipe
from edgephi.errors import QualityGateError
from edgephi.processes.ask import ask
from edgephi.runtime.images import prepare
from edgephi.runtime.proof.picture_answer import PictureAnswer, PictureQuestion

_PICTURE = "probe"
_DRAWN = f"{_PICTURE}.png"


def check_picture(architecture: Architecture, recipe: Recipe) -> None:
    """Raise BadInputError for a recipe's picture that no device could be asked about.

    A build looks at it before it computes for an hour.
    """
    encoder, picture = architecture.image_encoder, recipe.picture_probe.picture
    if encoder is not None and picture:
        prepare(picture, encoder.facts)


def write_picture(folder: Path, architecture: Architecture, recipe: Recipe) -> str:
    """Put the picture into a bundle in the making; its path there, or "" where nothing is asked about one."""
    question = recipe.picture_probe
    if architecture.image_encoder is None or not question.prompt:
        return ""
    if question.picture:
        name = f"{_PICTURE}{Path(question.picture).suffix.lower()}"
        shutil.copyfile(question.picture, folder / name)
        return name
    from edgephi.reference.pictures.evaluation_pictures import evaluation_pictures  # it brings Pillow

    evaluation_pictures("quick")[0].image.save(folder / _DRAWN, optimize=True)
    return _DRAWN


def with_picture_probe(bundle: Path, manifest: Manifest, recipe: Recipe, picture: str) -> Manifest:
    """The manifest with the answer that the bundle gives about its picture.

    Raises QualityGateError when it is empty and the recipe's gate wants answers.
    """
    if not picture:
        return manifest
    asked = recipe.picture_probe
    answer = ask(
        PictureQuestion(str(bundle), str(bundle / picture), asked.prompt, asked.max_tokens),
        PictureAnswer,
        who="the engine's process, which looks at a picture,",
        hint="free some memory, or build with --verify off and verify on a larger machine",
    )
    if recipe.gate.answers and not answer.text.strip():
        raise QualityGateError(
            f"picture_probe: {asked.prompt!r}: expected an answer, found an empty one",
            hint="is the question one for the model? [picture_probe] of a recipe changes it; "
            "gate.answers = false lets it pass",
        )
    probe = PictureProbe(asked.prompt, picture, answer.clear, asked.max_tokens)
    return dataclasses.replace(manifest, picture_probe=probe)
