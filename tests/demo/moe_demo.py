"""The trained mixture of experts that tests share, its bundles, and what it is asked.

`tests/demo/train_moe.py` made it. It is no part of the package: a checkpoint in the form of Phi-3.5-MoE that
answers the commands that `held_out_commands` has as the shipped demo does, and fits into five megabytes.
"""

from pathlib import Path
from typing import Any

from edgephi.build.build import Built, build
from edgephi.build.request import BuildRequest
from edgephi.checkpoint.locate import locate
from edgephi.declared.recipe import Recipe, read_recipe
from edgephi.declared.target import Target, read_target
from edgephi.steps import silent
from tests.demo.commands import Command, held_out_commands

MOE_DEMO = Path(__file__).parent / "moe"


def build_moe_demo(
    target: str | Target, output: Path, *, recipe: Recipe | None = None, **options: Any
) -> Built:
    """Build it for a target, with the default recipe if there is no other; `options` are BuildRequest's."""
    recipe = recipe or read_recipe("default")
    target = read_target(target) if isinstance(target, str) else target
    request = BuildRequest(model=str(MOE_DEMO), target=target, recipe=recipe, output=output, **options)
    return build(request, locate(str(MOE_DEMO)), silent)


def some_held_out_commands(count: int) -> tuple[Command, ...]:
    """So many of the commands that no training has seen, spread over all of them."""
    every = held_out_commands()
    return every[:: len(every) // count][:count]
