"""Where the hub's client keeps its downloads; without the client, which a device has not."""

import os
from pathlib import Path

_MODELS = "models--"


def cache_folder() -> Path:
    """The folder of all downloads, by the variables that the client reads."""
    home = os.environ.get("HF_HOME")
    if home is None:
        home = f"{os.environ.get('XDG_CACHE_HOME', '~/.cache')}/huggingface"
    older = os.environ.get("HUGGINGFACE_HUB_CACHE", f"{home}/hub")
    return _expanded(os.environ.get("HF_HUB_CACHE", older))


def download_folder(id_: str) -> Path:
    """Where the files of the model `owner/name` lie, if they were downloaded."""
    return cache_folder() / f"{_MODELS}{id_.replace('/', '--')}"


def downloaded_model(folder: Path) -> str | None:
    """The model whose files lie in a folder of the cache; None for another one."""
    owner, dashes, name = folder.name.removeprefix(_MODELS).partition("--")
    is_one = folder.name.startswith(_MODELS) and dashes and owner and name
    return f"{owner}/{name}" if is_one else None


def locks_folder(folder: Path) -> Path:
    """Where the client's locks for the files in a folder of the cache lie."""
    return folder.parent / ".locks" / folder.name


def _expanded(text: str) -> Path:
    """A path as the client reads it: one of a user without a home stays as it is."""
    return Path(os.path.expandvars(os.path.expanduser(text)))  # noqa: PTH111 - that of Path raises
