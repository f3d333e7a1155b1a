"""The README's table of models says what a plan says."""

import re
from pathlib import Path

import pytest

from edgephi.build.plan import make_plan
from edgephi.build.shapes import architecture_of
from edgephi.cli.show.sizes import human_bytes
from edgephi.declared.recipe import Recipe, recipes
from edgephi.declared.target import read_target

README = Path(__file__).parents[2] / "README.md"
MODELS = [recipe for recipe in recipes() if recipe.model.shape is not None]


@pytest.mark.parametrize("recipe", MODELS, ids=lambda recipe: recipe.name)
def test_sizes_are_those_of_the_plan(recipe: Recipe) -> None:
    shape = recipe.model.shape
    assert shape is not None
    (row,) = re.findall(rf"(?m)^\|[^|]*`{re.escape(recipe.name)}`[^|]*\|(.*)\|$", README.read_text())
    plan = make_plan(recipe.name, architecture_of(shape), recipe, read_target("cpu"), context=4096)
    parameters, context, artifact, memory = (cell.strip() for cell in row.split("|"))
    assert parameters == f"{plan.architecture.parameters / 1e9:.1f} B"
    assert context == f"{shape.context:,}"
    assert artifact == human_bytes(plan.artifact_bytes)
    assert memory == human_bytes(plan.memory.total)
