"""The demo that sees, its bundles, and how many of the held-out pictures a bundle reads."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from edgephi.build.build import Built, build, find_checkpoint
from edgephi.build.request import BuildRequest
from edgephi.bundle.certificate import VerifyLevel
from edgephi.checkpoint.locate import VISION_DEMO, locate
from edgephi.declared.recipe import Recipe, read_recipe
from edgephi.declared.target import Target, read_target, targets
from edgephi.errors import NotSupportedError
from edgephi.export.exporter import image_encoder_exporter
from edgephi.runtime.session import Session
from edgephi.steps import silent
from tests.demo.picture_questions import Examined

VISION_FOLDER = locate(VISION_DEMO).folder


def build_vision_demo(
    target: str | Target, output: Path, *, recipe: Recipe | None = None, verify: VerifyLevel = "off"
) -> Built:
    """Build it for a target, by its own recipe if there is no other."""
    recipe = recipe or read_recipe(VISION_DEMO)
    target = read_target(target) if isinstance(target, str) else target
    located = find_checkpoint(VISION_DEMO, recipe, None, progress=False)
    request = BuildRequest(model=VISION_DEMO, target=target, recipe=recipe, output=output, verify=verify)
    return build(request, located, silent)


def seeing_targets() -> Iterator[str]:
    """The targets whose engines take models that see; of boards, which have the artifact of others, none."""
    for target in targets():
        try:
            image_encoder_exporter(target.engine)
        except NotSupportedError:
            continue
        if not target.board:
            yield target.name


def answers(session: Session, asked: Iterable[Examined]) -> Iterator[str]:
    """What a bundle says to each question about its picture."""
    for each in asked:
        yield session.generate(each.question.text, images=[each.picture.image]).text
