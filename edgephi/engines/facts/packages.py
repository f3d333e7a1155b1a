"""Whether an engine is installed here."""

import contextlib

from edgephi.engines.facts.engine import EngineFacts


def installed_version(facts: EngineFacts) -> str | None:
    """The version of the engine that is installed, None without one; costs no import of the engine."""
    # Brings in a fifth of Python's library: not for a process that only wants to run the engine.
    from importlib import metadata

    for package in facts.packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(package)
    return None
