"""Commands as another real user of this machine, who owns nothing: what they see and can do."""

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

NOBODY = pwd.getpwnam("nobody").pw_uid

_IDENTITY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
# The Python of these tests and its packages may lie where others may not look, as those of a clone in a
# folder that `mktemp -d` made: they are shown to that user elsewhere. Pairs of what and where, then `--`,
# then the command.
_SHOWN = 'until [ "$1" = -- ]; do mount --bind "$1" "$2" || exit; shift 2; done; shift; exec "$@"'


def with_second_user() -> None:
    """Skip where no other user can be had."""
    if os.geteuid() or shutil.which("setpriv") is None or shutil.which("flock") is None:
        pytest.skip("needs root, setpriv and flock to be another user")


def as_nobody(*command: object) -> list[str]:
    """The command line that runs a program as that user."""
    return [*_IDENTITY, *map(str, command)]


@contextlib.contextmanager
def locked_by_nobody(path: Path, *options: str) -> Iterator[int]:
    """A file or folder that the other user has opened and locked, for a block; yields the process id."""
    script = 'exec 9< "$0" && flock "$@" 9 && echo locked && exec sleep 600'
    with subprocess.Popen(
        as_nobody("bash", "-c", script, path, *options), stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "locked\n"
            # It holds the lock before it has become the command by which it is named.
            while Path(f"/proc/{process.pid}/comm").read_text() == "bash\n":
                time.sleep(0.01)
            yield process.pid
        finally:
            process.kill()


def edgephi_as_nobody(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """`edgephi …` as that user, with the Python and the packages of these tests."""
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    folders = [sys.base_prefix, *(path for path in sys.path if path and Path(path).is_dir())]
    with tempfile.TemporaryDirectory(prefix="edgephi-python-") as shown:
        Path(shown).chmod(0o755)
        places = [Path(shown) / str(number) for number in range(len(folders))]
        for place in places:
            place.mkdir()
        binds = [word for pair in zip(folders, places, strict=True) for word in pair]
        packages = os.pathsep.join(map(str, places[1:]))
        as_they = as_nobody(
            *("env", f"PYTHONPATH={packages}", "HOME=/nonexistent"),
            *(places[0] / "bin" / python, "-P", "-m", "edgephi.cli", *arguments),
        )
        return subprocess.run(
            ["unshare", "-m", "sh", "-c", _SHOWN, "sh", *binds, "--", *as_they],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            cwd="/",
        )


@contextlib.contextmanager
def umask(mask: int) -> Iterator[None]:
    """The umask of this process, and of what it starts, for a block."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextlib.contextmanager
def folder_for_all() -> Iterator[Path]:
    """A folder that every user may look into, unlike that of a test."""
    with tempfile.TemporaryDirectory(prefix="edgephi-for-all-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
