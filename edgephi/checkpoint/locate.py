"""Where a checkpoint comes from: a demo inside the package, a local folder, or the Hugging Face hub."""

from pathlib import Path

import edgephi
from edgephi.checkpoint.hub.name import HUB_ID
from edgephi.checkpoint.hub.pull import Check, pull
from edgephi.checkpoint.located import LOCAL, Located
from edgephi.commands import edgephi_command
from edgephi.errors import BadCheckpointError, UsageError

DEMO, VISION_DEMO = "demo", "demo-vision"
_DEMO_FOLDERS = {DEMO: "demo", VISION_DEMO: "demo_vision"}
_DEMO_PREFIX = "edgephi/"


def is_demo(model: str) -> bool:
    """Whether that is what a demo inside the package is called."""
    return model in _DEMO_FOLDERS


def name_of(checkpoint_id: str) -> str:
    """What to call a checkpoint of this id to locate it again: a demo's name, else the id itself."""
    name = checkpoint_id.removeprefix(_DEMO_PREFIX)
    return name if is_demo(name) and name != checkpoint_id else checkpoint_id


def locate(
    model: str,
    *,
    revision: str | None = None,
    offline: bool = False,
    progress: bool = False,
    check: Check = lambda _: None,
) -> Located:
    """Find `model`: the name of a demo, an existing local folder, or a hub id `owner/name`, which is pulled.

    `check` looks at the architecture of one that has to be downloaded, before its weights are.

    Raises UsageError for a revision of something that has none, BadCheckpointError when there is no such
    model, and what `pull` raises.
    """
    folder = Path(model)
    if not is_demo(model) and not (model and folder.is_dir()):
        if not HUB_ID.fullmatch(model) or model.startswith((".", "~")):
            raise _not_a_model(model)
        return pull(model, revision, offline=offline, progress=progress, check=check)
    if revision is not None:
        raise UsageError(
            f"--revision: expected with a model of the hub, found {model!r}", hint="leave --revision out"
        )
    if is_demo(model):
        inside = Path(edgephi.__file__).parent / _DEMO_FOLDERS[model]
        return Located(f"{_DEMO_PREFIX}{model}", edgephi.__version__, inside)
    return Located(folder.resolve().name, LOCAL, folder)


def _not_a_model(model: str) -> BadCheckpointError:
    if Path(model).is_file():
        return BadCheckpointError(
            f"{model}: expected a checkpoint's folder, found a file",
            hint="give the folder that holds config.json",
        )
    looks_like_path = model.startswith(("/", ".", "~")) or model.count("/") != 1
    what = "no such folder" if "/" in model and looks_like_path else "none of them"
    return BadCheckpointError(
        f"{model}: expected a recipe, a folder or a hub id owner/name, found {what}",
        hint=f"`{edgephi_command('recipes')}` lists the models; a local folder must exist",
    )
