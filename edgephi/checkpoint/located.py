"""Where a checkpoint was found, and how one can tell that it is the one that was meant."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

LOCAL = "local"
"""The revision of what a folder of the user's holds."""


@dataclass(frozen=True)
class Located:
    """A checkpoint in `folder`. `revision` is the hub's commit, "local", or edgephi's version for the demo.

    `expected_sha256` maps weight files to the hashes that the hub gives for them; empty for local folders.
    """

    id: str
    revision: str
    folder: Path
    expected_sha256: Mapping[str, str] = field(default_factory=dict)
