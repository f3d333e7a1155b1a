"""On a file system that cannot hold a store nothing is begun; on others a store is what it is on ext4.

Linux says EPERM when FAT and exFAT are asked for a link. A kernel that knows them is asked itself; elsewhere
strace has the real calls fail so.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.store.faults.box import Box
from tests.store.faults.disks import missing, mounted, run

FAT_BYTES = 64 << 20


def needs(*programs: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    reason = missing(*programs)
    return pytest.mark.skipif(reason is not None, reason=str(reason))


def assert_refused(done: subprocess.CompletedProcess[str]) -> None:
    """With one line and a hint, and the exit code for what is not supported here."""
    assert done.returncode == 3, done.stderr
    error, hint = [line for line in done.stderr.splitlines() if line.startswith(("error: ", "hint: "))]
    assert "expected a file system with hard and symbolic links, found one without" in error
    assert "ext4" in hint


@pytest.mark.parametrize("is_there", [True, False], ids=["an empty folder", "a new folder"])
@pytest.mark.parametrize("call", ["link,linkat", "symlink,symlinkat"])
@needs("strace")
def test_without_links_nothing_is_begun(first: Path, tmp_path: Path, call: str, is_there: bool) -> None:
    box = Box(tmp_path / "stick")
    if is_there:
        box.root.mkdir()
    refusing = ["strace", "-f", "-qq", "-o", os.devnull, "-e", f"trace={call}"]
    done = subprocess.run(
        [*refusing, "-e", f"inject={call}:error=EPERM", *box.flash_command(first, "--elsewhere")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert_refused(done)
    assert box.root.exists() == is_there
    assert not is_there or not list(box.root.iterdir())


@pytest.mark.parametrize("kind", ["vfat", "exfat"])
def test_on_fat_nothing_is_begun(first: Path, tmp_path: Path, kind: str) -> None:
    if reason := missing(f"mkfs.{kind}"):
        pytest.skip(reason)
    if kind not in Path("/proc/filesystems").read_text().split():
        pytest.skip(f"this kernel has no {kind}")
    image = tmp_path / "stick.img"
    with image.open("wb") as file:
        file.truncate(FAT_BYTES)
    run(f"mkfs.{kind}", image)
    with mounted(image) as folder:
        assert_refused(Box(folder / "store").flash(first, "--elsewhere"))
        assert list(folder.iterdir()) == []


@needs("mkfs.btrfs")
def test_a_store_on_btrfs(first: Path, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(256 << 20)
    run("mkfs.btrfs", "-q", image)
    with mounted(image) as folder:
        box = Box(folder / "store")
        assert box.flash(first).returncode == 0
        box.check()
        assert not box.leftovers()
