"""Where adapters come from: a local folder or the Hugging Face hub, each with its strength."""

import math
from collections.abc import Iterable
from pathlib import Path

from edgephi.checkpoint.adapter.merged import StrengthenedAdapter
from edgephi.checkpoint.adapter.peft_config import CONFIG_FILE
from edgephi.checkpoint.located import Located
from edgephi.errors import BadCheckpointError, UsageError


def locate_adapters(asked: Iterable[str], *, progress: bool = False) -> tuple[StrengthenedAdapter, ...]:
    """Find each of `asked`: a folder or a hub id `owner/name`, followed by `@` and a factor where it has one.

    Raises UsageError for a factor that is none and for one adapter given twice, BadCheckpointError when there
    is no such adapter, and what `pull_adapter` raises.
    """
    found: list[StrengthenedAdapter] = []
    for text in asked:
        name, scale = _parts(text)
        located = _locate(name, progress=progress)
        if any(other.located.folder.resolve() == located.folder.resolve() for other in found):
            raise UsageError(
                f"--adapter: expected each adapter once, found {name} twice",
                hint="give it once, with the sum of its factors after an @",
            )
        found.append(StrengthenedAdapter(located, scale))
    return tuple(found)


def asked_for(adapter: StrengthenedAdapter) -> str:
    """The text that asks for an adapter, without its folder."""
    return adapter.located.id if adapter.scale == 1 else f"{adapter.located.id}@{adapter.scale:g}"


def _parts(text: str) -> tuple[str, float]:
    """What is asked for, and its factor. A folder may have an @ in its name."""
    name, at, factor = text.rpartition("@")
    if not at or Path(text).is_dir():
        return text, 1.0
    try:
        scale = float(factor)
    except ValueError:
        scale = math.nan
    if not (name and math.isfinite(scale) and abs(scale) <= 1e6):
        raise UsageError(
            f"--adapter: expected a factor such as 0.5 after the @, found {factor!r}",
            hint="give DIR or OWNER/NAME, and @FACTOR after it for another strength than 1",
        )
    return name, scale


def _locate(name: str, *, progress: bool) -> Located:
    from edgephi.checkpoint.hub.pull_adapter import pull_adapter
    from edgephi.checkpoint.locate import HUB_ID

    folder = Path(name)
    if name and folder.is_dir():
        if not (folder / CONFIG_FILE).is_file():
            raise BadCheckpointError(
                f"{name}: expected an adapter, found no {CONFIG_FILE}",
                hint="give the folder that PEFT's save_pretrained wrote",
            )
        return Located(folder.resolve().name, "local", folder)
    if HUB_ID.fullmatch(name) and not name.startswith((".", "~")):
        return pull_adapter(name, progress=progress)
    raise BadCheckpointError(
        f"{name}: expected an adapter's folder or a hub id owner/name, found neither",
        hint="a local folder must exist",
    )
