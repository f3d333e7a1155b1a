"""What has to be installed to build for each engine. Needs the standard library only, to say it anywhere."""

import importlib.util
from collections.abc import Mapping

from edgephi.commands import install_command
from edgephi.engines.facts.engine import EngineFacts
from edgephi.engines.facts.registry import known_engines
from edgephi.errors import NotSupportedError

_EVERY_BUILD: Mapping[str, str] = {
    "PIL": "build",
    "huggingface_hub": "build",
    "jinja2": "build",
    "numpy": "build",
    "packaging": "build",
    "threadpoolctl": "build",
    "tokenizers": "build",
}


def build_modules(facts: EngineFacts) -> Mapping[str, str]:
    """Every module that a build for an engine imports -> the extra of edgephi that installs the module."""
    return {**_EVERY_BUILD, **facts.build_modules}


def build_problem(engine: str) -> NotSupportedError | None:
    """Why nothing can be built for `engine` here, None when it can. Imports none of the modules."""
    facts = known_engines().get(engine)
    if facts is None:
        return NotSupportedError(
            f"this edgephi does not build for {engine}", hint="use a newer edgephi, or choose another target"
        )
    missing = {module: extra for module, extra in build_modules(facts).items() if not _is_installed(module)}
    if not missing:
        return None
    extras = sorted(set(missing.values()))
    return NotSupportedError(f"needs {', '.join(missing)}, not installed", hint=install_command(*extras))


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # blocked: `sys.modules` holds None in its place
        return False
