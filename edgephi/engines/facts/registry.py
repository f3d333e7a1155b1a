"""All engines: the files of `edgephi/engines`."""

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from typing import cast

from edgephi import engines as folder
from edgephi.commands import edgephi_command
from edgephi.engines.facts.engine import EngineFacts
from edgephi.errors import NotSupportedError


@functools.cache
def known_engines() -> Mapping[str, EngineFacts]:
    """The facts of every engine by its name."""
    files = [each.name for each in pkgutil.iter_modules(folder.__path__) if not each.ispkg]
    found = [importlib.import_module(f"{folder.__name__}.{name}").FACTS for name in sorted(files)]
    return {facts.name: facts for facts in cast("list[EngineFacts]", found)}


def facts_of(engine: str) -> EngineFacts:
    """The facts of the engine of that name. Raises NotSupportedError when this edgephi knows none."""
    if engine not in known_engines():
        raise NotSupportedError(
            f"engine {engine!r}: this edgephi knows {', '.join(known_engines())}",
            hint=f"choose another target: `{edgephi_command('targets')}`",
        )
    return known_engines()[engine]
