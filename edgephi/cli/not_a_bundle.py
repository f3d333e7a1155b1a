"""A model where a bundle is expected: which two commands make the one of the other, and run it."""

import os
from pathlib import Path

from edgephi.bundle.manifest import MANIFEST_NAME
from edgephi.commands import edgephi_command
from edgephi.errors import BadBundleError

_CHECKPOINT_CONFIG = "config.json"


def refuse_model(path: Path, command: str, *words: str) -> None:
    """Raise BadBundleError when `path` names a model: a checkpoint's folder, a recipe, or one of the hub.

    `command`, and `words` behind its bundle, is what was asked for, and what the hint does with the bundle.
    """
    found = _model_at(path)
    if not found:
        return
    bundle = _free_name(path.absolute().name)
    model = path if path.exists() else str(path)
    build = edgephi_command("build", model, "--target", "auto", "--output", bundle)
    raise BadBundleError(
        f"{path}: expected a bundle, found {found}",
        hint=f"make a bundle of it: `{build}`, then `{edgephi_command(command, bundle, *words)}`",
    )


def _model_at(path: Path) -> str:
    """What kind of model a path means, in words; "" for none."""
    if path.is_dir():
        is_checkpoint = (path / _CHECKPOINT_CONFIG).is_file() and not (path / MANIFEST_NAME).is_file()
        return "a checkpoint" if is_checkpoint else ""
    if path.exists() or path.is_absolute():
        return ""
    from edgephi.checkpoint.hub.name import HUB_ID
    from edgephi.checkpoint.locate import is_demo
    from edgephi.declared.recipe import FOLDER
    from edgephi.declared.toml_files import shipped_names

    name = str(path)
    if is_demo(name) or name in shipped_names(FOLDER):
        return "the name of a demo model" if is_demo(name) else "the name of a recipe"
    # In a folder that is there, it is a bundle's name that was misspelt.
    if not HUB_ID.fullmatch(name) or name.startswith((".", "-", "~")) or path.parent.exists():
        return ""
    return "no such folder, but what may be a model of the hub"


def _free_name(model: str) -> Path:
    """A folder here for the bundle, which is not there yet."""
    stem = f"{model.lower()}-bundle"
    number = 1
    while os.path.lexists(name := stem if number == 1 else f"{stem}-{number}"):
        number += 1
    return Path(name)
