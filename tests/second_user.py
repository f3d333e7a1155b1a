"""Commands as another real user of this machine, who owns nothing: what they see and can do."""

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

NOBODY = pwd.getpwnam("nobody").pw_uid

_IDENTITY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
# The Python of these tests may lie where others may not look: it is shown to that user elsewhere.
_SHOWN = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'


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
            yield process.pid
        finally:
            process.kill()


def edgephi_as_nobody(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """`edgephi …` as that user, with the Python and the packages of these tests."""
    packages = os.pathsep.join(path for path in sys.path if path)
    python = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    with tempfile.TemporaryDirectory(prefix="edgephi-python-") as shown:
        Path(shown).chmod(0o755)
        command = [Path(shown) / "bin" / python.name, "-P", "-m", "edgephi.cli", *arguments]
        as_they = as_nobody("env", f"PYTHONPATH={packages}", "HOME=/nonexistent", *command)
        return subprocess.run(
            ["unshare", "-m", "sh", "-c", _SHOWN, "sh", sys.base_prefix, shown, *as_they],
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
