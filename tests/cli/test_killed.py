"""A command that is killed has told nobody: its children end all the same."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from tests.processes.living import is_gone
from tests.store.bundles import remade

EDGEPHI = [sys.executable, "-P", "-m", "edgephi.cli"]
LONGEST_SECONDS = 20.0

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux does it")


def running(parent: int) -> list[psutil.Process]:
    """The children of a process that have become what they are meant to be."""
    try:
        found = psutil.Process(parent).children(recursive=True)
        # That one is a guard of the others.
        return [each for each in found if "-I" not in each.cmdline()[:3] and not is_gone(each)]
    except psutil.NoSuchProcess:
        return []


def is_at_work(process: psutil.Process) -> bool:
    """Whether a process does what it is for: one that is stopped before cannot ask for the signal."""
    return (
        "with_parent" not in " ".join(process.cmdline())
        or "_json" in Path(f"/proc/{process.pid}/maps").read_text()
    )


def kill_with_a_child(command: list[str], *, among: str, cwd: Path) -> None:
    """Kill a command while it has a child whose command line has `among` in it, and see that it goes.

    The child is stopped first, so that it cannot come to its end by itself.
    """
    with subprocess.Popen(
        command, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        found: list[psutil.Process] = []
        end = time.monotonic() + 60
        while not found and time.monotonic() < end and process.poll() is None:
            for each in running(process.pid):
                try:
                    if among in " ".join(each.cmdline()) and is_at_work(each):
                        each.suspend()
                        found.append(each)
                except (psutil.NoSuchProcess, OSError):
                    continue
        assert found, process.stderr.read() if process.stderr and process.poll() is not None else "no child"
        everyone = running(process.pid)
        process.kill()
    end = time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < end and not all(map(is_gone, everyone)):
        time.sleep(0.02)
    left = [each for each in everyone if not is_gone(each)]
    for each in left:
        each.kill()
    assert left == []


@pytest.fixture(scope="module")
def other(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release after the demo's."""
    return remade(demo_bundle, tmp_path_factory.mktemp("other") / "bundle", {}, sequence=2)


class TestCommands:
    @pytest.mark.parametrize(
        ("words", "among"),
        [
            (["flash", "BUNDLE", "new"], "edgephi.runtime.proof.first_answer"),
            (["build", "demo", "--target", "cpu", "-o", "built"], "edgephi.runtime.proof.logits"),
            (["bench", "BUNDLE"], "edgephi.runtime.proof.measure"),
            (["serve", "BUNDLE", "--port", "0"], "edgephi.server.engine.worker"),
            *(
                pytest.param(words, among, marks=pytest.mark.slow)
                for words, among in (
                    (["flash", "BUNDLE", "new"], "edgephi.runtime.engines.availability"),
                    (["rollback", "STORE"], "edgephi.runtime.proof.first_answer"),
                    (["verify", "BUNDLE", "--against", "demo"], "edgephi.runtime.proof.logits"),
                    (["tune", "demo"], "edgephi.runtime.engines.availability"),
                    (["doctor"], "edgephi.runtime.engines.availability"),
                )
            ),
        ],
        ids=lambda each: each[0] if isinstance(each, list) else each.replace("edgephi.", ""),
    )
    def test_a_command_that_is_killed_leaves_no_child(
        self, words: list[str], among: str, demo_bundle: Path, other: Path, tmp_path: Path
    ) -> None:
        store = tmp_path / "store"
        if "STORE" in words:
            for bundle in (demo_bundle, other):
                subprocess.run(
                    [*EDGEPHI, "flash", bundle, store, "--elsewhere"], check=True, capture_output=True
                )
        names = {"BUNDLE": str(demo_bundle), "STORE": str(store)}
        kill_with_a_child([*EDGEPHI, *(names.get(word, word) for word in words)], among=among, cwd=tmp_path)
