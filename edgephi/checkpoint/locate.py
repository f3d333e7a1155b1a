"""Where a checkpoint comes from: the demo inside the package, a local folder, or the Hugging Face hub."""

from pathlib import Path

import edgephi
from edgephi.checkpoint.hub.name import HUB_ID
from edgephi.checkpoint.hub.pull import Check, pull
from edgephi.checkpoint.located import LOCAL, Located
from edgephi.commands import edgephi_command
from edgephi.errors import BadCheckpointError, UsageError

DEMO = "demo"
DEMO_ID = "edgephi/demo"


def locate(
    model: str,
    *,
    revision: str | None = None,
    offline: bool = False,
    progress: bool = False,
    check: Check = lambda _: None,
) -> Located:
    """Find `model`: `demo`, an existing local folder, or a hub id `owner/name`, which is pulled.

    `check` looks at the architecture of one that has to be downloaded, before its weights are.

    Raises UsageError for a revision of something that has none, BadCheckpointError when there is no such
    model, and what `pull` raises.
    """
    folder = Path(model)
    if model != DEMO and not (model and folder.is_dir()):
        if not HUB_ID.fullmatch(model) or model.startswith((".", "~")):
            raise _not_a_model(model)
        return pull(model, revision, offline=offline, progress=progress, check=check)
    if revision is not None:
        raise UsageError(
            f"--revision: expected with a model of the hub, found {model!r}", hint="leave --revision out"
        )
    if model == DEMO:
        return Located(DEMO_ID, edgephi.__version__, Path(edgephi.__file__).parent / "demo")
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
