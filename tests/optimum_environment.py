"""The environment in which optimum-intel and NNCF are, so that they hold back nothing of what tests install.

`EDGEPHI_OPTIMUM` names its folder, which `.ci/run` makes from `tests/optimum.txt`.
"""

import os
from pathlib import Path

VARIABLE = "EDGEPHI_OPTIMUM"


def optimum_python() -> Path | None:
    """The Python of that environment; None where there is none."""
    folder = os.environ.get(VARIABLE)
    return Path(folder) / "bin" / "python" if folder else None
