"""What the user asks of a build."""

from dataclasses import dataclass
from pathlib import Path

from edgephi.build.wheels.platform import Platform
from edgephi.bundle.certificate import VerifyLevel
from edgephi.checkpoint.adapter.merged import StrengthenedAdapter
from edgephi.declared.quality import Quality
from edgephi.declared.recipe import GroupSize, Recipe
from edgephi.declared.target import Target


@dataclass(frozen=True)
class WheelsRequest:
    """Which wheels go into the bundle: for which platforms, and edgephi with which extras.

    `purpose` is how the user asked for these extras.
    """

    platforms: tuple[Platform, ...]
    extras: tuple[str, ...]
    purpose: str


@dataclass(frozen=True)
class BuildRequest:
    """What the user asked for. See the manifest for `sequence` and `security_floor`.

    `upstream`: the engine's own converter writes the artifact, if it fits into `available_memory` bytes.
    `recipe` is as it is at `quality`, by which the user asked for it.
    `calibrate`: a file or folder with text of the user's to calibrate on, None for ours.
    `adapters`: what is merged into the checkpoint, in this order.
    `system`: how the user gave a system message in place of the recipe's, which `recipe` has already.
    `name` is the bundle's, None for one after recipe and target; `group_size` that which the user gave.
    `layers`: only so many of the model's layers, to measure speed with; None is all.
    `accept_wrong_routing`: build also for an engine that weighs the model's experts otherwise.
    """

    model: str
    target: Target
    recipe: Recipe
    output: Path
    revision: str | None = None
    verify: VerifyLevel = "quick"
    context: int | None = None
    sequence: int = 1
    security_floor: int = 0
    upstream: bool = False
    available_memory: int | None = None
    layers: int | None = None
    wheels: WheelsRequest | None = None
    calibrate: Path | None = None
    quality: Quality = "default"
    adapters: tuple[StrengthenedAdapter, ...] = ()
    system: str | None = None
    name: str | None = None
    group_size: GroupSize | None = None
    accept_wrong_routing: bool = False
