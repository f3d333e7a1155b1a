"""Where adapters come from: a local folder or the Hugging Face hub, each with its strength."""

import math
from collections.abc import Iterable
from pathlib import Path

from edgephi.checkpoint.adapter.merged import StrengthenedAdapter
from edgephi.checkpoint.adapter.peft_config import CONFIG_FILE
from edgephi.checkpoint.located import LOCAL, Located
from edgephi.errors import BadCheckpointError, UsageError


def locate_adapters(asked: Iterable[str], *, progress: bool = False) -> tuple[StrengthenedAdapter, ...]:
    """Find each of `asked`: `DIR`, `OWNER/NAME` or `OWNER/NAME:REVISION`, and behind it `@FACTOR` or nothing.

    REVISION is a branch, tag or commit of the hub, FACTOR what stands behind the last @. Raises UsageError
    for a factor or revision that is none and for one adapter given twice, BadCheckpointError when there is no
    such adapter, and what `pull_adapter` raises.
    """
    found: list[StrengthenedAdapter] = []
    for text in asked:
        name, scale = _parts(text)
        located = _locate(name, progress=progress)
        if any(_is_same(located, other.located) for other in found):
            raise UsageError(
                f"--adapter: expected each adapter once, found {name} twice",
                hint="give it once, with the sum of its factors after an @",
            )
        found.append(StrengthenedAdapter(located, scale))
    return tuple(found)


def asked_for(adapter: StrengthenedAdapter) -> str:
    """The text that asks for an adapter again, without its folder."""
    return text_for(adapter.located.id, adapter.located.revision, adapter.scale)


def text_for(id_: str, revision: str, scale: float) -> str:
    """The text that asks for the adapter `id_` at that strength; at its commit, where it is of the hub."""
    pinned = id_ if revision == LOCAL else f"{id_}:{revision}"
    short = f"{scale:g}"
    return pinned if scale == 1 else f"{pinned}@{short if float(short) == scale else repr(scale)}"


def _is_same(one: Located, other: Located) -> bool:
    is_of_hub = one.revision != LOCAL
    return one.folder.resolve() == other.folder.resolve() or (is_of_hub and one.id == other.id)


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
            hint="give DIR, OWNER/NAME or OWNER/NAME:REVISION, and @FACTOR after it for another strength "
            "than 1",
        )
    return name, scale


def _locate(name: str, *, progress: bool) -> Located:
    from edgephi.checkpoint.hub.name import HUB_ID
    from edgephi.checkpoint.hub.pull_adapter import pull_adapter

    folder = Path(name)
    if name and folder.is_dir():
        if not (folder / CONFIG_FILE).is_file():
            raise BadCheckpointError(
                f"{name}: expected an adapter, found no {CONFIG_FILE}",
                hint="give the folder that PEFT's save_pretrained wrote",
            )
        return Located(folder.resolve().name, LOCAL, folder)
    id_, colon, revision = name.partition(":")
    if HUB_ID.fullmatch(id_) and not id_.startswith((".", "~")) and not Path(id_).is_dir():
        if colon and not revision:
            raise UsageError(
                f"--adapter: expected a revision after the colon of {name}, found none",
                hint=f"give a branch, a tag or a commit, or {id_} alone",
            )
        return pull_adapter(id_, revision or None, progress=progress)
    if id_ and Path(id_).is_dir():
        raise UsageError(
            f"--adapter: expected a revision with an adapter of the hub, found {revision!r} with the folder "
            f"{id_}",
            hint=f"give {id_} alone",
        )
    raise BadCheckpointError(
        f"{name}: expected an adapter's folder or a hub id owner/name, found neither",
        hint="a local folder must exist",
    )
