"""A systemd of one's own: the real manager, as process 1 of its own namespaces, with a folder of units.

It has a network of its own, too, so that what it starts may listen on any port.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

PROGRAM = Path("/usr/lib/systemd/systemd")
_TOOLS = ("unshare", "nsenter", "systemctl", "curl")
_TARGETS = ("sysinit", "basic", "shutdown", "network", "network-online", "multi-user")
_SECONDS = 60
_START = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib
mkdir -p /run/systemd/system /run/lock
mount --bind "$1/machine-id" /etc/machine-id
exec env -i container=test LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_UNIT_PATH="$1" \
    "$2" --system --unit=tried.target --log-target=console --show-status=no
"""


def why_none() -> str:
    """Why no manager can run here; "" when one can."""
    if os.geteuid() != 0:
        return "another systemd needs root"
    if Path("/run/systemd/system").exists():
        return "this machine's own systemd has the control groups"
    missing = [name for name in _TOOLS if shutil.which(name) is None]
    if not PROGRAM.exists() or missing:
        return f"needs {', '.join(missing) or PROGRAM}, which is not here"
    return ""


needs_own_manager = pytest.mark.skipif(bool(why_none()), reason=why_none())


@dataclass(frozen=True)
class Manager:
    """The manager whose process has this number outside."""

    pid: int

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """What a command says in its namespaces."""
        return subprocess.run(
            ["nsenter", "-t", str(self.pid), "-m", "-p", "-n", *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )

    def facts(self, unit: str) -> dict[str, str]:
        """What it knows of a unit, by the names of systemd's properties."""
        lines = self.run("systemctl", "show", unit).stdout.splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def wait(
        self, unit: str, holds: Callable[[Mapping[str, str]], bool], *, but_process: str = "-"
    ) -> dict[str, str]:
        """Its facts as soon as something holds for them, and its main process is not that one."""
        end = time.monotonic() + _SECONDS
        while not holds(facts := self.facts(unit)) or facts["ExecMainPID"] == but_process:
            assert time.monotonic() < end, {key: facts.get(key) for key in ("ActiveState", "Result")}
            time.sleep(0.2)
        return facts


@contextlib.contextmanager
def own_manager(folder: Path, units: Mapping[str, str]) -> Iterator[Manager]:
    """Have a manager start all services of `units`, texts by their names; the block ends them all."""
    files = {f"{name}.target": "[Unit]\nDefaultDependencies=no\n" for name in _TARGETS}
    wanted = [name for name in units if name.endswith(".service")]
    files["tried.target"] = f"[Unit]\nDefaultDependencies=no\nWants={' '.join(wanted)}\n"
    files["machine-id"] = f"{'0123456789abcdef' * 2}\n"
    for name, text in {**files, **units}.items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text(text)
    namespaces = ["--mount", "--pid", "--uts", "--ipc", "--net", "--fork", "--kill-child", "--mount-proc"]
    with (folder / "log").open("w") as log:
        outside = subprocess.Popen(
            ["unshare", *namespaces, "sh", "-c", _START, "sh", str(folder), str(PROGRAM)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            yield Manager(_child(outside))
        finally:
            outside.kill()
            outside.wait()
            _remove_groups()


def _remove_groups() -> None:
    """Remove the control groups that it has left, as soon as their processes have ended."""
    mounts = list(Path("/sys/fs/cgroup").iterdir())
    left = [mount / name for mount in mounts for name in ("init.scope", "system.slice")]
    end = time.monotonic() + 5
    while any(group.exists() for group in left) and time.monotonic() < end:
        for group in left:
            for place, _, _ in os.walk(group, topdown=False):
                with contextlib.suppress(OSError):
                    Path(place).rmdir()
        time.sleep(0.05)


def _child(outside: subprocess.Popen[bytes]) -> int:
    """The number of the manager's process, once it takes commands."""
    end = time.monotonic() + 30
    children = Path(f"/proc/{outside.pid}/task/{outside.pid}/children")
    while time.monotonic() < end and outside.poll() is None:
        found = children.read_text().split()
        if found and Manager(int(found[0])).run("systemctl", "show", "tried.target").returncode == 0:
            return int(found[0])
        time.sleep(0.1)
    pytest.fail("systemd did not start")
