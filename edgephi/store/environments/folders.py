"""The folder ROOT/envs: which environment each generation has, and a command that stays where it is.

    envs/KEY/           an environment whose bundle has answered; see `edgephi.store.environments.record`
                        for what KEY is
    envs/.tmp-KEY/      one whose bundle has not answered yet: it goes when that fails, or at the next start
    envs/of/GENERATION  a link to the environment of a generation
    envs/of/GENERATION.python
                        a link to the device's own Python, of a generation that has answered in that
    envs/edgephi        runs the edgephi of whatever generation is current: what a service is started by

Generations with the same wheels, vouched for by the same key, share an environment.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from edgephi.commands import PROGRAM, PROGRAM_MODULE
from edgephi.store.disk.durable import (
    is_folder,
    make_folder,
    remove,
    rename,
    replace_file,
    replace_link,
    sync,
)
from edgephi.store.disk.layout import Layout
from edgephi.store.disk.units import named_in_units
from edgephi.store.environments.record import RECORD_NAME
from edgephi.store.generations import installed, is_digest, manifests
from edgephi.store.state import change_state, read_state

_OF = "of"
_DEVICES_PYTHON = ".python"
_ON_TRIAL = ".tmp-"
_REPLACED = ".replaced-"
_BLOCK_BYTES = 512
# `current` decides, so that the command changes over in the same moment as the generation.
_SCRIPT = f"""#!/bin/sh
# Runs the edgephi of the current generation: edgephi run ROOT/current "hello"
here=$(dirname "$(readlink -f "$0")")
# In a copy of the store that followed links, current is the bundle itself: its name is that of its manifest.
generation=$(readlink "$here/../current" || sha256sum < "$here/../current/bundle.json" | cut -c 1-64)
generation=$(basename "$generation")
python="$(readlink -f "$here/of/$generation")/bin/python"
[ -x "$python" ] && exec "$python" -P -m {PROGRAM_MODULE} "$@"
# The text of the link: a virtual environment is found by its own name, not by where that leads.
python=$(readlink "$here/of/$generation{_DEVICES_PYTHON}") || python=
[ -x "$python" ] && exec "$python" -P -m {PROGRAM_MODULE} "$@"
echo "error: expected a Python for the current generation in $here, found ${{python:-none}}" >&2
echo "hint: flash the bundle again" >&2
exit 3
"""
# Of an edgephi that called environments by the digest of their requirements, and kept no links to them.
_OLD_SCRIPT = "/requirements.txt"


def folder_of(layout: Layout, key: str) -> Path:
    """Where the environment of that key is, or would be."""
    return layout.environments / key


def trial_folder(layout: Layout, key: str) -> Path:
    """Where it is made, and tried."""
    return layout.environments / f"{_ON_TRIAL}{key}"


def link_of(layout: Layout, digest: str) -> Path:
    """The link from a generation to its environment."""
    return layout.environments / _OF / digest


def environment_of(layout: Layout, digest: str) -> Path | None:
    """The environment of a generation, there or not; None when it runs in the device's own Python."""
    try:
        target = os.readlink(link_of(layout, digest))  # noqa: PTH115 - the text of the link
    except OSError:
        return None
    return layout.environments / Path(target).name


def command_of(layout: Layout) -> Path:
    """The command that runs the edgephi of the current generation, there or not; it is never removed."""
    return layout.environments / PROGRAM


def devices_python_of(layout: Layout, digest: str) -> Path | None:
    """The Python of the device in which a generation has answered, there or not; None when that is not known.

    A generation that has an environment runs in that.
    """
    try:
        return Path(os.readlink(_devices_python_link(layout, digest)))  # noqa: PTH115 - the text of the link
    except OSError:
        return None


def prepare_folder(layout: Layout) -> None:
    """Make the folder, and the command in it."""
    for folder in (layout.environments, layout.environments / _OF):
        if not folder.is_dir():
            make_folder(folder)
    command = command_of(layout)
    if not command.is_file() or command.read_text() != _SCRIPT:
        replace_file(command, _SCRIPT.encode(), mode=0o755)


def adopt(layout: Layout, key: str) -> None:
    """Give an environment that was tried, and that the disk holds, its name; one that has it is damaged."""
    folder, replaced = folder_of(layout, key), layout.environments / f"{_REPLACED}{key}"
    if os.path.lexists(folder):
        shutil.rmtree(replaced, ignore_errors=True)
        try:
            rename(folder, replaced)  # what dies between these two has it back at the next start
        except OSError as cause:
            if cause.errno != errno.EXDEV:  # in the lower layer of an overlay no folder can be renamed
                raise
            shutil.rmtree(folder)
    rename(trial_folder(layout, key), folder)
    shutil.rmtree(replaced, ignore_errors=True)
    damaged = read_state(layout).damaged_environments
    if key in damaged:
        change_state(layout, damaged_environments=tuple(each for each in damaged if each != key))


