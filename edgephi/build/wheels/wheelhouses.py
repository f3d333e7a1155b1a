"""The wheels that were asked for, in an unfinished bundle."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgephi.build.request import WheelsRequest
from edgephi.build.wheels.collect import collect
from edgephi.build.wheels.own_wheel import write_own_wheel
from edgephi.bundle.manifest import WHEELS_FOLDER, Wheelhouse
from edgephi.steps import Step


def collect_wheels(
    wanted: WheelsRequest | None, folder: Path, step: Step, *, also: Sequence[str] = ()
) -> tuple[Wheelhouse, ...]:
    """Put the wheels that were asked for into an unfinished bundle; first of all, because these may fail.

    They bring the extras `also` beside those that were asked for.
    """
    if wanted is None:
        return ()
    wheelhouses = []
    extras = (*wanted.extras, *also)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        scratch = Path(name)
        with step("edgephi's own wheel", 0):
            own_wheel = write_own_wheel(scratch)
        for platform in wanted.platforms:
            with step(f"wheels {platform.name.removeprefix('linux-')}", 0):
                wheelhouse = collect(
                    folder / WHEELS_FOLDER / platform.name,
                    platform,
                    extras,
                    own_wheel=own_wheel,
                    scratch=scratch,
                )
            wheelhouses.append(wheelhouse)
    return tuple(wheelhouses)
