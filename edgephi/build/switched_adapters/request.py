"""What the user asks of `edgephi adapter build`."""

from dataclasses import dataclass
from pathlib import Path

from edgephi.bundle.certificate import VerifyLevel
from edgephi.checkpoint.adapter.merged import StrengthenedAdapter


@dataclass(frozen=True)
class NamedAdapter:
    """An adapter and the name that it is switched on by."""

    name: str
    adapter: StrengthenedAdapter


@dataclass(frozen=True)
class AdaptersRequest:
    """Adapters for the bundle in the folder `base`, for an artifact in the folder `output`.

    `sequence` None is the base's own.
    """

    base: Path
    adapters: tuple[NamedAdapter, ...]
    output: Path
    verify: VerifyLevel = "quick"
    sequence: int | None = None