def link(layout: Layout, digest: str, key: str) -> None:
    """Have a generation run in the environment of that key from now on."""
    _point(link_of(layout, digest), f"../{key}")


def run_in(layout: Layout, digest: str, python: Path) -> None:
    """Have the store's command run a generation that has no environment in that Python of the device."""
    prepare_folder(layout)
    _point(_devices_python_link(layout, digest), str(python))


def unlink(layout: Layout, digest: str) -> None:
    """Have a generation run in no environment."""
    if link_of(layout, digest).is_symlink():
        remove(link_of(layout, digest))


def settle_environments(layout: Layout) -> None:
    """Put right what a process that died has left, and take over what an older edgephi has made.

    For whoever holds the store's lock.
    """
    if not layout.environments.is_dir():
        return
    for path in list(layout.environments.iterdir()):
        if path.name.startswith(_ON_TRIAL):
            shutil.rmtree(path, ignore_errors=True)  # what was tried may still write into it
        elif path.name.startswith(_REPLACED):
            folder = folder_of(layout, path.name.removeprefix(_REPLACED))
            if folder.exists():
                shutil.rmtree(path)
            else:
                rename(path, folder)
    _link_copies(layout)
    command = command_of(layout)
    if command.is_file() and _OLD_SCRIPT in command.read_text():
        _take_over(layout)
        prepare_folder(layout)


def collect_environments(
    layout: Layout, kept: Iterable[str], *, named: Iterable[str] = (), dry_run: bool = False
) -> int:
    """Remove the environments that none of the generations `kept` has. Returns their bytes on the disk.

    Those `named` stay too: a unit may start their Python itself.
    """
    if not layout.environments.is_dir():
        return 0
    kept = frozenset(kept)
    needed = {PROGRAM, _OF, *(found.name for digest in kept if (found := environment_of(layout, digest)))}
    needed.update(named)
    freed = 0
    with contextlib.suppress(FileNotFoundError):
        for path in list((layout.environments / _OF).iterdir()):
            if path.name.removesuffix(_DEVICES_PYTHON) not in kept and not dry_run:
                path.unlink()
        sync(layout.environments / _OF)
    for path in sorted(layout.environments.iterdir()):
        if path.name not in needed:
            freed += _bytes_on_disk(path)
            if not dry_run:
                shutil.rmtree(path)
    return freed


def _devices_python_link(layout: Layout, digest: str) -> Path:
    return layout.environments / _OF / f"{digest}{_DEVICES_PYTHON}"


def _point(link: Path, target: str) -> None:
    """Have a link lead to `target`; one that does so already costs the disk nothing."""
    if not link.is_symlink() or os.readlink(link) != target:  # noqa: PTH115
        replace_link(link, target)


def _link_copies(layout: Layout) -> None:
    """Have each generation's link again where a copy of the store, which followed links, has a folder.

    Its Python is no link either then, so that the next flash makes the environment anew.
    """
    with contextlib.suppress(FileNotFoundError):
        for copy in filter(is_folder, list((layout.environments / _OF).iterdir())):
            record = _record_bytes(copy)
            same = (
                path.name
                for path in layout.environments.iterdir()
                if is_digest(path.name) and record is not None and _record_bytes(path) == record
            )
            key = next(same, None)
            if key is None:
                shutil.rmtree(copy)
            else:
                replace_link(copy, f"../{key}")


def _record_bytes(environment: Path) -> bytes | None:
    try:
        return (environment / RECORD_NAME).read_bytes()
    except OSError:
        return None


def _take_over(layout: Layout) -> None:
    """Link each generation to the environment that it has by the old name; others go, whoever left them.

    No other generation ever gets one of these: what they were made of is not known. The next flash of a
    generation makes its own.
    """
    make_folder(layout.environments / _OF)
    taken = set()
    for digest, manifest in manifests(layout):
        requirements = {wheelhouse.requirements for wheelhouse in manifest.wheels}
        names = [entry.sha256 for entry in manifest.files if entry.path in requirements]
        for name in names:
            if folder_of(layout, name).is_dir():
                link(layout, digest, name)
                taken.add(name)
    if len(list(manifests(layout))) < len(installed(layout)):
        return  # a manifest that cannot be read: nobody knows what it needs
    taken |= named_in_units().environments
    for path in list(layout.environments.iterdir()):
        if is_digest(path.name) and path.name not in taken:
            shutil.rmtree(path)


def _bytes_on_disk(folder: Path) -> int:
    return sum(path.lstat().st_blocks * _BLOCK_BYTES for path in folder.rglob("*"))
