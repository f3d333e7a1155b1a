"""The picture that a recipe names is looked at before a build computes anything."""

import dataclasses
from pathlib import Path

import pytest

from edgephi.build.build import build
from edgephi.build.request import BuildRequest
from edgephi.checkpoint.locate import locate
from edgephi.declared.recipe import PictureProbeQuestion, read_recipe
from edgephi.declared.target import read_target
from edgephi.errors import BadInputError
from tests.build.counted_steps import CountedSteps
from tests.portable import portable
from tests.runtime.images.drawn import drawn, saved
from tests.tiny_phi3_v import write_tiny_phi3_v


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        (
            "cut.png",
            saved(drawn(300, 200), "PNG")[:-500],
            "expected a whole image, found one that is cut off",
        ),
        ("drawn.svg", b"<svg/>", "found SVG"),
    ],
)
def test_a_picture_that_nobody_can_see_is_refused_at_once(
    name: str, content: bytes, found: str, tmp_path: Path
) -> None:
    checkpoint = write_tiny_phi3_v(tmp_path / "checkpoint")
    picture = tmp_path / name
    picture.write_bytes(content)
    question = PictureProbeQuestion(prompt="What?", picture=str(picture))
    recipe = dataclasses.replace(read_recipe("default"), quant=portable(), picture_probe=question)
    request = BuildRequest(str(checkpoint), read_target("cpu"), recipe, tmp_path / "bundle", verify="off")
    steps = CountedSteps()
    with pytest.raises(BadInputError, match=found) as caught:
        build(request, locate(request.model, revision=None, progress=False), steps.step)
    assert str(picture) in caught.value.message
    assert [*steps.sizes] == ["open and plan"]
    assert not (tmp_path / "bundle").exists()
