"""Which paths the files of a bundle may have: such as every file system can hold, and no two the same.

A bundle is copied to Linux, to macOS and to USB sticks. So paths that differ in letter case alone, or in how
an accent is written, count as the same, and what Windows cannot hold is refused. Standard library only.
"""

import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

_LONGEST_PATH_BYTES = 1024
_LONGEST_NAME_BYTES = 255
_DEEPEST = 16
_NOT_ON_WINDOWS = frozenset('<>:"|?*')
_WINDOWS_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))]
)


def path_problem(path: str) -> str | None:
    """What is wrong with one path of a bundle, for a message; None for a good one."""
    parts = PurePosixPath(path)
    # `str(parts) != path` also catches "a//b", "./a" and "a/", which name a file in a second way.
    if parts.is_absolute() or ".." in parts.parts or "\\" in path or str(parts) != path or path == ".":
        return "leaves the bundle's folder"
    # Letters that end a name early, hide it or cannot be encoded; lengths that Linux has no room for.
    if not path.isprintable() or len(path.encode()) > _LONGEST_PATH_BYTES or len(parts.parts) > _DEEPEST:
        return "cannot be written to a disk"
    for name in parts.parts:
        if len(name.encode()) > _LONGEST_NAME_BYTES:
            return "cannot be written to a disk"
        device = name.partition(".")[0].rstrip().casefold()
        if _NOT_ON_WINDOWS & set(name) or name[-1] in ". " or device in _WINDOWS_DEVICES:
            return "cannot be written to every disk"
    return None


def collision(paths: Iterable[str], reserved: Iterable[str]) -> str | None:
    """What is wrong with good paths beside each other and the `reserved` names; None when nothing is."""
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in reserved:
        files[_folded(path)] = path
    for path in paths:
        name = _folded(path)
        if name in files:
            other = "" if files[name] == path else f" as {files[name]!r}, spelling aside"
            return f"file path {path!r} is listed twice{other}"
        files[name] = path
        for folder in _folders(path):
            other = folders.setdefault(_folded(folder), folder)
            if other != folder:
                return f"folder {folder!r} is listed twice as {other!r}, spelling aside"
    for name in sorted(files.keys() & folders.keys()):
        return f"file path {files[name]!r} is also that of a folder"
    return None


def _folders(path: str) -> Iterator[str]:
    return (path[:place] for place, letter in enumerate(path) if letter == "/")


def _folded(path: str) -> str:
    """The same for all spellings that some file system takes for one."""
    if path.isascii():
        return path.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFKC", path).casefold())
