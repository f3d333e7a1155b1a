"""The agent as an archive that a device's Python runs from memory, and the words that start it there.

Of edgephi it holds what `edgephi.store.agent.program` imports, directly or through others, as it is installed
here, so that both sides always speak the same language; and the library that verifies signatures.
"""

import ast
import functools
import importlib.util
import io
import pkgutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

_AGENT = "edgephi.store.agent.program"
_OURS = "edgephi"
_FOUND_BY_NAME = "edgephi.engines"  # its files are looked for in the folder, and imported by their names
_LIBRARIES = ("ecdsa", "six")
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same bytes each time

NO_PYTHON = 41
OLD_PYTHON = 42
"""What the starter exits with where the device has no Python, or only ones that are too old."""

OLDEST_PYTHON = (3, 11)
_NEWER_NAMES = " ".join(f"python3.{minor}" for minor in range(20, OLDEST_PYTHON[1] - 1, -1))

# Reads the archive from standard input into memory and imports from there: nothing is written to a disk.
# It must be understood by every Python 3. Read by hand: a buffered reader would swallow the first frames.
_LOADER = f"""
import os, sys
def take(count):
    data = b""
    while len(data) < count:
        more = os.read(0, count - len(data))
        if not more:
            sys.exit(1)
        data += more
    return data
archive = os.memfd_create("edgephi")
data = take(int.from_bytes(take(4), "big"))
while data:
    data = data[os.write(archive, data):]
sys.path.insert(0, "/proc/self/fd/%d" % archive)
from {_AGENT} import main
sys.exit(main())
"""


def start_command() -> str:
    """The command that starts the agent, for whatever shell the user has on the device.

    Between its quotes there is nothing that any shell would look into; Python gets its program as hex digits.
    """
    is_new = f"import sys; sys.exit(sys.version_info < ({OLDEST_PYTHON[0]}, {OLDEST_PYTHON[1]}))"
    run = f'-I -B -c "import sys; exec(bytes.fromhex(sys.argv[1]))" {_LOADER.encode().hex()}'
    script = (
        f"for p in python3 {_NEWER_NAMES}; do "
        f'$p -I -c "{is_new}" </dev/null >/dev/null 2>&1 && exec $p {run}; '
        f"done; command -v python3 >/dev/null 2>&1 || exit {NO_PYTHON}; "
        f"python3 --version; exit {OLD_PYTHON}"
    )
    return f"exec sh -c '{script}'"


@functools.cache
def agent_archive() -> bytes:
    """The archive, with its length before it as the loader wants it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in sorted(_contents().items()):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    data = file.getvalue()
    return len(data).to_bytes(4, "big") + data


def _contents() -> dict[str, bytes]:
    """All files of the archive by their names in it."""
    contents: dict[str, bytes] = {}
    waiting = [_AGENT]
    while waiting:
        module = waiting.pop()
        path = _source(module)
        if path is None:
            continue
        is_package = path.name == "__init__.py"
        name = module.replace(".", "/") + ("/__init__.py" if is_package else ".py")
        if name in contents:
            continue
        contents[name] = path.read_bytes()
        waiting += [module.rpartition(".")[0], *_imported(contents[name])]
        if module == _FOUND_BY_NAME:
            waiting += [f"{module}.{each.name}" for each in pkgutil.iter_modules([str(path.parent)])]
    for library in _LIBRARIES:
        contents.update(_library(library))
    return contents


def _imported(source: bytes) -> Iterator[str]:
    """Every module of edgephi that a source file imports, wherever in it; some may be names in a module."""
    for node in _statements(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == _OURS)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == _OURS:
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """All statements below a node, also those in others: expressions, which are most of a tree, have none."""
    for field in _BLOCKS:
        for inner in getattr(node, field, ()):
            yield inner
            yield from _statements(inner)


def _source(module: str) -> Path | None:
    """The file of a module of edgephi; None when there is no such module."""
    if not module:
        return None
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    return Path(found.origin) if found and found.origin else None


def _library(name: str) -> Iterator[tuple[str, bytes]]:
    """The files of a library of pure Python, without its tests; none when it is not installed here."""
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        return
    origin = Path(found.origin)
    if origin.name != "__init__.py":
        yield origin.name, origin.read_bytes()
        return
    for path in origin.parent.rglob("*.py"):
        if not path.name.startswith("test_"):
            yield path.relative_to(origin.parent.parent).as_posix(), path.read_bytes()
