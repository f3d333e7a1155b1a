"""The demo's bundle, built as `edgephi build demo` does it."""

from pathlib import Path
from typing import Any

from edgephi.build.build import Built, build, find_checkpoint
from edgephi.build.request import BuildRequest
from edgephi.declared.recipe import Recipe, read_recipe
from edgephi.declared.target import Target, read_target
from edgephi.steps import silent


def build_demo(target: str | Target, output: Path, *, recipe: Recipe | None = None, **options: Any) -> Built:
    """Build the demo for a target, with its own recipe if there is no other; `options` are BuildRequest's."""
    recipe = recipe or read_recipe("demo")
    target = read_target(target) if isinstance(target, str) else target
    request = BuildRequest(model="demo", target=target, recipe=recipe, output=output, **options)
    return build(request, find_checkpoint("demo", recipe, None, progress=False), silent)
