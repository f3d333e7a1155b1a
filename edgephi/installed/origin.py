"""Where the edgephi that runs was installed from, as pip is told it: it is on no package index.

Standard library only: the store, which travels to bare boxes, tells commands too.
"""

import json
from collections.abc import Sequence
from pathlib import Path

_NAME = "edgephi"
_UNKNOWN = f"PATH/TO/{_NAME}"


def requirement(extras: Sequence[str]) -> tuple[str, ...]:
    """The words behind `pip install` that bring this edgephi once more, with these extras.

    A path in them is that of the folder or file from which it was installed. Where nobody has noted that, or
    it is gone, there is a name in capitals to be replaced.
    """
    import urllib.parse  # a megabyte for the engine's process, which tells no command

    chosen = f"[{','.join(extras)}]" if extras else ""
    url, is_editable, revision = _noted()
    kind, _, _ = url.partition(":")
    if kind == "file":
        path = Path(urllib.parse.unquote(urllib.parse.urlsplit(url).path))
        if path.exists():
            return (*(("-e",) if is_editable else ()), f"{_from_here(path)}{chosen}")
    elif url:
        vcs = f"git+{url}@{revision}" if revision else url
        return (f"{_NAME}{chosen} @ {vcs}",)
    return (f"{_UNKNOWN}{chosen}",)


def _noted() -> tuple[str, bool, str]:
    """What pip wrote down: the URL, whether the installation is editable, and the commit of a clone."""
    from importlib import metadata

    try:
        noted = json.loads(metadata.distribution(_NAME).read_text("direct_url.json") or "{}")
        return (
            str(noted.get("url", "")),
            bool(noted.get("dir_info", {}).get("editable", False)),
            str(noted.get("vcs_info", {}).get("commit_id", "")),
        )
    except (metadata.PackageNotFoundError, ValueError, AttributeError):
        return "", False, ""


def _from_here(path: Path) -> str:
    """A path that pip takes for one, short where it lies in the working folder."""
    try:
        here = Path.cwd()
        below = path.relative_to(here)
    except (ValueError, OSError):
        return str(path)
    if here == Path("/"):
        return str(path)
    return str(below) if below == Path() else f"./{below}"
