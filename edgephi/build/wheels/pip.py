"""Ask pip, in a process of its own, and say in our words what went wrong.

The user's own configuration of pip holds: index, proxy, certificates, constraints.
"""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from edgephi.commands import shell_command
from edgephi.errors import CannotServeError, DoesNotFitError, NotSupportedError, TransportError
from edgephi.processes.child_process import start_child

_NO_WHEEL = re.compile(r"No matching distribution found for (.+?)(?: \(from .*\))?$", re.MULTILINE)
_CONFLICT = re.compile(r"The conflict is caused by:\n((?:[ \t]+.+\n)+)")
_DISK_FULL = "No space left on device"
_UNREACHABLE = (
    "connection broken by",
    "Could not fetch URL",
    "Max retries exceeded",
    "Connection refused",
    "Name or service not known",
    "Temporary failure in name resolution",
    "Network is unreachable",
    "Read timed out",
    "SSLError",
    "is not a trusted or secure host",
)
_PIP_CONFIG = shell_command("pip", "config", "list")
# The same on every terminal, and never waiting for an answer. Only of a retry does pip say that it failed.
_OPTIONS = (
    *("--no-input", "--no-color", "--disable-pip-version-check"),
    *("--progress-bar", "off", "--retries", "3"),
)


def run_pip(arguments: Sequence[str], *, scratch: Path, where: str) -> None:
    """Run one command of pip to its end; `scratch` takes its temporary files, `where` begins our messages.

    Raises TransportError when no index can be reached, DoesNotFitError when the disk is full, and
    NotSupportedError when a package has no wheel that fits, when packages contradict each other, or when
    there is no pip here.
    """
    command, *options = arguments
    # A group of its own, because pip starts builders: whatever ends us must end them too.
    with start_child(
        [*_pip(), command, *_OPTIONS, *options],
        with_its_own=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "TMPDIR": str(scratch), "SOURCE_DATE_EPOCH": "315532800"},
        start_new_session=True,
    ) as process:
        try:
            said, _ = process.communicate()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode != 0:
        raise _error(said, where)


def _pip() -> list[str]:
    """How to call pip: this Python's own, or the one on the path. Any can ask for another Python's wheels."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-P", "-m", "pip"]
    for name in ("pip3", "pip"):
        found = shutil.which(name)
        if found is not None:
            return [found]
    raise NotSupportedError(
        "expected pip to collect wheels with, found none",
        hint=shell_command(Path(sys.executable), "-m", "ensurepip"),
    )


def _error(said: str, where: str) -> CannotServeError | TransportError:
    """What pip's output means."""
    if _DISK_FULL in said:
        return DoesNotFitError(
            f"{where}: the disk is full", hint="free some space, or give a folder on another disk with -o"
        )
    package = _NO_WHEEL.search(said)
    if any(sign in said for sign in _UNREACHABLE):
        wanted = f" to get {package[1]}" if package else ""
        return TransportError(
            f"{where}: expected to reach the package index{wanted}, found no connection",
            hint=f"check the network, and pip's own settings: `{_PIP_CONFIG}`",
        )
    if package is not None:
        return NotSupportedError(
            f"{where}: expected a wheel of {package[1]}, found none that fits",
            hint="build for another Python or target, or leave --wheels out and install on the device",
        )
    conflict = _CONFLICT.search(said)
    if conflict is not None:
        return NotSupportedError(
            f"{where}: packages contradict each other: {'; '.join(map(str.strip, conflict[1].splitlines()))}",
            hint=f"check the constraints that pip was given: `{_PIP_CONFIG}`",
        )
    errors = [line for line in said.splitlines() if line.strip() and not line.startswith("WARNING")]
    last = next((line for line in reversed(errors) if line.startswith("ERROR")), "".join(errors[-1:]))
    hint = f"check pip's own settings: `{_PIP_CONFIG}`"
    return NotSupportedError(f"{where}: pip said {last.strip()!r}", hint=hint)
