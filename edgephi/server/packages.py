"""The packages that `edgephi serve` needs beside those of the engine: the extras `serve` and `vision`."""

import importlib.machinery
import importlib.util
from collections.abc import Sequence
from pathlib import Path

_PACKAGES = ("starlette", "uvicorn", "msgspec", "prometheus_client")


def missing_packages(*, sees: bool, folders: Sequence[Path] | None = None) -> list[str]:
    """What of it is not there, for a model that `sees` or one that reads text only. Imports none of it.

    `folders` are those of another Python's packages; by default it is asked about the Python that runs.
    """

    def is_there(module: str) -> bool:
        if folders is None:
            return importlib.util.find_spec(module) is not None
        return importlib.machinery.PathFinder.find_spec(module, [str(each) for each in folders]) is not None

    missing = [name for name in _PACKAGES if not is_there(name)]
    return [*missing, "Pillow"] if sees and not is_there("PIL") else missing


def extras_of_service(*, sees: bool, seeing_extra: str = "vision") -> list[str]:
    """The extras that hold them; `seeing_extra` is the engine's for a model that sees."""
    return ["serve", seeing_extra] if sees else ["serve"]
