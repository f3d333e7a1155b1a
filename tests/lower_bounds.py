"""`python -m tests.lower_bounds`: the oldest version of each direct dependency that pyproject.toml admits.

One a line, for pip's --constraint: CI builds and runs the demo with these. Needs the standard library only.
"""

import re
import tomllib
from pathlib import Path

_PROJECT = Path(__file__).parents[1] / "pyproject.toml"
# CUDA's packages cannot be run where CI runs, and hold the same modules as the CPU's.
_LEFT_OUT = {"all", "cuda", "test"}
_REQUIREMENT = re.compile(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)(?:[,;].*)?")


def oldest() -> list[str]:
    """Sorted lines like "numpy==2.0". Raises ValueError for a dependency without a lower bound."""
    project = tomllib.loads(_PROJECT.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    declared = list(project["dependencies"])
    declared += [each for extra in extras.keys() - _LEFT_OUT for each in extras[extra]]
    return sorted({_pinned(requirement) for requirement in declared})


def _pinned(requirement: str) -> str:
    found = _REQUIREMENT.fullmatch(requirement.replace(" ", ""))
    if found is None:
        raise ValueError(f"{requirement}: expected a lower bound, found none")
    return f"{found[1]}=={found[2]}"


if __name__ == "__main__":
    print(*oldest(), sep="\n")
