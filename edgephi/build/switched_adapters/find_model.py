"""The checkpoint that a bundle was made from, as far as bundle and adapter say where it is."""

from collections.abc import Sequence
from pathlib import Path

from edgephi.build.build import find_checkpoint
from edgephi.bundle.manifest import Manifest
from edgephi.checkpoint.adapter.merged import StrengthenedAdapter
from edgephi.checkpoint.adapter.peft_config import base_model_of
from edgephi.checkpoint.locate import is_demo, name_of
from edgephi.checkpoint.located import Located
from edgephi.commands import edgephi_command
from edgephi.declared.recipe import recipe_for
from edgephi.errors import UsageError


def find_model(
    manifest: Manifest, bundle: Path, model: str | None, adapters: Sequence[StrengthenedAdapter]
) -> Located:
    """The checkpoint `model` or, where that is None, the one that the bundle in a folder was made from.

    That is the hub's where the bundle is of one of these, else the folder that an adapter was trained on.
    Raises UsageError when none of them is there, and what locating raises.
    """
    recipe = recipe_for(manifest.model.variant)
    if model is not None:
        return find_checkpoint(model, recipe, None, progress=True)
    name = name_of(manifest.model.id)
    if is_demo(name):
        return find_checkpoint(name, recipe, None, progress=True)
    if "/" in manifest.model.id:
        return find_checkpoint(manifest.model.id, recipe, manifest.model.revision, progress=True)
    for adapter in adapters:
        folder = base_model_of(adapter.located.folder)
        if folder and Path(folder).is_dir():
            return find_checkpoint(folder, recipe, None, progress=True)
    raise UsageError(
        f"{bundle}: made from {manifest.model.id}, a folder whose place no bundle says",
        hint="give that checkpoint: "
        f"`{edgephi_command('adapter', 'build', bundle, 'ADAPTER', '--against', 'MODEL', '-o', 'DIR')}`",
    )
