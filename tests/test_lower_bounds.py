"""CI builds and runs with the oldest dependencies that we admit; this holds their list against them."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_list_of_oldest_versions_is_that_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = list(project["dependencies"])
    # CUDA's packages cannot be run where CI runs, and hold the same modules as the CPU's.
    declared += [each for extra in extras.keys() - {"all", "cuda", "test"} for each in extras[extra]]
    pattern = r"^([\w-]+)(?:\[\w+\])?>=([\d.]+).*$"
    oldest = {re.sub(pattern, r"\1==\2", requirement) for requirement in declared}
    lines = (ROOT / "tests" / "lower_bounds.txt").read_text().splitlines()
    listed = {line for line in lines if not line.startswith("#")}

    def zeros_aside(pins: set[str]) -> set[str]:
        return {re.sub(r"(\.0)+$", "", pin) for pin in pins}

    assert zeros_aside(listed) == zeros_aside(oldest)
